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
 * A query that wants the k best rows of its interests together is searched for those (joint.h): a
 * row's bounds are the best of its bounds, so few rows more than k pass, not as many for each
 * interest. */
#include "joint.h"
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
    const struct screens *screens;
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
    e->screens = screens_pick();
    e->n_tiles = ((size_t)ix->all.rows + TILE_ROWS - 1) / TILE_ROWS;
    if (!mem_product(e->n_tiles, tile_bytes(ix->v.dim), &bytes) ||
        (e->tiles = mem_try_aligned(bytes, 1)) == NULL)
        return err_set(err, ERR_NOMEM, "out of memory for %u rows of %zu dimensions", ix->all.rows,
                       ix->v.dim);
    pack(e, ix);
    ix->memory = sizeof *e + bytes;
    ix->shares_search = true;
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

/* What is looked for: the k best rows of one interest or, joint, of all interests of a query. */
struct aim {
    struct index_query *q; /* NULL: the last group is not full */
    bool joint;
    const float *interests;
    size_t n_interests;      /* 1 unless joint */
    size_t group;            /* the first of its interests' */
    size_t k;                /* rows wanted; 0 = none */
    float by_error, by_size; /* the widest bound of its interests: see screen_bound */
    float guess;             /* of the k-th best score; -INFINITY = none */
    bool done;
    size_t n_aside; /* what the first of two passes found */
    struct top top;
};

struct batch {
    const struct index *ix;
    const struct exact *e;
    struct aim *aims;
    size_t n_alone, n_aims; /* those of one interest come first, four to a group */
    struct screen_group *groups;
    size_t n_groups;
    int32_t *words; /* of the groups */
    uint64_t *keys; /* room for the tops */
};

/* ---- how a query is searched ------------------------------------------------------ */

enum way { ROWS_ALONE, ROWS_JOINT, TILES_ALONE, TILES_JOINT };

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

/* Infinite or NaN when the interest is not finite. */
static double size_of(const float *interest, size_t dim)
{
    float size = vec_norm(interest, dim);

    return isfinite(size) ? (double)size : norm(interest, dim);
}

/* Scores that could overflow cannot be bounded. An interest that is not finite finds nothing. */
static enum way choose_way(const struct index *ix, const struct index_query *q)
{
    const struct exact *e = ix->state;
    bool bounded = e->size_max <= SIZE_MAX_SCREENED, finite = true, tiles, joint;

    for (int i = 0; i < q->n_interests; i++) {
        double size = size_of(q->interests + (size_t)i * ix->v.dim, ix->v.dim);

        finite = finite && isfinite(size);
        bounded = bounded && !(isfinite(size) && size * fmax(e->size_max, 1) > SIZE_MAX_SCREENED);
    }
    tiles = bounded && ix->v.dim <= SCREEN_DIM_MAX && !few_rows(ix, q);
    joint = bounded && finite && q->together && q->from != NULL && q->n_interests > 1 &&
            ix->all.rows <= JOINT_ROWS_MAX;
    return tiles ? joint ? TILES_JOINT : TILES_ALONE : joint ? ROWS_JOINT : ROWS_ALONE;
}

/* ---- final scores ------------------------------------------------------------------ */

/* How far the low end of an entry is below the middle of its bounds. */
static float bound_of(const struct batch *b, const struct aim *a, uint64_t key)
{
    size_t nth = a->joint ? joint_nth_row(key) : key_row(key) - b->ix->all.first_row;

    return screen_bound(a->by_error, a->by_size,
                        tile_rows(tile_at(b->e, nth / TILE_ROWS, b->ix->v.dim), b->ix->v.dim),
                        nth % TILE_ROWS);
}

/* Final scores for the entries [from, to). */
static void score_entries(const struct batch *b, struct aim *a, size_t from, size_t to)
{
    const struct vectors *v = &b->ix->v;
    uint64_t *keys = a->top.keys;

    if (a->joint) {
        joint_score(b->ix, a->q, keys + from, to - from);
        return;
    }
    for (size_t i = from; i < to; i++) {
        uint32_t row = key_row(keys[i]);
        float score;

        if (i + PREFETCH_AHEAD < to)
            prefetch_row(v, key_row(keys[i + PREFETCH_AHEAD]));
        score = vec_dot(a->interests, v->data + (size_t)row * v->dim, v->dim);
        keys[i] = hit_order(score, row);
    }
}

/* What high ends are compared with: a little less than the floor, because products too small for
 * float32 may be off by more than the bounds say. */
static float compared(const struct top *t)
{
    return t->floor - 4 * FLT_MIN;
}

/* Throws out, from behind the first k entries, which have their final scores, what cannot be better
 * than all of those: by each row's own bound. */
static void drop_hopeless(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;
    float kth = key_score(top_least(t, t->k)), least;
    size_t kept = t->k;

    t->floor = fmaxf(t->floor, kth);
    least = nextafterf(compared(t), -INFINITY);
    for (size_t i = t->k; i < t->n; i++)
        if (key_score(t->keys[i]) + 2.001f * bound_of(b, a, t->keys[i]) >= least)
            t->keys[kept++] = t->keys[i];
    t->n = kept;
}

/* The k best by their low ends first: what they really score narrows down which others can matter.
 */
static void rescore(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;

    top_prune(t);
    score_entries(b, a, 0, t->n < t->k ? t->n : t->k);
    if (t->n > t->k) {
        drop_hopeless(b, a);
        score_entries(b, a, t->k, t->n);
    }
    top_cut(t);
}

/* Pruning frees about half of the buffer unless very many rows score nearly the same: then their
 * final scores decide. */
static void make_room(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;

    top_prune(t);
    if (t->n > top_room(t->k) - top_room(t->k) / 4)
        rescore(b, a);
}

/* ---- tiles ------------------------------------------------------------------------- */

#define LANE_ROWS ((uint64_t)0xffff)
#define LOW_ENDS (TILE_ROWS * TILE_INTERESTS)

static bool aim_open(const struct aim *a)
{
    return a->q != NULL && !a->q->late && !a->done;
}

/* Those of the 16 rows from `first` on that exist and that the aim's query may see. */
static uint64_t visible(const struct batch *b, const struct aim *a, uint32_t first)
{
    uint32_t left = b->ix->all.first_row + b->ix->all.rows - first;
    uint64_t mask = a->q->filter != NULL ? filter_bits16(a->q->filter, first) : LANE_ROWS;

    return left < TILE_ROWS ? mask & ~(LANE_ROWS << left) : mask;
}

/* Four aims of one interest each. */
struct four {
    struct aim *aims;
    uint64_t live; /* 16 bits for each */
    bool filtered;
};

static struct four four_of(struct aim *aims)
{
    struct four f = {aims, 0, false};

    for (int i = 0; i < TILE_INTERESTS; i++)
        if (aim_open(&aims[i])) {
            f.live |= LANE_ROWS << (i * TILE_ROWS);
            f.filtered = f.filtered || aims[i].q->filter != NULL;
        }
    return f;
}

static uint64_t four_visible(const struct batch *b, const struct four *f, uint32_t first)
{
    uint32_t left = b->ix->all.first_row + b->ix->all.rows - first;
    uint64_t mask = 0;

    if (!f->filtered && left >= TILE_ROWS)
        return f->live;
    for (int i = 0; i < TILE_INTERESTS; i++)
        if (f->live >> (i * TILE_ROWS) & 1)
            mask |= visible(b, &f->aims[i], first) << (i * TILE_ROWS);
    return mask;
}

/* Every step-th of the tiles [from, to). One loop over all set bits of a tile: about one row in a
 * tile passes, and no branch could foresee for which interest. */
static void screen_four(const struct batch *b, struct aim *aims, size_t from, size_t to,
                        size_t step)
{
    size_t dim = b->ix->v.dim;
    const struct screen_group *g = &b->groups[aims->group];
    struct four f = four_of(aims);
    float low[LOW_ENDS] __attribute__((aligned(64)));
    float floors[TILE_INTERESTS];

    for (int i = 0; i < TILE_INTERESTS; i++)
        floors[i] = compared(&aims[i].top);
    for (size_t t = from; t < to; t += step) {
        uint32_t first = b->ix->all.first_row + (uint32_t)(t * TILE_ROWS);
        uint64_t mask = four_visible(b, &f, first);

        if (mask == 0)
            continue;
        mask &= b->e->screens->each(tile_at(b->e, t, dim), g, dim, floors, low);
        for (; mask != 0; mask &= mask - 1) {
            unsigned at = (unsigned)__builtin_ctzll(mask), i = at / TILE_ROWS;
            struct aim *a = &aims[i];

            if (top_full(&a->top)) {
                make_room(b, a);
                floors[i] = compared(&a->top);
            }
            top_add(&a->top, low[at], first + at % TILE_ROWS);
        }
    }
}

static void screen_joint(const struct batch *b, struct aim *a, size_t from, size_t to, size_t step)
{
    const struct screen_joint j = {&b->groups[a->group],
                                   (a->n_interests + TILE_INTERESTS - 1) / TILE_INTERESTS,
                                   a->n_interests, a->by_error, a->by_size};
    float low[TILE_ROWS] __attribute__((aligned(64)));
    float floor = compared(&a->top);

    if (!aim_open(a))
        return;
    for (size_t t = from; t < to; t += step) {
        uint32_t nth = (uint32_t)(t * TILE_ROWS);
        uint64_t mask = visible(b, a, b->ix->all.first_row + nth);

        if (mask != 0)
            mask &=
                b->e->screens->joint(tile_at(b->e, t, b->ix->v.dim), &j, b->ix->v.dim, floor, low);
        for (; mask != 0; mask &= mask - 1) {
            unsigned r = (unsigned)__builtin_ctzll(mask);

            if (top_full(&a->top)) {
                make_room(b, a);
                floor = compared(&a->top);
            }
            top_add(&a->top, low[r], joint_place(nth + r, 0));
        }
    }
}

/* Every step-th of the tiles [from, to), for all aims. */
static void screen_tiles(const struct batch *b, size_t from, size_t to, size_t step)
{
    for (size_t i = 0; i < b->n_alone; i += TILE_INTERESTS)
        screen_four(b, &b->aims[i], from, to, step);
    for (size_t i = b->n_alone; i < b->n_aims; i++)
        screen_joint(b, &b->aims[i], from, to, step);
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

    for (size_t i = 0; i < b->n_aims; i++) {
        struct index_query *q = b->aims[i].q;

        if (!aim_open(&b->aims[i]))
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
        screen_tiles(b, t, t + step < n ? t + step : n, 1);
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

static void start_top(const struct batch *b, struct aim *a, size_t k, float floor)
{
    float widest = a->by_error * (float)b->e->error_max + a->by_size * (float)b->e->size_max;

    /* Both bounds of two rows, and what products that underflow lose. */
    top_init(&a->top, a->top.keys, k, 2.001f * widest + 8 * FLT_MIN);
    if (k > 0)
        a->top.floor = floor;
}

/* What the row at the sample's rank scores. */
static float guess(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;

    if (t->n < t->k)
        return -INFINITY;
    top_cut(t);
    return key_score(top_least(t, t->n)) + bound_of(b, a, top_least(t, t->n));
}

static void make_guesses(const struct batch *b)
{
    bool any = false;

    for (size_t i = 0; i < b->n_aims; i++) {
        size_t k = b->aims[i].k;
        bool worth = worth_a_guess(b, k);

        start_top(b, &b->aims[i], worth ? sample_rank(k) : 0, -INFINITY);
        any = any || worth;
    }
    if (any)
        screen_tiles(b, 0, b->e->n_tiles, SAMPLE);
    for (size_t i = 0; i < b->n_aims; i++) {
        struct aim *a = &b->aims[i];

        if (worth_a_guess(b, a->k))
            a->guess = guess(b, a);
        start_top(b, a, a->k, a->guess);
    }
}

/* Scores what is left of an aim; false when its guess was too high. */
static bool settle(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;

    rescore(b, a);
    a->done = a->q == NULL || a->q->late || a->guess == -INFINITY ||
              (t->n == t->k && key_score(top_least(t, t->n)) >= a->guess);
    return a->done;
}

/* Searches again, without a guess, but from a floor that k rows are known to reach. What was found
 * is set aside, in the room behind the top's. */
static void start_again(const struct batch *b, struct aim *a)
{
    struct top *t = &a->top;

    a->n_aside = t->n;
    memcpy(t->keys + top_room(a->k), t->keys, t->n * sizeof *t->keys);
    a->guess = -INFINITY;
    start_top(b, a, a->k, t->n == a->k ? key_score(top_least(t, t->n)) : -INFINITY);
}

static void search_aims(const struct batch *b)
{
    bool again = false;

    make_guesses(b);
    screen_all(b);
    for (size_t i = 0; i < b->n_aims; i++)
        if (!settle(b, &b->aims[i])) {
            start_again(b, &b->aims[i]);
            again = true;
        }
    if (!again)
        return;
    screen_all(b);
    for (size_t i = 0; i < b->n_aims; i++) {
        struct aim *a = &b->aims[i];

        if (a->done)
            continue;
        settle(b, a);
        top_join(&a->top, a->top.keys + top_room(a->k), a->n_aside);
    }
}

/* ---- a batch's queries ---------------------------------------------------------- */

static size_t wanted(const struct index_query *q, const float *interest, size_t dim)
{
    return isfinite(size_of(interest, dim)) ? q->k : 0;
}

/* Room for the keys of an aim: its top, and what is set aside. */
static size_t aim_room(size_t k)
{
    return top_room(k) + k;
}

/* An aim whose first interest comes into the next group or, with `place`, into the last. */
static void add_aim(struct batch *b, struct index_query *q, const float *interests, size_t n,
                    size_t place)
{
    struct aim *a = &b->aims[b->n_aims++];
    size_t dim = b->ix->v.dim;

    *a = (struct aim){.q = q,
                      .joint = n > 1,
                      .interests = interests,
                      .n_interests = n,
                      .group = place == 0 ? b->n_groups : b->n_groups - 1,
                      .k = q == NULL ? 0
                           : n > 1   ? q->k
                                     : wanted(q, interests, dim),
                      .guess = -INFINITY};
    for (size_t i = 0; i < n || (a->joint && i % TILE_INTERESTS != 0); i++) {
        size_t at = (place + i) % TILE_INTERESTS;
        struct screen_group *g;

        if (at == 0) {
            b->groups[b->n_groups].words = b->words + b->n_groups * screen_words(dim);
            b->n_groups++;
        }
        g = &b->groups[b->n_groups - 1];
        screen_pack(g, at, a->k > 0 ? interests + (i < n ? i : 0) * dim : NULL, dim);
        a->by_error = fmaxf(a->by_error, g->by_error[at]);
        a->by_size = fmaxf(a->by_size, g->by_size[at]);
    }
    a->top.keys = b->keys;
    b->keys += q == NULL ? 0 : aim_room(q->k);
}

/* Screens those queries of the batch that can be, together. */
static void search_tiles(struct batch *b, struct index_query *q, const enum way *ways, size_t n)
{
    size_t dim = b->ix->v.dim;

    for (size_t i = 0; i < n; i++)
        for (int j = 0; ways[i] == TILES_ALONE && j < q[i].n_interests; j++)
            add_aim(b, &q[i], q[i].interests + (size_t)j * dim, 1, b->n_aims % TILE_INTERESTS);
    while (b->n_aims % TILE_INTERESTS != 0)
        add_aim(b, NULL, NULL, 1, b->n_aims % TILE_INTERESTS);
    b->n_alone = b->n_aims;
    for (size_t i = 0; i < n; i++)
        if (ways[i] == TILES_JOINT)
            add_aim(b, &q[i], q[i].interests, (size_t)q[i].n_interests, 0);
    search_aims(b);
    for (size_t i = 0; i < b->n_aims; i++) {
        struct aim *a = &b->aims[i];

        if (a->joint) {
            joint_finish(b->ix, a->q, &a->top);
        } else if (a->q != NULL) {
            size_t j = (size_t)(a->interests - a->q->interests) / dim;

            a->q->found[j] = top_finish(&a->top, a->q->hits + j * a->q->k);
        }
    }
}

/* One query by the final scores of its rows. */
static void search_rows(const struct batch *b, struct index_query *q, bool joint)
{
    const struct shard_range *all = &b->ix->all;
    struct top tops[INDEX_INTERESTS_MAX];
    const uint32_t *list = NULL;
    size_t n = all->rows;

    if (q->filter != NULL)
        list = filter_rows(q->filter, all->first_row, all->rows, &n);
    if (joint) {
        top_init(tops, b->keys, q->k, 0);
        joint_gather(b->ix, q, tops, all->first_row, list, n);
        joint_finish(b->ix, q, tops);
        return;
    }
    for (int j = 0; j < q->n_interests; j++)
        top_init(&tops[j], b->keys + (size_t)j * top_room(q->k),
                 wanted(q, q->interests + (size_t)j * b->ix->v.dim, b->ix->v.dim), 0);
    gather(&b->ix->v, q, tops, all->first_row, list, n);
    query_finish(q, tops);
}

static bool make_batch(struct batch *b, struct index_scratch *s, const struct index_query *q,
                       size_t n)
{
    size_t aims = TILE_INTERESTS - 1, groups = 1, keys = 0, words = screen_words(b->ix->v.dim);

    for (size_t i = 0; i < n; i++) {
        aims += (size_t)q[i].n_interests;
        groups += (size_t)q[i].n_interests / TILE_INTERESTS + 1;
        keys += (size_t)q[i].n_interests * aim_room(q[i].k);
    }
    b->aims = scratch_room(s, ROOM_AIMS, aims, sizeof *b->aims);
    b->keys = scratch_room(s, ROOM_KEYS, keys, sizeof *b->keys);
    b->groups = scratch_room(s, ROOM_GROUPS, groups, sizeof *b->groups);
    b->words = scratch_room(s, ROOM_WORDS, groups * words, sizeof *b->words);
    return b->aims != NULL && b->keys != NULL && b->groups != NULL && b->words != NULL;
}

static void exact_search(const struct index *ix, struct index_scratch *s, struct index_query *q,
                         size_t n)
{
    struct batch b = {.ix = ix, .e = ix->state};
    enum way *ways = scratch_room(s, ROOM_WAYS, n, sizeof *ways);

    if (ways == NULL || !make_batch(&b, s, q, n)) {
        for (size_t i = 0; i < n; i++)
            for (size_t shard = 0; shard < ix->n_shards; shard++)
                query_shard_failed(&q[i], shard, "out of memory");
        return;
    }
    for (size_t i = 0; i < n; i++) {
        ways[i] = choose_way(ix, &q[i]);
        if (ways[i] == ROWS_ALONE || ways[i] == ROWS_JOINT)
            search_rows(&b, &q[i], ways[i] == ROWS_JOINT);
    }
    search_tiles(&b, q, ways, n);
}

const struct engine engine_exact = {"exact", exact_open, exact_close, exact_search};
