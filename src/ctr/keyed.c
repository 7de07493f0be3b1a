/* keyed.c - open addressing over row numbers, at most half full. */
#include "keyed.h"

#include <stdlib.h>

#define ROWS_FIRST 1024

void keyed_init(struct keyed *k, size_t row, size_t key)
{
    *k = (struct keyed){.row = row, .key = key};
}

void keyed_clear(struct keyed *k)
{
    free(k->rows);
    free(k->slots);
    keyed_init(k, k->row, k->key);
}

/* The slot that holds the key, or the free one where it belongs. */
static size_t slot_of(const struct keyed *k, const void *key)
{
    size_t at = hash_bytes(key, k->key) & (k->n_slots - 1);

    while (k->slots[at] != 0 && memcmp(keyed_row(k, k->slots[at] - 1), key, k->key) != 0)
        at = (at + 1) & (k->n_slots - 1);
    return at;
}

static bool grow(struct keyed *k)
{
    size_t cap = k->cap == 0 ? ROWS_FIRST : 2 * k->cap;
    uint32_t *slots = cap > UINT32_MAX / 2 ? NULL : mem_try_array(2 * cap, sizeof *slots);
    char *rows = slots == NULL ? NULL : mem_try_array(cap, k->row);

    if (rows == NULL) {
        free(slots);
        return false;
    }
    if (k->n > 0)
        memcpy(rows, k->rows, k->n * k->row);
    memset(slots, 0, 2 * cap * sizeof *slots);
    free(k->rows);
    free(k->slots);
    k->rows = rows;
    k->slots = slots;
    k->cap = cap;
    k->n_slots = 2 * cap;
    for (size_t i = 0; i < k->n; i++)
        slots[slot_of(k, keyed_row(k, i))] = (uint32_t)i + 1;
    return true;
}

size_t keyed_get(struct keyed *k, const void *key)
{
    size_t at;
    char *row;

    if (k->n == k->cap && !grow(k))
        return SIZE_MAX;
    at = slot_of(k, key);
    if (k->slots[at] != 0)
        return k->slots[at] - 1;
    row = keyed_row(k, k->n);
    memcpy(row, key, k->key);
    memset(row + k->key, 0, k->row - k->key);
    k->slots[at] = (uint32_t)++k->n;
    return k->n - 1;
}
