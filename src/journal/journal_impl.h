/* journal_impl.h - what the writing files of journal/ share.
 *
 * Three threads stand behind the rings. The writer empties them into the open file of each kind and
 * does nothing that waits for a disk to be synced. The syncer syncs, and closes what the writer is
 * done with: a file's descriptor is opened by the one and closed by the other, so neither can find
 * it gone. The keeper, in the background, looks through the folder: it compresses files that are
 * complete and deletes old ones. */
#ifndef JOURNAL_IMPL_H
#define JOURNAL_IMPL_H

#include "names.h"

#define JOURNAL_KEY_MIN 16
#define JOURNAL_KEY_MAX 4096

/* Bytes of whole lines, from one thread to the writer; `head` and `tail` only grow. */
struct journal_ring {
    struct journal *journal;
    struct journal_ring *next;
    enum journal_kind kind;
    char *bytes;
    size_t size; /* a power of two */
    _Alignas(64) atomic_size_t head;
    size_t tail_seen; /* the producer's, perhaps older than `tail` */
    _Alignas(64) atomic_size_t tail;
};

/* A file being written, or written and not yet closed. */
struct journal_file {
    struct journal_file *next; /* in journal.done */
    char name[JOURNAL_NAME_MAX];
    char *path;
    int fd;
    uint64_t bytes, began_ns; /* the writer's */
    atomic_bool dirty;        /* written since it was synced */
    atomic_bool broken;       /* it could not be synced: begin another one */
    bool synced;              /* the syncer's: it could be, once, and so was its name */
};

enum journal_loss { LOST_RING_FULL, LOST_WRITE_FAILED, LOST_TOO_LONG, JOURNAL_LOSSES };

struct journal_seen;

struct journal {
    /* of the configuration; `dir` and the key do not change */
    char *dir;
    atomic_int lock_fd; /* the writer's to change; -1 = the folder could not be locked yet */
    uint64_t rotate_bytes, rotate_ns, fsync_ns;
    uint64_t retain_bytes;
    int retain_days;
    enum journal_compression compress;
    double sample;
    bool hashes_users;
    struct buf key;
    size_t ring_bytes;

    _Atomic(struct journal_ring *) rings; /* of all threads, newest first */
    atomic_bool stopping;                 /* nobody pushes any more: write what is there, end */
    atomic_bool failing;                  /* the disk takes nothing */
    atomic_size_t backlog;                /* complete files that wait to be compressed */

    pthread_t writer, syncer, keeper;
    int n_threads;
    bool written;  /* the writer has ended; under `lock` */
    uint64_t lost; /* the writer's: journal_lost() when writing last worked */
    unsigned number;

    pthread_mutex_t lock; /* of the rest; nothing is written, synced or locked inside, but a file
                             is opened */
    pthread_cond_t wake;
    struct journal_file *open[JOURNAL_KINDS]; /* NULL = none */
    struct journal_file *done;                /* to be synced and closed */
    bool look;                                /* the keeper should look at the folder */

    /* events */
    pthread_mutex_t events_lock; /* of the next two */
    struct journal_ring *events;
    struct journal_seen *seen;
};

/* ---- journal.c ---- */

extern int journal_lines[JOURNAL_KINDS], journal_bytes[JOURNAL_KINDS];
extern int journal_dropped[JOURNAL_KINDS][JOURNAL_LOSSES];
extern int journal_sync_seconds, journal_sync_failures, journal_files, journal_deleted;
/* Lines that did not get in because writing failed, since the process was started. */
uint64_t journal_lost(void);
/* The folder is there, and ours alone. ERR_CONFLICT when it is another process'. */
int journal_claim(struct journal *j, struct err *err) WARN_UNUSED;
/* Is what is at the folder's path now what was claimed? */
bool journal_owns(struct journal *j);
/* Waits under `lock` for a signal or until the moment. */
void journal_wait(struct journal *j, uint64_t until_ns);

/* ---- writer.c, syncer.c, keeper.c ---- */

void *journal_write(void *journal);
void *journal_sync(void *journal);
void *journal_keep(void *journal);

/* ---- events.c ---- */

struct journal_seen *journal_seen_new(size_t newest);
void journal_seen_free(struct journal_seen *s);
bool journal_seen_has(const struct journal_seen *s, struct str id);
void journal_seen_add(struct journal_seen *s, struct str id);

#endif
