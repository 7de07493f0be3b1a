/* server.c - libmicrohttpd: the event threads, what they call, start and stop.
 *
 * Each event thread is a libmicrohttpd daemon of its own without a listening socket; listener.c
 * accepts and deals connections out in turn. */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "recalld/metrics.h"

/* Of a connection, for the request line, the headers, a part of the body and the answer's headers.
 * All of it is cleared after every request: half of libmicrohttpd's default is half of the work. */
#define CONNECTION_MEMORY ((size_t)16 << 10)
#define QUIET_NS 50000000ull   /* nothing arrives for so long: everything is answered */
#define GRACE_NS 5000000000ull /* for clients that send or read slowly while we stop */
#define LOOK_US 2000
#define FD_RESERVE 256 /* descriptors for Redis, bundles, the journal, beside the connections */

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

    if (r == NULL) {
        struct connection *c = connection_of(mhd);

        *state = &c->request;
        request_begin(c, arg, mhd);
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
    struct request *r = *state;

    (void)how;
    *state = NULL;
    if (r != NULL)
        request_end(r);
    connection_enter(arg, connection_of(mhd), PHASE_IDLE);
}

/* The request line is there: from here on http_stop waits for the answer. */
static void *on_request_line(void *arg, const char *uri, struct MHD_Connection *mhd)
{
    struct connection *c = connection_of(mhd);

    (void)uri;
    c->linger = true;
    connection_enter(arg, c, PHASE_RECEIVING);
    return NULL;
}

static void on_connection(void *arg, struct MHD_Connection *mhd, void **context,
                          enum MHD_ConnectionNotificationCode what)
{
    struct http_server *s = arg;

    if (what == MHD_CONNECTION_NOTIFY_STARTED) {
        *context = connection_open(
            s, MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
        return;
    }
    connection_close(s, *context);
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
    struct http_server *s = arg;
    char text[256];
    unsigned held;

    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\r\n")] = '\0';
    if (strncmp(text, answered, sizeof answered - 1) == 0)
        route_count_malformed(atoi(text + sizeof answered - 1));
    if (log_allow(&s->log, &held))
        LOG_INFO("http", "held=%u %s", held, text);
}

/* ---- what the listener calls --------------------------------------------------------------- */

static bool has_room(void *arg)
{
    struct http_server *s = arg;

    return atomic_load(&s->open) < s->connections_max;
}

static void accepted(void *arg, int fd, const struct sockaddr *from, socklen_t len)
{
    struct http_server *s = arg;
    unsigned turn = atomic_fetch_add(&s->next_loop, 1) % (unsigned)s->n_loops;

    atomic_fetch_add(&s->open, 1);
    if (MHD_add_connection(s->loops[turn], fd, from, len) == MHD_NO)
        atomic_fetch_sub(&s->open, 1); /* it has closed the socket and said why */
}

static void look(void *arg)
{
    connections_look(arg);
}

/* ---- start --------------------------------------------------------------------------------- */

static struct MHD_Daemon *loop_start(struct http_server *s, const struct config *cfg)
{
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
                     MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG;

    /* An option and its values a line; the logger must come first. */
    /* clang-format off */
    return MHD_start_daemon(flags, 0, NULL, NULL, on_request, s,
                            MHD_OPTION_EXTERNAL_LOGGER, on_log, s,
                            MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
                            MHD_OPTION_NOTIFY_CONNECTION, on_connection, s,
                            MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s,
                            MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, s,
                            MHD_OPTION_CONNECTION_LIMIT, (unsigned)cfg->http_connections + 1,
                            MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY,
                            MHD_OPTION_CONNECTION_TIMEOUT, s->idle_s,
                            MHD_OPTION_END);
    /* clang-format on */
}

static int start_loops(struct http_server *s, const struct config *cfg, struct err *err)
{
    s->loops = xcalloc((size_t)cfg->http_threads, sizeof *s->loops);
    for (int i = 0; i < cfg->http_threads; i++) {
        s->loops[i] = loop_start(s, cfg);
        if (s->loops[i] == NULL)
            return err_set(err, ERR_IO, "cannot start event thread %d: %s", i, strerror(errno));
        s->n_loops++;
    }
    return 0;
}

/* Connections need descriptors; the soft limit is often 1024. */
static void raise_descriptor_limit(size_t connections)
{
    struct rlimit limit;
    rlim_t wanted = connections + FD_RESERVE;

    if (getrlimit(RLIMIT_NOFILE, &limit) == -1 || limit.rlim_cur >= wanted)
        return;
    limit.rlim_cur = limit.rlim_max < wanted ? limit.rlim_max : wanted;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < wanted)
        LOG_WARN("descriptors",
                 "the limit of open files (%llu) is below http.connections + %d: raise it "
                 "(ulimit -n, LimitNOFILE=)",
                 (unsigned long long)limit.rlim_cur, FD_RESERVE);
}

static int write_port_file(struct http_server *s, const char *path, struct err *err)
{
    char text[16];
    int len = snprintf(text, sizeof text, "%d\n", listener_port(s->listener));

    if (path[0] == '\0')
        return 0;
    if (file_write(path, text, (size_t)len, err) == -1)
        return err_prefix(err, "http.port_file: ");
    s->port_file = xstrdup(path);
    return 0;
}

static double read_connections(void *arg)
{
    struct http_server *s = arg;

    return (double)atomic_load(&s->open);
}

static double read_bodies(void *arg)
{
    struct http_server *s = arg;

    return (double)atomic_load(&s->bodies);
}

static void register_metrics(struct http_server *s)
{
    routes_register();
    recall_register();
    events_register();
    connections_register();
    metric_gauge("recalld_http_connections", "Open client connections.", "", read_connections, s);
    metric_gauge("recalld_http_bodies_bytes", "Bytes of large request bodies in memory.", "",
                 read_bodies, s);
}

static struct http_server *server_new(const struct http_context *ctx)
{
    struct http_server *s = xcalloc(1, sizeof *s);
    const struct config *cfg = ctx->config;

    s->on = *ctx;
    s->on.config = NULL;
    s->max_body = (size_t)cfg->http_max_body;
    s->idle_s = (unsigned)cfg->http_idle_s;
    s->connections_max = (size_t)cfg->http_connections;
    cell_init(&s->token, NULL);
    pthread_mutex_init(&s->lock, NULL);
    return s;
}

struct http_server *http_start(const struct http_context *ctx, struct err *err)
{
    const struct config *cfg = ctx->config;
    struct http_server *s = server_new(ctx);
    struct listener_hooks hooks = {has_room, accepted, look, s};
    struct http_token *token;

    register_metrics(s);
    raise_descriptor_limit(s->connections_max);
    if (http_token_read(cfg->admin_token_file, &token, err) == -1)
        goto failed;
    http_set_token(s, token);
    s->listener = listener_open(cfg->http_listen, err);
    if (s->listener == NULL || (s->admin = admin_start(err)) == NULL ||
        start_loops(s, cfg, err) == -1 || listener_start(s->listener, &hooks, err) == -1 ||
        write_port_file(s, cfg->http_port_file, err) == -1)
        goto failed;
    return s;
failed:
    http_stop(s);
    return NULL;
}

int http_port(const struct http_server *s)
{
    return listener_port(s->listener);
}

void http_set_behaviour(struct http_server *s, struct behaviour *beh)
{
    pthread_mutex_lock(&s->lock);
    s->on.behaviour = beh;
    pthread_mutex_unlock(&s->lock);
}

/* ---- stop ---------------------------------------------------------------------------------- */

void http_set_draining(struct http_server *s)
{
    atomic_store(&s->draining, true);
}

/* What is at work is always waited for (libmicrohttpd must not be stopped while a request is
 * suspended); clients that are slow to send or to read only for a while. */
static void wait_until_answered(struct http_server *s)
{
    uint64_t began = clock_ns(), quiet_since = began, now = began;

    while (now - quiet_since < QUIET_NS && now - began < GRACE_NS) {
        usleep(LOOK_US);
        now = clock_ns();
        if (!connections_quiet(s))
            quiet_since = now;
    }
    atomic_store(&s->closing, true);
    while (atomic_load(&s->at_work) > 0)
        usleep(LOOK_US);
}

void http_stop(struct http_server *s)
{
    if (s == NULL)
        return;
    http_set_draining(s);
    if (s->listener != NULL)
        listener_close(s->listener);
    if (s->n_loops > 0)
        wait_until_answered(s);
    for (int i = 0; i < s->n_loops; i++)
        MHD_stop_daemon(s->loops[i]);
    admin_stop(s->admin);
    listener_free(s->listener);
    if (s->port_file != NULL)
        unlink(s->port_file);
    cell_clear(&s->token);
    pthread_mutex_destroy(&s->lock);
    free(s->looked_at);
    free(s->port_file);
    free(s->loops);
    free(s);
}
