/* safetensors.c - reads and writes the safetensors format.
 *
 * A file is an 8-byte little-endian length N, N bytes of JSON and the data. The JSON maps a name to
 * {"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the first byte after it;
 * "__metadata__" maps strings to strings. The tensors cover the data without overlap or hole. */
#include "format.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_MAX 100000000 /* bytes; the format's own limit */
#define METADATA "__metadata__"

/* ---- one tensor ---------------------------------------------------------------- */

static int read_dtype(struct ckpt *c, struct tensor *t, const json_t *v, struct err *err)
{
    const char *text = json_string_value(v);

    if (text == NULL)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: dtype is not a string", c->name, t->name);
    for (enum dtype d = DTYPE_F64; d < DTYPE_OTHER; d++)
        if (strcmp(text, dtype_name(d)) == 0) {
            t->dtype = d;
            return 0;
        }
    t->dtype = DTYPE_OTHER;
    t->other = ckpt_other(c, (struct str){text, strlen(text)});
    return 0;
}

static int read_shape(const struct ckpt *c, struct tensor *t, const json_t *v, struct err *err)
{
    uint64_t shape[CKPT_MAX_DIMS];
    size_t n = json_array_size(v);

    if (!json_is_array(v) || n > CKPT_MAX_DIMS)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: shape is not a list of at most %d sizes",
                       c->name, t->name, CKPT_MAX_DIMS);
    for (size_t d = 0; d < n; d++) {
        const json_t *size = json_array_get(v, d);

        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return err_set(err, ERR_FORMAT, "%s: tensor %s: size %zu of shape is not 0 or more",
                           c->name, t->name, d);
        shape[d] = (uint64_t)json_integer_value(size);
    }
    return tensor_set(c, t, t->dtype, shape, n, err);
}

static int read_offsets(const struct ckpt *c, struct tensor *t, const json_t *v,
                        const struct reader *data, struct err *err)
{
    const json_t *first = json_array_get(v, 0), *second = json_array_get(v, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(second);

    if (json_array_size(v) != 2 || !json_is_integer(first) || !json_is_integer(second) ||
        begin < 0 || end < begin)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: data_offsets is not [begin, end]", c->name,
                       t->name);
    if ((uint64_t)end > reader_left(data))
        return err_set(err, ERR_FORMAT,
                       "%s: tensor %s: data ends at offset %lld, the file has %zu bytes of data",
                       c->name, t->name, (long long)end, reader_left(data));
    t->data = data->p + begin;
    if (t->dtype == DTYPE_OTHER) /* how large an element is, we do not know */
        t->bytes = (size_t)(end - begin);
    if ((size_t)(end - begin) != t->bytes)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: shape and dtype need %zu bytes, not %lld",
                       c->name, t->name, t->bytes, (long long)(end - begin));
    return 0;
}

static int read_tensor(struct ckpt *c, struct tensor *t, json_t *v, const struct reader *data,
                       struct err *err)
{
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    const char *key;
    json_t *unused;

    if (strlen(t->name) > CKPT_MAX_NAME)
        return err_set(err, ERR_LIMIT, "%s: a tensor name is longer than %d bytes", c->name,
                       CKPT_MAX_NAME);
    if (!json_is_object(v))
        return err_set(err, ERR_FORMAT, "%s: tensor %s: not an object", c->name, t->name);
    json_object_foreach (v, key, unused) {
        bool known = false;

        for (size_t i = 0; i < ARRAY_LEN(keys); i++)
            known = known || strcmp(key, keys[i]) == 0;
        if (!known)
            return err_set(err, ERR_FORMAT, "%s: tensor %s: unknown key %.64s", c->name, t->name,
                           key);
    }
    if (read_dtype(c, t, json_object_get(v, keys[0]), err) == -1 ||
        read_shape(c, t, json_object_get(v, keys[1]), err) == -1)
        return -1;
    return read_offsets(c, t, json_object_get(v, keys[2]), data, err);
}

/* ---- the header ---------------------------------------------------------------- */

static int read_metadata(struct ckpt *c, json_t *v, struct err *err)
{
    const char *key;
    json_t *value;

    if (!json_is_object(v))
        return err_set(err, ERR_FORMAT, "%s: " METADATA " is not an object", c->name);
    c->meta = mem_try_array(json_object_size(v), sizeof *c->meta);
    if (c->meta == NULL)
        return err_set(err, ERR_NOMEM, "%s: no memory for the metadata", c->name);
    json_object_foreach (v, key, value) {
        if (!json_is_string(value))
            return err_set(err, ERR_FORMAT, "%s: " METADATA ": the value of %.64s is not a string",
                           c->name, key);
        c->meta[c->n_meta].key = key;
        c->meta[c->n_meta].value = json_string_value(value);
        c->n_meta++;
    }
    return 0;
}

static int read_entries(struct ckpt *c, const struct reader *data, struct err *err)
{
    size_t n = json_object_size(c->strings);
    const char *name;
    json_t *v;

    if (n > CKPT_MAX_TENSORS)
        return err_set(err, ERR_LIMIT, "%s: more than %d tensors", c->name, CKPT_MAX_TENSORS);
    c->tensors = mem_try_array(n, sizeof *c->tensors);
    if (c->tensors == NULL)
        return err_set(err, ERR_NOMEM, "%s: no memory for %zu tensors", c->name, n);
    json_object_foreach (c->strings, name, v) {
        struct tensor *t = &c->tensors[c->n_tensors];

        if (strcmp(name, METADATA) == 0) {
            if (read_metadata(c, v, err) == -1)
                return -1;
            continue;
        }
        *t = (struct tensor){.name = name};
        if (read_tensor(c, t, v, data, err) == -1)
            return -1;
        c->n_tensors++;
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;

    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    if (x->bytes != y->bytes) /* what has no bytes comes first */
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name); /* an overlap: one message on every machine */
}

/* Sorts the tensors by their place; each must begin where the one before it ends. */
static int check_cover(struct ckpt *c, const struct reader *data, struct err *err)
{
    const uint8_t *at = data->p;

    qsort(c->tensors, c->n_tensors, sizeof *c->tensors, by_offset);
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *t = &c->tensors[i];

        if (t->data < at)
            return err_set(err, ERR_FORMAT, "%s: tensors %s and %s overlap", c->name,
                           c->tensors[i - 1].name, t->name);
        if (t->data > at)
            return err_set(err, ERR_FORMAT, "%s: %zu bytes before tensor %s belong to no tensor",
                           c->name, (size_t)(t->data - at), t->name);
        at = t->data + t->bytes;
    }
    if (at != data->end)
        return err_set(err, ERR_FORMAT, "%s: %zu bytes at the end belong to no tensor", c->name,
                       (size_t)(data->end - at));
    return 0;
}

/* Their places were needed to see that the data are covered. */
static void forget_others(struct ckpt *c)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (c->tensors[i].dtype == DTYPE_OTHER) {
            c->tensors[i].data = NULL;
            c->tensors[i].bytes = 0;
        }
}

int safetensors_load(struct ckpt *c, struct err *err)
{
    struct reader r;
    json_error_t why;
    uint64_t len;

    reader_init(&r, c->name, c->bytes, c->len);
    if (!reader_u64le(&r, &len) || len > reader_left(&r))
        return err_set(err, ERR_FORMAT, "%s: header length out of range", c->name);
    if (len > HEADER_MAX)
        return err_set(err, ERR_LIMIT, "%s: the header has %llu bytes, the limit is %d", c->name,
                       (unsigned long long)len, HEADER_MAX);
    c->strings = json_loadb((const char *)r.p, (size_t)len, JSON_REJECT_DUPLICATES, &why);
    if (c->strings == NULL)
        return err_set(err, ERR_FORMAT, "%s: header: %s (byte %d)", c->name, why.text,
                       why.position);
    r.p += len;
    if (read_entries(c, &r, err) == -1)
        return -1;
    if (check_cover(c, &r, err) == -1)
        return -1;
    forget_others(c);
    return 0;
}

/* ---- writing ------------------------------------------------------------------- */

static size_t count_of(const struct ckpt_writer_tensor *t)
{
    size_t count = 1;

    for (int d = 0; d < t->n_dims; d++)
        count *= t->shape[d];
    return count;
}

static void put_json_string(struct buf *b, const char *s)
{
    buf_json(b, s, strlen(s));
}

static void put_metadata(struct buf *b, const char *const *meta)
{
    buf_puts(b, "\"" METADATA "\":{");
    for (size_t i = 0; meta[i] != NULL; i += 2) {
        if (i > 0)
            buf_putc(b, ',');
        put_json_string(b, meta[i]);
        buf_putc(b, ':');
        put_json_string(b, meta[i + 1]);
    }
    buf_putc(b, '}');
}

static void put_entry(struct buf *b, const struct ckpt_writer_tensor *t, size_t begin)
{
    put_json_string(b, t->name);
    buf_puts(b, ":{\"dtype\":\"F32\",\"shape\":[");
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", t->shape[d]);
    buf_printf(b, "],\"data_offsets\":[%zu,%zu]}", begin, begin + count_of(t) * sizeof(float));
}

/* The length and the header, which is padded with blanks to a multiple of 8, so that floats are
 * aligned. Returns the number of bytes of data that it announces. */
static size_t put_header(struct buf *out, const struct ckpt_writer_tensor *t, size_t n,
                         const char *const *meta)
{
    struct buf header = BUF_INIT;
    size_t offset = 0;

    buf_putc(&header, '{');
    if (meta != NULL)
        put_metadata(&header, meta);
    for (size_t i = 0; i < n; i++) {
        if (header.len > 1)
            buf_putc(&header, ',');
        put_entry(&header, &t[i], offset);
        offset += count_of(&t[i]) * sizeof(float);
    }
    buf_putc(&header, '}');
    while (header.len % 8 != 0)
        buf_putc(&header, ' ');
    for (int i = 0; i < 8; i++)
        buf_putc(out, (char)(header.len >> 8 * i & 0xff));
    buf_put(out, header.p, header.len);
    buf_clear(&header);
    return offset;
}

void ckpt_encode(struct buf *out, const struct ckpt_writer_tensor *t, size_t n,
                 const char *const *meta)
{
    buf_reserve(out, put_header(out, t, n, meta));
    for (size_t i = 0; i < n; i++)
        buf_put(out, t[i].data, count_of(&t[i]) * sizeof(float));
}

int ckpt_write(const char *path, const struct ckpt_writer_tensor *t, size_t n,
               const char *const *meta, struct err *err)
{
    struct buf out = BUF_INIT;
    int result;

    ckpt_encode(&out, t, n, meta);
    result = file_write(path, out.p, out.len, err);
    buf_clear(&out);
    return result;
}

/* ---- converting ---------------------------------------------------------------- */

/* What the header says of a checkpoint's tensors of floats; the caller clears it. */
static struct buf header_of(const struct ckpt *c)
{
    struct ckpt_writer_tensor *t = xcalloc(c->n_tensors + 1, sizeof *t);
    const char **meta = xcalloc(2 * c->n_meta + 1, sizeof *meta);
    struct buf header = BUF_INIT;
    size_t n = 0;

    for (size_t i = 0; i < c->n_meta; i++) {
        meta[2 * i] = c->meta[i].key;
        meta[2 * i + 1] = c->meta[i].value;
    }
    for (size_t i = 0; i < c->n_tensors; i++) {
        const struct tensor *from = &c->tensors[i];

        if (!tensor_is_floats(from))
            continue;
        t[n] = (struct ckpt_writer_tensor){.name = from->name, .n_dims = from->n_dims};
        memcpy(t[n++].shape, from->shape, sizeof t->shape);
    }
    put_header(&header, t, n, c->n_meta > 0 ? meta : NULL);
    free(meta);
    free(t);
    return header;
}

static int put_values(struct file_out *to, const struct ckpt *c, const struct tensor *t,
                      float *block, struct err *err)
{
    enum { MOST = CKPT_BLOCK / sizeof *block };

    for (size_t i = 0, n; i < t->count; i += n) {
        n = t->count - i < MOST ? t->count - i : MOST;
        if (tensor_block(c, t, i, n, block, err) == -1 ||
            file_out_put(to, block, n * sizeof *block, err) == -1)
            return -1;
    }
    return 0;
}

/* What we could not read again is not written. */
static int check_header(const struct ckpt *c, const struct buf *header, struct err *err)
{
    const struct tensor *t = ckpt_find(c, METADATA);

    if (t != NULL && tensor_is_floats(t))
        return err_set(err, ERR_FORMAT,
                       "%s: a tensor is named " METADATA
                       ", which in a safetensors file is no tensor's name",
                       c->name);
    if (header->len - sizeof(uint64_t) > HEADER_MAX)
        return err_set(err, ERR_LIMIT, "%s: names and metadata take %zu bytes, the limit is %d",
                       c->name, header->len - sizeof(uint64_t), HEADER_MAX);
    return 0;
}

int ckpt_convert(const struct ckpt *c, const char *path, struct err *err)
{
    struct buf header = header_of(c);
    struct file_out *to;
    float *block;
    int result;

    if (check_header(c, &header, err) == -1 || ckpt_verify(c, NULL, NULL, err) == -1 ||
        (to = file_out_new(path, err)) == NULL) {
        buf_clear(&header);
        return -1;
    }
    block = xmalloc(CKPT_BLOCK);
    result = file_out_put(to, header.p, header.len, err);
    for (size_t i = 0; result == 0 && i < c->n_tensors; i++)
        if (tensor_is_floats(&c->tensors[i]))
            result = put_values(to, c, &c->tensors[i], block, err);
    if (file_out_end(to, result == 0, err) == -1)
        result = -1;
    free(block);
    buf_clear(&header);
    return result;
}
