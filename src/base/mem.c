/* mem.c - two kinds of allocation: small ones that never fail (they abort), and ones whose size
 * comes from outside, which are checked and may fail. */
#include "recalld/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64

static void *or_abort(void *p)
{
    if (p == NULL) {
        fputs("out of memory\n", stderr);
        abort();
    }
    return p;
}

/* ---- never fail ---------------------------------------------------------------- */

void *xmalloc(size_t size)
{
    return or_abort(malloc(size > 0 ? size : 1));
}

void *xcalloc(size_t n, size_t size)
{
    return or_abort(n > 0 && size > 0 ? calloc(n, size) : calloc(1, 1));
}

void *xrealloc(void *p, size_t size)
{
    return or_abort(realloc(p, size > 0 ? size : 1));
}

char *xstrndup(const char *s, size_t n)
{
    return or_abort(strndup(s, n));
}

char *xstrdup(const char *s)
{
    return or_abort(strdup(s));
}

char *xasprintf(const char *fmt, ...)
{
    va_list args;
    char *s;

    va_start(args, fmt);
    if (vasprintf(&s, fmt, args) == -1)
        s = NULL;
    va_end(args);
    return or_abort(s);
}

/* ---- may fail ------------------------------------------------------------------ */

/* Per thread, so that a test of one thread cannot fail an allocation of another. */
static _Thread_local unsigned fail_at;

void mem_test_fail_at(unsigned n)
{
    fail_at = n;
}

static bool must_fail(void)
{
    return fail_at > 0 && --fail_at == 0;
}

bool mem_product(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

void *mem_try_array(size_t n, size_t size)
{
    size_t bytes;

    if (must_fail() || !mem_product(n, size, &bytes) || bytes > PTRDIFF_MAX)
        return NULL;
    return malloc(bytes > 0 ? bytes : 1);
}

void *mem_try_aligned(size_t n, size_t size)
{
    size_t bytes;

    if (must_fail() || !mem_product(n, size, &bytes) || bytes > PTRDIFF_MAX - ALIGNMENT)
        return NULL;
    bytes = (bytes / ALIGNMENT + 1) * ALIGNMENT; /* aligned_alloc wants a multiple, and never 0 */
    return aligned_alloc(ALIGNMENT, bytes);
}
