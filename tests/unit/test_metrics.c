/* test_metrics.c - counting in many threads, and the text of a scrape. Runs under ThreadSanitizer
 * too. The table of metrics is one per process, so every test uses names of its own. */
#include "recalld/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Renders everything and asserts that `wanted` is a part of it. */
static void assert_rendered(const char *wanted)
{
    struct buf out = BUF_INIT;

    metrics_render(&out);
    if (strstr(buf_cstr(&out), wanted) == NULL)
        fail_msg("missing:\n%s\nin:\n%s", wanted, buf_cstr(&out));
    buf_clear(&out);
}

static double sample(const char *name)
{
    struct buf out = BUF_INIT, line = BUF_INIT;
    const char *at;
    double v;

    metrics_render(&out);
    buf_printf(&line, "\n%s ", name);
    at = strstr(buf_cstr(&out), buf_cstr(&line));
    assert_non_null(at);
    v = strtod(at + line.len, NULL);
    buf_clear(&out);
    buf_clear(&line);
    return v;
}

static void a_counter_counts(void **state)
{
    int id = metric_counter("t_simple_total", "Simple.", "");

    (void)state;
    assert_int_equal(metric_value(id), 0);
    assert_rendered("# HELP t_simple_total Simple.\n# TYPE t_simple_total counter\n"
                    "t_simple_total 0\n");
    metric_add(id, 1);
    metric_add(id, 41);
    assert_int_equal(metric_value(id), 42);
    assert_rendered("t_simple_total 42\n");
}

static void registering_the_same_again_is_the_same_metric(void **state)
{
    int id = metric_counter("t_same_total", "Same.", "a=\"1\"");

    (void)state;
    assert_int_equal(metric_counter("t_same_total", "Same.", "a=\"1\""), id);
    assert_int_not_equal(metric_counter("t_same_total", "Same.", "a=\"2\""), id);
}

static void a_family_stays_together_whoever_registered_it_when(void **state)
{
    int a, b;

    (void)state;
    a = metric_counter("t_family_total", "Family.", "reason=\"a\"");
    metric_counter("t_between_total", "Between.", "");
    b = metric_counter("t_family_total", "Family.", "reason=\"b\"");
    metric_add(a, 1);
    metric_add(b, 2);
    assert_rendered("# HELP t_family_total Family.\n# TYPE t_family_total counter\n"
                    "t_family_total{reason=\"a\"} 1\nt_family_total{reason=\"b\"} 2\n");
}

static void a_histogram_puts_a_value_on_a_bound_below_it(void **state)
{
    static const double bounds[] = {0.001, 1, 2.5};
    int id = metric_histogram("t_hist_seconds", "Hist.", "stage=\"x\"", bounds, 3);

    (void)state;
    metric_observe(id, 0.001);
    metric_observe(id, 0.5);
    metric_observe(id, 1);
    metric_observe(id, 2.5);
    metric_observe(id, 100);
    assert_int_equal(metric_value(id), 5);
    assert_rendered("# HELP t_hist_seconds Hist.\n# TYPE t_hist_seconds histogram\n"
                    "t_hist_seconds_bucket{stage=\"x\",le=\"0.001\"} 1\n"
                    "t_hist_seconds_bucket{stage=\"x\",le=\"1\"} 3\n"
                    "t_hist_seconds_bucket{stage=\"x\",le=\"2.5\"} 4\n"
                    "t_hist_seconds_bucket{stage=\"x\",le=\"+Inf\"} 5\n"
                    "t_hist_seconds_sum{stage=\"x\"} 104.001\n"
                    "t_hist_seconds_count{stage=\"x\"} 5\n");
}

static void a_histogram_without_labels_has_only_le(void **state)
{
    static const double bounds[] = {8};

    (void)state;
    metric_observe(metric_histogram("t_batch", "Batch.", "", bounds, 1), 3);
    assert_rendered("t_batch_bucket{le=\"8\"} 1\nt_batch_bucket{le=\"+Inf\"} 1\nt_batch_sum 3\n"
                    "t_batch_count 1\n");
}

static void the_bounds_of_stages_ascend_from_20_us_to_1_s(void **state)
{
    (void)state;
    assert_true(metric_stage_bounds[0] == 20e-6);
    assert_true(metric_stage_bounds[METRIC_STAGE_BOUNDS_N - 1] == 1);
    for (int i = 1; i < METRIC_STAGE_BOUNDS_N; i++)
        assert_true(metric_stage_bounds[i - 1] < metric_stage_bounds[i]);
}

static double read_double(void *arg)
{
    return *(double *)arg;
}

static void a_gauge_is_read_when_it_is_scraped(void **state)
{
    static double v = 1.5, other = 7;
    int id = metric_gauge("t_gauge", "Gauge.", "", read_double, &v);

    (void)state;
    assert_rendered("# TYPE t_gauge gauge\nt_gauge 1.5\n");
    v = -INFINITY;
    assert_rendered("t_gauge -Inf\n");
    v = NAN;
    assert_rendered("t_gauge NaN\n");
    assert_int_equal(metric_gauge("t_gauge", "Gauge.", "", read_double, &other), id);
    assert_rendered("t_gauge 7\n");
}

static void write_two(struct buf *out, void *arg)
{
    buf_printf(out, "t_info{name=\"%s\"} 1\nt_info{name=\"b\"} 1\n", (const char *)arg);
}

static void a_written_family_gets_its_heading(void **state)
{
    static char first[] = "a";

    (void)state;
    metric_family("t_info", "Info.", write_two, first);
    assert_rendered("# HELP t_info Info.\n# TYPE t_info gauge\nt_info{name=\"a\"} 1\n"
                    "t_info{name=\"b\"} 1\n");
}

/* A gauge that itself asks for a counter's value must not wait for a lock the scrape holds. */
static double read_value(void *arg)
{
    return (double)metric_value(*(int *)arg);
}

static void a_gauge_may_ask_for_other_metrics(void **state)
{
    static int id;

    (void)state;
    id = metric_counter("t_asked_total", "Asked.", "");
    metric_add(id, 3);
    metric_gauge("t_asking", "Asking.", "", read_value, &id);
    assert_rendered("t_asking 3\n");
}

/* ---- threads ------------------------------------------------------------------- */

enum { THREADS = 4, ROUNDS = 50000 };

struct counting {
    int counter, histogram;
};

static void *count_many(void *arg)
{
    const struct counting *c = arg;

    for (int i = 0; i < ROUNDS; i++) {
        metric_add(c->counter, 2);
        metric_observe(c->histogram, i % 2 == 0 ? 0.25 : 4);
    }
    return NULL;
}

static void threads_count_without_loss_and_leave_their_sums_behind(void **state)
{
    static const double bounds[] = {1};
    struct counting c = {metric_counter("t_threads_total", "Threads.", ""),
                         metric_histogram("t_threads_seconds", "Threads.", "", bounds, 1)};
    pthread_t threads[THREADS];
    uint64_t last = 0;

    (void)state;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, count_many, &c);
        for (int i = 0; i < 50; i++) { /* scrapes meanwhile never go backwards */
            uint64_t now = metric_value(c.counter);
            struct buf out = BUF_INIT;

            assert_true(now >= last);
            last = now;
            metrics_render(&out);
            buf_clear(&out);
        }
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    assert_int_equal(metric_value(c.counter), 2 * 2 * THREADS * ROUNDS);
    assert_int_equal(metric_value(c.histogram), 2 * THREADS * ROUNDS);
    assert_rendered("t_threads_seconds_bucket{le=\"1\"} 200000\n"
                    "t_threads_seconds_bucket{le=\"+Inf\"} 400000\n"
                    "t_threads_seconds_sum 850000\n"
                    "t_threads_seconds_count 400000\n");
}

/* ---- the process --------------------------------------------------------------- */

static void the_figures_of_the_process_are_plausible(void **state)
{
    double now = (double)clock_wall_ms() * 1e-3, started, fds;
    int fd;

    (void)state;
    metrics_register_process();
    metrics_register_process();
    assert_rendered("# TYPE process_cpu_seconds_total counter\n");
    assert_true(sample("process_cpu_seconds_total") > 0);
    assert_true(sample("process_resident_memory_bytes") >
                sample("recalld_resident_anonymous_bytes"));
    assert_true(sample("recalld_resident_anonymous_bytes") > 100000);
    assert_true(sample("process_max_fds") >= 16);
    started = sample("process_start_time_seconds");
    assert_true(started > now - 600 && started < now + 1);
    fds = sample("process_open_fds");
    assert_true(fds >= 3);
    fd = dup(STDERR_FILENO);
    assert_true(sample("process_open_fds") == fds + 1);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_counter_counts),
        cmocka_unit_test(registering_the_same_again_is_the_same_metric),
        cmocka_unit_test(a_family_stays_together_whoever_registered_it_when),
        cmocka_unit_test(a_histogram_puts_a_value_on_a_bound_below_it),
        cmocka_unit_test(a_histogram_without_labels_has_only_le),
        cmocka_unit_test(the_bounds_of_stages_ascend_from_20_us_to_1_s),
        cmocka_unit_test(a_gauge_is_read_when_it_is_scraped),
        cmocka_unit_test(a_written_family_gets_its_heading),
        cmocka_unit_test(a_gauge_may_ask_for_other_metrics),
        cmocka_unit_test(threads_count_without_loss_and_leave_their_sums_behind),
        cmocka_unit_test(the_figures_of_the_process_are_plausible),
    };

    return cmocka_run_group_tests_name("metrics", tests, NULL, NULL);
}
