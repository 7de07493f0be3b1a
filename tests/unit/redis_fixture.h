/* redis_fixture.h - servers for the tests of redis/ and behaviour/: a real redis-server, and a fake
 * one that misbehaves on request.
 *
 * The fake answers every command with an array of one string, its key, except
 *   raw:BYTES   sends BYTES instead
 *   half:BYTES  sends BYTES, then nothing more on this connection
 *   hang...     sends nothing more on this connection
 *   split...    answers as usual, a byte at a time
 *   late:MS...  waits MS milliseconds, then answers as usual
 *   close...    closes the connection
 * and greetings (AUTH, SELECT, PING) with `greeting`. Each connection has its own thread. Once
 * `well`, it answers every key as usual. */
#ifndef REDIS_FIXTURE_H
#define REDIS_FIXTURE_H

#include "recalld/redis.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <setjmp.h>

#include <cmocka.h>

#define MS ((uint64_t)1000000) /* in nanoseconds */

static inline void sleep_ms(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

static inline uint64_t in_ms(uint64_t ms)
{
    return clock_ns() + ms * MS;
}

static inline struct str str_of(const char *s)
{
    return (struct str){s, strlen(s)};
}

/* ---- a directory of our own ------------------------------------------------------ */

static inline char *scratch_dir(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = xasprintf("%s/recalld-XXXXXX", base != NULL ? base : "/tmp");

    if (mkdtemp(dir) == NULL) {
        perror(dir);
        abort();
    }
    return dir;
}

static inline int connect_path(const char *path)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(to.sun_path, sizeof to.sun_path, "%s", path);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) == 0)
        return fd;
    close(fd);
    return -1;
}

/* ---- the real one ---------------------------------------------------------------- */

struct real_redis {
    pid_t pid;
    char *dir, *path, *tcp; /* addresses for redis.address */
    int port;
};

static inline int free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (bind(fd, (struct sockaddr *)&at, sizeof at) == -1 ||
        getsockname(fd, (struct sockaddr *)&at, &len) == -1)
        abort();
    close(fd);
    return ntohs(at.sin_port);
}

/* Answered anything at all, be it that a password is needed. */
static inline bool real_answers(const struct real_redis *r)
{
    int fd = connect_path(r->path);
    char byte;
    bool ok = fd != -1 && write(fd, "PING\r\n", 6) == 6 && read(fd, &byte, 1) == 1;

    if (fd != -1)
        close(fd);
    return ok;
}

/* (Re)starts the server with nothing in it and waits until it answers. */
static inline void real_launch(struct real_redis *r)
{
    char port[16];

    snprintf(port, sizeof port, "%d", r->port);
    r->pid = fork();
    if (r->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1",
               "--unixsocket", r->path, "--dir", r->dir, "--logfile", "log", "--save", "",
               "--appendonly", "no", (char *)NULL);
        fprintf(stderr, "redis-server cannot be started: %s\n", strerror(errno));
        _exit(127);
    }
    for (int i = 0; i < 1000; i++) {
        if (real_answers(r))
            return;
        if (waitpid(r->pid, NULL, WNOHANG) == r->pid)
            break;
        sleep_ms(10);
    }
    fprintf(stderr, "the tests need redis-server, which did not start (see %s/log)\n", r->dir);
    abort();
}

static inline void real_start(struct real_redis *r)
{
    r->dir = scratch_dir();
    r->path = path_join(r->dir, "redis.sock");
    r->port = free_port();
    r->tcp = xasprintf("127.0.0.1:%d", r->port);
    real_launch(r);
}

static inline void real_kill(struct real_redis *r)
{
    if (r->pid == 0) /* killed already */
        return;
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
}

static inline void real_stop(struct real_redis *r)
{
    char *log = path_join(r->dir, "log");

    real_kill(r);
    unlink(log);
    unlink(r->path);
    rmdir(r->dir);
    free(log);
    free(r->dir);
    free(r->path);
    free(r->tcp);
}

/* ---- the fake one ---------------------------------------------------------------- */

#define FAKE_CONNECTIONS_MAX 512
#define FAKE_ARGS_MAX 8

struct fake_redis {
    char *dir, *path;
    int listener;
    pthread_t acceptor;
    pthread_t threads[FAKE_CONNECTIONS_MAX];
    int fds[FAKE_CONNECTIONS_MAX];
    atomic_int connections;         /* so far */
    atomic_int commands;            /* seen so far, greetings not counted */
    atomic_int hung;                /* of those, to keys that hang */
    _Atomic(const char *) greeting; /* NULL: silence */
    atomic_bool well;
};

struct fake_thread {
    struct fake_redis *fake;
    int fd;
};

/* Until the other side hangs up. */
static inline void fake_ignore(int fd)
{
    char bytes[4096];

    while (read(fd, bytes, sizeof bytes) > 0)
        continue;
}

static inline bool fake_send(int fd, const char *bytes, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

        if (n <= 0)
            return false;
        bytes += n;
        len -= (size_t)n;
    }
    return true;
}

static inline bool starts(struct str s, const char *prefix)
{
    return s.len >= strlen(prefix) && memcmp(s.p, prefix, strlen(prefix)) == 0;
}

static inline bool fake_bytes(int fd, const char *bytes, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!fake_send(fd, &bytes[i], 1))
            return false;
    return true;
}

static inline bool fake_key(int fd, struct str key)
{
    char head[64];

    snprintf(head, sizeof head, "*1\r\n$%zu\r\n", key.len);
    if (starts(key, "split"))
        return fake_bytes(fd, head, strlen(head)) && fake_bytes(fd, key.p, key.len) &&
               fake_bytes(fd, "\r\n", 2);
    return fake_send(fd, head, strlen(head)) && fake_send(fd, key.p, key.len) &&
           fake_send(fd, "\r\n", 2);
}

/* False when nothing more is to be done on this connection. */
static inline bool fake_answer(struct fake_redis *f, int fd, const struct str *argv, size_t argc)
{
    const char *greeting = atomic_load(&f->greeting);
    struct str key = argc > 1 ? argv[1] : argv[0];

    if (starts(argv[0], "PING") || starts(argv[0], "AUTH") || starts(argv[0], "SELECT")) {
        if (greeting == NULL)
            fake_ignore(fd);
        return greeting != NULL && fake_send(fd, greeting, strlen(greeting));
    }
    atomic_fetch_add(&f->commands, 1);
    if (atomic_load(&f->well))
        return fake_key(fd, key);
    if (starts(key, "raw:"))
        return fake_send(fd, key.p + 4, key.len - 4);
    if (starts(key, "close"))
        return false;
    if (starts(key, "half:"))
        fake_send(fd, key.p + 5, key.len - 5);
    if (starts(key, "half:") || starts(key, "hang")) {
        atomic_fetch_add(&f->hung, 1);
        fake_ignore(fd);
        return false;
    }
    if (starts(key, "late:"))
        sleep_ms((unsigned)atoi(key.p + 5));
    return fake_key(fd, key);
}

/* One command from the front of `b`: bytes used, or 0 when it is not whole yet. */
static inline size_t fake_parse(const struct buf *b, struct str *argv, size_t *argc)
{
    const char *p = b->p, *end = b->p + b->len, *line;
    size_t len;

    for (size_t word = 0;; word++) {
        line = p == end ? NULL : memchr(p, '\n', (size_t)(end - p));
        if (line == NULL)
            return 0;
        len = (size_t)atoi(p + 1);
        p = line + 1;
        if (word == 0) {
            *argc = len;
            if (len > FAKE_ARGS_MAX)
                abort();
        } else {
            if ((size_t)(end - p) < len + 2)
                return 0;
            argv[word - 1] = (struct str){p, len};
            p += len + 2;
        }
        if (word > 0 && word == *argc)
            return (size_t)(p - b->p);
    }
}

static inline void *fake_connection(void *arg)
{
    struct fake_thread t = *(struct fake_thread *)arg;
    struct str argv[FAKE_ARGS_MAX];
    struct buf in = BUF_INIT;
    char bytes[65536];
    bool open = true;
    size_t argc, used;
    ssize_t n;

    free(arg);
    while (open && (n = read(t.fd, bytes, sizeof bytes)) > 0) {
        buf_put(&in, bytes, (size_t)n);
        while (open && (used = fake_parse(&in, argv, &argc)) > 0) {
            open = fake_answer(t.fake, t.fd, argv, argc);
            memmove(in.p, in.p + used, in.len - used);
            in.len -= used;
        }
    }
    shutdown(t.fd, SHUT_RDWR);
    buf_clear(&in);
    return NULL;
}

static inline void *fake_accept(void *arg)
{
    struct fake_redis *f = arg;
    int fd;

    while ((fd = accept4(f->listener, NULL, NULL, SOCK_CLOEXEC)) != -1) {
        int i = atomic_load(&f->connections);
        struct fake_thread *t = xmalloc(sizeof *t);

        if (i == FAKE_CONNECTIONS_MAX)
            abort();
        *t = (struct fake_thread){f, fd};
        f->fds[i] = fd;
        atomic_store(&f->connections, i + 1); /* before anything is answered over it */
        pthread_create(&f->threads[i], NULL, fake_connection, t);
    }
    return NULL;
}

static inline void fake_start(struct fake_redis *f)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};

    memset(f, 0, sizeof *f);
    f->dir = scratch_dir();
    f->path = path_join(f->dir, "fake.sock");
    f->greeting = "+PONG\r\n";
    snprintf(at.sun_path, sizeof at.sun_path, "%s", f->path);
    f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(f->listener, (struct sockaddr *)&at, sizeof at) == -1 || listen(f->listener, 64) == -1)
        abort();
    pthread_create(&f->acceptor, NULL, fake_accept, f);
}

static inline void fake_stop(struct fake_redis *f)
{
    shutdown(f->listener, SHUT_RDWR);
    pthread_join(f->acceptor, NULL);
    for (int i = 0; i < f->connections; i++)
        shutdown(f->fds[i], SHUT_RDWR);
    for (int i = 0; i < f->connections; i++) {
        pthread_join(f->threads[i], NULL);
        close(f->fds[i]);
    }
    close(f->listener);
    unlink(f->path);
    rmdir(f->dir);
    free(f->path);
    free(f->dir);
}

#endif
