/* paddle.c - reads what paddle.save writes: one pickle, a dict of names and NumPy arrays.
 *
 * An array is the record of a call of _reconstruct with the state (1, shape, dtype, Fortran order,
 * raw bytes), or, within an object that holds a state_dict, of tuple with its name and that.
 * Pickles of protocol 2 hold the bytes as text, one character each; protocols 2 and 3 cut arrays of
 * a GiB and more into pieces, listed under UnpackBigParamInfor@@. */
#include "format.h"
#include "pickle.h"

#include <stdlib.h>
#include <string.h>

#define PIECES "UnpackBigParamInfor@@"

struct load {
    struct ckpt *c;
    struct err *err;
    struct arena arena; /* of the records */
    struct entry *entries;
    size_t n;
};

static int refuse(struct load *l, const struct pickle *p, const char *name, const char *why)
{
    return err_set(l->err, ERR_FORMAT, "%s: offset %zu: %s%s%s", l->c->name, p->at, name,
                   name[0] != '\0' ? ": " : "", why);
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

/* The array that a value of the dict stands for, or NULL. */
static const struct pickle *array_of(const struct pickle *p)
{
    if ((is_call(p, "builtins", "tuple") || is_call(p, "__builtin__", "tuple")) &&
        p->call.args->list.n == 1) {
        p = pickle_item(p->call.args, 0);
        if (p->kind != PICKLE_TUPLE || p->list.n != 2)
            return NULL;
        p = pickle_item(p, 1);
    }
    return is_array(p) ? p : NULL;
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

static int read_dtype(struct load *l, struct tensor *t, const struct pickle *array,
                      const struct pickle *p, enum dtype *dtype)
{
    const struct pickle *code, *state = p->kind == PICKLE_CALL ? p->call.state : NULL;

    if (!is_call(p, "numpy", "dtype") || p->call.args->list.n < 1 ||
        pickle_item(p->call.args, 0)->kind != PICKLE_TEXT)
        return refuse(l, array, t->name, "the array's dtype is none");
    if (state != NULL && state->kind == PICKLE_TUPLE && state->list.n > 1 &&
        pickle_item(state, 1)->kind == PICKLE_TEXT && pickle_item(state, 1)->bytes.len == 1 &&
        pickle_item(state, 1)->bytes.p[0] == '>')
        return refuse(l, array, t->name, "big-endian numbers are not read");
    code = pickle_item(p->call.args, 0);
    for (size_t i = 0; i < ARRAY_LEN(codes); i++)
        if (code->bytes.len == 2 && memcmp(code->bytes.p, codes[i].code, 2) == 0) {
            *dtype = codes[i].dtype;
            return 0;
        }
    *dtype = DTYPE_OTHER;
    t->other = ckpt_other(l->c, code->bytes);
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
        out[n] = (uint8_t)(*s < 0x80 ? *s : *s << 6 | (s[1] & 0x3f));
        s += *s < 0x80 ? 1 : 2;
    }
    if (s != end || n != len)
        return refuse(l, p, name, "shape and dtype do not fit the number of bytes");
    *data = out;
    return 0;
}

static int read_raw(struct load *l, const struct pickle *array, const struct pickle *p,
                    const char *name, size_t len, const uint8_t **data)
{
    const struct pickle *text;

    if (is_call(p, "_codecs", "encode")) {
        text = p->call.args->list.n > 0 ? pickle_item(p->call.args, 0) : p;
        if (text->kind != PICKLE_TEXT || p->call.args->list.n != 2 ||
            !pickle_is_text(pickle_item(p->call.args, 1), "latin1"))
            return refuse(l, array, name, "the bytes of an array are none");
        return decode_latin1(l, text, name, len, data);
    }
    if (len == 0 && (is_call(p, "builtins", "bytes") || is_call(p, "__builtin__", "bytes")) &&
        p->call.args->list.n == 0) { /* how protocol 2 writes no bytes */
        *data = l->c->bytes;
        return 0;
    }
    if (p->kind != PICKLE_BYTES && p->kind != PICKLE_TEXT)
        return refuse(l, array, name, "the bytes of an array are none");
    if (p->bytes.len != len)
        return refuse(l, array, name, "shape and dtype do not fit the number of bytes");
    *data = (const uint8_t *)p->bytes.p;
    return 0;
}

/* Column-major to row-major. */
static int reorder(struct load *l, struct tensor *t)
{
    uint64_t strides[CKPT_MAX_DIMS], step = 1;

    for (int d = 0; d < t->n_dims; d++) {
        strides[d] = step;
        step *= t->shape[d];
    }
    return ckpt_gather(l->c, t, strides, l->err);
}

/* ---- arrays --------------------------------------------------------------------- */

static int read_shape(struct load *l, const struct pickle *array, const struct pickle *p,
                      const char *name, uint64_t *shape)
{
    if (p->kind != PICKLE_TUPLE || p->list.n > CKPT_MAX_DIMS)
        return refuse(l, array, name, "the array's shape is no tuple of at most 8 sizes");
    for (size_t d = 0; d < p->list.n; d++) {
        if (pickle_item(p, d)->kind != PICKLE_INT || pickle_item(p, d)->number < 0)
            return refuse(l, array, name, "the array's shape is no tuple of at most 8 sizes");
        shape[d] = (uint64_t)pickle_item(p, d)->number;
    }
    return 0;
}

/* The dtype, after checking that the array has the five parts. */
static int read_array_dtype(struct load *l, struct tensor *t, const struct pickle *p,
                            enum dtype *dtype)
{
    const struct pickle *s = p->call.state;

    if (s == NULL || s->kind != PICKLE_TUPLE || s->list.n != 5 ||
        pickle_item(s, 3)->kind != PICKLE_BOOL)
        return refuse(l, p, t->name, "the array has no contents");
    return read_dtype(l, t, p, pickle_item(s, 2), dtype);
}

/* Fills in a tensor, whose name is there for messages. */
static int read_array(struct load *l, struct tensor *t, const struct pickle *p)
{
    const struct pickle *s = p->call.state;
    uint64_t shape[CKPT_MAX_DIMS];
    enum dtype dtype = DTYPE_OTHER;

    if (read_array_dtype(l, t, p, &dtype) == -1 ||
        read_shape(l, p, pickle_item(s, 1), t->name, shape) == -1 ||
        tensor_set(l->c, t, dtype, shape, pickle_item(s, 1)->list.n, l->err) == -1)
        return -1;
    if (dtype == DTYPE_OTHER)
        return 0;
    if (read_raw(l, p, pickle_item(s, 4), t->name, t->bytes, &t->data) == -1)
        return -1;
    return pickle_item(s, 3)->boolean ? reorder(l, t) : 0;
}

/* ---- the values of the dict by their keys -------------------------------------------- */

struct entry {
    struct str key;
    const struct pickle *value;
    bool is_piece; /* of an array that was cut */
};

static int by_key(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;

    return str_order(x->key, y->key);
}

/* All arrays of the dict, sorted. Values that are none, such as the name table or an optimizer's
 * settings, are passed over. */
static int collect(struct load *l, const struct pickle *dict)
{
    l->entries = xcalloc(dict->list.n / 2 + 1, sizeof *l->entries);
    for (size_t i = 0; i + 1 < dict->list.n; i += 2) {
        const struct pickle *key = pickle_item(dict, i),
                            *value = array_of(pickle_item(dict, i + 1));

        if (key->kind != PICKLE_TEXT || value == NULL)
            continue;
        if (ckpt_check_name(l->c, key->bytes, l->err) == -1)
            return -1;
        l->entries[l->n++] = (struct entry){key->bytes, value, false};
    }
    qsort(l->entries, l->n, sizeof *l->entries, by_key);
    return 0;
}

static struct entry *find(struct load *l, const struct pickle *key)
{
    struct entry wanted = {.key = key->bytes};

    return key->kind != PICKLE_TEXT || l->n == 0
               ? NULL
               : bsearch(&wanted, l->entries, l->n, sizeof wanted, by_key);
}

/* ---- arrays in pieces ------------------------------------------------------------- */

/* Copies the pieces behind each other. */
static int join_pieces(struct load *l, const struct pickle *pieces, struct tensor *t, uint8_t *out)
{
    size_t left = t->bytes;

    for (size_t i = 0; i < pieces->list.n; i++) {
        struct entry *e = find(l, pickle_item(pieces, i));
        struct tensor piece = {.name = t->name};

        if (e == NULL)
            return refuse(l, pieces, t->name, "a piece is missing");
        if (e->is_piece)
            return refuse(l, pieces, t->name, "a piece belongs to two places");
        e->is_piece = true;
        if (read_array(l, &piece, e->value) == -1)
            return -1;
        if (piece.dtype != t->dtype || piece.bytes > left)
            return refuse(l, pieces, t->name, "a piece does not fit");
        memcpy(out + t->bytes - left, piece.data, piece.bytes);
        left -= piece.bytes;
    }
    return left == 0 ? 0 : refuse(l, pieces, t->name, "the pieces hold less than the shape says");
}

/* {"OriginShape": sizes, "slices": [names of arrays]} */
static int join(struct load *l, struct str name, const struct pickle *p)
{
    const struct pickle *shape = pickle_get(p, "OriginShape"), *pieces = pickle_get(p, "slices");
    struct tensor *t = ckpt_add(l->c, name, l->err);
    enum dtype dtype = DTYPE_OTHER;
    const struct entry *e;
    uint64_t sizes[CKPT_MAX_DIMS];
    uint8_t *data;

    if (t == NULL)
        return -1;
    if (shape == NULL || pieces == NULL || pieces->kind != PICKLE_LIST || pieces->list.n == 0)
        return refuse(l, p, t->name, "its entry in " PIECES " has no OriginShape or no slices");
    e = find(l, pickle_item(pieces, 0));
    if (e == NULL)
        return refuse(l, pieces, t->name, "a piece is missing");
    if (read_array_dtype(l, t, e->value, &dtype) == -1 ||
        read_shape(l, p, shape, t->name, sizes) == -1 ||
        tensor_set(l->c, t, dtype, sizes, shape->list.n, l->err) == -1)
        return -1;
    if (dtype == DTYPE_OTHER)
        return refuse(l, p, t->name, "pieces of a dtype that is not read");
    data = ckpt_own(l->c, t->bytes, l->err);
    if (data == NULL || join_pieces(l, pieces, t, data) == -1)
        return -1;
    t->data = data;
    return 0;
}

static int join_all(struct load *l, const struct pickle *table)
{
    if (table == NULL)
        return 0;
    if (table->kind != PICKLE_DICT)
        return refuse(l, table, PIECES, "is no dict");
    for (size_t i = 0; i + 1 < table->list.n; i += 2) {
        const struct pickle *key = pickle_item(table, i);

        if (key->kind != PICKLE_TEXT)
            return refuse(l, key, PIECES, "a name is no text");
        if (join(l, key->bytes, pickle_item(table, i + 1)) == -1)
            return -1;
    }
    return 0;
}

/* ---- the file ------------------------------------------------------------------- */

static int read_object(struct load *l, const struct pickle *object)
{
    const struct pickle *dict = pickle_state_dict(object, array_of);

    if (dict == NULL)
        return refuse(l, object, "", "holds no state_dict: no dict of names and arrays");
    if (collect(l, dict) == -1 || join_all(l, pickle_get(dict, PIECES)) == -1)
        return -1;
    for (size_t i = 0; i + 1 < dict->list.n; i += 2) {
        const struct pickle *value = array_of(pickle_item(dict, i + 1));
        const struct entry *e = value == NULL ? NULL : find(l, pickle_item(dict, i));
        struct tensor *t;

        if (e == NULL || e->is_piece)
            continue;
        t = ckpt_add(l->c, e->key, l->err);
        if (t == NULL || read_array(l, t, value) == -1)
            return -1;
    }
    return 0;
}

int paddle_load(struct ckpt *c, struct err *err)
{
    struct load l = {c, err, ARENA_INIT, NULL, 0};
    struct reader r;
    struct pickle *p;
    int result = -1;

    reader_init(&r, c->name, c->bytes, c->len);
    p = pickle_read(&r, &l.arena, NULL, err);
    if (p != NULL && reader_left(&r) > 0)
        err_set(err, ERR_FORMAT, "%s: %zu bytes follow the pickle", c->name, reader_left(&r));
    else if (p != NULL)
        result = read_object(&l, p);
    arena_clear(&l.arena);
    free(l.entries);
    return result;
}
