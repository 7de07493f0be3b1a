/* conn.h - inside redis/ only: what a connection is made of, and the round of commands both files
 * work on. redis.c connects, greets and heals; pipeline.c sends, awaits and hands back. */
#ifndef RECALLD_REDIS_CONN_H
#define RECALLD_REDIS_CONN_H

#include "recalld/redis.h"

/* One reply as hiredis' reader builds it, in the connection's arena. */
struct reply {
    struct str *strings;
    size_t n;
    const char *error; /* the first error in it, or NULL */
};

/* A pipeline on its way. A handshake is a round too; the commands that wait for it are `behind` it,
 * and their deadlines go on. */
struct round {
    const struct redis_command *cmds;
    size_t n;
    redis_done done;
    const char *bytes; /* the commands as sent */
    size_t len, sent;
    bool *settled;       /* (n) */
    size_t left;         /* not settled yet */
    size_t next;         /* whose reply comes next */
    uint64_t since_ns;   /* for how long that reply has been the next to come */
    uint64_t overdue_ns; /* when to ask what to do about it, UINT64_MAX = never */
    bool watched;        /* ask at all */
    bool broken;         /* the connection is no longer sound */
    bool heard;          /* at least one byte came back */
    bool served;         /* a reply came that speaks for a working server */
    bool refused;        /* a reply came that speaks against it */
    bool silent;         /* a command became late whose silence speaks against it */
    struct round *behind;
};

#define GREETING_MAX 3 /* AUTH, SELECT, PING */

struct redis_conn {
    char *address;
    char *host, *port; /* NULL: `address` is a path */
    uint64_t connect_ns, timeout_ns;
    struct breaker *breaker;

    struct buf greeting; /* encoded once */
    size_t n_greeting;

    struct addrinfo *addrs; /* as last resolved, or NULL */
    bool addrs_doubtful;    /* connecting failed: perhaps the name moved */
    int fd;                 /* -1 = not connected */
    struct redisReader *reader;
    size_t unparsed; /* bytes fed since the last whole reply */

    struct buf out; /* the pipeline's bytes */
    bool *settled;  /* its round's, kept for the next */
    size_t settled_cap;
    struct arena replies; /* the reply being read */
    struct reply reply;
    char *text; /* where its next string goes */
    size_t text_left;

    struct round round; /* the one that is, or was last, on its way */
    uint64_t begun_ns;
    bool reused; /* it began over a connection that stood */

    redis_overdue_fn overdue; /* or NULL */
    void *overdue_arg;
    uint64_t pace_ns; /* what the latest first reply of a round took */
    uint64_t used_ns; /* the end of the latest round */

    uint64_t backoff_ns, next_heal_ns;
    struct redis_connects connects;
    char error[192];
};

/* redis.c */
/* Sets c->error. Always false. */
bool conn_fail(struct redis_conn *c, const char *fmt, ...) PRINTF_LIKE(2, 3);
void conn_discard(struct redis_conn *c);
/* Connects and greets; the deadlines of `behind` (or NULL) are kept meanwhile. False with c->error
 * set. */
bool conn_open(struct redis_conn *c, struct round *behind) WARN_UNUSED;
/* Connected, and sound as far as is known: only after an idle while is the socket looked at. */
bool conn_reusable(struct redis_conn *c, uint64_t now) WARN_UNUSED;
/* The next attempt to heal comes later than the last one did. */
void conn_back_off(struct redis_conn *c);
void conn_back_off_reset(struct redis_conn *c);

/* pipeline.c */
void command_encode(struct buf *out, const struct redis_command *cmd);
/* Sends what is left of the round and hands its replies out. False with c->error set when the
 * connection is no longer sound. */
bool round_exchange(struct redis_conn *c, struct round *r) WARN_UNUSED;
/* Sleeps until the socket is ready for `events`, returning what it is ready for; 0 at the limit or
 * when the round (or the one behind it) has nothing left to wait for. Settles what becomes late. */
short round_await(struct redis_conn *c, struct round *r, short events, uint64_t limit_ns);
bool round_over(const struct round *r);
struct redisReader *reply_reader(struct redis_conn *c); /* builds into c->reply */

#endif
