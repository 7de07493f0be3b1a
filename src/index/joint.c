/* joint.c - final scores over all interests of a query, of which only a row's best counts. */
#include "joint.h"

#include "recalld/vec.h"

/* Rows that are scored together; that pass between two looks at the clock, and what they may take
 * in products: a fraction of a millisecond. */
#define BLOCK 64
#define CHUNK (16 * BLOCK)
#define CHUNK_PRODUCTS ((size_t)1 << 21)
/* How close a floor is sought to the rows wanted: see floor_of. */
#define CLOSE 16
#define HALVINGS 24

/* The best of some rows. */
struct best {
    float score[CHUNK];
    int32_t from[CHUNK]; /* the interest with that score, the first of equals */
};

static void keep_better(float *restrict score, int32_t *restrict from, const float *restrict first,
                        const float *restrict second)
{
    for (size_t i = 0; i < BLOCK; i++) {
        bool better = second[i] > first[i];

        score[i] = better ? second[i] : first[i];
        from[i] = better;
    }
}

/* Where the interest k is better than those before. */
static void keep_best(float *restrict score, int32_t *restrict from, const float *restrict of_k,
                      int32_t k)
{
    for (size_t i = 0; i < BLOCK; i++) {
        bool better = of_k[i] > score[i];
        float s = better ? of_k[i] : score[i];
        int32_t f = better ? k : from[i];

        score[i] = s;
        from[i] = f;
    }
}

/* Scores BLOCK rows at most; there must be room for as many. */
static void score_block(const struct index_query *q, const float *const *rows, size_t n, size_t dim,
                        float *score, int32_t *from)
{
    float scores[INDEX_INTERESTS_MAX * BLOCK]; /* (interests, BLOCK) */

    vec_dot_table(scores, BLOCK, q->interests, (size_t)q->n_interests, rows, n, dim);
    for (int32_t k = 0; n < BLOCK && k < q->n_interests; k++)
        for (size_t i = n; i < BLOCK; i++)
            scores[(size_t)k * BLOCK + i] = -INFINITY; /* whole blocks below */
    keep_better(score, from, scores, scores + BLOCK);
    for (int32_t k = 2; k < q->n_interests; k++)
        keep_best(score, from, scores + (size_t)k * BLOCK, k);
}

static uint64_t key_of(const struct best *b, size_t i, uint32_t nth_row)
{
    return hit_order(b->score[i], joint_place(nth_row, (uint32_t)b->from[i]));
}

void joint_score(const struct index *ix, const struct index_query *q, uint64_t *keys, size_t n)
{
    const float *first = ix->v.data + (size_t)ix->all.first_row * ix->v.dim, *rows[BLOCK];
    struct best best;

    for (size_t from = 0; from < n; from += BLOCK) {
        size_t m = n - from < BLOCK ? n - from : BLOCK;

        for (size_t i = 0; i < m; i++) {
            uint32_t nth_row = joint_nth_row(keys[from + i]);

            prefetch_row(&ix->v, ix->all.first_row + nth_row);
            rows[i] = first + nth_row * ix->v.dim;
        }
        score_block(q, rows, m, ix->v.dim, best.score, best.from);
        for (size_t i = 0; i < m; i++)
            keys[from + i] = key_of(&best, i, joint_nth_row(keys[from + i]));
    }
}

/* Rows first, first + 1, .. or, where there is one, those of the list. */
static void score_chunk(const struct index *ix, const struct index_query *q, uint32_t first,
                        const uint32_t *list, size_t n, struct best *out)
{
    const float *rows[BLOCK];

    for (size_t at = 0; at < n; at += BLOCK) {
        size_t m = n - at < BLOCK ? n - at : BLOCK;

        for (size_t i = 0; i < m; i++) {
            size_t row = list != NULL ? list[at + i] : first + at + i;

            rows[i] = ix->v.data + row * ix->v.dim;
            if (list != NULL)
                prefetch_row(&ix->v, (uint32_t)row);
        }
        score_block(q, rows, m, ix->v.dim, out->score + at, out->from + at);
    }
}

static size_t reach(const float *scores, size_t n, float floor)
{
    uint32_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += scores[i] >= floor;
    return count;
}

#define LANES 16

/* The least and the largest of n > 0 scores. */
static void range_of(const float *scores, size_t n, float *least, float *largest)
{
    float low[LANES], high[LANES];

    for (size_t j = 0; j < LANES; j++)
        low[j] = high[j] = scores[0];
    for (size_t i = 0; i < n / LANES * LANES; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            low[j] = scores[i + j] < low[j] ? scores[i + j] : low[j];
            high[j] = scores[i + j] > high[j] ? scores[i + j] : high[j];
        }
    for (size_t i = n / LANES * LANES; i < n; i++) {
        low[0] = scores[i] < low[0] ? scores[i] : low[0];
        high[0] = scores[i] > high[0] ? scores[i] : high[0];
    }
    *least = low[0];
    *largest = high[0];
    for (size_t j = 1; j < LANES; j++) {
        *least = low[j] < *least ? low[j] : *least;
        *largest = high[j] > *largest ? high[j] : *largest;
    }
}

/* A floor, not below `low`, that k scores reach if so many reach `low`, and hardly more unless many
 * are equal: cheaper than selecting keys. */
static float floor_of(const float *scores, size_t n, size_t k, float low)
{
    size_t above = reach(scores, n, low);
    float least, high;

    if (above <= k + CLOSE)
        return low;
    range_of(scores, n, &least, &high);
    low = low > least ? low : least;
    for (int i = 0; i < HALVINGS && above > k + CLOSE; i++) {
        float mid = low + (high - low) / 2;
        size_t n_mid = reach(scores, n, mid);

        if (n_mid < k) {
            high = mid;
        } else {
            low = mid;
            above = n_mid;
        }
    }
    return low;
}

/* Adds those of a chunk that reach the floor. */
static void add_chunk(const struct index *ix, struct top *t, const struct best *b, size_t n,
                      uint32_t first, const uint32_t *list)
{
    uint16_t good[CHUNK];
    size_t n_good = 0;

    for (size_t i = 0; i < n; i++) {
        good[n_good] = (uint16_t)i;
        n_good += b->score[i] >= t->floor;
    }
    for (size_t j = 0; j < n_good; j++) {
        size_t i = good[j];

        if (top_full(t))
            top_cut(t);
        t->keys[t->n++] =
            key_of(b, i, (list != NULL ? list[i] : first + (uint32_t)i) - ix->all.first_row);
    }
}

/* Between two looks at the clock. */
static size_t chunk_rows(const struct index *ix, const struct index_query *q)
{
    size_t n = CHUNK_PRODUCTS / ((size_t)q->n_interests * ix->v.dim);

    return n < BLOCK ? BLOCK : n < CHUNK ? n : CHUNK;
}

void joint_gather(const struct index *ix, struct index_query *q, struct top *t, uint32_t first,
                  const uint32_t *list, size_t n)
{
    size_t step = chunk_rows(ix, q);
    struct best best;

    for (size_t from = 0; t->k > 0 && from < n && !query_late(q); from += step) {
        size_t m = n - from < step ? n - from : step;
        const uint32_t *part = list != NULL ? list + from : NULL;
        uint32_t at = first + (uint32_t)from;

        score_chunk(ix, q, at, part, m, &best);
        t->floor = floor_of(best.score, m, t->k, t->floor);
        add_chunk(ix, t, &best, m, at, part);
    }
}

void joint_finish(const struct index *ix, struct index_query *q, struct top *t)
{
    top_cut(t);
    top_sort(t->keys, t->n);
    for (size_t i = 0; i < t->n; i++) {
        uint64_t key = t->keys[i];

        q->hits[i] = (struct hit){ix->all.first_row + joint_nth_row(key), key_score(key)};
        q->from[i] = (uint8_t)(key_row(key) % (1 << JOINT_INTEREST_BITS));
    }
    q->found[0] = t->n;
    q->joined = true;
}
