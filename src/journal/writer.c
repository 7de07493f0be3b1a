/* writer.c - the thread that empties the rings into files.
 *
 * What stands in a ring is whole lines one behind the other, so it goes to the file straight from
 * there, with one system call for all that has gathered. A write that fails leaves it in the ring
 * and is tried again: until then rings fill, pushes fail, and what was pushed before is kept. A
 * write that is cut short is undone back to the last whole line. */
#include "journal_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "recalld/metrics.h"

/* How long a line may wait for the writer to look: the first while there is traffic. */
#define LOOK_NS 5000000ull
#define LOOK_IDLE_NS 20000000ull
#define RETRY_NS 200000000ull
#define REMIND_NS 60000000000ull

struct writer {
    struct journal *j;
    uint64_t retry_ns;  /* while failing: not before */
    uint64_t warned_ns; /* the last warning; 0 = none since it failed */
};

/* ---- files --------------------------------------------------------------------------------- */

/* Hands the file to the syncer, which closes it. An empty one goes without a trace. */
static void retire(struct journal *j, enum journal_kind kind)
{
    struct journal_file *f = j->open[kind];

    if (f == NULL)
        return;
    if (f->bytes == 0)
        unlink(f->path);
    pthread_mutex_lock(&j->lock);
    j->open[kind] = NULL;
    f->next = j->done;
    j->done = f;
    pthread_cond_broadcast(&j->wake);
    pthread_mutex_unlock(&j->lock);
}

/* Named and shown to the keeper before it is there: what the keeper finds in the folder and nobody
 * has open is complete. */
static struct journal_file *begin_file(struct journal *j, enum journal_kind kind, int *why)
{
    struct journal_file *f = xcalloc(1, sizeof *f);

    journal_name_make(kind, clock_wall_ms(), j->number++, f->name);
    f->path = path_join(j->dir, f->name);
    f->began_ns = clock_ns();
    pthread_mutex_lock(&j->lock);
    f->fd = open(f->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0640);
    *why = errno;
    if (f->fd != -1)
        j->open[kind] = f;
    pthread_mutex_unlock(&j->lock);
    if (f->fd != -1)
        return f;
    free(f->path);
    free(f);
    return NULL;
}

static bool is_over(const struct journal *j, const struct journal_file *f)
{
    return f->bytes >= j->rotate_bytes || clock_ns() - f->began_ns >= j->rotate_ns ||
           atomic_load(&f->broken);
}

static bool was_deleted(const struct journal_file *f)
{
    struct stat st;

    return fstat(f->fd, &st) == 0 && st.st_nlink == 0;
}

/* The file to write to; NULL with *why an errno. */
static struct journal_file *current_file(struct journal *j, enum journal_kind kind, int *why)
{
    struct journal_file *f = j->open[kind];
    struct err err = ERR_INIT;

    if (f != NULL && (is_over(j, f) || was_deleted(f))) {
        retire(j, kind);
        f = NULL;
    }
    if (f != NULL)
        return f;
    errno = 0;
    if (!journal_owns(j) && journal_claim(j, &err) == -1) {
        *why = err.code == ERR_CONFLICT ? EBUSY : errno != 0 ? errno : EIO;
        return NULL;
    }
    return begin_file(j, kind, why);
}

static bool folder_is_there(struct journal *j)
{
    struct err ignored = ERR_INIT;

    return journal_owns(j) || journal_claim(j, &ignored) == 0;
}

/* ---- a ring -------------------------------------------------------------------------------- */

static size_t count_lines(const char *p, size_t len)
{
    const char *end = p + len;
    size_t n = 0;

    while (p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        n++;
        p++;
    }
    return n;
}

/* `len` bytes of a ring from `tail` on, in one or two pieces. */
static int pieces(const struct journal_ring *r, size_t tail, size_t len, struct iovec out[2])
{
    size_t at = tail & (r->size - 1), first = r->size - at < len ? r->size - at : len;

    out[0] = (struct iovec){r->bytes + at, first};
    out[1] = (struct iovec){r->bytes, len - first};
    return len > first ? 2 : 1;
}

static size_t lines_in(const struct journal_ring *r, size_t tail, size_t len)
{
    struct iovec part[2];
    int n = pieces(r, tail, len, part);
    size_t lines = 0;

    for (int i = 0; i < n; i++)
        lines += count_lines(part[i].iov_base, part[i].iov_len);
    return lines;
}

/* Of `len` bytes from `tail` on those up to the last '\n'. */
static size_t whole_lines(const struct journal_ring *r, size_t tail, size_t len)
{
    while (len > 0 && r->bytes[(tail + len - 1) & (r->size - 1)] != '\n')
        len--;
    return len;
}

/* What a write that was cut short leaves is tried again at once, which tells why. Returns how many
 * bytes were written; *why is 0 when it is all. */
static size_t write_pieces(int fd, struct iovec *part, int n, int *why)
{
    size_t total = 0;

    *why = 0;
    while (n > 0) {
        ssize_t written = writev(fd, part, n);

        if (written == -1 && errno == EINTR)
            continue;
        if (written <= 0) {
            *why = written == -1 ? errno : EIO;
            break;
        }
        total += (size_t)written;
        for (; n > 0 && (size_t)written >= part->iov_len; n--)
            written -= (ssize_t)part++->iov_len;
        if (n > 0)
            *part =
                (struct iovec){(char *)part->iov_base + written, part->iov_len - (size_t)written};
    }
    return total;
}

/* After a write that failed: whole lines only, and a file that is worth going on with or none. */
static void mend(struct journal *j, enum journal_kind kind, size_t torn, int why)
{
    struct journal_file *f = j->open[kind];
    bool whole = torn == 0 || ftruncate(f->fd, (off_t)f->bytes) == 0;
    bool full = why == ENOSPC || why == EDQUOT;

    if (!whole || !full || f->bytes == 0)
        retire(j, kind); /* perhaps a new one fares better */
}

/* Everything that is in the ring now. 0 or an errno. */
static int empty_ring(struct journal *j, struct journal_ring *r, size_t *moved)
{
    size_t tail = atomic_load_explicit(&r->tail, memory_order_relaxed);
    size_t len = atomic_load_explicit(&r->head, memory_order_acquire) - tail, kept;
    struct journal_file *f;
    struct iovec part[2];
    size_t written;
    int why = 0;

    if (len == 0)
        return 0;
    f = current_file(j, r->kind, &why);
    if (f == NULL)
        return why;
    written = write_pieces(f->fd, part, pieces(r, tail, len, part), &why);
    kept = whole_lines(r, tail, written);
    metric_add(journal_files, f->bytes == 0 && kept > 0);
    f->bytes += kept;
    if (kept > 0) {
        atomic_store(&f->dirty, true);
        metric_add(journal_lines[r->kind], lines_in(r, tail, kept));
        metric_add(journal_bytes[r->kind], kept);
        atomic_store_explicit(&r->tail, tail + kept, memory_order_release);
        *moved += kept;
    }
    if (why != 0)
        mend(j, r->kind, written - kept, why);
    return why;
}

/* ---- trouble ------------------------------------------------------------------------------- */

static const char *say(int why)
{
    return why == EBUSY ? "another process writes there" : strerror(why);
}

static void failed(struct writer *w, int why, uint64_t now)
{
    struct journal *j = w->j;

    w->retry_ns = now + RETRY_NS;
    if (w->warned_ns == 0 || now - w->warned_ns >= REMIND_NS) {
        LOG_WARN("journal_failing", "dir=%s dropped=%llu %s", j->dir,
                 (unsigned long long)(journal_lost() - j->lost), say(why));
        w->warned_ns = now;
    }
    atomic_store(&j->failing, true);
}

static void works_again(struct writer *w)
{
    uint64_t lost = journal_lost();

    atomic_store(&w->j->failing, false);
    w->warned_ns = 0;
    LOG_INFO("journal_resumed", "dir=%s dropped=%llu", w->j->dir,
             (unsigned long long)(lost - w->j->lost));
    w->j->lost = lost;
}

/* ---- the thread ---------------------------------------------------------------------------- */

/* Returns how many bytes were written. */
static size_t empty_rings(struct writer *w)
{
    size_t moved = 0;

    for (struct journal_ring *r = atomic_load(&w->j->rings); r != NULL; r = r->next) {
        int why = empty_ring(w->j, r, &moved);

        if (why != 0) {
            failed(w, why, clock_ns());
            return moved;
        }
    }
    if (atomic_load(&w->j->failing) && (moved > 0 || folder_is_there(w->j)))
        works_again(w);
    return moved;
}

/* A file that is old enough is complete, though nothing is written. */
static void retire_old(struct journal *j)
{
    for (int k = 0; k < JOURNAL_KINDS; k++)
        if (j->open[k] != NULL && is_over(j, j->open[k]))
            retire(j, (enum journal_kind)k);
}

static void end(struct writer *w)
{
    struct journal *j = w->j;
    size_t lost = 0;

    empty_rings(w);
    for (struct journal_ring *r = atomic_load(&j->rings); r != NULL; r = r->next) {
        size_t tail = atomic_load(&r->tail), n = lines_in(r, tail, atomic_load(&r->head) - tail);

        metric_add(journal_dropped[r->kind][LOST_WRITE_FAILED], n);
        lost += n;
    }
    if (lost > 0) /* the last that anybody hears of them */
        LOG_WARN("journal_lost", "dir=%s lines=%zu the disk took nothing until the end", j->dir,
                 lost);
    for (int k = 0; k < JOURNAL_KINDS; k++)
        retire(j, (enum journal_kind)k);
}

static void pause_for(uint64_t ns)
{
    nanosleep(&(struct timespec){0, (long)ns}, NULL);
}

void *journal_write(void *journal)
{
    struct writer w = {.j = journal};
    uint64_t look = LOOK_NS;
    sigset_t too_large;

    /* Beyond RLIMIT_FSIZE a write is refused like any other, instead of ending the process. */
    sigemptyset(&too_large);
    sigaddset(&too_large, SIGXFSZ);
    pthread_sigmask(SIG_BLOCK, &too_large, NULL);
    while (!atomic_load(&w.j->stopping)) {
        bool waits = atomic_load(&w.j->failing) && clock_ns() < w.retry_ns;
        bool busy = !waits && empty_rings(&w) > 0;

        look = busy ? LOOK_NS : look * 2 < LOOK_IDLE_NS ? look * 2 : LOOK_IDLE_NS;
        retire_old(w.j);
        pause_for(look);
    }
    end(&w);
    return NULL;
}
