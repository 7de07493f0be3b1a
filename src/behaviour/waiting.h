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
    atomic_size_t n;
    size_t max;
    unsigned idle;      /* takers that sleep and were not called */
    uint64_t look_ns;   /* when the timekeeper looks at the deadlines, UINT64_MAX = when told */
    uint64_t untold_ns; /* the first deadline pushed that he was not told of, UINT64_MAX = none */
    atomic_bool closed;
};

void waiting_init(struct waiting *w, size_t max);
void waiting_clear(struct waiting *w);
/* `call` an idle taker, or have the timekeeper look, if need be; otherwise somebody will take the
 * job at once, or say waiting_stays. False when it is full or closed. */
bool waiting_push(struct waiting *w, struct behaviour_job *job, bool call) WARN_UNUSED;
void waiting_stays(struct waiting *w); /* what is there goes on waiting */
void waiting_call(struct waiting *w);  /* an idle taker, if there is one and something waits */
/* Takes what there is, up to `max` jobs, sleeping until `until_ns` when there is nothing; *n may be
 * 0. False when it is closed and nothing is left. */
bool waiting_take(struct waiting *w, struct behaviour_job **out, size_t max, uint64_t until_ns,
                  size_t *n) WARN_UNUSED;
size_t waiting_take_now(struct waiting *w, struct behaviour_job **out, size_t max);
size_t waiting_depth(const struct waiting *w); /* as of now; no lock */
/* No more pushes; what waits can still be taken; everyone wakes. */
void waiting_close(struct waiting *w);
bool waiting_is_closed(const struct waiting *w);
void waiting_sleep(struct waiting *w, uint64_t until_ns); /* without taking; until closed */
/* Calls `late` with every job whose deadline passes before anybody takes it. Until closed. */
void waiting_keep_time(struct waiting *w, void (*late)(struct behaviour_job *));

#endif
