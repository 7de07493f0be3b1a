/* protocol.c - what of a user's behaviour is asked with and what is looked for: the published ways
 * to evaluate, a table row each (docs/evaluation.md). */
#include "recalld/eval.h"

#include <string.h>

/* The share of the published code: int(0.8 * length) in double precision. */
static bool cut_by_share(const struct eval_user *u, uint64_t seed, struct eval_cut *out)
{
    (void)seed;
    *out = (struct eval_cut){(size_t)(0.8 * (double)u->n), u->n};
    return out->history > 0;
}

static bool cut_last(const struct eval_user *u, uint64_t seed, struct eval_cut *out)
{
    (void)seed;
    if (u->n < 2)
        return false;
    *out = (struct eval_cut){u->n - 1, u->n};
    return true;
}

/* splitmix64's last step: every bit of the result depends on every bit of z. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* The same item for the same user and seed, whatever else is in the file. */
static bool cut_at_random(const struct eval_user *u, uint64_t seed, struct eval_cut *out)
{
    uint64_t drawn = mix(hash_bytes(u->id.p, u->id.len) + mix(seed + 0x9e3779b97f4a7c15u));

    if (u->n < 2)
        return false;
    out->history = 1 + (size_t)(drawn % (u->n - 1));
    out->end = out->history + 1;
    return true;
}

/* clang-format off */
static const struct eval_protocol protocols[] = {
    {"comirec", "history = the first int(0.8 * length) items, targets = the rest",
     cut_by_share, 1, false},
    {"leave-one-out", "history = all items but the last, target = the last",
     cut_last, 1, false},
    {"mind", "target = an item but the first, drawn at random, history = the items before it",
     cut_at_random, 20, false}, /* the paper splits 19:1 */
    {"seed", "as comirec, with interests of length 1 (normalise, search, merge, drop repeats and the padding row)",
     cut_by_share, 1, true},
};
/* clang-format on */

const struct eval_protocol *eval_protocols(size_t *n)
{
    *n = ARRAY_LEN(protocols);
    return protocols;
}

const struct eval_protocol *eval_protocol_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(protocols); i++)
        if (strcmp(protocols[i].name, name) == 0)
            return &protocols[i];
    return NULL;
}

void eval_reference(struct settings *s)
{
    s->exclude_history = false;
    s->exclude_exposed = false;
    s->similar_interests = 1;
    s->fallback = FALLBACK_NONE;
    s->merge = MERGE_MAX;
}
