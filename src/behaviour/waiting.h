/* waiting.h - inside behaviour/ only: jobs that no connection has taken yet. */
#ifndef RECALLD_BEHAVIOUR_WAITING_H
#define RECALLD_BEHAVIOUR_WAITING_H

#include "recalld/behaviour.h"

#include <semaphore.h>

struct waiting {
    pthread_mutex_t lock;
    sem_t filled; /* a call for every taker that is counted out of `idle` */
    pthread_cond_t look, closing;
    struct behaviour_job *first, **end; /* oldest first */
    size_t n, max;
    unsigned idle;    /* takers that sleep and were not called */
    uint64_t look_ns; /* when the timekeeper looks at the deadlines, UINT64_MAX = when told */
    atomic_bool closed;
};

void waiting_init(struct waiting *w, size_t max);
void waiting_clear(struct waiting *w);
/* False when it is full or closed. */
bool waiting_push(struct waiting *w, struct behaviour_job *job) WARN_UNUSED;
/* Takes what there is, up to `max` jobs, sleeping until `until_ns` when there is nothing; *n may be
 * 0. False when it is closed and nothing is left. */
bool waiting_take(struct waiting *w, struct behaviour_job **out, size_t max, uint64_t until_ns,
                  size_t *n) WARN_UNUSED;
size_t waiting_depth(struct waiting *w);
/* No more pushes; what waits can still be taken; everyone wakes. */
void waiting_close(struct waiting *w);
bool waiting_is_closed(const struct waiting *w);
void waiting_sleep(struct waiting *w, uint64_t until_ns); /* without taking; until closed */
/* Calls `late` with every job whose deadline passes before anybody takes it. Until closed. */
void waiting_keep_time(struct waiting *w, void (*late)(struct behaviour_job *));

#endif
