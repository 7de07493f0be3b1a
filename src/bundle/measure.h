/* measure.h - sample interests to search with, and how much of the true answer an index finds.
 *
 * Private to bundle/: building tunes and refuses by it, opening warms up with it. */
#ifndef BUNDLE_MEASURE_H
#define BUNDLE_MEASURE_H

#include "recalld/bundle.h"

/* Interest vectors of sample users; dead and zero ones are left out. */
struct queries {
    float *data; /* (n, dim), those of a user one after another */
    size_t n, dim;
    size_t *first; /* (users + 1): where those of a user begin; n */
    size_t users;  /* who have any */
};
#define QUERIES_INIT        \
    {                       \
        NULL, 0, 0, NULL, 0 \
    }

/* From a history file: about `max` interests of up to `max` users spread evenly over it. ERR_FORMAT
 * when no line has a known item. */
int queries_from_histories(struct queries *q, const struct model *m, const struct items *it,
                           const char *path, size_t max, struct err *err) WARN_UNUSED;
/* From `users` made-up histories of 1 to 8 rows each; the same ones every time. */
int queries_from_rows(struct queries *q, const struct model *m, const struct items *it,
                      size_t users, struct err *err) WARN_UNUSED;
/* Keeps about `max` interests at most, those of whole users, spread evenly; of one user at least.
 */
void queries_thin(struct queries *q, size_t max);
void queries_clear(struct queries *q);

/* What a request for k rows would get: for each user, the best of all interests together. */
struct answers {
    struct hit *hits; /* (n, k), best first */
    size_t *found;    /* (n) of k are filled */
    size_t n, k;      /* n: users who were asked for */
};
#define ANSWERS_INIT     \
    {                    \
        NULL, NULL, 0, 0 \
    }

/* By the index at effort 1.0. A shard that fails is an error here. */
int answers_search(struct answers *a, const struct index *ix, const struct queries *q, size_t k,
                   struct err *err) WARN_UNUSED;
/* By its brute-force twin. */
int answers_brute(struct answers *a, const struct vectors *v, uint32_t first_row, uint32_t rows,
                  const struct queries *q, size_t k, struct err *err) WARN_UNUSED;
/* The share of the truth that `a` found. A row of the same score as the last true one counts: which
 * of them are in the list is chance. */
double answers_recall(const struct answers *a, const struct answers *truth);
void answers_clear(struct answers *a);

#endif
