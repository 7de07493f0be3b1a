/* screen.h - cheap scores of 16 rows for 4 interests at a time, with a proven bound on their error.
 *
 * Rows and interests are rounded to 7-bit integers, each with a scale of its own, and multiplied as
 * integers. A tile holds 16 rows so, four dimensions to a word, in the order in which they are
 * read. It takes little more than a quarter of the memory of the vectors.
 *
 * With row x ~ s w and interest q ~ t v (s, t scales; w, v integers) and their residuals measured
 * when they are packed, e = |x - s w| and d = |q - t v|, the cheap score a = s t (v . w) differs
 * from q . x by at most
 *
 *     |q| e + d (|x| + e)
 *
 * to which the bound adds what float32 arithmetic may lose, here and in vec_dot. */
#ifndef RECALLD_INDEX_SCREEN_H
#define RECALLD_INDEX_SCREEN_H

#include <stddef.h>
#include <stdint.h>

#define TILE_ROWS 16
#define TILE_INTERESTS 4
#define SCREEN_DIM_MAX 4096 /* sums of more products need not be exact as float32 */

/* What is known of the rows of a tile, beside their integers. Zero for rows that do not exist. */
struct tile_rows {
    float scale[TILE_ROWS]; /* s */
    float error[TILE_ROWS]; /* e */
    float size[TILE_ROWS];  /* |x| + e */
};

/* Four interests, packed. */
struct screen_group {
    int32_t *words;                 /* in the order in which they are read: see screen.c */
    int32_t offset[TILE_INTERESTS]; /* takes back that rows are stored without a sign */
    float scale[TILE_INTERESTS];    /* t */
    float by_error[TILE_INTERESTS], by_size[TILE_INTERESTS]; /* the bound: see screen_bound */
};

size_t tile_bytes(size_t dim);   /* a multiple of 64 */
size_t screen_words(size_t dim); /* of struct screen_group */

/* Packs n <= 16 rows of finite numbers into a tile, which is 64-byte aligned. */
void tile_pack(unsigned char *tile, const float *rows, size_t n, size_t dim);
const struct tile_rows *tile_rows(const unsigned char *tile, size_t dim);

/* Puts a finite interest, or NULL for none, at place i of a group. */
void screen_pack(struct screen_group *g, size_t i, const float *interest, size_t dim);

/* How far the cheap score of row r may be from its final score (vec_dot), for an interest with
 * these factors. */
static inline float screen_bound(float by_error, float by_size, const struct tile_rows *rows,
                                 size_t r)
{
    return by_error * rows->error[r] + by_size * rows->size[r];
}

/* low[16 * i + r] = the least that the final score of row r for interest i can be. Returns a mask:
 * bit 16 * i + r tells whether the most it can be is >= floors[i] (NaN: never). `low` is 32-byte
 * aligned. All implementations agree to the bit. */
typedef uint64_t screen_fn(const unsigned char *tile, const struct screen_group *g, size_t dim,
                           const float *floors, float *low);

/* The interests of a query together: four to a group, places that are left over filled with one of
 * them. A bound is the widest of the interests'. */
struct screen_joint {
    const struct screen_group *groups;
    size_t n_groups;
    size_t n_interests; /* the last group's places behind them repeat one of them */
    float by_error, by_size;
};

/* low[r] = the least that the best final score of row r over all interests can be. Bit r tells
 * whether the most it can be is >= the floor. */
typedef uint32_t screen_joint_fn(const unsigned char *tile, const struct screen_joint *j,
                                 size_t dim, float floor, float *low);

struct screens {
    screen_fn *each;
    screen_joint_fn *joint;
};
/* The fastest this processor can do; and what any can. */
const struct screens *screens_pick(void);
extern const struct screens screens_plain;

#endif
