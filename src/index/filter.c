/* filter.c - a set of rows: a bitmap for "is it in?" and a sorted list for "which are?". */
#include "filter.h"

#include <stdlib.h>
#include <string.h>

#define WORD 64

static size_t words(size_t rows)
{
    return rows / WORD + 2; /* one spare, so that 64 bits from any row on can be read */
}

static bool get(const uint64_t *bits, uint32_t row)
{
    return bits[row / WORD] >> row % WORD & 1;
}

static void set(uint64_t *bits, uint32_t row)
{
    bits[row / WORD] |= (uint64_t)1 << row % WORD;
}

static void clear(uint64_t *bits, uint32_t row)
{
    bits[row / WORD] &= ~((uint64_t)1 << row % WORD);
}

struct row_filter *filter_new(size_t rows, struct err *err)
{
    struct row_filter *f = xcalloc(1, sizeof *f);

    f->rows = rows;
    f->bits = mem_try_array(words(rows), sizeof *f->bits);
    f->marks = mem_try_array(words(rows), sizeof *f->marks);
    f->list = mem_try_array(rows, sizeof *f->list);
    if (f->bits == NULL || f->marks == NULL || f->list == NULL) {
        err_set(err, ERR_NOMEM, "out of memory for a filter over %zu rows", rows);
        filter_free(f);
        return NULL;
    }
    memset(f->bits, 0, words(rows) * sizeof *f->bits);
    memset(f->marks, 0, words(rows) * sizeof *f->marks);
    return f;
}

void filter_free(struct row_filter *f)
{
    if (f == NULL)
        return;
    free(f->bits);
    free(f->marks);
    free(f->list);
    free(f);
}

/* The list from the bits: for when rows were set out of order. */
static void relist(struct row_filter *f)
{
    f->count = 0;
    for (size_t w = 0; w < words(f->rows); w++)
        for (uint64_t left = f->bits[w]; left != 0; left &= left - 1)
            f->list[f->count++] = (uint32_t)(w * WORD) + (uint32_t)__builtin_ctzll(left);
}

void filter_any(struct row_filter *f, const uint32_t *const *lists, const size_t *lens, size_t n)
{
    for (size_t i = 0; i < f->count; i++)
        clear(f->bits, f->list[i]);
    f->count = 0;
    for (size_t l = 0; l < n; l++)
        for (size_t i = 0; i < lens[l]; i++)
            set(f->bits, lists[l][i]);
    if (n == 1 && lens[0] > 0) {
        memcpy(f->list, lists[0], lens[0] * sizeof *f->list);
        f->count = lens[0];
    } else if (n > 1) {
        relist(f);
    }
}

void filter_also_any(struct row_filter *f, const uint32_t *const *lists, const size_t *lens,
                     size_t n)
{
    size_t kept = 0;

    for (size_t l = 0; l < n; l++)
        for (size_t i = 0; i < lens[l]; i++)
            set(f->marks, lists[l][i]);
    for (size_t i = 0; i < f->count; i++) {
        if (get(f->marks, f->list[i]))
            f->list[kept++] = f->list[i];
        else
            clear(f->bits, f->list[i]);
    }
    f->count = kept;
    for (size_t l = 0; l < n; l++)
        for (size_t i = 0; i < lens[l]; i++)
            clear(f->marks, lists[l][i]);
}

size_t filter_count(const struct row_filter *f)
{
    return f->count;
}

bool filter_has(const struct row_filter *f, uint32_t row)
{
    return row < f->rows && get(f->bits, row);
}

/* How many rows of the list stand before `row`. */
static size_t before(const struct row_filter *f, uint64_t row)
{
    size_t low = 0, high = f->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (f->list[mid] < row)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const uint32_t *filter_rows(const struct row_filter *f, uint32_t first, uint32_t rows, size_t *n)
{
    size_t from = before(f, first);

    *n = before(f, (uint64_t)first + rows) - from;
    return f->list + from;
}

uint32_t filter_bits16(const struct row_filter *f, uint32_t row)
{
    const uint64_t *w = f->bits + row / WORD;
    unsigned shift = row % WORD;
    uint64_t bits = w[0] >> shift;

    if (shift > WORD - 16)
        bits |= w[1] << (WORD - shift);
    return (uint32_t)bits & 0xffff;
}
