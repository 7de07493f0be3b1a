/* queue.c - a bounded queue of pointers between threads: a ring under one lock. */
#include "recalld/base.h"

#include <stdlib.h>

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    void **ring;
    size_t capacity, head; /* the oldest is at ring[head] */
    atomic_size_t count;   /* written under the lock */
    bool closed;
};

struct queue *queue_new(size_t capacity)
{
    struct queue *q = xcalloc(1, sizeof *q);

    q->ring = xcalloc(capacity, sizeof *q->ring);
    q->capacity = capacity;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->filled, NULL);
    return q;
}

void queue_free(struct queue *q)
{
    if (q == NULL)
        return;
    pthread_cond_destroy(&q->filled);
    pthread_mutex_destroy(&q->lock);
    free(q->ring);
    free(q);
}

bool queue_try_push(struct queue *q, void *item)
{
    bool queued;

    pthread_mutex_lock(&q->lock);
    queued = !q->closed && q->count < q->capacity;
    if (queued) {
        q->ring[(q->head + q->count) % q->capacity] = item;
        q->count++;
    }
    pthread_mutex_unlock(&q->lock);
    if (queued)
        pthread_cond_signal(&q->filled);
    return queued;
}

static void take_locked(struct queue *q, void **out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = q->ring[q->head];
        q->head = (q->head + 1) % q->capacity;
    }
    q->count -= n;
}

void *queue_pop(struct queue *q)
{
    void *item = NULL;

    pthread_mutex_lock(&q->lock);
    while (q->count == 0 && !q->closed)
        pthread_cond_wait(&q->filled, &q->lock);
    if (q->count > 0)
        take_locked(q, &item, 1);
    pthread_mutex_unlock(&q->lock);
    return item;
}

/* Dividing what waits by the idle takers is what makes batches grow with the load and stay single
 * without it. */
size_t queue_take(struct queue *q, void **out, size_t max, size_t idle, size_t *left)
{
    size_t share;

    pthread_mutex_lock(&q->lock);
    share = (q->count + idle - 1) / idle;
    if (share > max)
        share = max;
    take_locked(q, out, share);
    *left = q->count;
    pthread_mutex_unlock(&q->lock);
    return share;
}

size_t queue_count(const struct queue *q)
{
    return q->count;
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_mutex_unlock(&q->lock);
    pthread_cond_broadcast(&q->filled);
}
