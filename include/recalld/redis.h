/* redis.h - Redis over hiredis' reader: connections that one thread at a time uses, pipelines with
 * a deadline per command, and a circuit breaker shared by all connections of one server.
 *
 * A connection is discarded after any I/O or protocol error, and when a reply is still outstanding
 * once every command of its pipeline is answered or late: a late reply can never be taken for
 * another command's. The next use, or redis_conn_heal, connects again. */
#ifndef RECALLD_REDIS_H
#define RECALLD_REDIS_H

#include "recalld/base.h"

struct redis_options {
    /* host:port, [v6]:port, or the path of a unix socket (starts with / or has no ':') */
    const char *address;
    const char *user;     /* "" = none */
    const char *password; /* "" = none */
    int db;
    int connect_ms;
    int timeout_ms; /* for handshakes; commands bring their own deadline */
};

/* ---- breaker: open after failures in a row, closed again by a connection that works ---------- */

/* Any thread may call these. NULL is a breaker that never opens. */
struct breaker;
struct breaker *breaker_new(int failures);
void breaker_free(struct breaker *b);
bool breaker_allows(const struct breaker *b); /* false while open: do not wait for this server */
uint64_t breaker_opened(const struct breaker *b); /* how often it was */
void breaker_success(struct breaker *b);
void breaker_failure(struct breaker *b);

/* ---- commands -------------------------------------------------------------------------------- */

enum redis_outcome {
    REDIS_REPLIED,
    REDIS_TIMED_OUT,
    REDIS_FAILED,
    REDIS_BLOCKED, /* given back without a reply: one of those before it hangs. Ask elsewhere */
};

struct redis_command {
    const struct str *argv; /* read before the first `done`, never after */
    size_t argc;
    uint64_t deadline_ns; /* clock_ns; the reply is not awaited beyond it */
    void *user;           /* for the callback */
    bool with_previous;   /* never REDIS_BLOCKED while the command before it is awaited */
    bool doubtful;        /* its silence says nothing about the server */
};

/* What came back; borrowed, valid during the callback only. An error reply (WRONGTYPE, LOADING,
 * NOAUTH, MOVED, ...) is REDIS_FAILED with its text, also when it is an element of an array. A
 * status, string or integer is one string; nil is n = 0; an array is its elements, where nil and
 * arrays within it are empty strings. */
struct redis_result {
    enum redis_outcome outcome;
    const struct str *strings;
    size_t n;
    const char *error; /* NUL-terminated, NULL unless REDIS_FAILED */
};
typedef void (*redis_done)(const struct redis_command *cmd, const struct redis_result *res);

/* What to do when the reply to `cmd` is overdue: when it has been the next to come for a third of
 * timeout_ms, or for twice what the latest reply took where that is longer (a slow network is no
 * reason). `cmd` is NULL when it is awaited no more, its own deadline being over. */
enum redis_overdue {
    REDIS_WAIT,  /* go on as before; asked again after as long a time */
    REDIS_ALONE, /* wait for it alone: all behind it are REDIS_BLOCKED */
    REDIS_DROP,  /* it is REDIS_TIMED_OUT at once, all behind it are REDIS_BLOCKED */
};
typedef enum redis_overdue (*redis_overdue_fn)(const struct redis_command *cmd, void *arg);

/* ---- connections: one thread at a time ------------------------------------------------------- */

struct redis_conn;
/* Does not connect yet. Options are copied, `b` is borrowed and may be NULL. NULL with *err set
 * when the address makes no sense (ERR_USAGE). */
struct redis_conn *redis_conn_new(const struct redis_options *o, struct breaker *b, struct err *err)
    WARN_UNUSED;
void redis_conn_free(struct redis_conn *c);
/* Connects, authenticates, selects and pings when not connected. Bounded by connect_ms + timeout_ms
 * and, where the address is a name, the resolver's time. ERR_UNAVAILABLE names the address and the
 * cause. */
int redis_conn_ready(struct redis_conn *c, struct err *err) WARN_UNUSED;
/* redis_finish calls it, and redis_run; `overdue` must not use the connection. Without it:
 * REDIS_WAIT. */
void redis_conn_when_overdue(struct redis_conn *c, redis_overdue_fn overdue, void *arg);
/* Connects if need be (a name that could not be connected to is not looked up again meanwhile: the
 * resolver keeps no deadlines), sends all commands in one pipeline and calls `done` exactly once
 * for each, as replies come or deadlines pass. A server that had closed the idle connection (it was
 * restarted) is connected to once more and gets the pipeline again, if nothing of it was answered.
 * `done` must not use the connection.
 *
 * For the breaker a pipeline is one event: success when anything was answered, failure when the
 * connection broke, when all that came were errors of the server as a whole (LOADING, NOAUTH,
 * MOVED, ...) or when nothing came in half of timeout_ms; impatient callers and commands marked
 * doubtful prove nothing. */
void redis_run(struct redis_conn *c, const struct redis_command *cmds, size_t n, redis_done done);

/* The same in steps, of which only the last one waits: for who learns elsewhere that the socket has
 * something to read. */
enum redis_step {
    REDIS_MORE,    /* replies are still to come: go on when the socket is readable */
    REDIS_DONE,    /* every command is answered, and the connection is sound */
    REDIS_TROUBLE, /* only redis_finish can go on */
};
/* Sends what the socket takes of the pipeline; `cmds` (n > 0) are there until it is over. */
enum redis_step redis_begin(struct redis_conn *c, const struct redis_command *cmds, size_t n,
                            redis_done done);
/* Hands out what has come; reads until nothing is left. No deadline is kept meanwhile. */
enum redis_step redis_continue(struct redis_conn *c) WARN_UNUSED;
/* When redis_finish should take over from REDIS_MORE, because something becomes late (clock_ns). */
uint64_t redis_late_ns(const struct redis_conn *c);
/* Does all that is left of the pipeline, however far it is. */
void redis_finish(struct redis_conn *c);

/* Call it when idle. Discards a connection that the server has closed; connects when not connected,
 * and pings when the breaker is open, if the back-off allows. Success closes the breaker. False
 * when an attempt failed: whether that is the breaker's business is for the caller to say, who
 * knows the other connections. */
bool redis_conn_heal(struct redis_conn *c);
/* When redis_conn_heal will try something (clock_ns, perhaps past); 0 = nothing to heal. */
uint64_t redis_conn_next_heal_ns(const struct redis_conn *c);
bool redis_conn_is_up(const struct redis_conn *c);
/* Discards a connection that the server has closed; false when none stands. */
bool redis_conn_look(struct redis_conn *c);
int redis_conn_fd(const struct redis_conn *c); /* of the connection that stands, to wait for */
const char *redis_conn_error(const struct redis_conn *c); /* the latest failure, "" = none yet */

struct redis_connects {
    uint64_t ok, failed;
};
struct redis_connects redis_conn_connects(const struct redis_conn *c); /* since redis_conn_new */

#endif
