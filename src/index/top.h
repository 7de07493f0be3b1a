/* top.h - the k best of a stream of scored rows, from scores that may be off by a known amount.
 *
 * Entries are gathered in a buffer with room for more than k; when it is full, those that can no
 * longer be among the k best are thrown out. That costs a few nanoseconds per entry where a heap of
 * 200 costs tens. An entry is a hit_order.
 */
#ifndef RECALLD_INDEX_TOP_H
#define RECALLD_INDEX_TOP_H

#include "recalld/index.h"

#include <math.h>
#include <string.h>

struct top {
    uint64_t *keys;
    size_t n, k;
    float floor; /* a row whose score is below cannot be among the k best; NaN: nothing is wanted */
    float slack; /* entries are low ends of scores: how far above one its score may be; 0 = final */
};

/* Entries a buffer must have room for. */
static inline size_t top_room(size_t k)
{
    return 4 * k + 64;
}

void top_init(struct top *t, uint64_t *room, size_t k, float slack);
/* Keeps the k best as the entries stand, first, and of the others what may be better than one of
 * those. */
void top_prune(struct top *t);
/* Keeps the k best as the scores stand: for final scores. */
void top_cut(struct top *t);
/* Largest first. */
void top_sort(uint64_t *keys, size_t n);
/* Adds n final entries, those that are there already once; there must be room. Keeps the k best. */
void top_join(struct top *t, const uint64_t *keys, size_t n);
/* The least of the first n entries, n > 0. */
uint64_t top_least(const struct top *t, size_t n);
/* Writes the k best, in order; returns how many there are. Scores must be final. */
size_t top_finish(struct top *t, struct hit *hits);

static inline bool top_full(const struct top *t)
{
    return t->n == top_room(t->k);
}

static inline float key_score(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float score;

    bits = bits & 0x80000000u ? bits & 0x7fffffffu : ~bits;
    memcpy(&score, &bits, sizeof score);
    return score;
}

static inline uint32_t key_row(uint64_t key)
{
    return ~(uint32_t)key;
}

/* There must be room. */
static inline void top_add(struct top *t, float score, uint32_t row)
{
    t->keys[t->n++] = hit_order(score, row);
}

/* A final score: makes room by itself. NaN is never among the best. */
static inline void top_offer(struct top *t, float score, uint32_t row)
{
    if (!(score >= t->floor))
        return;
    if (top_full(t))
        top_cut(t);
    top_add(t, score, row);
}

#endif
