/* server.c - start and stop: listener.c accepts connections and deals them out in turn to the loops
 * (loop.c). */
#include "server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "recalld/metrics.h"

#define QUIET_NS 50000000ull   /* nothing arrives for so long: everything is answered */
#define GRACE_NS 5000000000ull /* for clients that send or read slowly while we stop */
#define LOOK_US 2000
#define WORKERS_A_LOOP 4
#define FD_RESERVE 256 /* descriptors for Redis, bundles, the journal, beside the connections */

/* ---- what the listener calls --------------------------------------------------------------- */

static bool has_room(void *arg)
{
    struct http_server *s = arg;

    return atomic_load(&s->open) < s->connections_max;
}

static void accepted(void *arg, int fd, const struct sockaddr *from, socklen_t len)
{
    struct http_server *s = arg;

    atomic_fetch_add(&s->open, 1);
    loop_take(s->loops[s->next_loop], fd, from, len);
    s->next_loop = (s->next_loop + 1) % s->n_loops;
}

static void look(void *arg)
{
    struct http_server *s = arg;

    connections_look(s);
    for (size_t i = 0; i < s->n_loops; i++)
        loop_kick(s->loops[i]);
}

/* ---- start --------------------------------------------------------------------------------- */

/* One takes some 80,000 requests a second; more of them make it likelier that one waits for a
 * worker while another's is computing. */
static int loops_wanted(const struct http_server *s, const struct config *cfg)
{
    return cfg->http_loops > 0 ? cfg->http_loops
                               : 1 + recall_workers(s->on.recall) / WORKERS_A_LOOP;
}

static int start_loops(struct http_server *s, const struct config *cfg, struct err *err)
{
    int n = loops_wanted(s, cfg);

    s->loops = xcalloc((size_t)n, sizeof *s->loops);
    for (int i = 0; i < n; i++) {
        s->loops[i] = loop_start(s, cfg, err);
        if (s->loops[i] == NULL)
            return -1;
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
    for (size_t i = 0; i < s->n_loops; i++)
        loop_stop(s->loops[i]);
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
