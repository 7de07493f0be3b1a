/* lend.c - connections that are well, in the hands of the poller's threads.
 *
 * Between two threads a request changes hands by a wake-up, and those cost more than the asking. So
 * the connection's thread lends it: whichever thread of the poller has read requests sends their
 * pipeline, and whichever sees the reply hands it out and sends the next one. Nobody waits, and
 * nobody is woken for it.
 *
 * None of them keeps the time. The connection's thread looks now and then whether a pipeline has
 * become late, and is called only when it would look too late. It takes the connection back then,
 * and so it does, told by whoever met it, when anything else is not well: all that may wait
 * (connecting, finishing a pipeline in trouble, healing) is its own.
 *
 * Nothing is left lying: after a flush either nothing waits or every connection that is lent has a
 * pipeline on its way, whose end takes what waits or gives the connection back. */
#include "stage.h"

#include <errno.h>
#include <time.h>

#define LATE_SHARE \
    3 /* of the timeout: about when a pipeline is late, see redis_conn_when_overdue */

/* ---- from inside the source -------------------------------------------------------- */

static void give_back(struct worker *w)
{
    struct behaviour *b = w->stage;
    bool last = atomic_fetch_sub(&b->lent, 1) == 1;

    atomic_store(&w->late_ns, UINT64_MAX);
    atomic_store(&w->lent, false); /* w is the thread's from here on */
    sem_post(&w->called);
    if (last)
        waiting_call(&b->waiting);
}

static void keep_time(struct worker *w)
{
    uint64_t late_ns = redis_late_ns(w->conn);

    atomic_store(&w->late_ns, late_ns);
    if (late_ns >= atomic_load(&w->look_ns))
        return;
    atomic_store(&w->look_ns, late_ns);
    sem_post(&w->called);
}

static void took_step(struct worker *w, enum redis_step step)
{
    if (step == REDIS_TROUBLE)
        give_back(w);
    else
        keep_time(w);
}

/* Asks for what waits; false when nothing does. */
static bool ask_next(struct worker *w)
{
    struct behaviour_job *jobs[BATCH_MAX];
    size_t n, n_cmds = 0;

    while (n_cmds == 0) {
        n = waiting_take_now(&w->stage->waiting, jobs, BATCH_MAX);
        if (n == 0)
            return false;
        n_cmds = ask_for(w, jobs, n);
    }
    atomic_store(&w->busy, true);
    atomic_store(&w->used, true);
    took_step(w, redis_begin(w->conn, w->cmds, n_cmds, ask_answered));
    return true;
}

/* It has a pipeline on its way. */
static void go_on(struct worker *w)
{
    enum redis_step step = redis_continue(w->conn);

    if (step != REDIS_DONE) {
        took_step(w, step);
        return;
    }
    atomic_store(&w->late_ns, UINT64_MAX);
    atomic_store(&w->busy, false);
    ask_over(w);
    if (w->failed)
        worker_log_state(w);
    if (breaker_allows(w->stage->breaker))
        ask_next(w);
    else
        give_back(w);
}

static void ready(void *arg)
{
    struct worker *w = arg;

    if (!atomic_load(&w->lent))
        return;
    if (atomic_load(&w->wanted))
        give_back(w);
    else if (atomic_load(&w->busy))
        go_on(w);
    else if (!ask_next(w) && !redis_conn_look(w->conn)) /* has the server closed it? */
        give_back(w);
}

/* The first free one: so few are used while little is to do, and each by many jobs. */
void lend_flush(struct behaviour *b)
{
    for (size_t i = 0; i < b->n_workers && waiting_depth(&b->waiting) > 0; i++) {
        struct worker *w = &b->workers[i];

        if (atomic_load(&w->lent) && !atomic_load(&w->busy))
            poll_source_run(w->source);
    }
    if (waiting_depth(&b->waiting) == 0)
        return;
    waiting_stays(&b->waiting);
    if (atomic_load(&b->lent) == 0)
        waiting_call(&b->waiting);
}

/* ---- from the connection's thread -------------------------------------------------- */

static bool watch(struct worker *w)
{
    static struct log_limit limit;
    uint64_t connection = redis_conn_connects(w->conn).ok;
    struct err err = ERR_INIT;
    unsigned held;

    if (w->watched == connection)
        return true;
    if (poll_source_watch(w->source, redis_conn_fd(w->conn), &err) == 0) {
        w->watched = connection;
        return true;
    }
    if (log_allow(&limit, &held))
        LOG_WARN("redis_not_watched", "error=\"%s\" held_back=%u", err.text, held);
    return false;
}

static void hand_over(struct worker *w)
{
    atomic_store(&w->wanted, false);
    atomic_store(&w->look_ns, 0); /* it looks before it sleeps */
    atomic_fetch_add(&w->stage->lent, 1);
    atomic_store(&w->lent, true);
    if (waiting_depth(&w->stage->waiting) > 0)
        poll_source_run(w->source);
}

static void take_back(struct worker *w)
{
    atomic_store(&w->wanted, true);
    poll_source_run(w->source);
    while (atomic_load(&w->lent))
        sem_wait(&w->called);
}

static void sleep_until(struct worker *w, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000)};

    while (sem_clockwait(&w->called, CLOCK_MONOTONIC, &until) == -1 && errno == EINTR)
        continue;
}

/* How long the thread sleeps when the connection is in use: a pipeline that begins meanwhile is
 * late after that, and need not call. */
static uint64_t nap_ns(const struct worker *w)
{
    uint64_t nap = w->stage->timeout_ns / LATE_SHARE;

    return nap < IDLE_NS ? nap : IDLE_NS;
}

/* Sleeps until it is called or something may be late, or takes the connection back because that is
 * so. Where look_ns is told first, and late_ns read afterwards, a pipeline that begins either sees
 * the one or is seen in the other. */
static void look_after(struct worker *w, uint64_t *idle_ns)
{
    uint64_t now = clock_ns(), until, late;
    bool used = atomic_exchange(&w->used, false) || atomic_load(&w->busy);

    if (used)
        *idle_ns = now + IDLE_NS;
    until = used ? now + nap_ns(w) : *idle_ns;
    atomic_store(&w->look_ns, until);
    late = atomic_load(&w->late_ns);
    if (late < until) {
        until = late;
        atomic_store(&w->look_ns, until);
    }
    if (until <= now || waiting_is_closed(&w->stage->waiting))
        take_back(w);
    else
        sleep_until(w, until);
}

bool lend(struct worker *w)
{
    uint64_t idle_ns = clock_ns() + IDLE_NS;

    if (w->source == NULL || !w->up || !breaker_allows(w->stage->breaker) ||
        waiting_is_closed(&w->stage->waiting) || !watch(w))
        return false;
    hand_over(w);
    while (atomic_load(&w->lent))
        look_after(w, &idle_ns);
    if (atomic_load(&w->busy)) {
        redis_finish(w->conn);
        atomic_store(&w->busy, false);
        ask_over(w);
    }
    return true;
}

void lend_call(struct worker *w)
{
    sem_post(&w->called);
}

void lend_init(struct worker *w, struct poller *p)
{
    sem_init(&w->called, 0, 0);
    atomic_store(&w->late_ns, UINT64_MAX);
    if (p != NULL)
        w->source = poller_add(p, ready, w);
}

void lend_clear(struct worker *w)
{
    if (w->source != NULL)
        poll_source_remove(w->source);
    w->source = NULL;
}
