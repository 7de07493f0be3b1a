/* exact.c - the exact engine: every row is scored for every interest of a batch.
 *
 * Scoring is done in tiles of 16 rows in bfloat16 (screen.h), which costs a quarter of a matrix
 * product over the vectors when few interests are searched at once, and half when many are. A
 * tile's score s and the final score f of the same row (vec_dot) differ by at most
 *
 *     e = |q| E + 2 g |q| V        E: largest |row - packed row|, V: largest |row|
 *
 * where g bounds the rounding of a sum of `dim` products in any order, with or without fused
 * multiply-add: dim u / (1 - dim u), u = 2^-24. So if k rows have s >= t, the k-th best final score
 * is at least t - e, and a row with s < t - 2 e has f below it: it can be thrown out unseen. What
 * stays, a few more than k rows, is scored by vec_dot, and sorted. Answers are therefore those of
 * index_search_brute to the bit, whatever the batch or the processor. */
#include "engine.h"
#include "screen.h"

#include "recalld/vec.h"

#include <float.h>
#include <stdlib.h>

#define BLOCK_BYTES 65536
#define PREFETCH_AHEAD 8
#define GATHER_SHARE 8

struct exact {
    uint32_t *tiles; /* (n_tiles, tile_words) */
    size_t n_tiles;
    double norm_max;  /* V */
    double error_max; /* E */
    screen_fn *screen;
};

/* ---- opening -------------------------------------------------------------------- */

static double norm(const float *x, size_t dim)
{
    double sum = 0;

    for (size_t i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

static void pack(struct exact *e, const struct index *ix)
{
    const struct vectors *v = &ix->v;
    const float *row = v->data + (size_t)ix->all.first_row * v->dim;
    double worst = 0;

    for (size_t i = 0; i < ix->all.rows; i++)
        e->norm_max = fmax(e->norm_max, norm(row + i * v->dim, v->dim));
    for (size_t t = 0; t < e->n_tiles; t++) {
        size_t left = ix->all.rows - t * TILE_ROWS;

        worst =
            fmax(worst, tile_pack(e->tiles + t * tile_words(v->dim), row + t * TILE_ROWS * v->dim,
                                  left < TILE_ROWS ? left : TILE_ROWS, v->dim));
    }
    e->error_max = sqrt(worst);
}

static int exact_open(struct index *ix, const struct index_spec *spec, struct err *err)
{
    struct exact *e = xcalloc(1, sizeof *e);
    size_t words;

    (void)spec;
    ix->state = e;
    e->screen = screen_pick();
    e->n_tiles = ((size_t)ix->all.rows + TILE_ROWS - 1) / TILE_ROWS;
    if (!mem_product(e->n_tiles, tile_words(ix->v.dim), &words) ||
        (e->tiles = mem_try_aligned(words, sizeof *e->tiles)) == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for %u rows of %zu dimensions", ix->all.rows,
                       ix->v.dim);
    pack(e, ix);
    ix->memory = sizeof *e + words * sizeof *e->tiles;
    return 0;
}

static void exact_close(void *state)
{
    struct exact *e = state;

    if (e == NULL)
        return;
    free(e->tiles);
    free(e);
}

/* ---- one batch ------------------------------------------------------------------ */

/* The interests of all queries that are screened together, four to a group. */
struct lane {
    const float *interest;
    struct index_query *q; /* NULL: the last group is not full */
};

struct batch {
    const struct index *ix;
    const struct exact *e;
    struct lane *lanes;
    struct top *tops; /* one for each lane */
    size_t n_lanes;
    uint64_t *keys;   /* room for the tops */
    float *interests; /* (n_lanes / 4, dim, 4): as screen_fn wants them */
};

/* 2 e of the head of this file, rounded up. Products too small for float32 may be off by as much
 * as they are large; FLT_MIN is far above the sum of those. */
static double deception(const struct exact *e, size_t dim, double interest_norm)
{
    double du = (double)dim * 0x1p-24, g = du / (1 - du);

    return 2 * (interest_norm * (e->error_max + 2 * g * (e->norm_max + e->error_max)) * 1.0001 +
                (double)FLT_MIN);
}

/* A filter that keeps so few rows is answered from its list. Measured with four interests: where
 * one row in eight matches, a tile, which then has two, costs as much as their dot products. */
static bool few_rows(const struct index *ix, const struct index_query *q)
{
    size_t n;

    if (q->filter == NULL)
        return false;
    filter_rows(q->filter, ix->all.first_row, ix->all.rows, &n);
    return n <= ix->all.rows / GATHER_SHARE;
}

/* Scores that could overflow cannot be bounded. */
static bool can_screen(const struct index *ix, const struct index_query *q)
{
    const struct exact *e = ix->state;

    for (int i = 0; i < q->n_interests; i++) {
        double size = norm(q->interests + (size_t)i * ix->v.dim, ix->v.dim);

        if (isfinite(size) && size * (e->norm_max + e->error_max) > (double)FLT_MAX / 16)
            return false;
    }
    return ix->v.dim < 1u << 20 && !few_rows(ix, q);
}

static void rescore(const struct batch *b, size_t lane)
{
    const struct vectors *v = &b->ix->v;
    struct top *t = &b->tops[lane];

    for (size_t i = 0; i < t->n; i++) {
        uint32_t row = key_row(t->keys[i]);
        float score;

        if (i + PREFETCH_AHEAD < t->n)
            prefetch_row(v, key_row(t->keys[i + PREFETCH_AHEAD]));
        score = vec_dot(b->lanes[lane].interest, v->data + (size_t)row * v->dim, v->dim);
        t->keys[i] = make_key(score, row);
    }
}

/* Pruning frees about half of the buffer unless very many rows score nearly the same: then their
 * final scores decide. */
static void make_room(const struct batch *b, size_t lane)
{
    struct top *t = &b->tops[lane];

    top_prune(t);
    if (t->n > top_room(t->k) - top_room(t->k) / 4) {
        rescore(b, lane);
        top_cut(t);
    }
}

/* Takes in those of a tile's rows whose bits are set. */
static void take(const struct batch *b, size_t lane, unsigned rows, uint32_t first_row,
                 const float *scores)
{
    for (; rows != 0; rows &= rows - 1) {
        int r = __builtin_ctz(rows);

        if (top_full(&b->tops[lane]))
            make_room(b, lane);
        top_add(&b->tops[lane], scores[r], first_row + (uint32_t)r);
    }
}

#define LANE_ROWS ((uint64_t)0xffff)

/* The rows a group of lanes may still see, and the filters that narrow them. */
struct view {
    uint64_t live;
    const struct row_filter *filters[TILE_INTERESTS];
    bool filtered;
};

static struct view view_of(const struct lane *lanes)
{
    struct view w = {0, {NULL}, false};

    for (int i = 0; i < TILE_INTERESTS; i++) {
        const struct index_query *q = lanes[i].q;

        if (q == NULL || q->late)
            continue;
        w.live |= LANE_ROWS << (i * TILE_ROWS);
        w.filters[i] = q->filter;
        w.filtered = w.filtered || q->filter != NULL;
    }
    return w;
}

/* Those of the 16 rows from `first` on that each lane may see. */
static uint64_t visible(const struct view *w, const struct shard_range *all, uint32_t first)
{
    uint32_t left = all->first_row + all->rows - first;
    uint64_t mask = w->live;

    for (int i = 0; w->filtered && i < TILE_INTERESTS; i++)
        if (w->filters[i] != NULL)
            mask &=
                ~((uint64_t)(filter_bits16(w->filters[i], first) ^ LANE_ROWS) << (i * TILE_ROWS));
    for (int i = 0; left < TILE_ROWS && i < TILE_INTERESTS; i++)
        mask &= ~((LANE_ROWS << left & LANE_ROWS) << (i * TILE_ROWS));
    return mask;
}

/* Tiles [from, to) for the group of lanes that begins with `lane`. */
static void screen_tiles(const struct batch *b, size_t lane, size_t from, size_t to)
{
    size_t dim = b->ix->v.dim;
    struct view w = view_of(b->lanes + lane);
    float scores[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));
    float floors[TILE_INTERESTS];

    for (int i = 0; i < TILE_INTERESTS; i++)
        floors[i] = b->tops[lane + i].floor;
    for (size_t t = from; t < to; t++) {
        uint32_t first = b->ix->all.first_row + (uint32_t)(t * TILE_ROWS);
        uint64_t mask = visible(&w, &b->ix->all, first);

        if (mask == 0)
            continue;
        mask &= b->e->screen(b->e->tiles + t * tile_words(dim), b->interests + lane * dim, dim,
                             floors, scores);
        for (int i = 0; mask != 0; i++, mask >>= TILE_ROWS)
            if (mask & LANE_ROWS) {
                take(b, lane + i, (unsigned)(mask & LANE_ROWS), first, scores + i * TILE_ROWS);
                floors[i] = b->tops[lane + i].floor;
            }
    }
}

/* Tiles that stay in the second-level cache while all groups pass over them. */
static size_t block_tiles(size_t dim)
{
    size_t n = (size_t)BLOCK_BYTES / (tile_words(dim) * sizeof(uint32_t));

    return n > 0 ? n : 1;
}

/* Looks at the clock once for the whole batch. */
static bool all_late(const struct batch *b)
{
    uint64_t now = 0;
    bool late = true;

    for (size_t i = 0; i < b->n_lanes; i++) {
        struct index_query *q = b->lanes[i].q;

        if (q == NULL || q->late)
            continue;
        if (q->deadline_ns != 0 && now == 0)
            now = clock_ns();
        q->late = q->deadline_ns != 0 && now >= q->deadline_ns;
        late = late && q->late;
    }
    return late;
}

static void screen_all(const struct batch *b)
{
    size_t step = block_tiles(b->ix->v.dim), n = b->e->n_tiles;

    for (size_t t = 0; t < n && !all_late(b); t += step)
        for (size_t lane = 0; lane < b->n_lanes; lane += TILE_INTERESTS)
            screen_tiles(b, lane, t, t + step < n ? t + step : n);
    for (size_t lane = 0; lane < b->n_lanes; lane++) {
        top_prune(&b->tops[lane]);
        rescore(b, lane);
    }
}

/* ---- a batch's queries ---------------------------------------------------------- */

/* An interest that is not finite finds nothing. */
static size_t wanted(const struct index_query *q, const float *interest, size_t dim)
{
    return isfinite(norm(interest, dim)) ? q->k : 0;
}

static void add_lane(struct batch *b, struct index_query *q, const float *interest, uint64_t *keys)
{
    size_t dim = b->ix->v.dim, lane = b->n_lanes++, within = lane % TILE_INTERESTS;
    size_t k = q != NULL ? wanted(q, interest, dim) : 0;
    float *to = b->interests + (lane - within) * dim + within;
    double slack = k > 0 ? deception(b->e, dim, norm(interest, dim)) : 0;

    b->lanes[lane] = (struct lane){interest, q};
    top_init(&b->tops[lane], keys, k, (float)slack);
    for (size_t d = 0; d < dim; d++)
        to[d * TILE_INTERESTS] = k > 0 ? interest[d] : 0.0f;
}

/* Screens those queries of the batch that can be, together. */
static void search_tiles(struct batch *b, struct index_query *q, size_t n)
{
    uint64_t *keys = b->keys;
    size_t lane = 0;

    for (size_t i = 0; i < n; i++) {
        int interests = can_screen(b->ix, &q[i]) ? q[i].n_interests : 0;

        for (int j = 0; j < interests; j++, keys += top_room(q[i].k))
            add_lane(b, &q[i], q[i].interests + (size_t)j * b->ix->v.dim, keys);
    }
    while (b->n_lanes % TILE_INTERESTS != 0)
        add_lane(b, NULL, NULL, NULL);
    screen_all(b);
    for (size_t i = 0; i < n; i++)
        if (can_screen(b->ix, &q[i])) {
            query_finish(&q[i], b->tops + lane);
            lane += (size_t)q[i].n_interests;
        }
}

/* One query by the final scores of its rows. */
static void search_rows(struct batch *b, struct index_query *q)
{
    const struct shard_range *all = &b->ix->all;
    const uint32_t *list = NULL;
    size_t n = all->rows;

    for (int j = 0; j < q->n_interests; j++)
        top_init(&b->tops[j], b->keys + (size_t)j * top_room(q->k),
                 wanted(q, q->interests + (size_t)j * b->ix->v.dim, b->ix->v.dim), 0);
    if (q->filter != NULL)
        list = filter_rows(q->filter, all->first_row, all->rows, &n);
    gather(&b->ix->v, q, b->tops, all->first_row, list, n);
    query_finish(q, b->tops);
}

static void exact_search(const struct index *ix, struct index_scratch *s, struct index_query *q,
                         size_t n)
{
    struct batch b = {.ix = ix, .e = ix->state};
    size_t interests = TILE_INTERESTS, keys = 0;

    for (size_t i = 0; i < n; i++) {
        interests += (size_t)q[i].n_interests;
        keys += (size_t)q[i].n_interests * top_room(q[i].k);
    }
    b.lanes = scratch_room(s, ROOM_LANES, interests, sizeof *b.lanes);
    b.tops = scratch_room(s, ROOM_TOPS, interests, sizeof *b.tops);
    b.keys = scratch_room(s, ROOM_KEYS, keys, sizeof *b.keys);
    b.interests = scratch_room(s, ROOM_INTERESTS, interests * ix->v.dim, sizeof(float));
    if (b.lanes == NULL || b.tops == NULL || b.keys == NULL || b.interests == NULL) {
        for (size_t i = 0; i < n; i++)
            for (size_t shard = 0; shard < ix->n_shards; shard++)
                query_shard_failed(&q[i], shard, "out of memory");
        return;
    }
    search_tiles(&b, q, n);
    for (size_t i = 0; i < n; i++)
        if (!can_screen(ix, &q[i]))
            search_rows(&b, &q[i]);
}

const struct engine engine_exact = {"exact", exact_open, exact_close, exact_search};
