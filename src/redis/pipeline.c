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

#define TEXT_BYTES 16384

/* Strings lie close together: an arena alone would give each a line of the cache or more. */
static char *text_alloc(struct redis_conn *c, size_t len)
{
    char *p = c->text;

    if (len > c->text_left) {
        c->text_left = len > TEXT_BYTES ? len : TEXT_BYTES;
        p = arena_alloc(&c->replies, c->text_left);
    }
    c->text = p + len;
    c->text_left -= len;
    return p;
}

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
    char *copy = text_alloc(c, len + 1);

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
    char *text = text_alloc(c, 24);

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
    c->text_left = 0;
}

/* ---- rounds -------------------------------------------------------------------- */

void command_encode(struct buf *out, const struct redis_command *cmd)
{
    buf_putc(out, '*');
    buf_u64(out, cmd->argc);
    for (size_t i = 0; i < cmd->argc; i++) {
        buf_put(out, "\r\n$", 3);
        buf_u64(out, cmd->argv[i].len);
        buf_put(out, "\r\n", 2);
        buf_put(out, cmd->argv[i].p, cmd->argv[i].len);
    }
    buf_put(out, "\r\n", 2);
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
                        .left = n,
                        .overdue_ns = UINT64_MAX,
                        .watched = c->overdue != NULL};
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
    for (size_t i = r->next; i < r->n; i++) {
        if (r->settled[i] || r->cmds[i].deadline_ns > now)
            continue;
        r->silent |= !r->cmds[i].doubtful;
        settle(r, i, &late);
    }
    expire(r->behind, now);
}

/* ---- a reply that does not come ------------------------------------------------ */

#define OVERDUE_SHARE 3 /* of the timeout: what is behind can still be asked elsewhere */

/* From now on the reply to r->next is the next to come. */
static void expect_next(const struct redis_conn *c, struct round *r, uint64_t now)
{
    uint64_t patience = c->timeout_ns / OVERDUE_SHARE;

    if (patience < 2 * c->pace_ns)
        patience = 2 * c->pace_ns;
    r->since_ns = now;
    r->overdue_ns = r->watched ? now + patience : UINT64_MAX;
}

static void settle_all(struct round *r, size_t from, size_t to, enum redis_outcome outcome)
{
    struct redis_result res = {outcome, NULL, 0, NULL};

    for (size_t i = from; i < to; i++)
        if (!r->settled[i])
            settle(r, i, &res);
}

static void ask_what_to_do(struct redis_conn *c, struct round *r, uint64_t now)
{
    size_t rest = r->next + 1;
    enum redis_overdue what;

    while (rest < r->n && r->cmds[rest].with_previous)
        rest++;
    what = c->overdue(r->settled[r->next] ? NULL : &r->cmds[r->next], c->overdue_arg);
    if (what == REDIS_WAIT) {
        expect_next(c, r, now);
        return;
    }
    r->overdue_ns = UINT64_MAX;
    settle_all(r, rest, r->n, REDIS_BLOCKED);
    if (what == REDIS_DROP)
        settle_all(r, r->next, rest, REDIS_TIMED_OUT);
}

static void keep_time(struct redis_conn *c, struct round *r)
{
    uint64_t now = clock_ns();

    expire(r, now);
    if (r != NULL && r->overdue_ns <= now && r->left > 0)
        ask_what_to_do(c, r, now);
}

static uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t wake_at(const struct round *r)
{
    if (r == NULL)
        return UINT64_MAX;
    return min_u64(r->overdue_ns, min_u64(earliest(r), earliest(r->behind)));
}

/* Nothing becomes late while the socket has something: on a busy machine this thread may be late
 * itself, with the reply already there. */
short round_await(struct redis_conn *c, struct round *r, short events, uint64_t limit_ns)
{
    struct pollfd p = {c->fd, events, 0};
    uint64_t until, now;
    struct timespec wait;

    do {
        until = min_u64(limit_ns, wake_at(r));
        now = clock_ns();
        until = until > now ? until - now : 0;
        wait.tv_sec = (time_t)(until / 1000000000);
        wait.tv_nsec = (long)(until % 1000000000);
        if (ppoll(&p, 1, &wait, NULL) > 0)
            return p.revents;
        keep_time(c, r);
    } while (!round_over(r) && clock_ns() < limit_ns);
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

/* Replies have come, from the round's `first` on. A fast greeting does not tell what keys take. */
static void note_progress(struct redis_conn *c, struct round *r, size_t first)
{
    uint64_t now = clock_ns(), took = now - r->since_ns;

    if (first == 0 && (r->watched || took > c->pace_ns))
        c->pace_ns = took;
    expect_next(c, r, now);
}

/* Bytes received and handed out, 0 when there are none yet, -1 when the connection broke. */
static ssize_t pull(struct redis_conn *c, struct round *r)
{
    char bytes[RECEIVE_BYTES];
    size_t first = r->next;
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
    if (!parse(c, r))
        return -1;
    if (r->next > first)
        note_progress(c, r, first);
    return n;
}

/* Nothing of it is on its way yet. */
static void round_start(struct redis_conn *c, struct round *r)
{
    reply_reset(c);
    expect_next(c, r, clock_ns());
}

static bool nothing_behind(struct redis_conn *c)
{
    return c->unparsed == 0 || conn_fail(c, "bytes after the last reply");
}

bool round_exchange(struct redis_conn *c, struct round *r)
{
    short ready;

    if (r->sent == 0)
        round_start(c, r);
    while (!round_over(r)) {
        if (r->sent < r->len && !push(c, r)) {
            while (pull(c, r) > 0) /* what it said before it hung up */
                continue;
            return false;
        }
        ready = round_await(c, r, (short)(POLLIN | (r->sent < r->len ? POLLOUT : 0)), UINT64_MAX);
        if ((ready & ~POLLOUT) != 0 && pull(c, r) == -1)
            return false;
        keep_time(c, r);
    }
    return r->next < r->n || nothing_behind(c);
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

static void tell_breaker(struct redis_conn *c, const struct round *r, bool broke)
{
    if (r->served) {
        breaker_success(c->breaker);
        conn_back_off_reset(c);
    } else if (broke || r->refused ||
               (r->silent && c->used_ns - c->begun_ns >= c->timeout_ns / 2)) {
        breaker_failure(c->breaker);
    }
}

enum redis_step redis_begin(struct redis_conn *c, const struct redis_command *cmds, size_t n,
                            redis_done done)
{
    struct round *r = &c->round;

    c->begun_ns = clock_ns();
    round_init(r, c, cmds, n, done);
    c->reused = conn_reusable(c, c->begun_ns);
    if (!c->reused)
        return REDIS_TROUBLE;
    round_start(c, r);
    return push(c, r) && r->sent == r->len ? REDIS_MORE : REDIS_TROUBLE;
}

enum redis_step redis_continue(struct redis_conn *c)
{
    struct round *r = &c->round;
    ssize_t n;

    do
        n = pull(c, r);
    while (n == RECEIVE_BYTES);
    r->broken = n == -1;
    if (!r->broken && r->next < r->n)
        return REDIS_MORE;
    r->broken = r->broken || !nothing_behind(c);
    if (r->broken)
        return REDIS_TROUBLE;
    c->used_ns = clock_ns();
    tell_breaker(c, r, false);
    return REDIS_DONE;
}

uint64_t redis_late_ns(const struct redis_conn *c)
{
    return wake_at(&c->round);
}

void redis_finish(struct redis_conn *c)
{
    struct round *r = &c->round;
    bool sound, broke;

    sound = !r->broken && (c->reused || conn_open(c, r)) && round_exchange(c, r);
    if (!sound && c->reused && !r->heard && !round_over(r)) { /* it had died while idle */
        conn_discard(c);
        r->sent = 0;
        r->overdue_ns = UINT64_MAX;
        sound = conn_open(c, r) && round_exchange(c, r);
    }
    broke = !sound && r->left > 0;
    if (broke) {
        fail_rest(c, r);
        conn_back_off(c);
    }
    if (sound && r->next < r->n)
        sound = conn_fail(c, "no reply in time");
    if (!sound)
        conn_discard(c);
    c->used_ns = clock_ns();
    tell_breaker(c, r, broke);
}

void redis_run(struct redis_conn *c, const struct redis_command *cmds, size_t n, redis_done done)
{
    if (n == 0)
        return;
    redis_begin(c, cmds, n, done);
    redis_finish(c);
}
