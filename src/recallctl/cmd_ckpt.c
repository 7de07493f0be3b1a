/* cmd_ckpt.c - recallctl ckpt show | convert: what a checkpoint of any format holds, which model it
 * is, what must be said beside it; and the same tensors as safetensors. */
#include "recallctl.h"
#include "recalld/ckpt.h"
#include "recalld/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define NAME_WIDTH 40 /* of the column; longer names have a line of their own */

/* ---- what is known of a file -------------------------------------------------------- */

/* Findings, copied. */
struct found {
    struct model_finding *at;
    size_t n;
};

struct show {
    bool json, no_values;
};

struct report {
    const struct ckpt *c;
    bool values;
    struct found found;
    size_t n_fits;
    struct tensor_facts *facts; /* of every tensor; NULL without values */
    char *step;
    size_t done, total; /* bytes read of those to be read */
};

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

static const struct model_finding *find(const struct found *found, enum model_finding_kind kind,
                                        const char *name)
{
    for (size_t i = 0; i < found->n; i++)
        if (found->at[i].kind == kind && (name == NULL || strcmp(found->at[i].name, name) == 0))
            return &found->at[i];
    return NULL;
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

static const char *dtype_of(const struct tensor *t)
{
    return t->dtype == DTYPE_OTHER ? t->other : dtype_name(t->dtype);
}

/* ---- for programs -------------------------------------------------------------------- */

static void put_text(struct buf *b, const char *key, const char *text)
{
    buf_printf(b, "\"%s\":", key);
    if (text == NULL)
        buf_puts(b, "null");
    else
        buf_json(b, text, strlen(text));
}

static void put_variants(struct buf *b, const struct found *found)
{
    const char *comma = "";

    for (size_t i = 0; i < found->n; i++) {
        const struct model_finding *f = &found->at[i], *refusal;

        if (f->kind != FINDING_VARIANT)
            continue;
        refusal = find(found, FINDING_REFUSAL, f->name);
        buf_puts(b, comma);
        buf_putc(b, '{');
        put_text(b, "variant", f->name);
        buf_putc(b, ',');
        put_text(b, "why", f->text);
        buf_putc(b, ',');
        put_text(b, "refused", refusal == NULL ? NULL : refusal->text);
        buf_putc(b, '}');
        comma = ",";
    }
}

/* What is refused without fitting any variant. */
static const struct model_finding *refusal_alone(const struct found *found)
{
    const struct model_finding *f = find(found, FINDING_REFUSAL, NULL);

    return f == NULL || find(found, FINDING_VARIANT, f->name) != NULL ? NULL : f;
}

static void put_missing(struct buf *b, const struct found *found)
{
    const char *comma = "";

    for (size_t i = 0; i < found->n; i++) {
        if (found->at[i].kind != FINDING_MISSING)
            continue;
        buf_puts(b, comma);
        buf_putc(b, '{');
        put_text(b, "variant", found->at[i].name);
        buf_putc(b, ',');
        put_text(b, "tensors", found->at[i].text);
        buf_putc(b, '}');
        comma = ",";
    }
}

/* Values are JSON already. */
static void put_told(struct buf *b, const struct found *found)
{
    const char *comma = "";

    for (size_t i = 0; i < found->n; i++) {
        if (found->at[i].kind != FINDING_TOLD)
            continue;
        buf_printf(b, "%s\"%s\":%s", comma, found->at[i].name, found->at[i].value);
        comma = ",";
    }
}

static void put_untold(struct buf *b, const struct found *found)
{
    const char *comma = "";

    for (size_t i = 0; i < found->n; i++) {
        const struct model_finding *f = &found->at[i];

        if (f->kind != FINDING_UNTOLD)
            continue;
        buf_printf(b, "%s{\"option\":\"%s\",\"value\":%s,", comma, f->name,
                   f->value == NULL ? "null" : f->value);
        put_text(b, "about", f->text);
        buf_putc(b, '}');
        comma = ",";
    }
}

static void put_metadata(struct buf *b, const struct ckpt *c)
{
    for (size_t i = 0; i < ckpt_meta_count(c); i++) {
        const char *key = ckpt_meta_key(c, i), *value = ckpt_meta(c, key);

        buf_puts(b, i > 0 ? "," : "");
        buf_json(b, key, strlen(key));
        buf_putc(b, ':');
        buf_json(b, value, strlen(value));
    }
}

static void put_facts(struct buf *b, const struct tensor_facts *f, bool known)
{
    buf_puts(b, ",\"min\":");
    if (f->finite > 0)
        buf_f64(b, f->min);
    else
        buf_puts(b, "null");
    buf_puts(b, ",\"max\":");
    if (f->finite > 0)
        buf_f64(b, f->max);
    else
        buf_puts(b, "null");
    buf_printf(b, ",\"non_finite\":%zu,\"xxh3\":", f->non_finite);
    if (known)
        buf_printf(b, "\"%016llx\"", (unsigned long long)f->xxh3);
    else
        buf_puts(b, "null");
}

static void put_tensor(struct buf *b, const struct report *r, size_t i)
{
    const struct tensor *t = ckpt_at(r->c, i);
    const struct model_finding *use = find(&r->found, FINDING_TENSOR, t->name);

    buf_putc(b, '{');
    put_text(b, "name", t->name);
    buf_puts(b, ",\"shape\":[");
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", t->shape[d]);
    buf_puts(b, "],");
    put_text(b, "dtype", dtype_of(t));
    buf_printf(b, ",\"bytes\":%zu,", t->bytes);
    put_text(b, "used", use == NULL ? NULL : use->text);
    if (r->facts != NULL)
        put_facts(b, &r->facts[i], t->dtype != DTYPE_OTHER);
    buf_putc(b, '}');
}

static void print_json(const struct report *r)
{
    const struct model_finding *refusal = refusal_alone(&r->found);
    struct buf b = BUF_INIT;

    buf_putc(&b, '{');
    put_text(&b, "file", ckpt_name(r->c));
    buf_putc(&b, ',');
    put_text(&b, "format", ckpt_format(r->c));
    buf_puts(&b, ",\"variants\":[");
    put_variants(&b, &r->found);
    buf_puts(&b, "],");
    put_text(&b, "refused", refusal == NULL ? NULL : refusal->text);
    buf_puts(&b, ",\"missing\":[");
    put_missing(&b, &r->found);
    buf_puts(&b, "],\"told\":{");
    put_told(&b, &r->found);
    buf_puts(&b, "},\"untold\":[");
    put_untold(&b, &r->found);
    buf_puts(&b, "],\"metadata\":{");
    put_metadata(&b, r->c);
    buf_puts(&b, "},\"tensors\":[");
    for (size_t i = 0; i < ckpt_count(r->c); i++) {
        buf_puts(&b, i > 0 ? "," : "");
        put_tensor(&b, r, i);
    }
    buf_puts(&b, "]}");
    puts(buf_cstr(&b));
    buf_clear(&b);
}

/* ---- for people ----------------------------------------------------------------------- */

/* Names come from the file: what would move a terminal's cursor is shown as '?'. */
static void print_plain(struct buf *b)
{
    for (size_t i = 0; i < b->len; i++) {
        unsigned char c = (unsigned char)b->p[i],
                      next = (unsigned char)(i + 1 < b->len ? b->p[i + 1] : 0);

        if ((c < ' ' && c != '\n') || c == 0x7f)
            b->p[i] = '?';
        else if (c == 0xc2 && next < 0xa0) /* U+0080 to U+009F */
            b->p[i] = b->p[i + 1] = '?';
    }
    if (b->len > 0)
        fwrite(b->p, 1, b->len, stdout);
    buf_clear(b);
}

#define INDENT 10
#define LINE_WIDTH 100

/* Lines are ours to break: what has been put since `begin` came from outside. */
static void in_one_line(struct buf *b, size_t begin)
{
    for (size_t i = begin; i < b->len; i++)
        if (b->p[i] == '\n')
            b->p[i] = '?';
}

/* Text from column `at` on, its lines broken at blanks and indented as the first. */
static void put_wrapped(struct buf *b, size_t at, const char *text)
{
    size_t column = at, begin;

    while (*text != '\0') {
        size_t blanks = strspn(text, " "), word = strcspn(text + blanks, " ");

        if (column > at && column + blanks + word > LINE_WIDTH) {
            buf_printf(b, "\n%*s", (int)at, "");
            text += blanks;
            blanks = 0;
            column = at;
        }
        begin = b->len;
        buf_put(b, text, blanks + word);
        in_one_line(b, begin);
        column += blanks + word;
        text += blanks + word;
    }
    buf_putc(b, '\n');
}

/* "label      text", the label only where it changes. */
static void put_line(struct buf *b, const char **last, const char *label, const char *text)
{
    buf_printf(b, "%-*s ", INDENT, *last != NULL && strcmp(*last, label) == 0 ? "" : label);
    put_wrapped(b, INDENT + 1, text);
    *last = label;
}

/* The same with two columns. */
static void put_pair(struct buf *b, const char **last, const char *label, const char *left,
                     const char *text)
{
    enum { LEFT = 38 };

    buf_printf(b, "%-*s %-*s ", INDENT, *last != NULL && strcmp(*last, label) == 0 ? "" : label,
               LEFT, left);
    put_wrapped(b, INDENT + LEFT + 2, text);
    *last = label;
}

/* As it is typed: JSON text without its quotes. */
static const char *typed(const char *json, char *out, size_t size)
{
    size_t len = strlen(json), quoted = len >= 2 && json[0] == '"';

    snprintf(out, size, "%.*s", (int)(len - 2 * quoted), json + quoted);
    return out;
}

static void put_model(struct buf *b, const struct report *r)
{
    const char *last = NULL;
    const struct model_finding *refusal = refusal_alone(&r->found);

    for (size_t i = 0; i < r->found.n; i++) {
        const struct model_finding *f = &r->found.at[i], *why_not;
        char *text;

        if (f->kind != FINDING_VARIANT)
            continue;
        text = xasprintf("%s: %s", f->name, f->text);
        put_line(b, &last, "model", text);
        free(text);
        why_not = find(&r->found, FINDING_REFUSAL, f->name);
        if (why_not != NULL)
            put_line(b, &last, "refused", why_not->text);
    }
    if (refusal != NULL)
        put_line(b, &last, "refused", refusal->text);
    else if (r->n_fits == 0)
        put_line(b, &last, "model", "none that is known; each needs two tensors of these names:");
    for (size_t i = 0; refusal == NULL && i < r->found.n; i++)
        if (r->found.at[i].kind == FINDING_MISSING) {
            buf_printf(b, "%*s %-22s ", INDENT, "", r->found.at[i].name);
            put_wrapped(b, INDENT + 24, r->found.at[i].text);
        }
}

static void put_options(struct buf *b, const struct report *r)
{
    const char *last = NULL;
    char value[300], *text;

    for (size_t i = 0; i < r->found.n; i++) {
        const struct model_finding *f = &r->found.at[i];

        if (f->kind != FINDING_TOLD)
            continue;
        text = xasprintf("%s %s", f->name, typed(f->value, value, sizeof value));
        put_line(b, &last, "told", text);
        free(text);
    }
    if (r->n_fits > 1)
        put_pair(b, &last, "to say", "--model.variant=...", "which of these models it is");
    for (size_t i = 0; i < r->found.n; i++) {
        const struct model_finding *f = &r->found.at[i];

        if (f->kind != FINDING_UNTOLD)
            continue;
        text = xasprintf("--model.%s=%s", f->name,
                         f->value == NULL ? "..." : typed(f->value, value, sizeof value));
        put_pair(b, &last, f->value == NULL ? "to say" : "may differ", text, f->text);
        free(text);
    }
}

/* What to type next, unless it would be refused. */
static void put_next(struct buf *b, const struct report *r)
{
    struct buf text = BUF_INIT;
    const char *last = NULL;

    if (find(&r->found, FINDING_TENSOR, NULL) == NULL)
        return;
    buf_printf(&text, "recallctl bundle build --weights %s --items items.tsv --out DIR --name NAME",
               ckpt_name(r->c));
    if (r->n_fits > 1)
        buf_puts(&text, " --model.variant=...");
    for (size_t i = 0; i < r->found.n; i++)
        if (r->found.at[i].kind == FINDING_UNTOLD && r->found.at[i].value == NULL)
            buf_printf(&text, " --model.%s=...", r->found.at[i].name);
    put_line(b, &last, "next", buf_cstr(&text));
    buf_clear(&text);
}

static void put_all_metadata(struct buf *b, const struct ckpt *c)
{
    const char *last = NULL;

    for (size_t i = 0; i < ckpt_meta_count(c); i++) {
        const char *key = ckpt_meta_key(c, i);
        char *text = xasprintf("%s = %.200s", key, ckpt_meta(c, key));

        put_line(b, &last, "metadata", text);
        free(text);
    }
}

static void put_shape(struct buf *b, const struct tensor *t)
{
    size_t begin = b->len;

    buf_putc(b, '[');
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", t->shape[d]);
    buf_putc(b, ']');
    while (b->len - begin < 15)
        buf_putc(b, ' ');
}

static void put_values(struct buf *b, const struct tensor *t, const struct tensor_facts *f)
{
    if (f->finite > 0)
        buf_printf(b, " %10.4g %10.4g", f->min, f->max);
    else
        buf_printf(b, " %10s %10s", "-", "-");
    if (t->dtype == DTYPE_OTHER)
        buf_printf(b, " %-16s", "not read");
    else
        buf_printf(b, " %016llx", (unsigned long long)f->xxh3);
}

/* Which tensors the model takes is known when one fits and would load. */
static void put_row(struct buf *b, const struct report *r, size_t i, int width)
{
    const struct tensor *t = ckpt_at(r->c, i);
    const struct model_finding *use = find(&r->found, FINDING_TENSOR, t->name);
    size_t begin = b->len;

    buf_printf(b, "%-*s", width, t->name);
    in_one_line(b, begin);
    if (strlen(t->name) > (size_t)width)
        buf_printf(b, "\n%-*s", width, "");
    buf_putc(b, ' ');
    put_shape(b, t);
    buf_printf(b, " %-5s", dtype_name(t->dtype));
    if (r->facts != NULL)
        put_values(b, t, &r->facts[i]);
    if (use != NULL)
        buf_printf(b, "  %s", use->text);
    else if (find(&r->found, FINDING_TENSOR, NULL) != NULL)
        buf_puts(b, "  not used");
    if (r->facts != NULL && r->facts[i].non_finite > 0)
        buf_printf(b, "  (%zu NaN or infinite)", r->facts[i].non_finite);
    if (t->dtype == DTYPE_OTHER)
        buf_printf(b, "  (%s)", t->other);
    while (b->p[b->len - 1] == ' ')
        b->len--;
    buf_putc(b, '\n');
}

static void put_table(struct buf *b, const struct report *r)
{
    int width = (int)strlen("tensor");

    for (size_t i = 0; i < ckpt_count(r->c); i++) {
        int len = (int)strlen(ckpt_at(r->c, i)->name);

        width = len > width ? len : width;
    }
    width = width < NAME_WIDTH ? width : NAME_WIDTH;
    buf_printf(b, "\n%-*s %-15s %-5s", width, "tensor", "shape", "dtype");
    if (r->facts != NULL)
        buf_printf(b, " %10s %10s %-16s", "least", "greatest", "XXH3");
    buf_puts(b, "  used as\n");
    for (size_t i = 0; i < ckpt_count(r->c); i++)
        put_row(b, r, i, width);
}

static void print_text(const struct report *r)
{
    size_t bytes = 0;
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < ckpt_count(r->c); i++)
        bytes += ckpt_at(r->c, i)->bytes;
    buf_printf(&b, "%-10s %s\n%-10s %s\n", "file", ckpt_name(r->c), "format", ckpt_format(r->c));
    buf_printf(&b, "%-10s %zu, %.1f MB\n", "tensors", ckpt_count(r->c), (double)bytes / 1e6);
    put_model(&b, r);
    put_options(&b, r);
    put_next(&b, r);
    put_all_metadata(&b, r->c);
    if (ckpt_count(r->c) > 0)
        put_table(&b, r);
    print_plain(&b);
}

/* ---- show ------------------------------------------------------------------------------ */

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
        print_json(&r);
    else if (result == 0)
        print_text(&r);
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
        buf_printf(&b, "left out, since it holds no floats: %s (%s)", t->name, dtype_of(t));
        in_one_line(&b, begin);
        buf_putc(&b, '\n');
    }
    print_plain(&b);
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
