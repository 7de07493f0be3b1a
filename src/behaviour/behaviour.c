/* behaviour.c - the stage: jobs wait in a queue, and one thread per Redis connection takes all that
 * wait, asks for them in one pipeline and hands each back as its reply comes or its deadline
 * passes.
 *
 * A thread whose connection is down leaves the jobs to the others and heals it. When no connection
 * is up it takes them all the same, so that each is tried, or failed, in time: enough of
 * those open the breaker, and from then on nothing is asked until a connection has healed. */
#include "format.h"
#include "recalld/metrics.h"

#include <stdlib.h>
#include <time.h>

#define BATCH_MAX 64
#define BREAKER_FAILURES 5
#define IDLE_NS ((uint64_t)100000000) /* how often an idle thread looks after its connection */

struct worker {
    struct behaviour *stage;
    struct redis_conn *conn;
    pthread_t thread;
    bool started, up;
    bool failed; /* something in the current pipeline did */
    struct redis_connects counted;
    struct question questions[BATCH_MAX * QUESTIONS_PER_JOB];
    struct redis_command cmds[BATCH_MAX * QUESTIONS_PER_JOB];
};

struct behaviour {
    struct format format;
    char *address;
    struct breaker *breaker;
    struct queue *queue;
    struct worker *workers;
    size_t n_workers;
    atomic_int up; /* connections */
    atomic_bool announced_down;
    pthread_mutex_t lock; /* with `wake`, for threads that sleep without waiting for jobs */
    pthread_cond_t wake;
    bool stopping;
};

/* ---- metrics ------------------------------------------------------------------- */

/* Of the process: a gauge outlives the stage it was registered for. */
static atomic_int connections_up;
static atomic_bool breaker_is_open;

static struct {
    int outcome[3]; /* by enum redis_outcome */
    int connect_ok, connect_failed;
    int malformed, seconds;
} metrics;

static double read_up(void *arg)
{
    (void)arg;
    return atomic_load(&connections_up);
}

static double read_open(void *arg)
{
    (void)arg;
    return atomic_load(&breaker_is_open);
}

static void register_metrics(void)
{
    static const char *const outcomes[] = {
        [REDIS_REPLIED] = "outcome=\"replied\"",
        [REDIS_TIMED_OUT] = "outcome=\"timeout\"",
        [REDIS_FAILED] = "outcome=\"error\"",
    };
    static const char connects[] = "recalld_redis_connects_total";
    static const char connects_help[] = "Connections to Redis tried.";

    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
        metrics.outcome[i] = metric_counter("recalld_redis_commands_total",
                                            "Commands sent to Redis, by outcome.", outcomes[i]);
    metrics.connect_ok = metric_counter(connects, connects_help, "outcome=\"ok\"");
    metrics.connect_failed = metric_counter(connects, connects_help, "outcome=\"failed\"");
    metrics.malformed = metric_counter("recalld_behaviour_malformed_total",
                                       "Stored elements that could not be decoded.", "");
    metrics.seconds = metric_histogram(
        "recalld_redis_seconds", "Pipelines to Redis, until every command was answered or late.",
        "", metric_stage_bounds, METRIC_STAGE_BOUNDS_N);
    metric_gauge("recalld_redis_breaker_open", "1 while Redis is not asked.", "", read_open, NULL);
    metric_gauge("recalld_redis_connections_up", "Connections to Redis that stand.", "", read_up,
                 NULL);
}

/* ---- one pipeline -------------------------------------------------------------- */

static void hand_back(struct behaviour_job *job, enum behaviour_status status)
{
    job->status = status;
    job->done(job);
}

static void answered(const struct redis_command *cmd, const struct redis_result *res)
{
    struct question *q = cmd->user;
    struct worker *w = q->owner;
    struct behaviour_job *job = q->job;

    metric_add(metrics.outcome[res->outcome], 1);
    if (res->outcome != REDIS_REPLIED)
        w->failed = true;
    if (!job_answer(q, res))
        return;
    if (job->malformed > 0)
        metric_add(metrics.malformed, job->malformed);
    job->done(job);
}

static bool stopping(struct behaviour *b)
{
    return queue_is_closed(b->queue);
}

static void serve(struct worker *w, struct behaviour_job *const *jobs, size_t n)
{
    struct behaviour *b = w->stage;
    bool ask = breaker_allows(b->breaker) && !stopping(b);
    uint64_t start = clock_ns();
    size_t n_cmds = 0;

    for (size_t i = 0; i < n; i++) {
        if (!ask)
            hand_back(jobs[i], BEHAVIOUR_BREAKER);
        else if (jobs[i]->deadline_ns <= start)
            hand_back(jobs[i], BEHAVIOUR_TIMEOUT);
        else
            n_cmds += job_ask(&b->format, jobs[i], w, &w->questions[n_cmds], &w->cmds[n_cmds]);
    }
    if (n_cmds == 0)
        return;
    w->failed = false;
    redis_run(w->conn, w->cmds, n_cmds, answered);
    metric_observe(metrics.seconds, (double)(clock_ns() - start) / 1e9);
}

/* ---- looking after the connection ---------------------------------------------- */

static void log_failure(struct worker *w)
{
    static struct log_limit limit;
    unsigned held;

    if (w->failed && breaker_allows(w->stage->breaker) && log_allow(&limit, &held))
        LOG_WARN("redis_failed", "address=%s error=\"%s\" held_back=%u", w->stage->address,
                 redis_conn_error(w->conn), held);
    w->failed = false;
}

static void log_turn(struct worker *w)
{
    struct behaviour *b = w->stage;
    bool down = !breaker_allows(b->breaker);

    atomic_store(&breaker_is_open, down);
    if (atomic_exchange(&b->announced_down, down) == down)
        return;
    if (down)
        LOG_WARN("redis_down", "address=%s error=\"%s\"", b->address, redis_conn_error(w->conn));
    else
        LOG_INFO("redis_up", "address=%s", b->address);
}

static void take_note(struct worker *w)
{
    struct redis_connects now = redis_conn_connects(w->conn);
    bool up = redis_conn_is_up(w->conn);

    metric_add(metrics.connect_ok, now.ok - w->counted.ok);
    metric_add(metrics.connect_failed, now.failed - w->counted.failed);
    w->counted = now;
    if (up != w->up) {
        atomic_fetch_add(&w->stage->up, up ? 1 : -1);
        atomic_fetch_add(&connections_up, up ? 1 : -1);
        w->up = up;
    }
    log_failure(w);
    log_turn(w);
}

/* Jobs that wait for this connection alone are served first: a pipeline connects by itself, and
 * keeps their deadlines while it does. */
static void heal(struct worker *w)
{
    struct behaviour *b = w->stage;
    bool alone = atomic_load(&b->up) == (w->up ? 1 : 0);

    if (alone && breaker_allows(b->breaker) && queue_depth(b->queue) > 0)
        return;
    if (!redis_conn_heal(w->conn) && alone)
        breaker_failure(b->breaker);
}

/* ---- threads ------------------------------------------------------------------- */

static uint64_t until_heal(const struct worker *w)
{
    uint64_t due = redis_conn_next_heal_ns(w->conn), now = clock_ns();

    if (due == 0 || due > now + IDLE_NS)
        return IDLE_NS;
    return due > now ? due - now : 0;
}

static void sleep_unless_stopping(struct behaviour *b, uint64_t ns)
{
    uint64_t until = clock_ns() + ns;
    struct timespec t = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    int late = 0;

    pthread_mutex_lock(&b->lock);
    while (!b->stopping && late == 0)
        late = pthread_cond_timedwait(&b->wake, &b->lock, &t);
    pthread_mutex_unlock(&b->lock);
}

static bool leave_to_others(const struct worker *w)
{
    struct behaviour *b = w->stage;

    return !w->up && atomic_load(&b->up) > 0 && breaker_allows(b->breaker) && !stopping(b);
}

static void *redis_main(void *arg)
{
    struct worker *w = arg;
    struct behaviour *b = w->stage;
    struct behaviour_job *jobs[BATCH_MAX];
    size_t n;

    heal(w);
    take_note(w);
    for (;;) {
        n = 0;
        if (leave_to_others(w))
            sleep_unless_stopping(b, until_heal(w));
        else
            n = queue_pop_wait(b->queue, (void **)jobs, BATCH_MAX, until_heal(w));
        if (n > 0)
            serve(w, jobs, n);
        else if (stopping(b))
            return NULL;
        if (n == 0 || redis_conn_next_heal_ns(w->conn) != 0)
            heal(w);
        take_note(w);
    }
}

/* Without Redis nobody has a history. */
static void *off_main(void *arg)
{
    struct worker *w = arg;
    struct behaviour_job *job;

    while (queue_pop(w->stage->queue, (void **)&job, 1) == 1)
        hand_back(job, BEHAVIOUR_READ);
    return NULL;
}

/* ---- the stage ----------------------------------------------------------------- */

static bool is_off(const struct behaviour *b)
{
    return b->address[0] == '\0';
}

static int make_connections(struct behaviour *b, const struct config *cfg, struct err *err)
{
    b->n_workers = is_off(b) ? 1 : (size_t)cfg->redis_connections;
    b->workers = xcalloc(b->n_workers, sizeof *b->workers);
    for (size_t i = 0; i < b->n_workers; i++) {
        b->workers[i].stage = b;
        if (is_off(b))
            continue;
        b->workers[i].conn = connection_new(cfg, b->breaker, err);
        if (b->workers[i].conn == NULL)
            return -1;
    }
    return 0;
}

static int start_threads(struct behaviour *b, struct err *err)
{
    for (size_t i = 0; i < b->n_workers; i++) {
        struct worker *w = &b->workers[i];

        if (pthread_create(&w->thread, NULL, is_off(b) ? off_main : redis_main, w) != 0)
            return err_set(err, ERR_IO, "behaviour: cannot start a thread");
        w->started = true;
        pthread_setname_np(w->thread, "behaviour");
    }
    return 0;
}

struct behaviour *behaviour_start(const struct config *cfg, size_t queue, struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct behaviour *b = xcalloc(1, sizeof *b);
    pthread_condattr_t attr;

    pthread_once(&once, register_metrics);
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &attr);
    pthread_condattr_destroy(&attr);
    b->address = xstrdup(cfg->redis_address);
    b->breaker = breaker_new(BREAKER_FAILURES);
    b->queue = queue_new(queue);
    if (format_init(&b->format, cfg, err) == 0 && make_connections(b, cfg, err) == 0 &&
        start_threads(b, err) == 0)
        return b;
    behaviour_free(b);
    return NULL;
}

void behaviour_stop(struct behaviour *b)
{
    if (b == NULL)
        return;
    queue_close(b->queue);
    pthread_mutex_lock(&b->lock);
    b->stopping = true;
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->lock);
    for (size_t i = 0; i < b->n_workers; i++) {
        struct worker *w = &b->workers[i];

        if (w->started)
            pthread_join(w->thread, NULL);
        w->started = false;
    }
    atomic_fetch_sub(&connections_up, atomic_exchange(&b->up, 0));
}

void behaviour_free(struct behaviour *b)
{
    if (b == NULL)
        return;
    behaviour_stop(b);
    for (size_t i = 0; i < b->n_workers; i++)
        redis_conn_free(b->workers[i].conn);
    free(b->workers);
    queue_free(b->queue);
    breaker_free(b->breaker);
    format_clear(&b->format);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->lock);
    free(b->address);
    free(b);
}

bool behaviour_submit(struct behaviour *b, struct behaviour_job *job)
{
    job_reset(job, BEHAVIOUR_READ);
    if (breaker_allows(b->breaker) && queue_try_push(b->queue, job))
        return true;
    job->status = BEHAVIOUR_BREAKER;
    return false;
}

const char *behaviour_state(struct behaviour *b)
{
    if (is_off(b))
        return "off";
    if (!breaker_allows(b->breaker))
        return "down";
    return atomic_load(&b->up) > 0 ? "up" : "connecting";
}

size_t behaviour_depth(struct behaviour *b)
{
    return queue_depth(b->queue);
}
