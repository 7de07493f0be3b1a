/* ckpt.h - what must hold of any checkpoint, whatever wrote it.
 *
 * Every tensor that is handed out is as large as its shape says, can be read to its last byte and
 * is found by its name, which no other has. Values are finite or refused, and counted as either.
 * What is refused is refused with a sentence. */
#ifndef FUZZ_CKPT_H
#define FUZZ_CKPT_H

#include "recalld/ckpt.h"

#include "fuzz.h"

#include <math.h>
#include <stdlib.h>

static inline void assert_tensor(const struct ckpt *c, const struct tensor *t)
{
    size_t count = 1;
    unsigned sum = 0;

    assert(t->n_dims >= 0 && t->n_dims <= CKPT_MAX_DIMS);
    for (int d = 0; d < t->n_dims; d++)
        count *= t->shape[d];
    assert(count == t->count && t->bytes == count * dtype_size(t->dtype));
    assert((t->data == NULL) == (t->dtype == DTYPE_OTHER));
    assert((t->other == NULL) == (t->dtype != DTYPE_OTHER));
    assert(t->other == NULL || utf8_valid(t->other, strlen(t->other)));
    for (size_t i = 0; i < t->bytes; i++)
        sum += t->data[i];
    assert(sum <= 255 * t->bytes);
    assert(utf8_valid(t->name, strlen(t->name)) && ckpt_find(c, t->name) == t);
}

static inline void assert_values(const struct ckpt *c, const struct tensor *t, const char *name)
{
    struct err err = ERR_INIT;
    float *owned;
    const float *v = tensor_f32(c, t, &owned, &err);

    if (v == NULL) {
        assert(err.code == ERR_FORMAT && owned == NULL);
        assert_refusal(&err, name);
        return;
    }
    assert(t->dtype <= DTYPE_BF16);
    for (size_t i = 0; i < t->count; i++)
        assert(isfinite(v[i]));
    free(owned);
}

static inline void assert_facts(const struct ckpt *c, const struct tensor *t)
{
    struct tensor_facts f;

    tensor_measure(c, t, &f, NULL, NULL);
    assert(f.finite + f.non_finite == (t->dtype == DTYPE_OTHER ? 0 : t->count));
    assert(isfinite(f.min) && isfinite(f.max) && f.min <= f.max);
    assert(t->dtype == DTYPE_OTHER || f.xxh3 == hash_bytes(t->data, t->bytes));
}

/* `name` is how every message must begin. */
static inline void assert_checkpoint(const struct ckpt *c, const struct err *err, const char *name)
{
    struct err damage = ERR_INIT;

    if (c == NULL) {
        assert(err->code == ERR_FORMAT || err->code == ERR_LIMIT || err->code == ERR_NOT_FOUND);
        assert_refusal(err, name);
        return;
    }
    for (size_t i = 0; i < ckpt_count(c); i++) {
        assert_tensor(c, ckpt_at(c, i));
        assert_values(c, ckpt_at(c, i), name);
        assert_facts(c, ckpt_at(c, i));
    }
    if (ckpt_verify(c, NULL, NULL, &damage) == -1)
        assert_refusal(&damage, name);
}

#endif
