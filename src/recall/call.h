/* call.h - one request on its way through the stages, and what the files of recall/ share. */
#ifndef RECALL_CALL_H
#define RECALL_CALL_H

#include <jansson.h>

#include "recalld/recall.h"

#define REQUEST_ID_MAX 64
#define CALL_FIELD_MAX 96

/* `filter`: any value within an attribute, all attributes together. */
struct call_filter {
    struct str attribute;
    struct str *values;
    size_t n_values;
};

enum call_source { SOURCE_MODEL, SOURCE_POPULAR, SOURCE_NONE };

/* One item of the answer. `list` is the place in call.live, not the model's interest number. */
struct pick {
    uint32_t row;
    float score;
    int list;
};

/* Moments of a call, clock_ns; 0 = not reached. Stage times are differences of neighbours. */
enum call_moment {
    MOMENT_START, /* the body is complete */
    MOMENT_PARSED,
    MOMENT_BEHAVIOUR, /* behaviour is here, or was not needed */
    MOMENT_DEQUEUED,
    MOMENT_INTERESTS,
    MOMENT_SEARCHED,
    MOMENT_MERGED,
    MOMENT_COUNT
};

struct recall_call {
    /* life */
    struct recall *service; /* NULL without threads */
    void (*done)(struct recall_call *);
    void *owner;
    struct recall_call *next; /* in the pool */
    atomic_int holders;       /* its owner, and the worker until the journal has it */
    struct arena arena;       /* everything below that is an array */
    struct buf body, answer;
    uint64_t at[MOMENT_COUNT];

    /* the request: strings are borrowed from `json`, which lies in the arena */
    json_t *json;
    char request_id[REQUEST_ID_MAX + 1];
    char serve_id[UUID_LEN + 1];
    char field[CALL_FIELD_MAX];
    struct str user_id; /* len 0 = none */
    struct str scene;
    struct str *history, *exclude;
    size_t n_history, n_exclude;
    bool has_history;
    struct call_filter *filters;
    size_t n_filters;
    const json_t *context, *arms; /* objects in `json`, or NULL */
    int n, deadline_ms;           /* 0 = not said */
    bool explain, vectors;

    /* admission */
    struct recall_policy *policy;
    uint64_t deadline_ns;
    int level; /* of effort.h, when a worker took it */
    struct behaviour_job job;
    bool redis_cut_by_deadline; /* the request's deadline, not redis.timeout_ms, ended the wait */

    /* the stages */
    const struct experiments *experiments; /* borrowed from the batch's set; NULL = none */
    struct assignment assignment;          /* of those */
    struct bundle *bundle;                 /* borrowed from the batch's set */
    struct settings settings;
    uint32_t degraded; /* bit per enum recall_degraded */
    uint32_t *rows;    /* known history, oldest first */
    size_t n_rows, n_unknown;
    struct row_set *excluded;
    struct row_filter *filter; /* the pipeline's, until the batch is answered */
    struct model_input input;
    int *live; /* the interests searched, by their number in the model */
    int n_live;
    unsigned char *dropped; /* per interest of the model: enum drop_reason */
    struct index_query query;
    struct pick *picks;
    size_t n_picks;
    enum call_source source;
    int status;
    const struct str *ids; /* of the picks, once rendered */
    uint64_t took_us;
};

enum drop_reason { DROP_KEPT, DROP_ZERO, DROP_NOT_FINITE, DROP_SIMILAR, DROP_UNUSED, DROP_REASONS };
extern const char *const drop_words[DROP_REASONS]; /* NULL for kept */

static inline void call_degrade(struct recall_call *c, enum recall_degraded d)
{
    c->degraded |= UINT32_C(1) << d;
}

/* ---- call.c ---- */

/* Back to how calloc made it, but for the memory that is worth keeping. */
void call_reset(struct recall_call *c);
void call_free(struct recall_call *c);

/* ---- request.c ---- */

/* Reads call.body into the request fields; -1 with call.field and *err set. */
int request_parse(struct recall_call *c, int n_max, struct err *err) WARN_UNUSED;

/* ---- pipeline.c ---- */

/* What one worker needs to run batches; not shared. */
struct pipeline;
struct pipeline *pipeline_new(void);
void pipeline_free(struct pipeline *p);
/* Searches `ix` instead of each bundle's own index; borrowed, NULL = the bundle's. */
void pipeline_index(struct pipeline *p, const struct index *ix);
/* Takes parsed calls whose behaviour is here through the stages; `finish` gets each as soon as it
 * is answered. The experiments stand beside the set. Returns how many were given a recall: the
 * others took no time. */
size_t pipeline_run(struct pipeline *p, const struct bundle_set *set, struct recall_call **calls,
                    size_t n, void (*finish)(struct recall_call *));
/* A call that ends without an answer of its own: a status and a sentence. */
void call_refuse(struct recall_call *c, int status, const char *sentence);

/* ---- sets of rows (rowset.c) ---- */

struct row_set;
struct row_set *row_set_new(struct arena *a, size_t most); /* room for `most` rows */
bool row_set_add(struct row_set *s, uint32_t row);         /* false: it was there */
bool row_set_has(const struct row_set *s, uint32_t row);
size_t row_set_count(const struct row_set *s);
struct row_set *row_set_copy(struct arena *a, const struct row_set *s, size_t more);

/* ---- merge.c ---- */

/* The hits of all searched interests and what to make of them. */
struct merge {
    enum merge_policy policy;
    size_t n;                /* wanted */
    size_t min_per_interest; /* quota */
    double lambda;           /* diverse */
    const struct hit *hits;  /* (n_lists, k), each list best first, equal scores by row */
    const size_t *found;     /* (n_lists) */
    const uint8_t *from; /* max: NULL, or hits[0 .. found[0]) are all lists' best rows, each once
                            with the first list it has this score from */
    size_t k;
    int n_lists;
    const struct row_set *excluded; /* may be NULL */
    const struct items *items;      /* diverse: where categories are; may be NULL */
    int attribute;                  /* -1 = none: no penalty */
};
/* Writes at most m->n picks, no row twice, none excluded, best first; returns how many. */
size_t merge_picks(const struct merge *m, struct arena *scratch, struct pick *out);

/* ---- diverse.c ---- */

/* The same from a pool: every allowed row once, best first. */
size_t diverse_picks(const struct merge *m, const struct pick *pool, size_t n_pool,
                     struct arena *scratch, struct pick *out);

/* ---- fallback.c ---- */

/* Fills call.picks from the bundle's popular items when the model gave nothing. */
void fallback_fill(struct recall_call *c);

/* ---- render.c ---- */

void render_answer(struct recall_call *c);
extern const char *const degraded_words[DEGRADED_COUNT];
extern const char *const source_words[]; /* by enum call_source */

/* ---- record.c ---- */

/* What a worker needs to write records; not shared. NULL when the journal is off. */
struct recorder;
struct recorder *recorder_new(struct journal *j);
void recorder_free(struct recorder *r);
/* Of a call that was answered with 200. */
void recorder_write(struct recorder *r, const struct recall_call *c);

/* ---- figures.c ---- */

enum refusal {
    REFUSED_BAD,
    REFUSED_FULL,
    REFUSED_WAIT, /* it would wait too long for a worker */
    REFUSED_DRAINING,
    REFUSED_DEADLINE,
    REFUSED_NOT_LOADED,
    REFUSALS,
    ADMITTED = REFUSALS
};

void figures_register(void);
void figures_batch(size_t n);
void figures_refused(const struct recall_call *c, enum refusal why); /* not admitted */
void figures_call(const struct recall_call *c, uint64_t now);        /* all of one admitted call */

#endif
