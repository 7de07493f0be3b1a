/* poller.c - threads that wait together for the same descriptors, over epoll.
 *
 * All wait on one epoll instance, edge-triggered, so that an event wakes one of them and asks for
 * no system call to be armed again. `calls` of a source makes sure of one thread at a time: who
 * raises it from 0 is inside, whoever comes meanwhile leaves him another round to do. */
#include "recalld/base.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* A source that is called faster than it runs does not keep a thread for ever, nor do events that
 * come faster than they are served. */
#define RUNS_MAX 4
#define EVENTS_MAX 16

struct poll_source {
    struct poller *poller;
    struct poll_source *next; /* in poller.sources; set before it is in there */
    void (*ready)(void *arg);
    void *arg;
    atomic_uint calls; /* not yet answered by a run of `ready` */
    atomic_bool kicked, removed;
};

struct poller {
    int epoll, wake, closed;
    pthread_mutex_t lock;                  /* of adding */
    _Atomic(struct poll_source *) sources; /* it only grows: a thread may hold an old event */
};

/* Of this thread: the poller it waits in, and whether it has kicked a source itself. */
static _Thread_local struct poller *mine;
static _Thread_local bool due;

/* ---- sources --------------------------------------------------------------------- */

struct poll_source *poller_add(struct poller *p, void (*ready)(void *arg), void *arg)
{
    struct poll_source *s;

    pthread_mutex_lock(&p->lock);
    for (s = p->sources; s != NULL && !s->removed; s = s->next)
        continue;
    if (s == NULL) {
        s = xcalloc(1, sizeof *s);
        s->poller = p;
        s->next = p->sources;
        s->removed = true;
        p->sources = s;
    }
    s->ready = ready;
    s->arg = arg;
    s->kicked = false;
    s->removed = false;
    pthread_mutex_unlock(&p->lock);
    return s;
}

int poll_source_watch(struct poll_source *s, int fd, struct err *err)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = s};

    if (epoll_ctl(s->poller->epoll, EPOLL_CTL_ADD, fd, &event) == -1)
        return err_set(err, ERR_IO, "epoll_ctl: %s", strerror(errno));
    return 0;
}

void poll_source_run(struct poll_source *s)
{
    unsigned calls;

    if (atomic_fetch_add(&s->calls, 1) > 0)
        return;
    for (int i = 0; i < RUNS_MAX; i++) {
        calls = atomic_load(&s->calls);
        if (!atomic_load(&s->removed))
            s->ready(s->arg);
        if (atomic_fetch_sub(&s->calls, calls) == calls)
            return;
    }
    atomic_store(&s->calls, 0); /* first: who takes the kick must find nobody inside */
    atomic_store(&s->kicked, true);
    poller_wake(s->poller);
}

void poll_source_kick(struct poll_source *s)
{
    atomic_store(&s->kicked, true);
    if (mine == s->poller)
        due = true;
    else
        poller_wake(s->poller);
}

void poll_source_remove(struct poll_source *s)
{
    atomic_store(&s->removed, true);
    while (atomic_load(&s->calls) > 0)
        sched_yield();
}

/* ---- waiting --------------------------------------------------------------------- */

static void run_kicked(struct poller *p)
{
    for (struct poll_source *s = p->sources; s != NULL; s = s->next)
        if (atomic_load(&s->kicked) && atomic_exchange(&s->kicked, false))
            poll_source_run(s);
}

bool poller_run_due(struct poller *p)
{
    bool any = due;

    due = false;
    if (any)
        run_kicked(p);
    return any;
}

void poller_pass_on(struct poller *p)
{
    if (due)
        poller_wake(p);
    due = false;
}

/* One event at a time: what this thread has in hand no other can serve. */
void poller_wait(struct poller *p, int timeout_ms)
{
    struct epoll_event event;

    mine = p;
    if (poller_run_due(p))
        timeout_ms = 0;
    for (int i = 0; i < EVENTS_MAX && epoll_wait(p->epoll, &event, 1, timeout_ms) == 1; i++) {
        if (event.data.ptr == &p->wake)
            run_kicked(p);
        if (event.data.ptr == &p->wake || event.data.ptr == &p->closed)
            return;
        poll_source_run(event.data.ptr);
        timeout_ms = 0;
    }
}

bool poller_is_mine(const struct poller *p)
{
    return mine == p;
}

/* Nobody reads it: every write is an edge. */
static void signal_fd(int fd)
{
    uint64_t one = 1;

    if (write(fd, &one, sizeof one) == -1) {
        /* Full, after 2^64 writes. */
    }
}

void poller_wake(struct poller *p)
{
    signal_fd(p->wake);
}

void poller_close(struct poller *p)
{
    signal_fd(p->closed);
}

/* ---- life ------------------------------------------------------------------------ */

static bool watch_own(struct poller *p, int *fd, uint32_t trigger)
{
    struct epoll_event event = {.events = EPOLLIN | trigger, .data.ptr = fd};

    *fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return *fd != -1 && epoll_ctl(p->epoll, EPOLL_CTL_ADD, *fd, &event) == 0;
}

struct poller *poller_new(struct err *err)
{
    struct poller *p = xcalloc(1, sizeof *p);

    p->wake = p->closed = -1;
    pthread_mutex_init(&p->lock, NULL);
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (p->epoll != -1 && watch_own(p, &p->wake, EPOLLET) && watch_own(p, &p->closed, 0))
        return p;
    err_set(err, ERR_IO, "epoll: %s", strerror(errno));
    poller_free(p);
    return NULL;
}

static void close_if_open(int fd)
{
    if (fd != -1)
        close(fd);
}

void poller_free(struct poller *p)
{
    if (p == NULL)
        return;
    if (mine == p) { /* the next one may have its address */
        mine = NULL;
        due = false;
    }
    for (struct poll_source *s = p->sources, *next; s != NULL; s = next) {
        next = s->next;
        free(s);
    }
    close_if_open(p->wake);
    close_if_open(p->closed);
    close_if_open(p->epoll);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
