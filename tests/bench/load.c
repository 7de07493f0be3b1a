/* load.c - an open-loop load generator for measurements.
 *
 * Requests fall due at random moments of a given rate (Poisson, a fixed seed), whether or not the
 * server keeps up, and latency counts from the moment a request was due: a server that stalls is
 * not excused by a client that waits for it. A due request takes a free connection, or the first
 * that gets free. --rate 0 is the closed loop: every connection asks again as soon as it is
 * answered. One thread; what it costs is printed, so that nobody mistakes it for the server's. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "recalld/base.h"

#define SECOND UINT64_C(1000000000)
#define HEAD_MAX 4096            /* of an answer */
#define PATIENCE_NS (2 * SECOND) /* for answers that are still out at the end */
#define STATUS_MAX 600

struct options {
    const char *host, *port, *path, *bodies;
    double rate, seconds, warmup, deadline_ms;
    int connections, series_ms;
};

struct connection {
    int fd; /* -1 = not connected */
    bool busy, counted;
    uint64_t due_ns;
    const struct str *request;
    size_t sent;
    char head[HEAD_MAX];
    size_t head_len;
    int status; /* 0 = the head is not complete */
    bool close;
    size_t left; /* bytes of the body still to come */
};

/* Latencies of one kind of answer, in milliseconds. */
struct sample {
    float *ms;
    size_t n, room;
};

struct tally {
    uint64_t offered, sent, errors, good, status[STATUS_MAX];
    struct sample ok, refused;
};

struct load {
    struct options o;
    struct addrinfo *address;
    struct str *requests;
    size_t n_requests, next_request;
    struct connection *connections, **idle;
    size_t n_idle;
    uint64_t *due; /* a ring of requests that wait for a connection */
    size_t due_room, due_head, n_due;
    int epoll;
    uint64_t start_ns, counted_ns, end_ns, next_due_ns, random;
    struct tally all, interval;
    uint64_t bytes;
};

static void fail(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, errno != 0 ? strerror(errno) : "failed");
    exit(1);
}

/* ---- figures ----------------------------------------------------------------------------------
 */

static void sample_add(struct sample *s, double ms)
{
    if (s->n == s->room) {
        s->room = s->room == 0 ? 4096 : 2 * s->room;
        s->ms = xrealloc(s->ms, s->room * sizeof *s->ms);
    }
    s->ms[s->n++] = (float)ms;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

static double quantile(const struct sample *s, double q)
{
    return s->n == 0 ? 0 : (double)s->ms[(size_t)(q * (double)(s->n - 1) + 0.5)];
}

static void print_sample(const char *name, struct sample *s)
{
    if (s->n > 0)
        qsort(s->ms, s->n, sizeof *s->ms, by_value);
    printf(", \"%s\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}",
           name, quantile(s, 0.5), quantile(s, 0.9), quantile(s, 0.99), quantile(s, 0.999),
           quantile(s, 1));
}

/* The members that an interval and the whole run have in common. */
static void print_tally(struct tally *t, double seconds)
{
    const char *comma = "";

    printf("\"offered\": %.1f, \"sent\": %lu, \"answered\": %lu, \"errors\": %lu, \"status\": {",
           (double)t->offered / seconds, t->sent, t->ok.n + t->refused.n, t->errors);
    for (int i = 0; i < STATUS_MAX; i++)
        if (t->status[i] > 0) {
            printf("%s\"%d\": %lu", comma, i, t->status[i]);
            comma = ", ";
        }
    printf("}, \"answers_per_s\": %.1f, \"goodput\": %.1f", (double)t->ok.n / seconds,
           (double)t->good / seconds);
    print_sample("ms", &t->ok);
    print_sample("refused_ms", &t->refused);
}

static void tally_answer(struct tally *t, const struct load *l, int status, double ms)
{
    t->status[status]++;
    sample_add(status == 200 ? &t->ok : &t->refused, ms);
    if (status == 200 && (l->o.deadline_ms <= 0 || ms <= l->o.deadline_ms))
        t->good++;
}

static void tally_clear(struct tally *t)
{
    struct sample ok = t->ok, refused = t->refused;

    ok.n = refused.n = 0;
    *t = (struct tally){.ok = ok, .refused = refused};
}

/* ---- connections ------------------------------------------------------------------------------
 */

static void watch(struct load *l, struct connection *c, int op, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = c};

    if (epoll_ctl(l->epoll, op, c->fd, &e) == -1)
        fail("epoll_ctl");
}

static void disconnect(struct connection *c)
{
    if (c->fd != -1)
        close(c->fd);
    c->fd = -1;
}

/* Loopback connects at once, so this may block. */
static bool connected(struct load *l, struct connection *c)
{
    const struct addrinfo *a = l->address;
    int on = 1;

    if (c->fd != -1)
        return true;
    c->fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (c->fd == -1)
        return false;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, a->ai_addr, a->ai_addrlen) == -1) {
        disconnect(c);
        return false;
    }
    watch(l, c, EPOLL_CTL_ADD, EPOLLIN);
    return true;
}

static void finish(struct load *l, struct connection *c)
{
    c->busy = false;
    l->idle[l->n_idle++] = c;
}

static void broken(struct load *l, struct connection *c)
{
    disconnect(c);
    if (!c->busy)
        return;
    if (c->counted) {
        l->all.errors++;
        l->interval.errors++;
    }
    finish(l, c);
}

static void push(struct load *l, struct connection *c)
{
    while (c->sent < c->request->len) {
        ssize_t n = send(c->fd, c->request->p + c->sent, c->request->len - c->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n == -1 && errno == EAGAIN) {
            watch(l, c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n == -1) {
            broken(l, c);
            return;
        }
        c->sent += (size_t)n;
    }
}

static void ask(struct load *l, uint64_t due_ns)
{
    struct connection *c = l->idle[--l->n_idle];

    c->busy = true;
    c->due_ns = due_ns;
    c->counted = due_ns >= l->counted_ns;
    c->request = &l->requests[l->next_request];
    l->next_request = (l->next_request + 1) % l->n_requests;
    c->sent = c->head_len = c->left = 0;
    c->status = 0;
    c->close = false;
    if (c->counted) {
        l->all.sent++;
        l->interval.sent++;
    }
    if (connected(l, c))
        push(l, c);
    else
        broken(l, c);
}

/* The value of a header of the answer, or NULL. */
static const char *header(const struct connection *c, const char *name)
{
    const char *at = strcasestr(c->head, name);

    return at == NULL ? NULL : at + strlen(name);
}

/* Reads the head once it is complete; what followed it belongs to the body. */
static bool parse_head(struct connection *c)
{
    char *end;
    const char *length, *closing;
    size_t body;

    c->head[c->head_len] = '\0';
    end = strstr(c->head, "\r\n\r\n");
    if (end == NULL)
        return c->head_len < HEAD_MAX - 1;
    body = c->head_len - (size_t)(end + 4 - c->head);
    end[2] = '\0';
    length = header(c, "\r\nContent-Length: ");
    closing = header(c, "\r\nConnection: ");
    c->status = atoi(c->head + strlen("HTTP/1.1 "));
    c->close = closing != NULL && strncasecmp(closing, "close", 5) == 0;
    c->left = length != NULL ? (size_t)strtoull(length, NULL, 10) : 0;
    if (c->status < 100 || c->status >= STATUS_MAX || body > c->left)
        return false;
    c->left -= body;
    return true;
}

static void answered(struct load *l, struct connection *c)
{
    double ms = (double)(clock_ns() - c->due_ns) / 1e6;

    if (c->counted) {
        tally_answer(&l->all, l, c->status, ms);
        tally_answer(&l->interval, l, c->status, ms);
    }
    if (c->close)
        disconnect(c);
    finish(l, c);
}

static void pull(struct load *l, struct connection *c)
{
    static char sink[1 << 18];
    bool head = c->status == 0;
    ssize_t n = head ? recv(c->fd, c->head + c->head_len, HEAD_MAX - 1 - c->head_len, MSG_DONTWAIT)
                     : recv(c->fd, sink, sizeof sink, MSG_DONTWAIT);

    if (n == -1 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || !c->busy) {
        broken(l, c);
        return;
    }
    l->bytes += (uint64_t)n;
    if (head) {
        c->head_len += (size_t)n;
        if (!parse_head(c)) {
            broken(l, c);
            return;
        }
    } else if ((size_t)n > c->left) {
        broken(l, c);
        return;
    } else {
        c->left -= (size_t)n;
    }
    if (c->status != 0 && c->left == 0)
        answered(l, c);
    else if (head && c->status != 0)
        pull(l, c); /* the rest is usually there */
}

/* ---- when requests fall due -------------------------------------------------------------------
 */

static double uniform(struct load *l)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return ((double)(l->random >> 11) + 1) / 9007199254740993.0;
}

static void wait_for_connection(struct load *l, uint64_t due_ns)
{
    if (l->n_due == l->due_room) {
        size_t room = l->due_room == 0 ? 1024 : 2 * l->due_room;
        uint64_t *due = xcalloc(room, sizeof *due);

        for (size_t i = 0; i < l->n_due; i++)
            due[i] = l->due[(l->due_head + i) % l->due_room];
        free(l->due);
        l->due = due;
        l->due_room = room;
        l->due_head = 0;
    }
    l->due[(l->due_head + l->n_due++) % l->due_room] = due_ns;
}

static void make_due(struct load *l, uint64_t now)
{
    while (l->o.rate > 0 && l->next_due_ns <= now && l->next_due_ns < l->end_ns) {
        if (l->next_due_ns >= l->counted_ns) {
            l->all.offered++;
            l->interval.offered++;
        }
        wait_for_connection(l, l->next_due_ns);
        l->next_due_ns += (uint64_t)(-log(uniform(l)) / l->o.rate * 1e9);
    }
}

static void ask_all(struct load *l)
{
    uint64_t now = clock_ns();

    make_due(l, now);
    while (l->n_idle > 0 && (l->o.rate > 0 ? l->n_due > 0 : now < l->end_ns)) {
        uint64_t due_ns = now;

        if (l->o.rate > 0) {
            due_ns = l->due[l->due_head];
            l->due_head = (l->due_head + 1) % l->due_room;
            l->n_due--;
        }
        ask(l, due_ns);
        if (l->o.rate <= 0 && (now = clock_ns()) >= l->counted_ns) {
            l->all.offered++;
            l->interval.offered++;
        }
    }
}

/* ---- the run ----------------------------------------------------------------------------------
 */

static void serve_events(struct load *l, uint64_t until_ns)
{
    struct epoll_event events[256];
    uint64_t now = clock_ns(), wait = until_ns > now ? until_ns - now : 0;
    struct timespec timeout = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
    int n = epoll_pwait2(l->epoll, events, 256, &timeout, NULL);

    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;

        if ((events[i].events & EPOLLOUT) != 0 && c->fd != -1) {
            watch(l, c, EPOLL_CTL_MOD, EPOLLIN);
            push(l, c);
        }
        if ((events[i].events & ~(uint32_t)EPOLLOUT) != 0 && c->fd != -1)
            pull(l, c);
    }
}

static void print_interval(struct load *l, uint64_t begin_ns, uint64_t now)
{
    printf("{\"t\": %.3f, ", (double)(now - l->counted_ns) / 1e9);
    print_tally(&l->interval, (double)(now - begin_ns) / 1e9);
    printf("}\n");
    fflush(stdout);
    tally_clear(&l->interval);
}

static bool work_left(const struct load *l, uint64_t now)
{
    if (now < l->end_ns)
        return true;
    return (l->n_idle < (size_t)l->o.connections || l->n_due > 0) && now < l->end_ns + PATIENCE_NS;
}

static void run(struct load *l)
{
    uint64_t every = (uint64_t)l->o.series_ms * 1000000, began, next_print, now;

    l->start_ns = l->next_due_ns = clock_ns();
    l->counted_ns = l->start_ns + (uint64_t)(l->o.warmup * 1e9);
    l->end_ns = l->counted_ns + (uint64_t)(l->o.seconds * 1e9);
    began = l->counted_ns;
    next_print = every > 0 ? l->counted_ns + every : UINT64_MAX;
    while (work_left(l, now = clock_ns())) {
        uint64_t until = now < l->end_ns ? l->end_ns : l->end_ns + PATIENCE_NS;

        if (now >= next_print) {
            print_interval(l, began, now);
            began = now;
            next_print += every;
        }
        ask_all(l);
        if (l->o.rate > 0 && l->next_due_ns < until && l->next_due_ns < l->end_ns)
            until = l->next_due_ns;
        serve_events(l, until < next_print ? until : next_print);
    }
}

static void print_result(struct load *l)
{
    struct rusage u;
    double cpu;

    getrusage(RUSAGE_SELF, &u);
    cpu = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
          (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
    l->all.errors += l->n_due + ((size_t)l->o.connections - l->n_idle); /* never answered */
    printf("{");
    print_tally(&l->all, l->o.seconds);
    printf(", \"seconds\": %.3f, \"bytes\": %lu, \"cpu_s\": %.3f}\n", l->o.seconds, l->bytes, cpu);
}

/* ---- start ------------------------------------------------------------------------------------
 */

static void read_bodies(struct load *l)
{
    FILE *f = fopen(l->o.bodies, "r");
    char *line = NULL;
    size_t room = 0;
    ssize_t len;

    if (f == NULL)
        fail(l->o.bodies);
    while ((len = getline(&line, &room, f)) > 0) {
        struct buf text = BUF_INIT;

        len -= line[len - 1] == '\n';
        buf_printf(&text,
                   "POST %s HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n"
                   "Content-Length: %zd\r\n\r\n",
                   l->o.path, l->o.host, l->o.port, len);
        buf_put(&text, line, (size_t)len);
        l->requests = xrealloc(l->requests, (l->n_requests + 1) * sizeof *l->requests);
        l->requests[l->n_requests++] = (struct str){text.p, text.len};
    }
    free(line);
    fclose(f);
    errno = 0;
    if (l->n_requests == 0)
        fail("no body in the file");
}

static void start(struct load *l)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};

    read_bodies(l);
    if (getaddrinfo(l->o.host, l->o.port, &hints, &l->address) != 0)
        fail(l->o.host);
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll == -1)
        fail("epoll");
    l->random = UINT64_C(0x9e3779b97f4a7c15);
    l->connections = xcalloc((size_t)l->o.connections, sizeof *l->connections);
    l->idle = xcalloc((size_t)l->o.connections, sizeof(struct connection *));
    for (int i = l->o.connections - 1; i >= 0; i--) {
        l->connections[i].fd = -1;
        l->idle[l->n_idle++] = &l->connections[i];
    }
}

static const char usage[] =
    "usage: load --port P --bodies FILE [--host 127.0.0.1] [--path /recall] [--rate R]\n"
    "            [--seconds 10] [--warmup 1] [--connections 16] [--deadline-ms 0] [--series MS]\n";

static struct options parse(int argc, char **argv)
{
    static const struct option known[] = {
        {"host", 1, NULL, 'h'},
        {"port", 1, NULL, 'p'},
        {"path", 1, NULL, 'P'},
        {"bodies", 1, NULL, 'b'},
        {"rate", 1, NULL, 'r'},
        {"seconds", 1, NULL, 's'},
        {"warmup", 1, NULL, 'w'},
        {"connections", 1, NULL, 'c'},
        {"deadline-ms", 1, NULL, 'd'},
        {"series", 1, NULL, 'S'},
        {NULL, 0, NULL, 0},
    };
    struct options o = {"127.0.0.1", NULL, "/recall", NULL, 0, 10, 1, 0, 16, 0};
    int c;

    while ((c = getopt_long(argc, argv, "", known, NULL)) != -1)
        switch (c) {
        case 'h':
            o.host = optarg;
            break;
        case 'p':
            o.port = optarg;
            break;
        case 'P':
            o.path = optarg;
            break;
        case 'b':
            o.bodies = optarg;
            break;
        case 'r':
            o.rate = atof(optarg);
            break;
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'w':
            o.warmup = atof(optarg);
            break;
        case 'c':
            o.connections = atoi(optarg);
            break;
        case 'd':
            o.deadline_ms = atof(optarg);
            break;
        case 'S':
            o.series_ms = atoi(optarg);
            break;
        default:
            fputs(usage, stderr);
            exit(2);
        }
    if (o.port == NULL || o.bodies == NULL || o.seconds <= 0 || o.connections < 1) {
        fputs(usage, stderr);
        exit(2);
    }
    return o;
}

int main(int argc, char **argv)
{
    static struct load l;

    l.o = parse(argc, argv);
    start(&l);
    run(&l);
    print_result(&l);
    return 0;
}
