/* ckpt.c - tells checkpoint formats apart and finds tensors by name. What a format looks like
 * inside is its own file's business; values.c hands out what the tensors hold. */
#include "format.h"

#include <stdlib.h>
#include <string.h>

/* ---- formats ------------------------------------------------------------------- */

static bool starts_with(const uint8_t *bytes, size_t len, const char *magic, size_t n)
{
    return len >= n && memcmp(bytes, magic, n) == 0;
}

/* "{" at byte 8 is the start of the JSON header. */
static bool has_header_brace(const uint8_t *bytes, size_t len)
{
    return len > 8 && bytes[8] == '{';
}

static bool is_safetensors(const uint8_t *bytes, size_t len)
{
    struct reader r;
    uint64_t header;

    reader_init(&r, NULL, bytes, len);
    return has_header_brace(bytes, len) && reader_u64le(&r, &header) && header <= reader_left(&r);
}

/* Before zip files, torch wrote several pickles in a row; the first is this number. */
static bool is_torch_legacy(const uint8_t *bytes, size_t len)
{
    return starts_with(bytes, len, "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 14);
}

static bool is_pickle(const uint8_t *bytes, size_t len)
{
    return len >= 2 && bytes[0] == 0x80 && bytes[1] >= 2 && bytes[1] <= 5;
}

static bool is_zip(const uint8_t *bytes, size_t len)
{
    return starts_with(bytes, len, "PK\x03\x04", 4);
}

static bool is_hdf5(const uint8_t *bytes, size_t len)
{
    return starts_with(bytes, len, "\x89HDF", 4);
}

/* The table's footer ends in LevelDB's magic number. */
static bool is_tf_index(const uint8_t *bytes, size_t len)
{
    static const uint8_t magic[8] = {0x57, 0xfb, 0x80, 0x8b, 0x24, 0x75, 0x47, 0xdb};

    return len >= 48 && memcmp(bytes + len - sizeof magic, magic, sizeof magic) == 0;
}

static bool is_pdiparams(const uint8_t *bytes, size_t len)
{
    struct reader r;
    uint32_t version, tensor_version;
    uint64_t lod;

    reader_init(&r, NULL, bytes, len);
    return reader_u32le(&r, &version) && version == 0 && reader_u64le(&r, &lod) && lod == 0 &&
           reader_u32le(&r, &tensor_version) && tensor_version == 0 && len > 24;
}

/* The first row that fits. A safetensors header may be 640 bytes long, which is 80 02 and zeros,
 * the start of a pickle: so it is asked first. A damaged length is better explained by its own
 * reader than by "unknown format": so it is asked again at the end, less strictly. */
static const struct ckpt_format formats[] = {
    {"safetensors", "safetensors", is_safetensors, safetensors_load, NULL},
    {"PyTorch, legacy", "pt", is_torch_legacy, torch_legacy_load, NULL},
    {"Paddle .pdparams", "pdparams", is_pickle, paddle_load, NULL},
    {"PyTorch", "pt", is_zip, torch_load, NULL},
    {"TensorFlow", NULL, is_tf_index, tensorflow_load, NULL},
    {"HDF5 (Keras .h5)", NULL, is_hdf5, NULL,
     "save its weights as safetensors (docs/models.md has the lines)"},
    {"Paddle .pdiparams", NULL, is_pdiparams, NULL,
     "its names are in another file; save the training model's state_dict with paddle.save"},
    {"safetensors", "safetensors", has_header_brace, safetensors_load, NULL},
};

static int sniff(struct ckpt *c, struct err *err)
{
    if (c->len == 0)
        return err_set(err, ERR_FORMAT, "%s: the file is empty", c->name);
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (!formats[i].is(c->bytes, c->len))
            continue;
        c->format = &formats[i];
        if (formats[i].load == NULL)
            return err_set(err, ERR_FORMAT, "%s: recognised as %s, which is not read: %s", c->name,
                           formats[i].name, formats[i].instead);
        return 0;
    }
    return err_set(err, ERR_FORMAT,
                   "%s: not a checkpoint in a known format (safetensors, .pdparams, .pt, "
                   "TensorFlow's .index)",
                   c->name);
}

/* ---- what loaders share -------------------------------------------------------- */

int ckpt_check_name(const struct ckpt *c, struct str name, struct err *err)
{
    if (name.len == 0 || name.len > CKPT_MAX_NAME)
        return err_set(err, ERR_LIMIT, "%s: a tensor's name has %zu bytes, must be 1 to %d",
                       c->name, name.len, CKPT_MAX_NAME);
    if (memchr(name.p, 0, name.len) != NULL || !utf8_valid(name.p, name.len))
        return err_set(err, ERR_FORMAT, "%s: a tensor's name is not text", c->name);
    return 0;
}

struct tensor *ckpt_add(struct ckpt *c, struct str name, struct err *err)
{
    if (ckpt_check_name(c, name, err) == -1)
        return NULL;
    if (c->n_tensors == CKPT_MAX_TENSORS) {
        err_set(err, ERR_LIMIT, "%s: more than %d tensors", c->name, CKPT_MAX_TENSORS);
        return NULL;
    }
    if (c->n_tensors == c->tensors_room) {
        c->tensors_room = c->tensors_room == 0 ? 64 : 2 * c->tensors_room;
        c->tensors = xrealloc(c->tensors, c->tensors_room * sizeof *c->tensors);
    }
    c->tensors[c->n_tensors] = (struct tensor){.name = arena_strndup(&c->text, name.p, name.len)};
    return &c->tensors[c->n_tensors++];
}

int tensor_set(const struct ckpt *c, struct tensor *t, enum dtype dtype, const uint64_t *shape,
               size_t n_dims, struct err *err)
{
    if (n_dims > CKPT_MAX_DIMS)
        return err_set(err, ERR_FORMAT, "%s: tensor %s: %zu dimensions, at most %d are read",
                       c->name, t->name, n_dims, CKPT_MAX_DIMS);
    t->dtype = dtype;
    t->n_dims = (int)n_dims;
    t->count = 1;
    for (size_t d = 0; d < n_dims; d++) {
        t->shape[d] = (size_t)shape[d];
        if (shape[d] > INT64_MAX || !mem_product(t->count, t->shape[d], &t->count))
            return err_set(err, ERR_FORMAT, "%s: tensor %s: shape is too large", c->name, t->name);
    }
    if (!mem_product(t->count, dtype_size(dtype), &t->bytes))
        return err_set(err, ERR_FORMAT, "%s: tensor %s: shape is too large", c->name, t->name);
    return 0;
}

uint8_t *ckpt_own(struct ckpt *c, size_t bytes, struct err *err)
{
    size_t limit = 2 * (c->len + c->parts_len) + 65536;
    struct owned *o;

    if (bytes > limit - c->owned_bytes) {
        err_set(err, ERR_LIMIT,
                "%s: its tensors need more than twice the %zu bytes that the file has", c->name,
                c->len + c->parts_len);
        return NULL;
    }
    o = mem_try_aligned(sizeof *o + bytes, 1);
    if (o == NULL) {
        err_set(err, ERR_NOMEM, "%s: no memory for a tensor of %zu bytes", c->name, bytes);
        return NULL;
    }
    o->next = c->owned;
    c->owned = o;
    c->owned_bytes += bytes;
    return o->bytes;
}

int ckpt_gather(struct ckpt *c, struct tensor *t, const uint64_t *strides, struct err *err)
{
    size_t size = dtype_size(t->dtype), at[CKPT_MAX_DIMS] = {0};
    uint8_t *out = ckpt_own(c, t->bytes, err);

    if (out == NULL)
        return -1;
    for (size_t i = 0; i < t->count; i++) {
        uint64_t place = 0;

        for (int d = 0; d < t->n_dims; d++)
            place += at[d] * strides[d];
        memcpy(out + i * size, t->data + place * size, size);
        for (int d = t->n_dims; d-- > 0 && ++at[d] == t->shape[d];)
            at[d] = 0;
    }
    t->data = out;
    return 0;
}

void ckpt_add_sum(struct ckpt *c, const struct ckpt_sum *sum)
{
    if (c->n_sums == c->sums_room) {
        c->sums_room = c->sums_room == 0 ? 16 : 2 * c->sums_room;
        c->sums = xrealloc(c->sums, c->sums_room * sizeof *c->sums);
    }
    c->sums[c->n_sums++] = *sum;
}

static bool holds(const struct mapped *m, const uint8_t *at)
{
    return m->len > 0 && at >= m->bytes && at < m->bytes + m->len;
}

void ckpt_forget(const struct ckpt *c, const uint8_t *at, size_t len)
{
    if (holds(&c->file, at))
        file_forget(&c->file, at, len);
    for (size_t i = 0; i < c->n_parts; i++)
        if (holds(&c->parts[i], at))
            file_forget(&c->parts[i], at, len);
}

const char *ckpt_other(struct ckpt *c, struct str name)
{
    char *copy = arena_strndup(&c->text, name.p, name.len < 32 ? name.len : 32);

    for (char *p = copy; *p != '\0'; p++)
        if (*p < ' ' || *p > '~')
            *p = '?';
    return copy;
}

int str_order(struct str a, struct str b)
{
    size_t n = a.len < b.len ? a.len : b.len;
    int order = n > 0 ? memcmp(a.p, b.p, n) : 0;

    return order != 0 ? order : (a.len > b.len) - (a.len < b.len);
}

/* ---- opening ------------------------------------------------------------------- */

static int by_name(const void *a, const void *b)
{
    const struct tensor *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

static int sort_names(struct ckpt *c, struct err *err)
{
    c->by_name = mem_try_array(c->n_tensors, sizeof(struct tensor *));
    if (c->by_name == NULL)
        return err_set(err, ERR_NOMEM, "%s: no memory for %zu tensors", c->name, c->n_tensors);
    for (size_t i = 0; i < c->n_tensors; i++)
        c->by_name[i] = &c->tensors[i];
    qsort(c->by_name, c->n_tensors, sizeof(struct tensor *), by_name);
    for (size_t i = 1; i < c->n_tensors; i++)
        if (strcmp(c->by_name[i - 1]->name, c->by_name[i]->name) == 0)
            return err_set(err, ERR_FORMAT, "%s: two tensors are named %s", c->name,
                           c->by_name[i]->name);
    return 0;
}

/* Owns `c`. */
static struct ckpt *load_take(struct ckpt *c, struct err *err)
{
    if (sniff(c, err) == -1 || c->format->load(c, err) == -1 || sort_names(c, err) == -1) {
        ckpt_free(c);
        return NULL;
    }
    return c;
}

struct ckpt *ckpt_open(const char *path, struct err *err)
{
    struct ckpt *c = xcalloc(1, sizeof *c);

    c->name = ckpt_locate(path, err);
    if (c->name == NULL || file_map(&c->file, c->name, err) == -1) {
        ckpt_free(c);
        return NULL;
    }
    c->bytes = c->file.bytes;
    c->len = c->file.len;
    return load_take(c, err);
}

struct ckpt *ckpt_open_mem(const char *name, const void *bytes, size_t len, struct err *err)
{
    struct ckpt *c = xcalloc(1, sizeof *c);

    c->name = xstrdup(name);
    c->bytes = bytes;
    c->len = len;
    return load_take(c, err);
}

void ckpt_free(struct ckpt *c)
{
    if (c == NULL)
        return;
    while (c->owned != NULL) {
        struct owned *o = c->owned;

        c->owned = o->next;
        free(o);
    }
    free(c->sums);
    free(c->by_name);
    free(c->tensors);
    arena_clear(&c->text);
    free(c->meta);
    json_decref(c->strings);
    for (size_t i = 0; i < c->n_parts; i++)
        file_unmap(&c->parts[i]);
    free(c->parts);
    file_unmap(&c->file);
    free(c->name);
    free(c);
}

/* ---- looking ------------------------------------------------------------------- */

const char *ckpt_name(const struct ckpt *c)
{
    return c->name;
}

const char *ckpt_format(const struct ckpt *c)
{
    return c->format->name;
}

const char *ckpt_extension(const struct ckpt *c)
{
    return c->format->extension;
}

size_t ckpt_count(const struct ckpt *c)
{
    return c->n_tensors;
}

const struct tensor *ckpt_at(const struct ckpt *c, size_t i)
{
    return &c->tensors[i];
}

const struct tensor *ckpt_find(const struct ckpt *c, const char *name)
{
    const struct tensor key = {.name = name}, *wanted = &key;
    const struct tensor **found =
        bsearch(&wanted, c->by_name, c->n_tensors, sizeof(struct tensor *), by_name);

    return found == NULL ? NULL : *found;
}

const char *ckpt_meta(const struct ckpt *c, const char *key)
{
    for (size_t i = 0; i < c->n_meta; i++)
        if (strcmp(c->meta[i].key, key) == 0)
            return c->meta[i].value;
    return NULL;
}

size_t ckpt_meta_count(const struct ckpt *c)
{
    return c->n_meta;
}

const char *ckpt_meta_key(const struct ckpt *c, size_t i)
{
    return c->meta[i].key;
}

static const struct {
    const char *name;
    size_t size;
} dtypes[] = {
    [DTYPE_F64] = {"F64", 8},   [DTYPE_F32] = {"F32", 4},     [DTYPE_F16] = {"F16", 2},
    [DTYPE_BF16] = {"BF16", 2}, [DTYPE_I64] = {"I64", 8},     [DTYPE_I32] = {"I32", 4},
    [DTYPE_I16] = {"I16", 2},   [DTYPE_I8] = {"I8", 1},       [DTYPE_U8] = {"U8", 1},
    [DTYPE_BOOL] = {"BOOL", 1}, [DTYPE_OTHER] = {"other", 0},
};

const char *dtype_name(enum dtype d)
{
    return dtypes[d].name;
}

size_t dtype_size(enum dtype d)
{
    return dtypes[d].size;
}
