/* filter.h - what the engines see of a filter. */
#ifndef RECALLD_INDEX_FILTER_H
#define RECALLD_INDEX_FILTER_H

#include "recalld/index.h"

struct row_filter {
    size_t rows, count;
    uint64_t *bits;
    uint64_t *marks; /* all zero between calls */
    uint32_t *list;  /* (count), ascending */
};

/* The rows of the set within [first, first + rows). */
const uint32_t *filter_rows(const struct row_filter *f, uint32_t first, uint32_t rows, size_t *n);
/* Bit i tells of row + i, for i below 16. `row` must be below the filter's rows. */
uint32_t filter_bits16(const struct row_filter *f, uint32_t row);

#endif
