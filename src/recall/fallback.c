/* fallback.c - what goes out when the model can say nothing: the bundle's popular items, in their
 * order, under the request's own filter and exclusions. */
#include "call.h"

void fallback_fill(struct recall_call *c)
{
    size_t n_popular;
    const uint32_t *popular = bundle_popular(c->bundle, &n_popular);
    size_t n = (size_t)c->settings.n;

    c->n_picks = 0;
    c->source = SOURCE_NONE;
    if (c->settings.fallback == FALLBACK_NONE)
        return;
    c->picks = arena_alloc(&c->arena, (n + 1) * sizeof *c->picks);
    for (size_t i = 0; i < n_popular && c->n_picks < n; i++)
        if (!row_set_has(c->excluded, popular[i]) &&
            (c->filter == NULL || filter_has(c->filter, popular[i])))
            c->picks[c->n_picks++] = (struct pick){popular[i], 0, -1};
    if (c->n_picks > 0)
        c->source = SOURCE_POPULAR;
}
