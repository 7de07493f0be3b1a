/* direct.c - requests answered in the calling thread: for recallctl and evaluation.
 *
 * The same parse and the same pipeline as the daemon's, without queue, pool or deadline. */
#include <stdlib.h>

#include "call.h"
#include "recalld/blas.h"

struct recall_direct {
    const struct config *cfg;
    struct recall_policy *policy;
    const struct bundle_set *set;
    struct pipeline *pipeline;
    struct recall_call **calls; /* (n_calls) of a batch */
    struct recall_call **ready; /* those that could be parsed */
    size_t n_calls;
};

struct recall_direct *recall_direct_new(const struct config *cfg, struct registry *reg)
{
    struct recall_direct *d = xcalloc(1, sizeof *d);

    blas_single_thread();
    d->cfg = cfg;
    d->policy = recall_policy_new(cfg);
    d->set = registry_acquire(reg);
    d->pipeline = pipeline_new();
    return d;
}

void recall_direct_free(struct recall_direct *d)
{
    if (d == NULL)
        return;
    for (size_t i = 0; i < d->n_calls; i++)
        call_free(d->calls[i]);
    free(d->calls);
    free(d->ready);
    pipeline_free(d->pipeline);
    bundle_set_release(d->set);
    ref_release(&d->policy->ref);
    free(d);
}

void recall_direct_index(struct recall_direct *d, const struct index *ix)
{
    pipeline_index(d->pipeline, ix);
}

static void need_calls(struct recall_direct *d, size_t n)
{
    if (n <= d->n_calls)
        return;
    d->calls = xrealloc(d->calls, n * sizeof *d->calls);
    d->ready = xrealloc(d->ready, n * sizeof *d->ready);
    while (d->n_calls < n)
        d->calls[d->n_calls++] = xcalloc(1, sizeof **d->calls);
}

static int read_behaviour(const struct config *cfg, struct recall_call *c, struct err *err)
{
    if (c->has_history)
        return 0;
    c->job = (struct behaviour_job){.user_id = c->user_id,
                                    .deadline_ns =
                                        clock_ns() + (uint64_t)cfg->redis_timeout_ms * 1000000,
                                    .arena = &c->arena};
    return behaviour_read_one(cfg, &c->job, err);
}

/* False when the call has its answer already. */
static bool direct_begin(struct recall_direct *d, struct recall_call *c, struct str body)
{
    struct err err = ERR_INIT;

    call_reset(c);
    c->policy = (struct recall_policy *)ref_acquire(&d->policy->ref);
    c->deadline_ns = UINT64_MAX; /* nobody waits with a clock in hand */
    c->at[MOMENT_START] = clock_ns();
    buf_put(&c->body, body.p, body.len);
    if (request_parse(c, c->policy->n_max, &err) == -1) {
        call_refuse(c, 400, err.text);
        return false;
    }
    c->at[MOMENT_PARSED] = clock_ns();
    if (read_behaviour(d->cfg, c, &err) == -1) {
        call_refuse(c, 503, err.text);
        return false;
    }
    c->at[MOMENT_BEHAVIOUR] = clock_ns();
    if (c->request_id[0] == '\0')
        uuid7(c->request_id);
    uuid7(c->serve_id);
    return true;
}

static struct recall_reply direct_reply(struct recall_call *c)
{
    struct recall_reply reply = {.status = c->status,
                                 .text = {buf_cstr(&c->answer), c->answer.len},
                                 .degraded = c->degraded};
    uint32_t *rows;

    if (c->status != 200)
        return reply;
    rows = arena_alloc(&c->arena, (c->n_picks + 1) * sizeof *rows);
    for (size_t i = 0; i < c->n_picks; i++)
        rows[i] = c->picks[i].row;
    reply.rows = rows;
    reply.n_rows = c->n_picks;
    return reply;
}

static void nothing(struct recall_call *c)
{
    (void)c;
}

void recall_direct_answer(struct recall_direct *d, const struct str *bodies, size_t n,
                          struct recall_reply *replies)
{
    size_t n_ready = 0;

    need_calls(d, n);
    for (size_t i = 0; i < n; i++)
        if (direct_begin(d, d->calls[i], bodies[i]))
            d->ready[n_ready++] = d->calls[i];
    pipeline_run(d->pipeline, d->set, d->ready, n_ready, nothing);
    for (size_t i = 0; i < n; i++)
        replies[i] = direct_reply(d->calls[i]);
}
