/* brute.c - the twin of index_search that no cleverness can break: every row, one dot product, and
 * a sorted list of the best so far. It shares no code with what it checks. */
#include "recalld/index.h"

#include "recalld/vec.h"

#include <math.h>
#include <string.h>

static bool finite_all(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isfinite(x[i]))
            return false;
    return true;
}

/* `hits` is sorted; rows arrive in ascending order, so an equal score goes behind. */
static size_t insert(struct hit *hits, size_t n, size_t k, struct hit h)
{
    size_t low = 0, high = n;

    if (isnan(h.score) || k == 0 || (n == k && h.score <= hits[n - 1].score))
        return n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (hits[mid].score >= h.score)
            low = mid + 1;
        else
            high = mid;
    }
    n = n < k ? n + 1 : n;
    memmove(hits + low + 1, hits + low, (n - low - 1) * sizeof *hits);
    hits[low] = h;
    return n;
}

static size_t search_one(const struct vectors *v, uint32_t first_row, uint32_t rows,
                         const struct index_query *q, const float *interest, struct hit *hits)
{
    size_t found = 0;

    if (!finite_all(interest, v->dim))
        return 0;
    for (uint32_t row = first_row; row < first_row + rows; row++) {
        float score = vec_dot(interest, v->data + (size_t)row * v->dim, v->dim);

        /* + 0: a negative zero leaves as zero */
        if (q->filter == NULL || filter_has(q->filter, row))
            found = insert(hits, found, q->k, (struct hit){row, score + 0.0f});
    }
    return found;
}

void index_search_brute(const struct vectors *v, uint32_t first_row, uint32_t rows,
                        struct index_query *q, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        q[i].joined = false;
        q[i].late = false;
        q[i].shards_failed = 0;
        for (int j = 0; j < q[i].n_interests; j++)
            q[i].found[j] =
                search_one(v, first_row, rows, &q[i], q[i].interests + (size_t)j * v->dim,
                           q[i].hits + (size_t)j * q[i].k);
    }
}
