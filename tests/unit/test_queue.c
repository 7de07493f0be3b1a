/* test_queue.c - the bounded queue between threads. Runs under ThreadSanitizer too. */
#include "recalld/base.h"

#include <setjmp.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void *numbered(uintptr_t n)
{
    return (void *)n; /* the queue never looks behind its pointers */
}

static void nap(long ns)
{
    nanosleep(&(struct timespec){0, ns}, NULL);
}

/* ---- one thread ---------------------------------------------------------------- */

static void items_come_out_oldest_first_round_after_round(void **state)
{
    struct queue *q = queue_new(5);
    uintptr_t in = 1, out = 1;

    (void)state;
    for (int round = 0; round < 50; round++) {
        while (in < out + 5)
            assert_true(queue_try_push(q, numbered(in++)));
        for (int i = 0; i < 2 + round % 3; i++)
            assert_ptr_equal(queue_pop(q), numbered(out++));
    }
    queue_free(q);
}

static void a_full_queue_takes_nothing_more(void **state)
{
    struct queue *q = queue_new(2);

    (void)state;
    assert_true(queue_try_push(q, numbered(1)));
    assert_true(queue_try_push(q, numbered(2)));
    assert_false(queue_try_push(q, numbered(3)));
    assert_ptr_equal(queue_pop(q), numbered(1));
    assert_true(queue_try_push(q, numbered(4)));
    queue_free(q);
}

static void idle_takers_share_what_waits(void **state)
{
    struct queue *q = queue_new(20);
    void *taken[20];
    size_t left;

    (void)state;
    for (uintptr_t i = 1; i <= 13; i++)
        assert_true(queue_try_push(q, numbered(i)));
    assert_int_equal(queue_count(q), 13);
    assert_int_equal(queue_take(q, taken, 8, 4, &left), 4); /* a quarter, rounded up */
    assert_int_equal(left, 9);
    assert_int_equal(queue_take(q, taken, 3, 1, &left), 3); /* no more than max */
    assert_ptr_equal(taken[0], numbered(5));
    assert_int_equal(queue_take(q, taken, 8, 1, &left), 6); /* the only one takes all */
    assert_ptr_equal(taken[5], numbered(13));
    assert_int_equal(left, 0);
    assert_int_equal(queue_take(q, taken, 8, 2, &left), 0);
    queue_free(q);
}

static void a_closed_queue_gives_what_it_holds_and_then_nothing(void **state)
{
    struct queue *q = queue_new(4);
    void *taken[4];
    size_t left;

    (void)state;
    for (uintptr_t i = 1; i <= 3; i++)
        assert_true(queue_try_push(q, numbered(i)));
    queue_close(q);
    assert_false(queue_try_push(q, numbered(4)));
    assert_ptr_equal(queue_pop(q), numbered(1));
    assert_int_equal(queue_take(q, taken, 1, 1, &left), 1);
    assert_ptr_equal(taken[0], numbered(2));
    assert_ptr_equal(queue_pop(q), numbered(3));
    assert_null(queue_pop(q));
    queue_free(q);
    queue_free(NULL);
}

/* ---- several threads ----------------------------------------------------------- */

struct taker {
    struct queue *q;
    pthread_t thread;
    size_t batch; /* 0 = one at a time, waiting; otherwise up to so many, as they are there */
    atomic_bool *over;
    size_t count;
    uintptr_t sum;
};

static void take(struct taker *t, void **taken, size_t n)
{
    t->count += n;
    for (size_t i = 0; i < n; i++)
        t->sum += (uintptr_t)taken[i];
}

static void *take_until_closed(void *arg)
{
    struct taker *t = arg;
    void *one;

    while ((one = queue_pop(t->q)) != NULL)
        take(t, &one, 1);
    return NULL;
}

static void *take_batches(void *arg)
{
    struct taker *t = arg;
    void *taken[16];
    size_t left;

    while (!atomic_load(t->over) || queue_count(t->q) > 0)
        take(t, taken, queue_take(t->q, taken, t->batch, 2, &left));
    return NULL;
}

static void a_sleeping_taker_wakes_for_work_and_for_the_end(void **state)
{
    struct queue *q = queue_new(8);
    struct taker takers[3] = {{.q = q}, {.q = q}, {.q = q}};
    size_t count = 0;

    (void)state;
    for (int i = 0; i < 3; i++)
        pthread_create(&takers[i].thread, NULL, take_until_closed, &takers[i]);
    nap(2000000);
    for (uintptr_t i = 1; i <= 5; i++) {
        assert_true(queue_try_push(q, numbered(i)));
        nap(500000);
    }
    queue_close(q);
    for (int i = 0; i < 3; i++) {
        pthread_join(takers[i].thread, NULL);
        count += takers[i].count;
    }
    assert_int_equal(count, 5);
    queue_free(q);
}

enum { PUSHERS = 4, TAKERS = 4, PER_PUSHER = 20000 };

struct pusher {
    struct queue *q;
    pthread_t thread;
    uintptr_t first;
};

static void *push_all(void *arg)
{
    struct pusher *p = arg;

    for (uintptr_t i = 0; i < PER_PUSHER; i++)
        while (!queue_try_push(p->q, numbered(p->first + i)))
            nap(1000);
    return NULL;
}

/* Everything must arrive exactly once. */
static void nothing_is_lost_or_doubled_among_many_threads(void **state)
{
    struct queue *q = queue_new(64);
    struct pusher pushers[PUSHERS];
    struct taker takers[TAKERS];
    atomic_bool over = false;
    size_t count = 0;
    uintptr_t sum = 0, n = PUSHERS * PER_PUSHER;

    (void)state;
    for (size_t i = 0; i < TAKERS; i++) {
        takers[i] = (struct taker){.q = q, .batch = i * 5, .over = &over};
        pthread_create(&takers[i].thread, NULL, i == 0 ? take_until_closed : take_batches,
                       &takers[i]);
    }
    for (size_t i = 0; i < PUSHERS; i++) {
        pushers[i] = (struct pusher){.q = q, .first = 1 + i * PER_PUSHER};
        pthread_create(&pushers[i].thread, NULL, push_all, &pushers[i]);
    }
    for (size_t i = 0; i < PUSHERS; i++)
        pthread_join(pushers[i].thread, NULL);
    atomic_store(&over, true);
    queue_close(q);
    for (size_t i = 0; i < TAKERS; i++) {
        pthread_join(takers[i].thread, NULL);
        count += takers[i].count;
        sum += takers[i].sum;
    }
    assert_int_equal(count, n);
    assert_true(sum == n * (n + 1) / 2);
    queue_free(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_oldest_first_round_after_round),
        cmocka_unit_test(a_full_queue_takes_nothing_more),
        cmocka_unit_test(idle_takers_share_what_waits),
        cmocka_unit_test(a_closed_queue_gives_what_it_holds_and_then_nothing),
        cmocka_unit_test(a_sleeping_taker_wakes_for_work_and_for_the_end),
        cmocka_unit_test(nothing_is_lost_or_doubled_among_many_threads),
    };

    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
