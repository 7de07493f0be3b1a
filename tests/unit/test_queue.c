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
    void *taken[8];

    (void)state;
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 1 + round % 5; i++)
            assert_true(queue_try_push(q, numbered(in++)));
        while (out < in) {
            size_t n = queue_pop(q, taken, 2);

            assert_in_range(n, 1, 2);
            for (size_t i = 0; i < n; i++)
                assert_ptr_equal(taken[i], numbered(out++));
        }
    }
    assert_int_equal(in, out);
    queue_free(q);
}

static void a_full_queue_takes_nothing_more(void **state)
{
    struct queue *q = queue_new(2);
    void *taken[1];

    (void)state;
    assert_true(queue_try_push(q, numbered(1)));
    assert_true(queue_try_push(q, numbered(2)));
    assert_false(queue_try_push(q, numbered(3)));
    assert_int_equal(queue_pop(q, taken, 1), 1);
    assert_ptr_equal(taken[0], numbered(1));
    assert_true(queue_try_push(q, numbered(4)));
    queue_free(q);
}

static void the_only_taker_gets_everything_up_to_max(void **state)
{
    struct queue *q = queue_new(20);
    void *taken[20];

    (void)state;
    for (uintptr_t i = 1; i <= 12; i++)
        assert_true(queue_try_push(q, numbered(i)));
    assert_int_equal(queue_pop(q, taken, 8), 8);
    assert_int_equal(queue_pop(q, taken, 8), 4);
    assert_ptr_equal(taken[0], numbered(9));
    queue_free(q);
}

static void a_closed_queue_gives_what_it_holds_and_then_nothing(void **state)
{
    struct queue *q = queue_new(4);
    void *taken[4];

    (void)state;
    assert_true(queue_try_push(q, numbered(1)));
    assert_true(queue_try_push(q, numbered(2)));
    queue_close(q);
    assert_false(queue_try_push(q, numbered(3)));
    assert_int_equal(queue_pop(q, taken, 1), 1);
    assert_int_equal(queue_pop(q, taken, 4), 1);
    assert_ptr_equal(taken[0], numbered(2));
    assert_int_equal(queue_pop(q, taken, 4), 0);
    queue_free(q);
    queue_free(NULL);
}

/* ---- several threads ----------------------------------------------------------- */

struct taker {
    struct queue *q;
    pthread_t thread;
    _Atomic pid_t tid;
    size_t max;
    size_t first; /* what the first pop gave */
    size_t count;
    uintptr_t sum;
};

static void *take_until_closed(void *arg)
{
    struct taker *t = arg;
    void *taken[16];

    for (;;) {
        size_t n = queue_pop(t->q, taken, t->max);

        if (n == 0)
            return NULL;
        if (t->count == 0)
            t->first = n;
        t->count += n;
        for (size_t i = 0; i < n; i++)
            t->sum += (uintptr_t)taken[i];
    }
}

static void *take_once(void *arg)
{
    struct taker *t = arg;
    void *taken[16];

    atomic_store(&t->tid, gettid());
    t->first = queue_pop(t->q, taken, t->max);
    return NULL;
}

/* Until the thread that runs take_once sleeps, which it does nowhere but in queue_pop. */
static void wait_until_asleep(struct taker *t)
{
    char path[64], state = 'R';

    while (state != 'S') {
        FILE *f;

        nap(100000);
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", atomic_load(&t->tid));
        f = fopen(path, "r");
        if (f != NULL) {
            if (fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
                state = '?';
            fclose(f);
        }
    }
}

/* With both asleep, the first to wake may take half of what is there, and so leaves something for
 * the other, however late that one comes. */
static void idle_takers_share_what_waits(void **state)
{
    (void)state;
    for (int round = 0; round < 50; round++) {
        struct queue *q = queue_new(8);
        struct taker takers[2] = {{.q = q, .max = 16}, {.q = q, .max = 16}};
        size_t a, b, n, left = 0;
        void *rest[8];

        for (int i = 0; i < 2; i++)
            pthread_create(&takers[i].thread, NULL, take_once, &takers[i]);
        for (int i = 0; i < 2; i++)
            wait_until_asleep(&takers[i]);
        for (uintptr_t i = 1; i <= 8; i++)
            assert_true(queue_try_push(q, numbered(i)));
        for (int i = 0; i < 2; i++)
            pthread_join(takers[i].thread, NULL);
        a = takers[0].first;
        b = takers[1].first;
        assert_in_range(a < b ? a : b, 1, 4);
        queue_close(q);
        while ((n = queue_pop(q, rest, 8)) > 0)
            left += n;
        assert_int_equal(a + b + left, 8);
        queue_free(q);
    }
}

static void a_sleeping_taker_wakes_for_work_and_for_the_end(void **state)
{
    struct queue *q = queue_new(8);
    struct taker takers[3] = {{.q = q, .max = 8}, {.q = q, .max = 8}, {.q = q, .max = 8}};
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
    size_t count = 0;
    uintptr_t sum = 0, n = PUSHERS * PER_PUSHER;

    (void)state;
    for (size_t i = 0; i < TAKERS; i++) {
        takers[i] = (struct taker){.q = q, .max = 1 + i * 5};
        pthread_create(&takers[i].thread, NULL, take_until_closed, &takers[i]);
    }
    for (size_t i = 0; i < PUSHERS; i++) {
        pushers[i] = (struct pusher){.q = q, .first = 1 + i * PER_PUSHER};
        pthread_create(&pushers[i].thread, NULL, push_all, &pushers[i]);
    }
    for (size_t i = 0; i < PUSHERS; i++)
        pthread_join(pushers[i].thread, NULL);
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
        cmocka_unit_test(the_only_taker_gets_everything_up_to_max),
        cmocka_unit_test(a_closed_queue_gives_what_it_holds_and_then_nothing),
        cmocka_unit_test(idle_takers_share_what_waits),
        cmocka_unit_test(a_sleeping_taker_wakes_for_work_and_for_the_end),
        cmocka_unit_test(nothing_is_lost_or_doubled_among_many_threads),
    };

    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
