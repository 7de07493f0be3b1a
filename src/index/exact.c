/* exact.c - the exact engine: every row is scored for every interest of a batch.
 *
 * Scores are first made cheaply, in tiles of 16 rows (screen.h), with bounds: a row's final score,
 * vec_dot's, lies between `low` and `high`. If k rows have low >= t, a row with high < t is not
 * among the k best and can be thrown out unseen. What stays, a few more than k rows, is scored by
 * vec_dot and sorted. Answers are therefore those of index_search_brute to the bit, whatever the
 * batch or the processor.
 *
 * So that few rows pass from the first tile on, t begins with a guess: what one tile in SAMPLE lets
 * expect, chosen low. When the k-th best final score turns out to be below the guess, rows may have
 * been thrown out wrongly, and the interest is searched again without one.
 *
 * A query that wants the k best of its interests together has one guess for them all, so that a few
 * rows more than k pass, not as many for each interest. */
#include "engine.h"
#include "screen.h"

#include "recalld/vec.h"

#include <float.h>
#include <stdlib.h>

#define BLOCK_BYTES 65536
#define PREFETCH_AHEAD 8
#define GATHER_SHARE 5
#define GATHER_ROWS 8
#define SAMPLE 16
/* What is multiplied on the way to a score stays below 63 sqrt(dim) times |q| |x|. */
#define SIZE_MAX_SCREENED ((double)FLT_MAX / 8192)

struct exact {
    unsigned char *tiles; /* (n_tiles, tile_bytes) */
    size_t n_tiles;
    double size_max, error_max; /* of all rows: see struct tile_rows */
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

static const unsigned char *tile_at(const struct exact *e, size_t t, size_t dim)
{
    return e->tiles + t * tile_bytes(dim);
}

static void pack(struct exact *e, const struct index *ix)
{
    const struct vectors *v = &ix->v;
    const float *row = v->data + (size_t)ix->all.first_row * v->dim;

    for (size_t t = 0; t < e->n_tiles; t++) {
        size_t left = ix->all.rows - t * TILE_ROWS;
        const struct tile_rows *about = tile_rows(tile_at(e, t, v->dim), v->dim);

        tile_pack(e->tiles + t * tile_bytes(v->dim), row + t * TILE_ROWS * v->dim,
                  left < TILE_ROWS ? left : TILE_ROWS, v->dim);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            e->size_max = fmax(e->size_max, (double)about->size[r]);
            e->error_max = fmax(e->error_max, (double)about->error[r]);
        }
    }
}

static int exact_open(struct index *ix, const struct index_spec *spec, struct err *err)
{
    struct exact *e = xcalloc(1, sizeof *e);
    size_t bytes;

    (void)spec;
    ix->state = e;
    e->screen = screen_pick();
    e->n_tiles = ((size_t)ix->all.rows + TILE_ROWS - 1) / TILE_ROWS;
    if (!mem_product(e->n_tiles, tile_bytes(ix->v.dim), &bytes) ||
        (e->tiles = mem_try_aligned(bytes, 1)) == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for %u rows of %zu dimensions", ix->all.rows,
                       ix->v.dim);
    pack(e, ix);
    ix->memory = sizeof *e + bytes;
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
    size_t k;              /* rows wanted; 0 = none */
    float guess;           /* of the k-th best score; -INFINITY = none */
    bool done;
    size_t n_aside; /* what the first of two passes found */
};

struct batch {
    const struct index *ix;
    const struct exact *e;
    struct lane *lanes;
    struct top *tops; /* one for each lane */
    size_t n_lanes;
    struct screen_group *groups; /* (n_lanes / 4) */
    int32_t *words;              /* of the groups */
    uint64_t *keys;              /* room for the tops */
    void *together;              /* room for what is looked at over all lanes of a query */
};

/* So few rows are scored by vec_dot at once. Measured with four interests: where one row in five
 * matches a filter, a tile, which then has three, costs as much as their dot products; and where
 * one row in eight is wanted, most pass the screen. */
static bool few_rows(const struct index *ix, const struct index_query *q)
{
    size_t n;

    if (ix->all.rows / GATHER_ROWS <= q->k)
        return true;
    if (q->filter == NULL)
        return false;
    filter_rows(q->filter, ix->all.first_row, ix->all.rows, &n);
    return n <= ix->all.rows / GATHER_SHARE;
}

/* Scores that could overflow cannot be bounded. An interest that is not finite finds nothing. */
static bool can_screen(const struct index *ix, const struct index_query *q)
{
    const struct exact *e = ix->state;

    if (ix->v.dim > SCREEN_DIM_MAX || !(e->size_max <= SIZE_MAX_SCREENED) || few_rows(ix, q))
        return false;
    for (int i = 0; i < q->n_interests; i++) {
        double size = norm(q->interests + (size_t)i * ix->v.dim, ix->v.dim);

        if (isfinite(size) && size * fmax(e->size_max, 1) > SIZE_MAX_SCREENED)
            return false;
    }
    return true;
}

/* Final scores for the entries [from, to). */
static void score_entries(const struct batch *b, size_t lane, size_t from, size_t to)
{
    const struct vectors *v = &b->ix->v;
    uint64_t *keys = b->tops[lane].keys;

    for (size_t i = from; i < to; i++) {
        uint32_t row = key_row(keys[i]);
        float score;

        if (i + PREFETCH_AHEAD < to)
            prefetch_row(v, key_row(keys[i + PREFETCH_AHEAD]));
        score = vec_dot(b->lanes[lane].interest, v->data + (size_t)row * v->dim, v->dim);
        keys[i] = hit_order(score, row);
    }
}

/* The k best by their low ends first: what they really score narrows down which others can matter.
 */
static void rescore(const struct batch *b, size_t lane)
{
    struct top *t = &b->tops[lane];

    top_prune(t);
    score_entries(b, lane, 0, t->n < t->k ? t->n : t->k);
    if (t->n > t->k) {
        top_drop(t);
        score_entries(b, lane, t->k, t->n);
    }
    top_cut(t);
}

/* Pruning frees about half of the buffer unless very many rows score nearly the same: then their
 * final scores decide. */
static void make_room(const struct batch *b, size_t lane)
{
    struct top *t = &b->tops[lane];

    top_prune(t);
    if (t->n > top_room(t->k) - top_room(t->k) / 4)
        rescore(b, lane);
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

        if (q == NULL || q->late || lanes[i].done)
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

/* What a tile's high ends are compared with: a little less than the floor, because products too
 * small for float32 may be off by more than the bounds say. */
static float compared(const struct top *t)
{
    return t->floor - 4 * FLT_MIN;
}

/* Every step-th of the tiles [from, to) for the group of lanes that begins with `lane`. One loop
 * over all set bits of a tile: about one row in a tile passes, and no branch could foresee for
 * which interest. */
static void screen_tiles(const struct batch *b, size_t lane, size_t from, size_t to, size_t step)
{
    size_t dim = b->ix->v.dim;
    const struct screen_group *g = &b->groups[lane / TILE_INTERESTS];
    struct view w = view_of(b->lanes + lane);
    struct top *tops = b->tops + lane;
    float low[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));
    float floors[TILE_INTERESTS];

    for (int i = 0; i < TILE_INTERESTS; i++)
        floors[i] = compared(&tops[i]);
    for (size_t t = from; t < to; t += step) {
        uint32_t first = b->ix->all.first_row + (uint32_t)(t * TILE_ROWS);
        uint64_t mask = visible(&w, &b->ix->all, first);

        if (mask == 0)
            continue;
        mask &= b->e->screen(tile_at(b->e, t, dim), g, dim, floors, low);
        for (; mask != 0; mask &= mask - 1) {
            unsigned at = (unsigned)__builtin_ctzll(mask), i = at / TILE_ROWS;

            if (top_full(&tops[i])) {
                make_room(b, lane + i);
                floors[i] = compared(&tops[i]);
            }
            top_add(&tops[i], low[at], first + at % TILE_ROWS);
        }
    }
}

/* Tiles that stay in the second-level cache while all groups pass over them. */
static size_t block_tiles(size_t dim)
{
    size_t n = (size_t)BLOCK_BYTES / tile_bytes(dim);

    return n > 0 ? n : 1;
}

/* Looks at the clock once for the whole batch. */
static bool all_late(const struct batch *b)
{
    uint64_t now = 0;
    bool late = true;

    for (size_t i = 0; i < b->n_lanes; i++) {
        struct index_query *q = b->lanes[i].q;

        if (q == NULL || q->late || b->lanes[i].done)
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
            screen_tiles(b, lane, t, t + step < n ? t + step : n, 1);
}

/* ---- rows over several lanes ----------------------------------------------------- */

/* Counts different rows. */
struct distinct {
    uint32_t *slots; /* open addressing, at most half full; row + 1 or, empty, 0 */
    size_t mask, count;
};

static size_t distinct_slots(size_t most)
{
    size_t n = 16;

    while (n < 2 * most)
        n *= 2;
    return n;
}

/* Bytes for `most` rows and as many keys. */
static size_t distinct_room(size_t most)
{
    return distinct_slots(most) * sizeof(uint32_t) + most * sizeof(uint64_t);
}

static struct distinct distinct_start(void *room, size_t most, uint64_t **keys)
{
    struct distinct d = {room, distinct_slots(most) - 1, 0};

    memset(d.slots, 0, (d.mask + 1) * sizeof *d.slots);
    if (keys != NULL)
        *keys = (uint64_t *)(void *)(d.slots + d.mask + 1);
    return d;
}

/* Returns how many there are now. */
static size_t distinct_add(struct distinct *d, uint32_t row)
{
    size_t i = (size_t)((row * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & d->mask;

    while (d->slots[i] != 0 && d->slots[i] != row + 1)
        i = (i + 1) & d->mask;
    d->count += d->slots[i] == 0;
    d->slots[i] = row + 1;
    return d->count;
}

/* ---- the guess ------------------------------------------------------------------ */

/* Of k rows, k / SAMPLE are expected in the sample. So much further down it, the k-th best of all
 * rows is hardly ever lower: three standard deviations, and some. */
static size_t sample_rank(size_t k)
{
    double expected = (double)k / SAMPLE;

    return (size_t)(expected + 3 * sqrt(expected)) + 3;
}

static bool worth_a_guess(const struct batch *b, size_t k)
{
    size_t rank = sample_rank(k);

    return rank < k && b->ix->all.rows / (8 * SAMPLE) >= rank;
}

/* The middle of the bounds of a row whose low end is known. */
static float middle(const struct batch *b, size_t lane, uint64_t key)
{
    size_t dim = b->ix->v.dim, row = key_row(key) - b->ix->all.first_row;

    return key_score(key) + screen_bound(&b->groups[lane / TILE_INTERESTS], lane % TILE_INTERESTS,
                                         tile_rows(tile_at(b->e, row / TILE_ROWS, dim), dim),
                                         row % TILE_ROWS);
}

/* What the row at the sample's rank scores. */
static float guess_alone(const struct batch *b, size_t lane)
{
    struct top *t = &b->tops[lane];

    if (t->n < t->k)
        return -INFINITY;
    top_cut(t);
    return middle(b, lane, top_least(t));
}

/* The same over n lanes: a row is counted once, with its best score. */
static float guess_together(const struct batch *b, size_t lane, size_t n, size_t rank)
{
    uint64_t *keys;
    struct distinct d = distinct_start(b->together, n * rank, &keys);
    size_t found = 0;

    for (size_t i = lane; i < lane + n; i++) {
        struct top *t = &b->tops[i];

        top_cut(t);
        for (size_t j = 0; j < t->n; j++)
            keys[found++] = hit_order(middle(b, i, t->keys[j]), key_row(t->keys[j]));
    }
    top_sort(keys, found);
    for (size_t i = 0; i < found; i++)
        if (distinct_add(&d, key_row(keys[i])) == rank)
            return key_score(keys[i]);
    return -INFINITY;
}

static void start_top(const struct batch *b, size_t lane, size_t k, float floor)
{
    const struct screen_group *g = &b->groups[lane / TILE_INTERESTS];
    size_t i = lane % TILE_INTERESTS;
    struct top *t = &b->tops[lane];

    /* Both bounds of two rows at their widest. */
    top_init(t, t->keys, k,
             2.001f *
                 (g->by_error[i] * (float)b->e->error_max + g->by_size[i] * (float)b->e->size_max));
    if (k > 0)
        t->floor = floor;
}

/* How many lanes, from this one on, belong to its query. */
static size_t lanes_of(const struct batch *b, size_t lane)
{
    return b->lanes[lane].q == NULL ? 1 : (size_t)b->lanes[lane].q->n_interests;
}

static void guess(const struct batch *b, size_t lane, size_t n)
{
    const struct index_query *q = b->lanes[lane].q;
    bool together = q != NULL && q->together;
    float of_all = together && worth_a_guess(b, q->k)
                       ? guess_together(b, lane, n, sample_rank(q->k))
                       : -INFINITY;

    for (size_t i = lane; i < lane + n; i++) {
        struct lane *l = &b->lanes[i];

        if (worth_a_guess(b, l->k))
            l->guess = together ? of_all : guess_alone(b, i);
        start_top(b, i, l->k, l->guess);
    }
}

static void make_guesses(const struct batch *b)
{
    bool any = false;

    for (size_t lane = 0; lane < b->n_lanes; lane++) {
        size_t k = b->lanes[lane].k;
        bool worth = worth_a_guess(b, k);

        start_top(b, lane, worth ? sample_rank(k) : 0, -INFINITY);
        any = any || worth;
    }
    for (size_t lane = 0; any && lane < b->n_lanes; lane += TILE_INTERESTS)
        screen_tiles(b, lane, 0, b->e->n_tiles, SAMPLE);
    for (size_t lane = 0, n; lane < b->n_lanes; lane += n) {
        n = lanes_of(b, lane);
        guess(b, lane, n);
    }
}

/* Scores what is left of a lane; false when its guess was too high. */
static bool settle(const struct batch *b, size_t lane)
{
    struct lane *l = &b->lanes[lane];
    struct top *t = &b->tops[lane];

    rescore(b, lane);
    l->done = l->guess == -INFINITY || l->q->late ||
              (t->n == t->k && key_score(top_least(t)) >= l->guess);
    return l->done;
}

/* The same for the lanes of a query that has one guess: k rows must have reached it. Others that
 * passed, but did not reach it, do not stay: some like them were thrown out. */
static void settle_together(const struct batch *b, size_t lane, size_t n)
{
    const struct index_query *q = b->lanes[lane].q;
    struct distinct d = distinct_start(b->together, n * q->k, NULL);
    size_t reached = 0;

    for (size_t i = lane; i < lane + n; i++) {
        struct top *t = &b->tops[i];
        uint64_t least = q->late ? 0 : hit_order(b->lanes[i].guess, UINT32_MAX);
        size_t kept = 0;

        rescore(b, i);
        for (size_t j = 0; j < t->n; j++)
            if (t->keys[j] >= least) {
                reached = distinct_add(&d, key_row(t->keys[j]));
                t->keys[kept++] = t->keys[j];
            }
        t->n = kept;
    }
    for (size_t i = lane; i < lane + n; i++)
        b->lanes[i].done = q->late || reached >= q->k;
}

/* Searches again, without a guess, but from a floor that k rows are known to reach. What was found
 * is set aside, in the room behind the top's. */
static void start_again(const struct batch *b, size_t lane)
{
    struct lane *l = &b->lanes[lane];
    struct top *t = &b->tops[lane];

    l->n_aside = t->n;
    memcpy(t->keys + top_room(l->k), t->keys, t->n * sizeof *t->keys);
    l->guess = -INFINITY;
    start_top(b, lane, l->k, l->k > 0 && t->n == l->k ? key_score(top_least(t)) : -INFINITY);
}

/* False when some of the query's lanes have to be searched again. */
static bool settle_query(const struct batch *b, size_t lane, size_t n)
{
    const struct index_query *q = b->lanes[lane].q;
    bool done = true, together = false;

    for (size_t i = lane; i < lane + n; i++)
        together = together || (q != NULL && q->together && b->lanes[i].guess > -INFINITY);
    if (together)
        settle_together(b, lane, n);
    for (size_t i = lane; i < lane + n; i++)
        if (together ? !b->lanes[i].done : !settle(b, i)) {
            start_again(b, i);
            done = false;
        }
    return done;
}

static void search_lanes(const struct batch *b)
{
    bool again = false;

    make_guesses(b);
    screen_all(b);
    for (size_t lane = 0, n; lane < b->n_lanes; lane += n) {
        n = lanes_of(b, lane);
        again = !settle_query(b, lane, n) || again;
    }
    if (!again)
        return;
    screen_all(b);
    for (size_t lane = 0; lane < b->n_lanes; lane++)
        if (!b->lanes[lane].done) {
            settle(b, lane);
            top_join(&b->tops[lane], b->tops[lane].keys + top_room(b->lanes[lane].k),
                     b->lanes[lane].n_aside);
        }
}

/* ---- a batch's queries ---------------------------------------------------------- */

static size_t wanted(const struct index_query *q, const float *interest, size_t dim)
{
    return isfinite(norm(interest, dim)) ? q->k : 0;
}

static void add_lane(struct batch *b, struct index_query *q, const float *interest, uint64_t *keys)
{
    size_t dim = b->ix->v.dim, lane = b->n_lanes++, within = lane % TILE_INTERESTS;
    size_t k = q != NULL ? wanted(q, interest, dim) : 0;
    struct screen_group *g = &b->groups[lane / TILE_INTERESTS];

    g->words = b->words + lane / TILE_INTERESTS * screen_words(dim);
    screen_pack(g, within, k > 0 ? interest : NULL, dim);
    b->lanes[lane] = (struct lane){interest, q, k, -INFINITY, false, 0};
    b->tops[lane].keys = keys;
}

/* Screens those queries of the batch that can be, together. */
static void search_tiles(struct batch *b, struct index_query *q, size_t n)
{
    uint64_t *keys = b->keys;
    size_t lane = 0;

    for (size_t i = 0; i < n; i++) {
        int interests = can_screen(b->ix, &q[i]) ? q[i].n_interests : 0;

        for (int j = 0; j < interests; j++, keys += top_room(q[i].k) + q[i].k)
            add_lane(b, &q[i], q[i].interests + (size_t)j * b->ix->v.dim, keys);
    }
    while (b->n_lanes % TILE_INTERESTS != 0)
        add_lane(b, NULL, NULL, NULL);
    search_lanes(b);
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
    size_t interests = TILE_INTERESTS - 1, keys = 0, most = 1;

    for (size_t i = 0; i < n; i++) {
        interests += (size_t)q[i].n_interests;
        keys += (size_t)q[i].n_interests * (top_room(q[i].k) + q[i].k);
        if (q[i].together && most < (size_t)q[i].n_interests * q[i].k)
            most = (size_t)q[i].n_interests * q[i].k;
    }
    b.lanes = scratch_room(s, ROOM_LANES, interests, sizeof *b.lanes);
    b.tops = scratch_room(s, ROOM_TOPS, interests, sizeof *b.tops);
    b.keys = scratch_room(s, ROOM_KEYS, keys, sizeof *b.keys);
    b.groups = scratch_room(s, ROOM_GROUPS, interests / TILE_INTERESTS, sizeof *b.groups);
    b.words = scratch_room(s, ROOM_WORDS, interests / TILE_INTERESTS * screen_words(ix->v.dim),
                           sizeof *b.words);
    b.together = scratch_room(s, ROOM_TOGETHER, distinct_room(most), 1);
    if (b.lanes == NULL || b.tops == NULL || b.keys == NULL || b.groups == NULL ||
        b.words == NULL || b.together == NULL) {
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
