/* place.c - errors that begin with a place. */
#include "place.h"

static void put_place(struct buf *out, const struct place *at)
{
    if (at == NULL)
        return;
    put_place(out, at->up);
    if (at->key == NULL)
        buf_printf(out, "[%zu]", at->index);
    else
        buf_printf(out, "%s%s", at->up != NULL ? "." : "", at->key);
}

int place_bad(const struct reading *r, const struct place *at, const char *fmt, ...)
{
    struct buf text = BUF_INIT;
    va_list args;

    if (r->name != NULL)
        buf_printf(&text, "%s: ", r->name);
    put_place(&text, at);
    if (at == NULL && r->name == NULL)
        buf_puts(&text, "body");
    if (at != NULL || r->name == NULL)
        buf_puts(&text, ": ");
    va_start(args, fmt);
    buf_vprintf(&text, fmt, args);
    va_end(args);
    err_set(r->err, ERR_USAGE, "%s", buf_cstr(&text));
    buf_clear(&text);
    return -1;
}
