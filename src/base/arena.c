/* arena.c - memory that is handed out piece by piece and given back all at once.
 *
 * A round that outgrows its chunk gets further, larger ones; the reset after it replaces them by
 * one chunk of their total size, so after a few rounds every allocation is an addition. The memory
 * stays at the size of the largest round so far. Under AddressSanitizer what is not handed out is
 * poisoned: writing past a piece is caught as with malloc. */
#include "recalld/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#define FORBID(p, size) ASAN_POISON_MEMORY_REGION(p, size)
#define PERMIT(p, size) ASAN_UNPOISON_MEMORY_REGION(p, size)
#else
#define FORBID(p, size) ((void)(p), (void)(size))
#define PERMIT(p, size) ((void)(p), (void)(size))
#endif

#define ALIGNMENT ((size_t)64)
#define CHUNK_MIN ((size_t)64 * 1024)

struct arena_chunk {
    struct arena_chunk *next;
    size_t size, used;
    _Alignas(ALIGNMENT) unsigned char bytes[];
};

static struct arena_chunk *chunk_new(size_t size)
{
    struct arena_chunk *c = NULL;

    if (size <= PTRDIFF_MAX - sizeof *c)
        c = aligned_alloc(ALIGNMENT, sizeof *c + size);
    if (c == NULL) {
        fputs("out of memory\n", stderr);
        abort();
    }
    c->next = NULL;
    c->size = size;
    c->used = 0;
    FORBID(c->bytes, size);
    return c;
}

static void add_chunk(struct arena *a, size_t size)
{
    struct arena_chunk *c;
    size_t wanted = a->current == NULL ? CHUNK_MIN : 2 * a->current->size;

    c = chunk_new(size > wanted ? size : wanted);
    if (a->current == NULL)
        a->first = c;
    else
        a->current->next = c;
    a->current = c;
}

void *arena_alloc(struct arena *a, size_t size)
{
    size_t rounded = size <= ALIGNMENT ? ALIGNMENT : (size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    void *p;

    if (rounded < size) /* the rounding overflowed: let chunk_new refuse it */
        rounded = SIZE_MAX & ~(ALIGNMENT - 1);
    if (a->current == NULL || rounded > a->current->size - a->current->used)
        add_chunk(a, rounded);
    p = a->current->bytes + a->current->used;
    a->current->used += rounded;
    PERMIT(p, size);
    return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = arena_alloc(a, len + 1);

    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

void arena_reset(struct arena *a)
{
    size_t total = 0;

    if (a->first == NULL)
        return;
    if (a->first->next != NULL) {
        for (struct arena_chunk *c = a->first; c != NULL; c = c->next)
            total += c->size;
        arena_clear(a);
        a->first = a->current = chunk_new(total);
    }
    a->first->used = 0;
    FORBID(a->first->bytes, a->first->size);
}

void arena_trim(struct arena *a, size_t keep)
{
    size_t total = 0;

    for (struct arena_chunk *c = a->first; c != NULL; c = c->next)
        total += c->size;
    if (total > keep)
        arena_clear(a);
}

void arena_clear(struct arena *a)
{
    for (struct arena_chunk *c = a->first, *next; c != NULL; c = next) {
        next = c->next;
        free(c);
    }
    a->first = a->current = NULL;
}
