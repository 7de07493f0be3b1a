/* loop.c - a libmicrohttpd daemon and what it calls.
 *
 * The daemon has no thread and no listening socket. Its epoll set is a source of the poller:
 * whoever waits there (a worker with nothing to do) runs it, one thread at a time, and may be
 * another the next time. New connections, and requests that have been answered, are handed over in
 * lists, so that nobody waits for whoever is inside. */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* Of a connection, for the request line, the headers, a part of the body and the answer's headers.
 * All of it is cleared after every request: half of libmicrohttpd's default is half of the work. */
#define CONNECTION_MEMORY ((size_t)16 << 10)

/* To send an answer and to find that no request waits behind it takes two. */
#define ROUNDS 4

/* A connection on its way to the loop. */
struct arrival {
    struct arrival *next;
    int fd;
    struct sockaddr_storage from;
    socklen_t from_len;
};

struct loop {
    struct http_server *server;
    struct MHD_Daemon *mhd;
    struct poll_source *source;
    bool started; /* the connection that is being added is in connection.c's list */
    _Atomic(struct arrival *) arrivals; /* newest first */
    _Atomic(struct request *) answered; /* newest first */
};

/* ---- what libmicrohttpd calls -------------------------------------------------------------- */

static struct connection *connection_of(struct MHD_Connection *mhd)
{
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd, const char *path,
                                  const char *method, const char *version, const char *bytes,
                                  size_t *len, void **state)
{
    struct request *r = *state;

    (void)arg;
    if (r == NULL) {
        struct connection *c = connection_of(mhd);

        *state = &c->request;
        request_begin(c, mhd);
        return request_head(&c->request, method, path, version);
    }
    if (*len > 0) {
        size_t n = *len;

        *len = 0;
        return request_body(r, bytes, n);
    }
    return r->resumed != NULL ? request_resumed(r) : request_complete(r);
}

static void on_completed(void *arg, struct MHD_Connection *mhd, void **state,
                         enum MHD_RequestTerminationCode how)
{
    struct loop *l = arg;
    struct request *r = *state;

    (void)how;
    *state = NULL;
    if (r != NULL)
        request_end(r);
    connection_enter(l->server, connection_of(mhd), PHASE_IDLE);
}

/* The request line is there: from here on http_stop waits for the answer. */
static void *on_request_line(void *arg, const char *uri, struct MHD_Connection *mhd)
{
    struct connection *c = connection_of(mhd);
    struct loop *l = arg;

    (void)uri;
    c->linger = true;
    connection_enter(l->server, c, PHASE_RECEIVING);
    return NULL;
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct loop *l = arg;
    struct http_server *s = l->server;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        l->started = true;
        *context = connection_open(
            s, l, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
        return;
    }
    connection_close(*context);
    if (atomic_fetch_sub(&s->open, 1) == s->connections_max)
        listener_room(s->listener);
}

/* Paths stay as they were sent: what a %2F means is decided after the path was taken apart. */
static size_t keep_escapes(void *arg, struct MHD_Connection *mhd, char *text)
{
    (void)arg;
    (void)mhd;
    return strlen(text);
}

static void on_log(void *arg, const char *fmt, va_list args) PRINTF_LIKE(2, 0);

/* What is not HTTP libmicrohttpd answers by itself; that it did, only its log tells. */
static void on_log(void *arg, const char *fmt, va_list args)
{
    static const char answered[] = "Error processing request (HTTP response code is ";
    struct http_server *s = ((struct loop *)arg)->server;
    char text[256];
    unsigned held;

    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\r\n")] = '\0';
    if (strncmp(text, answered, sizeof answered - 1) == 0)
        route_count_malformed(atoi(text + sizeof answered - 1));
    if (log_allow(&s->log, &held))
        LOG_INFO("http", "held=%u %s", held, text);
}

/* ---- what comes from outside ---------------------------------------------------------------- */

void loop_kick(struct loop *l)
{
    poll_source_kick(l->source);
}

void loop_take(struct loop *l, int fd, const struct sockaddr *from, socklen_t len)
{
    struct arrival *a = xcalloc(1, sizeof *a);

    a->fd = fd;
    memcpy(&a->from, from, len);
    a->from_len = len;
    a->next = atomic_load(&l->arrivals);
    while (!atomic_compare_exchange_weak(&l->arrivals, &a->next, a))
        continue;
    loop_kick(l);
}

static void add_arrivals(struct loop *l)
{
    struct arrival *a = atomic_exchange(&l->arrivals, NULL), *next;

    for (; a != NULL; a = next) {
        next = a->next;
        l->started = false;
        /* When it fails it has closed the socket and said why; what had started it has ended. */
        if (MHD_add_connection(l->mhd, a->fd, (struct sockaddr *)&a->from, a->from_len) == MHD_NO &&
            !l->started)
            atomic_fetch_sub(&l->server->open, 1);
        free(a);
    }
}

void loop_resume(struct loop *l, struct request *r)
{
    r->next = atomic_load(&l->answered);
    while (!atomic_compare_exchange_weak(&l->answered, &r->next, r))
        continue;
    loop_kick(l);
}

static void resume_answered(struct loop *l)
{
    struct request *r = atomic_exchange(&l->answered, NULL), *next;

    for (; r != NULL; r = next) {
        next = r->next;
        MHD_resume_connection(r->mhd);
    }
}

/* ---- the loop ------------------------------------------------------------------------------ */

static bool has_more(struct loop *l)
{
    MHD_UNSIGNED_LONG_LONG ms;

    return MHD_get_timeout(l->mhd, &ms) == MHD_YES && ms == 0;
}

/* Does what there is to do, but not for ever: clients that are refused ask again at once, and
 * meanwhile the thread computes nothing. */
static void run(void *arg)
{
    struct loop *l = arg;
    bool more = true;

    add_arrivals(l);
    resume_answered(l);
    for (int i = 0; i < ROUNDS && more; i++) {
        MHD_run(l->mhd);
        more = has_more(l);
    }
    recall_flush(l->server->on.recall);
    if (more)
        loop_kick(l);
}

/* ---- life ---------------------------------------------------------------------------------- */

static struct MHD_Daemon *daemon_start(struct loop *l, const struct config *cfg)
{
    unsigned flags =
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;

    /* An option and its values a line; the logger must come first. */
    /* clang-format off */
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, l,
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, l,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, l,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, l,
                            MHD_OPTION_URI_LOG_CALLBACK, on_request_line, l,
                            MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, l,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)cfg->http_connections + 1,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY,
                            MHD_OPTION_CONNECTION_TIMEOUT, l->server->idle_s,
                            MHD_OPTION_END);
    /* clang-format on */
}

struct loop *loop_start(struct http_server *s, const struct config *cfg, struct err *err)
{
    struct loop *l = xcalloc(1, sizeof *l);
    int fd;

    l->server = s;
    l->mhd = daemon_start(l, cfg);
    if (l->mhd == NULL) {
        err_set(err, ERR_IO, "cannot start libmicrohttpd: %s", strerror(errno));
        free(l);
        return NULL;
    }
    l->source = poller_add(s->on.poller, run, l);
    fd = MHD_get_daemon_info(l->mhd, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    if (poll_source_watch(l->source, fd, err) == 0)
        return l;
    loop_stop(l);
    return NULL;
}

void loop_stop(struct loop *l)
{
    poll_source_remove(l->source);
    add_arrivals(l);
    MHD_stop_daemon(l->mhd);
    free(l);
}
