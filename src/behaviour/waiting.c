/* waiting.c - jobs that no connection has taken yet, oldest first.
 *
 * A job has its own deadline, and every taker may be waiting for Redis for longer than that. So a
 * thread keeps the time of what waits here. It is told of a job only when nobody takes it at once
 * and when it would look too late: a few times per timeout, however many jobs pass through.
 *
 * Takers sleep on a semaphore: one woken from a condition variable finds the lock marked as
 * contended, and giving that back is a system call for every job. */
#include "waiting.h"

#include <errno.h>
#include <time.h>

static void init_monotonic(pthread_cond_t *cond)
{
    pthread_condattr_t attr;

    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void waiting_init(struct waiting *w, size_t max)
{
    *w = (struct waiting){
        .end = &w->first, .max = max, .look_ns = UINT64_MAX, .untold_ns = UINT64_MAX};
    pthread_mutex_init(&w->lock, NULL);
    sem_init(&w->filled, 0, 0);
    init_monotonic(&w->look);
    init_monotonic(&w->closing);
}

void waiting_clear(struct waiting *w)
{
    sem_destroy(&w->filled);
    pthread_cond_destroy(&w->look);
    pthread_cond_destroy(&w->closing);
    pthread_mutex_destroy(&w->lock);
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
}

/* False at the time. */
static bool wait_until(pthread_cond_t *cond, struct waiting *w, uint64_t until_ns)
{
    struct timespec t = timespec_of(until_ns);

    return pthread_cond_timedwait(cond, &w->lock, &t) == 0;
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

bool waiting_push(struct waiting *w, struct behaviour_job *job, bool call)
{
    bool pushed, idle, look;

    pthread_mutex_lock(&w->lock);
    pushed = !atomic_load(&w->closed) && w->n < w->max;
    idle = pushed && call && w->idle > 0;
    look = pushed && call && !idle && job->deadline_ns < w->look_ns;
    if (pushed) {
        job->next = NULL;
        *w->end = job;
        w->end = &job->next;
        w->n++;
        if (!call)
            w->untold_ns = min_u64(w->untold_ns, job->deadline_ns);
    }
    if (idle)
        w->idle--;
    if (look)
        w->look_ns = job->deadline_ns;
    pthread_mutex_unlock(&w->lock);
    if (idle)
        sem_post(&w->filled);
    else if (look)
        pthread_cond_signal(&w->look);
    return pushed;
}

void waiting_stays(struct waiting *w)
{
    bool look;

    pthread_mutex_lock(&w->lock);
    look = w->untold_ns < w->look_ns;
    if (look)
        w->look_ns = w->untold_ns;
    w->untold_ns = UINT64_MAX;
    pthread_mutex_unlock(&w->lock);
    if (look)
        pthread_cond_signal(&w->look);
}

void waiting_call(struct waiting *w)
{
    bool call;

    pthread_mutex_lock(&w->lock);
    call = w->n > 0 && w->idle > 0;
    if (call)
        w->idle--;
    pthread_mutex_unlock(&w->lock);
    if (call)
        sem_post(&w->filled);
}

/* With the lock held, but not while asleep. False at the time. */
static bool sleep_until_called(struct waiting *w, uint64_t until_ns)
{
    struct timespec until = timespec_of(until_ns);
    bool called;

    w->idle++;
    pthread_mutex_unlock(&w->lock);
    do
        called = sem_clockwait(&w->filled, CLOCK_MONOTONIC, &until) == 0;
    while (!called && errno == EINTR);
    pthread_mutex_lock(&w->lock);
    if (!called && w->idle > 0)
        w->idle--;
    else if (!called)
        while (sem_wait(&w->filled) == -1) /* called just now */
            continue;
    return called;
}

static size_t take_locked(struct waiting *w, struct behaviour_job **out, size_t max)
{
    size_t n = 0;

    while (n < max && w->first != NULL) {
        out[n++] = w->first;
        w->first = w->first->next;
    }
    if (w->first == NULL) {
        w->end = &w->first;
        w->untold_ns = UINT64_MAX;
    }
    w->n -= n;
    return n;
}

bool waiting_take(struct waiting *w, struct behaviour_job **out, size_t max, uint64_t until_ns,
                  size_t *n)
{
    bool left, over;

    pthread_mutex_lock(&w->lock);
    while (w->n == 0 && !atomic_load(&w->closed) && sleep_until_called(w, until_ns))
        continue;
    *n = take_locked(w, out, max);
    over = *n == 0 && atomic_load(&w->closed);
    left = w->n > 0 && w->idle == 0;
    if (left)
        w->look_ns = 0; /* the timekeeper shall see for itself */
    pthread_mutex_unlock(&w->lock);
    if (left)
        pthread_cond_signal(&w->look);
    return !over;
}

size_t waiting_take_now(struct waiting *w, struct behaviour_job **out, size_t max)
{
    size_t n;

    if (atomic_load(&w->n) == 0)
        return 0;
    pthread_mutex_lock(&w->lock);
    n = take_locked(w, out, max);
    pthread_mutex_unlock(&w->lock);
    return n;
}

size_t waiting_depth(const struct waiting *w)
{
    return atomic_load(&w->n);
}

void waiting_close(struct waiting *w)
{
    pthread_mutex_lock(&w->lock);
    atomic_store(&w->closed, true);
    for (; w->idle > 0; w->idle--)
        sem_post(&w->filled);
    pthread_mutex_unlock(&w->lock);
    pthread_cond_broadcast(&w->look);
    pthread_cond_broadcast(&w->closing);
}

bool waiting_is_closed(const struct waiting *w)
{
    return atomic_load(&w->closed);
}

void waiting_sleep(struct waiting *w, uint64_t until_ns)
{
    pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->closed) && wait_until(&w->closing, w, until_ns))
        continue;
    pthread_mutex_unlock(&w->lock);
}

/* ---- keeping time ---------------------------------------------------------------- */

/* Unlinks the first job that is late, or returns NULL with the next deadline in look_ns. */
static struct behaviour_job *unlink_late(struct waiting *w)
{
    struct behaviour_job **at = &w->first, *job;
    uint64_t now = clock_ns();

    w->look_ns = UINT64_MAX;
    while ((job = *at) != NULL && job->deadline_ns > now) {
        if (job->deadline_ns < w->look_ns)
            w->look_ns = job->deadline_ns;
        at = &job->next;
    }
    if (job == NULL)
        return NULL;
    *at = job->next;
    if (job->next == NULL)
        w->end = at;
    w->n--;
    return job;
}

void waiting_keep_time(struct waiting *w, void (*late)(struct behaviour_job *))
{
    struct behaviour_job *job;

    pthread_mutex_lock(&w->lock);
    while (!atomic_load(&w->closed)) {
        job = unlink_late(w);
        if (job != NULL) {
            pthread_mutex_unlock(&w->lock);
            late(job);
            pthread_mutex_lock(&w->lock);
        } else if (w->look_ns == UINT64_MAX) {
            pthread_cond_wait(&w->look, &w->lock);
        } else {
            wait_until(&w->look, w, w->look_ns);
        }
    }
    pthread_mutex_unlock(&w->lock);
}
