/* The effort controller in simulated time: workers, a queue and requests that come at random, and
 * what it makes of minutes of steady load, of bursts and of noise. Then the kernel's files. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../src/recall/effort.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define DEADLINE (50 * MS)

/* ---- the plant: a service in simulated time ------------------------------------------------- */

#define WORKERS_MAX 8
#define QUEUE_MAX 4096
#define BATCH_MAX 8
#define CHANGES_MAX 10000

struct change {
    uint64_t at;
    int level;
};

struct plant {
    struct effort *effort;
    int workers;
    double cost_us;              /* of a call at full effort */
    double share[EFFORT_LEVELS]; /* of that at each level */
    double stolen;               /* of a worker's time, by others */
    uint64_t now, next_arrival, seed;
    uint64_t queue[QUEUE_MAX]; /* when they came */
    size_t head, waiting;
    struct {
        bool busy;
        uint64_t start, end, came[BATCH_MAX];
        size_t n;
        int level;
    } worker[WORKERS_MAX];
    struct change changes[CHANGES_MAX];
    int n_changes, level;
    size_t answered, late, refused;
};

static double any(struct plant *p)
{
    p->seed = p->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return ((double)(p->seed >> 11) + 0.5) / (double)(UINT64_C(1) << 53);
}

static struct plant *plant_new(int workers, double cost_us)
{
    static const double share[EFFORT_LEVELS] = {1, 0.68, 0.5, 0.39, 0.2};
    struct plant *p = calloc(1, sizeof *p);

    assert_non_null(p);
    p->effort = effort_new(workers, true, NULL);
    effort_set_deadline(p->effort, DEADLINE);
    p->workers = workers;
    p->cost_us = cost_us;
    memcpy(p->share, share, sizeof share);
    p->seed = 42;
    p->now = SECOND;
    p->next_arrival = 0;
    return p;
}

static void plant_free(struct plant *p)
{
    effort_free(p->effort);
    free(p);
}

static void note_level(struct plant *p, int level)
{
    if (level == p->level)
        return;
    p->level = level;
    assert_true(p->n_changes < CHANGES_MAX);
    p->changes[p->n_changes++] = (struct change){p->now, level};
}

/* Calls differ by a third up or down. */
static uint64_t service_ns(struct plant *p, int level, size_t n)
{
    double us = 0;

    for (size_t i = 0; i < n; i++)
        us += p->cost_us * p->share[level] * (0.67 + 0.66 * any(p));
    return (uint64_t)(us * 1000 / (1 - p->stolen));
}

static size_t batch_size(const struct plant *p)
{
    size_t idle = 0, most = BATCH_MAX, share;

    for (int i = 0; i < p->workers; i++)
        idle += !p->worker[i].busy;
    if (effort_cost(p->effort) > 0 && DEADLINE / 8 / effort_cost(p->effort) < most)
        most = DEADLINE / 8 / effort_cost(p->effort);
    share = (p->waiting + idle - 1) / idle;
    return share < most ? share : most > 0 ? most : 1;
}

static void take(struct plant *p)
{
    for (int w = 0; w < p->workers && p->waiting > 0; w++) {
        size_t n;

        if (p->worker[w].busy)
            continue;
        n = batch_size(p);
        for (size_t i = 0; i < n; i++)
            p->worker[w].came[i] = p->queue[(p->head + i) % QUEUE_MAX];
        p->head = (p->head + n) % QUEUE_MAX;
        p->waiting -= n;
        p->worker[w].busy = true;
        p->worker[w].n = n;
        p->worker[w].start = p->now;
        p->worker[w].level = effort_take(p->effort, p->now, p->now - p->worker[w].came[n - 1], n);
        p->worker[w].end = p->now + service_ns(p, p->worker[w].level, n);
        note_level(p, p->worker[w].level);
    }
}

static void finish(struct plant *p, int w)
{
    effort_done(p->effort, p->now, p->worker[w].start, p->worker[w].level, p->worker[w].n);
    for (size_t i = 0; i < p->worker[w].n; i++) {
        p->answered++;
        p->late += p->now - p->worker[w].came[i] > DEADLINE;
    }
    p->worker[w].busy = false;
}

static void arrive(struct plant *p)
{
    uint64_t wait = p->waiting * effort_cost(p->effort) / (unsigned)p->workers;

    if (p->waiting == QUEUE_MAX || (p->waiting > 0 && wait > DEADLINE / 2)) {
        effort_refused(p->effort);
        p->refused++;
    } else
        p->queue[(p->head + p->waiting++) % QUEUE_MAX] = p->now;
}

/* `load` times what the workers can do at full effort. */
static void run(struct plant *p, double load, uint64_t for_ns)
{
    uint64_t end = p->now + for_ns;
    double gap = load > 0 ? p->cost_us * 1000 / p->workers / load : 0;

    p->next_arrival = load > 0 ? p->now + (uint64_t)(-log(any(p)) * gap) : UINT64_MAX;
    for (;;) {
        uint64_t next = p->next_arrival;
        int w = -1;

        for (int i = 0; i < p->workers; i++)
            if (p->worker[i].busy && p->worker[i].end <= next) {
                next = p->worker[i].end;
                w = i;
            }
        if (next > end)
            break;
        p->now = next;
        if (w >= 0) {
            finish(p, w);
        } else {
            arrive(p);
            p->next_arrival += (uint64_t)(-log(any(p)) * gap);
        }
        take(p);
    }
    p->now = end;
    note_level(p, effort_level(p->effort, p->now));
}

/* ---- what happened ------------------------------------------------------------------------- */

static int changes_since(const struct plant *p, uint64_t since)
{
    int n = 0;

    for (int i = 0; i < p->n_changes; i++)
        n += p->changes[i].at >= since;
    return n;
}

/* When the level became `level` for the first time since then. */
static uint64_t first_at(const struct plant *p, uint64_t since, int level)
{
    for (int i = 0; i < p->n_changes; i++)
        if (p->changes[i].at >= since && p->changes[i].level == level)
            return p->changes[i].at - since;
    fail_msg("level %d was never reached", level);
    return 0;
}

/* Of what the workers can do at full effort. */
static double goodput(const struct plant *p, uint64_t for_ns)
{
    double capacity = (double)for_ns / 1000 / p->cost_us * p->workers;

    return (double)(p->answered - p->late) / capacity;
}

static void forget_counts(struct plant *p)
{
    p->answered = p->late = p->refused = 0;
}

/* ---- tests: the controller ------------------------------------------------------------------ */

static const int worker_counts[] = {1, 2, 8};

static void nothing_is_lowered_while_workers_keep_up(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(worker_counts); i++) {
        struct plant *p = plant_new(worker_counts[i], 400);

        run(p, 0.8, 120 * SECOND);
        assert_int_equal(p->n_changes, 0);
        assert_int_equal(p->refused + p->late, 0);
        plant_free(p);
    }
}

static void twice_the_load_lowers_effort_at_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(worker_counts); i++) {
        struct plant *p = plant_new(worker_counts[i], 1000);
        uint64_t start;

        run(p, 0.5, SECOND);
        start = p->now;
        run(p, 2, 5 * SECOND);
        assert_in_range(first_at(p, start, 1), 1, 100 * MS);
        assert_in_range(first_at(p, start, 3), 1, 250 * MS);
        assert_true(p->refused < (p->answered + p->refused) / 50);
        assert_int_equal(p->late, 0);
        plant_free(p);
    }
}

static void a_steady_load_settles(void **state)
{
    static const double loads[] = {1.2, 2, 5};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(worker_counts); i++)
        for (size_t l = 0; l < ARRAY_LEN(loads); l++) {
            struct plant *p = plant_new(worker_counts[i], 800);
            uint64_t start;

            run(p, 0.3, SECOND);
            start = p->now;
            run(p, loads[l], 3 * SECOND);
            forget_counts(p);
            run(p, loads[l], 120 * SECOND);
            assert_in_range(changes_since(p, start + 3 * SECOND), 0, 2);
            assert_true(goodput(p, 120 * SECOND) > 0.95 * fmin(loads[l], 5));
            assert_int_equal(p->late, 0);
            plant_free(p);
        }
}

/* What has piled up before the first step drains without another. */
static void no_more_is_lowered_than_the_load_needs(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(worker_counts); i++) {
        struct plant *p = plant_new(worker_counts[i], 400);

        run(p, 0.3, SECOND);
        run(p, 1.2, 3 * SECOND);
        assert_int_equal(p->level, 1);
        for (int c = 0; c < p->n_changes; c++)
            assert_in_range(p->changes[c].level, 1, 2);
        plant_free(p);
    }
}

/* Beyond what even the lowest effort can do, the rest is refused and the level stays. */
static void what_is_too_much_even_so_is_refused(void **state)
{
    struct plant *p = plant_new(2, 800);

    (void)state;
    run(p, 10, SECOND);
    forget_counts(p);
    run(p, 10, 60 * SECOND);
    assert_int_equal(changes_since(p, 2 * SECOND), 0);
    assert_int_equal(p->level, EFFORT_LEVELS - 1);
    assert_true(goodput(p, 60 * SECOND) > 4.9);
    assert_true(p->refused > p->answered * 9 / 10);
    assert_int_equal(p->late, 0);
    plant_free(p);
}

static void after_a_burst_effort_returns_step_by_step_within_two_seconds(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(worker_counts); i++) {
        struct plant *p = plant_new(worker_counts[i], 800);
        uint64_t end;

        run(p, 5, 10 * SECOND);
        assert_int_equal(p->level, EFFORT_LEVELS - 1);
        end = p->now;
        run(p, 0.3, 10 * SECOND);
        assert_in_range(first_at(p, end, 0), 4 * 250 * MS, 2 * SECOND);
        assert_int_equal(changes_since(p, end), EFFORT_LEVELS - 1);
        plant_free(p);
    }
}

/* Nobody asks any more: neither the figure nor the next request is of the burst. */
static void effort_returns_without_requests_too(void **state)
{
    struct plant *p = plant_new(2, 800);

    (void)state;
    run(p, 5, 3 * SECOND);
    assert_int_equal(p->level, EFFORT_LEVELS - 1);
    run(p, 0, 2 * SECOND);
    assert_int_equal(p->level, 0);
    plant_free(p);
}

static void every_burst_of_many_ends_alike(void **state)
{
    struct plant *p = plant_new(2, 800);

    (void)state;
    for (int i = 0; i < 20; i++) {
        uint64_t end;

        run(p, 4, SECOND);
        end = p->now;
        run(p, 0.3, 3 * SECOND);
        assert_in_range(first_at(p, end, 0), 1, 2 * SECOND);
    }
    plant_free(p);
}

/* Level 1 looks light, but level 0 costs more than any effort explains. */
static void a_restore_that_fails_again_and_again_is_tried_ever_more_rarely(void **state)
{
    static const double share[EFFORT_LEVELS] = {1, 0.3, 0.25, 0.2, 0.15};
    struct plant *p = plant_new(2, 800);
    uint64_t end;

    (void)state;
    memcpy(p->share, share, sizeof share);
    run(p, 1.3, 120 * SECOND);
    assert_in_range(p->n_changes, 3, 16);
    assert_in_range(changes_since(p, 61 * SECOND), 0, 4);
    end = p->now;
    run(p, 0.1, 3 * SECOND);
    assert_in_range(first_at(p, end, 0), 1, 2 * SECOND);
    plant_free(p);
}

/* The exact engine: only fewer interests help it. */
static void an_index_without_effort_loses_interests(void **state)
{
    static const double share[EFFORT_LEVELS] = {1, 1, 1, 1, 0.6};
    struct plant *p = plant_new(2, 400);

    (void)state;
    memcpy(p->share, share, sizeof share);
    run(p, 1.4, 60 * SECOND);
    assert_int_equal(p->level, EFFORT_LEVELS - 1);
    assert_in_range(changes_since(p, 4 * SECOND), 0, 2);
    run(p, 0.5, 2 * SECOND);
    assert_int_equal(p->level, 0);
    plant_free(p);
}

/* Others take the processor for a while: the same as more load, and it passes. */
static void a_slower_machine_is_too_much_load_as_well(void **state)
{
    struct plant *p = plant_new(2, 800);

    (void)state;
    run(p, 0.7, 5 * SECOND);
    assert_int_equal(p->n_changes, 0);
    p->stolen = 0.5;
    run(p, 0.7, 5 * SECOND);
    assert_in_range(p->level, 1, 3);
    assert_int_equal(p->late, 0);
    p->stolen = 0;
    run(p, 0.7, 3 * SECOND);
    assert_int_equal(p->level, 0);
    plant_free(p);
}

/* Whatever raised it for a moment, a stalled machine for instance. */
static void a_level_that_is_enough_is_found_again_under_steady_load(void **state)
{
    struct plant *p = plant_new(1, 2000);
    int enough = 0;

    (void)state;
    for (int i = 0; i < 10; i++) {
        run(p, 2.1, 5 * SECOND);
        p->stolen = 0.6;
        run(p, 2.1, SECOND);
        assert_int_equal(p->level, EFFORT_LEVELS - 1);
        p->stolen = 0;
        run(p, 2.1, 5 * SECOND);
        enough += p->level < EFFORT_LEVELS - 1;
        run(p, 0, 3 * SECOND);
    }
    assert_in_range(enough, 8, 10);
    plant_free(p);
}

static void without_control_the_level_stays_and_the_cost_is_known(void **state)
{
    struct effort *e = effort_new(1, false, NULL);
    uint64_t now = SECOND;

    (void)state;
    effort_set_deadline(e, DEADLINE);
    assert_int_equal(effort_cost(e), 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(effort_take(e, now, DEADLINE, 4), 0);
        effort_refused(e);
        effort_done(e, now + 8 * MS, now, 0, 4);
        now += 10 * MS;
    }
    assert_int_equal(effort_level(e, now), 0);
    assert_int_equal(effort_cost(e), 2 * MS);
    effort_free(e);
}

/* Or admission would let in more and more that come too late. */
static void calls_that_came_too_late_do_not_look_cheap(void **state)
{
    struct effort *e = effort_new(1, true, NULL);
    uint64_t now = SECOND;

    (void)state;
    effort_set_deadline(e, DEADLINE);
    for (int i = 0; i < 100; i++, now += 10 * MS) {
        effort_take(e, now, 0, 8);
        effort_done(e, now + (i < 10 ? 8 * MS : 1000), now, 0, i < 10 ? 8 : 0);
    }
    assert_int_equal(effort_cost(e), MS);
    effort_free(e);
}

static void a_worker_that_was_held_up_once_moves_the_cost_little(void **state)
{
    struct effort *e = effort_new(1, true, NULL);
    uint64_t now = SECOND;

    (void)state;
    effort_set_deadline(e, DEADLINE);
    for (int i = 0; i < 100; i++, now += 2 * MS) {
        effort_take(e, now, 0, 1);
        effort_done(e, now + (i == 90 ? 500 : 1) * MS, now, 0, 1);
        assert_in_range(effort_cost(e), MS, 3 * MS / 2);
    }
    /* A lasting change is followed all the same. */
    for (int i = 0; i < 50; i++, now += 12 * MS) {
        effort_take(e, now, 0, 1);
        effort_done(e, now + 10 * MS, now, 0, 1);
    }
    assert_in_range(effort_cost(e), 9 * MS, 10 * MS);
    effort_free(e);
}

/* ---- tests: the kernel's files --------------------------------------------------------------- */

static char folder[64];

static const char *in(const char *name)
{
    static char path[4][256];
    static int turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void put(const char *name, const char *text)
{
    struct err err = ERR_INIT;
    char dir[256];

    snprintf(dir, sizeof dir, "%s", in(name));
    *strrchr(dir, '/') = '\0';
    assert_int_equal(file_mkdirs(dir, &err), 0);
    /* In place, as the kernel does it: who has the file open sees it. */
    FILE *f = fopen(in(name), "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int make_folder(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_effort.XXXXXX");
    return mkdtemp(folder) == NULL ? -1 : 0;
}

static int remove_folder(void **state)
{
    char command[128];

    (void)state;
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command);
}

static void throttling_is_read_from_version_2(void **state)
{
    struct throttle *t;

    (void)state;
    put("self", "0::/app.slice/recalld.service\n");
    put("fs/app.slice/recalld.service/cpu.stat",
        "usage_usec 99\nnr_periods 7\nnr_throttled 3\nthrottled_usec 1234\nnr_bursts 0\n");
    t = throttle_open(in("self"), in("fs"));
    assert_non_null(t);
    assert_int_equal(throttle_ns(t), 1234000);
    put("fs/app.slice/recalld.service/cpu.stat", "usage_usec 99\nthrottled_usec 5000\n");
    assert_int_equal(throttle_ns(t), 5000000);
    put("fs/app.slice/recalld.service/cpu.stat", "");
    assert_int_equal(throttle_ns(t), 0);
    throttle_free(t);
}

static void throttling_is_read_from_version_1(void **state)
{
    struct throttle *t;

    (void)state;
    put("self", "12:cpuset:/a\n4:cpu,cpuacct:/a/b\n0::/unused\n");
    put("fs/cpu/a/b/cpu.stat", "nr_periods 7\nnr_throttled 3\nthrottled_time 1234\n");
    t = throttle_open(in("self"), in("fs"));
    assert_non_null(t);
    assert_int_equal(throttle_ns(t), 1234);
    throttle_free(t);
}

/* As a container sees it: the host's path, and its own group at the top. */
static void a_path_of_the_host_leads_to_the_top(void **state)
{
    struct throttle *t;

    (void)state;
    put("self", "4:cpuacct,cpu:/docker/0123\n");
    put("fs/cpu/cpu.stat", "nr_periods 0\nthrottled_time 7\n");
    t = throttle_open(in("self"), in("fs"));
    assert_non_null(t);
    assert_int_equal(throttle_ns(t), 7);
    throttle_free(t);
}

static void no_file_or_no_quota_is_no_signal(void **state)
{
    (void)state;
    assert_null(throttle_open(in("nothing"), in("fs")));
    put("self", "junk\n\n0:\n5:cpuset:/x\n0::/group\n");
    assert_null(throttle_open(in("self"), in("fs")));
    put("fs/group/cpu.stat", "usage_usec 99\nuser_usec 98\n");
    assert_null(throttle_open(in("self"), in("fs")));
    put("fs/group/cpu.stat", "usage_usec 99\nthrottled_usec many\n");
    assert_null(throttle_open(in("self"), in("fs")));
}

/* One look a tenth of a second; idle workers, so nothing else could be the reason. */
static void withheld_processor_time_lowers_effort(void **state)
{
    struct effort *e;
    uint64_t now = SECOND, withheld = 0;
    char text[64];

    (void)state;
    put("self", "0::/group\n");
    put("fs/group/cpu.stat", "usage_usec 0\nthrottled_usec 0\n");
    e = effort_new(4, true, throttle_open(in("self"), in("fs")));
    effort_set_deadline(e, DEADLINE);
    for (int i = 0; i < 200; i++, now += 10 * MS) {
        int level = effort_take(e, now, 0, 1);

        effort_done(e, now + MS, now, level, 1);
        withheld += i >= 100 && i < 120 ? 2000 : 0; /* us: a fifth of the time */
        snprintf(text, sizeof text, "usage_usec 0\nthrottled_usec %llu\n",
                 (unsigned long long)withheld);
        put("fs/group/cpu.stat", text);
        if (i <= 100)
            assert_int_equal(level, 0);
        if (i == 125)
            assert_in_range(level, 2, 3);
    }
    assert_int_equal(effort_level(e, now + SECOND), 0);
    effort_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lowered_while_workers_keep_up),
        cmocka_unit_test(twice_the_load_lowers_effort_at_once),
        cmocka_unit_test(a_steady_load_settles),
        cmocka_unit_test(no_more_is_lowered_than_the_load_needs),
        cmocka_unit_test(what_is_too_much_even_so_is_refused),
        cmocka_unit_test(after_a_burst_effort_returns_step_by_step_within_two_seconds),
        cmocka_unit_test(effort_returns_without_requests_too),
        cmocka_unit_test(every_burst_of_many_ends_alike),
        cmocka_unit_test(a_restore_that_fails_again_and_again_is_tried_ever_more_rarely),
        cmocka_unit_test(an_index_without_effort_loses_interests),
        cmocka_unit_test(a_slower_machine_is_too_much_load_as_well),
        cmocka_unit_test(a_level_that_is_enough_is_found_again_under_steady_load),
        cmocka_unit_test(without_control_the_level_stays_and_the_cost_is_known),
        cmocka_unit_test(calls_that_came_too_late_do_not_look_cheap),
        cmocka_unit_test(a_worker_that_was_held_up_once_moves_the_cost_little),
        cmocka_unit_test(throttling_is_read_from_version_2),
        cmocka_unit_test(throttling_is_read_from_version_1),
        cmocka_unit_test(a_path_of_the_host_leads_to_the_top),
        cmocka_unit_test(no_file_or_no_quota_is_no_signal),
        cmocka_unit_test(withheld_processor_time_lowers_effort),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
