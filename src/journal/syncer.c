/* syncer.c - the thread that syncs what was written, on an interval, and closes complete files.
 *
 * A sync may take long; the writer goes on meanwhile. */
#include "journal_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "recalld/metrics.h"

/* A file lasts only once its name is on the disk too. Some file systems refuse to sync a folder;
 * there is nothing better to do then, nor when it was removed. */
static void sync_folder(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd == -1)
        return;
    fsync(fd);
    close(fd);
}

static void sync_file(struct journal *j, struct journal_file *f)
{
    static struct log_limit limit;
    uint64_t start = clock_ns();
    unsigned held;

    if (!atomic_exchange(&f->dirty, false))
        return;
    if (fdatasync(f->fd) == -1) {
        metric_add(journal_sync_failures, 1);
        if (f->synced) /* or another one would fare no better */
            atomic_store(&f->broken, true);
        if (log_allow(&limit, &held))
            LOG_WARN("journal_sync_failed", "file=%s held_back=%u %s", f->path, held,
                     strerror(errno));
    } else if (!f->synced) {
        sync_folder(j->dir);
        f->synced = true;
    }
    metric_observe(journal_sync_seconds, (double)(clock_ns() - start) * 1e-9);
}

static void close_files(struct journal *j, struct journal_file *done)
{
    while (done != NULL) {
        struct journal_file *f = done;

        done = f->next;
        sync_file(j, f);
        close(f->fd);
        free(f->path);
        free(f);
    }
}

/* One round, begun and ended with `lock` held. What the writer has open may be retired meanwhile,
 * but nobody else closes it. */
static void sync_round(struct journal *j)
{
    struct journal_file *open[JOURNAL_KINDS], *done = j->done;

    memcpy(open, j->open, sizeof open);
    j->done = NULL;
    pthread_mutex_unlock(&j->lock);
    for (int k = 0; k < JOURNAL_KINDS; k++)
        if (open[k] != NULL)
            sync_file(j, open[k]);
    close_files(j, done);
    pthread_mutex_lock(&j->lock);
    if (done != NULL) {
        j->look = true;
        pthread_cond_broadcast(&j->wake);
    }
}

void *journal_sync(void *journal)
{
    struct journal *j = journal;
    bool last;

    pthread_mutex_lock(&j->lock);
    do {
        uint64_t next = clock_ns() + j->fsync_ns;

        while (!j->written && clock_ns() < next)
            journal_wait(j, next);
        last = j->written;
        sync_round(j);
    } while (!last);
    pthread_mutex_unlock(&j->lock);
    return NULL;
}
