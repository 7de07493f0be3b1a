/* items.h - which item is which row: external ids to rows and back, and attributes.
 *
 * External ids are byte strings, compared exactly (at most 256 bytes of UTF-8). Attributes are
 * dictionary-coded columns; an item may have several values of one. Read from items.tsv; never
 * changes after loading, any thread may read.
 *
 * Memory per item: the id's bytes and 10 more (5 million ids of 9.9 bytes: 19.9 each, loaded at 4
 * million a second); for an attribute with one value each, 12 more (4 and 8 for each value). A row
 * between the first and the last that has no id costs 4, and 4 more per attribute. Limits: 4 GiB of
 * id text, 1024 values of one attribute per item, 256 bytes each. */
#ifndef RECALLD_ITEMS_H
#define RECALLD_ITEMS_H

#include "recalld/base.h"

#define ITEMS_NONE UINT32_MAX
#define ITEMS_ID_MAX 256
#define ITEMS_ATTRIBUTES_MAX 32

struct items;

/* items.tsv: a header line `row <tab> id [<tab> attribute ...]` naming the columns, then one line
 * per item: row (below `rows`, ascending), external id (unique), attribute values (several joined
 * by '|', empty = none). Errors name `name`, line and reason. `bytes` is borrowed for the call
 * only. */
struct items *items_load(const char *name, const void *bytes, size_t len, size_t rows,
                         struct err *err) WARN_UNUSED;
void items_free(struct items *it);

size_t items_count(const struct items *it);       /* items with an id */
size_t items_memory(const struct items *it);      /* bytes held */
uint32_t items_first_row(const struct items *it); /* lowest and highest row with an id */
uint32_t items_last_row(const struct items *it);

/* ITEMS_NONE when unknown. */
uint32_t items_row(const struct items *it, const char *id, size_t len);
/* The same for n ids, with the waiting for memory overlapped. */
void items_rows(const struct items *it, const struct str *ids, size_t n, uint32_t *rows);
/* NULL when the row has no id; not NUL-terminated. */
const char *items_id(const struct items *it, uint32_t row, size_t *len);
/* The same for n rows, rows[0], rows[stride bytes further] ..., with the waiting for memory
 * overlapped: the ids are on their way into the cache on return. */
void items_ids(const struct items *it, const uint32_t *rows, size_t stride, size_t n,
               struct str *ids);
/* True when no id needs escaping within a JSON string. */
bool items_plain(const struct items *it);

size_t items_attributes(const struct items *it);
const char *items_attribute_name(const struct items *it, size_t attribute);
int items_attribute(const struct items *it, const char *name,
                    size_t len); /* -1 when there is none */
size_t items_value_count(const struct items *it, size_t attribute);
/* The code of a value, ITEMS_NONE when no item has it; and its text. */
uint32_t items_value(const struct items *it, size_t attribute, const char *text, size_t len);
const char *items_value_text(const struct items *it, size_t attribute, uint32_t code, size_t *len);
/* The codes of one row's values; *n may be 0. */
const uint32_t *items_values(const struct items *it, size_t attribute, uint32_t row, size_t *n);
/* The rows that have a value, ascending. */
const uint32_t *items_postings(const struct items *it, size_t attribute, uint32_t code, size_t *n);

#endif
