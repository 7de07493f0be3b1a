/* breaker.c - counts failures in a row, over all connections of one server.
 *
 * The count saturates at the limit, and the breaker is open exactly while it stands there. */
#include "recalld/redis.h"

#include <stdlib.h>

struct breaker {
    int limit;
    atomic_int row;
    _Atomic uint64_t opened;
};

struct breaker *breaker_new(int failures)
{
    struct breaker *b = xcalloc(1, sizeof *b);

    b->limit = failures;
    return b;
}

void breaker_free(struct breaker *b)
{
    free(b);
}

bool breaker_allows(const struct breaker *b)
{
    return b == NULL || atomic_load(&b->row) < b->limit;
}

uint64_t breaker_opened(const struct breaker *b)
{
    return b == NULL ? 0 : atomic_load(&b->opened);
}

void breaker_success(struct breaker *b)
{
    if (b != NULL)
        atomic_store(&b->row, 0);
}

void breaker_failure(struct breaker *b)
{
    int row;

    if (b == NULL)
        return;
    row = atomic_load(&b->row);
    while (row < b->limit && !atomic_compare_exchange_weak(&b->row, &row, row + 1))
        continue;
    if (row == b->limit - 1)
        atomic_fetch_add(&b->opened, 1);
}
