/* items.c - items.tsv into memory, and the look-ups.
 *
 * Ids are numbered by row minus first row; rows between that have no id are empty names. */
#include "attributes.h"

#include <stdlib.h>
#include <string.h>

#define AHEAD 32 /* look-ups under way at once */

struct items {
    struct names ids;
    uint32_t first_row;
    bool escapes; /* some id needs them in JSON */
    struct attribute attributes[ITEMS_ATTRIBUTES_MAX];
    size_t n_attributes;
};

/* ---- reading the file ------------------------------------------------------------ */

struct load {
    struct items *it;
    struct reader in;
    size_t line_no;
    size_t rows; /* of the weights: what a row must stay below */
    struct err *err;
};

/* One line's fields, taken from left to right. */
struct fields {
    const char *p, *end;
    bool more;
};

static bool next_field(struct fields *f, const char **text, size_t *len)
{
    const char *tab;

    if (!f->more)
        return false;
    tab = memchr(f->p, '\t', (size_t)(f->end - f->p));
    *text = f->p;
    *len = (size_t)((tab == NULL ? f->end : tab) - f->p);
    f->more = tab != NULL;
    f->p = tab == NULL ? f->end : tab + 1;
    return true;
}

/* The last line may lack its newline, and then keeps a carriage return. */
static bool next_line(struct load *l, struct fields *f)
{
    const char *line;
    size_t len;

    if (!reader_line(&l->in, &line, &len))
        return false;
    if (len > 0 && line[len - 1] == '\r' && l->in.p == l->in.end && l->in.p[-1] == '\r')
        len--;
    l->line_no++;
    *f = (struct fields){line, line + len, true};
    return true;
}

static int at_line(struct load *l)
{
    return err_prefix(l->err, "%s: line %zu: ", l->in.name, l->line_no);
}

static int add_column(struct load *l, const char *name, size_t len)
{
    struct items *it = l->it;
    const char *fault = text_fault(name, len);

    if (fault != NULL)
        return err_set(l->err, ERR_FORMAT, "the name of column %zu %s", it->n_attributes + 3,
                       fault);
    if ((len == 3 && memcmp(name, "row", 3) == 0) || (len == 2 && memcmp(name, "id", 2) == 0) ||
        items_attribute(it, name, len) != -1)
        return err_set(l->err, ERR_FORMAT, "two columns are named %.*s", (int)len, name);
    if (it->n_attributes == ITEMS_ATTRIBUTES_MAX)
        return err_set(l->err, ERR_LIMIT, "more than %d attributes", ITEMS_ATTRIBUTES_MAX);
    it->attributes[it->n_attributes++].name = xstrndup(name, len);
    return 0;
}

static int read_header(struct load *l)
{
    static const char *const fixed[] = {"row", "id"};
    struct fields f = {0};
    const char *name;
    size_t len;

    if (!next_line(l, &f))
        return err_set(l->err, ERR_FORMAT, "%s: the file is empty", l->in.name);
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++)
        if (!next_field(&f, &name, &len) || len != strlen(fixed[i]) ||
            memcmp(name, fixed[i], len) != 0) {
            err_set(l->err, ERR_FORMAT, "the header must begin with the columns row and id");
            return at_line(l);
        }
    while (next_field(&f, &name, &len))
        if (add_column(l, name, len) == -1)
            return at_line(l);
    return 0;
}

static int read_row(struct load *l, const char *text, size_t len, uint32_t *row)
{
    const struct items *it = l->it;
    uint64_t v;

    if (!parse_u64(text, len, &v))
        return err_set(l->err, ERR_FORMAT, "the row is not a number");
    if (v >= l->rows || v >= ITEMS_NONE)
        return err_set(l->err, ERR_FORMAT, "row %llu is out of range, the model has %zu rows",
                       (unsigned long long)v, l->rows);
    *row = (uint32_t)v;
    if (it->ids.n > 0 && *row <= items_last_row(it))
        return err_set(l->err, ERR_FORMAT, "row %u follows row %u, rows must ascend", *row,
                       items_last_row(it));
    return 0;
}

/* Rows ascend, so the line of an earlier item is told by how many items stand before it. */
static size_t line_of(const struct items *it, uint32_t number)
{
    size_t line = 2;

    for (uint32_t i = 0; i < number; i++)
        line += it->ids.starts[i + 1] > it->ids.starts[i];
    return line;
}

static int skip_to(struct load *l, uint32_t row)
{
    struct items *it = l->it;

    if (it->ids.n == 0)
        it->first_row = row;
    while (it->first_row + it->ids.n < row) {
        if (!names_skip(&it->ids))
            return err_set(l->err, ERR_NOMEM, "out of memory");
        for (size_t a = 0; a < it->n_attributes; a++)
            if (attribute_add(&it->attributes[a], "", 0, l->err) == -1)
                return -1;
    }
    return 0;
}

static int read_id(struct load *l, const char *id, size_t len)
{
    const char *fault = text_fault(id, len);
    uint32_t number;
    int added;

    if (fault != NULL)
        return err_set(l->err, len > ITEMS_ID_MAX ? ERR_LIMIT : ERR_FORMAT, "the id %s", fault);
    l->it->escapes |= !json_plain(id, len);
    added = names_add(&l->it->ids, id, len, &number, l->err);
    if (added == 0)
        return err_set(l->err, ERR_FORMAT, "id %.*s is already on line %zu", (int)len, id,
                       line_of(l->it, number));
    return added == 1 ? 0 : -1;
}

static int wrong_fields(struct load *l, struct fields *f, size_t n)
{
    const char *text;
    size_t len;

    while (next_field(f, &text, &len))
        n++;
    return err_set(l->err, ERR_FORMAT, "%zu fields where the header has %zu", n,
                   l->it->n_attributes + 2);
}

static int read_item(struct load *l, struct fields *f)
{
    const char *row_text, *id, *cell;
    size_t row_len, id_len, len;
    uint32_t row = 0;

    if (!next_field(f, &row_text, &row_len))
        return -1; /* not reached: a line has at least one field */
    if (!next_field(f, &id, &id_len))
        return wrong_fields(l, f, 1);
    if (read_row(l, row_text, row_len, &row) == -1 || skip_to(l, row) == -1 ||
        read_id(l, id, id_len) == -1)
        return -1;
    for (size_t a = 0; a < l->it->n_attributes; a++) {
        if (!next_field(f, &cell, &len))
            return wrong_fields(l, f, a + 2);
        if (attribute_add(&l->it->attributes[a], cell, len, l->err) == -1)
            return err_prefix(l->err, "%s: ", l->it->attributes[a].name);
    }
    return f->more ? wrong_fields(l, f, l->it->n_attributes + 2) : 0;
}

static size_t count_lines(const struct reader *in)
{
    const uint8_t *p = in->p;
    size_t n = 1;

    while (p < in->end && (p = memchr(p, '\n', (size_t)(in->end - p))) != NULL) {
        n++;
        p++;
    }
    return n;
}

static int read_items(struct load *l)
{
    struct items *it = l->it;
    size_t lines = count_lines(&l->in);
    struct fields f;

    /* As much as the file can need; what stays unused was never touched, and is given back. */
    if (!names_reserve(&it->ids, l->rows, lines < l->rows ? lines : l->rows, reader_left(&l->in)))
        return err_set(l->err, ERR_NOMEM, "%s: out of memory for %zu items", l->in.name, lines);
    while (next_line(l, &f))
        if (read_item(l, &f) == -1)
            return at_line(l);
    if (it->ids.n == 0)
        return err_set(l->err, ERR_FORMAT, "%s: no items", l->in.name);
    names_trim(&it->ids);
    for (size_t a = 0; a < it->n_attributes; a++)
        if (attribute_finish(&it->attributes[a], it->first_row, l->err) == -1)
            return err_prefix(l->err, "%s: %s: ", l->in.name, it->attributes[a].name);
    return 0;
}

struct items *items_load(const char *name, const void *bytes, size_t len, size_t rows,
                         struct err *err)
{
    struct items *it = xcalloc(1, sizeof *it);
    struct load l = {.it = it, .rows = rows, .err = err};

    reader_init(&l.in, name, bytes, len);
    if (read_header(&l) == 0 && read_items(&l) == 0)
        return it;
    items_free(it);
    return NULL;
}

void items_free(struct items *it)
{
    if (it == NULL)
        return;
    names_clear(&it->ids);
    for (size_t a = 0; a < it->n_attributes; a++)
        attribute_clear(&it->attributes[a]);
    free(it);
}

/* ---- items ----------------------------------------------------------------------- */

size_t items_count(const struct items *it)
{
    return it->ids.used;
}

size_t items_memory(const struct items *it)
{
    size_t sum = sizeof *it + names_memory(&it->ids);

    for (size_t a = 0; a < it->n_attributes; a++)
        sum += attribute_memory(&it->attributes[a]);
    return sum;
}

uint32_t items_first_row(const struct items *it)
{
    return it->first_row;
}

uint32_t items_last_row(const struct items *it)
{
    return it->first_row + (uint32_t)it->ids.n - 1;
}

uint32_t items_row(const struct items *it, const char *id, size_t len)
{
    uint32_t number = len > 0 ? names_find(&it->ids, id, len) : ITEMS_NONE;

    return number == ITEMS_NONE ? ITEMS_NONE : it->first_row + number;
}

void items_rows(const struct items *it, const struct str *ids, size_t n, uint32_t *rows)
{
    names_find_all(&it->ids, ids, n, rows);
    for (size_t i = 0; i < n; i++)
        if (rows[i] != ITEMS_NONE)
            rows[i] += it->first_row;
}

bool items_plain(const struct items *it)
{
    return !it->escapes;
}

const char *items_id(const struct items *it, uint32_t row, size_t *len)
{
    *len = 0;
    return row < it->first_row ? NULL : names_text(&it->ids, row - it->first_row, len);
}

void items_ids(const struct items *it, const uint32_t *rows, size_t stride, size_t n,
               struct str *ids)
{
    const char *to_come = (const char *)rows, *at = to_come;

    for (size_t i = 0; i < n + AHEAD; i++) {
        if (i < n) {
            names_prefetch(&it->ids, *(const uint32_t *)to_come - it->first_row);
            to_come += stride;
        }
        if (i < AHEAD)
            continue;
        ids[i - AHEAD].p = items_id(it, *(const uint32_t *)at, &ids[i - AHEAD].len);
        __builtin_prefetch(ids[i - AHEAD].p);
        at += stride;
    }
}

/* ---- attributes ------------------------------------------------------------------ */

size_t items_attributes(const struct items *it)
{
    return it->n_attributes;
}

const char *items_attribute_name(const struct items *it, size_t attribute)
{
    return it->attributes[attribute].name;
}

int items_attribute(const struct items *it, const char *name, size_t len)
{
    for (size_t a = 0; a < it->n_attributes; a++)
        if (strlen(it->attributes[a].name) == len && memcmp(it->attributes[a].name, name, len) == 0)
            return (int)a;
    return -1;
}

size_t items_value_count(const struct items *it, size_t attribute)
{
    return it->attributes[attribute].values.n;
}

uint32_t items_value(const struct items *it, size_t attribute, const char *text, size_t len)
{
    return len > 0 ? names_find(&it->attributes[attribute].values, text, len) : ITEMS_NONE;
}

const char *items_value_text(const struct items *it, size_t attribute, uint32_t code, size_t *len)
{
    return names_text(&it->attributes[attribute].values, code, len);
}

const uint32_t *items_values(const struct items *it, size_t attribute, uint32_t row, size_t *n)
{
    const struct attribute *a = &it->attributes[attribute];

    *n = 0;
    if (row < it->first_row || row > items_last_row(it))
        return NULL;
    row -= it->first_row;
    *n = a->starts.p[row + 1] - a->starts.p[row];
    return *n > 0 ? a->codes.p + a->starts.p[row] : NULL;
}

const uint32_t *items_postings(const struct items *it, size_t attribute, uint32_t code, size_t *n)
{
    const struct attribute *a = &it->attributes[attribute];

    *n = 0;
    if (code >= a->values.n)
        return NULL;
    *n = a->posting_starts[code + 1] - a->posting_starts[code];
    return a->postings + a->posting_starts[code];
}
