/* sstable.c - a table of sorted keys: data blocks, an index block, a footer (LevelDB,
 * doc/table_format.md). A key is stored as what differs from the one before it. */
#include "sstable.h"
#include "crc32c.h"

#include <string.h>

#define FOOTER_SIZE 48
#define TRAILER_SIZE 5 /* type and checksum behind a block */
#define KEY_MAX 4096

struct table {
    const char *name;
    const uint8_t *bytes;
    size_t len;
    int (*each)(void *arg, struct str key, struct str value);
    void *arg;
    struct err *err;
    uint64_t next; /* where the next data block may begin: they lie one behind the other */
};

static int refuse(struct table *t, size_t at, const char *why)
{
    return err_set(t->err, ERR_FORMAT, "%s: offset %zu: %s", t->name, at, why);
}

bool read_varint(struct reader *r, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 64 && reader_left(r) > 0; shift += 7) {
        uint8_t byte = *r->p++;

        if (shift == 63 && byte > 1)
            return false;
        *v |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* ---- blocks --------------------------------------------------------------------- */

struct handle {
    uint64_t at, size;
};

static bool read_handle(struct reader *r, struct handle *h)
{
    return read_varint(r, &h->at) && read_varint(r, &h->size);
}

/* The contents of a block, without the list of restart points at its end. */
static int open_block(struct table *t, struct handle h, struct reader *r)
{
    size_t room = t->len - FOOTER_SIZE, size = (size_t)h.size;
    const uint8_t *p;
    uint32_t restarts, stored;

    if (h.at > room || h.size > room - h.at || room - h.at - h.size < TRAILER_SIZE || h.size < 4)
        return refuse(t, t->len - FOOTER_SIZE, "a block lies outside of the file");
    p = t->bytes + h.at;
    memcpy(&stored, p + size + 1, sizeof stored);
    if (crc32c_mask(crc32c(0, p, size + 1)) != stored)
        return refuse(t, (size_t)h.at, "a block's checksum is wrong: the file is damaged");
    if (p[size] != 0)
        return refuse(t, (size_t)h.at, "a block is compressed, which TensorFlow does not do");
    memcpy(&restarts, p + size - 4, sizeof restarts);
    if (restarts > (size - 4) / 4)
        return refuse(t, (size_t)h.at, "a block's list of restart points is too long");
    reader_init(r, t->name, t->bytes, (size_t)h.at + size - 4 - 4 * (size_t)restarts);
    r->p = p;
    return 0;
}

struct key {
    char text[KEY_MAX];
    size_t len;
};

/* The next entry; *key holds the one before it and becomes this one's. */
static int next_entry(struct table *t, struct reader *r, struct key *key, struct str *value)
{
    size_t at = (size_t)(r->p - r->start);
    uint64_t shared, rest, len;

    if (!read_varint(r, &shared) || !read_varint(r, &rest) || !read_varint(r, &len))
        return refuse(t, at, "an entry is cut short");
    if (shared > key->len || rest > KEY_MAX - shared)
        return refuse(t, at, "an entry's key is too long");
    if (rest > reader_left(r) || len > reader_left(r) - rest)
        return refuse(t, at, "an entry is longer than its block");
    memcpy(key->text + shared, r->p, (size_t)rest);
    key->len = (size_t)(shared + rest);
    *value = (struct str){(const char *)r->p + rest, (size_t)len};
    r->p += rest + len;
    return 0;
}

static int read_block(struct table *t, struct handle h,
                      int (*each)(struct table *, struct str key, struct str value))
{
    struct key key = {.len = 0};
    struct str value;
    struct reader r;

    if (open_block(t, h, &r) == -1)
        return -1;
    while (reader_left(&r) > 0) {
        if (next_entry(t, &r, &key, &value) == -1 ||
            each(t, (struct str){key.text, key.len}, value) == -1)
            return -1;
    }
    return 0;
}

/* ---- the table ------------------------------------------------------------------ */

static int give(struct table *t, struct str key, struct str value)
{
    return t->each(t->arg, key, value);
}

/* An entry of the index block: its value says where a data block is. */
static int read_data(struct table *t, struct str key, struct str value)
{
    struct handle h;
    struct reader r;

    (void)key;
    reader_init(&r, t->name, value.p, value.len);
    if (!read_handle(&r, &h))
        return refuse(t, (size_t)((const uint8_t *)value.p - t->bytes), "a handle is damaged");
    if (h.at < t->next)
        return refuse(t, (size_t)((const uint8_t *)value.p - t->bytes), "two blocks overlap");
    if (read_block(t, h, give) == -1)
        return -1;
    t->next = h.at + h.size;
    return 0;
}

int sstable_read(const char *name, const uint8_t *bytes, size_t len,
                 int (*each)(void *arg, struct str key, struct str value), void *arg,
                 struct err *err)
{
    struct table t = {name, bytes, len, each, arg, err, 0};
    struct handle meta, index;
    struct reader r;

    if (len < FOOTER_SIZE)
        return refuse(&t, 0, "too short for a table");
    reader_init(&r, name, bytes + len - FOOTER_SIZE, FOOTER_SIZE);
    if (!read_handle(&r, &meta) || !read_handle(&r, &index))
        return refuse(&t, len - FOOTER_SIZE, "the footer is damaged");
    return read_block(&t, index, read_data);
}
