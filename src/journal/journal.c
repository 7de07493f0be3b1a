/* journal.c - opening and closing, rings and the pushing side, users and the sample. */
#include "journal_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "recalld/metrics.h"

/* ---- metrics ------------------------------------------------------------------------------- */

int journal_lines[JOURNAL_KINDS], journal_bytes[JOURNAL_KINDS];
int journal_dropped[JOURNAL_KINDS][JOURNAL_LOSSES];
int journal_sync_seconds, journal_sync_failures, journal_files, journal_deleted;

/* What the gauges read: there is one journal in a process. */
static _Atomic(struct journal *) present;

static const char *const kind_labels[JOURNAL_KINDS] = {"kind=\"served\"", "kind=\"events\""};
static const char *const loss_labels[JOURNAL_KINDS][JOURNAL_LOSSES] = {
    {"kind=\"served\",reason=\"ring_full\"", "kind=\"served\",reason=\"write_failed\"",
     "kind=\"served\",reason=\"too_long\""},
    {"kind=\"events\",reason=\"ring_full\"", "kind=\"events\",reason=\"write_failed\"",
     "kind=\"events\",reason=\"too_long\""},
};
static const double sync_bounds[] = {1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10};

static size_t ring_used(const struct journal_ring *r)
{
    size_t tail = atomic_load(&r->tail), head = atomic_load(&r->head);

    return head - tail <= r->size ? head - tail : 0;
}

static double read_fill(void *arg)
{
    struct journal *j = atomic_load(&present);
    double most = 0;

    (void)arg;
    for (const struct journal_ring *r = j == NULL ? NULL : atomic_load(&j->rings); r != NULL;
         r = r->next) {
        double fill = (double)ring_used(r) / (double)r->size;

        most = fill > most ? fill : most;
    }
    return most;
}

static double read_backlog(void *arg)
{
    struct journal *j = atomic_load(&present);

    (void)arg;
    return j == NULL ? 0 : (double)atomic_load(&j->backlog);
}

static double read_failing(void *arg)
{
    struct journal *j = atomic_load(&present);

    (void)arg;
    return j != NULL && atomic_load(&j->failing);
}

static void register_metrics(void)
{
    for (int k = 0; k < JOURNAL_KINDS; k++) {
        journal_lines[k] = metric_counter("recalld_journal_lines_total", "Lines written to a file.",
                                          kind_labels[k]);
        journal_bytes[k] = metric_counter("recalld_journal_bytes_total", "Bytes written to files.",
                                          kind_labels[k]);
        for (int i = 0; i < JOURNAL_LOSSES; i++)
            journal_dropped[k][i] =
                metric_counter("recalld_journal_dropped_total",
                               "Lines that were not written, by reason.", loss_labels[k][i]);
    }
    journal_sync_seconds =
        metric_histogram("recalld_journal_sync_seconds", "How long a sync of one file takes.", "",
                         sync_bounds, ARRAY_LEN(sync_bounds));
    journal_sync_failures =
        metric_counter("recalld_journal_sync_failures_total",
                       "Syncs that failed: what they were for may be lost.", "");
    journal_files = metric_counter("recalld_journal_files_total", "Files begun.", "");
    journal_deleted = metric_counter("recalld_journal_deleted_total",
                                     "Files deleted because of their age or "
                                     "because all took too much room.",
                                     "");
    metric_gauge("recalld_journal_ring_fill", "How full the fullest ring is, 0 to 1.", "",
                 read_fill, NULL);
    metric_gauge("recalld_journal_compression_backlog",
                 "Complete files that wait to be compressed.", "", read_backlog, NULL);
    metric_gauge("recalld_journal_failing", "1 while the disk takes nothing.", "", read_failing,
                 NULL);
}

uint64_t journal_lost(void)
{
    uint64_t n = 0;

    for (int k = 0; k < JOURNAL_KINDS; k++)
        n += metric_value(journal_dropped[k][LOST_WRITE_FAILED]);
    return n;
}

/* ---- opening ------------------------------------------------------------------------------- */

static int read_key(const struct config *cfg, struct buf *key, struct err *err)
{
    if (cfg->journal_user != JOURNAL_USER_HMAC)
        return 0;
    if (file_read(cfg->journal_user_key_file, JOURNAL_KEY_MAX, key, err) == -1)
        return err_prefix(err, "journal.user_key_file: ");
    while (key->len > 0 && (key->p[key->len - 1] == '\n' || key->p[key->len - 1] == '\r'))
        key->len--;
    if (key->len < JOURNAL_KEY_MIN)
        return err_set(err, ERR_USAGE, "journal.user_key_file: %s: a key has %d bytes at least",
                       cfg->journal_user_key_file, JOURNAL_KEY_MIN);
    return 0;
}

int journal_claim(struct journal *j, struct err *err)
{
    if (j->lock_fd != -1)
        close(j->lock_fd);
    j->lock_fd = -1;
    if (file_mkdirs(j->dir, err) == -1)
        return -1;
    j->lock_fd = open(j->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (j->lock_fd == -1)
        return err_set(err, ERR_IO, "%s: cannot open folder: %s", j->dir, strerror(errno));
    if (flock(j->lock_fd, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return 0; /* a file system without locks is no reason not to write */
    close(j->lock_fd);
    j->lock_fd = -1;
    return err_set(err, ERR_CONFLICT, "journal.dir: %s: another process writes here", j->dir);
}

bool journal_owns(struct journal *j)
{
    struct stat held, named;
    int fd = atomic_load(&j->lock_fd);

    return fd != -1 && fstat(fd, &held) == 0 && stat(j->dir, &named) == 0 &&
           held.st_dev == named.st_dev && held.st_ino == named.st_ino;
}

/* Only what no waiting will mend stops the start. */
static int first_claim(struct journal *j, struct err *err)
{
    struct err why = ERR_INIT;

    if (journal_claim(j, &why) == 0)
        return 0;
    if (why.code == ERR_CONFLICT)
        return err_set(err, why.code, "%s", why.text);
    LOG_WARN("journal_failing", "cannot write now, will go on trying: %s", why.text);
    atomic_store(&j->failing, true);
    return 0;
}

static int start_threads(struct journal *j, struct err *err)
{
    static const struct {
        void *(*run)(void *);
        size_t at;
        const char *name;
    } rows[] = {
        {journal_write, offsetof(struct journal, writer), "journal"},
        {journal_sync, offsetof(struct journal, syncer), "journal-sync"},
        {journal_keep, offsetof(struct journal, keeper), "journal-keep"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        pthread_t *thread = (pthread_t *)((char *)j + rows[i].at);
        int why = pthread_create(thread, NULL, rows[i].run, j);

        if (why != 0)
            return err_set(err, ERR_IO, "journal thread: %s", strerror(why));
        pthread_setname_np(*thread, rows[i].name);
        j->n_threads++;
    }
    return 0;
}

static void init_locks(struct journal *j)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&j->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&j->lock, NULL);
    pthread_mutex_init(&j->events_lock, NULL);
}

static size_t power_of_two(size_t least)
{
    size_t n = 1;

    while (n < least)
        n *= 2;
    return n;
}

static struct journal *journal_new(const struct config *cfg)
{
    struct journal *j = xcalloc(1, sizeof *j);

    j->dir = xstrdup(cfg->journal_dir);
    j->lock_fd = -1;
    j->rotate_bytes = (uint64_t)cfg->journal_rotate_bytes;
    j->rotate_ns = (uint64_t)cfg->journal_rotate_s * 1000000000;
    j->fsync_ns = (uint64_t)cfg->journal_fsync_ms * 1000000;
    j->retain_bytes = (uint64_t)cfg->journal_retain_bytes;
    j->retain_days = cfg->journal_retain_days;
    j->compress = cfg->journal_compress;
    j->sample = cfg->journal_sample;
    j->hashes_users = cfg->journal_user == JOURNAL_USER_HMAC;
    j->ring_bytes = power_of_two((size_t)cfg->journal_ring_bytes);
    j->lost = journal_lost();
    init_locks(j);
    return j;
}

int journal_open(struct journal **out, const struct config *cfg, struct err *err)
{
    struct journal *j;

    *out = NULL;
    if (cfg->journal_dir[0] == '\0')
        return 0;
    register_metrics();
    j = journal_new(cfg);
    if (read_key(cfg, &j->key, err) == -1 || first_claim(j, err) == -1)
        goto failed;
    j->seen = journal_seen_new(JOURNAL_EVENTS_REMEMBERED);
    j->events = journal_ring(j, JOURNAL_EVENTS);
    j->look = true; /* what an earlier process left behind */
    if (start_threads(j, err) == -1)
        goto failed;
    atomic_store(&present, j);
    *out = j;
    return 0;
failed:
    journal_close(j);
    return -1;
}

int journal_check(const struct config *cfg, struct err *err)
{
    struct buf key = BUF_INIT;
    struct stat st;
    int result;

    if (cfg->journal_dir[0] == '\0')
        return 0;
    result = read_key(cfg, &key, err);
    if (result == 0 && stat(cfg->journal_dir, &st) == 0) {
        if (!S_ISDIR(st.st_mode))
            result = err_set(err, ERR_IO, "journal.dir: %s: not a folder", cfg->journal_dir);
        else if (access(cfg->journal_dir, W_OK | X_OK) == -1)
            result = err_set(err, ERR_IO, "journal.dir: %s: cannot be written to: %s",
                             cfg->journal_dir, strerror(errno));
    }
    buf_clear(&key);
    return result;
}

/* ---- closing ------------------------------------------------------------------------------- */

static void wake_all(struct journal *j)
{
    pthread_mutex_lock(&j->lock);
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

static void join_threads(struct journal *j)
{
    const pthread_t threads[] = {j->writer, j->syncer, j->keeper};

    atomic_store(&j->stopping, true);
    wake_all(j);
    for (int i = 0; i < j->n_threads; i++) {
        pthread_join(threads[i], NULL);
        if (i > 0)
            continue;
        pthread_mutex_lock(&j->lock);
        j->written = true;
        pthread_cond_broadcast(&j->wake);
        pthread_mutex_unlock(&j->lock);
    }
}

void journal_close(struct journal *j)
{
    struct journal_ring *ring, *next;

    if (j == NULL)
        return;
    join_threads(j);
    atomic_store(&present, NULL);
    for (ring = atomic_load(&j->rings); ring != NULL; ring = next) {
        next = ring->next;
        free(ring->bytes);
        free(ring);
    }
    journal_seen_free(j->seen);
    if (j->lock_fd != -1)
        close(j->lock_fd);
    pthread_cond_destroy(&j->wake);
    pthread_mutex_destroy(&j->lock);
    pthread_mutex_destroy(&j->events_lock);
    buf_clear(&j->key);
    free(j->dir);
    free(j);
}

void journal_wait(struct journal *j, uint64_t until_ns)
{
    struct timespec t = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};

    pthread_cond_timedwait(&j->wake, &j->lock, &t);
}

/* ---- pushing ------------------------------------------------------------------------------- */

static void *aligned(size_t size)
{
    void *p = mem_try_aligned(1, size);

    if (p == NULL) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return p;
}

struct journal_ring *journal_ring(struct journal *j, enum journal_kind kind)
{
    struct journal_ring *r;

    if (j == NULL)
        return NULL;
    r = aligned(sizeof *r);
    memset(r, 0, sizeof *r);
    r->journal = j;
    r->kind = kind;
    r->size = j->ring_bytes;
    r->bytes = xmalloc(r->size);
    r->next = atomic_load(&j->rings);
    while (!atomic_compare_exchange_weak(&j->rings, &r->next, r)) {
    }
    return r;
}

static bool lose(struct journal_ring *r, enum journal_loss why)
{
    metric_add(journal_dropped[r->kind][why], 1);
    return false;
}

bool journal_push(struct journal_ring *r, const char *line, size_t len)
{
    size_t head, at, first;

    if (r == NULL)
        return false;
    if (len > r->size / 2 || len > JOURNAL_LINE_MAX)
        return lose(r, LOST_TOO_LONG);
    head = atomic_load_explicit(&r->head, memory_order_relaxed);
    if (r->size - (head - r->tail_seen) < len)
        r->tail_seen = atomic_load_explicit(&r->tail, memory_order_acquire);
    if (r->size - (head - r->tail_seen) < len)
        return lose(r, atomic_load_explicit(&r->journal->failing, memory_order_relaxed)
                           ? LOST_WRITE_FAILED
                           : LOST_RING_FULL);
    at = head & (r->size - 1);
    first = r->size - at < len ? r->size - at : len;
    memcpy(r->bytes + at, line, first);
    memcpy(r->bytes, line + first, len - first);
    atomic_store_explicit(&r->head, head + len, memory_order_release);
    return true;
}

/* ---- users --------------------------------------------------------------------------------- */

struct str journal_user(const struct journal *j, struct str user_id, char room[JOURNAL_USER_ROOM])
{
    char hex[SHA256_HEX];

    if (j == NULL || !j->hashes_users || user_id.len == 0)
        return user_id;
    hmac_sha256_hex(j->key.p, j->key.len, user_id.p, user_id.len, hex);
    memcpy(room, hex, JOURNAL_USER_ROOM - 1);
    room[JOURNAL_USER_ROOM - 1] = '\0';
    return (struct str){room, JOURNAL_USER_ROOM - 1};
}

bool journal_samples(const struct journal *j, struct str user_id, const char *request_id)
{
    uint64_t h;

    if (j == NULL || j->sample >= 1)
        return j != NULL;
    h = user_id.len > 0 ? hash_bytes(user_id.p, user_id.len)
                        : hash_bytes(request_id, strlen(request_id));
    return (double)(h >> 11) * 0x1p-53 < j->sample;
}

double journal_sample(const struct journal *j)
{
    return j == NULL ? 1 : j->sample;
}
