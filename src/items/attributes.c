/* attributes.c - reading one attribute's cells into a dictionary-coded column, then turning the
 * column round: for each value the rows that have it. */
#include "attributes.h"

#include <stdlib.h>
#include <string.h>

/* A cell may hold so many values: keeps the search for repeated ones short. */
#define VALUES_PER_ITEM_MAX 1024

const char *text_fault(const char *text, size_t len)
{
    unsigned char all = 0;

    if (len == 0)
        return "is empty";
    if (len > ITEMS_ID_MAX)
        return "is longer than 256 bytes";
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20 || c == 0x7f)
            return "holds a control character";
        all |= c;
    }
    if (all >= 0x80 && !utf8_valid(text, len))
        return "is not valid UTF-8";
    return NULL;
}

static int append(struct codes *c, uint32_t code, struct err *err)
{
    if (c->n == c->cap) {
        size_t cap = c->cap * 2 + 64;
        uint32_t *p = mem_try_array(cap, sizeof *p);

        if (p == NULL)
            return err_set(err, ERR_NOMEM, "out of memory");
        if (c->n > 0)
            memcpy(p, c->p, c->n * sizeof *p);
        free(c->p);
        c->p = p;
        c->cap = cap;
    }
    c->p[c->n++] = code;
    return 0;
}

/* Among the codes from `from` on. */
static bool has_code(const struct codes *c, size_t from, uint32_t code)
{
    for (size_t i = from; i < c->n; i++)
        if (c->p[i] == code)
            return true;
    return false;
}

static int add_value(struct attribute *a, const char *text, size_t len, size_t from,
                     struct err *err)
{
    const char *fault = text_fault(text, len);
    uint32_t code;

    if (fault != NULL)
        return err_set(err, ERR_FORMAT, "a value %s", fault);
    if (names_add(&a->values, text, len, &code, err) == -1)
        return -1;
    if (has_code(&a->codes, from, code))
        return 0;
    if (a->codes.n - from >= VALUES_PER_ITEM_MAX)
        return err_set(err, ERR_LIMIT, "more than %d values", VALUES_PER_ITEM_MAX);
    if (a->codes.n >= UINT32_MAX - 1)
        return err_set(err, ERR_LIMIT, "more than 4 thousand million values");
    return append(&a->codes, code, err);
}

int attribute_add(struct attribute *a, const char *cell, size_t len, struct err *err)
{
    const char *end = cell + len, *bar;
    size_t from = a->codes.n;

    if (append(&a->starts, (uint32_t)from, err) == -1)
        return -1;
    if (len == 0)
        return 0;
    for (; (bar = memchr(cell, '|', (size_t)(end - cell))) != NULL; cell = bar + 1)
        if (add_value(a, cell, (size_t)(bar - cell), from, err) == -1)
            return -1;
    return add_value(a, cell, (size_t)(end - cell), from, err);
}

static void trim(struct codes *c)
{
    uint32_t *p = c->n > 0 ? realloc(c->p, c->n * sizeof *p) : NULL;

    if (p != NULL) {
        c->p = p;
        c->cap = c->n;
    }
}

int attribute_finish(struct attribute *a, uint32_t first_row, struct err *err)
{
    size_t n_items = a->starts.n;
    uint32_t *starts;

    if (append(&a->starts, (uint32_t)a->codes.n, err) == -1)
        return -1;
    trim(&a->starts);
    trim(&a->codes);
    names_trim(&a->values);
    a->posting_starts = starts = mem_try_array(a->values.n + 2, sizeof *starts);
    a->postings = mem_try_array(a->codes.n, sizeof *a->postings);
    if (starts == NULL || a->postings == NULL)
        return err_set(err, ERR_NOMEM, "out of memory");
    /* A counting sort: starts[c + 2] counts value c, then starts[c + 1] is where its next row goes,
     * and in the end where it stops. */
    memset(starts, 0, (a->values.n + 2) * sizeof *starts);
    for (size_t i = 0; i < a->codes.n; i++)
        starts[a->codes.p[i] + 2]++;
    for (size_t c = 2; c < a->values.n + 2; c++)
        starts[c] += starts[c - 1];
    for (size_t item = 0; item < n_items; item++)
        for (uint32_t i = a->starts.p[item]; i < a->starts.p[item + 1]; i++)
            a->postings[starts[a->codes.p[i] + 1]++] = first_row + (uint32_t)item;
    return 0;
}

void attribute_clear(struct attribute *a)
{
    free(a->name);
    names_clear(&a->values);
    free(a->starts.p);
    free(a->codes.p);
    free(a->posting_starts);
    free(a->postings);
}

size_t attribute_memory(const struct attribute *a)
{
    return names_memory(&a->values) +
           (a->starts.cap + a->codes.cap + a->values.n + 2 + a->codes.n) * sizeof(uint32_t);
}
