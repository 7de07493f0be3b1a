/* zip.c - the directory of a zip file (PKWARE's APPNOTE 6.3, sections 4.3 and 4.5.3). */
#include "zip.h"
#include "format.h"

#include <stdlib.h>
#include <string.h>

#define END_SIZE 22
#define END64_SIZE 56
#define LOCATOR_SIZE 20
#define ENTRY_SIZE 46
#define LOCAL_SIZE 30
#define COMMENT_MAX 65535
#define ENTRIES_MAX 1000000
#define NOT_HERE 0xffffffffu /* the number is in the zip64 part */

struct scan {
    const char *name;
    const uint8_t *bytes;
    size_t len;
    struct err *err;
};

static int refuse(const struct scan *s, size_t at, const char *why)
{
    return err_set(s->err, ERR_FORMAT, "%s: offset %zu: %s", s->name, at, why);
}

static uint64_t number(const uint8_t *p, int width)
{
    uint64_t v = 0;

    for (int i = width; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static bool has_signature(const struct scan *s, size_t at, size_t size, uint32_t signature)
{
    return at <= s->len && size <= s->len - at && number(s->bytes + at, 4) == signature;
}

/* ---- the end record ----------------------------------------------------------------- */

struct directory {
    uint64_t at, size, n;
};

/* The end record is the last one whose comment reaches to the end of the file. */
static int find_end(const struct scan *s, size_t *at)
{
    size_t least = s->len > END_SIZE + COMMENT_MAX ? s->len - END_SIZE - COMMENT_MAX : 0;

    for (size_t i = s->len >= END_SIZE ? s->len - END_SIZE + 1 : 0; i-- > least;)
        if (has_signature(s, i, END_SIZE, 0x06054b50) &&
            i + END_SIZE + number(s->bytes + i + 20, 2) == s->len) {
            *at = i;
            return 0;
        }
    return err_set(s->err, ERR_FORMAT, "%s: the zip file has no end record: it was cut short",
                   s->name);
}

static int read_end64(const struct scan *s, size_t end, struct directory *d)
{
    uint64_t at;

    if (end < LOCATOR_SIZE || !has_signature(s, end - LOCATOR_SIZE, LOCATOR_SIZE, 0x07064b50))
        return refuse(s, end, "the zip64 locator is missing");
    at = number(s->bytes + end - LOCATOR_SIZE + 8, 8);
    if (at > s->len || !has_signature(s, (size_t)at, END64_SIZE, 0x06064b50))
        return refuse(s, end - LOCATOR_SIZE, "the zip64 end record is not where it should be");
    d->n = number(s->bytes + at + 32, 8);
    d->size = number(s->bytes + at + 40, 8);
    d->at = number(s->bytes + at + 48, 8);
    return 0;
}

static int find_directory(const struct scan *s, struct directory *d)
{
    size_t end = 0;

    if (find_end(s, &end) == -1)
        return -1;
    d->n = number(s->bytes + end + 10, 2);
    d->size = number(s->bytes + end + 12, 4);
    d->at = number(s->bytes + end + 16, 4);
    if ((d->n == 0xffff || d->size == NOT_HERE || d->at == NOT_HERE) && read_end64(s, end, d) == -1)
        return -1;
    if (d->at > end || d->size > end - d->at)
        return refuse(s, end, "the directory lies outside of the file");
    if (d->n > ENTRIES_MAX || d->n * ENTRY_SIZE > d->size)
        return refuse(s, end, "the directory is too small for its number of entries");
    return 0;
}

/* ---- one entry ------------------------------------------------------------------------ */

struct sizes {
    uint64_t stored, plain, at;
};

/* Numbers that do not fit are in the extra field 1, in this order. */
static int read_extra64(const struct scan *s, const uint8_t *extra, size_t len, struct sizes *z)
{
    uint64_t *const wanted[] = {&z->plain, &z->stored, &z->at};
    size_t at = (size_t)(extra - s->bytes);

    while (len >= 4) {
        size_t id = (size_t)number(extra, 2), size = (size_t)number(extra + 2, 2);

        if (size > len - 4)
            return refuse(s, at, "an extra field is longer than its entry");
        extra += 4;
        len -= 4;
        for (size_t i = 0, used = 0; id == 1 && i < ARRAY_LEN(wanted); i++)
            if (*wanted[i] == NOT_HERE) {
                if (used + 8 > size)
                    return refuse(s, at, "the zip64 field is too short");
                *wanted[i] = number(extra + used, 8);
                used += 8;
            }
        extra += size;
        len -= size;
    }
    return 0;
}

/* The data follow the local header, whose name and extra field may be other than the directory's.
 */
static int locate(const struct scan *s, const struct sizes *z, struct zip_entry *e, size_t at)
{
    uint64_t data;

    if (z->at > s->len || !has_signature(s, (size_t)z->at, LOCAL_SIZE, 0x04034b50))
        return refuse(s, at, "an entry's local header is not where it should be");
    data = z->at + LOCAL_SIZE + number(s->bytes + z->at + 26, 2) + number(s->bytes + z->at + 28, 2);
    if (data > s->len || z->plain > s->len - data)
        return refuse(s, at, "an entry is longer than the file");
    if (e->stored && z->stored != z->plain)
        return refuse(s, at, "a stored entry has two sizes");
    e->len = (size_t)z->plain;
    e->data = s->bytes + data;
    return 0;
}

/* Reads the entry at *at and moves on to the next. */
static int read_entry(const struct scan *s, size_t *at, size_t end, struct zip_entry *e)
{
    const uint8_t *p = s->bytes + *at;
    size_t name, extra, comment;
    struct sizes z;

    if (end - *at < ENTRY_SIZE || number(p, 4) != 0x02014b50)
        return refuse(s, *at, "an entry of the directory is damaged");
    name = (size_t)number(p + 28, 2);
    extra = (size_t)number(p + 30, 2);
    comment = (size_t)number(p + 32, 2);
    if (name + extra + comment > end - *at - ENTRY_SIZE)
        return refuse(s, *at, "an entry of the directory is longer than the directory");
    z = (struct sizes){number(p + 20, 4), number(p + 24, 4), number(p + 42, 4)};
    e->name = (struct str){(const char *)p + ENTRY_SIZE, name};
    e->crc = (uint32_t)number(p + 16, 4);
    e->stored = number(p + 10, 2) == 0 && (number(p + 8, 2) & 1) == 0;
    if (read_extra64(s, p + ENTRY_SIZE + name, extra, &z) == -1)
        return -1;
    if (e->stored && locate(s, &z, e, *at) == -1)
        return -1;
    *at += ENTRY_SIZE + name + extra + comment;
    return 0;
}

/* ---- all of them ---------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct zip_entry *x = a, *y = b;

    return str_order(x->name, y->name);
}

static int read_entries(struct zip *z, const struct scan *s, const struct directory *d)
{
    size_t at = (size_t)d->at, end = (size_t)(d->at + d->size);

    z->entries = xcalloc((size_t)d->n + 1, sizeof *z->entries);
    for (; z->n < d->n; z->n++)
        if (read_entry(s, &at, end, &z->entries[z->n]) == -1)
            return -1;
    qsort(z->entries, z->n, sizeof *z->entries, by_name);
    for (size_t i = 1; i < z->n; i++)
        if (by_name(&z->entries[i - 1], &z->entries[i]) == 0)
            return err_set(s->err, ERR_FORMAT, "%s: the zip file has two entries named %.*s",
                           s->name,
                           (int)(z->entries[i].name.len < 255 ? z->entries[i].name.len : 255),
                           z->entries[i].name.p);
    return 0;
}

int zip_open(struct zip *z, const char *name, const uint8_t *bytes, size_t len, struct err *err)
{
    struct scan s = {name, bytes, len, err};
    struct directory d = {0, 0, 0};

    *z = (struct zip){NULL, 0};
    if (find_directory(&s, &d) == 0 && read_entries(z, &s, &d) == 0)
        return 0;
    zip_clear(z);
    return -1;
}

void zip_clear(struct zip *z)
{
    free(z->entries);
    *z = (struct zip){NULL, 0};
}

const struct zip_entry *zip_find(const struct zip *z, struct str name)
{
    struct zip_entry key = {.name = name};

    return z->n == 0 ? NULL : bsearch(&key, z->entries, z->n, sizeof key, by_name);
}
