/* merge.c - K lists of hits into one answer: best first, no row twice, nothing excluded.
 *
 * All three policies start from the same walk over the lists (each is sorted, so the best head of
 * all lists comes next): the first time a row appears is with its best score. */
#include <stdlib.h>
#include <string.h>

#include "call.h"

/* ---- the walk ------------------------------------------------------------------- */

struct walk {
    const struct merge *m;
    size_t *next;    /* per list */
    uint64_t *heads; /* per list: hit_order of what comes next, 0 at its end */
    struct row_set *seen;
};

static const struct hit *walk_head(const struct walk *w, int list)
{
    return &w->m->hits[(size_t)list * w->m->k + w->next[list]];
}

static void walk_to(struct walk *w, int list, size_t next)
{
    w->next[list] = next;
    w->heads[list] = 0;
    if (next < w->m->found[list]) {
        const struct hit *head = walk_head(w, list);

        w->heads[list] = hit_order(head->score, head->row);
    }
}

static void walk_rewind(struct walk *w)
{
    for (int i = 0; i < w->m->n_lists; i++)
        walk_to(w, i, 0);
}

/* `most`: rows that will be seen at most. */
static void walk_start(struct walk *w, const struct merge *m, size_t most, struct arena *scratch)
{
    w->m = m;
    w->next = arena_alloc(scratch, (size_t)m->n_lists * sizeof *w->next);
    w->heads = arena_alloc(scratch, (size_t)m->n_lists * sizeof *w->heads);
    w->seen = row_set_copy(scratch, m->excluded, most);
    walk_rewind(w);
}

/* Better score first; equal scores by row; the same row from two lists: the lower list. */
static int walk_best(const struct walk *w)
{
    uint64_t best = 0;
    int from = -1;

    for (int i = 0; i < w->m->n_lists; i++) {
        bool better = w->heads[i] > best;

        from = better ? i : from;
        best = better ? w->heads[i] : best;
    }
    return from;
}

/* The best row not seen yet, or false when all lists are at their end. */
static bool walk_next(struct walk *w, struct pick *out)
{
    for (;;) {
        int from = walk_best(w);
        const struct hit *best;

        if (from == -1)
            return false;
        best = walk_head(w, from);
        walk_to(w, from, w->next[from] + 1);
        if (row_set_add(w->seen, best->row)) {
            *out = (struct pick){best->row, best->score, from};
            return true;
        }
    }
}

static size_t all_found(const struct merge *m)
{
    size_t total = 0;

    for (int i = 0; i < m->n_lists; i++)
        total += m->found[i];
    return total;
}

static int by_score_then_row(const void *pa, const void *pb)
{
    const struct pick *a = pa, *b = pb;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* ---- max: the best of all ---------------------------------------------------------- */

/* From an answer that the index joined. */
static size_t merge_joined(const struct merge *m, struct pick *out)
{
    size_t n = 0;

    for (size_t i = 0; i < m->found[0] && n < m->n; i++) {
        const struct hit *hit = &m->hits[i];

        out[n] = (struct pick){hit->row, hit->score, m->from[i]};
        n += m->excluded == NULL || !row_set_has(m->excluded, hit->row);
    }
    return n;
}

static size_t merge_max(const struct merge *m, struct arena *scratch, struct pick *out)
{
    struct walk w;
    size_t n = 0;

    if (m->from != NULL)
        return merge_joined(m, out);
    walk_start(&w, m, m->n, scratch);
    while (n < m->n && walk_next(&w, &out[n]))
        n++;
    return n;
}

/* ---- quota: every interest keeps some ------------------------------------------------ */

/* Interests take turns: in each round every list keeps its best row that none has kept yet, until
 * all have their share; the row then counts for the list that kept it. What is left goes by score.
 */
static size_t merge_quota(const struct merge *m, struct arena *scratch, struct pick *out)
{
    size_t share = m->n_lists == 0 ? 0 : m->n / (size_t)m->n_lists;
    struct walk w;
    size_t n = 0;

    if (share > m->min_per_interest)
        share = m->min_per_interest;
    walk_start(&w, m, m->n, scratch);
    for (size_t round = 0; round < share; round++)
        for (int i = 0; i < m->n_lists; i++)
            while (w.heads[i] != 0) {
                const struct hit *head = walk_head(&w, i);

                walk_to(&w, i, w.next[i] + 1);
                if (row_set_add(w.seen, head->row)) {
                    out[n++] = (struct pick){head->row, head->score, i};
                    break;
                }
            }
    /* The rest by best score over all lists: a row passed over above may come again in another. */
    walk_rewind(&w);
    while (n < m->n && walk_next(&w, &out[n]))
        n++;
    qsort(out, n, sizeof *out, by_score_then_row);
    return n;
}

/* ---- diverse: variety against score ---------------------------------------------------- */

static size_t merge_diverse(const struct merge *m, struct arena *scratch, struct pick *out)
{
    struct walk w;
    size_t total = all_found(m), n_pool = 0;
    struct pick *pool;

    if (m->items == NULL || m->attribute < 0)
        return merge_max(m, scratch, out);
    pool = arena_alloc(scratch, (total + 1) * sizeof *pool);
    walk_start(&w, m, total, scratch);
    while (walk_next(&w, &pool[n_pool]))
        n_pool++;
    return diverse_picks(m, pool, n_pool, scratch, out);
}

size_t merge_picks(const struct merge *m, struct arena *scratch, struct pick *out)
{
    switch (m->policy) {
    case MERGE_QUOTA:
        return merge_quota(m, scratch, out);
    case MERGE_DIVERSE:
        return merge_diverse(m, scratch, out);
    case MERGE_MAX:
        break;
    }
    return merge_max(m, scratch, out);
}
