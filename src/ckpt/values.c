/* values.c - what tensors hold: as float32, checked; measured; and the checksums of the file. Files
 * larger than memory are read in pieces. */
#include "crc32.h"
#include "format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- values as float32 --------------------------------------------------------- */

static float from_bits(uint32_t bits)
{
    float f;

    memcpy(&f, &bits, sizeof f);
    return f;
}

/* IEEE half to single; every half has an exact single. */
static float from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 0x1f, fraction = half & 0x3ff;

    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 */
        float f = (float)fraction * 0x1p-24f;

        return sign != 0 ? -f : f;
    }
    if (exponent == 0x1f)
        return from_bits(sign | 0x7f800000 | fraction << 13);
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static uint16_t u16le(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* What a float cannot hold becomes infinity here, and is refused as such. */
static float from_f64(const uint8_t *p)
{
    double d;

    memcpy(&d, p, sizeof d);
    return (float)d;
}

/* `n` values at `from` as float32. */
static void convert(float *out, enum dtype dtype, const uint8_t *from, size_t n)
{
    if (dtype == DTYPE_F32)
        memcpy(out, from, n * sizeof *out);
    else if (dtype == DTYPE_F64)
        for (size_t i = 0; i < n; i++)
            out[i] = from_f64(from + 8 * i);
    else if (dtype == DTYPE_F16)
        for (size_t i = 0; i < n; i++)
            out[i] = from_f16(u16le(from + 2 * i));
    else
        for (size_t i = 0; i < n; i++)
            out[i] = from_bits((uint32_t)u16le(from + 2 * i) << 16);
}

#define EXPONENT_ALL_ONES 0x7f800000u

static bool is_finite(float f)
{
    uint32_t bits;

    memcpy(&bits, &f, sizeof bits);
    return (bits & EXPONENT_ALL_ONES) != EXPONENT_ALL_ONES;
}

/* How many values from the start are finite. Whole blocks first: no branch inside. */
static size_t finite_count(const float *v, size_t n)
{
    enum { BLOCK = 256 };
    size_t i = 0;

    for (bool clean = true; clean && n - i >= BLOCK; i += clean ? BLOCK : 0) {
        unsigned bad = 0;

        for (size_t j = 0; j < BLOCK; j++)
            bad |= !is_finite(v[i + j]);
        clean = bad == 0;
    }
    while (i < n && is_finite(v[i]))
        i++;
    return i;
}

/* "[192,57]" for element `at`. */
static void put_coordinates(struct buf *b, const struct tensor *t, size_t at)
{
    size_t below = t->count;

    buf_putc(b, '[');
    for (int d = 0; d < t->n_dims; d++) {
        below /= t->shape[d];
        buf_printf(b, d > 0 ? ",%zu" : "%zu", at / below % t->shape[d]);
    }
    buf_putc(b, ']');
}

static int refuse_non_finite(const struct ckpt *c, const struct tensor *t, const float *v,
                             struct err *err)
{
    size_t at = finite_count(v, t->count);
    struct buf where = BUF_INIT;

    if (at == t->count)
        return 0;
    put_coordinates(&where, t, at);
    err_set(err, ERR_FORMAT, "%s: tensor %s holds %s at element %zu %s", c->name, t->name,
            v[at] != v[at] ? "NaN" : "infinity", at, buf_cstr(&where));
    buf_clear(&where);
    return -1;
}

/* In the bytes of the one file: what a loader made, or mapped from another, ends with the ckpt. */
static bool is_view(const struct ckpt *c, const struct tensor *t)
{
    return t->dtype == DTYPE_F32 && (uintptr_t)t->data % _Alignof(float) == 0 &&
           t->data >= c->bytes && t->data < c->bytes + c->len;
}

static int refuse_non_floats(const struct ckpt *c, const struct tensor *t, struct err *err)
{
    if (!tensor_is_floats(t))
        return err_set(err, ERR_FORMAT, "%s: tensor %s holds %s, floats are needed", c->name,
                       t->name, t->dtype == DTYPE_OTHER ? t->other : dtype_name(t->dtype));
    if (t->count == 0)
        return err_set(err, ERR_FORMAT, "%s: tensor %s holds no values, a size of it is 0", c->name,
                       t->name);
    return 0;
}

const float *tensor_f32(const struct ckpt *c, const struct tensor *t, float **owned,
                        struct err *err)
{
    const float *values;

    *owned = NULL;
    if (refuse_non_floats(c, t, err) == -1)
        return NULL;
    if (is_view(c, t)) {
        values = (const float *)(const void *)t->data;
    } else {
        *owned = mem_try_aligned(t->count, sizeof(float));
        if (*owned == NULL) {
            err_set(err, ERR_NOMEM, "%s: no memory for tensor %s (%zu values)", c->name, t->name,
                    t->count);
            return NULL;
        }
        convert(*owned, t->dtype, t->data, t->count);
        values = *owned;
    }
    if (refuse_non_finite(c, t, values, err) == -1) {
        free(*owned);
        *owned = NULL;
        return NULL;
    }
    return values;
}

/* What became infinite by rounding; `from` are doubles. */
static int refuse_overflow(const struct ckpt *c, const struct tensor *t, size_t first,
                           const uint8_t *from, const float *v, size_t n, struct err *err)
{
    for (size_t i = finite_count(v, n); i < n; i++) {
        double d;

        memcpy(&d, from + i * sizeof d, sizeof d);
        if (isinf(v[i]) && isfinite(d))
            return err_set(err, ERR_FORMAT,
                           "%s: tensor %s holds %g at element %zu, which float32 cannot hold",
                           c->name, t->name, d, first + i);
    }
    return 0;
}

int tensor_block(const struct ckpt *c, const struct tensor *t, size_t first, size_t n, float *out,
                 struct err *err)
{
    size_t size = dtype_size(t->dtype);
    const uint8_t *from = t->data + first * size;
    int result = 0;

    convert(out, t->dtype, from, n);
    if (t->dtype == DTYPE_F64)
        result = refuse_overflow(c, t, first, from, out, n, err);
    ckpt_forget(c, from, n * size);
    return result;
}

/* ---- measuring ------------------------------------------------------------------ */

static uint64_t number_le(const uint8_t *p, size_t size)
{
    uint64_t v = 0;

    for (size_t i = size; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

/* Any dtype's values as doubles; beyond 2^53 they are rounded. */
static void widen(double *out, enum dtype dtype, const uint8_t *from, size_t n)
{
    size_t size = dtype_size(dtype);
    float block[64];

    if (dtype == DTYPE_F64) {
        memcpy(out, from, n * sizeof *out);
    } else if (dtype <= DTYPE_BF16) {
        for (size_t i = 0; i < n; i += ARRAY_LEN(block)) {
            size_t m = n - i < ARRAY_LEN(block) ? n - i : ARRAY_LEN(block);

            convert(block, dtype, from + i * size, m);
            for (size_t j = 0; j < m; j++)
                out[i + j] = block[j];
        }
    } else {
        bool is_signed = dtype != DTYPE_U8 && dtype != DTYPE_BOOL;
        size_t unused = 64 - 8 * size;

        for (size_t i = 0; i < n; i++) {
            uint64_t v = number_le(from + i * size, size);

            out[i] = is_signed ? (double)((int64_t)(v << unused) >> unused) : (double)v;
        }
    }
}

/* Comparisons with NaN are false: it changes nothing. */
static void add_range(struct tensor_facts *f, const double *v, size_t n)
{
    double low = f->finite > 0 ? f->min : HUGE_VAL, high = f->finite > 0 ? f->max : -HUGE_VAL;
    size_t finite = 0;

    for (size_t i = 0; i < n; i++) {
        double x = v[i] - v[i] == 0 ? v[i] : NAN;

        finite += x == x;
        low = x < low ? x : low;
        high = x > high ? x : high;
    }
    f->finite += finite;
    f->non_finite += n - finite;
    if (f->finite > 0) {
        f->min = low;
        f->max = high;
    }
}

void tensor_measure(const struct ckpt *c, const struct tensor *t, struct tensor_facts *out,
                    ckpt_progress progress, void *arg)
{
    size_t size = dtype_size(t->dtype);
    struct hash *hash;
    double wide[1024];

    *out = (struct tensor_facts){.finite = 0};
    if (t->dtype == DTYPE_OTHER)
        return;
    hash = hash_new();
    for (size_t at = 0, n; at < t->bytes; at += n) {
        n = t->bytes - at < CKPT_BLOCK ? t->bytes - at : CKPT_BLOCK;
        hash_add(hash, t->data + at, n);
        for (size_t i = 0, m; i < n / size; i += m) {
            m = n / size - i < ARRAY_LEN(wide) ? n / size - i : ARRAY_LEN(wide);
            widen(wide, t->dtype, t->data + at + i * size, m);
            add_range(out, wide, m);
        }
        ckpt_forget(c, t->data + at, n);
        if (progress != NULL)
            progress(arg, n);
    }
    out->xxh3 = hash_end(hash);
}

/* ---- checksums ------------------------------------------------------------------- */

size_t ckpt_verify_bytes(const struct ckpt *c)
{
    size_t bytes = 0;

    for (size_t i = 0; i < c->n_sums; i++)
        bytes += c->sums[i].len;
    return bytes;
}

int ckpt_verify(const struct ckpt *c, ckpt_progress progress, void *arg, struct err *err)
{
    for (size_t i = 0; i < c->n_sums; i++) {
        const struct ckpt_sum *s = &c->sums[i];
        uint32_t crc = 0;

        for (size_t at = 0, n; at < s->len; at += n) {
            n = s->len - at < CKPT_BLOCK ? s->len - at : CKPT_BLOCK;
            crc = crc32_update(crc, s->bytes + at, n);
            ckpt_forget(c, s->bytes + at, n);
            if (progress != NULL)
                progress(arg, n);
        }
        if (crc != s->crc)
            return err_set(err, ERR_FORMAT,
                           "%s: offset %zu: the checksum of entry %.*s is wrong: the file is "
                           "damaged",
                           c->name, (size_t)(s->bytes - c->bytes),
                           (int)(s->name.len < 200 ? s->name.len : 200), s->name.p);
    }
    return 0;
}
