/* listener.c - binds, accepts, hands out; keeps refused connections open until the client has read
 * why. */
#include "listener.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BACKLOG 4096 /* the kernel takes less where net.core.somaxconn says so */
#define LINGER_MAX 64
#define LINGER_NS 2000000000ull
#define LINGER_LOOK_MS 250 /* how often to see whose time is over */
#define LOOK_MS 1000
#define PAUSE_MS 100 /* after accept found no free descriptor */

struct lingering {
    int fd;
    uint64_t until_ns;
};

struct listener {
    int fd, wake_fd, port;
    struct listener_hooks hooks;
    pthread_t thread;
    bool running;
    atomic_bool closing;
    pthread_mutex_t lock; /* of `lingering` */
    struct lingering lingering[LINGER_MAX];
    size_t n_lingering;
    struct log_limit full, failed;
};

/* ---- binding ------------------------------------------------------------------------------- */

/* "[::1]:80" -> "::1", "80"; the form was checked by config/, this only takes it apart. */
static int split_address(const char *address, char **host, char **port, struct err *err)
{
    const char *colon = strrchr(address, ':');
    size_t len;

    if (colon == NULL)
        return err_set(err, ERR_USAGE, "http.listen: %s: must be host:port", address);
    len = (size_t)(colon - address);
    if (len >= 2 && address[0] == '[' && address[len - 1] == ']')
        *host = xstrndup(address + 1, len - 2);
    else
        *host = xstrndup(address, len);
    *port = xstrdup(colon + 1);
    return 0;
}

static int refuse(const char *address, int why, struct err *err)
{
    switch (why) {
    case EADDRINUSE:
        return err_set(err, ERR_IO,
                       "cannot listen on %s: another process listens there; stop it, or set "
                       "http.listen to another port (0 takes any free one)",
                       address);
    case EACCES:
        return err_set(err, ERR_IO,
                       "cannot listen on %s: not permitted; a port below 1024 needs the "
                       "capability CAP_NET_BIND_SERVICE, or set http.listen to a higher one",
                       address);
    case EADDRNOTAVAIL:
        return err_set(err, ERR_IO,
                       "cannot listen on %s: no interface of this machine has that address",
                       address);
    default:
        return err_set(err, ERR_IO, "cannot listen on %s: %s", address, strerror(why));
    }
}

/* Options set here are inherited by every accepted socket. Returns -1 with errno set. */
static int bind_one(const struct addrinfo *a)
{
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    int on = 1, why;

    if (fd == -1)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int bind_any(const char *address, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char *host = NULL, *port = NULL;
    int fd = -1, why;

    if (split_address(address, &host, &port, err) == -1)
        return -1;
    why = getaddrinfo(host, port, &hints, &found);
    if (why != 0)
        err_set(err, ERR_IO, "cannot listen on %s: %s", address, gai_strerror(why));
    for (const struct addrinfo *a = found; a != NULL && fd == -1; a = a->ai_next)
        fd = bind_one(a);
    if (fd == -1)
        refuse(address, errno, err);
    if (found != NULL)
        freeaddrinfo(found);
    free(host);
    free(port);
    return fd;
}

static int bound_port(int fd)
{
    struct sockaddr_storage at;
    socklen_t len = sizeof at;

    if (getsockname(fd, (struct sockaddr *)&at, &len) == -1)
        return 0;
    if (at.ss_family == AF_INET6)
        return ntohs(((struct sockaddr_in6 *)&at)->sin6_port);
    return ntohs(((struct sockaddr_in *)&at)->sin_port);
}

struct listener *listener_open(const char *address, struct err *err)
{
    struct listener *l;
    int fd = bind_any(address, err);

    if (fd == -1)
        return NULL;
    l = xcalloc(1, sizeof *l);
    l->fd = fd;
    l->port = bound_port(fd);
    l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    pthread_mutex_init(&l->lock, NULL);
    if (l->wake_fd == -1) {
        err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
        listener_free(l);
        return NULL;
    }
    return l;
}

int listener_port(const struct listener *l)
{
    return l->port;
}

/* ---- accepting ----------------------------------------------------------------------------- */

static void wake(struct listener *l)
{
    uint64_t one = 1;

    if (write(l->wake_fd, &one, sizeof one) == -1) {
        /* The counter is full: the thread is as good as awake. */
    }
}

static void sleep_till_woken(struct listener *l, int ms)
{
    struct pollfd p = {.fd = l->wake_fd, .events = POLLIN};

    poll(&p, 1, ms);
}

/* One connection, or false when there is none to have now. */
static bool accept_one(struct listener *l)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof from;
    int fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
    unsigned held;

    if (fd != -1) {
        l->hooks.accepted(l->hooks.arg, fd, (struct sockaddr *)&from, len);
        return true;
    }
    if (errno == EINTR || errno == ECONNABORTED)
        return true; /* that client left; there may be another */
    if (errno != EAGAIN && errno != EWOULDBLOCK) {
        int why = errno;

        if (log_allow(&l->failed, &held))
            LOG_ERROR("accept", "reason=\"%s\" held=%u", strerror(why), held);
        sleep_till_woken(l, PAUSE_MS);
    }
    return false;
}

static void accept_some(struct listener *l)
{
    for (int i = 0; i < BACKLOG && l->hooks.has_room(l->hooks.arg); i++)
        if (!accept_one(l))
            break;
}

/* The kernel answers handshakes by itself, so connections may wait that nobody has accepted;
 * closing the socket would reset them. A filter that drops every packet ends new handshakes (the
 * client tries again, elsewhere or in vain), then what is left is accepted. */
static void accept_last(struct listener *l)
{
    struct sock_filter nothing = {.code = BPF_RET | BPF_K, .k = 0};
    struct sock_fprog drop = {.len = 1, .filter = &nothing};

    setsockopt(l->fd, SOL_SOCKET, SO_ATTACH_FILTER, &drop, sizeof drop);
    accept_some(l);
}

/* ---- lingering ----------------------------------------------------------------------------- */

void listener_linger(struct listener *l, int fd)
{
    bool kept = false;

    pthread_mutex_lock(&l->lock);
    if (l->n_lingering < LINGER_MAX && !atomic_load(&l->closing)) {
        l->lingering[l->n_lingering++] = (struct lingering){fd, clock_ns() + LINGER_NS};
        kept = true;
    }
    pthread_mutex_unlock(&l->lock);
    if (kept)
        wake(l);
    else
        close(fd);
}

/* False once the client has closed its side, or the connection broke. */
static bool drop_input(int fd)
{
    static char sink[65536]; /* only the accepting thread comes here, and nobody looks inside */
    ssize_t n = recv(fd, sink, sizeof sink, MSG_DONTWAIT);

    return n > 0 || (n == -1 && (errno == EAGAIN || errno == EINTR));
}

static void serve_lingering(struct listener *l)
{
    uint64_t now = clock_ns();
    size_t kept = 0;

    pthread_mutex_lock(&l->lock);
    for (size_t i = 0; i < l->n_lingering; i++) {
        struct lingering one = l->lingering[i];

        if (now < one.until_ns && drop_input(one.fd))
            l->lingering[kept++] = one;
        else
            close(one.fd);
    }
    l->n_lingering = kept;
    pthread_mutex_unlock(&l->lock);
}

/* ---- the thread ---------------------------------------------------------------------------- */

/* Fills `p` with what to wait for, and says for how long. The listening socket is left out while
 * there is no room. */
static nfds_t watch(struct listener *l, struct pollfd *p, int *timeout_ms)
{
    nfds_t n = 0;
    unsigned held;

    p[n++] = (struct pollfd){.fd = l->wake_fd, .events = POLLIN};
    if (l->hooks.has_room(l->hooks.arg))
        p[n++] = (struct pollfd){.fd = l->fd, .events = POLLIN};
    else if (log_allow(&l->full, &held))
        LOG_WARN("connections_full", "new ones wait until one closes; raise http.connections?");
    pthread_mutex_lock(&l->lock);
    *timeout_ms = l->n_lingering > 0 ? LINGER_LOOK_MS : LOOK_MS;
    for (size_t i = 0; i < l->n_lingering; i++)
        p[n++] = (struct pollfd){.fd = l->lingering[i].fd, .events = POLLIN};
    pthread_mutex_unlock(&l->lock);
    return n;
}

static void *listener_thread(void *arg)
{
    struct listener *l = arg;
    struct pollfd p[2 + LINGER_MAX];
    uint64_t count, look_ns = clock_ns() + LOOK_MS * 1000000ull;

    while (!atomic_load(&l->closing)) {
        int timeout_ms;
        nfds_t n = watch(l, p, &timeout_ms);

        poll(p, n, timeout_ms);
        if (read(l->wake_fd, &count, sizeof count) == -1) {
            /* Not woken: a socket is ready, or time has passed. */
        }
        accept_some(l);
        serve_lingering(l);
        if (clock_ns() >= look_ns) {
            l->hooks.look(l->hooks.arg);
            look_ns = clock_ns() + LOOK_MS * 1000000ull;
        }
    }
    accept_last(l);
    return NULL;
}

int listener_start(struct listener *l, const struct listener_hooks *hooks, struct err *err)
{
    int why;

    l->hooks = *hooks;
    why = pthread_create(&l->thread, NULL, listener_thread, l);
    if (why != 0)
        return err_set(err, ERR_IO, "accepting thread: %s", strerror(why));
    pthread_setname_np(l->thread, "accept");
    l->running = true;
    return 0;
}

void listener_room(struct listener *l)
{
    wake(l);
}

void listener_close(struct listener *l)
{
    if (l->running) {
        atomic_store(&l->closing, true);
        wake(l);
        pthread_join(l->thread, NULL);
        l->running = false;
    }
    if (l->fd != -1)
        close(l->fd);
    l->fd = -1;
    pthread_mutex_lock(&l->lock); /* loops may still hand connections over */
    for (size_t i = 0; i < l->n_lingering; i++)
        close(l->lingering[i].fd);
    l->n_lingering = 0;
    pthread_mutex_unlock(&l->lock);
}

void listener_free(struct listener *l)
{
    if (l == NULL)
        return;
    listener_close(l);
    if (l->wake_fd != -1)
        close(l->wake_fd);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
