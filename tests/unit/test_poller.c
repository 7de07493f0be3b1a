/* test_poller.c - threads that wait together: who runs a source, and who is woken. */
#include "recalld/base.h"

#include <setjmp.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#define THREADS 3

/* A source that counts its runs, and notices when two happen at once. */
struct counted {
    int fd;
    atomic_int runs, inside, overlaps, seen;
    atomic_bool hold; /* stays inside while set */
};

static void count_run(void *arg)
{
    struct counted *c = arg;
    uint64_t n;

    if (atomic_fetch_add(&c->inside, 1) > 0)
        atomic_fetch_add(&c->overlaps, 1);
    if (c->fd != -1 && read(c->fd, &n, sizeof n) == sizeof n)
        atomic_fetch_add(&c->seen, (int)n);
    atomic_fetch_add(&c->runs, 1);
    while (atomic_load(&c->hold))
        usleep(100);
    atomic_fetch_sub(&c->inside, 1);
}

struct waiters {
    struct poller *poller;
    pthread_t threads[THREADS];
    int n;
    atomic_int returned;
    atomic_bool stop;
};

static void *wait_on(void *arg)
{
    struct waiters *w = arg;

    while (!atomic_load(&w->stop)) {
        poller_wait(w->poller, -1);
        atomic_fetch_add(&w->returned, 1);
    }
    return NULL;
}

static struct waiters *waiters_start(int n)
{
    struct err err = ERR_INIT;
    struct waiters *w = xcalloc(1, sizeof *w);

    w->n = n;
    w->poller = poller_new(&err);
    assert_non_null(w->poller);
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&w->threads[i], NULL, wait_on, w), 0);
    return w;
}

static void waiters_end(struct waiters *w)
{
    atomic_store(&w->stop, true);
    poller_close(w->poller);
    for (int i = 0; i < w->n; i++)
        pthread_join(w->threads[i], NULL);
    poller_free(w->poller);
}

static void waiters_stop(struct waiters *w)
{
    waiters_end(w);
    free(w);
}

static void wait_for(atomic_int *what, int least)
{
    for (int i = 0; i < 20000 && atomic_load(what) < least; i++)
        usleep(500);
    assert_true(atomic_load(what) >= least);
}

static void raise_fd(int fd)
{
    uint64_t one = 1;

    assert_int_equal(write(fd, &one, sizeof one), sizeof one);
}

static struct poll_source *watched(struct poller *p, struct counted *c)
{
    struct poll_source *s = poller_add(p, count_run, c);
    struct err err = ERR_INIT;

    c->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_int_equal(poll_source_watch(s, c->fd, &err), 0);
    return s;
}

static void a_descriptor_that_becomes_readable_runs_its_source(void **state)
{
    struct waiters *w = waiters_start(1);
    struct counted c = {.fd = -1};

    (void)state;
    watched(w->poller, &c);
    for (int i = 1; i <= 100; i++) {
        raise_fd(c.fd);
        wait_for(&c.seen, i);
    }
    waiters_stop(w);
    close(c.fd);
}

static void *raise_often(void *arg)
{
    struct counted *c = arg;

    for (int i = 0; i < 20000; i++)
        raise_fd(c->fd);
    return NULL;
}

static void one_thread_at_a_time_runs_a_source_and_misses_nothing(void **state)
{
    struct waiters *w = waiters_start(THREADS);
    struct counted c = {.fd = -1};
    pthread_t raisers[2];

    (void)state;
    watched(w->poller, &c);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&raisers[i], NULL, raise_often, &c), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(raisers[i], NULL);
    wait_for(&c.seen, 40000);
    assert_int_equal(c.seen, 40000);
    assert_int_equal(c.overlaps, 0);
    waiters_stop(w);
    close(c.fd);
}

static void another_waiter_serves_while_one_is_inside_a_source(void **state)
{
    struct waiters *w = waiters_start(2);
    struct counted slow = {.fd = -1, .hold = true}, quick = {.fd = -1};

    (void)state;
    watched(w->poller, &slow);
    watched(w->poller, &quick);
    raise_fd(slow.fd);
    wait_for(&slow.runs, 1);
    raise_fd(quick.fd);
    wait_for(&quick.runs, 1);
    assert_int_equal(slow.inside, 1);
    atomic_store(&slow.hold, false);
    waiters_stop(w);
    close(slow.fd);
    close(quick.fd);
}

static void an_event_does_not_wait_in_the_hands_of_a_busy_thread(void **state)
{
    struct err err = ERR_INIT;
    struct waiters w = {.poller = poller_new(&err), .n = 2};
    struct counted slow = {.fd = -1, .hold = true}, quick = {.fd = -1};

    (void)state;
    assert_non_null(w.poller);
    watched(w.poller, &slow);
    watched(w.poller, &quick);
    raise_fd(slow.fd); /* both are there before anybody waits */
    raise_fd(quick.fd);
    for (int i = 0; i < w.n; i++)
        assert_int_equal(pthread_create(&w.threads[i], NULL, wait_on, &w), 0);
    wait_for(&slow.runs, 1);
    wait_for(&quick.runs, 1);
    assert_int_equal(slow.inside, 1);
    atomic_store(&slow.hold, false);
    waiters_end(&w);
    close(slow.fd);
    close(quick.fd);
}

static struct poll_source *eager;

static void call_again(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
    poll_source_run(eager);
}

static void a_source_that_is_called_all_the_time_lets_its_thread_go(void **state)
{
    struct err err = ERR_INIT;
    struct poller *p = poller_new(&err);
    atomic_int runs = 0;
    int before;

    (void)state;
    eager = poller_add(p, call_again, &runs);
    poll_source_run(eager);
    before = runs;
    assert_true(before > 0);
    poller_wait(p, -1); /* and is called on, by whoever waits next */
    assert_true(runs > before);
    poller_free(p);
}

static void a_run_while_another_is_inside_is_made_up_for(void **state)
{
    struct waiters *w = waiters_start(1);
    struct counted c = {.fd = -1, .hold = true};
    struct poll_source *s = watched(w->poller, &c);

    (void)state;
    raise_fd(c.fd);
    wait_for(&c.runs, 1);
    poll_source_run(s); /* returns: the thread inside does it again */
    poll_source_run(s);
    assert_int_equal(c.runs, 1);
    atomic_store(&c.hold, false);
    wait_for(&c.runs, 2);
    assert_int_equal(c.overlaps, 0);
    waiters_stop(w);
    close(c.fd);
}

static void a_kick_from_outside_is_done_by_one_that_waits(void **state)
{
    struct waiters *w = waiters_start(THREADS);
    struct counted c = {.fd = -1};
    struct poll_source *s = poller_add(w->poller, count_run, &c);

    (void)state;
    assert_false(poller_is_mine(w->poller));
    for (int i = 1; i <= 100; i++) {
        poll_source_kick(s);
        wait_for(&c.runs, i);
    }
    waiters_stop(w);
}

static void a_kick_from_a_thread_that_waits_is_done_when_it_says_so(void **state)
{
    struct err err = ERR_INIT;
    struct poller *p = poller_new(&err);
    struct counted c = {.fd = -1};
    struct poll_source *s = poller_add(p, count_run, &c);

    (void)state;
    poller_wait(p, 0);
    assert_true(poller_is_mine(p));
    assert_false(poller_run_due(p));
    poll_source_kick(s);
    assert_int_equal(c.runs, 0);
    assert_true(poller_run_due(p));
    assert_int_equal(c.runs, 1);
    poll_source_kick(s);
    poller_wait(p, -1); /* returns: it had something to do */
    assert_int_equal(c.runs, 2);
    poller_free(p);
}

static void a_kick_is_passed_on_by_a_thread_that_has_other_work(void **state)
{
    struct waiters *w = waiters_start(1);
    struct counted c = {.fd = -1};
    struct poll_source *s = poller_add(w->poller, count_run, &c);

    (void)state;
    poller_wait(w->poller, 0);
    poll_source_kick(s);
    poller_pass_on(w->poller);
    assert_false(poller_run_due(w->poller));
    wait_for(&c.runs, 1);
    waiters_stop(w);
}

static void a_wake_returns_one_that_waits_now_or_next(void **state)
{
    struct waiters *w = waiters_start(1);
    struct err err = ERR_INIT;
    struct poller *alone = poller_new(&err);

    (void)state;
    poller_wake(w->poller);
    wait_for(&w->returned, 1);
    poller_wake(alone);
    poller_wait(alone, -1);
    poller_free(alone);
    waiters_stop(w);
}

static void *hold_for_a_while(void *arg)
{
    struct counted *c = arg;

    usleep(20000);
    atomic_store(&c->hold, false);
    return NULL;
}

static void a_removed_source_is_left_alone_and_its_place_used_again(void **state)
{
    struct waiters *w = waiters_start(THREADS);
    struct counted c = {.fd = -1, .hold = true}, next = {.fd = -1};
    struct poll_source *s = watched(w->poller, &c);
    pthread_t releaser;
    int runs;

    (void)state;
    raise_fd(c.fd);
    wait_for(&c.runs, 1);
    assert_int_equal(pthread_create(&releaser, NULL, hold_for_a_while, &c), 0);
    poll_source_remove(s); /* waits for the one inside */
    assert_int_equal(c.inside, 0);
    runs = c.runs;
    raise_fd(c.fd);
    poll_source_kick(s);
    assert_ptr_equal(poller_add(w->poller, count_run, &next), s);
    poll_source_kick(s);
    wait_for(&next.runs, 1);
    assert_int_equal(c.runs, runs);
    pthread_join(releaser, NULL);
    waiters_stop(w);
    close(c.fd);
}

static void a_descriptor_that_cannot_be_watched_is_an_error(void **state)
{
    struct err err = ERR_INIT;
    struct poller *p = poller_new(&err);
    struct counted c = {.fd = -1};

    (void)state;
    assert_int_equal(poll_source_watch(poller_add(p, count_run, &c), -1, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    poller_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_descriptor_that_becomes_readable_runs_its_source),
        cmocka_unit_test(one_thread_at_a_time_runs_a_source_and_misses_nothing),
        cmocka_unit_test(another_waiter_serves_while_one_is_inside_a_source),
        cmocka_unit_test(an_event_does_not_wait_in_the_hands_of_a_busy_thread),
        cmocka_unit_test(a_source_that_is_called_all_the_time_lets_its_thread_go),
        cmocka_unit_test(a_run_while_another_is_inside_is_made_up_for),
        cmocka_unit_test(a_kick_from_outside_is_done_by_one_that_waits),
        cmocka_unit_test(a_kick_from_a_thread_that_waits_is_done_when_it_says_so),
        cmocka_unit_test(a_kick_is_passed_on_by_a_thread_that_has_other_work),
        cmocka_unit_test(a_wake_returns_one_that_waits_now_or_next),
        cmocka_unit_test(a_removed_source_is_left_alone_and_its_place_used_again),
        cmocka_unit_test(a_descriptor_that_cannot_be_watched_is_an_error),
    };

    return cmocka_run_group_tests_name("poller", tests, NULL, NULL);
}
