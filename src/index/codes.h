/* codes.h - rows as 8-bit integers, for scores of a few rows that lie anywhere.
 *
 * A row x is a scale s and integers w, x ~ s w, an interest q likewise t v; the score of a row here
 * is s t (v . w). The integers of a row stand one after another, 64 of them in a cache line, and
 * its scale in their lowest bits, so that a row of 64 is one line and nothing else. Where screen.h
 * proves bounds, this only has to be near: who walks through a graph looks around anyhow. */
#ifndef RECALLD_INDEX_CODES_H
#define RECALLD_INDEX_CODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codes {
    /* (rows, stride): w + 128; filled up with what the interest multiplies by 0. The lowest bits of
     * the last CODES_SCALE are the upper bits of the float s, of which the lower ones are 0. */
    uint8_t *bytes;
    size_t stride; /* a multiple of CODES_STEP */
};

#define CODES_SCALE 16

#define CODES_STEP 32

/* An interest, packed. */
struct probe {
    int8_t *v;     /* (stride) from -63 to 63, so that sums of two products fit into 16 bits */
    float scale;   /* t */
    int32_t shift; /* what 128 added to every w adds to a sum */
};

size_t codes_stride(size_t dim);
/* Row `row` from `dim` finite numbers. */
void codes_pack(struct codes *c, size_t row, const float *x, size_t dim);
/* p->v has room for codes_stride(dim). */
void probe_pack(struct probe *p, const float *interest, size_t dim);

/* scores[i] = the best score of rows[i] with any of the n_probes interests; there is room for n
 * rounded up to a multiple of 4. Fetches rows ahead, all but the first: codes_prefetch. All
 * implementations agree to the bit. */
typedef void codes_fn(const struct codes *c, const struct probe *p, size_t n_probes,
                      const uint32_t *rows, size_t n, float *scores);
/* The fastest this processor can do; and what any can. */
codes_fn *codes_pick(void);
codes_fn codes_plain;

static inline void codes_prefetch_row(const struct codes *c, uint32_t row)
{
    const uint8_t *p = c->bytes + (size_t)row * c->stride;

    for (size_t i = 0; i < c->stride; i += 64)
        __builtin_prefetch(p + i);
}

/* Rows on their way at once: more than the processor can wait for would only stop it. */
#define CODES_AHEAD 24

/* What a codes_fn expects to have been done before. */
static inline void codes_prefetch(const struct codes *c, const uint32_t *rows, size_t n)
{
    for (size_t i = 0; i < n && i < CODES_AHEAD; i++)
        codes_prefetch_row(c, rows[i]);
}

#endif
