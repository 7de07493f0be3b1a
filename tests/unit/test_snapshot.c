/* test_snapshot.c - counted references and the place that holds the current one. Runs under
 * ThreadSanitizer too. */
#include "recalld/base.h"

#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

/* A snapshot whose two numbers always agree, unless it is read after it was freed. */
struct pair {
    struct ref ref; /* first, so that a pointer to one is a pointer to the other */
    int a, b;
};

static _Atomic int freed;

static void pair_free(struct ref *r)
{
    struct pair *p = (struct pair *)r;

    p->a = -1;
    p->b = -2;
    free(p);
    freed++;
}

static struct ref *pair_new(int v)
{
    struct pair *p = xmalloc(sizeof *p);

    ref_init(&p->ref, pair_free);
    p->a = p->b = v;
    return &p->ref;
}

static void the_last_release_frees(void **state)
{
    struct ref *r = pair_new(1);

    (void)state;
    freed = 0;
    assert_ptr_equal(ref_acquire(r), r);
    ref_release(r);
    assert_int_equal(freed, 0);
    ref_release(r);
    assert_int_equal(freed, 1);
    assert_null(ref_acquire(NULL));
    ref_release(NULL);
}

static void a_swap_releases_the_old_and_keeps_what_readers_hold(void **state)
{
    struct cell cell;
    struct ref *held;

    (void)state;
    freed = 0;
    cell_init(&cell, pair_new(1));
    held = cell_acquire(&cell);
    cell_swap(&cell, pair_new(2));
    assert_int_equal(freed, 0);
    assert_int_equal(((struct pair *)held)->a, 1);
    ref_release(held);
    assert_int_equal(freed, 1);
    cell_swap(&cell, NULL);
    assert_int_equal(freed, 2);
    assert_null(cell_acquire(&cell));
    cell_clear(&cell);
    assert_int_equal(freed, 2);
}

static void clearing_a_cell_releases_what_it_holds(void **state)
{
    struct cell cell;

    (void)state;
    freed = 0;
    cell_init(&cell, pair_new(1));
    cell_clear(&cell);
    assert_int_equal(freed, 1);
}

enum { READERS = 4, READS = 30000, SWAPS = 3000 };

static void *read_many(void *arg)
{
    uintptr_t torn = 0;
    int last = 0;

    for (int i = 0; i < READS; i++) {
        struct pair *p = (struct pair *)cell_acquire(arg);

        torn += p->a != p->b || p->a < last; /* never half, never back in time */
        last = p->a;
        ref_release(&p->ref);
    }
    return (void *)torn;
}

static void readers_and_a_writer_do_not_disturb_each_other(void **state)
{
    pthread_t readers[READERS];
    struct cell cell;

    (void)state;
    freed = 0;
    cell_init(&cell, pair_new(0));
    for (int i = 0; i < READERS; i++)
        pthread_create(&readers[i], NULL, read_many, &cell);
    for (int v = 1; v <= SWAPS; v++)
        cell_swap(&cell, pair_new(v));
    for (int i = 0; i < READERS; i++) {
        void *torn;

        pthread_join(readers[i], &torn);
        assert_null(torn);
    }
    assert_int_equal(freed, SWAPS);
    cell_clear(&cell);
    assert_int_equal(freed, SWAPS + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_release_frees),
        cmocka_unit_test(a_swap_releases_the_old_and_keeps_what_readers_hold),
        cmocka_unit_test(clearing_a_cell_releases_what_it_holds),
        cmocka_unit_test(readers_and_a_writer_do_not_disturb_each_other),
    };

    return cmocka_run_group_tests_name("snapshot", tests, NULL, NULL);
}
