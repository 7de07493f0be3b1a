/* redis.c - connections: addresses, connecting within a time limit, the greeting (AUTH, SELECT,
 * PING), and healing with back-off. Sockets are non-blocking throughout; hiredis is asked only to
 * parse. */
#include "conn.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NS_PER_MS ((uint64_t)1000000)
#define BACKOFF_MIN_NS (50 * NS_PER_MS)
#define BACKOFF_MAX_NS (500 * NS_PER_MS) /* recovery is promised within a second */
#define IDLE_NS (10 * NS_PER_MS)         /* what closes a connection does so while it is idle */
#define KEEPALIVE_IDLE_S 15
#define KEEPALIVE_INTERVAL_S 5
#define KEEPALIVE_PROBES 3

/* ---- address and greeting ------------------------------------------------------ */

static int parse_tcp(struct redis_conn *c, struct err *err)
{
    const char *colon = strrchr(c->address, ':'), *host = c->address;
    size_t len = (size_t)(colon - host);
    uint64_t port;

    if (!parse_u64(colon + 1, strlen(colon + 1), &port) || port < 1 || port > 65535)
        return err_set(err, ERR_USAGE, "redis.address %s: the port must be 1 to 65535", c->address);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    } else if (memchr(host, ':', len) != NULL) {
        return err_set(err, ERR_USAGE,
                       "redis.address %s: an IPv6 address needs brackets: [v6]:port", c->address);
    }
    if (len == 0)
        return err_set(err, ERR_USAGE, "redis.address %s: the host is missing", c->address);
    c->host = xstrndup(host, len);
    c->port = xstrdup(colon + 1);
    return 0;
}

static int parse_address(struct redis_conn *c, struct err *err)
{
    if (c->address[0] == '\0')
        return err_set(err, ERR_USAGE, "redis.address is empty");
    if (c->address[0] != '/' && strchr(c->address, ':') != NULL)
        return parse_tcp(c, err);
    if (strlen(c->address) >= sizeof((struct sockaddr_un *)NULL)->sun_path)
        return err_set(err, ERR_USAGE, "redis.address %s: a socket's path has at most %zu bytes",
                       c->address, sizeof((struct sockaddr_un *)NULL)->sun_path - 1);
    return 0;
}

static void greet_with(struct redis_conn *c, size_t argc, const char *const *words)
{
    struct str argv[3];
    struct redis_command cmd = {.argv = argv, .argc = argc};

    for (size_t i = 0; i < argc; i++)
        argv[i] = (struct str){words[i], strlen(words[i])};
    command_encode(&c->greeting, &cmd);
    c->n_greeting++;
}

/* PING comes last and always: a server that is loading or full says so now, not to a user. */
static void write_greeting(struct redis_conn *c, const struct redis_options *o)
{
    char db[16];

    snprintf(db, sizeof db, "%d", o->db);
    if (o->password[0] != '\0' && o->user[0] != '\0')
        greet_with(c, 3, (const char *[]){"AUTH", o->user, o->password});
    else if (o->password[0] != '\0')
        greet_with(c, 2, (const char *[]){"AUTH", o->password});
    if (o->db != 0)
        greet_with(c, 2, (const char *[]){"SELECT", db});
    greet_with(c, 1, (const char *[]){"PING"});
}

struct redis_conn *redis_conn_new(const struct redis_options *o, struct breaker *b, struct err *err)
{
    struct redis_conn *c = xcalloc(1, sizeof *c);

    c->fd = -1;
    c->address = xstrdup(o->address);
    c->connect_ns = (uint64_t)o->connect_ms * NS_PER_MS;
    c->timeout_ns = (uint64_t)o->timeout_ms * NS_PER_MS;
    c->breaker = b;
    c->backoff_ns = BACKOFF_MIN_NS;
    write_greeting(c, o);
    if (parse_address(c, err) == -1) {
        redis_conn_free(c);
        return NULL;
    }
    return c;
}

static void forget_addresses(struct redis_conn *c)
{
    if (c->addrs != NULL)
        freeaddrinfo(c->addrs);
    c->addrs = NULL;
}

void redis_conn_free(struct redis_conn *c)
{
    if (c == NULL)
        return;
    conn_discard(c);
    forget_addresses(c);
    arena_clear(&c->replies);
    buf_clear(&c->greeting);
    buf_clear(&c->out);
    free(c->settled);
    free(c->host);
    free(c->port);
    free(c->address);
    free(c);
}

/* ---- state --------------------------------------------------------------------- */

bool conn_fail(struct redis_conn *c, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(c->error, sizeof c->error, fmt, args);
    va_end(args);
    return false;
}

void conn_discard(struct redis_conn *c)
{
    if (c->fd == -1)
        return;
    close(c->fd);
    c->fd = -1;
    redisReaderFree(c->reader);
    c->reader = NULL;
}

/* Connected, and nothing unasked-for waits in the socket. Discards the connection otherwise. */
static bool is_sound(struct redis_conn *c)
{
    char byte;

    if (c->fd == -1)
        return false;
    if (recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == -1 &&
        (errno == EAGAIN || errno == EWOULDBLOCK))
        return true;
    conn_discard(c);
    return false;
}

bool conn_reusable(struct redis_conn *c, uint64_t now)
{
    if (c->fd != -1 && now - c->used_ns < IDLE_NS)
        return true;
    return is_sound(c);
}

bool redis_conn_look(struct redis_conn *c)
{
    return is_sound(c);
}

int redis_conn_fd(const struct redis_conn *c)
{
    return c->fd;
}

bool redis_conn_is_up(const struct redis_conn *c)
{
    return c->fd != -1;
}

const char *redis_conn_error(const struct redis_conn *c)
{
    return c->error;
}

void redis_conn_when_overdue(struct redis_conn *c, redis_overdue_fn overdue, void *arg)
{
    c->overdue = overdue;
    c->overdue_arg = arg;
}

struct redis_connects redis_conn_connects(const struct redis_conn *c)
{
    return c->connects;
}

/* ---- connecting ---------------------------------------------------------------- */

/* The resolver takes as long as it likes. Once an attempt has failed it is asked only while no
 * commands wait; those use the addresses known already, doubtful as they are. */
static bool resolve(struct redis_conn *c, bool commands_wait)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    int why;

    if (c->addrs_doubtful && commands_wait)
        hints.ai_flags |= AI_NUMERICHOST;
    else if (c->addrs_doubtful)
        forget_addresses(c);
    if (c->addrs != NULL)
        return true;
    why = getaddrinfo(c->host, c->port, &hints, &c->addrs);
    if (why != 0)
        return conn_fail(c, "cannot resolve %s: %s", c->host, gai_strerror(why));
    c->addrs_doubtful = false;
    return true;
}

static void set_tcp_options(int fd)
{
    static const int on = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S,
                     probes = KEEPALIVE_PROBES;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

static bool await_connected(struct redis_conn *c, struct round *behind, uint64_t limit_ns)
{
    int why = 0;
    socklen_t len = sizeof why;

    if (round_await(c, behind, POLLOUT, limit_ns) == 0)
        return conn_fail(c, "no connection in time");
    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &why, &len) == -1)
        why = errno;
    return why == 0 || conn_fail(c, "cannot connect: %s", strerror(why));
}

static bool connect_to(struct redis_conn *c, const struct sockaddr *to, socklen_t len,
                       struct round *behind, uint64_t limit_ns)
{
    c->fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (c->fd == -1)
        return conn_fail(c, "socket: %s", strerror(errno));
    if (to->sa_family != AF_UNIX)
        set_tcp_options(c->fd);
    if (connect(c->fd, to, len) == 0)
        return true;
    if (errno != EINPROGRESS)
        conn_fail(c, "cannot connect: %s", strerror(errno));
    else if (await_connected(c, behind, limit_ns))
        return true;
    close(c->fd);
    c->fd = -1;
    return false;
}

static bool connect_unix(struct redis_conn *c, struct round *behind, uint64_t limit_ns)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    strcpy(to.sun_path, c->address);
    return connect_to(c, (struct sockaddr *)&to, sizeof to, behind, limit_ns);
}

/* Every address of the name gets an equal share of the time: a dead one must not hide a good
 * one. */
static bool connect_tcp(struct redis_conn *c, struct round *behind, uint64_t limit_ns)
{
    uint64_t left = 0, now;

    if (!resolve(c, behind != NULL))
        return false;
    for (struct addrinfo *a = c->addrs; a != NULL; a = a->ai_next)
        left++;
    for (struct addrinfo *a = c->addrs; a != NULL; a = a->ai_next, left--) {
        now = clock_ns();
        if (now < limit_ns &&
            connect_to(c, a->ai_addr, a->ai_addrlen, behind, now + (limit_ns - now) / left))
            return true;
    }
    return false;
}

/* ---- greeting ------------------------------------------------------------------ */

#define PING_ARGC 1 /* the only word of the greeting's commands without an argument */

/* A user who may not PING is answered all the same, and that is what was to be known. */
static void greeted(const struct redis_command *cmd, const struct redis_result *res)
{
    char *error = cmd->user;

    if (res->outcome == REDIS_REPLIED || error[0] != '\0')
        return;
    if (res->outcome == REDIS_TIMED_OUT)
        strcpy(error, "no answer to the greeting in time");
    else if (cmd->argc == PING_ARGC && strncmp(res->error, "NOPERM", 6) == 0)
        return;
    else
        snprintf(error, sizeof((struct redis_conn *)NULL)->error, "%s", res->error);
}

static bool greet(struct redis_conn *c, struct round *behind)
{
    char error[sizeof c->error] = "";
    bool settled[GREETING_MAX] = {false};
    struct redis_command cmds[GREETING_MAX];
    struct round r = {.cmds = cmds,
                      .n = c->n_greeting,
                      .done = greeted,
                      .settled = settled,
                      .bytes = c->greeting.p,
                      .len = c->greeting.len,
                      .left = c->n_greeting,
                      .overdue_ns = UINT64_MAX,
                      .behind = behind};
    uint64_t deadline = clock_ns() + c->timeout_ns;
    bool sound;

    for (size_t i = 0; i < r.n; i++)
        cmds[i] = (struct redis_command){
            .argc = i == r.n - 1 ? PING_ARGC : 2, .deadline_ns = deadline, .user = error};
    sound = round_exchange(c, &r);
    if (error[0] != '\0') /* says more than that the server then hung up */
        return conn_fail(c, "%s", error);
    if (sound && r.next < r.n)
        return conn_fail(c, "no answer to the greeting in time");
    return sound;
}

/* ---- opening and healing ------------------------------------------------------- */

bool conn_open(struct redis_conn *c, struct round *behind)
{
    uint64_t limit = clock_ns() + c->connect_ns;
    bool connected =
        c->host == NULL ? connect_unix(c, behind, limit) : connect_tcp(c, behind, limit);

    if (connected) {
        c->unparsed = 0;
        c->reader = reply_reader(c);
        if (c->reader == NULL) {
            conn_fail(c, "out of memory");
        } else if (greet(c, behind)) {
            c->connects.ok++;
            return true;
        }
        conn_discard(c);
    }
    c->connects.failed++;
    c->addrs_doubtful = true;
    return false;
}

int redis_conn_ready(struct redis_conn *c, struct err *err)
{
    if (is_sound(c) || conn_open(c, NULL))
        return 0;
    return err_set(err, ERR_UNAVAILABLE, "redis %s: %s", c->address, c->error);
}

void conn_back_off(struct redis_conn *c)
{
    c->next_heal_ns = clock_ns() + c->backoff_ns;
    c->backoff_ns = c->backoff_ns < BACKOFF_MAX_NS / 2 ? 2 * c->backoff_ns : BACKOFF_MAX_NS;
}

void conn_back_off_reset(struct redis_conn *c)
{
    c->next_heal_ns = 0;
    c->backoff_ns = BACKOFF_MIN_NS;
}

uint64_t redis_conn_next_heal_ns(const struct redis_conn *c)
{
    if (c->fd != -1 && breaker_allows(c->breaker))
        return 0;
    return c->next_heal_ns > 0 ? c->next_heal_ns : 1;
}

/* The back-off grows with every attempt, successful or not, until a command is answered: a server
 * that greets and then answers nothing is not asked twenty times a second for ever. */
bool redis_conn_heal(struct redis_conn *c)
{
    bool up = is_sound(c);

    if ((up && breaker_allows(c->breaker)) || clock_ns() < c->next_heal_ns)
        return true;
    conn_back_off(c);
    if (!(up ? greet(c, NULL) : conn_open(c, NULL))) {
        conn_discard(c);
        return false;
    }
    if (!breaker_allows(c->breaker)) /* closed, it goes on counting: a PING is not an answer */
        breaker_success(c->breaker);
    return true;
}
