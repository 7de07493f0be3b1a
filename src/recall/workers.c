/* workers.c - the service around the pipeline: pool of calls, admission, compute queue, threads.
 *
 * A call has one owner at a time: the HTTP thread until it is submitted, then the behaviour stage,
 * the queue, a worker, and from `done` on the HTTP thread again. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "recalld/blas.h"
#include "recalld/metrics.h"

/* Of a request's time the wait for Redis may take three quarters. */
#define BEHAVIOUR_SHARE_NUM 3
#define BEHAVIOUR_SHARE_DEN 4

struct recall {
    struct registry *registry;
    pthread_rwlock_t behaviour_lock; /* read while submitting, written to change the stage */
    struct behaviour *behaviour;
    struct cell policy;
    struct queue *queue;
    size_t queue_max;
    atomic_size_t waiting;   /* admitted, not yet taken by a worker */
    atomic_size_t in_flight; /* admitted, not yet answered */
    atomic_bool draining;
    int batch, n_workers;
    pthread_t *threads;
    pthread_mutex_t pool_lock;
    struct recall_call *pool; /* idle ones */
    size_t n_pool, pool_max;
};

/* ---- policy ------------------------------------------------------------------------------ */

void recall_set_policy(struct recall *r, struct recall_policy *policy)
{
    cell_swap(&r->policy, &policy->ref);
}

void recall_set_behaviour(struct recall *r, struct behaviour *beh)
{
    pthread_rwlock_wrlock(&r->behaviour_lock);
    r->behaviour = beh;
    pthread_rwlock_unlock(&r->behaviour_lock);
}

/* ---- pool -------------------------------------------------------------------------------- */

struct recall_call *recall_call_get(struct recall *r, void (*done)(struct recall_call *),
                                    void *owner)
{
    struct recall_call *c;

    pthread_mutex_lock(&r->pool_lock);
    c = r->pool;
    if (c != NULL) {
        r->pool = c->next;
        r->n_pool--;
    }
    pthread_mutex_unlock(&r->pool_lock);
    if (c == NULL)
        c = xcalloc(1, sizeof *c);
    c->service = r;
    c->next = NULL;
    c->done = done;
    c->owner = owner;
    return c;
}

void recall_call_put(struct recall_call *c)
{
    struct recall *r;
    bool kept = false;

    if (c == NULL)
        return;
    r = c->service;
    call_reset(c);
    pthread_mutex_lock(&r->pool_lock);
    if (r->n_pool < r->pool_max) {
        c->next = r->pool;
        r->pool = c;
        r->n_pool++;
        kept = true;
    }
    pthread_mutex_unlock(&r->pool_lock);
    if (!kept)
        call_free(c);
}

/* ---- from stage to stage --------------------------------------------------------------------- */

static void call_finish(struct recall_call *c)
{
    struct recall *r = c->service;

    figures_call(c, clock_ns());
    c->done(c); /* from here on it belongs to its owner */
    atomic_fetch_sub(&r->in_flight, 1);
}

/* The queue holds as many as are admitted, so it is never full here; it is closed only when none is
 * left. */
static void to_workers(struct recall_call *c)
{
    c->at[MOMENT_BEHAVIOUR] = clock_ns();
    if (!queue_try_push(c->service->queue, c)) {
        atomic_fetch_sub(&c->service->waiting, 1);
        call_refuse(c, 503, "the service is stopping");
        call_finish(c);
    }
}

static void behaviour_done(struct behaviour_job *job)
{
    to_workers(job->owner);
}

static void ask_behaviour(struct recall_call *c)
{
    struct recall *r = c->service;
    uint64_t own =
        (c->deadline_ns - c->at[MOMENT_START]) / BEHAVIOUR_SHARE_DEN * BEHAVIOUR_SHARE_NUM;
    uint64_t redis = (uint64_t)c->policy->redis_timeout_ms * 1000000;
    bool taken;

    c->redis_cut_by_deadline = own < redis;
    c->job = (struct behaviour_job){
        .user_id = c->user_id,
        .deadline_ns = c->at[MOMENT_START] + (own < redis ? own : redis),
        .arena = &c->arena,
        .done = behaviour_done,
        .owner = c,
    };
    pthread_rwlock_rdlock(&r->behaviour_lock);
    taken = behaviour_submit(r->behaviour, &c->job);
    pthread_rwlock_unlock(&r->behaviour_lock);
    if (!taken)
        to_workers(c);
}

/* Takes one of the queue's places, or false when none is left. */
static bool take_place(struct recall *r)
{
    if (atomic_fetch_add(&r->waiting, 1) < r->queue_max)
        return true;
    atomic_fetch_sub(&r->waiting, 1);
    return false;
}

static void start_clock(struct recall_call *c)
{
    c->at[MOMENT_START] = clock_ns();
    c->policy = (struct recall_policy *)cell_acquire(&c->service->policy);
}

static void set_deadline(struct recall_call *c)
{
    int ms = c->deadline_ms > 0 ? c->deadline_ms : c->policy->deadline_ms;

    c->deadline_ns = c->at[MOMENT_START] + (uint64_t)ms * 1000000;
    c->at[MOMENT_PARSED] = clock_ns();
}

enum recall_admission recall_submit(struct recall *r, struct recall_call *c,
                                    void (*before)(struct recall_call *), struct err *err)
{
    int parsed;

    start_clock(c);
    parsed = request_parse(c, c->policy->n_max, err);
    if (c->request_id[0] == '\0')
        uuid7(c->request_id);
    set_deadline(c);
    if (parsed == -1) {
        figures_refused(c, REFUSED_BAD);
        return RECALL_BAD;
    }
    uuid7(c->serve_id);
    /* In flight before the flag is read: once draining is set and nothing is in flight, nothing
     * will be. */
    atomic_fetch_add(&r->in_flight, 1);
    if (atomic_load(&r->draining)) {
        atomic_fetch_sub(&r->in_flight, 1);
        figures_refused(c, REFUSED_DRAINING);
        return RECALL_DRAINING;
    }
    if (!take_place(r)) {
        atomic_fetch_sub(&r->in_flight, 1);
        figures_refused(c, REFUSED_FULL);
        return RECALL_FULL;
    }
    if (before != NULL)
        before(c);
    if (c->has_history)
        to_workers(c);
    else
        ask_behaviour(c);
    return RECALL_ADMITTED;
}

/* ---- workers ------------------------------------------------------------------------------ */

static void *worker(void *arg)
{
    struct recall *r = arg;
    struct pipeline *p = pipeline_new();
    void **batch = xcalloc((size_t)r->batch, sizeof *batch);
    size_t n;

    while ((n = queue_pop(r->queue, batch, (size_t)r->batch)) > 0) {
        const struct bundle_set *set = registry_acquire(r->registry);

        atomic_fetch_sub(&r->waiting, n);
        figures_batch(n);
        pipeline_run(p, set, (struct recall_call **)batch, n, call_finish);
        bundle_set_release(set);
    }
    free(batch);
    pipeline_free(p);
    return NULL;
}

static double read_waiting(void *arg)
{
    struct recall *r = arg;

    return (double)atomic_load(&r->waiting);
}

static double read_in_flight(void *arg)
{
    struct recall *r = arg;

    return (double)atomic_load(&r->in_flight);
}

static int start_workers(struct recall *r, int n, struct err *err)
{
    r->threads = xcalloc((size_t)n, sizeof *r->threads);
    for (int i = 0; i < n; i++) {
        int e = pthread_create(&r->threads[i], NULL, worker, r);

        if (e != 0)
            return err_set(err, ERR_IO, "worker thread %d: %s", i, strerror(e));
        r->n_workers++;
    }
    return 0;
}

struct recall *recall_start(const struct config *cfg, struct recall_policy *policy,
                            struct registry *reg, struct behaviour *beh, struct err *err)
{
    struct recall *r = xcalloc(1, sizeof *r);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = cfg->workers_count > 0 ? cfg->workers_count : cores > 0 ? (int)cores : 1;

    blas_single_thread();
    figures_register();
    r->registry = reg;
    r->behaviour = beh;
    pthread_rwlock_init(&r->behaviour_lock, NULL);
    pthread_mutex_init(&r->pool_lock, NULL);
    cell_init(&r->policy, &policy->ref);
    r->queue_max = (size_t)cfg->workers_queue;
    r->queue = queue_new(r->queue_max);
    r->batch = cfg->workers_batch;
    r->pool_max = r->queue_max + (size_t)n * (size_t)r->batch; /* as many as can be at work */
    metric_gauge("recalld_queue_depth", "Requests admitted that no worker has taken yet.", "",
                 read_waiting, r);
    metric_gauge("recalld_in_flight", "Requests admitted and not yet answered.", "", read_in_flight,
                 r);
    if (start_workers(r, n, err) == -1) {
        recall_stop(r);
        return NULL;
    }
    return r;
}

void recall_drain(struct recall *r)
{
    atomic_store(&r->draining, true);
}

size_t recall_in_flight(struct recall *r)
{
    return atomic_load(&r->in_flight);
}

void recall_stop(struct recall *r)
{
    if (r == NULL)
        return;
    recall_drain(r);
    while (recall_in_flight(r) >
           0) /* calls still with the behaviour stage come back by their deadline */
        usleep(500);
    queue_close(r->queue);
    for (int i = 0; i < r->n_workers; i++)
        pthread_join(r->threads[i], NULL);
    while (r->pool != NULL) {
        struct recall_call *c = r->pool;

        r->pool = c->next;
        call_free(c);
    }
    queue_free(r->queue);
    cell_clear(&r->policy);
    pthread_rwlock_destroy(&r->behaviour_lock);
    pthread_mutex_destroy(&r->pool_lock);
    free(r->threads);
    free(r);
}
