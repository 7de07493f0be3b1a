/* paddle.c - reads what paddle.save writes: one pickle, a dict of names and NumPy arrays.
 *
 * An array is the record of a call of _reconstruct with the state (1, shape, dtype, Fortran order,
 * raw bytes). Pickles of protocol 2 hold the bytes as text, one character each; protocols 2 and 3
 * cut arrays of a GiB and more into pieces, listed under UnpackBigParamInfor@@. */
#include "format.h"
#include "pickle.h"

#include <stdlib.h>
#include <string.h>

#define PIECES "UnpackBigParamInfor@@"
#define PIECES_MAX 10000

struct load {
    struct ckpt *c;
    struct err *err;
    struct arena arena; /* of the records */
};

static int refuse(struct load *l, const struct pickle *p, const char *name, const char *why)
{
    return err_set(l->err, ERR_FORMAT, "%s: offset %zu: %s: %s", l->c->name, p->at, name, why);
}

static bool is_call(const struct pickle *p, const char *module, const char *name)
{
    return p->kind == PICKLE_CALL && pickle_is_symbol(p->call.symbol, module, name);
}

static bool is_array(const struct pickle *p)
{
    return is_call(p, "numpy.core.multiarray", "_reconstruct") ||
           is_call(p, "numpy._core.multiarray", "_reconstruct");
}

static const struct pickle *item(const struct pickle *p, size_t i)
{
    return p->list.items[i];
}

/* ---- dtypes --------------------------------------------------------------------- */

/* Paddle keeps bfloat16 in arrays of uint16. */
static const struct {
    const char *code;
    enum dtype dtype;
} codes[] = {
    {"f8", DTYPE_F64}, {"f4", DTYPE_F32}, {"f2", DTYPE_F16}, {"u2", DTYPE_BF16}, {"i8", DTYPE_I64},
    {"i4", DTYPE_I32}, {"i2", DTYPE_I16}, {"i1", DTYPE_I8},  {"u1", DTYPE_U8},   {"b1", DTYPE_BOOL},
};

static int read_dtype(struct load *l, struct tensor *t, const struct pickle *p, enum dtype *dtype)
{
    const struct pickle *code, *state = p->kind == PICKLE_CALL ? p->call.state : NULL;

    if (!is_call(p, "numpy", "dtype") || p->call.args->list.n < 1 ||
        item(p->call.args, 0)->kind != PICKLE_TEXT)
        return refuse(l, p, t->name, "the array's dtype is none");
    if (state != NULL && state->kind == PICKLE_TUPLE && state->list.n > 1 &&
        item(state, 1)->kind == PICKLE_TEXT && item(state, 1)->bytes.len == 1 &&
        item(state, 1)->bytes.p[0] == '>')
        return refuse(l, p, t->name, "big-endian numbers are not read");
    code = item(p->call.args, 0);
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (code->bytes.len == 2 && memcmp(code->bytes.p, codes[i].code, 2) == 0) {
            *dtype = codes[i].dtype;
            return 0;
        }
    *dtype = DTYPE_OTHER;
    t->other =
        arena_strndup(&l->c->text, code->bytes.p, code->bytes.len < 32 ? code->bytes.len : 32);
    return 0;
}

/* ---- raw bytes ------------------------------------------------------------------ */

/* Text in which every character stands for a byte, as bytes: `len` of them. The text is valid
 * UTF-8, in which such characters take one byte or two. */
static int decode_latin1(struct load *l, const struct pickle *p, const char *name, size_t len,
                         const uint8_t **data)
{
    const unsigned char *s = (const unsigned char *)p->bytes.p, *end = s + p->bytes.len;
    uint8_t *out = ckpt_own(l->c, len, l->err);
    size_t n = 0;

    if (out == NULL)
        return -1;
    for (; s < end && n < len; n++) {
        if (*s >= 0x80 && (*s & 0xfc) != 0xc0)
            return refuse(l, p, name, "the bytes of an array hold a character above 255");
        out[n] = *s < 0x80 ? *s : (uint8_t)(*s << 6 | (s[1] & 0x3f));
        s += *s < 0x80 ? 1 : 2;
    }
    if (s != end || n != len)
        return refuse(l, p, name, "shape and dtype do not fit the number of bytes");
    *data = out;
    return 0;
}

static int read_raw(struct load *l, const struct pickle *p, const char *name, size_t len,
                    const uint8_t **data)
{
    const struct pickle *text;

    if (is_call(p, "_codecs", "encode")) {
        text = p->call.args->list.n > 0 ? item(p->call.args, 0) : p;
        if (text->kind != PICKLE_TEXT)
            return refuse(l, p, name, "the bytes of an array are none");
        return decode_latin1(l, text, name, len, data);
    }
    if (p->kind != PICKLE_BYTES && p->kind != PICKLE_TEXT)
        return refuse(l, p, name, "the bytes of an array are none");
    if (p->bytes.len != len)
        return refuse(l, p, name, "shape and dtype do not fit the number of bytes");
    *data = (const uint8_t *)p->bytes.p;
    return 0;
}

/* Column-major to row-major. */
static int reorder(struct load *l, struct tensor *t)
{
    size_t size = dtype_size(t->dtype), at[CKPT_MAX_DIMS] = {0};
    uint8_t *out = ckpt_own(l->c, t->bytes, l->err);

    if (out == NULL)
        return -1;
    for (size_t i = 0; i < t->count; i++) {
        size_t from = 0;

        for (int d = t->n_dims; d-- > 0;)
            from = from * t->shape[d] + at[d];
        memcpy(out + i * size, t->data + from * size, size);
        for (int d = t->n_dims; d-- > 0 && ++at[d] == t->shape[d];)
            at[d] = 0;
    }
    t->data = out;
    return 0;
}

/* ---- arrays --------------------------------------------------------------------- */

static int read_shape(struct load *l, const struct pickle *p, const char *name, uint64_t *shape)
{
    if (p->kind != PICKLE_TUPLE || p->list.n > CKPT_MAX_DIMS)
        return refuse(l, p, name, "the array's shape is no tuple of at most 8 sizes");
    for (size_t d = 0; d < p->list.n; d++) {
        if (item(p, d)->kind != PICKLE_INT || item(p, d)->number < 0)
            return refuse(l, p, name, "the array's shape is no tuple of at most 8 sizes");
        shape[d] = (uint64_t)item(p, d)->number;
    }
    return 0;
}

static int read_array(struct load *l, struct str name, const struct pickle *p)
{
    const struct pickle *s = p->call.state;
    struct tensor *t = ckpt_add(l->c, name, l->err);
    uint64_t shape[CKPT_MAX_DIMS];
    enum dtype dtype = DTYPE_OTHER;

    if (t == NULL)
        return -1;
    if (s == NULL || s->kind != PICKLE_TUPLE || s->list.n != 5 || item(s, 3)->kind != PICKLE_BOOL)
        return refuse(l, p, t->name, "the array has no contents");
    if (read_shape(l, item(s, 1), t->name, shape) == -1 ||
        read_dtype(l, t, item(s, 2), &dtype) == -1 ||
        tensor_set(l->c, t, dtype, shape, item(s, 1)->list.n, l->err) == -1)
        return -1;
    if (dtype == DTYPE_OTHER)
        return 0;
    if (read_raw(l, item(s, 4), t->name, t->bytes, &t->data) == -1)
        return -1;
    return item(s, 3)->boolean ? reorder(l, t) : 0;
}

/* ---- arrays in pieces ------------------------------------------------------------- */

static struct tensor *find(const struct ckpt *c, struct str name)
{
    for (size_t i = 0; i < c->n_tensors; i++)
        if (strlen(c->tensors[i].name) == name.len &&
            memcmp(c->tensors[i].name, name.p, name.len) == 0)
            return &c->tensors[i];
    return NULL;
}

static void drop(struct ckpt *c, struct tensor *t)
{
    size_t at = (size_t)(t - c->tensors);

    memmove(t, t + 1, (c->n_tensors - at - 1) * sizeof *t);
    c->n_tensors--;
}

/* Copies the pieces behind each other and takes them out of the list. */
static int join_pieces(struct load *l, const struct pickle *pieces, const char *name, uint8_t *out,
                       enum dtype dtype, size_t bytes)
{
    for (size_t i = 0; i < pieces->list.n; i++) {
        struct tensor *piece =
            item(pieces, i)->kind == PICKLE_TEXT ? find(l->c, item(pieces, i)->bytes) : NULL;

        if (piece == NULL || piece->dtype != dtype || piece->bytes > bytes)
            return refuse(l, pieces, name, "a piece is missing or does not fit");
        memcpy(out, piece->data, piece->bytes);
        out += piece->bytes;
        bytes -= piece->bytes;
        drop(l->c, piece);
    }
    return bytes == 0 ? 0 : refuse(l, pieces, name, "the pieces hold less than the shape says");
}

static int join(struct load *l, struct str name, const struct pickle *p)
{
    const struct pickle *shape = pickle_get(p, "OriginShape"), *pieces = pickle_get(p, "slices");
    struct tensor *first, whole = {0};
    uint64_t sizes[CKPT_MAX_DIMS];
    uint8_t *data;
    struct tensor *t;

    if (shape == NULL || pieces == NULL ||
        (pieces->kind != PICKLE_LIST && pieces->kind != PICKLE_TUPLE) || pieces->list.n == 0 ||
        item(pieces, 0)->kind != PICKLE_TEXT ||
        (first = find(l->c, item(pieces, 0)->bytes)) == NULL)
        return refuse(l, p, PIECES, "an entry without OriginShape or slices");
    whole.name = first->name;
    if (read_shape(l, shape, PIECES, sizes) == -1 ||
        tensor_set(l->c, &whole, first->dtype, sizes, shape->list.n, l->err) == -1 ||
        (data = ckpt_own(l->c, whole.bytes, l->err)) == NULL ||
        join_pieces(l, pieces, PIECES, data, whole.dtype, whole.bytes) == -1 ||
        (t = ckpt_add(l->c, name, l->err)) == NULL)
        return -1;
    whole.name = t->name;
    whole.data = data;
    *t = whole;
    return 0;
}

static int join_all(struct load *l, const struct pickle *table)
{
    if (table->kind != PICKLE_DICT)
        return refuse(l, table, PIECES, "is no dict");
    if (l->c->n_tensors > PIECES_MAX) /* each is looked for among all */
        return refuse(l, table, PIECES, "is not read where there are more than 10000 arrays");
    for (size_t i = 0; i + 1 < table->list.n; i += 2) {
        const struct pickle *key = item(table, i);

        if (key->kind != PICKLE_TEXT)
            return refuse(l, key, PIECES, "a name is no text");
        if (join(l, key->bytes, item(table, i + 1)) == -1)
            return -1;
    }
    return 0;
}

/* ---- the file ------------------------------------------------------------------- */

/* Values that are no arrays, such as the name table or an optimizer's settings, are passed over. */
static int read_dict(struct load *l, const struct pickle *p)
{
    const struct pickle *pieces;

    if (p->kind != PICKLE_DICT)
        return err_set(l->err, ERR_FORMAT, "%s: holds no dict of tensors", l->c->name);
    for (size_t i = 0; i + 1 < p->list.n; i += 2) {
        const struct pickle *key = item(p, i), *value = item(p, i + 1);

        if (key->kind == PICKLE_TEXT && is_array(value) && read_array(l, key->bytes, value) == -1)
            return -1;
    }
    pieces = pickle_get(p, PIECES);
    if (pieces != NULL && join_all(l, pieces) == -1)
        return -1;
    if (l->c->n_tensors == 0)
        return err_set(l->err, ERR_FORMAT, "%s: holds no tensors", l->c->name);
    return 0;
}

int paddle_load(struct ckpt *c, struct err *err)
{
    struct load l = {c, err, ARENA_INIT};
    struct reader r;
    struct pickle *p;
    int result = -1;

    reader_init(&r, c->name, c->bytes, c->len);
    p = pickle_read(&r, &l.arena, NULL, err);
    if (p != NULL && reader_left(&r) > 0)
        err_set(err, ERR_FORMAT, "%s: %zu bytes follow the pickle", c->name, reader_left(&r));
    else if (p != NULL)
        result = read_dict(&l, p);
    arena_clear(&l.arena);
    return result;
}
