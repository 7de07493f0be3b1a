/* The three merge policies against brute-force twins, on thousands of random hit lists. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/recall/call.h"

#define ROWS 60
#define LISTS 5
#define K 30

static uint64_t seed = 7;

static unsigned any(unsigned below)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (unsigned)(seed >> 33) % below;
}

/* ---- random input -------------------------------------------------------------------- */

struct sample {
    struct hit hits[LISTS * K];
    size_t found[LISTS];
    struct merge m;
    bool excluded[ROWS];
};

static int best_first(const void *pa, const void *pb)
{
    const struct hit *a = pa, *b = pb;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Each list: distinct rows with few distinct scores (ties are common), sorted as an index does. */
static void sample_fill(struct sample *s, struct arena *a, const struct items *items)
{
    struct row_set *excluded = row_set_new(a, ROWS);

    memset(s, 0, sizeof *s);
    s->m.n_lists = 1 + (int)any(LISTS);
    s->m.k = K;
    for (int l = 0; l < s->m.n_lists; l++) {
        bool used[ROWS] = {false};

        s->found[l] = any(K + 1);
        for (size_t i = 0; i < s->found[l]; i++) {
            uint32_t row = any(ROWS);

            while (used[row])
                row = (row + 1) % ROWS;
            used[row] = true;
            s->hits[(size_t)l * K + i] = (struct hit){row, (float)any(12) / 8};
        }
        qsort(s->hits + (size_t)l * K, s->found[l], sizeof *s->hits, best_first);
    }
    for (uint32_t row = 0; row < ROWS; row++)
        if (any(6) == 0) {
            s->excluded[row] = true;
            row_set_add(excluded, row);
        }
    s->m.hits = s->hits;
    s->m.found = s->found;
    s->m.n = 1 + any(40);
    s->m.min_per_interest = any(12);
    s->m.lambda = (double)any(5) / 4;
    s->m.excluded = excluded;
    s->m.items = items;
    s->m.attribute = 0;
}

/* Sixty items; the category of some is missing, some have two. */
static struct items *catalogue(void)
{
    char text[4096] = "row\tid\tkind\n";
    struct err err = ERR_INIT;
    struct items *items;

    for (int row = 0; row < ROWS; row++) {
        size_t len = strlen(text);
        int kind = row % 7;

        if (kind == 0)
            snprintf(text + len, sizeof text - len, "%d\titem%d\t\n", row, row);
        else if (kind == 1)
            snprintf(text + len, sizeof text - len, "%d\titem%d\tk2|k3\n", row, row);
        else
            snprintf(text + len, sizeof text - len, "%d\titem%d\tk%d\n", row, row, kind);
    }
    items = items_load("items", text, strlen(text), ROWS, &err);
    assert_non_null(items);
    return items;
}

/* ---- twins ---------------------------------------------------------------------------- */

static int pick_order(const void *pa, const void *pb)
{
    const struct pick *a = pa, *b = pb;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Every allowed row once, with its best score and the first list that gave it. */
static size_t pool_twin(const struct sample *s, struct pick *pool)
{
    size_t n = 0;

    for (uint32_t row = 0; row < ROWS; row++) {
        struct pick best = {row, -1, -1};

        for (int l = 0; l < s->m.n_lists; l++)
            for (size_t i = 0; i < s->found[l]; i++)
                if (s->hits[(size_t)l * K + i].row == row &&
                    s->hits[(size_t)l * K + i].score > best.score)
                    best = (struct pick){row, s->hits[(size_t)l * K + i].score, l};
        if (best.list != -1 && !s->excluded[row])
            pool[n++] = best;
    }
    qsort(pool, n, sizeof *pool, pick_order);
    return n;
}

static size_t max_twin(const struct sample *s, struct pick *out)
{
    size_t n = pool_twin(s, out);

    return n < s->m.n ? n : s->m.n;
}

static unsigned same_category(const struct items *items, const struct pick *chosen, size_t n,
                              uint32_t row)
{
    size_t n_codes, n_other;
    const uint32_t *codes = items_values(items, 0, row, &n_codes);
    unsigned most = 0;

    for (size_t i = 0; i < n_codes; i++) {
        unsigned count = 0;

        for (size_t j = 0; j < n; j++) {
            const uint32_t *other = items_values(items, 0, chosen[j].row, &n_other);

            for (size_t o = 0; o < n_other; o++)
                count += other[o] == codes[i];
        }
        most = count > most ? count : most;
    }
    return most;
}

static size_t diverse_twin(const struct sample *s, struct pick *out)
{
    struct pick pool[ROWS];
    size_t n_pool = pool_twin(s, pool), n = 0;

    while (n < s->m.n && n_pool > 0) {
        size_t best = 0;
        double best_value = -1e9;

        for (size_t i = 0; i < n_pool; i++) {
            double value = (double)pool[i].score -
                           s->m.lambda * same_category(s->m.items, out, n, pool[i].row);

            if (value > best_value) {
                best_value = value;
                best = i;
            }
        }
        out[n++] = pool[best];
        memmove(pool + best, pool + best + 1, (n_pool - best - 1) * sizeof *pool);
        n_pool--;
    }
    return n;
}

/* ---- tests ----------------------------------------------------------------------------- */

struct fixture {
    struct arena arena;
    struct items *items;
    struct sample sample;
};

static int setup(void **state)
{
    struct fixture *f = xcalloc(1, sizeof *f);

    f->items = catalogue();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    items_free(f->items);
    arena_clear(&f->arena);
    free(f);
    return 0;
}

static void expect_same(const struct pick *want, size_t n_want, const struct pick *got,
                        size_t n_got)
{
    assert_int_equal(n_got, n_want);
    for (size_t i = 0; i < n_want; i++) {
        assert_int_equal(got[i].row, want[i].row);
        assert_true(got[i].score == want[i].score);
        assert_int_equal(got[i].list, want[i].list);
    }
}

static void against_twin(struct fixture *f, enum merge_policy policy,
                         size_t (*twin)(const struct sample *, struct pick *))
{
    struct pick want[ROWS + 1], got[ROWS + 1];

    for (int round = 0; round < 3000; round++) {
        arena_reset(&f->arena);
        sample_fill(&f->sample, &f->arena, f->items);
        f->sample.m.policy = policy;
        size_t n_want = twin(&f->sample, want);
        size_t n_got = merge_picks(&f->sample.m, &f->arena, got);
        expect_same(want, n_want, got, n_got);
    }
}

static void max_is_the_best_of_the_union(void **state)
{
    against_twin(*state, MERGE_MAX, max_twin);
}

/* The same when the index joined the lists: the twin's pool with nothing excluded is what it says.
 */
static void max_takes_a_joined_list_as_it_is_but_for_what_is_excluded(void **state)
{
    struct fixture *f = *state;

    for (int round = 0; round < 1000; round++) {
        struct sample *s = &f->sample, all;
        struct pick want[ROWS + 1], got[ROWS + 1];
        uint8_t from[ROWS];
        size_t n_want;

        arena_reset(&f->arena);
        sample_fill(s, &f->arena, f->items);
        s->m.policy = MERGE_MAX;
        if (round % 8 == 0)
            s->m.excluded = NULL;
        for (uint32_t row = 0; row < ROWS; row++)
            s->excluded[row] = s->m.excluded != NULL && (round % 9 == 0 || s->excluded[row]);
        for (uint32_t row = 0; row < ROWS && round % 9 == 0 && s->m.excluded != NULL; row++)
            row_set_add((struct row_set *)(uintptr_t)s->m.excluded, row);
        n_want = max_twin(s, want);
        all = *s;
        memset(all.excluded, 0, sizeof all.excluded);
        s->found[0] = pool_twin(&all, got);
        for (size_t i = 0; i < s->found[0]; i++) {
            s->hits[i] = (struct hit){got[i].row, got[i].score};
            from[i] = (uint8_t)got[i].list;
        }
        s->m.from = from;
        expect_same(want, n_want, got, merge_picks(&s->m, &f->arena, got));
    }
}

static void diverse_is_the_greedy_of_the_paper(void **state)
{
    against_twin(*state, MERGE_DIVERSE, diverse_twin);
}

static void diverse_without_an_attribute_is_max(void **state)
{
    struct fixture *f = *state;
    struct pick want[ROWS + 1], got[ROWS + 1];

    arena_reset(&f->arena);
    sample_fill(&f->sample, &f->arena, f->items);
    f->sample.m.policy = MERGE_DIVERSE;
    f->sample.m.attribute = -1;
    f->sample.m.lambda = 1;
    expect_same(want, max_twin(&f->sample, want), got, merge_picks(&f->sample.m, &f->arena, got));
}

/* How many allowed rows list l has in all. */
static size_t allowed_in(const struct sample *s, int l)
{
    size_t n = 0;

    for (size_t i = 0; i < s->found[l]; i++)
        n += !s->excluded[s->hits[(size_t)l * K + i].row];
    return n;
}

static void quota_leaves_every_interest_its_share_and_fills_by_score(void **state)
{
    struct fixture *f = *state;
    struct pick pool[ROWS + 1], got[ROWS + 1];

    for (int round = 0; round < 3000; round++) {
        struct sample *s = &f->sample;
        bool taken[ROWS] = {false};
        size_t per_list[LISTS] = {0};

        arena_reset(&f->arena);
        sample_fill(s, &f->arena, f->items);
        s->m.policy = MERGE_QUOTA;
        size_t share = s->m.n / (size_t)s->m.n_lists;
        size_t n_pool = pool_twin(s, pool);
        size_t n = merge_picks(&s->m, &f->arena, got);

        share = s->m.min_per_interest < share ? s->m.min_per_interest : share;
        assert_int_equal(n, n_pool < s->m.n ? n_pool : s->m.n);
        for (size_t i = 0; i < n; i++) {
            assert_false(taken[got[i].row]);
            assert_false(s->excluded[got[i].row]);
            taken[got[i].row] = true;
            per_list[got[i].list]++;
            if (i > 0)
                assert_true(pick_order(&got[i - 1], &got[i]) < 0);
        }
        /* Other lists can have kept at most (lists - 1) * share of what this one has. */
        for (int l = 0; l < s->m.n_lists; l++) {
            size_t lost = share * (size_t)(s->m.n_lists - 1);
            size_t have = allowed_in(s, l);
            size_t owed = have > lost ? have - lost : 0;

            assert_true(per_list[l] >= (owed < share ? owed : share));
        }
        /* Whatever was left out scores no better than the worst that came in by score alone. */
        if (n > 0 && share == 0)
            for (size_t i = 0; i < n_pool; i++)
                assert_true(taken[pool[i].row] || pool[i].score <= got[n - 1].score);
    }
}

static void quota_protects_a_weak_interest_that_max_would_drown(void **state)
{
    struct fixture *f = *state;
    struct hit hits[2 * 4] = {{1, 9},  {2, 8},     {3, 7},  {4, 6},
                              {11, 2}, {12, 1.5f}, {13, 1}, {14, 0.5f}};
    size_t found[2] = {4, 4}, strong = 0;
    struct merge m = {.policy = MERGE_QUOTA,
                      .n = 4,
                      .min_per_interest = 1,
                      .hits = hits,
                      .found = found,
                      .k = 4,
                      .n_lists = 2,
                      .attribute = -1};
    struct pick out[5];

    assert_int_equal(merge_picks(&m, &f->arena, out), 4);
    assert_int_equal(out[3].row, 11);
    assert_int_equal(out[3].list, 1);
    for (int i = 0; i < 4; i++)
        strong += out[i].list == 0;
    assert_int_equal(strong, 3);
    m.policy = MERGE_MAX;
    assert_int_equal(merge_picks(&m, &f->arena, out), 4);
    assert_int_equal(out[3].row, 4);
}

static void nothing_found_gives_nothing(void **state)
{
    struct fixture *f = *state;
    size_t found[1] = {0};
    struct merge m = {.n = 5, .found = found, .k = 4, .n_lists = 1, .attribute = -1};
    struct pick out[6];

    for (int policy = MERGE_MAX; policy <= MERGE_DIVERSE; policy++) {
        m.policy = (enum merge_policy)policy;
        assert_int_equal(merge_picks(&m, &f->arena, out), 0);
    }
}

static void a_row_set_holds_what_was_added_and_nothing_else(void **state)
{
    struct fixture *f = *state;
    struct row_set *s = row_set_new(&f->arena, 1000), *copy;

    for (uint32_t row = 0; row < 4000; row += 4)
        assert_true(row_set_add(s, row));
    assert_false(row_set_add(s, 0));
    assert_false(row_set_add(s, 3996));
    assert_int_equal(row_set_count(s), 1000);
    copy = row_set_copy(&f->arena, s, 10);
    assert_true(row_set_add(copy, 1));
    for (uint32_t row = 0; row < 4000; row++) {
        assert_int_equal(row_set_has(s, row), row % 4 == 0);
        assert_int_equal(row_set_has(copy, row), row % 4 == 0 || row == 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(max_is_the_best_of_the_union, setup, teardown),
        cmocka_unit_test_setup_teardown(max_takes_a_joined_list_as_it_is_but_for_what_is_excluded,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(diverse_is_the_greedy_of_the_paper, setup, teardown),
        cmocka_unit_test_setup_teardown(diverse_without_an_attribute_is_max, setup, teardown),
        cmocka_unit_test_setup_teardown(quota_leaves_every_interest_its_share_and_fills_by_score,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(quota_protects_a_weak_interest_that_max_would_drown, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(nothing_found_gives_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_set_holds_what_was_added_and_nothing_else, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
