/* tensorflow.c - reads what tf.train.Saver and SavedModel write: a table of variables in `.index`,
 * their bytes in `.data-XXXXX-of-YYYYY`.
 *
 * The table maps a name to a BundleEntryProto: dtype, shape, file, offset, size, checksum. A
 * variable that was partitioned has an entry without data that lists its slices; each slice has an
 * entry of its own, under a key made of the name and where the slice begins. */
#include "crc32c.h"
#include "format.h"
#include "sstable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX ".index"
#define VALUE_SUFFIX "/.ATTRIBUTES/VARIABLE_VALUE" /* of TensorFlow 2, behind every name */
#define FILES_MAX 99999                            /* five digits */
#define NAMES_MAX 16     /* bytes of names per byte of the table, which stores only differences */
#define SLICES_MAX 10000 /* of a variable: each is compared with all others */

struct entry {
    struct str key;
    uint64_t dtype, shape[CKPT_MAX_DIMS], n_dims;
    uint64_t file, offset, size;
    uint32_t crc;
    struct str slices; /* the whole record, when it has some */
};

struct load {
    struct ckpt *c;
    struct err *err;
    uint64_t n_files;
    bool has_header;
    struct entry *entries; /* in the order of their keys */
    size_t n, room;
    size_t names;  /* bytes of all keys */
    uint64_t used; /* bytes of the data files that entries have laid claim to */
};

static int refuse(struct load *l, struct str key, const char *why)
{
    return err_set(l->err, ERR_FORMAT, "%s: %.*s: %s", l->c->name,
                   (int)(key.len < 200 ? key.len : 200), key.p, why);
}

/* ---- protocol buffers -------------------------------------------------------------- */

struct field {
    uint64_t number, wire, value; /* of varint and fixed32 fields */
    struct str bytes;             /* of length-delimited ones */
};

/* False at the end; *bad when the message is damaged. */
static bool next_field(struct reader *r, struct field *f, bool *bad)
{
    uint64_t tag, len;
    uint32_t word;

    if (reader_left(r) == 0)
        return false;
    *bad = true;
    if (!read_varint(r, &tag))
        return false;
    f->number = tag >> 3;
    f->wire = tag & 7;
    switch (f->wire) {
    case 0:
        *bad = !read_varint(r, &f->value);
        break;
    case 1:
        *bad = !reader_u64le(r, &f->value);
        break;
    case 2:
        if (read_varint(r, &len) && len <= reader_left(r)) {
            f->bytes = (struct str){(const char *)r->p, (size_t)len};
            r->p += len;
            *bad = false;
        }
        break;
    case 5:
        *bad = !reader_u32le(r, &word);
        f->value = word;
        break;
    default:
        break;
    }
    return !*bad;
}

/* TensorShapeProto { repeated Dim { int64 size = 1 } = 2 } */
static bool read_shape(struct str bytes, struct entry *e)
{
    struct reader r, dim;
    struct field f = {0}, size = {0};
    bool bad = false, bad_dim = false;

    reader_init(&r, NULL, bytes.p, bytes.len);
    while (next_field(&r, &f, &bad)) {
        if (f.number != 2 || f.wire != 2)
            continue;
        if (e->n_dims == CKPT_MAX_DIMS)
            return false;
        e->shape[e->n_dims] = 0;
        reader_init(&dim, NULL, f.bytes.p, f.bytes.len);
        while (next_field(&dim, &size, &bad_dim))
            if (size.number == 1 && size.wire == 0)
                e->shape[e->n_dims] = size.value;
        if (bad_dim)
            return false;
        e->n_dims++;
    }
    return !bad;
}

/* BundleEntryProto { dtype = 1, shape = 2, shard_id = 3, offset = 4, size = 5, crc32c = 6,
 * slices = 7 } */
static bool read_entry(struct str value, struct entry *e)
{
    struct reader r;
    struct field f = {0};
    bool bad = false;

    reader_init(&r, NULL, value.p, value.len);
    while (next_field(&r, &f, &bad)) {
        if (f.number == 2 && f.wire == 2 && !read_shape(f.bytes, e))
            return false;
        if (f.number == 7 && f.wire == 2)
            e->slices = value;
        if (f.wire == 2)
            continue;
        switch (f.number) {
        case 1:
            e->dtype = f.value;
            break;
        case 3:
            e->file = f.value;
            break;
        case 4:
            e->offset = f.value;
            break;
        case 5:
            e->size = f.value;
            break;
        case 6:
            e->crc = (uint32_t)f.value;
            break;
        default:
            break;
        }
    }
    return !bad;
}

/* BundleHeaderProto { num_shards = 1, endianness = 2 } */
static int read_header(struct load *l, struct str value)
{
    struct reader r;
    struct field f = {0};
    bool bad = false, big = false;

    reader_init(&r, NULL, value.p, value.len);
    while (next_field(&r, &f, &bad)) {
        if (f.number == 1 && f.wire == 0)
            l->n_files = f.value;
        if (f.number == 2 && f.wire == 0)
            big = f.value != 0;
    }
    if (bad || l->n_files < 1 || l->n_files > FILES_MAX)
        return err_set(l->err, ERR_FORMAT, "%s: the header is damaged", l->c->name);
    if (big)
        return err_set(l->err, ERR_FORMAT, "%s: big-endian numbers are not read", l->c->name);
    l->has_header = true;
    return 0;
}

/* The key of a slice begins with a NUL. */
static struct str copy_key(struct load *l, struct str key)
{
    char *copy = arena_alloc(&l->c->text, key.len);

    memcpy(copy, key.p, key.len);
    return (struct str){copy, key.len};
}

static int take_entry(void *arg, struct str key, struct str value)
{
    struct load *l = arg;
    struct entry *e;

    if (key.len == 0)
        return read_header(l, value);
    if (l->n == CKPT_MAX_TENSORS)
        return err_set(l->err, ERR_LIMIT, "%s: more than %d tensors", l->c->name, CKPT_MAX_TENSORS);
    if (l->n == l->room) {
        l->room = l->room == 0 ? 64 : 2 * l->room;
        l->entries = xrealloc(l->entries, l->room * sizeof *l->entries);
    }
    l->names += key.len;
    if (l->names / NAMES_MAX > l->c->len)
        return err_set(l->err, ERR_LIMIT, "%s: names of more than %d times the file's size",
                       l->c->name, NAMES_MAX);
    e = &l->entries[l->n++];
    *e = (struct entry){.key = copy_key(l, key)};
    return read_entry(value, e) ? 0 : refuse(l, key, "its entry is damaged");
}

/* ---- data ----------------------------------------------------------------------- */

static int map_files(struct load *l)
{
    struct ckpt *c = l->c;
    size_t stem = strlen(c->name);

    if (c->file.len == 0)
        return err_set(l->err, ERR_FORMAT,
                       "%s: TensorFlow's tensors are in other files: recallctl ckpt convert makes "
                       "one file of them",
                       c->name);
    if (stem > strlen(SUFFIX) && strcmp(c->name + stem - strlen(SUFFIX), SUFFIX) == 0)
        stem -= strlen(SUFFIX);
    c->parts = xcalloc((size_t)l->n_files, sizeof *c->parts);
    for (; c->n_parts < l->n_files; c->n_parts++) {
        char *path = xasprintf("%.*s.data-%05zu-of-%05zu", (int)stem, c->name, c->n_parts,
                               (size_t)l->n_files);
        int result = file_map(&c->parts[c->n_parts], path, l->err);

        free(path);
        if (result == -1)
            return -1;
        c->parts_len += c->parts[c->n_parts].len;
    }
    return 0;
}

static const struct {
    uint64_t type;
    enum dtype dtype;
} types[] = {
    {1, DTYPE_F32}, {2, DTYPE_F64}, {3, DTYPE_I32},   {4, DTYPE_U8},    {5, DTYPE_I16},
    {6, DTYPE_I8},  {9, DTYPE_I64}, {10, DTYPE_BOOL}, {14, DTYPE_BF16}, {19, DTYPE_F16},
};

static enum dtype dtype_of(uint64_t type)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (types[i].type == type)
            return types[i].dtype;
    return DTYPE_OTHER;
}

/* Where an entry's bytes begin, after checking that they are in the file. */
static int locate(struct load *l, const struct entry *e, const uint8_t **data)
{
    const struct mapped *file;

    if (e->file >= l->n_files)
        return refuse(l, e->key, "is in a file that does not exist");
    file = &l->c->parts[e->file];
    if (e->offset > file->len || e->size > file->len - e->offset)
        return refuse(l, e->key, "reaches beyond its data file: it was cut short");
    l->used += e->size; /* else a small table could make us read a large file again and again */
    if (l->used > l->c->parts_len)
        return refuse(l, e->key, "its bytes are those of another variable too");
    *data =
        file->len > 0 ? file->bytes + e->offset : l->c->bytes; /* an empty file has no address */
    return 0;
}

/* In pieces: a data file may be larger than memory. */
static uint32_t checksum(const struct load *l, const uint8_t *data, size_t bytes)
{
    uint32_t crc = 0;

    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < CKPT_BLOCK ? bytes - at : CKPT_BLOCK;
        crc = crc32c(crc, data + at, n);
        ckpt_forget(l->c, data + at, n);
    }
    return crc32c_mask(crc);
}

/* The bytes of an entry, after checking that they are as many as they must be, and undamaged. */
static int data_of(struct load *l, const struct entry *e, size_t bytes, const uint8_t **data)
{
    if (locate(l, e, data) == -1)
        return -1;
    if (e->size != bytes)
        return refuse(l, e->key, "shape and dtype do not fit the number of bytes");
    if (checksum(l, *data, bytes) != e->crc)
        return refuse(l, e->key, "its checksum is wrong: the data file is damaged");
    return 0;
}

/* ---- slices --------------------------------------------------------------------- */

/* Where a slice begins and how long it is, per dimension; a length of -1 is all. */
struct slice {
    int64_t start[CKPT_MAX_DIMS], length[CKPT_MAX_DIMS];
    size_t n_dims;
};

/* TensorSliceProto { repeated Extent { int64 start = 1; int64 length = 2 } = 1 } */
static bool read_slice(struct str bytes, struct slice *s)
{
    struct reader r, extent;
    struct field f = {0}, n = {0};
    bool bad = false, bad_extent = false;

    *s = (struct slice){.n_dims = 0};
    reader_init(&r, NULL, bytes.p, bytes.len);
    while (next_field(&r, &f, &bad)) {
        if (f.number != 1 || f.wire != 2)
            continue;
        if (s->n_dims == CKPT_MAX_DIMS)
            return false;
        s->length[s->n_dims] = -1;
        reader_init(&extent, NULL, f.bytes.p, f.bytes.len);
        while (next_field(&extent, &n, &bad_extent)) {
            if (n.number == 1 && n.wire == 0)
                s->start[s->n_dims] = (int64_t)n.value;
            if (n.number == 2 && n.wire == 0)
                s->length[s->n_dims] = (int64_t)n.value;
        }
        if (bad_extent)
            return false;
        s->n_dims++;
    }
    return !bad;
}

/* A number so that longer encodings sort behind: the length, then the bytes, highest first. */
static void put_count(struct buf *b, uint64_t v)
{
    uint8_t bytes[9];
    int n = 0;

    for (; v > 0; v >>= 8)
        bytes[8 - n++] = (uint8_t)v;
    buf_putc(b, (char)n);
    buf_put(b, bytes + 9 - n, (size_t)n);
}

/* A signed number so that encodings sort like numbers: the sign and, by leading ones, the number of
 * bytes stand in front of its bits, seven of them a byte. */
static void put_signed(struct buf *b, int64_t v)
{
    static const uint8_t heads[11][2] = {{0, 0},    {0x80, 0},    {0xc0, 0},   {0xe0, 0},
                                         {0xf0, 0}, {0xf8, 0},    {0xfc, 0},   {0xfe, 0},
                                         {0xff, 0}, {0xff, 0x80}, {0xff, 0xc0}};
    uint64_t size = v < 0 ? ~(uint64_t)v : (uint64_t)v;
    uint8_t bytes[10];
    size_t n = 1;

    for (; size >= 64; size >>= 7)
        n++;
    for (size_t i = 0; i < 8; i++)
        bytes[9 - i] = (uint8_t)((uint64_t)v >> (8 * i));
    bytes[0] = bytes[1] = v < 0 ? 0xff : 0;
    bytes[10 - n] ^= heads[n][0];
    if (n > 1)
        bytes[11 - n] ^= heads[n][1];
    buf_put(b, bytes + 10 - n, n);
}

/* TensorFlow's key of a slice: 0, the name, and start and length of every dimension. */
static void put_slice_key(struct buf *b, struct str name, const struct slice *s)
{
    put_count(b, 0);
    for (size_t i = 0; i < name.len; i++) {
        buf_putc(b, name.p[i]);
        if (name.p[i] == 0 || (uint8_t)name.p[i] == 0xff)
            buf_putc(b, name.p[i] == 0 ? (char)0xff : 0);
    }
    buf_put(b, "\0\1", 2);
    put_count(b, s->n_dims);
    for (size_t d = 0; d < s->n_dims; d++) {
        put_signed(b, s->start[d]);
        put_signed(b, s->length[d]);
    }
}

static const struct entry *find_entry(const struct load *l, struct str key)
{
    size_t low = 0, high = l->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        int order = str_order(l->entries[mid].key, key);

        if (order == 0)
            return &l->entries[mid];
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

/* Copies a slice's rows of the last dimension to where they belong. */
static void place(uint8_t *to, const struct tensor *t, const struct slice *s, const uint8_t *from)
{
    size_t size = dtype_size(t->dtype), at[CKPT_MAX_DIMS] = {0}, last = s->n_dims - 1, rows = 1;
    size_t run = (size_t)s->length[last] * size;

    for (size_t d = 0; d < last; d++)
        rows *= (size_t)s->length[d];
    for (size_t i = 0; i < rows; i++, from += run) {
        size_t where = 0;

        for (size_t d = 0; d <= last; d++)
            where = where * t->shape[d] + (size_t)s->start[d] + at[d];
        memcpy(to + where * size, from, run);
        for (size_t d = last; d-- > 0 && ++at[d] == (size_t)s->length[d];)
            at[d] = 0;
    }
}

/* The slice within the tensor, its lengths spelt out; *count becomes its number of elements. */
static bool slice_fits(struct slice *s, const struct tensor *t, size_t *count)
{
    *count = 1;
    if (s->n_dims != (size_t)t->n_dims || s->n_dims == 0)
        return false;
    for (size_t d = 0; d < s->n_dims; d++) {
        int64_t whole = (int64_t)t->shape[d];

        if (s->length[d] == -1)
            s->length[d] = whole;
        if (s->start[d] < 0 || s->length[d] < 1 || s->start[d] > whole ||
            s->length[d] > whole - s->start[d])
            return false;
        *count *= (size_t)s->length[d];
    }
    return true;
}

static bool overlap(const struct slice *a, const struct slice *b)
{
    for (size_t d = 0; d < a->n_dims; d++)
        if (a->start[d] >= b->start[d] + b->length[d] || b->start[d] >= a->start[d] + a->length[d])
            return false;
    return true;
}

/* The slices copied so far; `count` is the number of elements in them. */
struct merge {
    struct slice *slices;
    size_t n, count;
};

static int copy_slice(struct load *l, const struct entry *whole, struct tensor *t, uint8_t *to,
                      struct str bytes, struct merge *m)
{
    struct slice *s = &m->slices[m->n];
    struct buf key = BUF_INIT;
    const struct entry *e;
    const uint8_t *from;
    size_t count;

    if (!read_slice(bytes, s))
        return refuse(l, whole->key, "its list of slices is damaged");
    put_slice_key(&key, whole->key, s);
    e = find_entry(l, (struct str){key.p, key.len});
    buf_clear(&key);
    if (e == NULL || !slice_fits(s, t, &count) || dtype_of(e->dtype) != t->dtype)
        return refuse(l, whole->key, "a slice of it is missing or does not fit");
    for (size_t i = 0; i < m->n; i++)
        if (overlap(s, &m->slices[i]))
            return refuse(l, whole->key, "two of its slices overlap");
    if (data_of(l, e, count * dtype_size(t->dtype), &from) == -1)
        return -1;
    place(to, t, s, from);
    m->n++;
    m->count += count;
    return 0;
}

/* Slices that do not overlap and have as many elements as the whole are the whole. */
static int copy_slices(struct load *l, const struct entry *e, struct tensor *t, uint8_t *to,
                       struct merge *m)
{
    struct field f = {0};
    struct reader r;
    bool bad = false;

    reader_init(&r, NULL, e->slices.p, e->slices.len);
    while (next_field(&r, &f, &bad)) {
        if (f.number != 7 || f.wire != 2)
            continue;
        if (m->n == SLICES_MAX)
            return refuse(l, e->key, "it has more than 10000 slices");
        if (copy_slice(l, e, t, to, f.bytes, m) == -1)
            return -1;
    }
    if (m->count != t->count)
        return refuse(l, e->key, "its slices do not add up to the whole");
    return 0;
}

static int merge_slices(struct load *l, const struct entry *e, struct tensor *t)
{
    /* A slice of the list takes two bytes and more. */
    size_t most = e->slices.len / 2 < SLICES_MAX ? e->slices.len / 2 : SLICES_MAX;
    struct merge m = {xcalloc(most + 1, sizeof *m.slices), 0, 0};
    uint8_t *to = ckpt_own(l->c, t->bytes, l->err);
    int result = to == NULL ? -1 : copy_slices(l, e, t, to, &m);

    free(m.slices);
    t->data = to;
    return result;
}

/* ---- tensors -------------------------------------------------------------------- */

static struct str plain_name(struct str key)
{
    size_t suffix = strlen(VALUE_SUFFIX);

    if (key.len > suffix && memcmp(key.p + key.len - suffix, VALUE_SUFFIX, suffix) == 0)
        key.len -= suffix;
    return key;
}

static int add_tensor(struct load *l, const struct entry *e)
{
    const uint8_t *unused;
    struct tensor *t;
    char other[32];

    if (e->key.p[0] == '\0') /* a slice: its whole is there too */
        return 0;
    t = ckpt_add(l->c, plain_name(e->key), l->err);
    if (t == NULL || tensor_set(l->c, t, dtype_of(e->dtype), e->shape, e->n_dims, l->err) == -1)
        return -1;
    if (t->dtype == DTYPE_OTHER) {
        snprintf(other, sizeof other, "TensorFlow type %llu", (unsigned long long)e->dtype);
        t->other = arena_strndup(&l->c->text, other, strlen(other));
        return locate(l, e, &unused);
    }
    if (e->slices.p != NULL)
        return merge_slices(l, e, t);
    return data_of(l, e, t->bytes, &t->data);
}

int tensorflow_load(struct ckpt *c, struct err *err)
{
    struct load l = {.c = c, .err = err};
    int result = sstable_read(c->name, c->bytes, c->len, take_entry, &l, err);

    if (result == 0 && !l.has_header)
        result = err_set(err, ERR_FORMAT, "%s: the header is missing", c->name);
    if (result == 0)
        result = map_files(&l);
    for (size_t i = 0; result == 0 && i < l.n; i++)
        result = add_tensor(&l, &l.entries[i]);
    if (result == 0 && c->n_tensors == 0)
        result = err_set(err, ERR_FORMAT, "%s: holds no tensors", c->name);
    free(l.entries);
    return result;
}
