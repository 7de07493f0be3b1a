/* pipeline.c - a round of commands over one connection: encoded at once, sent as the socket takes
 * it, replies handed out in order as they come, whatever becomes late handed back at its deadline.
 *
 * Redis answers in order and without names, so a late command's reply is still counted when it
 * comes, and the connection is given up if it did not. */
#include "conn.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define REPLY_BYTES_MAX ((size_t)64 << 20)
#define REPLY_STRINGS_MAX (1 << 20)
#define RECEIVE_BYTES 65536

/* ---- replies, built by hiredis' reader ----------------------------------------- */

#if HIREDIS_MAJOR >= 1
typedef size_t array_len;
#else
typedef int array_len;
#endif

/* A reply's only string, or its place in the array; what lies deeper is left out. */
static void put_string(const redisReadTask *task, struct str s)
{
    struct redis_conn *c = task->privdata;

    if (task->parent == NULL) {
        c->reply.strings = arena_alloc(&c->replies, sizeof *c->reply.strings);
        c->reply.n = 1;
        c->reply.strings[0] = s;
    } else if (task->parent->parent == NULL) {
        c->reply.strings[task->idx] = s;
    }
}

/* An error's text goes into messages and logs. */
static void make_printable(char *text)
{
    for (; *text != '\0'; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

static void *build_string(const redisReadTask *task, char *bytes, size_t len)
{
    struct redis_conn *c = task->privdata;
    char *copy = arena_alloc(&c->replies, len + 1);

    memcpy(copy, bytes, len);
    copy[len] = '\0';
    if (task->type != REDIS_REPLY_ERROR) {
        put_string(task, (struct str){copy, len});
    } else if (c->reply.error == NULL) {
        make_printable(copy);
        c->reply.error = copy;
    }
    return c;
}

static void *build_integer(const redisReadTask *task, long long value)
{
    struct redis_conn *c = task->privdata;
    char *text = arena_alloc(&c->replies, 24);

    put_string(task, (struct str){text, (size_t)snprintf(text, 24, "%lld", value)});
    return c;
}

static void *build_nil(const redisReadTask *task)
{
    return task->privdata;
}

/* The length is the server's word and is refused before memory is asked for. */
static void *build_array(const redisReadTask *task, array_len n)
{
    struct redis_conn *c = task->privdata;

    if (n > REPLY_STRINGS_MAX)
        return NULL;
    if (task->parent != NULL)
        return c;
    c->reply.n = (size_t)n;
    c->reply.strings = arena_alloc(&c->replies, c->reply.n * sizeof *c->reply.strings);
    for (size_t i = 0; i < c->reply.n; i++)
        c->reply.strings[i] = (struct str){"", 0};
    return c;
}

struct redisReader *reply_reader(struct redis_conn *c)
{
    static redisReplyObjectFunctions builders = {
        .createString = build_string,
        .createArray = build_array,
        .createInteger = build_integer,
        .createNil = build_nil,
    };
    redisReader *reader = redisReaderCreateWithFunctions(&builders);

    if (reader != NULL)
        reader->privdata = c;
    return reader;
}

static void reply_reset(struct redis_conn *c)
{
    c->reply = (struct reply){NULL, 0, NULL};
    arena_reset(&c->replies);
}

/* ---- rounds -------------------------------------------------------------------- */

void command_encode(struct buf *out, const struct redis_command *cmd)
{
    buf_putc(out, '*');
    buf_u64(out, cmd->argc);
    for (size_t i = 0; i < cmd->argc; i++) {
        buf_puts(out, "\r\n$");
        buf_u64(out, cmd->argv[i].len);
        buf_puts(out, "\r\n");
        buf_put(out, cmd->argv[i].p, cmd->argv[i].len);
    }
    buf_puts(out, "\r\n");
}

static void round_init(struct round *r, struct redis_conn *c, const struct redis_command *cmds,
                       size_t n, redis_done done)
{
    if (n > c->settled_cap) {
        c->settled = xrealloc(c->settled, n * sizeof *c->settled);
        c->settled_cap = n;
    }
    memset(c->settled, 0, n * sizeof *c->settled);
    c->out.len = 0;
    for (size_t i = 0; i < n; i++)
        command_encode(&c->out, &cmds[i]);
    *r = (struct round){.cmds = cmds,
                        .n = n,
                        .done = done,
                        .bytes = c->out.p,
                        .len = c->out.len,
                        .settled = c->settled,
                        .left = n};
}

bool round_over(const struct round *r)
{
    return r != NULL && (r->left == 0 || round_over(r->behind));
}

static void settle(struct round *r, size_t i, const struct redis_result *res)
{
    r->settled[i] = true;
    r->left--;
    r->done(&r->cmds[i], res);
}

/* The earliest deadline that is still awaited, UINT64_MAX when there is none. What is before
 * r->next has its reply. */
static uint64_t earliest(const struct round *r)
{
    uint64_t first = UINT64_MAX;

    if (r == NULL)
        return first;
    for (size_t i = r->next; i < r->n; i++)
        if (!r->settled[i] && r->cmds[i].deadline_ns < first)
            first = r->cmds[i].deadline_ns;
    return first;
}

static void expire(struct round *r, uint64_t now)
{
    static const struct redis_result late = {REDIS_TIMED_OUT, NULL, 0, NULL};

    if (r == NULL)
        return;
    for (size_t i = r->next; i < r->n; i++)
        if (!r->settled[i] && r->cmds[i].deadline_ns <= now)
            settle(r, i, &late);
    expire(r->behind, now);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Nothing becomes late while the socket has something: on a busy machine this thread may be late
 * itself, with the reply already there. */
short round_await(struct redis_conn *c, struct round *r, short events, uint64_t limit_ns)
{
    struct pollfd p = {c->fd, events, 0};
    uint64_t now = clock_ns(), until;
    struct timespec wait;

    do {
        until = min_u64(limit_ns, min_u64(earliest(r), r == NULL ? limit_ns : earliest(r->behind)));
        until = until > now ? until - now : 0;
        wait.tv_sec = (time_t)(until / 1000000000);
        wait.tv_nsec = (long)(until % 1000000000);
        if (ppoll(&p, 1, &wait, NULL) > 0)
            return p.revents;
        now = clock_ns();
        expire(r, now);
    } while (!round_over(r) && now < limit_ns);
    return 0;
}

/* ---- sending and receiving ----------------------------------------------------- */

/* Errors that mean the server, not the key: what every other user would be told too. */
static bool is_server_wide(const char *error)
{
    static const char *const starts[] = {
        "LOADING",
        "NOAUTH",
        "WRONGPASS",
        "NOPERM",
        "MOVED",
        "ASK",
        "CLUSTERDOWN",
        "MASTERDOWN",
        "READONLY",
        "BUSY",
        "ERR max number of clients",
    };

    for (size_t i = 0; i < ARRAY_LEN(starts); i++) {
        size_t len = strlen(starts[i]);

        if (strncmp(error, starts[i], len) == 0 && (error[len] == ' ' || error[len] == '\0'))
            return true;
    }
    return false;
}

static void hand_out(struct redis_conn *c, struct round *r)
{
    size_t i = r->next++;
    struct redis_result res = {REDIS_REPLIED, c->reply.strings, c->reply.n, NULL};

    if (r->settled[i])
        return;
    if (c->reply.error != NULL) {
        res = (struct redis_result){REDIS_FAILED, NULL, 0, c->reply.error};
        conn_fail(c, "%s", c->reply.error);
    }
    if (res.error != NULL && is_server_wide(res.error))
        r->refused = true;
    else
        r->served = true;
    settle(r, i, &res);
}

static bool push(struct redis_conn *c, struct round *r)
{
    ssize_t n = send(c->fd, r->bytes + r->sent, r->len - r->sent, MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n >= 0)
        r->sent += (size_t)n;
    else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
        return conn_fail(c, "cannot send: %s", strerror(errno));
    return true;
}

/* Hands out every reply that is whole. */
static bool parse(struct redis_conn *c, struct round *r)
{
    void *whole;

    for (;;) {
        if (redisReaderGetReply(c->reader, &whole) != REDIS_OK)
            return conn_fail(c, "not a reply: %s", c->reader->errstr);
        if (whole == NULL)
            return c->unparsed <= REPLY_BYTES_MAX ||
                   conn_fail(c, "a reply of more than %zu bytes", REPLY_BYTES_MAX);
        if (r->next == r->n)
            return conn_fail(c, "a reply to no command");
        hand_out(c, r);
        reply_reset(c);
        c->unparsed = c->reader->len - c->reader->pos;
    }
}

/* Bytes received and handed out, 0 when there are none yet, -1 when the connection broke. */
static ssize_t pull(struct redis_conn *c, struct round *r)
{
    char bytes[RECEIVE_BYTES];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);

    if (n == -1 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (n == -1)
        conn_fail(c, "cannot receive: %s", strerror(errno));
    else if (n == 0)
        conn_fail(c, "the server closed the connection");
    if (n <= 0)
        return -1;
    r->heard = true;
    c->unparsed += (size_t)n;
    if (redisReaderFeed(c->reader, bytes, (size_t)n) != REDIS_OK) {
        conn_fail(c, "%s", c->reader->errstr);
        return -1;
    }
    return parse(c, r) ? n : -1;
}

bool round_exchange(struct redis_conn *c, struct round *r)
{
    short ready;

    reply_reset(c);
    while (!round_over(r)) {
        if (r->sent < r->len && !push(c, r)) {
            while (pull(c, r) > 0) /* what it said before it hung up */
                continue;
            return false;
        }
        ready = round_await(c, r, (short)(POLLIN | (r->sent < r->len ? POLLOUT : 0)), UINT64_MAX);
        if ((ready & ~POLLOUT) != 0 && pull(c, r) == -1)
            return false;
        expire(r, clock_ns());
    }
    return r->next < r->n || c->unparsed == 0 || conn_fail(c, "bytes after the last reply");
}

/* ---- the pipeline -------------------------------------------------------------- */

static void fail_rest(struct redis_conn *c, struct round *r)
{
    char error[sizeof c->error];
    struct redis_result res = {REDIS_FAILED, NULL, 0, error};

    strcpy(error, c->error);
    for (size_t i = r->next; i < r->n; i++)
        if (!r->settled[i])
            settle(r, i, &res);
}

static void tell_breaker(struct redis_conn *c, const struct round *r, bool broke, uint64_t took_ns)
{
    if (r->served) {
        breaker_success(c->breaker);
        conn_back_off_reset(c);
    } else if (broke || r->refused || took_ns >= c->timeout_ns / 2) {
        breaker_failure(c->breaker);
    }
}

void redis_run(struct redis_conn *c, const struct redis_command *cmds, size_t n, redis_done done)
{
    uint64_t start = clock_ns();
    struct round r;
    bool reused, sound, broke;

    if (n == 0)
        return;
    round_init(&r, c, cmds, n, done);
    reused = conn_reusable(c);
    sound = (reused || conn_open(c, &r)) && round_exchange(c, &r);
    if (!sound && reused && !r.heard && !round_over(&r)) { /* it had died while idle */
        conn_discard(c);
        r.sent = 0;
        sound = conn_open(c, &r) && round_exchange(c, &r);
    }
    broke = !sound && r.left > 0;
    if (broke) {
        fail_rest(c, &r);
        conn_back_off(c);
    }
    if (sound && r.next < r.n)
        sound = conn_fail(c, "no reply in time");
    if (!sound)
        conn_discard(c);
    tell_breaker(c, &r, broke, clock_ns() - start);
}
