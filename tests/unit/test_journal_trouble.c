/* The journal where the clock is set, and where a disk takes data that it cannot keep: two system
 * calls that this program answers itself. */
#include "journal_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "recalld/metrics.h"

static _Atomic int64_t wall_shift_s; /* by so much the wall clock is wrong */
static atomic_int sync_errno;        /* what a sync ends with; 0 = as it really ends */

int clock_gettime(clockid_t clock, struct timespec *t)
{
    int result = (int)syscall(SYS_clock_gettime, clock, t);

    if (clock == CLOCK_REALTIME)
        t->tv_sec += (time_t)wall_shift_s;
    return result;
}

int fdatasync(int fd)
{
    if (sync_errno == 0)
        return (int)syscall(SYS_fdatasync, fd);
    errno = sync_errno;
    return -1;
}

static int finish_all(void **state)
{
    wall_shift_s = 0;
    sync_errno = 0;
    return finish(state);
}

#define IN_TROUBLE(test) cmocka_unit_test_setup_teardown(test, begin, finish_all)
#define HOUR_S 3600
#define DAY_S 86400

/* ---- reading it all ----------------------------------------------------------------------------
 */

#define NUMBERS 100000

/* How many different numbers the journal holds, each of them once, in whatever order. */
static int numbers(const char *dir)
{
    struct err err = ERR_INIT;
    struct journal_reader *r = journal_reader_open(JOURNAL_SERVED, &dir, 1, &err);
    bool *seen = xcalloc(NUMBERS, sizeof *seen);
    const char *line;
    int n = 0, got;
    size_t len;

    if (r == NULL)
        fail_msg("%s", err.text);
    while ((got = journal_reader_next(r, &line, &len, &err)) == 1) {
        long number = strtol(line + strlen("{\"n\":"), NULL, 10);

        assert_in_range(number, 0, NUMBERS - 1);
        assert_false(seen[number]);
        seen[number] = true;
        n++;
    }
    assert_int_equal(got, 0);
    journal_reader_free(r);
    free(seen);
    return n;
}

static uint64_t written(void)
{
    return metric_value(metric_counter("recalld_journal_lines_total", "Lines written to a file.",
                                       "kind=\"served\""));
}

/* Files begun by this process. */
static uint64_t begun(void)
{
    return metric_value(journal_files);
}

static bool push_long(struct journal_ring *r, int n)
{
    char line[400];
    int len = snprintf(line, sizeof line, "{\"n\":%d,\"more\":\"%0300d\"}\n", n, 0);

    return journal_push(r, line, (size_t)len);
}

/* Pushes the numbers from `n` on until one more file was begun; returns the next number. */
static int fill_a_file(struct journal_ring *r, int n)
{
    for (uint64_t most = begun() + 1; begun() < most; n++) {
        uint64_t lines = written();

        assert_in_range(n, 0, NUMBERS - 1);
        assert_true(push_long(r, n));
        WAIT_FOR(written() > lines);
    }
    return n;
}

/* ---- the clock is set -------------------------------------------------------------------------
 */

static void a_clock_that_goes_back_costs_no_line_and_no_file(void **state)
{
    static const int64_t shifts[] = {0, -HOUR_S, -DAY_S, 5, -40LL * 365 * DAY_S, 0};
    struct place *p = *state;
    struct journal_ring *r;
    int n = 0;

    set(p, "--journal.rotate_bytes=1K");
    p->cfg->journal_compress = JOURNAL_GZIP;
    p->cfg->journal_retain_days = 0;
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    for (size_t i = 0; i < ARRAY_LEN(shifts); i++) {
        wall_shift_s = shifts[i];
        n = fill_a_file(r, n);
    }
    WAIT_FOR(files(p->dir, ".gz") == ARRAY_LEN(shifts) - 1 && files(p->dir, ".tmp") == 0);
    WAIT_FOR(files(p->dir, "served-") == ARRAY_LEN(shifts)); /* the last one is open */
    close_it(p);
    assert_int_equal(numbers(p->dir), n);
    assert_int_equal(journal_lost(), 0);
}

static void a_file_is_as_long_open_as_it_should_whatever_the_clock_says(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    uint64_t began;
    int n;

    set(p, "--journal.rotate_s=1");
    p->cfg->journal_retain_days = 0;
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    n = fill_a_file(r, 0);
    began = clock_ns();
    wall_shift_s = -DAY_S; /* it is not a day longer */
    n = fill_a_file(r, n);
    wall_shift_s = DAY_S; /* nor over at once */
    n = fill_a_file(r, n);
    assert_true(clock_ns() - began > 1800000000ull);
    close_it(p);
    assert_int_equal(numbers(p->dir), n);
}

/* By the clock all files are too old now; the one that is written stays. */
static void the_file_being_written_stays_when_the_clock_jumps_ahead(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    int n;

    set(p, "--journal.rotate_bytes=1K");
    p->cfg->journal_retain_days = 1;
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    n = fill_a_file(r, 0);
    wall_shift_s = 40 * DAY_S;
    n = fill_a_file(r, n); /* the keeper looks now */
    WAIT_FOR(files(p->dir, "served-") == 1);
    assert_true(push_number(r, n));
    close_it(p);
    assert_in_range(numbers(p->dir), 1, n);
}

/* ---- a sync fails -----------------------------------------------------------------------------
 */

static uint64_t failures(void)
{
    return metric_value(metric_counter("recalld_journal_sync_failures_total",
                                       "Syncs that failed: what they were for may be lost.", ""));
}

/* What goes to stderr from now on, to this file. */
static int stderr_to(const char *path)
{
    int was = dup(STDERR_FILENO), fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_true(was != -1 && dup2(fd, STDERR_FILENO) != -1);
    close(fd);
    return was;
}

static void stderr_back(int was)
{
    dup2(was, STDERR_FILENO);
    close(was);
}

/* Until so many more syncs have failed, with a line for each. */
static int fail_syncs(struct journal_ring *r, int n, uint64_t times)
{
    for (uint64_t most = failures() + times; failures() < most; n++) {
        uint64_t before = failures();

        assert_true(push_number(r, n)); /* nobody waits, nothing is dropped */
        WAIT_FOR(failures() > before);
    }
    return n;
}

static void a_sync_that_fails_is_counted_and_logged_and_costs_no_line(void **state)
{
    static const int errors[] = {EIO, ENOSPC};
    struct place *p = *state;
    char *path = path_join(p->root, "log");
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;
    struct journal_ring *r;
    int n = 0, was;

    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    was = stderr_to(path);
    for (size_t i = 0; i < ARRAY_LEN(errors); i++) {
        sync_errno = errors[i];
        n = fail_syncs(r, n, 3);
        sync_errno = 0;
        assert_true(push_number(r, n++));
    }
    close_it(p);
    stderr_back(was);
    assert_int_equal(file_read(path, 1 << 20, &text, &err), 0);
    assert_non_null(strstr(buf_cstr(&text), "journal_sync_failed file="));
    assert_non_null(strstr(buf_cstr(&text), strerror(EIO)));
    assert_int_equal(numbers(p->dir), n);
    assert_int_equal(journal_lost(), 0);
    buf_clear(&text);
    free(path);
}

static void after_a_failed_sync_a_new_file_is_begun_but_not_one_for_each(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    uint64_t lines = written();
    int n = 0;

    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, n++));
    WAIT_FOR(written() > lines && !atomic_load(&p->journal->open[JOURNAL_SERVED]->dirty));
    nap(); /* dirty is cleared right before the sync */
    sync_errno = EIO;
    n = fail_syncs(r, n, 1);
    WAIT_FOR(push_number(r, n++) && files(p->dir, "served-") == 2);
    n = fail_syncs(r, n, 20);
    assert_int_equal(files(p->dir, "served-"), 2);
    close_it(p);
    assert_int_equal(numbers(p->dir), n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_TROUBLE(a_clock_that_goes_back_costs_no_line_and_no_file),
        IN_TROUBLE(a_file_is_as_long_open_as_it_should_whatever_the_clock_says),
        IN_TROUBLE(the_file_being_written_stays_when_the_clock_jumps_ahead),
        IN_TROUBLE(a_sync_that_fails_is_counted_and_logged_and_costs_no_line),
        IN_TROUBLE(after_a_failed_sync_a_new_file_is_begun_but_not_one_for_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
