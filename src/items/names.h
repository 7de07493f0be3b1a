/* names.h - numbered byte strings: number to text and text to number, compactly.
 *
 * The texts stand one after the other in a blob. The table maps text to number by open addressing;
 * a slot is one uint32_t: the number in its low bits, and in the bits that numbers this large do
 * not need, part of the text's hash, so that a probe rarely has to look at a text that differs. */
#ifndef RECALLD_ITEMS_NAMES_H
#define RECALLD_ITEMS_NAMES_H

#include "recalld/items.h"

struct names {
    char *text;
    size_t text_len, text_cap;
    uint32_t *starts; /* (n + 1): name i is text[starts[i]] .. text[starts[i + 1]] */
    size_t n, cap;
    uint32_t *table;
    size_t slots, used;
    unsigned number_bits;
};
#define NAMES_INIT                            \
    {                                         \
        NULL, 0, 0, NULL, 0, 0, NULL, 0, 0, 0 \
    }

/* Makes room for numbers below `numbers`, of which `used` have a text, `bytes` in all. Growing
 * later is possible and slower. False when memory is out. */
bool names_reserve(struct names *s, size_t numbers, size_t used, size_t bytes) WARN_UNUSED;
/* 1: added as number s->n - 1; 0: it was there, as *number; -1: *err set (NOMEM, LIMIT: 4 GiB). */
int names_add(struct names *s, const char *text, size_t len, uint32_t *number, struct err *err)
    WARN_UNUSED;
/* The next number gets no text. False when the reserved numbers are used up. */
bool names_skip(struct names *s) WARN_UNUSED;
/* Gives back what was reserved and not used. */
void names_trim(struct names *s);
void names_clear(struct names *s);

uint32_t names_find(const struct names *s, const char *text, size_t len); /* or ITEMS_NONE */
/* The same for n texts, with the waiting for memory overlapped. */
void names_find_all(const struct names *s, const struct str *texts, size_t n, uint32_t *numbers);

static inline const char *names_text(const struct names *s, uint32_t number, size_t *len)
{
    *len = 0;
    if (number >= s->n)
        return NULL;
    *len = s->starts[number + 1] - s->starts[number];
    return *len > 0 ? s->text + s->starts[number] : NULL;
}
/* A hint that names_text will be asked for it; any number is allowed. */
static inline void names_prefetch(const struct names *s, uint32_t number)
{
    if (number < s->n)
        __builtin_prefetch(&s->starts[number]);
}
size_t names_memory(const struct names *s);

#endif
