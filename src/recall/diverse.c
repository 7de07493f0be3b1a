/* diverse.c - ComiRec's controllable aggregation: score against variety, greedily.
 *
 * Section 3.3 of the paper: again and again the row with the best score - lambda * (rows of its
 * category chosen before). Rows with the same categories always carry the same penalty, so only the
 * best of each such group can be next: the groups stand in a heap by the value of their first row.
 * A value in the heap may be out of date, but values only fall, so the top is brought up to date
 * until it stays on top. A row of several categories has the penalty of the one chosen most often,
 * a row of none has no penalty. Equal values: the row that comes first in the pool. */
#include <string.h>

#include "call.h"

struct group {
    const uint32_t *codes; /* of all its rows */
    size_t n_codes;
    size_t first, last; /* in the pool, through `next`; first = n_pool when none is left */
    double value;       /* of the first row when it was last looked at */
};

struct diverse {
    const struct merge *m;
    const struct pick *pool; /* best first */
    size_t n_pool;
    size_t *next;     /* (n_pool) the following row of the same group */
    unsigned *chosen; /* per category */
    struct group *groups, **heap;
    size_t n_groups, n_heap;
};

/* ---- groups ------------------------------------------------------------------------- */

static uint64_t hash_codes(const uint32_t *codes, size_t n)
{
    uint64_t h = n;

    for (size_t i = 0; i < n; i++)
        h = (h ^ codes[i]) * UINT64_C(0x9e3779b97f4a7c15);
    return h >> 32;
}

static bool has_codes(const struct group *g, const uint32_t *codes, size_t n)
{
    return g->n_codes == n && (n == 0 || memcmp(g->codes, codes, n * sizeof *codes) == 0);
}

/* Puts row i of the pool at the end of its group. `slots` holds group numbers + 1. */
static void add_row(struct diverse *d, size_t i, uint32_t *slots, size_t mask)
{
    size_t n;
    const uint32_t *codes = items_values(d->m->items, (size_t)d->m->attribute, d->pool[i].row, &n);
    size_t at = (size_t)hash_codes(codes, n) & mask;

    d->next[i] = d->n_pool;
    while (slots[at] != 0 && !has_codes(&d->groups[slots[at] - 1], codes, n))
        at = (at + 1) & mask;
    if (slots[at] == 0) {
        d->groups[d->n_groups] = (struct group){codes, n, i, i, (double)d->pool[i].score};
        slots[at] = (uint32_t)++d->n_groups;
        return;
    }
    d->next[d->groups[slots[at] - 1].last] = i;
    d->groups[slots[at] - 1].last = i;
}

static void make_groups(struct diverse *d, struct arena *scratch)
{
    size_t size = 16;
    uint32_t *slots;

    while (size < 2 * d->n_pool)
        size *= 2;
    slots = arena_alloc(scratch, size * sizeof *slots);
    memset(slots, 0, size * sizeof *slots);
    d->next = arena_alloc(scratch, d->n_pool * sizeof *d->next);
    d->groups = arena_alloc(scratch, d->n_pool * sizeof *d->groups);
    d->heap = arena_alloc(scratch, d->n_pool * sizeof *d->heap);
    for (size_t i = 0; i < d->n_pool; i++)
        add_row(d, i, slots, size - 1);
    /* Groups were found in the order of their first rows: best first is a heap already. */
    for (; d->n_heap < d->n_groups; d->n_heap++)
        d->heap[d->n_heap] = &d->groups[d->n_heap];
}

/* ---- the heap ------------------------------------------------------------------------ */

static bool goes_before(const struct group *a, const struct group *b)
{
    return a->value > b->value || (a->value == b->value && a->first < b->first);
}

/* The top has changed for the worse. */
static void sink(struct diverse *d)
{
    size_t at = 0;

    for (;;) {
        size_t best = at;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < d->n_heap; child++)
            if (goes_before(d->heap[child], d->heap[best]))
                best = child;
        if (best == at)
            return;
        struct group *moved = d->heap[at];

        d->heap[at] = d->heap[best];
        d->heap[best] = moved;
        at = best;
    }
}

static double value_now(const struct diverse *d, const struct group *g)
{
    unsigned most = 0;

    for (size_t i = 0; i < g->n_codes; i++)
        most = d->chosen[g->codes[i]] > most ? d->chosen[g->codes[i]] : most;
    return (double)d->pool[g->first].score - d->m->lambda * most;
}

/* The group whose first row is the best of all. */
static struct group *best_group(struct diverse *d)
{
    for (;;) {
        struct group *g = d->heap[0];
        double value = value_now(d, g);

        if (value == g->value)
            return g;
        g->value = value;
        sink(d);
    }
}

/* Takes the first row out of the group on top. */
static void take_first(struct diverse *d, struct group *g)
{
    for (size_t i = 0; i < g->n_codes; i++)
        d->chosen[g->codes[i]]++;
    g->first = d->next[g->first];
    if (g->first == d->n_pool)
        d->heap[0] = d->heap[--d->n_heap];
    else
        g->value = value_now(d, g);
    sink(d);
}

size_t diverse_picks(const struct merge *m, const struct pick *pool, size_t n_pool,
                     struct arena *scratch, struct pick *out)
{
    size_t categories = items_value_count(m->items, (size_t)m->attribute), n = 0;
    struct diverse d = {.m = m, .pool = pool, .n_pool = n_pool};

    if (n_pool == 0)
        return 0;
    d.chosen = arena_alloc(scratch, (categories + 1) * sizeof *d.chosen);
    memset(d.chosen, 0, (categories + 1) * sizeof *d.chosen);
    make_groups(&d, scratch);
    while (n < m->n && d.n_heap > 0) {
        struct group *g = best_group(&d);

        out[n++] = pool[g->first];
        take_first(&d, g);
    }
    return n;
}
