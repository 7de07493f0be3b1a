/* screen.h - approximate scores of 16 rows for 4 interests at a time, and which reach a floor.
 *
 * A tile holds 16 rows as bfloat16, two to a word, dimension by dimension, so that it is read once,
 * front to back, with nothing to rearrange. It takes half the memory of the vectors. How far it is
 * off is measured when it is made; what it lets through is scored again from the vectors. */
#ifndef RECALLD_INDEX_SCREEN_H
#define RECALLD_INDEX_SCREEN_H

#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS 16
#define TILE_INTERESTS 4

/* Words of one tile: word 8 * d + l holds dimension d of row l (low half) and row l + 8 (high). */
static inline size_t tile_words(size_t dim)
{
    return dim * (TILE_ROWS / 2);
}

/* Packs n <= 16 rows; the others are zero. Returns the largest squared Euclidean distance between a
 * row and what the tile has of it. */
double tile_pack(uint32_t *tile, const float *rows, size_t n, size_t dim);

/* scores[16 * i + r] = tile row r . interest i, where interests[4 * d + i] is dimension d of
 * interest i. Returns a mask: bit 16 * i + r tells whether that score is >= floors[i] (NaN: never).
 * All pointers but `floors` are 32-byte aligned. */
typedef uint64_t screen_fn(const uint32_t *tile, const float *interests, size_t dim,
                           const float *floors, float *scores);
/* The fastest this processor can do; and what any can. */
screen_fn *screen_pick(void);
screen_fn screen_plain;

#endif
