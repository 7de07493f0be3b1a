/* behaviour.c - the stage: jobs wait, and a connection to Redis takes all that do, asks for them in
 * one pipeline and hands each back as its reply comes or its deadline passes. A job has one owner:
 * who submitted it, the waiting ones, who holds the connection, and by `done` who submitted it
 * again.
 *
 * Every connection has a thread, which lends it to the poller's threads while all goes well (see
 * lend.c), and otherwise, or without a poller, serves it itself.
 *
 * A thread whose connection is down leaves the jobs to the others and heals it. When no connection
 * is up it takes them all the same, so that each is tried, or failed, in time: enough of
 * those open the breaker, and from then on nothing is asked until a connection has healed. */
#include "recalld/metrics.h"
#include "stage.h"

#include <stdlib.h>
#include <string.h>

#define BREAKER_FAILURES 5

/* ---- metrics ------------------------------------------------------------------- */

/* Of the process: a gauge outlives the stage it was registered for. */
static atomic_int connections_up;
static atomic_bool breaker_is_open;

static struct {
    int connect_ok, connect_failed, opened;
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
    static const char connects[] = "recalld_redis_connects_total";
    static const char connects_help[] = "Connections to Redis tried.";

    metrics.connect_ok = metric_counter(connects, connects_help, "outcome=\"ok\"");
    metrics.connect_failed = metric_counter(connects, connects_help, "outcome=\"failed\"");
    metrics.opened = metric_counter("recalld_redis_breaker_opened_total",
                                    "Times that failures in a row ended the asking of Redis.", "");
    metric_gauge("recalld_redis_breaker_open", "1 while Redis is not asked.", "", read_open, NULL);
    metric_gauge("recalld_redis_connections_up", "Connections to Redis that stand.", "", read_up,
                 NULL);
    ask_register_metrics();
}

/* ---- looking after the connection ---------------------------------------------- */

void worker_count_serving(struct worker *w, bool serving)
{
    if (serving != w->serving)
        atomic_fetch_add(&w->stage->serving, serving ? 1 : -1);
    w->serving = serving;
}

static void log_failed(const struct worker *w)
{
    static struct log_limit limit;
    unsigned held;

    if (log_allow(&limit, &held))
        LOG_WARN("redis_failed", "address=%s error=\"%s\" held_back=%u", w->stage->address,
                 redis_conn_error(w->conn), held);
}

/* Once, and when the cause changes: after "cannot connect" may come LOADING, or NOAUTH. A server
 * that greets and then refuses is down and up again all the time: that is said now and then. */
static void log_down(const struct worker *w)
{
    static struct log_limit limit;
    struct behaviour *b = w->stage;
    const char *error = redis_conn_error(w->conn);
    uint64_t cause = hash_bytes(error, strlen(error)), before = atomic_load(&b->down_cause);
    bool news = before == 0 && cause != atomic_load(&b->last_cause);
    unsigned held;

    if (before == cause || (!log_allow(&limit, &held) && !news))
        return;
    atomic_store(&b->last_cause, cause);
    if (atomic_exchange(&b->down_cause, cause) != cause)
        LOG_WARN("redis_down", "address=%s error=\"%s\"", b->address, error);
}

static void log_up(struct behaviour *b)
{
    if (atomic_load(&b->down_cause) == 0 || atomic_exchange(&b->down_cause, 0) == 0)
        return;
    hung_remove_all(&b->hung); /* it was the server */
    LOG_INFO("redis_up", "address=%s", b->address);
}

void worker_log_state(struct worker *w)
{
    struct behaviour *b = w->stage;
    bool down = !breaker_allows(b->breaker);
    uint64_t opened = breaker_opened(b->breaker), counted = atomic_load(&b->opened);

    if (atomic_load(&breaker_is_open) != down)
        atomic_store(&breaker_is_open, down);
    if (counted < opened && atomic_compare_exchange_strong(&b->opened, &counted, opened))
        metric_add(metrics.opened, opened - counted);
    if (!down)
        log_up(b);
    if (w->failed && down)
        log_down(w);
    else if (w->failed)
        log_failed(w);
    w->failed = false;
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
    worker_count_serving(w, up);
    worker_log_state(w);
}

/* Jobs that wait for this connection alone are served first: a pipeline connects by itself, and
 * keeps their deadlines while it does. */
static void heal(struct worker *w)
{
    struct behaviour *b = w->stage;
    bool alone = atomic_load(&b->up) == (w->up ? 1 : 0);

    if (alone && breaker_allows(b->breaker) && waiting_depth(&b->waiting) > 0)
        return;
    if (redis_conn_heal(w->conn))
        return;
    w->failed = true;
    if (alone)
        breaker_failure(b->breaker);
}

/* ---- threads ------------------------------------------------------------------- */

static uint64_t heal_at(const struct worker *w)
{
    uint64_t due = redis_conn_next_heal_ns(w->conn), idle = clock_ns() + IDLE_NS;

    return due == 0 || due > idle ? idle : due;
}

static bool leave_to_others(const struct worker *w)
{
    struct behaviour *b = w->stage;

    return !w->up && atomic_load(&b->serving) > 0 && breaker_allows(b->breaker) &&
           !waiting_is_closed(&b->waiting);
}

static void serve(struct worker *w, struct behaviour_job *const *jobs, size_t n)
{
    size_t n_cmds = ask_for(w, jobs, n);

    if (n_cmds == 0)
        return;
    redis_run(w->conn, w->cmds, n_cmds, ask_answered);
    ask_over(w);
}

/* The jobs that the thread serves itself; often none. False when the stage is closed and empty. */
static bool await_jobs(struct worker *w, struct behaviour_job **jobs, size_t *n)
{
    struct waiting *waiting = &w->stage->waiting;

    *n = 0;
    if (lend(w))
        return true;
    if (!leave_to_others(w))
        return waiting_take(waiting, jobs, BATCH_MAX, heal_at(w), n);
    waiting_sleep(waiting, heal_at(w));
    return true;
}

static void *redis_main(void *arg)
{
    struct worker *w = arg;
    struct behaviour_job *jobs[BATCH_MAX];
    size_t n;

    while (await_jobs(w, jobs, &n)) {
        if (n > 0)
            serve(w, jobs, n);
        if (n == 0 || redis_conn_next_heal_ns(w->conn) != 0)
            heal(w);
        take_note(w);
    }
    return NULL;
}

static void hand_back_late(struct behaviour_job *job)
{
    job_hand_back(job, BEHAVIOUR_TIMEOUT);
}

static void *timekeeper_main(void *arg)
{
    struct behaviour *b = arg;

    waiting_keep_time(&b->waiting, hand_back_late);
    return NULL;
}

/* Without Redis nobody has a history. */
static void *off_main(void *arg)
{
    struct worker *w = arg;
    struct behaviour_job *job;
    size_t n;

    while (waiting_take(&w->stage->waiting, &job, 1, UINT64_MAX, &n))
        if (n == 1)
            job_hand_back(job, BEHAVIOUR_READ);
    return NULL;
}

/* ---- the stage ----------------------------------------------------------------- */

static bool is_off(const struct behaviour *b)
{
    return b->address[0] == '\0';
}

static int make_connections(struct behaviour *b, const struct config *cfg, struct poller *p,
                            struct err *err)
{
    b->n_workers = is_off(b) ? 1 : (size_t)cfg->redis_connections;
    b->workers = xcalloc(b->n_workers, sizeof *b->workers);
    for (size_t i = 0; i < b->n_workers; i++) {
        struct worker *w = &b->workers[i];

        w->stage = b;
        lend_init(w, is_off(b) ? NULL : p);
        if (is_off(b))
            continue;
        w->conn = connection_new(cfg, b->breaker, err);
        if (w->conn == NULL)
            return -1;
        redis_conn_when_overdue(w->conn, ask_overdue, w);
    }
    return 0;
}

static int start_thread(pthread_t *thread, const char *name, void *(*main)(void *), void *arg,
                        struct err *err)
{
    if (pthread_create(thread, NULL, main, arg) != 0)
        return err_set(err, ERR_IO, "behaviour: cannot start a thread");
    pthread_setname_np(*thread, name);
    return 0;
}

static int start_threads(struct behaviour *b, struct err *err)
{
    for (size_t i = 0; i < b->n_workers; i++) {
        struct worker *w = &b->workers[i];

        if (start_thread(&w->thread, "behaviour", is_off(b) ? off_main : redis_main, w, err) == -1)
            return -1;
        w->started = true;
    }
    if (!is_off(b) && start_thread(&b->timekeeper, "timekeeper", timekeeper_main, b, err) == -1)
        return -1;
    b->keeps_time = !is_off(b);
    return 0;
}

struct behaviour *behaviour_start(const struct config *cfg, size_t queue, struct poller *p,
                                  struct err *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct behaviour *b = xcalloc(1, sizeof *b);

    pthread_once(&once, register_metrics);
    waiting_init(&b->waiting, queue);
    hung_init(&b->hung);
    b->address = xstrdup(cfg->redis_address);
    b->timeout_ns = (uint64_t)cfg->redis_timeout_ms * 1000000;
    b->lent = p != NULL && b->address[0] == '\0' ? 1 : 0;
    b->breaker = breaker_new(BREAKER_FAILURES);
    if (format_init(&b->format, cfg, err) == 0 && make_connections(b, cfg, p, err) == 0 &&
        start_threads(b, err) == 0)
        return b;
    behaviour_free(b);
    return NULL;
}

void behaviour_stop(struct behaviour *b)
{
    if (b == NULL)
        return;
    waiting_close(&b->waiting);
    for (size_t i = 0; i < b->n_workers; i++)
        lend_call(&b->workers[i]);
    for (size_t i = 0; i < b->n_workers; i++) {
        struct worker *w = &b->workers[i];

        if (w->started)
            pthread_join(w->thread, NULL);
        w->started = false;
    }
    for (size_t i = 0; i < b->n_workers; i++)
        lend_clear(&b->workers[i]);
    if (b->keeps_time)
        pthread_join(b->timekeeper, NULL);
    b->keeps_time = false;
    atomic_fetch_sub(&connections_up, atomic_exchange(&b->up, 0));
}

void behaviour_free(struct behaviour *b)
{
    if (b == NULL)
        return;
    behaviour_stop(b);
    for (size_t i = 0; i < b->n_workers; i++) {
        redis_conn_free(b->workers[i].conn);
        sem_destroy(&b->workers[i].called);
    }
    free(b->workers);
    waiting_clear(&b->waiting);
    hung_clear(&b->hung);
    breaker_free(b->breaker);
    format_clear(&b->format);
    free(b->address);
    free(b);
}

bool behaviour_submit(struct behaviour *b, struct behaviour_job *job)
{
    job_reset(job, BEHAVIOUR_READ);
    if (breaker_allows(b->breaker) && waiting_push(&b->waiting, job, atomic_load(&b->lent) == 0))
        return true;
    job->status = BEHAVIOUR_BREAKER;
    return false;
}

void behaviour_flush(struct behaviour *b)
{
    struct behaviour_job *job;

    if (!is_off(b))
        lend_flush(b);
    else
        while (waiting_take_now(&b->waiting, &job, 1) == 1)
            job_hand_back(job, BEHAVIOUR_READ);
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
    return waiting_depth(&b->waiting);
}
