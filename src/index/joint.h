/* joint.h - the best rows over all interests of a query: each row once, with the interest it suits
 * best, the first of equals. */
#ifndef RECALLD_INDEX_JOINT_H
#define RECALLD_INDEX_JOINT_H

#include "engine.h"

/* Entries of a joint top are hit_orders of "places": a row, counted from the first of the index,
 * and behind it the interest. */
#define JOINT_INTEREST_BITS 6
#define JOINT_ROWS_MAX (UINT32_MAX >> JOINT_INTEREST_BITS)
_Static_assert(INDEX_INTERESTS_MAX <= 1 << JOINT_INTEREST_BITS, "an interest fits into a place");

static inline uint32_t joint_place(uint32_t nth_row, uint32_t interest)
{
    return nth_row << JOINT_INTEREST_BITS | interest;
}

static inline uint32_t joint_nth_row(uint64_t key)
{
    return key_row(key) >> JOINT_INTEREST_BITS;
}

/* Turns n entries of rows into entries of their final scores. All must be finite: see
 * joint_gather. */
void joint_score(const struct index *ix, const struct index_query *q, uint64_t *keys, size_t n);
/* As gather() does for a top of each interest: offers rows first .. first + n - 1 or, when `list`
 * is not NULL, list[0] .. list[n - 1], with final scores. No product on the way to a score may
 * overflow: then no score is NaN. */
void joint_gather(const struct index *ix, struct index_query *q, struct top *t, uint32_t first,
                  const uint32_t *list, size_t n);
/* Answers q with the best of t: final scores. */
void joint_finish(const struct index *ix, struct index_query *q, struct top *t);

#endif
