/* recall.h - the path of a request: parse, behaviour, interests, search, merge, render.
 *
 * A call runs one way through the stages and is handed back once, answered. The stages themselves
 * (pipeline.c) know nothing of threads; workers.c moves calls between the behaviour stage, the
 * compute queue and the workers. */
#ifndef RECALLD_RECALL_H
#define RECALLD_RECALL_H

#include "recalld/base.h"
#include "recalld/behaviour.h"
#include "recalld/bundle.h"
#include "recalld/config.h"
#include "recalld/experiment.h"
#include "recalld/journal.h"

/* Why an answer is less than it could be. A closed list; the words go out in `degraded`, metrics
 * and journal. */
#define RECALL_DEGRADED(X)                                                                        \
    X(EMPTY_HISTORY, empty_history)           /* no behaviour at all */                           \
    X(UNKNOWN_ITEMS, unknown_items)           /* behaviour, but no item of it is in the bundle */ \
    X(REDIS_TIMEOUT, redis_timeout)           /* no reply within redis.timeout_ms */              \
    X(REDIS_ERROR, redis_error)               /* an error reply, or no connection */              \
    X(BREAKER_OPEN, breaker_open)             /* Redis was not asked */                           \
    X(DEADLINE_BEHAVIOUR, deadline_behaviour) /* the request's deadline ended the wait */         \
    X(DEADLINE_SEARCH, deadline_search)       /* the search stopped at the deadline */            \
    X(SHARD_FAILED, shard_failed)             /* a shard gave an error; the others answered */    \
    X(EFFORT_1, effort_1)                     /* less search effort under load */                 \
    X(EFFORT_2, effort_2)                                                                         \
    X(EFFORT_3, effort_3)                                                                         \
    X(INTERESTS_CUT, interests_cut)       /* fewer interests under load */                        \
    X(SHORT_CANDIDATES, short_candidates) /* fewer than n: not enough candidates */               \
    X(SHORT_FILTER, short_filter)         /* fewer than n: the filter leaves no more */           \
    X(BUNDLE_FALLBACK, bundle_fallback)   /* the bundle asked for is not loaded */

enum recall_degraded {
#define X(id, word) DEGRADED_##id,
    RECALL_DEGRADED(X)
#undef X
        DEGRADED_COUNT
};

/* What SIGHUP may change for requests; immutable, counted. */
struct recall_policy {
    struct ref ref;
    struct settings settings;
    int n_max;
    int deadline_ms;
    int redis_timeout_ms;
};

/* ---- one request ---- */

struct recall_call;
/* Calls are pooled: a free one, or a new one. `done` is called once per submitted call, from any
 * thread. */
struct recall;
struct recall_call *recall_call_get(struct recall *r, void (*done)(struct recall_call *),
                                    void *owner);
void recall_call_put(struct recall_call *c); /* back to the pool; NULL allowed */
/* The body as it arrives; -1 when it would exceed `max` bytes (nothing is added then). */
int recall_call_body(struct recall_call *c, const char *bytes, size_t len, size_t max) WARN_UNUSED;

enum recall_admission {
    RECALL_ADMITTED, /* `done` will be called (perhaps already was) */
    RECALL_BAD,      /* 400: recall_call_field says where */
    RECALL_FULL,     /* 503: the queue is full, or the wait would be too long */
    RECALL_DRAINING, /* 503 */
};
/* The body is complete: starts the clock, parses, admits; unless it is admitted, err says why not.
 * RECALL_FULL may come before the body is read, so whether it was good is not known, and the
 * request id is a new one. `before` (may be NULL) runs once the call is sure to be admitted, before
 * any other thread may touch it (MHD_suspend_connection). */
enum recall_admission recall_submit(struct recall *r, struct recall_call *c,
                                    void (*before)(struct recall_call *), struct err *err);
void *recall_call_owner(const struct recall_call *c);
/* Once done: 200; 400 (a filter attribute that the bundle lacks, an arm that the experiments lack:
 * only a worker knows which ones hold), 403 (the experiments let no request choose its arms),
 * 503 (no bundle is loaded) or 504 (the deadline had passed before a worker took it). */
int recall_call_status(const struct recall_call *c);
/* 200: the JSON answer. Otherwise a sentence. Borrowed until recall_call_put. */
const char *recall_call_answer(const struct recall_call *c, size_t *len);
const char *recall_call_request_id(
    const struct recall_call *c); /* given or made; never NULL after recall_submit */
const char *recall_call_field(const struct recall_call *c); /* the field a 400 is about, or NULL */

/* ---- the service ---- */

/* Starts the workers, which also wait in the poller. Everything borrowed must outlive it; `policy`
 * is owned; `exp` and `journal` may be NULL. */
struct recall *recall_start(const struct config *cfg, struct recall_policy *policy,
                            struct registry *reg, struct experiment_store *exp,
                            struct journal *journal, struct behaviour *beh, struct poller *poller,
                            struct err *err) WARN_UNUSED;
int recall_workers(const struct recall *r);
/* After some calls were submitted: asks Redis for all of them at once. */
void recall_flush(struct recall *r);
struct recall_policy *recall_policy_new(const struct config *cfg);
void recall_set_policy(struct recall *r, struct recall_policy *policy); /* owns it */
int recall_n_max(struct recall *r); /* of the policy that holds */
void recall_set_behaviour(struct recall *r, struct behaviour *beh);
/* New submissions are RECALL_DRAINING from now on. */
void recall_drain(struct recall *r);
size_t recall_in_flight(struct recall *r);
/* Answers all that was admitted, then ends the workers. */
void recall_stop(struct recall *r);

/* ---- without threads, for tools ---- */

/* Answers in the calling thread what the daemon would answer, but without a deadline. It belongs to
 * one thread; any number of them share the configuration and the registry, which are borrowed. It
 * serves what the registry holds when it is made, with the settings of `cfg` at that moment. */
struct recall_direct;
struct recall_direct *recall_direct_new(const struct config *cfg, struct registry *reg);
void recall_direct_free(struct recall_direct *d);
/* Searches `ix` from now on, whatever the bundle: another engine over the same vectors. Borrowed;
 * NULL = the bundle's own. */
void recall_direct_index(struct recall_direct *d, const struct index *ix);

struct recall_reply {
    int status;           /* 200, 400 or 503 (no bundle, or Redis gives no behaviour) */
    struct str text;      /* 200: the JSON answer, otherwise a sentence; NUL-terminated */
    const uint32_t *rows; /* 200: the items of the answer by their rows, best first */
    size_t n_rows;
    uint32_t degraded; /* a bit for each enum recall_degraded */
};
/* `n` bodies of POST /recall as one batch, which changes no answer. The replies are borrowed until
 * the next call. */
void recall_direct_answer(struct recall_direct *d, const struct str *bodies, size_t n,
                          struct recall_reply *replies);

#endif
