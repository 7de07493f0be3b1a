/* fuzz_safetensors.c - a checkpoint in the safetensors format.
 *
 * Every tensor that is handed out lies within the bytes, is as large as its shape says and is found
 * by its name; together they are all of the data. Those of a dtype that is not read have none.
 * Values are finite or refused. Written and read again, names, shapes, values and metadata are the
 * same. */
#include "recalld/ckpt.h"

#include "fuzz.h"

#include <math.h>
#include <stdlib.h>

#define NAME "fuzz.safetensors"

/* ---- what must hold ----------------------------------------------------------------------- */

static void assert_tensor(const struct ckpt *c, const struct tensor *t, const uint8_t *bytes,
                          size_t len)
{
    size_t count = 1;

    assert(t->n_dims >= 0 && t->n_dims <= CKPT_MAX_DIMS);
    for (int d = 0; d < t->n_dims; d++)
        count *= t->shape[d];
    assert(count == t->count && t->bytes == count * dtype_size(t->dtype));
    if (t->dtype == DTYPE_OTHER)
        assert(t->data == NULL && t->other != NULL);
    else
        assert(t->data >= bytes && t->bytes <= len && t->data <= bytes + len - t->bytes);
    assert(ckpt_find(c, t->name) == t);
}

/* The tensors follow each other up to the end; of those that are not read the place is not told. */
static void assert_cover(const struct ckpt *c, const uint8_t *end)
{
    const uint8_t *at = NULL; /* where the next must begin; NULL: not known */

    for (size_t i = 0; i < ckpt_count(c); i++) {
        const struct tensor *t = ckpt_at(c, i);

        assert(at == NULL || t->data == NULL || t->data == at);
        at = t->data == NULL ? NULL : t->data + t->bytes;
    }
    assert(at == NULL || at == end);
}

/* The values, or NULL when they are refused. */
static const float *values(const struct ckpt *c, const struct tensor *t, float **owned)
{
    struct err err = ERR_INIT;
    const float *v = tensor_f32(c, t, owned, &err);

    if (v == NULL) {
        assert(err.code == ERR_FORMAT && *owned == NULL);
        assert_refusal(&err, NAME ": ");
        return NULL;
    }
    assert(t->dtype <= DTYPE_BF16); /* the floats come first */
    for (size_t i = 0; i < t->count; i++)
        assert(isfinite(v[i]));
    return v;
}

/* ---- written and read again ---------------------------------------------------------------- */

static void assert_same(const struct ckpt *a, const struct ckpt *b,
                        const struct ckpt_writer_tensor *t)
{
    assert(ckpt_count(a) == ckpt_count(b) && ckpt_meta_count(a) == ckpt_meta_count(b));
    for (size_t i = 0; i < ckpt_count(a); i++) {
        const struct tensor *x = ckpt_at(a, i), *y = ckpt_at(b, i);
        float *owned;
        const float *v = values(b, y, &owned);

        assert(strcmp(x->name, y->name) == 0 && x->n_dims == y->n_dims && v != NULL);
        assert(memcmp(x->shape, y->shape, (size_t)x->n_dims * sizeof *x->shape) == 0);
        assert(memcmp(t[i].data, v, x->count * sizeof *v) == 0);
        free(owned);
    }
    for (size_t i = 0; i < ckpt_meta_count(a); i++) {
        const char *key = ckpt_meta_key(a, i), *value = ckpt_meta(a, key);

        assert(value != NULL && strcmp(ckpt_meta(b, key), value) == 0);
    }
}

static void write_and_read(const struct ckpt *c, const struct ckpt_writer_tensor *t)
{
    size_t n = ckpt_meta_count(c);
    const char **meta = xcalloc(2 * n + 1, sizeof *meta);
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;
    struct ckpt *again;

    for (size_t i = 0; i < n; i++) {
        meta[2 * i] = ckpt_meta_key(c, i);
        meta[2 * i + 1] = ckpt_meta(c, meta[2 * i]);
    }
    ckpt_encode(&text, t, ckpt_count(c), meta);
    again = ckpt_open_mem(NAME, text.p, text.len, &err);
    assert(again != NULL);
    assert_same(c, again, t);
    ckpt_free(again);
    buf_clear(&text);
    free(meta);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open_mem(NAME, bytes, len, &err);
    struct ckpt_writer_tensor *copies;
    bool complete = true;
    float **owned;
    size_t n;

    if (c == NULL) {
        assert_refusal(&err, NAME ": ");
        return 0;
    }
    if (strcmp(ckpt_format(c), "safetensors") != 0) { /* another target's */
        ckpt_free(c);
        return 0;
    }
    n = ckpt_count(c);
    copies = xcalloc(n + 1, sizeof *copies);
    owned = xcalloc(n + 1, sizeof *owned);
    assert_cover(c, bytes + len);
    for (size_t i = 0; i < n; i++) {
        const struct tensor *t = ckpt_at(c, i);

        assert_tensor(c, t, bytes, len);
        copies[i] = (struct ckpt_writer_tensor){.name = t->name, .n_dims = t->n_dims};
        memcpy(copies[i].shape, t->shape, sizeof t->shape);
        copies[i].data = values(c, t, &owned[i]);
        complete = complete && copies[i].data != NULL;
    }
    if (complete)
        write_and_read(c, copies);
    for (size_t i = 0; i < n; i++)
        free(owned[i]);
    free(owned);
    free(copies);
    ckpt_free(c);
    return 0;
}
