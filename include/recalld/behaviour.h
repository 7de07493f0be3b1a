/* behaviour.h - a user's recent items, from Redis: keys, decoding, and connections.
 *
 * Each connection asks in one pipeline for all jobs that wait. While all goes well that is the work
 * of the poller's threads, and no other thread runs; a connection that is not well, or all when
 * there is no poller, is served by a thread of its own. A job is handed back through its `done`
 * exactly once, by its deadline, from any of these threads.
 *
 * Redis answers in order, so a key that hangs (a proxy whose shard is slow, a script) would hold up
 * all that was asked behind it. When a reply is overdue for a third of redis.timeout_ms, those
 * behind it are asked again over another connection, and the connection waits for that key alone.
 * Meanwhile, and for a quarter of a second after it, other jobs of that user are BEHAVIOUR_TIMEOUT
 * at once. So a hung key holds one connection, and one less than there are can hang at once before
 * others feel more than that third.
 *
 * What a key holds, by behaviour.type and behaviour.order, and how its N = behaviour.read newest
 * elements are read:
 *   list  newest_first   the head is the newest (LPUSH)                     LRANGE key 0 N-1
 *   list  oldest_first   the tail is the newest (RPUSH)                     LRANGE key -N -1
 *   zset  oldest_first   the lowest score is the oldest (score = a time)    ZREVRANGE key 0 N-1
 *   zset  newest_first   the lowest score is the newest (score = an age)    ZRANGE key 0 N-1
 * An element is one item, by behaviour.element:
 *   id          the id itself
 *   id:ts       the id is what stands before the last colon; behind it stands a number
 *   json:FIELD  a JSON object, no field twice, whose FIELD is a string or an integer of 64 bits,
 *               which becomes its decimal text
 * An element is malformed when it is not of that form, is longer than 64 KiB, or its id is not 1
 * to 256 bytes of UTF-8. */
#ifndef RECALLD_BEHAVIOUR_H
#define RECALLD_BEHAVIOUR_H

#include "recalld/base.h"
#include "recalld/config.h"
#include "recalld/redis.h"

enum behaviour_status {
    BEHAVIOUR_READ,    /* items may still be empty: a user nobody knows */
    BEHAVIOUR_TIMEOUT, /* Redis did not answer by the deadline, or this user's key hangs */
    BEHAVIOUR_ERROR,   /* Redis answered with an error, or could not be reached */
    BEHAVIOUR_BREAKER, /* not asked: the breaker is open, or the stage is full or stopping */
};

struct behaviour_job {
    /* in */
    struct str user_id;
    uint64_t deadline_ns;
    struct arena *arena; /* results live here; the stage's, one thread at a time, until done */
    void (*done)(struct behaviour_job *job);
    void *owner;
    /* out. When only one of the two keys was late or failed, what the other gave is still there. */
    enum behaviour_status status;
    struct str *items; /* oldest first, undecodable elements left out */
    size_t n_items;
    struct str *exposed; /* from behaviour.exposed_key, read as the history is */
    size_t n_exposed;
    size_t malformed; /* elements that could not be decoded */
    /* private to behaviour/ */
    int awaiting;
    struct behaviour_job *next;
};

struct behaviour; /* the stage: format, connections and threads */

/* Checks key templates, element form, address and password file (ERR_USAGE names the key). Does not
 * wait for Redis. The poller, or NULL, is there until behaviour_stop. With redis.address empty the
 * result is a stage that hands every job back as BEHAVIOUR_READ with no items. Registers its
 * metrics: call it before threads count. */
struct behaviour *behaviour_start(const struct config *cfg, size_t queue, struct poller *p,
                                  struct err *err) WARN_UNUSED;
/* Takes no more jobs, hands back all that wait (BEHAVIOUR_BREAKER), ends the threads. Other threads
 * may still call the functions below, until behaviour_free. NULL allowed, a second call does
 * nothing. */
void behaviour_stop(struct behaviour *b);
void behaviour_free(struct behaviour *b); /* stops first */
/* False with job->status = BEHAVIOUR_BREAKER when it was not taken (done is not called then). With
 * a poller, behaviour_flush must follow. */
bool behaviour_submit(struct behaviour *b, struct behaviour_job *job) WARN_UNUSED;
/* Asks for all that was submitted, in one pipeline, and may call `done`. When every connection has
 * a pipeline on its way, the first that is answered takes what waits. */
void behaviour_flush(struct behaviour *b);
/* For probes: "off", "up", "connecting" or "down" (the breaker is open). */
const char *behaviour_state(struct behaviour *b);
size_t behaviour_depth(struct behaviour *b);

/* ---- for tools: no threads, one connection --------------------------------------------------- */

/* A connection as redis.* says, connected and authenticated; redis_conn_free frees it. */
struct redis_conn *behaviour_connect(const struct config *cfg, struct err *err) WARN_UNUSED;
/* Fills the job (status included) over a connection of its own; done is not called. -1 unless the
 * status is BEHAVIOUR_READ. */
int behaviour_read_one(const struct config *cfg, struct behaviour_job *job, struct err *err)
    WARN_UNUSED;

struct behaviour_history {
    struct str user_id;
    const struct str *items; /* oldest first */
    const int64_t *ts_ms;    /* (n), not decreasing; or NULL */
    size_t n;
};
/* Writes users' behaviour as behaviour.* says, replacing what their keys hold; a reader sees the
 * old history or the new one, never half. One pipeline for all: a few hundred users per call is
 * fast. Without times the position is the time. A sorted set keeps an element once, at its newest
 * place; equal times are told apart by fractions of a millisecond in the score. Ids that could not
 * be read back are refused (ERR_USAGE) before anything is written; after another error some of the
 * users may have been written. */
int behaviour_write(struct redis_conn *c, const struct config *cfg,
                    const struct behaviour_history *users, size_t n, struct err *err) WARN_UNUSED;

/* ---- decoding, shared with tests and fuzzers ------------------------------------------------- */

struct behaviour_element;
struct behaviour_element *behaviour_element_new(const char *form, struct err *err) WARN_UNUSED;
void behaviour_element_free(struct behaviour_element *e);
/* The item id inside one stored element, or false when that is malformed. `scratch` receives bytes
 * that are not a part of `element` (the text of a JSON number or string). */
bool behaviour_element_decode(const struct behaviour_element *e, struct str element,
                              struct arena *scratch, struct str *id) WARN_UNUSED;

#endif
