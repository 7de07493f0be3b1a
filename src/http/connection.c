/* connection.c - the open connections: who is doing what, since when, and who has to go.
 *
 * libmicrohttpd closes a connection on which nothing moves for http.idle_s. Two things it does not
 * see. A client that sends a byte now and then would keep its place for ever, so a request has to
 * arrive within http.idle_s, however busy the socket. And the end of what a client sends goes
 * unnoticed when it arrives together with the last bytes: the epoll set is edge-triggered, and
 * nothing is read again after a read that got less than it asked for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "recalld/metrics.h"
#include "server.h"

static int cut_off;

void connections_register(void)
{
    cut_off = metric_counter("recalld_http_cut_off_total",
                             "Connections closed because a request took longer than http.idle_s "
                             "to arrive.",
                             "");
}

/* ---- the list ------------------------------------------------------------------------------ */

struct connection *connection_open(struct http_server *s, struct loop *l, int fd)
{
    struct connection *c = xcalloc(1, sizeof *c);

    c->loop = l;
    c->server = s;
    c->fd = fd;
    connection_enter(s, c, PHASE_IDLE);
    pthread_mutex_lock(&s->lock);
    c->next = s->connections;
    if (c->next != NULL)
        c->next->previous = c;
    s->connections = c;
    s->n_connections++;
    pthread_mutex_unlock(&s->lock);
    return c;
}

static void leave_list(struct http_server *s, struct connection *c)
{
    pthread_mutex_lock(&s->lock);
    if (c->next != NULL)
        c->next->previous = c->previous;
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        s->connections = c->next;
    s->n_connections--;
    pthread_mutex_unlock(&s->lock);
}

static bool has_unread(int fd)
{
    int unread = 0;

    return ioctl(fd, FIONREAD, &unread) == 0 && unread > 0;
}

void connection_close(struct connection *c)
{
    leave_list(c->server, c);
    if (!c->hopeless && (c->linger || has_unread(c->fd))) {
        int fd = dup(c->fd); /* libmicrohttpd closes its own */

        if (fd != -1)
            listener_linger(c->server->listener, fd);
    }
    buf_clear(&c->request.body);
    free(c);
}

/* ---- phases -------------------------------------------------------------------------------- */

/* The time is set first: whoever sees the new phase sees no older time. */
void connection_enter(struct http_server *s, struct connection *c, enum phase phase)
{
    atomic_store(&c->since, atomic_load_explicit(&s->seconds, memory_order_relaxed));
    atomic_store(&c->phase, phase);
}

bool connections_quiet(struct http_server *s)
{
    bool quiet;

    pthread_mutex_lock(&s->lock);
    quiet = s->n_connections == atomic_load(&s->open); /* none is on its way to a loop */
    for (const struct connection *c = s->connections; c != NULL && quiet; c = c->next)
        quiet = atomic_load(&c->phase) == PHASE_IDLE && !has_unread(c->fd);
    pthread_mutex_unlock(&s->lock);
    return quiet;
}

/* An idle connection may have been so for http.idle_s when its next request line begins to come. */
static bool is_too_slow(const struct http_server *s, const struct connection *c, unsigned now)
{
    enum phase phase = atomic_load(&c->phase);
    unsigned lasted = now - atomic_load(&c->since);

    return phase != PHASE_AT_WORK && lasted > (phase == PHASE_IDLE ? 2 : 1) * s->idle_s;
}

/* Shut down, the socket wakes its loop, which then closes it. */
static void cut(struct http_server *s, const struct connection *c)
{
    unsigned held;

    shutdown(c->fd, SHUT_RDWR);
    metric_add(cut_off, 1);
    if (log_allow(&s->log_slow, &held))
        LOG_INFO("cut_off", "held=%u a request took longer than http.idle_s to arrive", held);
}

/* To shut down the side that the client has closed changes nothing, but wakes the loop.
 * What is at work is left out: once answered, it is read again anyway. */
static void notice_ends(struct pollfd *p, size_t n)
{
    if (poll(p, n, 0) <= 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (p[i].revents & POLLRDHUP)
            shutdown(p[i].fd, SHUT_RD);
}

void connections_look(struct http_server *s)
{
    unsigned now = atomic_fetch_add(&s->seconds, 1) + 1;
    size_t n = 0;

    pthread_mutex_lock(&s->lock);
    if (s->n_looked_at < s->n_connections) {
        s->n_looked_at = s->n_connections * 2;
        s->looked_at = xrealloc(s->looked_at, s->n_looked_at * sizeof *s->looked_at);
    }
    for (const struct connection *c = s->connections; c != NULL; c = c->next) {
        if (is_too_slow(s, c, now))
            cut(s, c);
        else if (atomic_load(&c->phase) != PHASE_AT_WORK)
            s->looked_at[n++] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
    }
    notice_ends(s->looked_at, n);
    pthread_mutex_unlock(&s->lock);
}
