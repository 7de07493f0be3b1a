/* workers.c - the service around the pipeline: pool of calls, admission, compute queue, threads.
 *
 * A worker that has nothing to compute waits in the poller, and does there what sockets ask for: it
 * reads requests, asks Redis, takes replies. What that puts into the queue it takes out next,
 * unless another is idle too. So a request needs no second thread, and none stands still while
 * another computes.
 *
 * A call has one owner at a time: the HTTP loop until it is submitted, then the behaviour stage,
 * the queue, a worker, and from `done` on the HTTP loop again.
 *
 * Admission keeps what is answered in time when too much is asked for: whoever would wait for more
 * than a share of the time he has is refused at once, so no worker spends time on an answer that
 * comes too late. The wait follows from what a call costs of late; with nobody waiting nobody is
 * refused, so that a wrong figure corrects itself. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "call.h"
#include "effort.h"
#include "recalld/blas.h"
#include "recalld/metrics.h"

/* Of a request's time the wait for Redis may take three quarters. */
#define BEHAVIOUR_SHARE_NUM 3
#define BEHAVIOUR_SHARE_DEN 4
/* A third of a request's time may pass in the queue, counted by what calls cost: what workers read,
 * refuse and send between two batches comes on top, and under a storm of requests is nearly as
 * much. An eighth is the most that a batch should take: its first call waits for its last. The rest
 * is for the batch before and for surprises. */
#define WAIT_SHARE 3
#define BATCH_SHARE 8
#define REDIS_WEIGHT 16 /* a call moves the average wait for Redis by a sixteenth */

struct recall {
    struct registry *registry;
    struct experiment_store *experiments; /* where answers are counted; or NULL */
    struct journal *journal;              /* NULL = off */
    pthread_rwlock_t behaviour_lock;      /* read while submitting, written to change the stage */
    struct behaviour *behaviour;
    struct cell policy;
    struct poller *poller;
    struct queue *queue;
    struct effort *effort;
    _Atomic uint64_t deadline_ns; /* of a request that does not say */
    size_t queue_max;
    atomic_size_t waiting;     /* admitted, not yet taken by a worker */
    atomic_size_t queued;      /* those of them whose behaviour is here: they wait for a worker */
    atomic_size_t in_flight;   /* admitted, not yet answered */
    atomic_size_t pushing;     /* threads that are putting a call into the queue */
    atomic_size_t idle;        /* workers that compute nothing */
    _Atomic uint64_t redis_ns; /* how long those that ask Redis wait for it, of late */
    atomic_bool draining, closing;
    int batch, n_workers;
    pthread_t *threads;
    pthread_mutex_t pool_lock;
    struct recall_call *pool; /* idle ones */
    size_t n_pool, pool_max;
};

/* ---- policy ------------------------------------------------------------------------------ */

void recall_set_policy(struct recall *r, struct recall_policy *policy)
{
    uint64_t deadline = (uint64_t)policy->deadline_ms * 1000000;

    atomic_store(&r->deadline_ns, deadline);
    effort_set_deadline(r->effort, deadline);
    cell_swap(&r->policy, &policy->ref);
}

int recall_n_max(struct recall *r)
{
    struct recall_policy *p = (struct recall_policy *)cell_acquire(&r->policy);
    int n_max = p->n_max;

    ref_release(&p->ref);
    return n_max;
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
    atomic_store(&c->holders, 1);
    c->done = done;
    c->owner = owner;
    return c;
}

void recall_call_put(struct recall_call *c)
{
    struct recall *r;
    bool kept = false;

    if (c == NULL || atomic_fetch_sub(&c->holders, 1) > 1)
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
    if (c->status == 200 && c->experiments != NULL && r->experiments != NULL)
        experiment_count_served(r->experiments, c->experiments, &c->assignment, c->serve_id,
                                c->request_id);
    c->done(c); /* from here on it belongs to its owner */
    atomic_fetch_sub(&r->in_flight, 1);
}

static void wake_idle(struct recall *r)
{
    if (atomic_load(&r->idle) > 0)
        poller_wake(r->poller);
}

/* A worker takes what it has put into the queue itself, and needs another only for more than that.
 */
static void wake_for_work(struct recall *r)
{
    if (!poller_is_mine(r->poller) || (queue_count(r->queue) > 1 && atomic_load(&r->idle) > 1))
        wake_idle(r);
}

/* The queue holds as many as are admitted, so it is never full here; it is closed only when none is
 * left. The call may be answered before the push returns: `pushing` keeps the queue until then. */
static void to_workers(struct recall_call *c)
{
    struct recall *r = c->service;

    c->at[MOMENT_BEHAVIOUR] = clock_ns();
    atomic_fetch_add(&r->pushing, 1);
    atomic_fetch_add(&r->queued, 1);
    if (!queue_try_push(r->queue, c)) {
        atomic_fetch_sub(&r->queued, 1);
        atomic_fetch_sub(&r->waiting, 1);
        call_refuse(c, 503, "the service is stopping");
        call_finish(c);
    }
    wake_for_work(r);
    atomic_fetch_sub(&r->pushing, 1);
}

/* A moving average; two threads at once may lose one of their values. */
static void learn_redis(struct recall *r, uint64_t took)
{
    uint64_t old = atomic_load_explicit(&r->redis_ns, memory_order_relaxed);

    atomic_store_explicit(&r->redis_ns, old - old / REDIS_WEIGHT + took / REDIS_WEIGHT,
                          memory_order_relaxed);
}

static void behaviour_done(struct behaviour_job *job)
{
    struct recall_call *c = job->owner;

    learn_redis(c->service, clock_ns() - c->at[MOMENT_PARSED]);
    to_workers(c);
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

/* ---- admission ------------------------------------------------------------------------------- */

static uint64_t less(uint64_t a, uint64_t b)
{
    return a > b ? a - b : 0;
}

/* How long `calls` keep the workers busy. */
static uint64_t work_of(const struct recall *r, size_t calls)
{
    return calls * effort_cost(r->effort) / (unsigned)r->n_workers;
}

/* Whether a call with `left` ns that brings its history would wait too long for a worker. */
static bool too_long(const struct recall *r, uint64_t left)
{
    return work_of(r, atomic_load(&r->queued)) > left / WAIT_SHARE;
}

/* The same for a call that asks Redis first. Those that have asked before it are ahead of it, but
 * workers go on while it waits for Redis. */
static bool too_long_after_redis(const struct recall *r, size_t waiting, uint64_t left)
{
    uint64_t redis = atomic_load_explicit(&r->redis_ns, memory_order_relaxed);

    return less(work_of(r, waiting), redis) > less(left, redis) / WAIT_SHARE;
}

/* Most refusals are certain before the body is read, and cost next to nothing then. A body that
 * may name a deadline of its own (with an escape perhaps) is refused only when the queue is full.
 */
static enum refusal crowded_anyway(const struct recall *r, const struct recall_call *c)
{
    bool own = c->body.len > 0 && (memmem(c->body.p, c->body.len, "deadline_ms", 11) != NULL ||
                                   memchr(c->body.p, '\\', c->body.len) != NULL);
    uint64_t left = own ? UINT64_MAX : (uint64_t)c->policy->deadline_ms * 1000000;
    size_t waiting = atomic_load(&r->waiting);

    if (waiting >= r->queue_max)
        return REFUSED_FULL;
    return too_long(r, left) && too_long_after_redis(r, waiting, left) ? REFUSED_WAIT : ADMITTED;
}

/* Takes one of the queue's places, or says why not. */
static enum refusal take_place(struct recall *r, const struct recall_call *c)
{
    uint64_t left = less(c->deadline_ns, clock_ns());
    size_t waiting = atomic_fetch_add(&r->waiting, 1);
    enum refusal why = ADMITTED;

    if (waiting >= r->queue_max)
        why = REFUSED_FULL;
    else if (c->has_history ? too_long(r, left) : too_long_after_redis(r, waiting, left))
        why = REFUSED_WAIT;
    if (why != ADMITTED)
        atomic_fetch_sub(&r->waiting, 1);
    return why;
}

static enum recall_admission refuse(struct recall *r, struct recall_call *c, enum refusal why,
                                    struct err *err)
{
    if (c->request_id[0] == '\0')
        uuid7(c->request_id);
    figures_refused(c, why);
    switch (why) {
    case REFUSED_BAD:
        return RECALL_BAD;
    case REFUSED_DRAINING:
        err_set(err, ERR_UNAVAILABLE, "the service is stopping");
        return RECALL_DRAINING;
    case REFUSED_FULL:
        err_set(err, ERR_UNAVAILABLE, "overloaded: the queue is full");
        break;
    default:
        err_set(err, ERR_UNAVAILABLE, "overloaded: the wait would be too long");
        break;
    }
    effort_refused(r->effort);
    return RECALL_FULL;
}

static void start_clock(struct recall_call *c)
{
    c->at[MOMENT_START] = clock_ns();
    c->policy = (struct recall_policy *)cell_acquire(&c->service->policy);
}

static int read_request(struct recall_call *c, struct err *err)
{
    int parsed = request_parse(c, c->policy->n_max, err);
    int ms = c->deadline_ms > 0 ? c->deadline_ms : c->policy->deadline_ms;

    if (c->request_id[0] == '\0')
        uuid7(c->request_id);
    uuid7(c->serve_id);
    c->deadline_ns = c->at[MOMENT_START] + (uint64_t)ms * 1000000;
    c->at[MOMENT_PARSED] = clock_ns();
    return parsed;
}

enum recall_admission recall_submit(struct recall *r, struct recall_call *c,
                                    void (*before)(struct recall_call *), struct err *err)
{
    enum refusal why;

    start_clock(c);
    why = crowded_anyway(r, c);
    if (why != ADMITTED)
        return refuse(r, c, why, err);
    if (read_request(c, err) == -1)
        return refuse(r, c, REFUSED_BAD, err);
    /* In flight before the flag is read: once draining is set and nothing is in flight, nothing
     * will be. */
    atomic_fetch_add(&r->in_flight, 1);
    why = atomic_load(&r->draining) ? REFUSED_DRAINING : take_place(r, c);
    if (why != ADMITTED) {
        atomic_fetch_sub(&r->in_flight, 1);
        return refuse(r, c, why, err);
    }
    if (before != NULL)
        before(c);
    if (c->has_history)
        to_workers(c);
    else
        ask_behaviour(c);
    return RECALL_ADMITTED;
}

int recall_workers(const struct recall *r)
{
    return r->n_workers;
}

void recall_flush(struct recall *r)
{
    pthread_rwlock_rdlock(&r->behaviour_lock);
    behaviour_flush(r->behaviour);
    pthread_rwlock_unlock(&r->behaviour_lock);
}

/* ---- workers ------------------------------------------------------------------------------ */

/* How many calls a batch may hold so that it does not take too long. */
static size_t batch_limit(const struct recall *r)
{
    uint64_t cost = effort_cost(r->effort), most = atomic_load(&r->deadline_ns) / BATCH_SHARE;

    if (cost == 0 || most / cost >= (unsigned)r->batch)
        return (size_t)r->batch;
    return most > cost ? most / cost : 1;
}

/* What the journal is to have of the batch is held until it has it: the answers are on their way by
 * then. */
static void hold(struct recall_call **calls, size_t n)
{
    for (size_t i = 0; i < n; i++)
        atomic_store(&calls[i]->holders, 2);
}

static void record(struct recorder *recorder, struct recall_call **calls, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (calls[i]->status == 200)
            recorder_write(recorder, calls[i]);
        recall_call_put(calls[i]);
    }
}

static void run_batch(struct recall *r, struct pipeline *p, struct recorder *recorder,
                      struct recall_call **calls, size_t n)
{
    const struct bundle_set *set = registry_acquire(r->registry);
    uint64_t start = clock_ns(), end, since = calls[n - 1]->at[MOMENT_BEHAVIOUR];
    int level = effort_take(r->effort, start, start > since ? start - since : 0, n);
    size_t answered;

    atomic_fetch_sub(&r->queued, n);
    atomic_fetch_sub(&r->waiting, n);
    figures_batch(n);
    for (size_t i = 0; i < n; i++)
        calls[i]->level = level;
    if (recorder != NULL)
        hold(calls, n);
    answered = pipeline_run(p, set, calls, n, call_finish);
    end = clock_ns();
    poller_run_due(r->poller); /* sends the answers */
    if (recorder != NULL)
        record(recorder, calls, n);
    bundle_set_release(set);
    effort_done(r->effort, end, start, level, answered);
}

/* Looks after the sockets, for as long as there is nothing to compute, then takes a batch: 0 when
 * another took it. Idle is counted before the queue is looked at: who puts a call there later sees
 * it. */
static size_t next_batch(struct recall *r, void **batch)
{
    size_t n, left;

    atomic_fetch_add(&r->idle, 1);
    poller_wait(r->poller, queue_count(r->queue) > 0 ? 0 : -1);
    n = queue_take(r->queue, batch, batch_limit(r), atomic_load(&r->idle), &left);
    atomic_fetch_sub(&r->idle, 1);
    if (left > 0)
        wake_idle(r);
    if (n > 0)
        poller_pass_on(r->poller);
    return n;
}

static void *worker(void *arg)
{
    struct recall *r = arg;
    struct pipeline *p = pipeline_new();
    struct recorder *recorder = recorder_new(r->journal);
    void **batch = xcalloc((size_t)r->batch, sizeof *batch);

    while (!atomic_load(&r->closing)) {
        size_t n = next_batch(r, batch);

        if (n > 0)
            run_batch(r, p, recorder, (struct recall_call **)batch, n);
    }
    free(batch);
    recorder_free(recorder);
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

static double read_expected_wait(void *arg)
{
    struct recall *r = arg;

    return (double)work_of(r, atomic_load(&r->queued)) * 1e-9;
}

static double read_level(void *arg)
{
    struct recall *r = arg;

    return effort_level(r->effort, clock_ns());
}

static void register_gauges(struct recall *r)
{
    metric_gauge("recalld_queue_depth", "Requests admitted that no worker has taken yet.", "",
                 read_waiting, r);
    metric_gauge("recalld_in_flight", "Requests admitted and not yet answered.", "", read_in_flight,
                 r);
    metric_gauge("recalld_expected_wait_seconds",
                 "How long a request that comes now would wait for a worker.", "",
                 read_expected_wait, r);
    metric_gauge("recalld_effort_level",
                 "0 full effort, 1 to 3 less search effort, 4 fewer interests as well.", "",
                 read_level, r);
}

static int start_workers(struct recall *r, int n, struct err *err)
{
    r->threads = xcalloc((size_t)n, sizeof *r->threads);
    for (int i = 0; i < n; i++) {
        int e = pthread_create(&r->threads[i], NULL, worker, r);

        if (e != 0)
            return err_set(err, ERR_IO, "worker thread %d: %s", i, strerror(e));
        pthread_setname_np(r->threads[i], "worker");
        r->n_workers++;
    }
    return 0;
}

struct recall *recall_start(const struct config *cfg, struct recall_policy *policy,
                            struct registry *reg, struct experiment_store *exp,
                            struct journal *journal, struct behaviour *beh, struct poller *poller,
                            struct err *err)
{
    struct recall *r = xcalloc(1, sizeof *r);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = cfg->workers_count > 0 ? cfg->workers_count : cores > 0 ? (int)cores : 1;

    blas_single_thread();
    figures_register();
    r->registry = reg;
    r->experiments = exp;
    r->journal = journal;
    r->behaviour = beh;
    r->poller = poller;
    pthread_rwlock_init(&r->behaviour_lock, NULL);
    pthread_mutex_init(&r->pool_lock, NULL);
    r->effort = effort_new(n, cfg->workers_effort_control,
                           throttle_open("/proc/self/cgroup", "/sys/fs/cgroup"));
    cell_init(&r->policy, NULL);
    recall_set_policy(r, policy);
    r->queue_max = (size_t)cfg->workers_queue;
    r->queue = queue_new(r->queue_max);
    r->batch = cfg->workers_batch;
    r->pool_max = r->queue_max + (size_t)n * (size_t)r->batch; /* as many as can be at work */
    if (start_workers(r, n, err) == -1) {
        recall_stop(r);
        return NULL;
    }
    register_gauges(r);
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
    /* Calls still with the behaviour stage come back by their deadline. */
    while (recall_in_flight(r) > 0 || atomic_load(&r->pushing) > 0)
        usleep(500);
    queue_close(r->queue);
    atomic_store(&r->closing, true);
    poller_close(r->poller);
    for (int i = 0; i < r->n_workers; i++)
        pthread_join(r->threads[i], NULL);
    while (r->pool != NULL) {
        struct recall_call *c = r->pool;

        r->pool = c->next;
        call_free(c);
    }
    queue_free(r->queue);
    effort_free(r->effort);
    cell_clear(&r->policy);
    pthread_rwlock_destroy(&r->behaviour_lock);
    pthread_mutex_destroy(&r->pool_lock);
    free(r->threads);
    free(r);
}
