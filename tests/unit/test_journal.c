/* test_journal.c - records, rings, files, what happens when the disk takes nothing, and reading it
 * all again. */
#include "journal_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "recalld/metrics.h"

#define STR(literal) ((struct str){literal, sizeof(literal) - 1})

static void assert_text(struct str s, const char *text)
{
    assert_int_equal(s.len, strlen(text));
    assert_memory_equal(s.p, text, s.len);
}

/* ---- records ----------------------------------------------------------------------------- */

static const struct str items[] = {{"a", 1}, {"b\"\n", 3}, {"ü", 2}};
static const float scores[] = {0.8123456f, -0.25f, 3};
static const int by[] = {2, 0, 13};
static const struct journal_pair arms[] = {{{"model", 5}, {"v3", 2}}, {{"merge", 5}, {"max", 3}}};
static const struct str degraded[] = {{"effort_1", 8}, {"short_candidates", 16}};

static struct journal_served a_served(void)
{
    return (struct journal_served){
        .ts_ms = 1764000000123,
        .serve_id = STR("s-1"),
        .request_id = STR("r-1"),
        .user_id = STR("u42"),
        .scene = STR("home"),
        .arms = arms,
        .n_arms = 2,
        .hash = STR("growthbook-v2"),
        .experiments = 7,
        .bundle = STR("n@v"),
        .settings = STR("{\"n\":3,\"merge\":\"quota\"}"),
        .source = STR("model"),
        .degraded = degraded,
        .n_degraded = 2,
        .history = 37,
        .interests = 4,
        .sample = 1,
        .took_us = 912,
        .items = items,
        .n_items = 3,
        .scores = scores,
        .by = by,
        .n_scores = 3,
    };
}

static void a_served_record_is_written_as_documented(void **state)
{
    struct journal_served s = a_served();
    struct buf line = BUF_INIT;

    (void)state;
    journal_served_encode(&line, &s);
    assert_string_equal(
        buf_cstr(&line),
        "{\"v\":1,\"ts_ms\":1764000000123,\"serve_id\":\"s-1\",\"request_id\":\"r-1\","
        "\"user_id\":\"u42\",\"scene\":\"home\",\"arms\":{\"model\":\"v3\",\"merge\":\"max\"},"
        "\"hash\":\"growthbook-v2\",\"forced\":false,\"experiments\":7,\"bundle\":\"n@v\","
        "\"settings\":{\"n\":3,\"merge\":\"quota\"},\"source\":\"model\","
        "\"degraded\":[\"effort_1\",\"short_candidates\"],\"history\":37,\"interests\":4,"
        "\"sample\":1,\"took_us\":912,\"items\":[\"a\",\"b\\\"\\n\",\"ü\"],"
        "\"scores\":[0.812345624,-0.25,3],\"by\":[2,0,13]}\n");
    buf_clear(&line);
}

static void what_is_decoded_is_what_was_encoded(void **state)
{
    struct journal_served s = a_served(), back;
    struct arena arena = ARENA_INIT;
    struct err err = ERR_INIT;
    struct buf line = BUF_INIT;

    (void)state;
    journal_served_encode(&line, &s);
    assert_int_equal(journal_served_decode(line.p, line.len, &arena, &back, &err), 0);
    assert_int_equal(back.ts_ms, s.ts_ms);
    assert_text(back.user_id, "u42");
    assert_int_equal(back.n_arms, 2);
    assert_text(back.arms[0].name, "model");
    assert_text(back.arms[1].value, "max");
    assert_text(back.settings, "{\"n\":3,\"merge\":\"quota\"}");
    assert_int_equal(back.experiments, 7);
    assert_int_equal(back.took_us, 912);
    assert_int_equal(back.n_items, 3);
    assert_int_equal(back.n_scores, 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(back.items[i].len, items[i].len);
        assert_memory_equal(back.items[i].p, items[i].p, items[i].len);
        assert_memory_equal(&back.scores[i], &scores[i], sizeof(float)); /* to the bit */
        assert_int_equal(back.by[i], by[i]);
    }
    buf_clear(&line);
    arena_clear(&arena);
}

static void an_answer_without_user_or_scores_leaves_them_out(void **state)
{
    struct journal_served s = a_served(), back;
    struct arena arena = ARENA_INIT;
    struct err err = ERR_INIT;
    struct buf line = BUF_INIT;

    (void)state;
    s.user_id.len = s.scene.len = s.settings.len = 0;
    s.n_scores = s.n_arms = s.n_degraded = 0;
    s.sample = 0.25;
    journal_served_encode(&line, &s);
    assert_null(memmem(line.p, line.len, "user_id", 7));
    assert_null(memmem(line.p, line.len, "scene", 5));
    assert_non_null(memmem(line.p, line.len, "\"scores\":[],\"by\":[]}\n", 21));
    assert_int_equal(journal_served_decode(line.p, line.len, &arena, &back, &err), 0);
    assert_int_equal(back.user_id.len, 0);
    assert_int_equal(back.n_items, 3);
    assert_int_equal(back.n_scores, 0);
    assert_true(back.sample == 0.25);
    assert_text(back.settings, "{}");
    buf_clear(&line);
    arena_clear(&arena);
}

static void an_event_survives_the_round_trip(void **state)
{
    struct journal_event e = {.ts_ms = 5,
                              .received_ms = 6,
                              .event = STR("clicked"),
                              .serve_id = STR("s"),
                              .item_id = STR("i"),
                              .position = 3,
                              .event_id = STR("e-1")},
                         back;
    struct arena arena = ARENA_INIT;
    struct err err = ERR_INIT;
    struct buf line = BUF_INIT;

    (void)state;
    journal_event_encode(&line, &e);
    assert_string_equal(buf_cstr(&line),
                        "{\"v\":1,\"ts_ms\":5,\"received_ms\":6,\"event\":\"clicked\","
                        "\"serve_id\":\"s\",\"item_id\":\"i\",\"position\":3,"
                        "\"event_id\":\"e-1\"}\n");
    assert_int_equal(journal_event_decode(line.p, line.len, &arena, &back, &err), 0);
    assert_int_equal(back.position, 3);
    assert_text(back.event_id, "e-1");
    assert_int_equal(back.request_id.len, 0);
    line.len = 0;
    e.position = -1;
    journal_event_encode(&line, &e);
    assert_int_equal(journal_event_decode(line.p, line.len, &arena, &back, &err), 0);
    assert_int_equal(back.position, -1);
    buf_clear(&line);
    arena_clear(&arena);
}

static void a_broken_record_is_refused_with_its_field(void **state)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"{\"v\":1", "column 6: '}' expected near end of file"},
        {"[]", "not a JSON object"},
        {"{}", "v: is missing"},
        {"{\"v\":2}", "v: is a version this program does not know"},
        {"{\"v\":1}", "ts_ms: is missing"},
        {"{\"v\":1,\"ts_ms\":-1}", "ts_ms: is too small"},
        {"{\"v\":1,\"ts_ms\":1,\"received_ms\":1.5}", "received_ms: must be an integer"},
        {"{\"v\":1,\"ts_ms\":1,\"received_ms\":1,\"event\":7}", "event: must be a string"},
        {"{\"v\":1,\"ts_ms\":1,\"received_ms\":1,\"event\":\"\"}", "event: must not be empty"},
        {"{\"v\":1,\"ts_ms\":1,\"received_ms\":1,\"event\":\"x\",\"item_id\":\"i\"}",
         "serve_id: serve_id or request_id is required"},
    };
    struct arena arena = ARENA_INIT;
    struct journal_event e;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;

        assert_int_equal(
            journal_event_decode(cases[i].line, strlen(cases[i].line), &arena, &e, &err), -1);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_string_equal(err.text, cases[i].text);
    }
    arena_clear(&arena);
}

static void scores_must_be_as_many_as_the_items(void **state)
{
    struct journal_served s = a_served(), back;
    struct arena arena = ARENA_INIT;
    struct err err = ERR_INIT;
    struct buf line = BUF_INIT;

    (void)state;
    s.n_items = 2;
    journal_served_encode(&line, &s);
    assert_int_equal(journal_served_decode(line.p, line.len, &arena, &back, &err), -1);
    assert_string_equal(err.text, "scores: must be as many as the items, or none");
    buf_clear(&line);
    arena_clear(&arena);
}

/* ---- helpers ------------------------------------------------------------------------------- */

/* The path of the only file, or of the first with this in its name. */
static char *file_with(const char *dir, const char *with)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    char *path = NULL;

    while (path == NULL && (e = readdir(d)) != NULL)
        if (strstr(e->d_name, with) != NULL)
            path = path_join(dir, e->d_name);
    closedir(d);
    assert_non_null(path);
    return path;
}

static void assert_mode_0640(const char *dir, const char *with)
{
    char *path = file_with(dir, with);
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    free(path);
}

/* Reads all lines, which must be numbers in a row from `first`; returns how many. */
static int read_numbers(const char *path, int first, uint64_t *torn)
{
    struct err err = ERR_INIT;
    struct journal_reader *r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
    struct journal_progress progress;
    const char *line;
    size_t len;
    int n = first, got;

    if (r == NULL)
        fail_msg("%s", err.text);
    while ((got = journal_reader_next(r, &line, &len, &err)) == 1) {
        char *end;

        assert_memory_equal(line, "{\"n\":", 5);
        assert_int_equal(strtol(line + 5, &end, 10), n);
        assert_ptr_equal(end, line + len - 1);
        n++;
    }
    if (got == -1)
        fail_msg("%s", err.text);
    journal_reader_progress(r, &progress);
    assert_int_equal(progress.lines, n - first);
    assert_int_equal(progress.bytes, progress.bytes_total);
    if (torn != NULL)
        *torn = progress.torn;
    journal_reader_free(r);
    return n - first;
}

static uint64_t dropped(const char *labels)
{
    return metric_value(metric_counter("recalld_journal_dropped_total",
                                       "Lines that were not written, by reason.", labels));
}

static uint64_t written(void)
{
    return metric_value(metric_counter("recalld_journal_lines_total", "Lines written to a file.",
                                       "kind=\"served\""));
}

/* ---- writing and reading --------------------------------------------------------------------- */

static void what_is_pushed_can_be_read(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    uint64_t torn;

    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    for (int i = 0; i < 1000; i++)
        assert_true(push_number(r, i));
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 0, &torn), 1000);
    assert_int_equal(torn, 0);
}

static void without_a_folder_the_journal_is_off(void **state)
{
    struct place *p = *state;
    struct journal_event e = {.event = STR("x")};
    struct buf scratch = BUF_INIT;

    free(p->cfg->journal_dir);
    p->cfg->journal_dir = xstrdup("");
    open_it(p);
    assert_null(p->journal);
    assert_null(journal_ring(NULL, JOURNAL_SERVED));
    assert_false(journal_push(NULL, "x\n", 2));
    assert_false(journal_samples(NULL, STR("u"), "r"));
    assert_int_equal(journal_event_add(NULL, &e, &scratch), JOURNAL_OFF);
    journal_close(NULL);
}

static void lines_longer_than_the_ring_is_round_are_whole(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    int n = 0;

    set(p, "--journal.ring_bytes=64K");
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    while (n < 50000) /* some 600 KB through 64 KB */
        if (push_number(r, n))
            n++;
        else
            nap();
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 0, NULL), n);
}

static void a_full_ring_drops_and_counts(void **state)
{
    struct place *p = *state;
    uint64_t before = 0, full = 0;
    struct journal_ring *r;
    char line[20000];

    set(p, "--journal.ring_bytes=64K");
    open_it(p);
    before = dropped("kind=\"served\",reason=\"ring_full\"");
    r = journal_ring(p->journal, JOURNAL_SERVED);
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 1000 && full == 0; i++)
        full += !journal_push(r, line, sizeof line);
    assert_int_equal(full, 1);
    assert_int_equal(dropped("kind=\"served\",reason=\"ring_full\"") - before, 1);
    assert_false(journal_push(r, line, 40000)); /* more than half a ring never fits */
    close_it(p);
}

struct producer {
    struct journal *journal;
    int id, n;
};

static void *produce(void *arg)
{
    struct producer *p = arg;
    struct journal_ring *r = journal_ring(p->journal, JOURNAL_SERVED);

    for (int i = 0; i < p->n; i++) {
        char line[64];
        int len = snprintf(line, sizeof line, "%d %d\n", p->id, i);

        while (!journal_push(r, line, (size_t)len))
            nap();
    }
    return NULL;
}

static void every_producer_has_a_ring_and_loses_nothing(void **state)
{
    struct place *p = *state;
    struct producer producers[4];
    pthread_t threads[4];
    int next[4] = {0};
    struct err err = ERR_INIT;
    struct journal_reader *r;
    const char *line, *path = p->dir;
    size_t len;

    set(p, "--journal.rotate_bytes=20000");
    open_it(p);
    for (int i = 0; i < 4; i++) {
        producers[i] = (struct producer){p->journal, i, 20000};
        pthread_create(&threads[i], NULL, produce, &producers[i]);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    close_it(p);
    r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
    assert_non_null(r);
    while (journal_reader_next(r, &line, &len, &err) == 1) {
        int id = line[0] - '0';

        assert_in_range(id, 0, 3);
        assert_int_equal(atoi(line + 2), next[id]++); /* each one's in its order */
    }
    for (int i = 0; i < 4; i++)
        assert_int_equal(next[i], 20000);
    journal_reader_free(r);
}

/* ---- files ------------------------------------------------------------------------------------
 */

static void a_file_is_begun_when_one_is_large_enough(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;

    set(p, "--journal.rotate_bytes=1K");
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    for (int i = 0; i < 400; i += 200) {
        for (int k = 0; k < 200; k++)
            assert_true(push_number(r, i + k));
        WAIT_FOR(files(p->dir, "served-") == (size_t)i / 200 + 1);
    }
    close_it(p);
    assert_int_equal(files(p->dir, "served-"), 2);
    assert_int_equal(read_numbers(p->dir, 0, NULL), 400);
}

static void a_file_is_begun_when_one_is_old_enough(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;

    set(p, "--journal.rotate_s=1");
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, 0));
    WAIT_FOR(files(p->dir, "served-") == 1);
    for (int n = 1; files(p->dir, "served-") < 2; n++) {
        assert_in_range(n, 1, 30000);
        assert_true(push_number(r, n));
        nap();
    }
    close_it(p);
    assert_true(read_numbers(p->dir, 0, NULL) >= 2);
}

static void closed_files_are_compressed_and_read_alike(void **state)
{
    static const char *const forms[][2] = {{"--journal.compress=gzip", ".jsonl.gz"},
                                           {"--journal.compress=zstd", ".jsonl.zst"}};
    struct place *p = *state;
    int n = 0;
    mode_t mask = umask(022);

    for (size_t form = 0; form < ARRAY_LEN(forms); form++) {
        struct journal_ring *r;

        set(p, forms[form][0]);
        p->cfg->journal_rotate_bytes = 1024;
        open_it(p);
        r = journal_ring(p->journal, JOURNAL_SERVED);
        for (int i = 0; i < 500; i++)
            assert_true(push_number(r, n++));
        WAIT_FOR(files(p->dir, "served-") >= 1);
        nap();
        for (int i = 0; i < 10; i++) { /* makes it look whether the file is over */
            assert_true(push_number(r, n++));
            nap();
        }
        WAIT_FOR(files(p->dir, forms[form][1]) > files(p->dir, ".tmp")); /* whole */
        close_it(p);
        assert_mode_0640(p->dir, forms[form][1]);
        assert_int_equal(read_numbers(p->dir, 0, NULL), n);
    }
    umask(mask);
}

static void what_an_earlier_process_left_is_compressed_too(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char *path;

    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    path = path_join(p->dir, "served-20260101T000000.000Z-000001.jsonl");
    assert_int_equal(file_write(path, "{\"n\":0}\n{\"n\":1}\n{\"n\":", 21, &err), 0);
    free(path);
    path = path_join(p->dir, "served-20260101T000000.000Z-000001.jsonl.zst.0123456789abcdef.tmp");
    assert_int_equal(file_write(path, "half", 4, &err), 0);
    set(p, "--journal.compress=zstd");
    p->cfg->journal_retain_days = 0;
    open_it(p);
    WAIT_FOR(files(p->dir, ".jsonl.zst") == 1 && files(p->dir, ".tmp") == 0);
    WAIT_FOR(files(p->dir, "served-") == 1);
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 0, NULL), 2);
    free(path);
}

static void a_torn_last_line_is_left_out_and_counted(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    struct err err = ERR_INIT;
    char *path;
    uint64_t torn;
    FILE *f;

    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, 0));
    assert_true(push_number(r, 1));
    close_it(p);
    path = file_with(p->dir, "served-");
    f = fopen(path, "a");
    assert_non_null(f);
    fputs("{\"n\":2", f);
    fclose(f);
    assert_int_equal(read_numbers(path, 0, &torn), 2);
    assert_int_equal(torn, 1);
    /* The next process leaves that file as it is and begins another. */
    nap();
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, 2));
    close_it(p);
    assert_int_equal(files(p->dir, "served-"), 2);
    assert_int_equal(read_numbers(p->dir, 0, &torn), 3);
    assert_int_equal(torn, 1);
    free(path);
    (void)err;
}

static void the_oldest_files_go_when_all_take_too_much(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char text[1000];

    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = '\n';
    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    for (int i = 1; i <= 5; i++) {
        char *path = xasprintf("%s/%s-20260%d01T000000.000Z-000001.jsonl", p->dir,
                               i % 2 == 0 ? "events" : "served", i);

        assert_int_equal(file_write(path, text, sizeof text, &err), 0);
        free(path);
    }
    set(p, "--journal.retain_bytes=2500");
    p->cfg->journal_retain_days = 0;
    open_it(p);
    WAIT_FOR(files(p->dir, ".jsonl") == 2);
    close_it(p);
    assert_int_equal(files(p->dir, "events-20260401"), 1);
    assert_int_equal(files(p->dir, "served-20260501"), 1);
}

static void files_go_when_they_are_too_old(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char *old, *foreign;

    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    old = path_join(p->dir, "served-20200101T000000.000Z-000001.jsonl.gz");
    foreign = path_join(p->dir, "served-of-somebody.jsonl");
    assert_int_equal(file_write(old, "x", 1, &err), 0);
    assert_int_equal(file_write(foreign, "x", 1, &err), 0);
    set(p, "--journal.retain_days=30");
    open_it(p);
    WAIT_FOR(access(old, F_OK) == -1);
    close_it(p);
    assert_int_equal(access(foreign, F_OK), 0);
    free(old);
    free(foreign);
}

/* The path of a file of the folder that was begun so long ago, with this text. */
static char *begun(struct place *p, int64_t hours_ago, const char *suffix, const char *text)
{
    time_t then = time(NULL) - hours_ago * 3600;
    char name[96];
    struct err err = ERR_INIT;
    struct tm t;
    char *path;

    gmtime_r(&then, &t);
    strftime(name, sizeof name, "served-%Y%m%dT%H%M%S.000Z-000001.jsonl", &t);
    path = xasprintf("%s/%s%s", p->dir, name, suffix);
    assert_int_equal(file_write(path, text, strlen(text), &err), 0);
    return path;
}

/* Files of a day, kept for a day: one that has just become complete is not a day old. */
static void a_file_is_as_old_as_its_last_line(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char *recent, *old;

    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    recent = begun(p, 25, "", "{\"n\":0}\n");
    old = begun(p, 49, "", "{\"n\":0}\n");
    set(p, "--journal.retain_days=1");
    p->cfg->journal_rotate_s = 86400;
    open_it(p);
    WAIT_FOR(access(old, F_OK) == -1);
    close_it(p);
    assert_int_equal(access(recent, F_OK), 0);
    free(recent);
    free(old);
}

static void a_plain_file_beside_its_compressed_form_is_deleted(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char *plain, *packed;

    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    plain = begun(p, 2, "", "{\"n\":0}\n");
    packed = begun(p, 2, ".zst", "packed");
    open_it(p);
    WAIT_FOR(access(plain, F_OK) == -1);
    close_it(p);
    assert_int_equal(access(packed, F_OK), 0);
    free(plain);
    free(packed);
}

/* The folder was moved away, and another process writes into the one that took its place. */
static void files_of_another_process_are_left_alone(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    char *moved = path_join(p->root, "moved"), *other;
    uint64_t before = written();
    int fd;

    set(p, "--journal.compress=gzip");
    p->cfg->journal_rotate_s = 1;
    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, 0));
    WAIT_FOR(written() > before);
    assert_int_equal(rename(p->dir, moved), 0);
    assert_int_equal(mkdir(p->dir, 0777), 0);
    fd = open(p->dir, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    other = begun(p, 2, "", "{\"n\":0}\n");
    /* The first file becomes complete, which makes the keeper look; the next cannot be begun. */
    WAIT_FOR(push_number(r, 1) && atomic_load(&p->journal->failing));
    for (int i = 0; i < 100; i++)
        nap();
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(files(p->dir, ".gz"), 0);
    close(fd);
    free(other);
    free(moved);
}

static void a_folder_has_one_writing_process(void **state)
{
    struct place *p = *state;
    struct journal *other = NULL;
    struct err err = ERR_INIT;

    open_it(p);
    assert_int_equal(journal_open(&other, p->cfg, &err), -1);
    assert_int_equal(err.code, ERR_CONFLICT);
    assert_non_null(strstr(err.text, "another process writes here"));
    close_it(p);
    open_it(p);
    close_it(p);
}

/* ---- trouble -----------------------------------------------------------------------------------
 */

static void a_file_in_place_of_the_folder_costs_lines_until_it_is_gone(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    struct journal_ring *r;
    uint64_t before, lost;
    int n = 0;

    assert_int_equal(file_write(p->dir, "in the way", 10, &err), 0);
    assert_int_equal(journal_check(p->cfg, &err), -1);
    assert_non_null(strstr(err.text, "not a folder"));
    set(p, "--journal.ring_bytes=64K");
    open_it(p); /* no reason not to serve */
    before = dropped("kind=\"served\",reason=\"write_failed\"");
    r = journal_ring(p->journal, JOURNAL_SERVED);
    while (push_number(r, n)) /* the ring keeps what it can */
        n++;
    for (int i = 0; i < 9; i++)
        assert_false(push_number(r, n));
    lost = dropped("kind=\"served\",reason=\"write_failed\"") - before;
    assert_int_equal(lost, 10);
    assert_int_equal(unlink(p->dir), 0);
    WAIT_FOR(push_number(r, n));
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 0, NULL), n + 1); /* what was pushed before, too */
}

static void a_folder_that_was_removed_is_made_again(void **state)
{
    struct place *p = *state;
    struct journal_ring *r;
    char *command = xasprintf("rm -rf %s", p->dir);
    uint64_t before;
    int n = 2;

    open_it(p);
    before = written();
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_true(push_number(r, 0));
    assert_true(push_number(r, 1));
    WAIT_FOR(written() - before == 2);
    assert_int_equal(system(command), 0);
    while (files(p->dir, "served-") == 0) {
        assert_in_range(n, 2, 15000);
        assert_true(push_number(r, n++));
        nap();
    }
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 2, NULL), n - 2);
    free(command);
}

/* RLIMIT_FSIZE cuts a write short in the middle of a line, as a full disk does. */
static void a_write_that_is_cut_short_leaves_whole_lines_only(void **state)
{
    struct place *p = *state;
    struct rlimit was, little;
    struct journal_ring *r;
    uint64_t torn;
    int n = 0;

    open_it(p);
    r = journal_ring(p->journal, JOURNAL_SERVED);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    little = was;
    little.rlim_cur = 10003; /* where no line ends */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    for (; n < 20000; n++)
        assert_true(push_number(r, n));
    WAIT_FOR(files(p->dir, "served-") >= 3);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    close_it(p);
    assert_int_equal(read_numbers(p->dir, 0, &torn), n);
    assert_int_equal(torn, 0);
}

/* ---- reading ----------------------------------------------------------------------------------
 */

static void damaged_compressed_data_is_refused(void **state)
{
    static const char *const forms[] = {"--journal.compress=gzip", "--journal.compress=zstd"};
    struct place *p = *state;

    for (size_t form = 0; form < ARRAY_LEN(forms); form++) {
        struct journal_reader *reader;
        struct err err = ERR_INIT;
        struct buf bytes = BUF_INIT;
        const char *line, *suffix = form == 0 ? ".gz" : ".zst";
        const char *paths[1];
        char *path;
        size_t len;
        int got;

        assert_int_equal(file_mkdirs(p->dir, &err), 0);
        path = path_join(p->dir, "served-20260101T000000.000Z-000001.jsonl");
        for (int i = 0; i < 5000; i++)
            buf_printf(&bytes, "{\"n\":%d}\n", i * 7919 % 5003);
        assert_int_equal(file_write(path, bytes.p, bytes.len, &err), 0);
        free(path);
        set(p, forms[form]);
        p->cfg->journal_retain_days = 0;
        open_it(p);
        WAIT_FOR(files(p->dir, suffix) == 1 && files(p->dir, ".tmp") == 0);
        WAIT_FOR(files(p->dir, "served-") == 1);
        close_it(p);
        path = file_with(p->dir, suffix);
        assert_int_equal(truncate(path, 3000), 0);
        paths[0] = path;
        reader = journal_reader_open(JOURNAL_SERVED, paths, 1, &err);
        assert_non_null(reader);
        while ((got = journal_reader_next(reader, &line, &len, &err)) == 1) {
        }
        assert_int_equal(got, -1);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_non_null(strstr(err.text, "ends in the middle of compressed data"));
        assert_non_null(strstr(err.text, path));
        journal_reader_free(reader);
        buf_clear(&bytes);
        unlink(path);
        free(path);
    }
}

static void a_reader_can_start_over_and_says_where_it_is(void **state)
{
    struct place *p = *state;
    struct journal_reader *r;
    struct err err = ERR_INIT;
    const char *line, *path;
    size_t len;
    char *file = path_join(p->root, "any name");

    assert_int_equal(file_write(file, "a\n\nb\n", 5, &err), 0);
    path = file;
    r = journal_reader_open(JOURNAL_EVENTS, &path, 1, &err);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(journal_reader_next(r, &line, &len, &err), 1);
        assert_memory_equal(line, "a", len);
        assert_int_equal(journal_reader_next(r, &line, &len, &err), 1);
        assert_memory_equal(line, "b", len);
        assert_non_null(strstr(journal_reader_place(r), "any name:3"));
        assert_int_equal(journal_reader_next(r, &line, &len, &err), 0);
        journal_reader_rewind(r);
    }
    journal_reader_free(r);
    free(file);
}

/* What retention does to a folder that is being read. */
static void a_file_that_is_deleted_meanwhile_is_left_out_and_counted(void **state)
{
    static const char *const suffixes[] = {"", ".gz", ""};
    struct place *p = *state;
    struct journal_progress progress;
    struct err err = ERR_INIT;
    const char *line, *path = p->dir;
    struct journal_reader *r;
    char *files[3];
    size_t len;

    assert_int_equal(file_mkdirs(p->dir, &err), 0);
    for (int i = 0; i < 3; i++) {
        files[i] =
            xasprintf("%s/served-2026010%dT000000.000Z-000001.jsonl%s", p->dir, i + 1, suffixes[i]);
        assert_int_equal(file_write(files[i], i == 2 ? "c\n" : "x\n", 2, &err), 0);
    }
    r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
    unlink(files[0]);
    unlink(files[1]);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(journal_reader_next(r, &line, &len, &err), 1);
        assert_memory_equal(line, "c", len);
        assert_int_equal(journal_reader_next(r, &line, &len, &err), 0);
        journal_reader_progress(r, &progress);
        assert_true(progress.gone == 2 && progress.files == 3 && progress.lines == 1);
        assert_int_equal(progress.bytes, progress.bytes_total);
        journal_reader_rewind(r);
    }
    journal_reader_free(r);
    for (int i = 0; i < 3; i++)
        free(files[i]);
}

/* Neither a file that cannot be read, nor a damaged one that has taken the place of a plain one. */
static void what_is_there_is_never_left_out(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    const char *line, *path = p->dir;
    char *plain = path_join(p->dir, "served-20260101T000000.000Z-000001.jsonl");
    char *packed = xasprintf("%s.zst", plain);
    size_t len;

    for (int damage = 0; damage < 2; damage++) {
        struct journal_reader *r;

        assert_int_equal(file_mkdirs(p->dir, &err), 0);
        assert_int_equal(file_write(plain, "x\n", 2, &err), 0);
        r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
        unlink(plain);
        if (damage == 0)
            assert_int_equal(file_write(packed, "\x28\xb5\x2f\xfd", 4, &err), 0);
        else
            assert_int_equal(mkdir(packed, 0755), 0);
        assert_int_equal(journal_reader_next(r, &line, &len, &err), -1);
        assert_int_equal(err.code, damage == 0 ? ERR_FORMAT : ERR_IO);
        assert_non_null(strstr(err.text, packed));
        err_clear(&err);
        journal_reader_free(r);
        remove(packed);
    }
    free(plain);
    free(packed);
}

static void what_is_not_there_cannot_be_read(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    const char *path = p->dir;

    assert_null(journal_reader_open(JOURNAL_SERVED, &path, 1, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    err_clear(&err);
    path = p->root;
    assert_null(journal_reader_open(JOURNAL_SERVED, &path, 1, &err));
    assert_non_null(strstr(err.text, "no served-*.jsonl file in this folder"));
}

static void a_line_without_end_is_refused(void **state)
{
    struct place *p = *state;
    struct journal_reader *r;
    struct err err = ERR_INIT;
    size_t len = JOURNAL_LINE_MAX + (2 << 20);
    char *text = xmalloc(len), *file = path_join(p->root, "long");
    const char *line, *path = file;

    memset(text, 'x', len);
    assert_int_equal(file_write(file, text, len, &err), 0);
    r = journal_reader_open(JOURNAL_SERVED, &path, 1, &err);
    assert_int_equal(journal_reader_next(r, &line, &len, &err), -1);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_non_null(strstr(err.text, "long:1: the line is longer than"));
    journal_reader_free(r);
    free(text);
    free(file);
}

/* ---- users and events -------------------------------------------------------------------------
 */

static void users_are_hashed_with_the_key(void **state)
{
    struct place *p = *state;
    struct err err = ERR_INIT;
    char *key = path_join(p->root, "key"), *arg = xasprintf("--journal.user_key_file=%s", key);
    char room[JOURNAL_USER_ROOM];

    assert_int_equal(file_write(key, "0123456789abcdef\n", 17, &err), 0);
    set(p, arg);
    open_it(p);
    assert_text(journal_user(p->journal, STR("u42"), room), "u42");
    close_it(p);
    p->cfg->journal_user = JOURNAL_USER_HMAC;
    open_it(p);
    /* printf u42 | openssl dgst -sha256 -hmac 0123456789abcdef */
    assert_text(journal_user(p->journal, STR("u42"), room), "6991c84fcc5c109a790d76af983074a4");
    assert_int_equal(journal_user(p->journal, STR(""), room).len, 0);
    close_it(p);
    assert_int_equal(file_write(key, "short\n", 6, &err), 0);
    assert_int_equal(journal_open(&p->journal, p->cfg, &err), -1);
    assert_non_null(strstr(err.text, "a key has 16 bytes at least"));
    free(key);
    free(arg);
}

static void a_sample_holds_whole_users_in_its_share(void **state)
{
    struct place *p = *state;
    int in = 0;

    set(p, "--journal.sample=0.25");
    open_it(p);
    assert_true(journal_sample(p->journal) == 0.25);
    for (int i = 0; i < 10000; i++) {
        char id[16];
        struct str user = {id, (size_t)snprintf(id, sizeof id, "u%d", i)};
        bool first = journal_samples(p->journal, user, "a");

        assert_int_equal(first, journal_samples(p->journal, user, "b"));
        in += first;
    }
    close_it(p);
    assert_in_range(in, 2300, 2700); /* 2500 +- 4.6 standard deviations */
}

static void an_event_id_that_comes_again_is_a_duplicate(void **state)
{
    struct place *p = *state;
    struct journal_event e = {
        .event = STR("clicked"), .serve_id = STR("s"), .item_id = STR("i"), .position = -1};
    struct buf scratch = BUF_INIT;
    struct err err = ERR_INIT;
    struct journal_reader *r;
    const char *line, *path = p->dir;
    size_t len;
    int lines = 0;

    open_it(p);
    e.event_id = STR("e-1");
    assert_int_equal(journal_event_add(p->journal, &e, &scratch), JOURNAL_ACCEPTED);
    assert_int_equal(journal_event_add(p->journal, &e, &scratch), JOURNAL_DUPLICATE);
    e.event_id = STR("e-2");
    assert_int_equal(journal_event_add(p->journal, &e, &scratch), JOURNAL_ACCEPTED);
    e.event_id.len = 0; /* without one there is nothing to compare */
    assert_int_equal(journal_event_add(p->journal, &e, &scratch), JOURNAL_ACCEPTED);
    assert_int_equal(journal_event_add(p->journal, &e, &scratch), JOURNAL_ACCEPTED);
    close_it(p);
    r = journal_reader_open(JOURNAL_EVENTS, &path, 1, &err);
    assert_non_null(r);
    while (journal_reader_next(r, &line, &len, &err) == 1)
        lines++;
    assert_int_equal(lines, 4);
    journal_reader_free(r);
    buf_clear(&scratch);
}

static struct str numbered(char room[16], size_t i)
{
    return (struct str){room, (size_t)snprintf(room, 16, "e-%zu", i)};
}

static void the_newest_event_ids_are_remembered_and_old_ones_forgotten(void **state)
{
    enum { NEWEST = 1 << 12 };
    struct journal_seen *s = journal_seen_new(NEWEST);
    char room[16];

    (void)state;
    for (size_t i = 0; i < 3 * NEWEST; i++) {
        assert_false(journal_seen_has(s, numbered(room, i)));
        journal_seen_add(s, numbered(room, i));
        if (i >= NEWEST)
            assert_true(journal_seen_has(s, numbered(room, i - NEWEST + 1)));
        if (i >= 2 * NEWEST)
            assert_false(journal_seen_has(s, numbered(room, i - 2 * NEWEST)));
    }
    journal_seen_free(s);
}

static void an_event_that_found_no_room_is_no_duplicate_later(void **state)
{
    struct place *p = *state;
    struct journal_event e = {.event = STR("clicked"), .serve_id = STR("s"), .position = -1};
    struct buf scratch = BUF_INIT;
    enum journal_outcome outcome;
    char item[20000];
    char id[16];

    memset(item, 'x', sizeof item);
    set(p, "--journal.ring_bytes=64K");
    open_it(p);
    e.item_id = (struct str){item, sizeof item};
    for (int i = 0;; i++) {
        e.event_id = (struct str){id, (size_t)snprintf(id, sizeof id, "%d", i)};
        outcome = journal_event_add(p->journal, &e, &scratch);
        if (outcome == JOURNAL_FULL)
            break;
        assert_int_equal(outcome, JOURNAL_ACCEPTED);
    }
    WAIT_FOR((outcome = journal_event_add(p->journal, &e, &scratch)) != JOURNAL_FULL);
    assert_int_equal(outcome, JOURNAL_ACCEPTED);
    close_it(p);
    buf_clear(&scratch);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_served_record_is_written_as_documented),
        cmocka_unit_test(what_is_decoded_is_what_was_encoded),
        cmocka_unit_test(an_answer_without_user_or_scores_leaves_them_out),
        cmocka_unit_test(an_event_survives_the_round_trip),
        cmocka_unit_test(a_broken_record_is_refused_with_its_field),
        cmocka_unit_test(scores_must_be_as_many_as_the_items),
        IN_PLACE(what_is_pushed_can_be_read),
        IN_PLACE(without_a_folder_the_journal_is_off),
        IN_PLACE(lines_longer_than_the_ring_is_round_are_whole),
        IN_PLACE(a_full_ring_drops_and_counts),
        IN_PLACE(every_producer_has_a_ring_and_loses_nothing),
        IN_PLACE(a_file_is_begun_when_one_is_large_enough),
        IN_PLACE(a_file_is_begun_when_one_is_old_enough),
        IN_PLACE(closed_files_are_compressed_and_read_alike),
        IN_PLACE(what_an_earlier_process_left_is_compressed_too),
        IN_PLACE(a_torn_last_line_is_left_out_and_counted),
        IN_PLACE(the_oldest_files_go_when_all_take_too_much),
        IN_PLACE(files_go_when_they_are_too_old),
        IN_PLACE(a_file_is_as_old_as_its_last_line),
        IN_PLACE(a_plain_file_beside_its_compressed_form_is_deleted),
        IN_PLACE(files_of_another_process_are_left_alone),
        IN_PLACE(a_folder_has_one_writing_process),
        IN_PLACE(a_file_in_place_of_the_folder_costs_lines_until_it_is_gone),
        IN_PLACE(a_folder_that_was_removed_is_made_again),
        IN_PLACE(a_write_that_is_cut_short_leaves_whole_lines_only),
        IN_PLACE(damaged_compressed_data_is_refused),
        IN_PLACE(a_reader_can_start_over_and_says_where_it_is),
        IN_PLACE(a_file_that_is_deleted_meanwhile_is_left_out_and_counted),
        IN_PLACE(what_is_there_is_never_left_out),
        IN_PLACE(what_is_not_there_cannot_be_read),
        IN_PLACE(a_line_without_end_is_refused),
        IN_PLACE(users_are_hashed_with_the_key),
        IN_PLACE(a_sample_holds_whole_users_in_its_share),
        IN_PLACE(an_event_id_that_comes_again_is_a_duplicate),
        cmocka_unit_test(the_newest_event_ids_are_remembered_and_old_ones_forgotten),
        IN_PLACE(an_event_that_found_no_room_is_no_duplicate_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
