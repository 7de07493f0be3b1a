/* hung.h - inside behaviour/ only: users whose keys hang while others are answered. */
#ifndef RECALLD_BEHAVIOUR_HUNG_H
#define RECALLD_BEHAVIOUR_HUNG_H

#include "recalld/base.h"

#define HUNG_MAX 32

/* All threads of a stage share one. */
struct hung {
    pthread_mutex_t lock;
    atomic_size_t n; /* 0, almost always: then nobody takes the lock */
    struct hung_user {
        uint64_t hash;
        uint64_t until_ns; /* when one may try again */
        const void *by;    /* who waits for it, or waited last */
    } users[HUNG_MAX];
};

void hung_init(struct hung *h);
void hung_clear(struct hung *h);

enum hung_verdict {
    HUNG_NOT,
    HUNG_YES, /* do not ask */
    HUNG_TRY, /* it did hang: `by` alone may ask, to see whether it still does */
};
enum hung_verdict hung_check(struct hung *h, struct str user_id, uint64_t deadline_ns,
                             const void *by);
/* `by` has waited for long, and goes on until `deadline_ns`. False when another does already. */
bool hung_add(struct hung *h, struct str user_id, uint64_t deadline_ns, const void *by);
void hung_remove(struct hung *h, struct str user_id); /* it was answered */
/* `by` was to try and could not: the next one may. */
void hung_release(struct hung *h, struct str user_id, const void *by);
void hung_remove_all(struct hung *h);

#endif
