/* cmd_ckpt.c - recallctl ckpt show | convert: what a checkpoint of any format holds, which model it
 * is, what must be said beside it; and the same tensors as safetensors. */
#include "ckpt_report.h"
#include "recallctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- what is known of a file -------------------------------------------------------- */

static char *copy_text(const char *s)
{
    return s == NULL ? NULL : xstrdup(s);
}

static void keep(void *arg, const struct model_finding *f)
{
    struct found *found = arg;

    found->at = xrealloc(found->at, (found->n + 1) * sizeof *found->at);
    found->at[found->n++] = (struct model_finding){f->kind, copy_text(f->name), copy_text(f->value),
                                                   copy_text(f->text)};
}

static void found_clear(struct found *found)
{
    for (size_t i = 0; i < found->n; i++) {
        free((char *)found->at[i].name);
        free((char *)found->at[i].value);
        free((char *)found->at[i].text);
    }
    free(found->at);
}

static void have_read(void *arg, size_t bytes)
{
    struct report *r = arg;

    r->done += bytes;
    progress_show(NULL, r->step, r->done, r->total);
}

static int read_values(struct report *r, struct err *err)
{
    size_t n = ckpt_count(r->c);

    r->total = ckpt_verify_bytes(r->c);
    for (size_t i = 0; i < n; i++)
        r->total += ckpt_at(r->c, i)->bytes;
    if (ckpt_verify(r->c, have_read, r, err) == -1)
        return -1;
    r->facts = xcalloc(n + 1, sizeof *r->facts);
    for (size_t i = 0; i < n; i++)
        tensor_measure(r->c, ckpt_at(r->c, i), &r->facts[i], have_read, r);
    progress_wipe();
    return 0;
}

/* The folder of a path; caller frees. */
static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? xstrdup(".") : xstrndup(path, (size_t)(slash - path) + 1);
}

const struct model_finding *finding_of(const struct found *found, enum model_finding_kind kind,
                                       const char *name)
{
    for (size_t i = 0; i < found->n; i++)
        if (found->at[i].kind == kind && (name == NULL || strcmp(found->at[i].name, name) == 0))
            return &found->at[i];
    return NULL;
}

const struct model_finding *finding_refusal(const struct found *found)
{
    const struct model_finding *f = finding_of(found, FINDING_REFUSAL, NULL);

    return f == NULL || finding_of(found, FINDING_VARIANT, f->name) != NULL ? NULL : f;
}

const char *dtype_text(const struct tensor *t)
{
    return t->dtype == DTYPE_OTHER ? t->other : dtype_name(t->dtype);
}

/* ---- show ------------------------------------------------------------------------------ */

struct show {
    bool json, no_values;
};

#define AT(field) offsetof(struct show, field)

static const struct opt show_opts[] = {
    {"json", OPT_FLAG, AT(json), 0, 0, NULL, "as JSON"},
    {"no-values", OPT_FLAG, AT(no_values), 0, 0, NULL,
     "names and shapes only: reads little of a large file"},
};

static int show_run(const struct args *a, struct err *err)
{
    const struct show *o = a->options;
    struct ckpt *c = ckpt_open(a->positional, err);
    struct report r = {.c = c};
    char *dir;
    int result;

    if (c == NULL)
        return -1;
    r.step = xasprintf("read %s", ckpt_name(c));
    dir = folder_of(ckpt_name(c));
    r.n_fits = model_guess(c, dir, keep, &r.found);
    result = o->no_values ? 0 : read_values(&r, err);
    if (result == 0 && o->json)
        ckpt_print_json(&r);
    else if (result == 0)
        ckpt_print_text(&r);
    free(dir);
    free(r.step);
    free(r.facts);
    found_clear(&r.found);
    ckpt_free(c);
    return result;
}

const struct command cmd_ckpt_show = {
    .name = "ckpt show",
    .positional = "FILE",
    .about = "what a checkpoint holds, which model it is, what must be said beside it",
    .opts = show_opts,
    .n_opts = ARRAY_LEN(show_opts),
    .options_size = sizeof(struct show),
    .run = show_run,
};

/* ---- convert ---------------------------------------------------------------------------- */

struct convert {
    bool force;
};

static const struct opt convert_opts[] = {
    {"force", OPT_FLAG, offsetof(struct convert, force), 0, 0, NULL, "replace OUT"},
};

static void print_left_out(const struct ckpt *c)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ckpt_count(c); i++) {
        const struct tensor *t = ckpt_at(c, i);
        size_t begin = b.len;

        if (t->dtype <= DTYPE_BF16)
            continue;
        buf_printf(&b, "left out, since it holds no floats: %s (%s)", t->name, dtype_text(t));
        text_one_line(&b, begin);
        buf_putc(&b, '\n');
    }
    text_print(&b);
}

static int convert_run(const struct args *a, struct err *err)
{
    const struct convert *o = a->options;
    struct ckpt *c;
    struct stat st;
    int result;

    if (!o->force && lstat(a->second, &st) == 0)
        return err_set(err, ERR_CONFLICT, "%s: is there already; --force replaces it", a->second);
    c = ckpt_open(a->positional, err);
    if (c == NULL)
        return -1;
    result = ckpt_convert(c, a->second, err);
    if (result == 0) {
        print_left_out(c);
        printf("wrote %s\n", a->second);
    }
    ckpt_free(c);
    return result;
}

const struct command cmd_ckpt_convert = {
    .name = "ckpt convert",
    .positional = "FILE",
    .second = "OUT",
    .about = "a checkpoint of any format as safetensors: its floats and its metadata",
    .opts = convert_opts,
    .n_opts = ARRAY_LEN(convert_opts),
    .options_size = sizeof(struct convert),
    .run = convert_run,
};
