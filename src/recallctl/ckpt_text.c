/* ckpt_text.c - ckpt show for people, and the care that text from a file needs on a terminal. */
#include "ckpt_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_WIDTH 40 /* of the column; longer names have a line of their own */

/* Names come from the file: what would move a terminal's cursor is shown as '?'. */
void text_print(struct buf *b)
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
void text_one_line(struct buf *b, size_t begin)
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
        text_one_line(b, begin);
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
    const struct model_finding *refusal = finding_refusal(&r->found);

    for (size_t i = 0; i < r->found.n; i++) {
        const struct model_finding *f = &r->found.at[i], *why_not;
        char *text;

        if (f->kind != FINDING_VARIANT)
            continue;
        text = xasprintf("%s: %s", f->name, f->text);
        put_line(b, &last, "model", text);
        free(text);
        why_not = finding_of(&r->found, FINDING_REFUSAL, f->name);
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

    if (finding_of(&r->found, FINDING_TENSOR, NULL) == NULL)
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
    const struct model_finding *use = finding_of(&r->found, FINDING_TENSOR, t->name);
    size_t begin = b->len;

    buf_printf(b, "%-*s", width, t->name);
    text_one_line(b, begin);
    if (strlen(t->name) > (size_t)width)
        buf_printf(b, "\n%-*s", width, "");
    buf_putc(b, ' ');
    put_shape(b, t);
    buf_printf(b, " %-5s", dtype_name(t->dtype));
    if (r->facts != NULL)
        put_values(b, t, &r->facts[i]);
    if (use != NULL)
        buf_printf(b, "  %s", use->text);
    else if (finding_of(&r->found, FINDING_TENSOR, NULL) != NULL)
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

void ckpt_print_text(const struct report *r)
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
    text_print(&b);
}
