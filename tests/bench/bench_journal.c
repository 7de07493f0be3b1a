/* bench_journal.c - does the journal keep up?
 *
 *   bench_journal [DIR [RATE [SECONDS [COMPRESS [RING_BYTES]]]]]
 *
 * Two producers encode and push RATE answers of 200 items a second together (default 20,000 for
 * 30 s) into a journal in DIR (default: below /tmp), files of which are deleted beyond 2 GB and all
 * in the end. Each has a ring of RING_BYTES (default 64M): at some 50 MB/s, a second for which the
 * disk takes nothing. Prints one JSON object: what was written and dropped, how much of a ring was
 * needed, what encoding and pushing cost a request, and the processor time of the journal's
 * threads. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "recalld/journal.h"
#include "recalld/metrics.h"

#define PRODUCERS 2
#define ITEMS 200
#define RECORDS 64 /* different ones, in turn */
#define BEAT_NS 1000000

struct record {
    struct journal_served served;
    struct str items[ITEMS];
    float scores[ITEMS];
    int by[ITEMS];
    char ids[ITEMS][16], serve_id[UUID_LEN + 1], request_id[UUID_LEN + 1], user[16];
};

struct producer {
    pthread_t thread;
    struct journal *journal;
    struct record *records;
    double rate, seconds;
    uint64_t encode_ns, push_ns, cpu_ns, pushed, dropped, bytes;
    atomic_int *at_work;
};

static const struct journal_pair arms[] = {{{"model", 5}, {"mind-v3", 7}},
                                           {{"merge", 5}, {"control", 7}}};

static void make_record(struct record *r, unsigned seed)
{
    uuid7(r->serve_id);
    uuid7(r->request_id);
    snprintf(r->user, sizeof r->user, "u%08u", seed * 7919);
    for (int i = 0; i < ITEMS; i++) {
        int len = snprintf(r->ids[i], sizeof r->ids[i], "%d", 1000000 + rand() % 9000000);

        r->items[i] = (struct str){r->ids[i], (size_t)len};
        r->scores[i] = 1 - (float)i / 300 - (float)rand() / (float)RAND_MAX / 300;
        r->by[i] = rand() % 4;
    }
    r->served = (struct journal_served){
        .serve_id = {r->serve_id, UUID_LEN},
        .request_id = {r->request_id, UUID_LEN},
        .user_id = {r->user, strlen(r->user)},
        .scene = {"home", 4},
        .arms = arms,
        .n_arms = 2,
        .hash = {"growthbook-v2", 13},
        .experiments = 7,
        .bundle = {"debian-mind@2026-11-24", 22},
        .source = {"model", 5},
        .history = 37,
        .interests = 4,
        .sample = 1,
        .took_us = 912,
        .items = r->items,
        .n_items = ITEMS,
        .scores = r->scores,
        .by = r->by,
        .n_scores = ITEMS,
    };
}

static uint64_t cpu_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void one(struct producer *p, struct journal_ring *ring, struct buf *line, uint64_t i)
{
    struct journal_served *s = &p->records[i % RECORDS].served;
    uint64_t a, b;

    line->len = 0;
    a = clock_ns();
    s->ts_ms = clock_wall_ms();
    journal_served_encode(line, s);
    b = clock_ns();
    if (journal_push(ring, line->p, line->len))
        p->pushed++;
    else
        p->dropped++;
    p->push_ns += clock_ns() - b;
    p->encode_ns += b - a;
    p->bytes += line->len;
}

/* As many a millisecond as are due. What a busy machine delays is caught up with, but at four times
 * the rate at most: there is no answer in less time than it takes to make. */
static void *produce(void *arg)
{
    struct producer *p = arg;
    struct journal_ring *ring = journal_ring(p->journal, JOURNAL_SERVED);
    struct buf line = BUF_INIT;
    uint64_t start = clock_ns(), cpu = cpu_ns(CLOCK_THREAD_CPUTIME_ID);
    uint64_t all = (uint64_t)(p->rate * p->seconds), i = 0;

    while (i < all) {
        uint64_t due = (uint64_t)((double)(clock_ns() - start) * 1e-9 * p->rate);

        uint64_t most = i + (uint64_t)(4e-9 * BEAT_NS * p->rate) + 1;

        for (; i < due && i < most && i < all; i++)
            one(p, ring, &line, i);
        nanosleep(&(struct timespec){0, BEAT_NS}, NULL);
    }
    p->cpu_ns = cpu_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    buf_clear(&line);
    atomic_fetch_sub(p->at_work, 1);
    return NULL;
}

/* Processor seconds of this process' threads of that name, so far. */
static double thread_seconds(const char *name)
{
    DIR *d = opendir("/proc/self/task");
    struct dirent *e;
    double sum = 0;

    while (d != NULL && (e = readdir(d)) != NULL) {
        unsigned long user, system;
        char path[300], comm[32] = "";
        FILE *f;

        snprintf(path, sizeof path, "/proc/self/task/%s/stat", e->d_name);
        f = fopen(path, "r");
        if (f == NULL)
            continue;
        if (fscanf(f, "%*d (%31[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", comm,
                   &user, &system) == 3 &&
            strcmp(comm, name) == 0)
            sum += (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
        fclose(f);
    }
    if (d != NULL)
        closedir(d);
    return sum;
}

static struct journal *open_journal(const char *dir, const char *compress, const char *ring)
{
    char *args[] = {
        xasprintf("--journal.dir=%s", dir), xasprintf("--journal.compress=%s", compress),
        xasprintf("--journal.ring_bytes=%s", ring), xstrdup("--journal.retain_bytes=2G")};
    struct err err = ERR_INIT;
    struct journal *j = NULL;
    struct config *cfg =
        config_parse("bench", "", 0, NULL, (const char *const *)args, ARRAY_LEN(args), &err);

    if (cfg == NULL || journal_open(&j, cfg, &err) == -1) {
        fprintf(stderr, "bench_journal: %s\n", err.text);
        exit(2);
    }
    config_free(cfg);
    for (size_t i = 0; i < ARRAY_LEN(args); i++)
        free(args[i]);
    return j;
}

static void remove_all(const char *dir)
{
    char *command = xasprintf("rm -rf '%s'", dir);

    if (system(command) != 0)
        fprintf(stderr, "bench_journal: cannot delete %s\n", dir);
    free(command);
}

/* The gauge that operators see, in bytes of a ring. */
static double ring_fill(void)
{
    static const char name[] = "\nrecalld_journal_ring_fill ";
    struct buf text = BUF_INIT;
    const char *at;
    double fill = 0;

    metrics_render(&text);
    at = strstr(buf_cstr(&text), name);
    if (at != NULL)
        fill = atof(at + sizeof name - 1);
    buf_clear(&text);
    return fill;
}

/* Until all producers are done; the fullest that a ring was seen. */
static double watch(const atomic_int *at_work)
{
    double most = 0, now;

    while (atomic_load(at_work) > 0) {
        now = ring_fill();
        most = now > most ? now : most;
        nanosleep(&(struct timespec){0, 10 * BEAT_NS}, NULL);
    }
    return most;
}

static void report(const struct producer *p, double seconds, double fill)
{
    uint64_t pushed = 0, dropped = 0, bytes = 0, encode = 0, push = 0, cpu = 0;
    double n;

    for (int i = 0; i < PRODUCERS; i++) {
        pushed += p[i].pushed;
        dropped += p[i].dropped;
        bytes += p[i].bytes;
        encode += p[i].encode_ns;
        push += p[i].push_ns;
        cpu += p[i].cpu_ns;
    }
    n = (double)(pushed + dropped);
    printf("{\"lines\":%llu,\"dropped\":%llu,\"seconds\":%.1f,\"lines_per_s\":%.0f,"
           "\"mb_per_s\":%.1f,\"line_bytes\":%.0f,\"ring_fill_most\":%.2f,",
           (unsigned long long)pushed, (unsigned long long)dropped, seconds, n / seconds,
           (double)bytes / seconds * 1e-6, (double)bytes / n, fill);
    printf("\"encode_us\":%.2f,\"push_us\":%.2f,\"producer_cpu_us\":%.2f,",
           (double)encode / n * 1e-3, (double)push / n * 1e-3, (double)cpu / n * 1e-3);
    printf("\"writer_cores\":%.3f,\"sync_cores\":%.3f,\"keep_cores\":%.3f}\n",
           thread_seconds("journal") / seconds, thread_seconds("journal-sync") / seconds,
           thread_seconds("journal-keep") / seconds);
}

int main(int argc, char **argv)
{
    char *dir = argc > 1 ? xasprintf("%s/bench_journal", argv[1]) : xstrdup("/tmp/bench_journal");
    double rate = argc > 2 ? atof(argv[2]) : 20000, seconds = argc > 3 ? atof(argv[3]) : 30;
    struct journal *j = open_journal(dir, argc > 4 ? argv[4] : "none", argc > 5 ? argv[5] : "64M");
    struct producer producers[PRODUCERS] = {0};
    struct record *records = xcalloc(PRODUCERS * RECORDS, sizeof *records);
    uint64_t start = clock_ns();
    atomic_int at_work = PRODUCERS;
    double took, fill;

    for (unsigned i = 0; i < PRODUCERS * RECORDS; i++)
        make_record(&records[i], i);
    for (int i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.journal = j,
                                         .records = records + i * RECORDS,
                                         .rate = rate / PRODUCERS,
                                         .seconds = seconds,
                                         .at_work = &at_work};
        pthread_create(&producers[i].thread, NULL, produce, &producers[i]);
    }
    fill = watch(&at_work);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(producers[i].thread, NULL);
    took = (double)(clock_ns() - start) * 1e-9;
    report(producers, took, fill);
    journal_close(j);
    remove_all(dir);
    free(records);
    free(dir);
    return 0;
}
