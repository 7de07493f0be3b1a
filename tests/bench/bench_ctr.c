/* bench_ctr.c - how fast recallctl ctr reads answers:
 *
 *     bench_ctr [MB [FOLDER]]
 *
 * Writes a journal of so many MB (default 400) of answers of 200 items into FOLDER (default /tmp),
 * each a line of about 4 KB, ten exposed items and a click for every answer, and reads it in rounds
 * that take turns: looking for line ends alone (memchr), the journal's reader alone, the report
 * without events, the report with them. Prints MB of answers per second of this thread's CPU time,
 * the median of the rounds and their spread, and the share of memchr's speed. */
#include "recalld/ctr.h"
#include "recalld/journal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ITEMS 200
#define EXPOSED 10
#define ROUNDS 5

static _Noreturn void die(const char *text)
{
    fprintf(stderr, "bench_ctr: %s\n", text);
    exit(1);
}

static double cpu_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t seed = 88172645463325252u;

static uint32_t any(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

/* ---- a journal ----------------------------------------------------------------------- */

static struct str text(const char *s)
{
    return (struct str){s, strlen(s)};
}

static void put_events(struct buf *events, const struct journal_served *s)
{
    for (int i = 0; i <= EXPOSED; i++) {
        struct journal_event e = {
            .ts_ms = s->ts_ms + 1000 * (i + 1),
            .received_ms = s->ts_ms + 1000 * (i + 1) + 20,
            .event = text(i < EXPOSED ? "exposed" : "clicked"),
            .serve_id = s->serve_id,
            .item_id = s->items[i < EXPOSED ? any(ITEMS) : 0],
            .user_id = s->user_id,
            .position = i % EXPOSED,
        };

        journal_event_encode(events, &e);
    }
}

static void put_answer(struct buf *served, struct buf *events, int64_t number)
{
    static char ids[ITEMS][16];
    struct str items[ITEMS];
    float scores[ITEMS];
    int by[ITEMS];
    char serve[UUID_LEN + 1], request[UUID_LEN + 1], user[32];
    uint32_t who = any(200000);
    const struct journal_pair arms[] = {{text("model"), text(who % 2 ? "control" : "mind-v3")},
                                        {text("merge"), text(who % 3 ? "max" : "diverse")}};

    uuid7(serve);
    uuid7(request);
    snprintf(user, sizeof user, "user-%u", who);
    for (int i = 0; i < ITEMS; i++) {
        snprintf(ids[i], sizeof ids[i], "%u", 1000000 + any(8000000));
        items[i] = text(ids[i]);
        scores[i] = 1 - (float)any(1 << 20) / (1 << 20);
        by[i] = (int)any(4);
    }
    struct journal_served s = {
        .ts_ms = 1780000000000 + number * 10,
        .serve_id = text(serve),
        .request_id = text(request),
        .user_id = text(user),
        .scene = text("home"),
        .arms = arms,
        .n_arms = 2,
        .hash = text("growthbook-v2"),
        .experiments = 7,
        .bundle = text("debian-mind@2026-11-24"),
        .source = text("model"),
        .history = 37,
        .interests = 4,
        .sample = 1,
        .took_us = 912,
        .items = items,
        .n_items = ITEMS,
        .scores = scores,
        .by = by,
        .n_scores = ITEMS,
    };
    journal_served_encode(served, &s);
    put_events(events, &s);
}

static void flush_to(FILE *f, struct buf *b)
{
    if (fwrite(b->p, 1, b->len, f) != b->len)
        die("cannot write the journal");
    b->len = 0;
}

static void write_journal(const char *served_path, const char *events_path, size_t mb)
{
    FILE *served = fopen(served_path, "w"), *events = fopen(events_path, "w");
    struct buf s = BUF_INIT, e = BUF_INIT;
    size_t written = 0;

    if (served == NULL || events == NULL)
        die("cannot write the journal");
    for (int64_t i = 0; written < mb * 1000000; i++) {
        put_answer(&s, &e, i);
        if (s.len > (1 << 20)) {
            written += s.len;
            flush_to(served, &s);
            flush_to(events, &e);
        }
    }
    buf_clear(&s);
    buf_clear(&e);
    if (fclose(served) != 0 || fclose(events) != 0)
        die("cannot write the journal");
}

/* ---- what is measured ---------------------------------------------------------------- */

static const char *served_path, *events_path;

static void just_memchr(void)
{
    static char block[1 << 20];
    FILE *f = fopen(served_path, "r");
    size_t len, lines = 0;

    if (f == NULL)
        die("cannot read the journal");
    while ((len = fread(block, 1, sizeof block, f)) > 0)
        for (const char *p = block; (p = memchr(p, '\n', (size_t)(block + len - p))) != NULL; p++)
            lines++;
    fclose(f);
    if (lines == 0)
        die("no lines");
}

static void just_reader(void)
{
    struct err err = ERR_INIT;
    struct journal_reader *r = journal_reader_open(JOURNAL_SERVED, &served_path, 1, &err);
    const char *line;
    size_t len;
    int more = r == NULL ? -1 : 1;

    while (more == 1)
        more = journal_reader_next(r, &line, &len, &err);
    journal_reader_free(r);
    if (more == -1)
        die(err.text);
}

static void report(size_t n_events)
{
    struct err err = ERR_INIT;
    struct ctr_ask ask;
    struct ctr_report *r;

    ctr_ask_default(&ask);
    ask.served = &served_path;
    ask.n_served = 1;
    ask.events = &events_path;
    ask.n_events = n_events;
    r = ctr_run(&ask, NULL, NULL, &err);
    if (r == NULL)
        die(err.text);
    ctr_report_free(r);
}

static void report_alone(void)
{
    report(0);
}

static void report_with_events(void)
{
    report(1);
}

static const struct {
    const char *name;
    void (*run)(void);
} cases[] = {
    {"memchr", just_memchr},
    {"reader", just_reader},
    {"report, no events", report_alone},
    {"report, 11 events an answer", report_with_events},
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    size_t mb = argc > 1 ? (size_t)atol(argv[1]) : 400;
    const char *folder = argc > 2 ? argv[2] : "/tmp";
    char *served = xasprintf("%s/bench-ctr-served.jsonl", folder);
    char *events = xasprintf("%s/bench-ctr-events.jsonl", folder);
    double speed[ARRAY_LEN(cases)][ROUNDS], size;
    struct stat st;

    served_path = served;
    events_path = events;
    write_journal(served, events, mb);
    if (stat(served, &st) != 0)
        die("cannot read the journal");
    size = (double)st.st_size / 1e6;
    for (int r = 0; r < ROUNDS; r++)
        for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
            double start = cpu_s();

            cases[i].run();
            speed[i][r] = size / (cpu_s() - start);
        }
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        qsort(speed[i], ROUNDS, sizeof(double), by_value);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        printf("%-28s %6.0f MB/s (%.0f to %.0f), %.2f of memchr\n", cases[i].name,
               speed[i][ROUNDS / 2], speed[i][0], speed[i][ROUNDS - 1],
               speed[i][ROUNDS / 2] / speed[0][ROUNDS / 2]);
    unlink(served);
    unlink(events);
    free(served);
    free(events);
    return 0;
}
