/* One walk through a graph for all interests of a query, beside lists of their own and beside every
 * row scored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "random_fixture.h"
#include "recalld/index.h"
#include "recalld/vec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROWS 12000 /* without the padding row 0 */
#define DIM 32
#define USERS 40
#define INTERESTS 4
#define K 60
#define SHARDS 2
#define EFFORT 60

/* ---- a catalogue, its graphs, and users ------------------------------------------------ */

static struct {
    float *items; /* (ROWS + 1, DIM): unit vectors in clusters */
    struct vectors v;
    char dir[64], paths[SHARDS][80];
    struct index *ix;
    struct index_scratch *scratch;
    float interests[USERS][INTERESTS * DIM];
} cat;

static void near(float *out, const float *x, float spread)
{
    for (size_t d = 0; d < DIM; d++)
        out[d] = x[d] + spread * noise();
    vec_normalise(out, out, DIM, 1e-9f);
}

static void make_items(void)
{
    static float centres[400][DIM];

    for (size_t i = 0; i < ARRAY_LEN(centres); i++)
        for (size_t d = 0; d < DIM; d++)
            centres[i][d] = noise();
    cat.items = xcalloc((ROWS + 1) * DIM, sizeof *cat.items);
    for (size_t row = 1; row <= ROWS; row++)
        near(cat.items + row * DIM, centres[any(ARRAY_LEN(centres))], 1.0f);
    cat.v = (struct vectors){cat.items, ROWS + 1, DIM};
    for (size_t u = 0; u < USERS; u++)
        for (size_t i = 0; i < INTERESTS; i++)
            near(cat.interests[u] + i * DIM, cat.items + (1 + any(ROWS)) * DIM, 0.2f);
}

static int set_up(void **state)
{
    struct index_shard shards[SHARDS];
    struct index_spec spec = {.engine = "faiss",
                              .factory = "HNSW16",
                              .effort = EFFORT,
                              .shards = shards,
                              .n_shards = SHARDS};
    struct err err = ERR_INIT;

    (void)state;
    seed = 7;
    make_items();
    strcpy(cat.dir, "/tmp/recalld-together-XXXXXX");
    if (mkdtemp(cat.dir) == NULL)
        return -1;
    for (uint32_t i = 0; i < SHARDS; i++) {
        snprintf(cat.paths[i], sizeof cat.paths[i], "%s/%u.faiss", cat.dir, (unsigned)i);
        shards[i] = (struct index_shard){cat.paths[i], 1 + i * ROWS / SHARDS, ROWS / SHARDS};
        if (index_build_shard(shards[i].path, "HNSW16", &cat.v, shards[i].first_row, shards[i].rows,
                              1, NULL, NULL, &err) == -1)
            return -1;
    }
    cat.ix = index_open(&spec, &cat.v, &err);
    cat.scratch = index_scratch_new();
    return cat.ix == NULL ? -1 : 0;
}

static int tear_down(void **state)
{
    (void)state;
    index_free(cat.ix);
    index_scratch_free(cat.scratch);
    free(cat.items);
    for (size_t i = 0; i < SHARDS; i++)
        unlink(cat.paths[i]);
    return rmdir(cat.dir);
}

/* ---- queries --------------------------------------------------------------------------- */

static struct index_query new_query(size_t user, size_t k)
{
    return (struct index_query){.interests = cat.interests[user],
                                .n_interests = INTERESTS,
                                .k = k,
                                .effort = 1,
                                .together = true,
                                .from = xcalloc(k, 1),
                                .hits = xcalloc(INTERESTS * k, sizeof(struct hit)),
                                .found = xcalloc(INTERESTS, sizeof(size_t))};
}

static void free_query(struct index_query *q)
{
    free(q->from);
    free(q->hits);
    free(q->found);
}

static void search(struct index_query *q)
{
    index_search(cat.ix, cat.scratch, q, 1);
    assert_int_equal(q->shards_failed, 0);
}

static int larger_first(const void *pa, const void *pb)
{
    uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;

    return a < b ? 1 : a > b ? -1 : 0;
}

static bool has_row(const uint64_t *keys, size_t n, uint64_t key)
{
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)keys[i] == (uint32_t)key)
            return true;
    return false;
}

/* The k best rows of an answer, whether it is joined or lists; returns how many there are. */
static size_t answer_of(const struct index_query *q, uint64_t *out)
{
    size_t lists = q->joined ? 1 : INTERESTS, n = 0, kept = 0;
    uint64_t *all = xcalloc(INTERESTS * q->k, sizeof *all);

    for (size_t i = 0; i < lists; i++)
        for (size_t j = 0; j < q->found[i]; j++, n++)
            all[n] = hit_order(q->hits[i * q->k + j].score, q->hits[i * q->k + j].row);
    qsort(all, n, sizeof *all, larger_first);
    for (size_t i = 0; i < n && kept < q->k; i++)
        if (!has_row(out, kept, all[i]))
            out[kept++] = all[i];
    free(all);
    return kept;
}

/* What the twin answers. */
static size_t truth_of(const struct index_query *q, uint64_t *out)
{
    struct index_query twin = new_query(0, q->k);
    size_t n;

    twin.interests = q->interests;
    twin.filter = q->filter;
    index_search_brute(&cat.v, 1, ROWS, &twin, 1);
    n = answer_of(&twin, out);
    free_query(&twin);
    return n;
}

/* The share of the true answer. */
static double share(const struct index_query *q)
{
    uint64_t *mine = xcalloc(q->k, sizeof *mine), *truth = xcalloc(q->k, sizeof *truth);
    size_t n = answer_of(q, mine), wanted = truth_of(q, truth), both = 0;

    for (size_t i = 0; i < wanted; i++)
        both += has_row(mine, n, truth[i]);
    free(mine);
    free(truth);
    return (double)both / (double)wanted;
}

/* The mean over all users. */
static double recall(bool together, double effort)
{
    double sum = 0;

    for (size_t u = 0; u < USERS; u++) {
        struct index_query q = new_query(u, K);

        q.together = together;
        q.effort = effort;
        search(&q);
        assert_true(q.joined == together);
        sum += share(&q);
        free_query(&q);
    }
    return sum / USERS;
}

/* In order, no row twice, each with the score of the interest it suits best. */
static void assert_joined(const struct index_query *q)
{
    assert_true(q->joined);
    assert_true(q->found[0] <= q->k);
    for (size_t i = 0; i < q->found[0]; i++) {
        const struct hit *h = &q->hits[i];
        const float *x = cat.items + (size_t)h->row * DIM;
        float best = -INFINITY;

        for (size_t k = 0; k < INTERESTS; k++)
            best = fmaxf(best, vec_dot(q->interests + k * DIM, x, DIM));
        assert_true(h->row >= 1 && h->row <= ROWS);
        assert_true(h->score == best);
        assert_true(vec_dot(q->interests + q->from[i] * DIM, x, DIM) == best);
        assert_true(i == 0 || hit_order(h[-1].score, h[-1].row) > hit_order(h->score, h->row));
        assert_true(q->filter == NULL || filter_has(q->filter, h->row));
    }
}

/* Every n-th row. */
static struct row_filter *every(uint32_t nth)
{
    struct err err = ERR_INIT;
    struct row_filter *f = filter_new(ROWS + 1, &err);
    uint32_t *list = xcalloc(ROWS, sizeof *list);
    const uint32_t *lists[] = {list};
    size_t n = 0;

    for (uint32_t row = 1; row <= ROWS; row += nth)
        list[n++] = row;
    filter_any(f, lists, &n, 1);
    free(list);
    return f;
}

/* ---- tests ----------------------------------------------------------------------------- */

/* With an effort below the rows wanted, lists hold more than was looked from. */
static void one_walk_finds_what_a_walk_for_each_interest_does(void **state)
{
    static const double efforts[] = {0.5, 1, 2, 4};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(efforts); i++) {
        double joined = recall(true, efforts[i]), apart = recall(false, efforts[i]);

        if (joined < apart - (efforts[i] < 1 ? 0.08 : 0.02) || joined < 0.8)
            fail_msg("effort %g: %.4f together, %.4f apart", efforts[i], joined, apart);
    }
}

static void more_effort_finds_more_of_the_answer(void **state)
{
    double little = recall(true, 0.25), more = recall(true, 1), most = recall(true, 8);

    (void)state;
    if (!(little < more && more < most && most > 0.99))
        fail_msg("%.4f, %.4f, %.4f", little, more, most);
}

static void an_answer_is_in_order_and_in_full(void **state)
{
    static const size_t ks[] = {1, 2, K, 700};

    (void)state;
    for (size_t u = 0; u < USERS; u++) {
        struct index_query q = new_query(u, ks[u % ARRAY_LEN(ks)]);

        search(&q);
        assert_joined(&q);
        assert_int_equal(q.found[0], q.k);
        free_query(&q);
    }
}

static void an_answer_depends_on_nothing_but_its_query(void **state)
{
    struct index_query alone[8], batch[8];

    (void)state;
    for (size_t u = 0; u < 8; u++) {
        alone[u] = new_query(u, K + u);
        batch[u] = new_query(u, K + u);
        batch[u].together = alone[u].together = u != 3;
        search(&alone[u]);
    }
    index_search(cat.ix, cat.scratch, batch, 8);
    for (size_t u = 0; u < 8; u++) {
        size_t n = alone[u].found[0];

        assert_int_equal(batch[u].found[0], n);
        assert_memory_equal(batch[u].hits, alone[u].hits, n * sizeof(struct hit));
        if (alone[u].joined)
            assert_memory_equal(batch[u].from, alone[u].from, n);
        free_query(&alone[u]);
        free_query(&batch[u]);
    }
}

/* A wide one is walked for, a narrow one gathered. */
static void a_filter_lets_through_only_its_rows_and_enough_of_them(void **state)
{
    static const uint32_t nths[] = {2, 3, 100, 3000};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(nths); i++) {
        struct row_filter *f = every(nths[i]);
        size_t may = filter_count(f) < K ? filter_count(f) : K;
        double sum = 0;

        for (size_t u = 0; u < USERS; u++) {
            struct index_query q = new_query(u, K);

            q.filter = f;
            search(&q);
            assert_joined(&q);
            assert_int_equal(q.found[0], may);
            sum += share(&q) / USERS;
            free_query(&q);
        }
        if (sum < (nths[i] < 100 ? 0.85 : 1))
            fail_msg("every %u-th row: %.4f of the answer", (unsigned)nths[i], sum);
        filter_free(f);
    }
}

static void all_rows_are_found_when_all_are_wanted(void **state)
{
    struct index_query q = new_query(0, ROWS + 10);

    (void)state;
    search(&q);
    assert_joined(&q);
    assert_int_equal(q.found[0], ROWS);
    free_query(&q);
}

/* However late, what was found is in order, and no row comes twice; in time, it is all. */
static void a_walk_that_is_cut_short_keeps_what_it_found(void **state)
{
    struct index_query all = new_query(0, 2000), q = new_query(0, 2000);
    uint64_t start;

    (void)state;
    search(&all);
    start = clock_ns();
    search(&q);
    start = clock_ns() - start;
    for (uint64_t part = 0; part <= 40; part++) {
        q.deadline_ns = clock_ns() + start * part / 20;
        search(&q);
        assert_joined(&q);
        if (!q.late)
            assert_memory_equal(q.hits, all.hits, 2000 * sizeof *q.hits);
    }
    q.deadline_ns = 1;
    search(&q);
    assert_true(q.late);
    free_query(&all);
    free_query(&q);
}

/* It finds nothing, and takes nothing from the others. */
static void an_interest_that_is_not_finite_finds_nothing(void **state)
{
    struct index_query q = new_query(0, K);
    float interests[INTERESTS * DIM];

    (void)state;
    memcpy(interests, cat.interests[0], sizeof interests);
    interests[DIM + 3] = NAN;
    q.interests = interests;
    search(&q);
    assert_false(q.joined);
    assert_int_equal(q.found[1], 0);
    assert_int_equal(q.found[0], K);
    assert_true(share(&q) > 0.8);
    free_query(&q);
}

/* The same row is the best for all of them: it comes once, from the first. */
static void equal_interests_share_an_answer(void **state)
{
    struct index_query q = new_query(0, K);
    float interests[INTERESTS * DIM];

    (void)state;
    for (size_t i = 0; i < INTERESTS; i++)
        memcpy(interests + i * DIM, cat.interests[0], DIM * sizeof *interests);
    q.interests = interests;
    search(&q);
    assert_joined(&q);
    assert_int_equal(q.found[0], K);
    for (size_t i = 0; i < K; i++)
        assert_int_equal(q.from[i], 0);
    free_query(&q);
}

static void without_memory_the_shards_fail_and_the_next_search_succeeds(void **state)
{
    bool succeeded = false;

    (void)state;
    for (unsigned n = 1; n < 100 && !succeeded; n++) {
        struct index_query q = new_query(0, K);
        struct index_scratch *s = index_scratch_new();

        mem_test_fail_at(n);
        index_search(cat.ix, s, &q, 1);
        mem_test_fail_at(0);
        succeeded = q.shards_failed == 0;
        assert_true(succeeded || q.found[0] < K || q.shards_failed < SHARDS);
        index_search(cat.ix, s, &q, 1);
        assert_int_equal(q.shards_failed, 0);
        assert_joined(&q);
        assert_int_equal(q.found[0], K);
        index_scratch_free(s);
        free_query(&q);
    }
    assert_true(succeeded);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_walk_finds_what_a_walk_for_each_interest_does),
        cmocka_unit_test(more_effort_finds_more_of_the_answer),
        cmocka_unit_test(an_answer_is_in_order_and_in_full),
        cmocka_unit_test(an_answer_depends_on_nothing_but_its_query),
        cmocka_unit_test(a_filter_lets_through_only_its_rows_and_enough_of_them),
        cmocka_unit_test(all_rows_are_found_when_all_are_wanted),
        cmocka_unit_test(a_walk_that_is_cut_short_keeps_what_it_found),
        cmocka_unit_test(an_interest_that_is_not_finite_finds_nothing),
        cmocka_unit_test(equal_interests_share_an_answer),
        cmocka_unit_test(without_memory_the_shards_fail_and_the_next_search_succeeds),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
