/* attributes.h - one attribute of all items as a dictionary-coded column, and its inverse. */
#ifndef RECALLD_ITEMS_ATTRIBUTES_H
#define RECALLD_ITEMS_ATTRIBUTES_H

#include "names.h"

/* A list of uint32_t that grows while the file is read. */
struct codes {
    uint32_t *p;
    size_t n, cap;
};

struct attribute {
    char *name;
    struct names values; /* the dictionary: a value's code is its number here */
    struct codes starts; /* (items + 1): item i has codes.p[starts.p[i]] .. [starts.p[i + 1]] */
    struct codes codes;
    uint32_t *posting_starts; /* (values + 1) */
    uint32_t *postings;       /* rows, ascending within a value */
};

/* Takes the values of the next item from one cell: joined by '|', "" = none. */
int attribute_add(struct attribute *a, const char *cell, size_t len, struct err *err) WARN_UNUSED;
/* After the last item: gives back spare memory and builds the postings; item 0 is row `first_row`.
 */
int attribute_finish(struct attribute *a, uint32_t first_row, struct err *err) WARN_UNUSED;
void attribute_clear(struct attribute *a);
size_t attribute_memory(const struct attribute *a);

/* What is wrong with a text from outside, or NULL: shared by ids, values and column names. */
const char *text_fault(const char *text, size_t len);

#endif
