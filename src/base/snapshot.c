/* snapshot.c - things that never change once published, freed when the last reader is done. */
#include "recalld/base.h"

void ref_init(struct ref *r, void (*free_fn)(struct ref *))
{
    atomic_init(&r->count, 1);
    r->free = free_fn;
}

struct ref *ref_acquire(struct ref *r)
{
    if (r != NULL)
        atomic_fetch_add_explicit(&r->count, 1, memory_order_relaxed);
    return r;
}

/* Release publishes this thread's last use, acquire lets the freeing thread see everyone's. */
void ref_release(struct ref *r)
{
    if (r != NULL && atomic_fetch_sub_explicit(&r->count, 1, memory_order_acq_rel) == 1)
        r->free(r);
}

void cell_init(struct cell *c, struct ref *take)
{
    pthread_mutex_init(&c->lock, NULL);
    c->current = take;
}

/* The lock closes the gap between reading the pointer and counting the reference. */
struct ref *cell_acquire(struct cell *c)
{
    struct ref *r;

    pthread_mutex_lock(&c->lock);
    r = ref_acquire(c->current);
    pthread_mutex_unlock(&c->lock);
    return r;
}

void cell_swap(struct cell *c, struct ref *take)
{
    struct ref *old;

    pthread_mutex_lock(&c->lock);
    old = c->current;
    c->current = take;
    pthread_mutex_unlock(&c->lock);
    ref_release(old); /* outside the lock: freeing a bundle takes long */
}

void cell_clear(struct cell *c)
{
    cell_swap(c, NULL);
    pthread_mutex_destroy(&c->lock);
}
