/* keyed.h - rows that are found by their first bytes: a hash table that also is an array.
 *
 * Rows keep their number; their addresses change when one is added. */
#ifndef CTR_KEYED_H
#define CTR_KEYED_H

#include "recalld/base.h"

struct keyed {
    size_t row, key; /* bytes of a row, of the key it begins with */
    size_t n;
    char *rows;
    uint32_t *slots; /* row number + 1; 0 = free */
    size_t cap, n_slots;
};

void keyed_init(struct keyed *k, size_t row, size_t key);
void keyed_clear(struct keyed *k);
/* The row's number; a new one has all zeros behind its key. SIZE_MAX when memory is out. */
size_t keyed_get(struct keyed *k, const void *key);

static inline void *keyed_row(const struct keyed *k, size_t i)
{
    return k->rows + i * k->row;
}

#endif
