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
    size_t *next; /* per list */
    struct row_set *seen;
};

/* Better score first; equal scores by row; the same row from two lists: the lower list. */
static bool hit_before(const struct hit *a, const struct hit *b)
{
    return a->score > b->score || (a->score == b->score && a->row < b->row);
}

static void walk_start(struct walk *w, const struct merge *m, struct arena *scratch)
{
    size_t total = 0;

    for (int i = 0; i < m->n_lists; i++)
        total += m->found[i];
    w->m = m;
    w->next = arena_alloc(scratch, (size_t)m->n_lists * sizeof *w->next);
    memset(w->next, 0, (size_t)m->n_lists * sizeof *w->next);
    w->seen = row_set_copy(scratch, m->excluded, total);
}

static const struct hit *walk_head(const struct walk *w, int list)
{
    if (w->next[list] >= w->m->found[list])
        return NULL;
    return &w->m->hits[(size_t)list * w->m->k + w->next[list]];
}

/* The best row not seen yet, or false when all lists are at their end. */
static bool walk_next(struct walk *w, struct pick *out)
{
    for (;;) {
        const struct hit *best = NULL;
        int from = -1;

        for (int i = 0; i < w->m->n_lists; i++) {
            const struct hit *head = walk_head(w, i);

            if (head != NULL && (best == NULL || hit_before(head, best))) {
                best = head;
                from = i;
            }
        }
        if (best == NULL)
            return false;
        w->next[from]++;
        if (row_set_add(w->seen, best->row)) {
            *out = (struct pick){best->row, best->score, from};
            return true;
        }
    }
}

static int by_score_then_row(const void *pa, const void *pb)
{
    const struct pick *a = pa, *b = pb;

    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* ---- max: the best of all ---------------------------------------------------------- */

static size_t merge_max(const struct merge *m, struct arena *scratch, struct pick *out)
{
    struct walk w;
    size_t n = 0;

    walk_start(&w, m, scratch);
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
    walk_start(&w, m, scratch);
    for (size_t round = 0; round < share; round++)
        for (int i = 0; i < m->n_lists; i++) {
            const struct hit *head;

            while ((head = walk_head(&w, i)) != NULL) {
                w.next[i]++;
                if (row_set_add(w.seen, head->row)) {
                    out[n++] = (struct pick){head->row, head->score, i};
                    break;
                }
            }
        }
    /* The rest by best score over all lists: a row passed over above may come again in another. */
    memset(w.next, 0, (size_t)m->n_lists * sizeof *w.next);
    while (n < m->n && walk_next(&w, &out[n]))
        n++;
    qsort(out, n, sizeof *out, by_score_then_row);
    return n;
}

/* ---- diverse: variety against score ---------------------------------------------------- */

static size_t merge_diverse(const struct merge *m, struct arena *scratch, struct pick *out)
{
    struct walk w;
    size_t total = 0, n_pool = 0;
    struct pick *pool;

    if (m->items == NULL || m->attribute < 0)
        return merge_max(m, scratch, out);
    for (int i = 0; i < m->n_lists; i++)
        total += m->found[i];
    pool = arena_alloc(scratch, (total + 1) * sizeof *pool);
    walk_start(&w, m, scratch);
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
