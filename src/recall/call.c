/* call.c - the life of one call and what others may ask it; the policy it holds on to. */
#include "call.h"

#include <stdlib.h>
#include <string.h>

#define IDLE_KEEP (256 << 10) /* an idle call keeps no larger arena, answer or body */

/* ---- policy -------------------------------------------------------------------------- */

static void policy_free(struct ref *r)
{
    free(r); /* the reference is the first member */
}

struct recall_policy *recall_policy_new(const struct config *cfg)
{
    struct recall_policy *p = xcalloc(1, sizeof *p);

    ref_init(&p->ref, policy_free);
    p->settings = cfg->recall;
    p->n_max = cfg->recall_n_max;
    p->deadline_ms = cfg->recall_deadline_ms;
    p->redis_timeout_ms = cfg->redis_timeout_ms;
    return p;
}

/* ---- life ---------------------------------------------------------------------------- */

void call_reset(struct recall_call *c)
{
    struct arena arena = c->arena;
    struct buf body = c->body, answer = c->answer;

    if (c->policy != NULL)
        ref_release(&c->policy->ref);
    arena_trim(&arena, IDLE_KEEP);
    arena_reset(&arena);
    if (body.cap > IDLE_KEEP)
        buf_clear(&body);
    if (answer.cap > IDLE_KEEP)
        buf_clear(&answer);
    body.len = answer.len = 0;
    memset(c, 0, sizeof *c);
    c->arena = arena;
    c->body = body;
    c->answer = answer;
}

void call_free(struct recall_call *c)
{
    call_reset(c);
    arena_clear(&c->arena);
    buf_clear(&c->body);
    buf_clear(&c->answer);
    free(c);
}

/* ---- from outside --------------------------------------------------------------------- */

int recall_call_body(struct recall_call *c, const char *bytes, size_t len, size_t max)
{
    if (len > max || c->body.len > max - len)
        return -1;
    buf_put(&c->body, bytes, len);
    return 0;
}

void *recall_call_owner(const struct recall_call *c)
{
    return c->owner;
}

int recall_call_status(const struct recall_call *c)
{
    return c->status;
}

const char *recall_call_answer(const struct recall_call *c, size_t *len)
{
    *len = c->answer.len;
    return c->answer.p;
}

const char *recall_call_request_id(const struct recall_call *c)
{
    return c->request_id;
}

const char *recall_call_field(const struct recall_call *c)
{
    return c->field[0] == '\0' ? NULL : c->field;
}
