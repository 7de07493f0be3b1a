/* ckpt_json.c - ckpt show as JSON. */
#include "ckpt_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        refusal = finding_of(found, FINDING_REFUSAL, f->name);
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
    const struct model_finding *use = finding_of(&r->found, FINDING_TENSOR, t->name);

    buf_putc(b, '{');
    put_text(b, "name", t->name);
    buf_puts(b, ",\"shape\":[");
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", t->shape[d]);
    buf_puts(b, "],");
    put_text(b, "dtype", dtype_text(t));
    buf_printf(b, ",\"bytes\":%zu,", t->bytes);
    put_text(b, "used", use == NULL ? NULL : use->text);
    if (r->facts != NULL)
        put_facts(b, &r->facts[i], t->dtype != DTYPE_OTHER);
    buf_putc(b, '}');
}

void ckpt_print_json(const struct report *r)
{
    const struct model_finding *refusal = finding_refusal(&r->found);
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
