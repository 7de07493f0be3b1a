/* fuzz_request.c - the body of POST /recall.
 *
 * What is accepted keeps its bounds, and written down again from what was understood it is
 * understood as the same request. A call that has been used before understands what a new one does.
 * A refusal begins with the field at fault. */
#include "../../src/recall/call.h"
#include "fuzz.h"

#include <stdlib.h>

#define N_MAX 1000

/* ---- bounds ------------------------------------------------------------------------- */

static void assert_id(struct str id)
{
    assert(id.len >= 1 && id.len <= ITEMS_ID_MAX && utf8_valid(id.p, id.len));
}

static void assert_ids(const struct str *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        assert_id(ids[i]);
}

static void assert_bounds(const struct recall_call *c)
{
    assert(c->has_history || c->user_id.len > 0);
    if (c->user_id.len > 0)
        assert_id(c->user_id);
    assert_ids(c->history, c->n_history);
    assert_ids(c->exclude, c->n_exclude);
    assert(c->n >= 0 && c->n <= N_MAX);
    assert(c->deadline_ms >= 0 && c->deadline_ms <= 60000);
    assert(c->scene.len <= 64);
    assert(strlen(c->request_id) <= REQUEST_ID_MAX);
    assert(c->n_filters <= ITEMS_ATTRIBUTES_MAX);
    assert(c->field[0] == '\0');
}

/* ---- a request as text ---------------------------------------------------------------- */

static void put_key(struct buf *out, const char *key)
{
    buf_json(out, key, strlen(key));
    buf_putc(out, ':');
}

static void put_text(struct buf *out, const char *key, struct str text)
{
    if (text.len == 0)
        return;
    put_key(out, key);
    buf_json(out, text.p, text.len);
    buf_putc(out, ',');
}

static void put_number(struct buf *out, const char *key, int number)
{
    if (number > 0)
        buf_printf(out, "\"%s\":%d,", key, number);
}

static void put_list(struct buf *out, const struct str *list, size_t n)
{
    buf_putc(out, '[');
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_putc(out, ',');
        buf_json(out, list[i].p, list[i].len);
    }
    buf_putc(out, ']');
}

static void put_filters(struct buf *out, const struct recall_call *c)
{
    put_key(out, "filter");
    buf_putc(out, '{');
    for (size_t i = 0; i < c->n_filters; i++) {
        if (i > 0)
            buf_putc(out, ',');
        buf_json(out, c->filters[i].attribute.p, c->filters[i].attribute.len);
        buf_putc(out, ':');
        put_list(out, c->filters[i].values, c->filters[i].n_values);
    }
    buf_puts(out, "},");
}

static void put_request(struct buf *out, const struct recall_call *c)
{
    buf_putc(out, '{');
    put_text(out, "user_id", c->user_id);
    put_text(out, "scene", c->scene);
    put_text(out, "request_id", (struct str){c->request_id, strlen(c->request_id)});
    put_number(out, "n", c->n);
    put_number(out, "deadline_ms", c->deadline_ms);
    if (c->has_history) {
        put_key(out, "history");
        put_list(out, c->history, c->n_history);
        buf_putc(out, ',');
    }
    put_key(out, "exclude");
    put_list(out, c->exclude, c->n_exclude);
    buf_putc(out, ',');
    put_filters(out, c);
    buf_printf(out, "\"explain\":%s,\"vectors\":%s}", c->explain ? "true" : "false",
               c->vectors ? "true" : "false");
}

/* ---- the target ------------------------------------------------------------------------ */

/* What the call made of the body, as text: the request, or the refusal. */
static struct buf outcome(struct recall_call *c, const void *body, size_t len, bool *accepted)
{
    struct buf out = BUF_INIT;
    struct err err = ERR_INIT;

    buf_put(&c->body, body, len);
    *accepted = request_parse(c, N_MAX, &err) == 0;
    if (*accepted) {
        assert_bounds(c);
        put_request(&out, c);
    } else {
        assert(err.code == ERR_USAGE);
        assert_refusal(&err, c->field[0] == '\0' ? "body: " : c->field);
        assert(utf8_valid(c->field, strlen(c->field)));
        buf_puts(&out, err.text);
    }
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static struct recall_call *used; /* by every input before */
    struct recall_call *fresh = xcalloc(1, sizeof *fresh);
    bool accepted, again;
    struct buf first, second;

    if (used == NULL)
        used = xcalloc(1, sizeof *used);
    call_reset(used);
    first = outcome(used, bytes, len, &accepted);
    second = outcome(fresh, bytes, len, &again);
    assert_same_text(&first, &second);
    if (accepted) {
        call_reset(fresh);
        buf_clear(&second);
        second = outcome(fresh, first.p, first.len, &again);
        assert(again);
        assert_same_text(&first, &second);
    }
    call_free(fresh);
    buf_clear(&first);
    buf_clear(&second);
    return 0;
}
