/* rowset.c - a small set of rows: what a request excludes, what an answer already holds.
 *
 * Open addressing, at most a quarter full, in the request's arena. Row numbers are spread by a
 * multiplication, since neighbours in a catalogue tend to be asked for together. */
#include <string.h>

#include "call.h"

struct row_set {
    uint32_t *slots; /* row + 1, 0 = empty */
    size_t mask, count;
};

struct row_set *row_set_new(struct arena *a, size_t most)
{
    struct row_set *s = arena_alloc(a, sizeof *s);
    size_t size = 16;

    while (size < 4 * most)
        size *= 2;
    s->slots = arena_alloc(a, size * sizeof *s->slots);
    memset(s->slots, 0, size * sizeof *s->slots);
    s->mask = size - 1;
    s->count = 0;
    return s;
}

/* Where `row` is, or the empty slot where it would go. */
static size_t slot_of(const struct row_set *s, uint32_t row)
{
    size_t i = (size_t)((row * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & s->mask;

    while (s->slots[i] != 0 && s->slots[i] != row + 1)
        i = (i + 1) & s->mask;
    return i;
}

bool row_set_add(struct row_set *s, uint32_t row)
{
    size_t i = slot_of(s, row);

    if (s->slots[i] != 0)
        return false;
    s->slots[i] = row + 1;
    s->count++;
    return true;
}

bool row_set_has(const struct row_set *s, uint32_t row)
{
    return s->slots[slot_of(s, row)] != 0;
}

size_t row_set_count(const struct row_set *s)
{
    return s->count;
}

struct row_set *row_set_copy(struct arena *a, const struct row_set *s, size_t more)
{
    struct row_set *copy = row_set_new(a, (s == NULL ? 0 : s->count) + more);

    if (s != NULL)
        for (size_t i = 0; i <= s->mask; i++)
            if (s->slots[i] != 0)
                row_set_add(copy, s->slots[i] - 1);
    return copy;
}
