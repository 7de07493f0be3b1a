/* Searching an index: the exact engine against its brute-force twin bit for bit, the Faiss engine
 * against recall floors, and index files that are not what they claim to be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../../src/index/codes.h"
#include "../../src/index/factory.h"
#include "../../src/index/faiss_extra.h"
#include "../../src/index/graph.h"
#include "../../src/index/screen.h"
#include "random_fixture.h"
#include "recalld/blas.h"
#include "recalld/index.h"
#include "recalld/vec.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- made-up data ------------------------------------------------------------------ */

static struct vectors new_vectors(size_t rows, size_t dim)
{
    struct vectors v = {xcalloc(rows * dim + 1, sizeof(float)), rows, dim};

    return v;
}

static float *row_of(const struct vectors *v, size_t row)
{
    return (float *)(uintptr_t)v->data + row * v->dim;
}

static void free_vectors(struct vectors *v)
{
    free((void *)(uintptr_t)v->data);
}

static struct vectors random_vectors(size_t rows, size_t dim)
{
    struct vectors v = new_vectors(rows, dim);

    for (size_t i = 0; i < rows * dim; i++)
        row_of(&v, 0)[i] = noise();
    return v;
}

/* Unit vectors around `centres` directions, as trained item vectors are. */
static struct vectors clustered_vectors(size_t rows, size_t dim, size_t centres, float spread)
{
    struct vectors c = random_vectors(centres, dim), v = new_vectors(rows, dim);

    for (size_t r = 0; r < rows; r++) {
        const float *centre = row_of(&c, any((uint32_t)centres));

        for (size_t d = 0; d < dim; d++)
            row_of(&v, r)[d] = centre[d] + spread * noise();
        vec_normalise(row_of(&v, r), row_of(&v, r), dim, 1e-9f);
    }
    free_vectors(&c);
    return v;
}

/* Interests that lie between an item and some noise. */
static float *interests_near(const struct vectors *v, int n, float spread)
{
    float *q = xcalloc((size_t)n * v->dim, sizeof *q);

    for (int i = 0; i < n; i++) {
        float *x = q + (size_t)i * v->dim;

        for (size_t d = 0; d < v->dim; d++)
            x[d] = spread * noise();
        vec_axpy(x, 1, row_of(v, any((uint32_t)v->rows)), v->dim);
        vec_normalise(x, x, v->dim, 1e-9f);
    }
    return q;
}

static struct index_query new_query(const float *interests, int n, size_t k)
{
    struct index_query q = {.interests = interests, .n_interests = n, .k = k, .effort = 1};

    q.hits = xcalloc((size_t)n * k + 1, sizeof *q.hits);
    q.found = xcalloc((size_t)n + 1, sizeof *q.found);
    q.from = xcalloc(k + 1, sizeof *q.from);
    return q;
}

static void free_query(struct index_query *q)
{
    free(q->hits);
    free(q->found);
    free(q->from);
}

/* About one row in `one_in`. */
static struct row_filter *random_filter(size_t rows, uint32_t one_in)
{
    struct err err = ERR_INIT;
    struct row_filter *f = filter_new(rows, &err);
    uint32_t *list = xcalloc(rows + 1, sizeof *list);
    const uint32_t *lists[] = {list};
    size_t n = 0;

    assert_non_null(f);
    for (size_t r = 0; r < rows; r++)
        if (any(one_in) == 0)
            list[n++] = (uint32_t)r;
    filter_any(f, lists, &n, 1);
    free(list);
    return f;
}

static void assert_same_answer(const struct index_query *a, const struct index_query *b)
{
    for (int i = 0; i < a->n_interests; i++) {
        assert_int_equal(a->found[i], b->found[i]);
        assert_memory_equal(a->hits + (size_t)i * a->k, b->hits + (size_t)i * b->k,
                            a->found[i] * sizeof *a->hits);
    }
}

static struct index *open_exact(const struct vectors *v, uint32_t first_row, uint32_t rows,
                                size_t n_shards)
{
    struct index_shard shards[8] = {{NULL, 0, 0}};
    struct index_spec spec = {.engine = "exact", .shards = shards, .n_shards = n_shards};
    struct err err = ERR_INIT;
    struct index *ix;

    for (size_t i = 0; i < n_shards; i++) {
        shards[i].first_row = first_row + (uint32_t)(rows * i / n_shards);
        shards[i].rows = first_row + (uint32_t)(rows * (i + 1) / n_shards) - shards[i].first_row;
    }
    ix = index_open(&spec, v, &err);
    assert_string_equal(err.text, "");
    assert_non_null(ix);
    return ix;
}

static int larger_first(const void *pa, const void *pb)
{
    uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

    return a < b ? 1 : a > b ? -1 : 0;
}

/* The k best rows of all lists, each with its best score; returns how many there are. */
static size_t best_together(const struct index_query *q, uint64_t *out)
{
    size_t n = 0, kept = 0;
    uint64_t *all = xcalloc((size_t)q->n_interests * q->k + 1, sizeof *all);

    for (int i = 0; i < q->n_interests; i++)
        for (size_t j = 0; j < q->found[i]; j++) {
            const struct hit *h = &q->hits[(size_t)i * q->k + j];

            all[n++] = hit_order(h->score, h->row);
        }
    qsort(all, n, sizeof *all, larger_first);
    for (size_t i = 0; i < n && kept < q->k; i++) {
        bool seen = false;

        for (size_t j = 0; j < kept; j++)
            seen = seen || (uint32_t)out[j] == (uint32_t)all[i];
        if (!seen)
            out[kept++] = all[i];
    }
    free(all);
    return kept;
}

/* The first list of `twin` that has this hit. */
static int first_with(const struct index_query *twin, const struct hit *h)
{
    for (int i = 0; i < twin->n_interests; i++)
        for (size_t j = 0; j < twin->found[i]; j++)
            if (memcmp(&twin->hits[(size_t)i * twin->k + j], h, sizeof *h) == 0)
                return i;
    return -1;
}

/* One list of the best rows of those in `twin`. */
static void assert_joined(const struct index_query *q, const struct index_query *twin)
{
    uint64_t *best = xcalloc(q->k + 1, sizeof *best);

    assert_int_equal(q->found[0], best_together(twin, best));
    for (int i = 1; i < q->n_interests; i++)
        assert_int_equal(q->found[i], 0);
    for (size_t j = 0; j < q->found[0]; j++) {
        assert_true(hit_order(q->hits[j].score, q->hits[j].row) == best[j]);
        assert_int_equal(q->from[j], first_with(twin, &q->hits[j]));
    }
    free(best);
}

/* Together with `twin`, which holds whole lists: they begin alike, and the best are the same. */
static void assert_together(struct index_query *q, const struct index_query *twin)
{
    uint64_t *a = xcalloc(q->k + 1, sizeof *a), *b = xcalloc(q->k + 1, sizeof *b);
    size_t n = best_together(twin, b);

    assert_int_equal(best_together(q, a), n);
    assert_memory_equal(a, b, n * sizeof *a);
    for (int i = 0; i < q->n_interests; i++) {
        assert_true(q->found[i] <= twin->found[i]);
        assert_memory_equal(q->hits + (size_t)i * q->k, twin->hits + (size_t)i * q->k,
                            q->found[i] * sizeof *q->hits);
    }
    free(a);
    free(b);
}

/* Searches with the index and with the twin, and compares. */
static void assert_equals_brute(const struct index *ix, const struct vectors *v, uint32_t first_row,
                                uint32_t rows, const float *interests, int n, size_t k,
                                const struct row_filter *filter)
{
    struct index_query q = new_query(interests, n, k), twin = new_query(interests, n, k);
    struct index_scratch *s = index_scratch_new();

    q.filter = twin.filter = filter;
    index_search(ix, s, &q, 1);
    index_search_brute(v, first_row, rows, &twin, 1);
    assert_same_answer(&q, &twin);
    assert_false(q.joined);
    q.together = true;
    index_search(ix, s, &q, 1);
    if (q.joined)
        assert_joined(&q, &twin);
    else
        assert_together(&q, &twin);
    assert_false(q.late);
    assert_int_equal(q.shards_failed, 0);
    index_scratch_free(s);
    free_query(&q);
    free_query(&twin);
}

/* ---- exact ------------------------------------------------------------------------- */

/* Some rows repeat others, some are zero. */
static void make_it_awkward(struct vectors *v)
{
    for (size_t r = 0; r < v->rows; r++) {
        float *x = row_of(v, r);

        if (any(4) == 0)
            memcpy(x, row_of(v, any((uint32_t)v->rows)), v->dim * sizeof *x);
        else if (any(20) == 0)
            memset(x, 0, v->dim * sizeof *x);
    }
}

static void exact_search_equals_the_brute_twin_bit_for_bit(void **state)
{
    static const size_t ks[] = {1, 3, 10, 200, 6000};

    (void)state;
    for (int round = 0; round < 120; round++) {
        size_t rows = round % 10 == 0 ? any(20) : any(5000), dim = 1 + any(130);
        struct vectors v = random_vectors(rows + 1, dim);
        uint32_t first_row = any(2), n_rows = (uint32_t)rows + 1 - first_row;
        struct index *ix;
        float *interests;
        int n = 1 + (int)any(9);

        make_it_awkward(&v);
        ix = open_exact(&v, first_row, n_rows, 1 + any(8));
        interests = interests_near(&v, n, 0.5f);
        assert_equals_brute(ix, &v, first_row, n_rows, interests, n, ks[any(5)], NULL);
        for (uint32_t one_in = 1; one_in < 3000; one_in *= 7) {
            struct row_filter *f = random_filter(v.rows, one_in);

            assert_equals_brute(ix, &v, first_row, n_rows, interests, n, ks[any(5)], f);
            filter_free(f);
        }
        free(interests);
        index_free(ix);
        free_vectors(&v);
    }
}

#define BATCH 8

/* Interests that are all the same find each row four times, which must count once; and a catalogue
 * large enough to be guessed about. */
static void interests_taken_together_are_answered_by_one_list(void **state)
{
    struct vectors v = clustered_vectors(40000, 32, 300, 0.4f);
    struct index *ix = open_exact(&v, 0, 40000, 1);
    struct index_scratch *s = index_scratch_new();
    float *interests = interests_near(&v, 4, 0.3f);
    struct index_query q = new_query(interests, 4, 200);
    struct row_filter *f = random_filter(40000, 3);

    (void)state;
    assert_equals_brute(ix, &v, 0, 40000, interests, 4, 200, NULL);
    assert_equals_brute(ix, &v, 0, 40000, interests, 4, 200, f);
    q.together = true;
    index_search(ix, s, &q, 1);
    assert_true(q.joined);
    assert_int_equal(q.found[0], 200);
    for (int i = 1; i < 4; i++)
        memcpy(interests + (size_t)i * v.dim, interests, v.dim * sizeof *interests);
    assert_equals_brute(ix, &v, 0, 40000, interests, 4, 200, NULL);
    interests[v.dim] = NAN;
    assert_equals_brute(ix, &v, 0, 40000, interests, 4, 200, NULL);
    filter_free(f);
    free_query(&q);
    free(interests);
    index_scratch_free(s);
    index_free(ix);
    free_vectors(&v);
}

/* Few rows, many rows, few different scores, all the same, fewer rows than are wanted, and up to as
 * many interests as there can be. */
static void one_list_holds_whatever_the_rows_and_interests(void **state)
{
    static const size_t rows[] = {1, 15, 100, 1000, 1100, 3000, 5000};
    static const size_t ks[] = {1, 2, 20, 250, 1500};
    static const size_t dims[] = {1, 7, 16, 64};

    (void)state;
    for (int round = 0; round < 60; round++) {
        size_t n_rows = rows[any(7)], dim = dims[any(4)];
        struct vectors v = random_vectors(n_rows, dim);
        int n = 2 + (int)any(round % 10 == 0 ? INDEX_INTERESTS_MAX - 1 : 5);
        struct index *ix;
        float *interests;

        for (size_t i = 0; round % 3 == 1 && i < n_rows * dim; i++)
            row_of(&v, 0)[i] = (float)any(3) - 1; /* scores that are often equal */
        for (size_t i = 0; round % 15 == 2 && i < n_rows * dim; i++)
            row_of(&v, 0)[i] = 1;
        interests = interests_near(&v, n, 0.5f);
        for (size_t i = 0; round % 3 == 1 && i < (size_t)n * dim; i++)
            interests[i] = (float)any(3) - 1;
        for (int i = 1; round % 4 == 3 && i < n; i += 2)
            memcpy(interests + (size_t)i * dim, interests, dim * sizeof *interests);
        ix = open_exact(&v, 0, (uint32_t)n_rows, 1);
        for (uint32_t one_in = 0; one_in < 100; one_in = 1 + one_in * 8) {
            struct row_filter *f = one_in == 0 ? NULL : random_filter(n_rows, one_in);

            assert_equals_brute(ix, &v, 0, (uint32_t)n_rows, interests, n, ks[any(5)], f);
            filter_free(f);
        }
        free(interests);
        index_free(ix);
        free_vectors(&v);
    }
}

static void one_list_ends_at_the_deadline_and_needs_room_and_finite_interests(void **state)
{
    static const size_t rows[] = {1000, 40000};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct vectors v = clustered_vectors(rows[i], 16, 50, 0.4f);
        struct index *ix = open_exact(&v, 0, (uint32_t)rows[i], 1);
        struct index_scratch *s = index_scratch_new();
        float *interests = interests_near(&v, 3, 0.3f);
        struct index_query q = new_query(interests, 3, 200);
        uint8_t *from = q.from;

        q.together = true;
        q.deadline_ns = 1;
        index_search(ix, s, &q, 1);
        assert_true(q.late && q.joined);
        assert_int_equal(q.found[0], 0);
        q.deadline_ns = 0;
        q.from = NULL;
        index_search(ix, s, &q, 1);
        assert_false(q.joined || q.late);
        q.from = from;
        index_search(ix, s, &q, 1);
        assert_true(q.joined);
        interests[v.dim] = INFINITY;
        index_search(ix, s, &q, 1);
        assert_false(q.joined);
        free_query(&q);
        free(interests);
        index_scratch_free(s);
        index_free(ix);
        free_vectors(&v);
    }
}

static void a_batch_gives_each_query_what_it_gets_alone(void **state)
{
    struct vectors v = clustered_vectors(3000, 24, 20, 0.3f);
    struct index *ix = open_exact(&v, 1, 2999, 2);
    struct index_scratch *s = index_scratch_new();

    (void)state;
    for (size_t n = 1; n <= BATCH; n++) {
        struct index_query batch[BATCH], alone[BATCH];
        struct row_filter *f = random_filter(v.rows, 3);
        float *interests[BATCH];

        for (size_t i = 0; i < n; i++) {
            int count = 1 + (int)any(6);

            interests[i] = interests_near(&v, count, 0.3f);
            batch[i] = new_query(interests[i], count, 1 + any(300));
            alone[i] = new_query(interests[i], count, batch[i].k);
            batch[i].filter = alone[i].filter = any(2) ? f : NULL;
            batch[i].together = alone[i].together = any(2);
        }
        index_search(ix, s, batch, n);
        for (size_t i = 0; i < n; i++) {
            index_search(ix, s, &alone[i], 1);
            assert_same_answer(&batch[i], &alone[i]);
            assert_int_equal(batch[i].joined, alone[i].joined);
            if (batch[i].joined)
                assert_memory_equal(batch[i].from, alone[i].from, batch[i].found[0]);
            free_query(&batch[i]);
            free_query(&alone[i]);
            free(interests[i]);
        }
        filter_free(f);
    }
    index_scratch_free(s);
    index_free(ix);
    free_vectors(&v);
}

static void rows_that_all_score_the_same_come_in_order(void **state)
{
    struct vectors v = new_vectors(5000, 16);
    struct index *ix;
    float *interests;

    (void)state;
    for (size_t r = 0; r < v.rows; r++)
        memcpy(row_of(&v, r), row_of(&v, 0), v.dim * sizeof(float));
    for (size_t i = 0; i < v.rows * v.dim; i++)
        row_of(&v, 0)[i] = (float)(i % v.dim) / 7;
    ix = open_exact(&v, 0, 5000, 3);
    interests = interests_near(&v, 3, 0.1f);
    for (size_t k = 1; k < 5000; k = k * 3 + 7)
        assert_equals_brute(ix, &v, 0, 5000, interests, 3, k, NULL);
    free(interests);
    index_free(ix);
    free_vectors(&v);
}

/* Differences far below what the packed rows can show. */
static void nearly_equal_scores_are_told_apart(void **state)
{
    struct vectors v = random_vectors(4000, 33);
    struct index *ix;
    float *interests;

    (void)state;
    for (size_t r = 1; r < v.rows; r++)
        for (size_t d = 0; d < v.dim; d++)
            row_of(&v, r)[d] = row_of(&v, 0)[d] * (1 + 1e-6f * noise());
    ix = open_exact(&v, 0, 4000, 1);
    interests = interests_near(&v, 4, 0.5f);
    assert_equals_brute(ix, &v, 0, 4000, interests, 4, 50, NULL);
    free(interests);
    index_free(ix);
    free_vectors(&v);
}

static void very_large_and_very_small_numbers_are_exact_too(void **state)
{
    static const float scales[] = {1e-42f, 1e-30f, 1e-20f, 1e15f, 1e18f, 1e19f, 3e37f};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(scales); i++) {
        struct vectors v = random_vectors(500, 20);
        float *interests = interests_near(&v, 3, 0.5f);
        struct index *ix;

        for (size_t j = 0; j < v.rows * v.dim; j++)
            row_of(&v, 0)[j] *= scales[i];
        for (size_t j = 0; j < 2 * v.dim; j++)
            interests[j] *= scales[i];
        ix = open_exact(&v, 0, 500, 1);
        assert_equals_brute(ix, &v, 0, 500, interests, 3, 20, NULL);
        index_free(ix);
        free(interests);
        free_vectors(&v);
    }
}

/* Products near the least number there is, and bounds that are among those. */
static void products_that_vanish_are_exact_too(void **state)
{
    static const struct {
        size_t rows, dim;
        int interests;
        size_t k;
        float row, interest;
    } shapes[] = {{1652, 12, 64, 3, 1e29f, 1e-45f}, {85, 16, 5, 2, 1e-11f, 1e-34f}};

    (void)state;
    for (size_t round = 0; round < 120; round++) {
        size_t shape = round % 8 == 0 ? 0 : 1, dim = shapes[shape].dim, rows = shapes[shape].rows;
        int n = shapes[shape].interests;
        struct vectors v = random_vectors(rows, dim);
        float *interests = interests_near(&v, n, 0.5f);
        struct index *ix;

        for (size_t j = 0; j < rows * dim; j++)
            row_of(&v, 0)[j] *= shapes[shape].row;
        for (size_t j = 0; j < (size_t)n * dim; j++)
            interests[j] *= shapes[shape].interest;
        ix = open_exact(&v, 0, (uint32_t)rows, 1);
        assert_equals_brute(ix, &v, 0, (uint32_t)rows, interests, n, shapes[shape].k, NULL);
        index_free(ix);
        free(interests);
        free_vectors(&v);
    }
}

/* Near the largest numbers, rows of which some are a millionth of others: nothing on the way to a
 * small row's score may overflow. */
static void a_huge_interest_among_uneven_rows_is_exact_too(void **state)
{
    (void)state;
    for (float scale = 1e30f; scale < 3e37f; scale *= 3) {
        struct vectors v = random_vectors(600, 64);
        float *interests = interests_near(&v, 4, 0.5f);
        struct index *ix;

        for (size_t r = 0; r < v.rows; r++)
            for (size_t d = 0; d < 64; d++)
                row_of(&v, r)[d] *= r % 3 == 0 ? 1e-3f : 1e-9f;
        for (size_t j = 0; j < (size_t)4 * 64; j++)
            interests[j] *= scale;
        ix = open_exact(&v, 0, 600, 1);
        assert_equals_brute(ix, &v, 0, 600, interests, 4, 300, NULL);
        index_free(ix);
        free(interests);
        free_vectors(&v);
    }
}

static void an_interest_that_is_not_finite_finds_nothing(void **state)
{
    struct vectors v = random_vectors(100, 8);
    struct index *ix = open_exact(&v, 0, 100, 1);
    float *interests = interests_near(&v, 3, 0.5f);
    struct index_query q = new_query(interests, 3, 5);
    struct index_scratch *s = index_scratch_new();

    (void)state;
    interests[3] = NAN;
    interests[v.dim] = INFINITY;
    index_search(ix, s, &q, 1);
    assert_int_equal(q.found[0], 0);
    assert_int_equal(q.found[1], 0);
    assert_int_equal(q.found[2], 5);
    assert_equals_brute(ix, &v, 0, 100, interests, 3, 5, NULL);
    index_scratch_free(s);
    free_query(&q);
    free(interests);
    index_free(ix);
    free_vectors(&v);
}

static void a_passed_deadline_ends_the_search_and_is_told(void **state)
{
    struct vectors v = random_vectors(40000, 32);
    struct index *ix = open_exact(&v, 0, 40000, 1);
    float *interests = interests_near(&v, 2, 0.5f);
    struct index_query q[] = {new_query(interests, 2, 10), new_query(interests, 2, 10)};
    struct index_query twin = new_query(interests, 2, 10);
    struct index_scratch *s = index_scratch_new();

    (void)state;
    q[0].deadline_ns = 1;
    q[1].deadline_ns = clock_ns() + 60ull * 1000000000;
    index_search(ix, s, q, 2);
    index_search_brute(&v, 0, 40000, &twin, 1);
    assert_true(q[0].late);
    assert_int_equal(q[0].found[0], 0);
    assert_false(q[1].late);
    assert_same_answer(&q[1], &twin);
    index_scratch_free(s);
    free_query(&q[0]);
    free_query(&q[1]);
    free_query(&twin);
    free(interests);
    index_free(ix);
    free_vectors(&v);
}

/* Room for one tile and one group. */
struct screening {
    unsigned char *tile;
    struct screen_group group;
    float *interests; /* (TILE_INTERESTS, dim) */
};

static struct screening new_screening(const struct vectors *v, float size)
{
    struct screening s = {mem_try_aligned(tile_bytes(v->dim), 1), {0}, NULL};

    s.group.words = mem_try_aligned(screen_words(v->dim), sizeof *s.group.words);
    s.interests = xcalloc(TILE_INTERESTS * v->dim, sizeof *s.interests);
    assert_non_null(s.tile);
    assert_non_null(s.group.words);
    tile_pack(s.tile, v->data, v->rows, v->dim);
    for (size_t i = 0; i < TILE_INTERESTS * v->dim; i++)
        s.interests[i] = noise() * size;
    for (size_t i = 0; i < TILE_INTERESTS; i++)
        screen_pack(&s.group, i, i == 3 ? NULL : s.interests + i * v->dim, v->dim);
    memset(s.interests + 3 * v->dim, 0, v->dim * sizeof *s.interests);
    return s;
}

static void free_screening(struct screening *s)
{
    free(s->tile);
    free(s->group.words);
    free(s->interests);
}

/* Rows of very different lengths, a zero row and one with a single component among them. */
static void uneven(struct vectors *v)
{
    float *x = (float *)(uintptr_t)v->data;

    for (size_t r = 0; r < v->rows; r++)
        for (size_t d = 0; d < v->dim; d++)
            x[r * v->dim + d] *= r == 0 ? 0 : r == 1 ? (float)(d == 0) : powf(10, (float)r - 8);
}

static void the_bounds_of_a_screen_hold_the_final_score(void **state)
{
    const struct screens *const screens[] = {&screens_plain, screens_pick()};

    (void)state;
    for (size_t dim = 1; dim < 200; dim += 7) {
        struct vectors v = random_vectors(TILE_ROWS - 3, dim);
        struct screening s;
        float low[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));

        if (dim % 2 == 0)
            uneven(&v);
        s = new_screening(&v, dim % 3 == 0 ? 1e-3f : 1);
        for (size_t at = 0; at < TILE_ROWS * TILE_INTERESTS; at++) {
            size_t i = at / TILE_ROWS, r = at % TILE_ROWS;
            float score = r < v.rows ? vec_dot(s.interests + i * dim, row_of(&v, r), dim) : 0;
            float floors[TILE_INTERESTS] = {score, score, score, score};

            for (size_t f = 0; f < ARRAY_LEN(screens); f++) {
                /* The score is at most the high end, so it reaches a floor of the score itself. */
                assert_true(screens[f]->each(s.tile, &s.group, dim, floors, low) >> at & 1);
                assert_true(low[at] <= score);
            }
        }
        free_screening(&s);
        free_vectors(&v);
    }
}

/* The interests of a screening's group together, the last place filled with the first interest. */
static struct screen_joint join_screening(struct screening *s, size_t dim)
{
    struct screen_joint j = {&s->group, 1, TILE_INTERESTS, 0, 0};

    screen_pack(&s->group, 3, s->interests, dim);
    memcpy(s->interests + 3 * dim, s->interests, dim * sizeof *s->interests);
    for (size_t i = 0; i < TILE_INTERESTS; i++) {
        j.by_error = fmaxf(j.by_error, s->group.by_error[i]);
        j.by_size = fmaxf(j.by_size, s->group.by_size[i]);
    }
    return j;
}

static void the_bounds_of_a_joint_screen_hold_the_best_final_score(void **state)
{
    const struct screens *const screens[] = {&screens_plain, screens_pick()};

    (void)state;
    for (size_t dim = 1; dim < 300; dim += 7) {
        struct vectors v = random_vectors(TILE_ROWS - 3, dim);
        struct screening s;
        struct screen_joint j;
        float low[2][TILE_ROWS] __attribute__((aligned(64)));

        if (dim % 2 == 0)
            uneven(&v);
        s = new_screening(&v, dim % 3 == 0 ? 1e-3f : 1);
        j = join_screening(&s, dim);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            float best = r < v.rows ? -INFINITY : 0;

            for (size_t i = 0; r < v.rows && i < 3; i++)
                best = fmaxf(best, vec_dot(s.interests + i * dim, row_of(&v, r), dim));
            for (size_t f = 0; f < ARRAY_LEN(screens); f++) {
                assert_true(screens[f]->joint(s.tile, &j, dim, best, low[f]) >> r & 1);
                assert_true(low[f][r] <= best);
            }
            assert_memory_equal(low[0], low[1], sizeof low[0]);
            assert_int_equal(screens[0]->joint(s.tile, &j, dim, best, low[0]),
                             screens[1]->joint(s.tile, &j, dim, best, low[1]));
        }
        free_screening(&s);
        free_vectors(&v);
    }
}

/* Components of one size give the longest vectors of integers: sums of their products come near to
 * what 16 bits hold in each span, and may not wrap. */
static void screens_of_the_largest_sums_agree_and_do_not_overflow(void **state)
{
    static const size_t dims[] = {8, 60, 64, 72, 128, 4096};

    (void)state;
    for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
        size_t dim = dims[d];
        struct vectors v = random_vectors(TILE_ROWS, dim);
        struct screening s;
        struct screen_joint j;
        const float floors[TILE_INTERESTS] = {0, 0, 0, 0};
        float a[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));
        float b[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));

        for (size_t i = 0; i < dim; i++) {
            row_of(&v, 0)[i] = 1;
            row_of(&v, 1)[i] = -1;
            row_of(&v, 2)[i] = i % 4 < 2 ? 1 : -1;
        }
        s = new_screening(&v, 1);
        for (size_t i = 0; i < 3; i++) {
            memcpy(s.interests + i * dim, row_of(&v, i), dim * sizeof *s.interests);
            screen_pack(&s.group, i, s.interests + i * dim, dim);
        }
        assert_true(screens_plain.each(s.tile, &s.group, dim, floors, a) ==
                    screens_pick()->each(s.tile, &s.group, dim, floors, b));
        assert_memory_equal(a, b, sizeof a);
        for (size_t i = 0; i < 3; i++)
            for (size_t r = 0; r < 3; r++) {
                float score = vec_dot(s.interests + i * dim, row_of(&v, r), dim);

                assert_float_equal(a[i * TILE_ROWS + r], score, 0.1f * (float)dim);
            }
        j = join_screening(&s, dim);
        assert_int_equal(screens_plain.joint(s.tile, &j, dim, 0, a),
                         screens_pick()->joint(s.tile, &j, dim, 0, b));
        assert_memory_equal(a, b, TILE_ROWS * sizeof *a);
        free_screening(&s);
        free_vectors(&v);
    }
}

static void the_bounds_of_a_screen_are_narrow(void **state)
{
    struct vectors v = random_vectors(TILE_ROWS, 64);
    struct screening s = new_screening(&v, 1);

    (void)state;
    for (size_t i = 0; i < 3; i++)
        for (size_t r = 0; r < TILE_ROWS; r++) {
            float size = vec_norm(s.interests + i * 64, 64) * vec_norm(row_of(&v, r), 64);

            assert_true(screen_bound(s.group.by_error[i], s.group.by_size[i], tile_rows(s.tile, 64),
                                     r) < 0.04f * size);
        }
    free_screening(&s);
    free_vectors(&v);
}

static void all_screens_agree_to_the_bit(void **state)
{
    (void)state;
    for (size_t dim = 1; dim < 300; dim += 11) {
        struct vectors v = random_vectors(TILE_ROWS, dim);
        struct screening s = new_screening(&v, 1);
        const float floors[TILE_INTERESTS] = {0, -INFINITY, INFINITY, NAN};
        float a[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));
        float b[TILE_ROWS * TILE_INTERESTS] __attribute__((aligned(64)));
        uint64_t mask = screens_plain.each(s.tile, &s.group, dim, floors, a);

        assert_true(mask == screens_pick()->each(s.tile, &s.group, dim, floors, b));
        assert_memory_equal(a, b, sizeof a);
        assert_true((mask >> TILE_ROWS) == 0xffff); /* all, none, none */
        free_screening(&s);
        free_vectors(&v);
    }
}

/* The engine looks at one tile in 16 first. Here those hold all that is near one interest, which is
 * less than is asked for: what the engine expects of the other tiles is not there. */
static void a_sample_that_misleads_costs_nothing_but_time(void **state)
{
    struct vectors v = random_vectors(60000, 24);
    float *interests = interests_near(&v, 4, 0.3f);
    struct index *ix;

    (void)state;
    for (size_t n = 0; n < 80; n++) {
        float *x = row_of(&v, n * TILE_ROWS * 16 + n % TILE_ROWS);

        memset(x, 0, 24 * sizeof *x);
        vec_axpy(x, 10 + (float)n / 100, interests + 24, 24);
    }
    ix = open_exact(&v, 0, 60000, 1);
    assert_equals_brute(ix, &v, 0, 60000, interests, 4, 100, NULL);
    assert_equals_brute(ix, &v, 0, 60000, interests, 4, 3, NULL);
    assert_equals_brute(ix, &v, 0, 60000, interests, 4, 5000, NULL);
    index_free(ix);
    free(interests);
    free_vectors(&v);
}

/* As above, with deadlines from none of the work to all of it, wherever they fall: once the first
 * pass has found the best, the second does not lose it. */
static void a_deadline_in_the_second_pass_keeps_what_the_first_found(void **state)
{
    struct vectors v = random_vectors(200000, 24);
    float *interests = interests_near(&v, 1, 0.3f);
    struct index_query q = new_query(interests, 1, 100), twin = new_query(interests, 1, 100);
    struct index_scratch *s = index_scratch_new();
    struct index *ix;
    uint64_t start;
    bool found = false;

    (void)state;
    for (size_t n = 0; n < 80; n++) {
        float *x = row_of(&v, 150000 / 256 * 256 + n * TILE_ROWS * 16 + n % TILE_ROWS);

        memset(x, 0, 24 * sizeof *x);
        vec_axpy(x, 10 + (float)n / 100, interests, 24);
    }
    ix = open_exact(&v, 0, 200000, 1);
    index_search_brute(&v, 0, 200000, &twin, 1);
    start = clock_ns();
    index_search(ix, s, &q, 1); /* both passes */
    start = clock_ns() - start;
    for (uint64_t part = 0; part <= 40; part++) {
        q.late = false;
        q.found[0] = 0;
        q.deadline_ns = clock_ns() + start * part / 20;
        index_search(ix, s, &q, 1);
        found = found || (q.found[0] > 0 && q.hits[0].row == twin.hits[0].row);
        if (!q.late)
            assert_same_answer(&q, &twin);
        for (size_t i = 1; i < q.found[0]; i++) /* best first, no row twice */
            assert_true(hit_order(q.hits[i - 1].score, q.hits[i - 1].row) >
                        hit_order(q.hits[i].score, q.hits[i].row));
        if (q.late && q.found[0] == 100) /* the first pass was over */
            assert_int_equal(q.hits[0].row, twin.hits[0].row);
    }
    assert_true(found);
    index_free(ix);
    index_scratch_free(s);
    free_query(&q);
    free_query(&twin);
    free(interests);
    free_vectors(&v);
}

/* Packed rows and an interest, and the places of some rows. */
static void a_code_scores_nearly_what_its_row_does_and_the_same_everywhere(void **state)
{
    enum { PROBES = 9 };

    (void)state;
    for (size_t dim = 1; dim < 300; dim += 9) {
        struct vectors v = random_vectors(20, dim);
        struct codes c = {mem_try_aligned(20, codes_stride(dim)), codes_stride(dim)};
        int8_t *room = xcalloc(PROBES * codes_stride(dim), 1);
        struct probe p[PROBES];
        float *interests = interests_near(&v, PROBES, 1), plain[24], picked[24];
        uint32_t rows[20];

        memset(row_of(&v, 0), 0, dim * sizeof(float));
        for (size_t r = 0; r < v.rows; r++) {
            codes_pack(&c, r, row_of(&v, r), dim);
            rows[r] = any(20);
        }
        for (size_t i = 0; i < PROBES; i++) {
            p[i].v = room + i * codes_stride(dim);
            probe_pack(&p[i], interests + i * dim, dim);
        }
        for (size_t n_probes = 1; n_probes <= PROBES; n_probes++) {
            for (size_t n = 1; n <= 20; n++) {
                codes_plain(&c, p, n_probes, rows, n, plain);
                codes_pick()(&c, p, n_probes, rows, n, picked);
                assert_memory_equal(plain, picked, n * sizeof *plain);
            }
            for (size_t i = 0; i < 20; i++) {
                const float *x = row_of(&v, rows[i]);
                float best = -INFINITY, size = 0;

                for (size_t k = 0; k < n_probes; k++) {
                    best = fmaxf(best, vec_dot(interests + k * dim, x, dim));
                    size = fmaxf(size, vec_norm(interests + k * dim, dim));
                }
                assert_true(fabsf(plain[i] - best) <= 0.02f * size * vec_norm(x, dim));
            }
        }
        free(c.bytes);
        free(room);
        free(interests);
        free_vectors(&v);
    }
}

/* Rows and interests at the ends of what integers hold: nothing overflows on the way. */
static void codes_of_the_largest_sums_agree_too(void **state)
{
    const size_t dim = 4096;
    struct vectors v = new_vectors(2, dim);
    struct codes c = {mem_try_aligned(2, codes_stride(dim)), dim};
    int8_t *room = xcalloc(dim, 1);
    struct probe p[2] = {{.v = room}, {.v = room}};
    const uint32_t rows[] = {0, 1};
    float plain[4], picked[4];

    (void)state;
    for (size_t d = 0; d < dim; d++) {
        row_of(&v, 0)[d] = 1;
        row_of(&v, 1)[d] = -1;
    }
    codes_pack(&c, 0, row_of(&v, 0), dim);
    codes_pack(&c, 1, row_of(&v, 1), dim);
    probe_pack(&p[0], row_of(&v, 0), dim);
    probe_pack(&p[1], row_of(&v, 0), dim);
    for (size_t n_probes = 1; n_probes <= 2; n_probes++) {
        codes_plain(&c, p, n_probes, rows, 2, plain);
        codes_pick()(&c, p, n_probes, rows, 2, picked);
        assert_memory_equal(plain, picked, 2 * sizeof *plain);
        assert_true(fabsf(plain[0] - 4096) < 0.005f * 4096);
        assert_true(fabsf(plain[1] + 4096) < 0.005f * 4096);
    }
    free(c.bytes);
    free(room);
    free_vectors(&v);
}

/* The scale of a row lies between those of the largest and the least numbers there are. */
static void codes_of_very_large_and_very_small_rows_agree_too(void **state)
{
    static const float sizes[] = {0, 1e-44f, 1e-38f, 1e-20f, 1e15f, 3e38f};
    struct vectors v = new_vectors(ARRAY_LEN(sizes), 40);
    struct codes c = {mem_try_aligned(ARRAY_LEN(sizes), codes_stride(40)), codes_stride(40)};
    struct probe p = {.v = xcalloc(codes_stride(40), 1)};
    uint32_t rows[ARRAY_LEN(sizes)];
    float plain[8], picked[8];

    (void)state;
    for (uint32_t r = 0; r < ARRAY_LEN(sizes); r++) {
        row_of(&v, r)[3] = sizes[r];
        codes_pack(&c, r, row_of(&v, r), 40);
        rows[r] = r;
    }
    row_of(&v, 0)[3] = 1;
    probe_pack(&p, row_of(&v, 0), 40);
    codes_plain(&c, &p, 1, rows, ARRAY_LEN(sizes), plain);
    codes_pick()(&c, &p, 1, rows, ARRAY_LEN(sizes), picked);
    assert_memory_equal(plain, picked, sizeof *plain * ARRAY_LEN(sizes));
    for (size_t r = 3; r < ARRAY_LEN(sizes); r++)
        assert_true(fabsf(plain[r] / sizes[r] - 1) < 0.01f);
    free(c.bytes);
    free(p.v);
    free_vectors(&v);
}

static void shards_that_do_not_fit_are_refused(void **state)
{
    struct vectors v = random_vectors(10, 4);
    struct index_shard shards[] = {{NULL, 1, 4}, {NULL, 6, 4}};
    struct index_spec spec = {.engine = "exact", .shards = shards, .n_shards = 2};
    struct err err = ERR_INIT;

    (void)state;
    assert_null(index_open(&spec, &v, &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.text, "shard 1 begins at row 6, must be 5");
    err_clear(&err);
    shards[1] = (struct index_shard){NULL, 5, 6};
    assert_null(index_open(&spec, &v, &err));
    assert_string_equal(err.text, "shard 1 ends at row 11, there are 10");
    err_clear(&err);
    spec.n_shards = 0;
    assert_null(index_open(&spec, &v, &err));
    assert_int_equal(err.code, ERR_LIMIT);
    err_clear(&err);
    spec.engine = "guess";
    assert_null(index_open(&spec, &v, &err));
    assert_string_equal(err.text, "unknown index engine guess (exact, faiss)");
    free_vectors(&v);
}

static void lack_of_memory_is_an_error_or_a_failed_shard(void **state)
{
    struct vectors v = random_vectors(100, 4);
    struct index_shard shard = {NULL, 0, 100};
    struct index_spec spec = {.engine = "exact", .shards = &shard, .n_shards = 1};
    float *interests = interests_near(&v, 2, 0.5f);
    struct index *ix;
    struct err err = ERR_INIT;

    (void)state;
    mem_test_fail_at(1);
    assert_null(index_open(&spec, &v, &err));
    assert_int_equal(err.code, ERR_NOMEM);
    for (unsigned n = 1; n <= 3; n++) {
        err_clear(&err);
        mem_test_fail_at(n);
        assert_null(filter_new(100, &err));
        assert_int_equal(err.code, ERR_NOMEM);
    }
    mem_test_fail_at(0);
    ix = open_exact(&v, 0, 100, 2);
    for (unsigned n = 1; n <= 6; n++) {
        struct index_query q = new_query(interests, 2, 5);
        struct index_scratch *s = index_scratch_new();

        mem_test_fail_at(n);
        index_search(ix, s, &q, 1);
        mem_test_fail_at(0);
        assert_int_equal(q.shards_failed, n <= 5 ? 2 : 0);
        assert_int_equal(q.found[0], n <= 5 ? 0 : 5);
        index_search(ix, s, &q, 1);
        assert_int_equal(q.shards_failed, 0);
        assert_int_equal(q.found[1], 5);
        index_scratch_free(s);
        free_query(&q);
    }
    index_free(ix);
    free(interests);
    free_vectors(&v);
}

/* ---- filters ------------------------------------------------------------------------- */

static void a_filter_is_the_union_of_its_lists_and_the_meeting_of_its_groups(void **state)
{
    static const uint32_t a[] = {1, 5, 64, 199}, b[] = {0, 5, 63}, c[] = {5, 63, 64, 100};
    const uint32_t *lists[] = {a, b}, *also[] = {c};
    const size_t lens[] = {4, 3}, also_len[] = {4};
    struct err err = ERR_INIT;
    struct row_filter *f = filter_new(200, &err);
    uint32_t has[200] = {0}, n = 0;

    (void)state;
    for (int round = 0; round < 3; round++) {
        filter_any(f, lists, lens, 2);
        assert_int_equal(filter_count(f), 6);
        filter_also_any(f, also, also_len, 1);
        assert_int_equal(filter_count(f), 3);
        for (uint32_t r = n = 0; r < 200; r++)
            if (filter_has(f, r))
                has[n++] = r;
        assert_int_equal(n, 3);
        assert_true(has[0] == 5 && has[1] == 63 && has[2] == 64);
    }
    assert_false(filter_has(f, 5000));
    filter_any(f, lists, lens, 1);
    assert_int_equal(filter_count(f), 4);
    assert_true(filter_has(f, 199) && !filter_has(f, 63));
    filter_any(f, NULL, NULL, 0);
    assert_int_equal(filter_count(f), 0);
    filter_free(f);
}

/* ---- Faiss: a small clustered catalogue ------------------------------------------------ */

#define DIM 32
#define ROWS 6001 /* row 0 is padding */
#define INTERESTS 40
#define TOP 50

static struct {
    char dir[64];
    struct vectors v;
    float *interests; /* (INTERESTS, DIM) */
    struct hit best[INTERESTS * TOP];
} cat;

static char *in_dir(const char *name)
{
    return path_join(cat.dir, name);
}

static int set_up(void **state)
{
    size_t found[INTERESTS];
    struct index_query q;

    (void)state;
    blas_single_thread();
    snprintf(cat.dir, sizeof cat.dir, "%s/recalld-index-XXXXXX", P_tmpdir);
    assert_non_null(mkdtemp(cat.dir));
    cat.v = clustered_vectors(ROWS, DIM, 150, 0.45f);
    cat.interests = interests_near(&cat.v, INTERESTS, 0.08f);
    q = (struct index_query){.interests = cat.interests,
                             .n_interests = INTERESTS,
                             .k = TOP,
                             .hits = cat.best,
                             .found = found};
    index_search_brute(&cat.v, 1, ROWS - 1, &q, 1);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free_vectors(&cat.v);
    free(cat.interests);
    return rmdir(cat.dir);
}

/* Shards of about equal size in files, built and opened. */
struct built {
    char *paths[4];
    struct index_shard shards[4];
    struct index_spec spec;
};

static void build_shards(struct built *b, const char *factory, int effort, size_t n)
{
    struct err err = ERR_INIT;

    *b = (struct built){
        .spec = {.engine = "faiss", .factory = factory, .effort = effort, .n_shards = n}};
    for (size_t i = 0; i < n; i++) {
        uint32_t first = 1 + (uint32_t)((ROWS - 1) * i / n);
        uint32_t end = 1 + (uint32_t)((ROWS - 1) * (i + 1) / n);
        char name[32];

        snprintf(name, sizeof name, "%zu.faiss", i);
        b->paths[i] = in_dir(name);
        b->shards[i] = (struct index_shard){b->paths[i], first, end - first};
        if (index_build_shard(b->paths[i], factory, &cat.v, first, end - first, 1, NULL, NULL,
                              &err) == -1)
            fail_msg("%s", err.text);
    }
}

static void remove_shards(struct built *b)
{
    for (size_t i = 0; i < b->spec.n_shards; i++) {
        unlink(b->paths[i]);
        free(b->paths[i]);
    }
}

static struct index *open_built(struct built *b)
{
    struct err err = ERR_INIT;
    struct index *ix;

    b->spec.shards = b->shards;
    ix = index_open(&b->spec, &cat.v, &err);
    assert_string_equal(err.text, "");
    assert_non_null(ix);
    return ix;
}

static double overlap(const struct hit *got, size_t n, const struct hit *want, size_t k)
{
    size_t both = 0;

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < k; j++)
            both += got[i].row == want[j].row;
    return k > 0 ? (double)both / (double)k : 1;
}

/* Four interests a request; also checks order, scores and that no row comes twice. */
static double recall(const struct index *ix, double effort)
{
    struct index_scratch *s = index_scratch_new();
    double sum = 0;

    for (int i = 0; i < INTERESTS; i += 4) {
        struct index_query q = new_query(cat.interests + (size_t)i * DIM, 4, TOP);

        q.effort = effort;
        index_search(ix, s, &q, 1);
        assert_int_equal(q.shards_failed, 0);
        for (int j = 0; j < 4; j++) {
            const struct hit *h = q.hits + (size_t)j * TOP;

            for (size_t l = 0; l < q.found[j]; l++) {
                float score = vec_dot(q.interests + (size_t)j * DIM, row_of(&cat.v, h[l].row), DIM);

                assert_memory_equal(&h[l].score, &score, sizeof score);
                assert_true(l == 0 || h[l - 1].score > h[l].score ||
                            (h[l - 1].score == h[l].score && h[l - 1].row < h[l].row));
            }
            sum += overlap(h, q.found[j], cat.best + (size_t)(i + j) * TOP, TOP);
        }
        free_query(&q);
    }
    index_scratch_free(s);
    return sum / INTERESTS;
}

static const struct {
    const char *factory;
    int effort;
    double floor; /* of recall at 50, below what is measured by a hundredth or two */
} factories[] = {
    {"Flat", 0, 1.0},          {"HNSW16", 100, 0.99},     {"HNSW16,Flat", 100, 0.99},
    {"HNSW16,SQ8", 100, 0.99}, {"IVF64,Flat", 16, 0.97},  {"IVF64,SQ8", 16, 0.97},
    {"IVF64,PQ8", 16, 0.97},   {"IVF64,PQ8x8", 16, 0.97}, {"IVF64,PQ16x4fs", 16, 0.97},
    {"PQ16x4fs", 0, 0.98},
};

static void every_factory_finds_most_of_what_is_best(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(factories); i++)
        for (size_t shards = 1; shards <= 3; shards += 2) {
            struct built b;
            struct index *ix;
            double r;

            build_shards(&b, factories[i].factory, factories[i].effort, shards);
            ix = open_built(&b);
            r = recall(ix, 1);
            if (r < factories[i].floor)
                fail_msg("%s in %zu shards: recall %.3f, floor %.3f", factories[i].factory, shards,
                         r, factories[i].floor);
            assert_true(index_memory(ix) > ROWS);
            index_free(ix);
            remove_shards(&b);
        }
}

static void more_effort_finds_more(void **state)
{
    static const struct {
        const char *factory;
        int effort;
    } tuned[] = {{"HNSW4", 60}, {"HNSW4,SQ8", 60}, {"IVF64,Flat", 4}, {"IVF64,PQ8", 4}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(tuned); i++) {
        struct built b;
        struct index *ix;
        double low, tuned_to, high;

        build_shards(&b, tuned[i].factory, tuned[i].effort, 1);
        ix = open_built(&b);
        assert_true(index_effort_applies(ix));
        low = recall(ix, 0.25);
        tuned_to = recall(ix, 1);
        high = recall(ix, 8);
        if (low > tuned_to || tuned_to + 0.01 > high)
            fail_msg("%s: recall %.3f, %.3f, %.3f", tuned[i].factory, low, tuned_to, high);
        index_free(ix);
        remove_shards(&b);
    }
}

static struct buf file_bytes(const char *path)
{
    struct err err = ERR_INIT;
    struct buf bytes = BUF_INIT;

    if (file_read(path, SIZE_MAX, &bytes, &err) == -1)
        fail_msg("%s", err.text);
    return bytes;
}

static void put_file(const char *path, const void *bytes, size_t len)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

void faiss_Index_free(struct FaissIndex_H *index); /* of the C API, whose header defines OK */

/* What Faiss' own search of the file finds of the best. */
static double faiss_recall(const char *path, int effort)
{
    struct buf bytes = file_bytes(path);
    char why[256] = "";
    struct FaissIndex_H *faiss = extra_read(bytes.p, bytes.len, why, sizeof why);
    float scores[INTERESTS * TOP];
    int64_t labels[INTERESTS * TOP];
    size_t both = 0;

    assert_non_null(faiss);
    assert_int_equal(extra_search(faiss, EXTRA_HNSW, effort, INTERESTS, cat.interests, TOP, scores,
                                  labels, why, sizeof why),
                     0);
    for (size_t i = 0; i < INTERESTS * TOP; i++)
        for (size_t j = i / TOP * TOP; j < (i / TOP + 1) * TOP; j++)
            both += labels[i] + 1 == (int64_t)cat.best[j].row;
    faiss_Index_free(faiss);
    buf_clear(&bytes);
    return (double)both / (INTERESTS * TOP);
}

static void a_graph_finds_no_less_than_faiss_does_in_it(void **state)
{
    static const int efforts[] = {50, 80, 120};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(efforts); i++) {
        struct built b;
        struct index *ix;
        double ours, theirs;

        build_shards(&b, "HNSW6", efforts[i], 1);
        ix = open_built(&b);
        ours = recall(ix, 1);
        theirs = faiss_recall(b.paths[0], efforts[i]);
        if (ours < theirs || theirs < 0.5)
            fail_msg("efSearch %d: recall %.3f, Faiss %.3f", efforts[i], ours, theirs);
        index_free(ix);
        remove_shards(&b);
    }
}

static void a_graph_takes_less_memory_than_its_file(void **state)
{
    struct built b;
    struct index *ix;
    struct buf bytes;

    (void)state;
    build_shards(&b, "HNSW16", 50, 1);
    ix = open_built(&b);
    bytes = file_bytes(b.paths[0]);
    assert_true(index_memory(ix) < bytes.len);
    assert_true(index_memory(ix) > (ROWS - 1) * (DIM + sizeof(float) + sizeof(uint32_t)));
    buf_clear(&bytes);
    index_free(ix);
    remove_shards(&b);
}

/* However late, what was found is in order, and no row comes twice; in time, it is all. */
static void a_walk_that_is_cut_short_keeps_what_it_found(void **state)
{
    struct built b;
    struct index *ix;
    struct index_scratch *s = index_scratch_new();
    struct index_query q = new_query(cat.interests, 6, 1000);
    struct index_query all = new_query(cat.interests, 6, 1000);
    uint64_t start;

    (void)state;
    build_shards(&b, "HNSW8", 1000, 1);
    ix = open_built(&b);
    index_search(ix, s, &all, 1);
    start = clock_ns();
    index_search(ix, s, &q, 1);
    start = clock_ns() - start;
    for (uint64_t part = 0; part <= 40; part++) {
        q.deadline_ns = clock_ns() + start * part / 20;
        index_search(ix, s, &q, 1);
        if (!q.late)
            assert_same_answer(&q, &all);
        for (size_t i = 0; i < 6 * q.k; i++)
            if (i % q.k > 0 && i % q.k < q.found[i / q.k])
                assert_true(hit_order(q.hits[i - 1].score, q.hits[i - 1].row) >
                            hit_order(q.hits[i].score, q.hits[i].row));
    }
    q.deadline_ns = 0;
    index_search(ix, s, &q, 1);
    assert_same_answer(&q, &all);
    index_scratch_free(s);
    index_free(ix);
    remove_shards(&b);
    free_query(&q);
    free_query(&all);
}

static void put_i32(uint8_t *at, uint32_t v)
{
    memcpy(at, &v, sizeof v);
}

/* Links that lead to rows of the right level, but to any: some often, some to themselves, none at
 * all from every third row; one in ten of all is left out. */
static void rewire(struct buf *bytes, size_t rows)
{
    struct layout_graph g;
    struct factory f;
    struct err err = ERR_INIT;

    if (layout_check("graph", bytes->p, bytes->len, row_of(&cat.v, 1), DIM, (uint32_t)rows, &f, &g,
                     &err) == -1)
        fail_msg("%s", err.text);
    for (size_t row = 0, at = 0; row < rows; row++)
        for (size_t l = 0; l < layout_levels(&g, row); l++) {
            uint32_t n, below;

            memcpy(&n, g.slots.p + 4 * (l + 1), 4);
            memcpy(&below, g.slots.p + 4 * l, 4);
            for (n -= below; n > 0; n--, at++) {
                uint32_t to = any(20) == 0 ? (uint32_t)row : any((uint32_t)rows);

                while (layout_levels(&g, to) <= l)
                    to = any((uint32_t)rows);
                put_i32((uint8_t *)(uintptr_t)g.neighbors.p + 4 * at,
                        row % 3 == 0 || any(10) == 0 ? UINT32_MAX : to);
            }
        }
}

static void a_graph_of_any_links_answers_in_full_and_no_row_twice(void **state)
{
    enum { SOME = 600 };
    static const size_t wanted[] = {1, 7, 100, SOME, SOME + 50};

    (void)state;
    for (int round = 0; round < 20; round++) {
        struct index_shard shard = {in_dir("any.faiss"), 1, SOME};
        struct index_spec spec = {
            .engine = "faiss", .factory = "HNSW4", .effort = 1, .shards = &shard, .n_shards = 1};
        struct index_scratch *s = index_scratch_new();
        struct err err = ERR_INIT;
        struct index *ix;
        struct buf bytes;

        assert_int_equal(
            index_build_shard(shard.path, "HNSW4", &cat.v, 1, SOME, 1, NULL, NULL, &err), 0);
        bytes = file_bytes(shard.path);
        rewire(&bytes, SOME);
        put_file(shard.path, bytes.p, bytes.len);
        ix = index_open(&spec, &cat.v, &err);
        assert_string_equal(err.text, "");
        for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
            for (int filtered = 0; filtered < 2; filtered++) {
                size_t k = wanted[i], may, matching = 0;
                struct index_query q = new_query(cat.interests, 3, k);
                struct row_filter *f = filtered ? random_filter(ROWS, 3) : NULL;

                q.filter = f;
                index_search(ix, s, &q, 1);
                for (uint32_t row = 1; row <= SOME; row++)
                    matching += f == NULL || filter_has(f, row);
                may = matching < k ? matching : k;
                for (size_t j = 0; j < 3; j++) {
                    const struct hit *h = q.hits + j * k;

                    assert_int_equal(q.found[j], may);
                    for (size_t l = 0; l < may; l++) {
                        assert_true(h[l].row >= 1 && h[l].row <= SOME);
                        assert_true(f == NULL || filter_has(f, h[l].row));
                        assert_true(l == 0 || hit_order(h[l - 1].score, h[l - 1].row) >
                                                  hit_order(h[l].score, h[l].row));
                    }
                }
                filter_free(f);
                free_query(&q);
            }
        index_free(ix);
        index_scratch_free(s);
        buf_clear(&bytes);
        unlink(shard.path);
        free((char *)(uintptr_t)shard.path);
    }
}

/* From one row on, of any dimension: what is not found by walking is found by looking at all. */
static void a_graph_of_few_rows_finds_them_all(void **state)
{
    static const size_t dims[] = {1, 3, 31, 33, 100};

    (void)state;
    for (size_t d = 0; d < ARRAY_LEN(dims); d++)
        for (uint32_t rows = 1; rows <= 5; rows++) {
            struct vectors v = random_vectors(rows + 1, dims[d]);
            struct index_shard shard = {in_dir("few.faiss"), 1, rows};
            struct index_spec spec = {.engine = "faiss",
                                      .factory = "HNSW8",
                                      .effort = 1,
                                      .shards = &shard,
                                      .n_shards = 1};
            struct index_scratch *s = index_scratch_new();
            float *interests = interests_near(&v, 2, 1);
            struct err err = ERR_INIT;
            struct index *ix;

            assert_int_equal(
                index_build_shard(shard.path, "HNSW8", &v, 1, rows, 1, NULL, NULL, &err), 0);
            ix = index_open(&spec, &v, &err);
            assert_string_equal(err.text, "");
            for (size_t k = rows; k <= rows + 3; k += 3) {
                struct index_query q = new_query(interests, 2, k), all = new_query(interests, 2, k);

                index_search(ix, s, &q, 1);
                index_search_brute(&v, 1, rows, &all, 1);
                assert_same_answer(&q, &all);
                free_query(&q);
                free_query(&all);
            }
            index_free(ix);
            index_scratch_free(s);
            free(interests);
            free_vectors(&v);
            unlink(shard.path);
            free((char *)(uintptr_t)shard.path);
        }
}

static void a_graph_without_memory_is_an_error_or_a_failed_shard(void **state)
{
    struct built b;
    struct index *ix = NULL;
    struct err err = ERR_INIT;

    (void)state;
    build_shards(&b, "HNSW8", 20, 1);
    b.spec.shards = b.shards;
    for (unsigned n = 1; ix == NULL; n++) {
        err_clear(&err);
        mem_test_fail_at(n);
        ix = index_open(&b.spec, &cat.v, &err);
        mem_test_fail_at(0);
        assert_true(ix != NULL || err.code == ERR_NOMEM);
        assert_true((ix != NULL) == (n > 5));
    }
    for (unsigned n = 1; n <= 12; n++) {
        struct index_query q = new_query(cat.interests, 5, 10);
        struct index_scratch *s = index_scratch_new();

        mem_test_fail_at(n);
        index_search(ix, s, &q, 1);
        mem_test_fail_at(0);
        assert_true(q.shards_failed == 1 ? q.found[4] == 0 : n > 10 && q.found[4] == 10);
        index_search(ix, s, &q, 1);
        assert_int_equal(q.shards_failed, 0);
        assert_int_equal(q.found[4], 10);
        index_scratch_free(s);
        free_query(&q);
    }
    index_free(ix);
    remove_shards(&b);
}

static void fast_scan_and_flat_have_one_effort(void **state)
{
    static const char *const fixed[] = {"Flat", "PQ16x4fs", "IVF64,PQ16x4fs"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        struct built b;
        struct index *ix;

        build_shards(&b, fixed[i], 8, 1);
        ix = open_built(&b);
        assert_false(index_effort_applies(ix));
        assert_null(index_effort_name(fixed[i]));
        assert_true(recall(ix, 0.1) == recall(ix, 10));
        index_free(ix);
        remove_shards(&b);
    }
    assert_string_equal(index_effort_name("HNSW32"), "efSearch");
    assert_string_equal(index_effort_name("IVF1024,SQ8"), "nprobe");
    assert_null(index_effort_name("LSH"));
}

/* Against the twin: all there is, rows of the filter only, nearly the same rows. */
static void assert_filtered(const struct index *ix, const char *factory, uint32_t one_in, size_t k)
{
    struct index_query q = new_query(cat.interests, 4, k), twin = new_query(cat.interests, 4, k);
    struct row_filter *f = random_filter(ROWS, one_in);
    struct index_scratch *s = index_scratch_new();
    double sum = 0;

    q.filter = twin.filter = f;
    index_search(ix, s, &q, 1);
    index_search_brute(&cat.v, 1, ROWS - 1, &twin, 1);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(q.found[i], twin.found[i]);
        for (size_t j = 0; j < q.found[i]; j++)
            assert_true(filter_has(f, q.hits[(size_t)i * k + j].row));
        sum +=
            overlap(q.hits + (size_t)i * k, q.found[i], twin.hits + (size_t)i * k, twin.found[i]);
    }
    if (sum / 4 < 0.9)
        fail_msg("%s, one row in %u: recall %.3f", factory, one_in, sum / 4);
    index_scratch_free(s);
    filter_free(f);
    free_query(&q);
    free_query(&twin);
}

static void a_filtered_search_is_never_short(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(factories); i++) {
        struct built b;
        struct index *ix;

        build_shards(&b, factories[i].factory, factories[i].effort, 2);
        ix = open_built(&b);
        for (uint32_t one_in = 1; one_in < 10000; one_in = one_in * 3 / 2 + 1) {
            assert_filtered(ix, factories[i].factory, one_in, 1);
            assert_filtered(ix, factories[i].factory, one_in, 50);
        }
        assert_filtered(ix, factories[i].factory, 1, ROWS + 100);
        index_free(ix);
        remove_shards(&b);
    }
}

static void a_shard_that_fails_leaves_the_others_answering(void **state)
{
    struct built b;
    struct index *ix;
    struct index_scratch *s = index_scratch_new();
    struct index_query q = new_query(cat.interests, 2, 10);

    (void)state;
    build_shards(&b, "IVF64,Flat", 16, 2);
    ix = open_built(&b);
    mem_test_fail_at(3); /* after keys and tops: the first shard's scores */
    index_search(ix, s, &q, 1);
    mem_test_fail_at(0);
    assert_int_equal(q.shards_failed, 1);
    assert_int_equal(q.found[0], 10);
    for (size_t i = 0; i < 10; i++)
        assert_true(q.hits[i].row >= b.shards[1].first_row);
    index_scratch_free(s);
    s = index_scratch_new();
    mem_test_fail_at(1);
    index_search(ix, s, &q, 1);
    mem_test_fail_at(0);
    assert_int_equal(q.shards_failed, 2);
    assert_int_equal(q.found[0], 0);
    index_search(ix, s, &q, 1);
    assert_int_equal(q.shards_failed, 0);
    index_scratch_free(s);
    index_free(ix);
    remove_shards(&b);
    free_query(&q);
}

static void faiss_keeps_deadlines_and_refuses_what_is_not_finite(void **state)
{
    struct built b;
    struct index *ix;
    struct index_scratch *s = index_scratch_new();
    float interests[3 * DIM];
    struct index_query q = new_query(interests, 3, 10);

    (void)state;
    memcpy(interests, cat.interests, sizeof interests);
    interests[0] = NAN;
    interests[DIM + 1] = -INFINITY;
    build_shards(&b, "HNSW16", 50, 2);
    ix = open_built(&b);
    index_search(ix, s, &q, 1);
    assert_int_equal(q.found[0], 0);
    assert_int_equal(q.found[1], 0);
    assert_int_equal(q.found[2], 10);
    assert_memory_equal(&q.hits[20], &cat.best[2 * TOP], 10 * sizeof *q.hits);
    q.deadline_ns = 1;
    index_search(ix, s, &q, 1);
    assert_true(q.late);
    assert_int_equal(q.found[2], 0);
    index_scratch_free(s);
    index_free(ix);
    remove_shards(&b);
    free_query(&q);
}

/* ---- several threads ------------------------------------------------------------------- */

struct together {
    const struct index *ix;
    const struct index_query *expected; /* (INTERESTS / 4) */
    bool same;
};

static void *search_them_all(void *arg)
{
    struct together *t = arg;
    struct index_scratch *s = index_scratch_new();

    t->same = true;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < INTERESTS / 4; i++) {
            const struct index_query *want = &t->expected[i];
            struct index_query q = new_query(want->interests, 4, TOP);

            index_search(t->ix, s, &q, 1);
            for (int j = 0; j < 4; j++)
                if (q.found[j] != want->found[j] || memcmp(q.hits + j * TOP, want->hits + j * TOP,
                                                           q.found[j] * sizeof *q.hits) != 0)
                    t->same = false;
            free_query(&q);
        }
    index_scratch_free(s);
    return NULL;
}

static void assert_same_from_four_threads(const struct index *ix)
{
    struct index_query expected[INTERESTS / 4];
    struct together t[4];
    pthread_t threads[4];
    struct index_scratch *s = index_scratch_new();

    for (int i = 0; i < INTERESTS / 4; i++)
        expected[i] = new_query(cat.interests + (size_t)i * 4 * DIM, 4, TOP);
    index_search(ix, s, expected, INTERESTS / 4);
    for (int i = 0; i < 4; i++) {
        t[i] = (struct together){ix, expected, false};
        assert_int_equal(pthread_create(&threads[i], NULL, search_them_all, &t[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_true(t[i].same);
    }
    for (int i = 0; i < INTERESTS / 4; i++)
        free_query(&expected[i]);
    index_scratch_free(s);
}

static void threads_that_search_together_get_the_same_bits(void **state)
{
    struct index *ix = open_exact(&cat.v, 1, ROWS - 1, 2);
    struct built b;

    (void)state;
    assert_same_from_four_threads(ix);
    index_free(ix);
    build_shards(&b, "HNSW16", 60, 2);
    ix = open_built(&b);
    assert_same_from_four_threads(ix);
    index_free(ix);
    remove_shards(&b);
}

/* ---- files that are not what they should be ---------------------------------------------- */

static void assert_refused(struct built *b, const struct vectors *v, enum err_code code,
                           const char *text)
{
    struct err err = ERR_INIT;
    char *whole = text[0] == ':' ? xasprintf("%s%s", b->paths[0], text) : xstrdup(text);

    b->spec.shards = b->shards;
    assert_null(index_open(&b->spec, v, &err));
    assert_string_equal(err.text, whole);
    assert_int_equal(err.code, code);
    free(whole);
}

static void an_index_of_something_else_is_refused(void **state)
{
    struct vectors narrow = random_vectors(ROWS, DIM / 2);
    struct vectors other = random_vectors(ROWS, DIM);
    struct built b;
    struct buf bytes;
    char *text;

    (void)state;
    build_shards(&b, "HNSW16", 60, 1);
    assert_refused(&b, &narrow, ERR_FORMAT, ": 32 dimensions, the vectors have 16");
    assert_refused(&b, &other, ERR_FORMAT,
                   ": vector 0 differs from the weights: the index was built from others");
    b.shards[0].rows--;
    assert_refused(&b, &cat.v, ERR_FORMAT, ": 6000 rows, must be 5999");
    b.shards[0].rows++;
    b.spec.factory = "HNSW32";
    assert_refused(&b, &cat.v, ERR_FORMAT, ": the index is not HNSW32");
    b.spec.factory = "HNSW16";
    b.spec.effort = 0;
    assert_refused(&b, &cat.v, ERR_USAGE, "index factory HNSW16 needs efSearch");
    b.spec.effort = 10;

    bytes = file_bytes(b.paths[0]);
    bytes.p[33] = 1; /* the metric: L2 */
    put_file(b.paths[0], bytes.p, bytes.len);
    assert_refused(&b, &cat.v, ERR_FORMAT, ": the metric is not inner product");
    bytes.p[33] = 0;
    put_file(b.paths[0], bytes.p, bytes.len - 1);
    text = xasprintf(": offset %zu: the file ends too early", bytes.len - (ROWS - 1) * DIM * 4);
    assert_refused(&b, &cat.v, ERR_FORMAT, text);
    free(text);
    put_file(b.paths[0], bytes.p, 3);
    assert_refused(&b, &cat.v, ERR_FORMAT, ": offset 0: the file ends too early");
    memcpy(bytes.p, "IHNp", 4);
    put_file(b.paths[0], bytes.p, bytes.len);
    assert_refused(&b, &cat.v, ERR_FORMAT,
                   ": not a Faiss index of a supported kind (Flat; HNSW<links>[,Flat|,SQ8]; "
                   "IVF<lists>,Flat|SQ8|PQ<parts>[x8]|PQ<parts>x4fs; PQ<parts>x4fs)");
    buf_clear(&bytes);
    remove_shards(&b);
    free_vectors(&narrow);
    free_vectors(&other);
}

static void a_missing_file_is_named(void **state)
{
    char *path = in_dir("missing.faiss");
    struct built b = {.paths = {path},
                      .shards = {{path, 0, ROWS}},
                      .spec = {.engine = "faiss", .factory = "Flat", .n_shards = 1}};
    struct err err = ERR_INIT;

    (void)state;
    b.spec.shards = b.shards;
    assert_null(index_open(&b.spec, &cat.v, &err));
    assert_non_null(strstr(err.text, path));
    b.spec.factory = "LSH";
    assert_refused(&b, &cat.v, ERR_USAGE,
                   "unsupported index factory LSH (Flat; HNSW<links>[,Flat|,SQ8]; "
                   "IVF<lists>,Flat|SQ8|PQ<parts>[x8]|PQ<parts>x4fs; PQ<parts>x4fs)");
    free(path);
}

/* Changes a few bytes, mostly among the first, where the sizes are. */
static void damage(struct buf *bytes)
{
    for (uint32_t n = 1 + any(3); n > 0; n--) {
        uint32_t range = any(3) == 0 ? (uint32_t)bytes->len : 400;

        bytes->p[any(range < bytes->len ? range : (uint32_t)bytes->len)] ^= (char)(1 << any(8));
    }
    if (any(8) == 0)
        bytes->len = any((uint32_t)bytes->len);
}

static void damaged_files_are_refused_or_searched_but_never_crash(void **state)
{
    struct vectors v = {cat.v.data, 600, DIM};
    char *path = in_dir("damaged.faiss");

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(factories); i++) {
        struct index_shard shard = {path, 0, 600};
        struct index_spec spec = {.engine = "faiss",
                                  .factory = factories[i].factory,
                                  .effort = 4,
                                  .shards = &shard,
                                  .n_shards = 1};
        struct err err = ERR_INIT;
        struct buf good;
        int opened = 0;

        if (index_build_shard(path, spec.factory, &v, 0, 600, 1, NULL, NULL, &err) == -1)
            fail_msg("%s", err.text);
        good = file_bytes(path);
        for (int round = 0; round < 200; round++) {
            struct buf bad = BUF_INIT;
            struct index *ix;

            buf_put(&bad, good.p, good.len);
            damage(&bad);
            put_file(path, bad.p, bad.len);
            buf_clear(&bad);
            err_clear(&err);
            ix = index_open(&spec, &v, &err);
            if (ix != NULL) {
                struct index_query q = new_query(cat.interests, 2, 20);
                struct index_scratch *s = index_scratch_new();

                index_search(ix, s, &q, 1);
                index_scratch_free(s);
                free_query(&q);
                opened++;
            } else {
                assert_true(err.code == ERR_FORMAT || err.code == ERR_NOMEM);
                assert_ptr_equal(strstr(err.text, path), err.text);
            }
            index_free(ix);
        }
        assert_true(opened < 200);
        buf_clear(&good);
    }
    unlink(path);
    free(path);
}

/* ---- building ---------------------------------------------------------------------------- */

static void only_factories_that_work_are_accepted(void **state)
{
    static const char *const good[] = {
        "Flat",       "HNSW32",      "HNSW8,Flat", "HNSW64,SQ8",       "IVF1,Flat",
        "IVF100,SQ8", "IVF100,PQ16", "IVF9,PQ8x8", "IVF4096,PQ32x4fs", "PQ8x4fs",
    };
    static const char *const wrong[] = {
        "",
        "flat",
        "HNSW",
        "HNSW0",
        "HNSW032",
        "HNSW32,",
        "HNSW32,PQ8",
        "IVF,Flat",
        "IVF10",
        "IVF10,",
        "IVF10,Flat ",
        "IVF10,PQ8x4",
        "PQ8",
        "PQ8x8",
        "IDMap,Flat",
        "IVF10,PQ8np",
        "OPQ8,IVF10,PQ8",
        "HNSW9999999999999",
    };
    struct factory f;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        assert_true(factory_parse(good[i], &f));
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
        assert_false(factory_parse(wrong[i], &f));
    assert_false(factory_parse(NULL, &f));
}

static void assert_not_built(const char *path, const char *factory, uint32_t rows,
                             enum err_code code, const char *text)
{
    struct err err = ERR_INIT;

    assert_int_equal(index_build_shard(path, factory, &cat.v, 1, rows, 1, NULL, NULL, &err), -1);
    assert_string_equal(err.text, text);
    assert_int_equal(err.code, code);
    assert_int_equal(access(path, F_OK), -1);
}

static void what_cannot_be_built_is_said(void **state)
{
    char *path = in_dir("x.faiss"), *nowhere = in_dir("none/x.faiss");
    char *text = xasprintf("%s: rows 1 to 6002 of 6001", path), *create;

    (void)state;
    assert_not_built(path, "LSH", 100, ERR_USAGE,
                     "unsupported index factory LSH (Flat; HNSW<links>[,Flat|,SQ8]; "
                     "IVF<lists>,Flat|SQ8|PQ<parts>[x8]|PQ<parts>x4fs; PQ<parts>x4fs)");
    assert_not_built(path, "IVF10,PQ7", 1000, ERR_USAGE,
                     "IVF10,PQ7: 7 parts do not divide 32 dimensions");
    assert_not_built(path, "IVF101,Flat", 100, ERR_USAGE,
                     "IVF101,Flat: more lists than rows (100)");
    assert_not_built(path, "IVF4,PQ8", 100, ERR_USAGE,
                     "IVF4,PQ8: needs 256 rows or more, there are 100");
    assert_not_built(path, "Flat", ROWS, ERR_USAGE, text);
    create = xasprintf("%s.tmp: cannot create: %s", nowhere, strerror(ENOENT));
    assert_not_built(nowhere, "Flat", 10, ERR_IO, create);
    free(create);
    free(text);
    free(path);
    free(nowhere);
}

struct heard {
    size_t calls, last, total;
};

static void hear(void *arg, size_t done, size_t total)
{
    struct heard *h = arg;

    assert_true(done > h->last);
    *h = (struct heard){h->calls + 1, done, total};
}

static void building_tells_its_progress(void **state)
{
    struct vectors v = random_vectors(25000, 4);
    char *path = in_dir("x.faiss");
    struct err err = ERR_INIT;
    struct heard h = {0, 0, 0};

    (void)state;
    assert_int_equal(index_build_shard(path, "IVF8,SQ8", &v, 0, 25000, 2, hear, &h, &err), 0);
    assert_int_equal(h.last, 25000);
    assert_int_equal(h.total, 25000);
    assert_true(h.calls >= 2);
    unlink(path);
    free(path);
    free_vectors(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_search_equals_the_brute_twin_bit_for_bit),
        cmocka_unit_test(interests_taken_together_are_answered_by_one_list),
        cmocka_unit_test(one_list_holds_whatever_the_rows_and_interests),
        cmocka_unit_test(one_list_ends_at_the_deadline_and_needs_room_and_finite_interests),
        cmocka_unit_test(a_batch_gives_each_query_what_it_gets_alone),
        cmocka_unit_test(rows_that_all_score_the_same_come_in_order),
        cmocka_unit_test(nearly_equal_scores_are_told_apart),
        cmocka_unit_test(very_large_and_very_small_numbers_are_exact_too),
        cmocka_unit_test(products_that_vanish_are_exact_too),
        cmocka_unit_test(a_huge_interest_among_uneven_rows_is_exact_too),
        cmocka_unit_test(an_interest_that_is_not_finite_finds_nothing),
        cmocka_unit_test(a_passed_deadline_ends_the_search_and_is_told),
        cmocka_unit_test(the_bounds_of_a_screen_hold_the_final_score),
        cmocka_unit_test(the_bounds_of_a_joint_screen_hold_the_best_final_score),
        cmocka_unit_test(screens_of_the_largest_sums_agree_and_do_not_overflow),
        cmocka_unit_test(the_bounds_of_a_screen_are_narrow),
        cmocka_unit_test(all_screens_agree_to_the_bit),
        cmocka_unit_test(a_sample_that_misleads_costs_nothing_but_time),
        cmocka_unit_test(a_deadline_in_the_second_pass_keeps_what_the_first_found),
        cmocka_unit_test(a_code_scores_nearly_what_its_row_does_and_the_same_everywhere),
        cmocka_unit_test(codes_of_the_largest_sums_agree_too),
        cmocka_unit_test(codes_of_very_large_and_very_small_rows_agree_too),
        cmocka_unit_test(shards_that_do_not_fit_are_refused),
        cmocka_unit_test(lack_of_memory_is_an_error_or_a_failed_shard),
        cmocka_unit_test(a_filter_is_the_union_of_its_lists_and_the_meeting_of_its_groups),
        cmocka_unit_test(every_factory_finds_most_of_what_is_best),
        cmocka_unit_test(more_effort_finds_more),
        cmocka_unit_test(a_graph_finds_no_less_than_faiss_does_in_it),
        cmocka_unit_test(a_graph_takes_less_memory_than_its_file),
        cmocka_unit_test(a_walk_that_is_cut_short_keeps_what_it_found),
        cmocka_unit_test(a_graph_of_any_links_answers_in_full_and_no_row_twice),
        cmocka_unit_test(a_graph_of_few_rows_finds_them_all),
        cmocka_unit_test(a_graph_without_memory_is_an_error_or_a_failed_shard),
        cmocka_unit_test(fast_scan_and_flat_have_one_effort),
        cmocka_unit_test(a_filtered_search_is_never_short),
        cmocka_unit_test(a_shard_that_fails_leaves_the_others_answering),
        cmocka_unit_test(faiss_keeps_deadlines_and_refuses_what_is_not_finite),
        cmocka_unit_test(threads_that_search_together_get_the_same_bits),
        cmocka_unit_test(an_index_of_something_else_is_refused),
        cmocka_unit_test(a_missing_file_is_named),
        cmocka_unit_test(damaged_files_are_refused_or_searched_but_never_crash),
        cmocka_unit_test(only_factories_that_work_are_accepted),
        cmocka_unit_test(what_cannot_be_built_is_said),
        cmocka_unit_test(building_tells_its_progress),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
