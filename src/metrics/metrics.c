/* metrics.c - counts kept per thread, summed on scrape.
 *
 * Every metric owns slots: a counter one, a histogram one per bucket and one for the sum of its
 * values. Each thread has a block with all slots that only it writes, so counting is a plain load,
 * add and store; the atomics only keep a concurrent scrape from reading half a number. When a
 * thread ends, its block is added to `retired`. */
#include "recalld/metrics.h"

#include <assert.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define METRICS_MAX 256
#define SLOTS_MAX 2048 /* 16 KiB per thread */

enum kind { COUNTER, HISTOGRAM, READ_GAUGE, READ_COUNTER, FAMILY, COUNTER_FAMILY };

struct metric {
    enum kind kind;
    const char *name, *help, *labels;
    int slot; /* the first */
    const double *bounds;
    int n_bounds; /* slots: n_bounds + 1 buckets, then the sum */
    double (*read)(void *arg);
    void (*write)(struct buf *out, void *arg);
    void *arg;
};

struct block {
    struct block *next, *previous;
    _Alignas(64) _Atomic uint64_t slots[SLOTS_MAX];
};

/* The lock guards everything here. Only the table is read without it: its rows are complete before
 * the threads that use them start. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct metric table[METRICS_MAX];
static int n_metrics, n_slots;
static bool slot_is_double[SLOTS_MAX];
static struct block *blocks;
static uint64_t retired[SLOTS_MAX];

const double metric_stage_bounds[METRIC_STAGE_BOUNDS_N] = {
    20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3,   2e-3,   5e-3,
    10e-3, 20e-3, 30e-3,  50e-3,  100e-3, 200e-3, 500e-3, 1,
};

/* ---- registering --------------------------------------------------------------- */

static void too_many(const char *name)
{
    fprintf(stderr, "metrics: no room for %s\n", name);
    abort();
}

/* The row of this name and labels, new or old. */
static int add_metric(const struct metric *wanted, int slots)
{
    int id;

    pthread_mutex_lock(&lock);
    for (id = 0; id < n_metrics; id++)
        if (strcmp(table[id].name, wanted->name) == 0 &&
            strcmp(table[id].labels, wanted->labels) == 0)
            break;
    if (id < n_metrics) {
        assert(table[id].kind == wanted->kind && table[id].n_bounds == wanted->n_bounds);
        table[id].read = wanted->read;
        table[id].write = wanted->write;
        table[id].arg = wanted->arg;
    } else {
        if (n_metrics == METRICS_MAX || n_slots + slots > SLOTS_MAX)
            too_many(wanted->name);
        table[id] = *wanted;
        table[id].slot = n_slots;
        n_slots += slots;
        if (wanted->kind == HISTOGRAM)
            slot_is_double[n_slots - 1] = true;
        n_metrics++;
    }
    pthread_mutex_unlock(&lock);
    return id;
}

int metric_counter(const char *name, const char *help, const char *labels)
{
    struct metric m = {.kind = COUNTER, .name = name, .help = help, .labels = labels};

    return add_metric(&m, 1);
}

int metric_histogram(const char *name, const char *help, const char *labels, const double *bounds,
                     int n)
{
    struct metric m = {.kind = HISTOGRAM,
                       .name = name,
                       .help = help,
                       .labels = labels,
                       .bounds = bounds,
                       .n_bounds = n};

    return add_metric(&m, n + 2);
}

static int add_read(enum kind kind, const char *name, const char *help, const char *labels,
                    double (*read)(void *arg), void *arg)
{
    struct metric m = {
        .kind = kind, .name = name, .help = help, .labels = labels, .read = read, .arg = arg};

    return add_metric(&m, 0);
}

int metric_gauge(const char *name, const char *help, const char *labels, double (*read)(void *arg),
                 void *arg)
{
    return add_read(READ_GAUGE, name, help, labels, read, arg);
}

static int add_family(enum kind kind, const char *name, const char *help,
                      void (*write)(struct buf *out, void *arg), void *arg)
{
    struct metric m = {
        .kind = kind, .name = name, .help = help, .labels = "", .write = write, .arg = arg};

    return add_metric(&m, 0);
}

int metric_family(const char *name, const char *help, void (*write)(struct buf *out, void *arg),
                  void *arg)
{
    return add_family(FAMILY, name, help, write, arg);
}

int metric_counter_family(const char *name, const char *help,
                          void (*write)(struct buf *out, void *arg), void *arg)
{
    return add_family(COUNTER_FAMILY, name, help, write, arg);
}

/* ---- counting ------------------------------------------------------------------ */

static _Thread_local struct block *own;
static pthread_key_t at_thread_end;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static double to_double(uint64_t bits)
{
    double v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

static uint64_t to_bits(double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static uint64_t slot_sum(int slot, uint64_t a, uint64_t b)
{
    return slot_is_double[slot] ? to_bits(to_double(a) + to_double(b)) : a + b;
}

static uint64_t slot_get(struct block *b, int slot)
{
    return atomic_load_explicit(&b->slots[slot], memory_order_relaxed);
}

static void slot_set(struct block *b, int slot, uint64_t v)
{
    atomic_store_explicit(&b->slots[slot], v, memory_order_relaxed);
}

static void retire(void *arg)
{
    struct block *b = arg;

    pthread_mutex_lock(&lock);
    for (int i = 0; i < n_slots; i++)
        retired[i] = slot_sum(i, retired[i], slot_get(b, i));
    if (b->previous != NULL)
        b->previous->next = b->next;
    else
        blocks = b->next;
    if (b->next != NULL)
        b->next->previous = b->previous;
    pthread_mutex_unlock(&lock);
    own = NULL;
    free(b);
}

static void create_key(void)
{
    if (pthread_key_create(&at_thread_end, retire) != 0)
        too_many("thread key");
}

static struct block *add_block(void)
{
    struct block *b = aligned_alloc(64, sizeof *b);

    pthread_once(&once, create_key);
    if (b == NULL)
        too_many("a thread");
    memset(b, 0, sizeof *b);
    pthread_mutex_lock(&lock);
    b->next = blocks;
    if (blocks != NULL)
        blocks->previous = b;
    blocks = b;
    pthread_mutex_unlock(&lock);
    pthread_setspecific(at_thread_end, b);
    own = b;
    return b;
}

static struct block *own_block(void)
{
    return own != NULL ? own : add_block();
}

void metric_add(int id, uint64_t n)
{
    struct block *b = own_block();
    int slot = table[id].slot;

    assert(table[id].kind == COUNTER);
    slot_set(b, slot, slot_get(b, slot) + n);
}

void metric_observe(int id, double value)
{
    const struct metric *m = &table[id];
    struct block *b = own_block();
    int bucket = 0, sum = m->slot + m->n_bounds + 1;

    assert(m->kind == HISTOGRAM);
    while (bucket < m->n_bounds && !(value <= m->bounds[bucket]))
        bucket++;
    slot_set(b, m->slot + bucket, slot_get(b, m->slot + bucket) + 1);
    slot_set(b, sum, to_bits(to_double(slot_get(b, sum)) + value));
}

/* ---- summing ------------------------------------------------------------------- */

static uint64_t total(int slot)
{
    uint64_t sum;

    pthread_mutex_lock(&lock);
    sum = retired[slot];
    for (struct block *b = blocks; b != NULL; b = b->next)
        sum = slot_sum(slot, sum, slot_get(b, slot));
    pthread_mutex_unlock(&lock);
    return sum;
}

uint64_t metric_value(int id)
{
    const struct metric *m = &table[id];
    uint64_t n = 0;

    if (m->kind == COUNTER)
        return total(m->slot);
    assert(m->kind == HISTOGRAM);
    for (int i = 0; i <= m->n_bounds; i++)
        n += total(m->slot + i);
    return n;
}

/* ---- rendering ----------------------------------------------------------------- */

static void put_value(struct buf *out, double v)
{
    if (isnan(v))
        buf_puts(out, "NaN");
    else if (isinf(v))
        buf_puts(out, v > 0 ? "+Inf" : "-Inf");
    else
        buf_f64(out, v);
}

/* name, suffix and labels, with `more` as the last label; then a blank. */
static void put_name(struct buf *out, const struct metric *m, const char *suffix, const char *more)
{
    buf_puts(out, m->name);
    buf_puts(out, suffix);
    if (m->labels[0] != '\0' || more[0] != '\0') {
        buf_putc(out, '{');
        buf_puts(out, m->labels);
        if (m->labels[0] != '\0' && more[0] != '\0')
            buf_putc(out, ',');
        buf_puts(out, more);
        buf_putc(out, '}');
    }
    buf_putc(out, ' ');
}

static void put_histogram(struct buf *out, const struct metric *m)
{
    uint64_t below = 0;

    for (int i = 0; i <= m->n_bounds; i++) {
        struct buf le = BUF_INIT;

        buf_puts(&le, "le=\"");
        put_value(&le, i < m->n_bounds ? m->bounds[i] : INFINITY);
        buf_putc(&le, '"');
        below += total(m->slot + i);
        put_name(out, m, "_bucket", buf_cstr(&le));
        buf_u64(out, below);
        buf_putc(out, '\n');
        buf_clear(&le);
    }
    put_name(out, m, "_sum", "");
    put_value(out, to_double(total(m->slot + m->n_bounds + 1)));
    buf_putc(out, '\n');
    put_name(out, m, "_count", "");
    buf_u64(out, below);
    buf_putc(out, '\n');
}

static void put_samples(struct buf *out, const struct metric *m)
{
    switch (m->kind) {
    case COUNTER:
        put_name(out, m, "", "");
        buf_u64(out, total(m->slot));
        buf_putc(out, '\n');
        break;
    case HISTOGRAM:
        put_histogram(out, m);
        break;
    case READ_GAUGE:
    case READ_COUNTER:
        put_name(out, m, "", "");
        put_value(out, m->read(m->arg));
        buf_putc(out, '\n');
        break;
    case FAMILY:
    case COUNTER_FAMILY:
        m->write(out, m->arg);
        break;
    }
}

static void put_heading(struct buf *out, const struct metric *m)
{
    static const char *const types[] = {
        [COUNTER] = "counter",      [HISTOGRAM] = "histogram", [READ_GAUGE] = "gauge",
        [READ_COUNTER] = "counter", [FAMILY] = "gauge",        [COUNTER_FAMILY] = "counter"};

    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, types[m->kind]);
}

static bool is_headed(const struct metric *m)
{
    for (const struct metric *earlier = table; earlier < m; earlier++)
        if (strcmp(earlier->name, m->name) == 0)
            return true;
    return false;
}

/* A family stays together even when modules registered parts of it at different times. Readers of
 * gauges may call anything but the registration, so no lock is held here. */
void metrics_render(struct buf *out)
{
    for (int i = 0; i < n_metrics; i++) {
        if (is_headed(&table[i]))
            continue;
        put_heading(out, &table[i]);
        for (int j = i; j < n_metrics; j++)
            if (strcmp(table[j].name, table[i].name) == 0)
                put_samples(out, &table[j]);
    }
}

/* ---- the process --------------------------------------------------------------- */

/* A small file of /proc, or NULL; caller frees. */
static char *proc_file(const char *path)
{
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;

    if (file_read(path, 65536, &text, &err) == -1) {
        buf_clear(&text);
        return NULL;
    }
    buf_cstr(&text);
    return text.p;
}

/* A line of /proc/self/status such as "VmRSS:     1234 kB", in bytes. `arg` is its name and colon.
 */
static double read_status(void *arg)
{
    char *text = proc_file("/proc/self/status");
    const char *line = text != NULL ? strstr(text, arg) : NULL;
    double v = line != NULL ? strtod(line + strlen(arg), NULL) * 1024 : NAN;

    free(text);
    return v;
}

static double read_cpu(void *arg)
{
    struct timespec t;

    (void)arg;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double read_open_fds(void *arg)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = -1; /* the folder's own */

    (void)arg;
    if (dir == NULL)
        return NAN;
    for (struct dirent *e; (e = readdir(dir)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static double read_max_fds(void *arg)
{
    struct rlimit limit;

    (void)arg;
    if (getrlimit(RLIMIT_NOFILE, &limit) == -1)
        return NAN;
    return limit.rlim_cur == RLIM_INFINITY ? INFINITY : (double)limit.rlim_cur;
}

/* Field 22 of /proc/self/stat: ticks from boot to the start. Field 2, the program's name, may hold
 * blanks and parentheses, so the count begins behind its last one. */
static double start_time(void)
{
    char *text = proc_file("/proc/self/stat");
    char *p = text != NULL ? strrchr(text, ')') : NULL;
    struct timespec up;
    double started;

    for (int field = 2; field < 22 && p != NULL; field++)
        p = strchr(p + 1, ' ');
    started = p != NULL ? strtod(p, NULL) / (double)sysconf(_SC_CLK_TCK) : NAN;
    free(text);
    clock_gettime(CLOCK_BOOTTIME, &up);
    return (double)clock_wall_ms() * 1e-3 - ((double)up.tv_sec + (double)up.tv_nsec * 1e-9) +
           started;
}

static double read_start_time(void *arg)
{
    return *(const double *)arg;
}

void metrics_register_process(void)
{
    static char resident[] = "VmRSS:", anonymous[] = "RssAnon:";
    static double started;

    started = start_time();
    add_read(READ_COUNTER, "process_cpu_seconds_total",
             "Processor time the process has used, user and system.", "", read_cpu, NULL);
    metric_gauge("process_resident_memory_bytes", "Memory of the process that is resident.", "",
                 read_status, resident);
    metric_gauge("recalld_resident_anonymous_bytes",
                 "Resident memory that is no file: heap, stacks and what bundles hold.", "",
                 read_status, anonymous);
    metric_gauge("process_open_fds", "Open file descriptors.", "", read_open_fds, NULL);
    metric_gauge("process_max_fds", "Limit of open file descriptors.", "", read_max_fds, NULL);
    metric_gauge("process_start_time_seconds", "When the process started, since 1970.", "",
                 read_start_time, &started);
}
