/* torch.c - reads what torch.save writes: a pickle of tensors, and the storages they look into.
 *
 * A tensor is the record of a call of _rebuild_tensor_v2 (or v3, for its newest dtypes) with a
 * storage, an offset, sizes and strides. Since 1.6 the file is a zip: data.pkl and an entry for
 * each storage. Before, there were five pickles in a row (a magic number, a version, facts about
 * the machine, the object, the keys of the storages) and then, for each key, a length and the
 * bytes. */
#include "format.h"
#include "pickle.h"
#include "zip.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREFIXES_MAX 8
#define KEY_MAX 64 /* bytes; torch numbers its storages */

struct storage {
    struct str key;
    enum dtype dtype;
    const char *other;
    size_t size;    /* of an element; 0: not known */
    uint64_t count; /* of elements, as the pickle says */
    const uint8_t *data;
    size_t at; /* of the record that names it */
};

struct load {
    struct ckpt *c;
    struct err *err;
    struct arena arena; /* of the records */
    struct zip zip;
    struct str stem;          /* zip: the folder of all entries, with its '/' */
    struct storage *storages; /* legacy: sorted by key */
    size_t n_storages;
};

static int refuse(struct load *l, size_t at, const char *name, const char *why)
{
    return err_set(l->err, ERR_FORMAT, "%s: offset %zu: %s%s%s", l->c->name, at, name,
                   name[0] != '\0' ? ": " : "", why);
}

static bool is_call(const struct pickle *p, const char *name)
{
    return p->kind == PICKLE_CALL && pickle_is_symbol(p->call.symbol, "torch._utils", name);
}

/* ---- storages ------------------------------------------------------------------- */

static const struct {
    const char *name;
    enum dtype dtype;
    size_t size; /* of an element */
} kinds[] = {
    {"DoubleStorage", DTYPE_F64, 8},
    {"FloatStorage", DTYPE_F32, 4},
    {"HalfStorage", DTYPE_F16, 2},
    {"BFloat16Storage", DTYPE_BF16, 2},
    {"LongStorage", DTYPE_I64, 8},
    {"IntStorage", DTYPE_I32, 4},
    {"ShortStorage", DTYPE_I16, 2},
    {"CharStorage", DTYPE_I8, 1},
    {"ByteStorage", DTYPE_U8, 1},
    {"BoolStorage", DTYPE_BOOL, 1},
    {"ComplexFloatStorage", DTYPE_OTHER, 8},
    {"ComplexDoubleStorage", DTYPE_OTHER, 16},
    {"QInt8Storage", DTYPE_OTHER, 1},
    {"QUInt8Storage", DTYPE_OTHER, 1},
    {"QInt32Storage", DTYPE_OTHER, 4},
    {"UntypedStorage", DTYPE_OTHER, 1}, /* of dtypes that have no storage of their own */
};

static int by_key(const void *a, const void *b)
{
    const struct storage *x = a, *y = b;

    return str_order(x->key, y->key);
}

/* ('storage', type, key, place, count[, view]). A view into another storage is of legacy files and
 * only of those that share memory in ways that state_dicts do not. */
static int read_storage(struct load *l, const struct pickle *p, const char *name, struct storage *s)
{
    const struct pickle *id = p->id;

    if (id->kind != PICKLE_TUPLE || id->list.n < 5 || pickle_item(id, 1)->kind != PICKLE_SYMBOL ||
        pickle_item(id, 2)->kind != PICKLE_TEXT || pickle_item(id, 2)->bytes.len > KEY_MAX ||
        pickle_item(id, 4)->kind != PICKLE_INT || pickle_item(id, 4)->number < 0)
        return refuse(l, p->at, name, "its storage is not described as expected");
    if (id->list.n > 5 && pickle_item(id, 5)->kind != PICKLE_NONE)
        return refuse(l, p->at, name, "its storage is a view into another, which is not read");
    *s = (struct storage){.key = pickle_item(id, 2)->bytes,
                          .dtype = DTYPE_OTHER,
                          .count = (uint64_t)pickle_item(id, 4)->number,
                          .at = p->at};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (pickle_is_named(pickle_item(id, 1), kinds[i].name)) {
            s->dtype = kinds[i].dtype;
            s->size = kinds[i].size;
        }
    if (s->dtype == DTYPE_OTHER)
        s->other = ckpt_other(l->c, pickle_item(id, 1)->symbol.name);
    return 0;
}

/* zip: the storage's bytes, which must be all of its entry. */
static int find_in_zip(struct load *l, const char *name, struct storage *s)
{
    const struct zip_entry *e;
    struct buf path = BUF_INIT;
    size_t bytes;

    buf_put(&path, l->stem.p, l->stem.len);
    buf_puts(&path, "data/");
    buf_put(&path, s->key.p, s->key.len);
    e = zip_find(&l->zip, (struct str){path.p, path.len});
    buf_clear(&path);
    if (e == NULL)
        return refuse(l, s->at, name, "the zip file has no entry for its storage");
    if (!e->stored)
        return refuse(l, s->at, name, "its storage is compressed or encrypted, which torch is not");
    if (!mem_product((size_t)s->count, s->size, &bytes) || bytes > e->len)
        return refuse(l, s->at, name, "its storage is shorter than the pickle says");
    s->data = e->data;
    return 0;
}

/* legacy: the bytes come behind the pickles, read already. */
static int find_in_list(struct load *l, const char *name, struct storage *s)
{
    const struct storage *known =
        l->n_storages == 0 ? NULL : bsearch(s, l->storages, l->n_storages, sizeof *s, by_key);

    if (known == NULL || known->data == NULL)
        return refuse(l, s->at, name, "its storage is not in the file");
    if (known->count < s->count)
        return refuse(l, s->at, name, "its storage is shorter than the pickle says");
    s->data = known->data;
    return 0;
}

/* ---- tensors -------------------------------------------------------------------- */

/* Sizes or strides. */
static int read_numbers(struct load *l, size_t at, const struct pickle *p, const char *name,
                        uint64_t *out)
{
    if (p->kind != PICKLE_TUPLE || p->list.n > CKPT_MAX_DIMS)
        return refuse(l, at, name, "size or stride is no tuple of at most 8 numbers");
    for (size_t d = 0; d < p->list.n; d++) {
        if (pickle_item(p, d)->kind != PICKLE_INT || pickle_item(p, d)->number < 0)
            return refuse(l, at, name, "size or stride is no tuple of at most 8 numbers");
        out[d] = (uint64_t)pickle_item(p, d)->number;
    }
    return 0;
}

static bool is_row_major(const struct tensor *t, const uint64_t *strides)
{
    uint64_t expected = 1;

    for (int d = t->n_dims; d-- > 0;) {
        if (t->shape[d] > 1 && strides[d] != expected)
            return false;
        expected *= t->shape[d];
    }
    return true;
}

/* The place of the last element must lie before `count`; without elements, that of the first. */
static bool fits(const struct tensor *t, const uint64_t *strides, uint64_t offset, uint64_t count)
{
    uint64_t last = offset, step;

    if (t->count == 0)
        return offset <= count;
    for (int d = 0; d < t->n_dims; d++)
        if (__builtin_mul_overflow(strides[d], t->shape[d] - 1, &step) ||
            __builtin_add_overflow(last, step, &last))
            return false;
    return last < count;
}

/* _rebuild_tensor_v3 names the dtype in its seventh argument: one that is not read. */
static const char *named_dtype(struct load *l, const struct pickle *p, const char *otherwise)
{
    const struct pickle *args = p->call.args;

    if (!is_call(p, "_rebuild_tensor_v3") || args->list.n < 7 ||
        pickle_item(args, 6)->kind != PICKLE_SYMBOL)
        return otherwise;
    return ckpt_other(l->c, pickle_item(args, 6)->symbol.name);
}

/* _rebuild_tensor_v2(storage, offset, size, stride, ...) */
static int read_tensor(struct load *l, struct str name, const struct pickle *p)
{
    const struct pickle *args = p->call.args;
    struct tensor *t = ckpt_add(l->c, name, l->err);
    uint64_t shape[CKPT_MAX_DIMS] = {0}, strides[CKPT_MAX_DIMS] = {0}, offset;
    struct storage s;

    if (t == NULL)
        return -1;
    if (args->list.n < 4 || pickle_item(args, 0)->kind != PICKLE_PERSISTENT ||
        pickle_item(args, 1)->kind != PICKLE_INT || pickle_item(args, 1)->number < 0)
        return refuse(l, p->at, t->name, "the tensor is not described as expected");
    offset = (uint64_t)pickle_item(args, 1)->number;
    if (read_storage(l, pickle_item(args, 0), t->name, &s) == -1 ||
        read_numbers(l, p->at, pickle_item(args, 2), t->name, shape) == -1 ||
        read_numbers(l, p->at, pickle_item(args, 3), t->name, strides) == -1)
        return -1;
    if (pickle_item(args, 2)->list.n != pickle_item(args, 3)->list.n)
        return refuse(l, p->at, t->name, "size and stride differ in length");
    s.other = named_dtype(l, p, s.other); /* whatever the storage is */
    if (s.other != NULL)
        s.dtype = DTYPE_OTHER;
    if (tensor_set(l->c, t, s.dtype, shape, pickle_item(args, 2)->list.n, l->err) == -1)
        return -1;
    t->other = s.other;
    if (s.dtype == DTYPE_OTHER)
        return 0;
    if ((l->zip.n > 0 ? find_in_zip(l, t->name, &s) : find_in_list(l, t->name, &s)) == -1)
        return -1;
    if (!fits(t, strides, offset, s.count))
        return refuse(l, p->at, t->name, "the tensor reaches beyond its storage");
    t->data = s.data + offset * s.size;
    return t->count == 0 || is_row_major(t, strides) ? 0 : ckpt_gather(l->c, t, strides, l->err);
}

/* ---- the state_dict ------------------------------------------------------------- */

/* A parameter is a tensor and a flag. */
static const struct pickle *tensor_of(const struct pickle *p)
{
    if (is_call(p, "_rebuild_parameter") && p->call.args->list.n > 0)
        p = pickle_item(p->call.args, 0);
    return is_call(p, "_rebuild_tensor_v2") || is_call(p, "_rebuild_tensor_v3") ? p : NULL;
}

/* What wrappers put before every name, each wrapper once. */
static size_t prefix_len(const struct pickle *dict)
{
    static const char *const prefixes[] = {"module.", "model.", "_orig_mod."};
    size_t len = 0;

    for (size_t k = 0, rounds = 0; k < ARRAY_LEN(prefixes) && rounds < PREFIXES_MAX; rounds++) {
        size_t more = strlen(prefixes[k]);
        bool all = true;

        for (size_t i = 0; all && i + 1 < dict->list.n; i += 2) {
            const struct pickle *key = pickle_item(dict, i);

            if (key->kind == PICKLE_TEXT && tensor_of(pickle_item(dict, i + 1)) != NULL)
                all = key->bytes.len > len + more &&
                      memcmp(key->bytes.p + len, prefixes[k], more) == 0;
        }
        len += all ? more : 0;
        k = all ? 0 : k + 1;
    }
    return len;
}

static int read_object(struct load *l, const struct pickle *p)
{
    const struct pickle *dict = pickle_state_dict(p, tensor_of);
    size_t prefix;

    if (dict == NULL)
        return refuse(l, p->at, "", "holds no state_dict: no dict of names and tensors");
    prefix = prefix_len(dict);
    for (size_t i = 0; i + 1 < dict->list.n; i += 2) {
        const struct pickle *key = pickle_item(dict, i),
                            *tensor = tensor_of(pickle_item(dict, i + 1));
        struct str name = key->bytes;

        if (key->kind != PICKLE_TEXT || tensor == NULL)
            continue;
        name.p += prefix;
        name.len -= prefix;
        if (read_tensor(l, name, tensor) == -1)
            return -1;
    }
    return 0;
}

/* ---- zip ------------------------------------------------------------------------ */

static bool ends_with(struct str s, const char *end)
{
    size_t len = strlen(end);

    return s.len >= len && memcmp(s.p + s.len - len, end, len) == 0;
}

static const struct zip_entry *find_beside(struct load *l, const char *name)
{
    struct buf path = BUF_INIT;
    const struct zip_entry *e;

    buf_put(&path, l->stem.p, l->stem.len);
    buf_puts(&path, name);
    e = zip_find(&l->zip, (struct str){path.p, path.len});
    buf_clear(&path);
    return e;
}

/* The entry of the pickle; its folder is the stem of all names. */
static const struct zip_entry *find_pickle(struct load *l)
{
    static const char name[] = "data.pkl";

    for (size_t i = 0; i < l->zip.n; i++) {
        const struct zip_entry *e = &l->zip.entries[i];

        if (ends_with(e->name, name) &&
            (e->name.len == sizeof name - 1 || e->name.p[e->name.len - sizeof name] == '/')) {
            l->stem = (struct str){e->name.p, e->name.len - (sizeof name - 1)};
            return e;
        }
    }
    return NULL;
}

/* -1 with the error set for archives that are something else. */
static int check_archive(struct load *l, const struct zip_entry *pickle)
{
    const struct zip_entry *order;

    if (pickle == NULL)
        return err_set(l->err, ERR_FORMAT, "%s: a zip file without data.pkl is no checkpoint",
                       l->c->name);
    if (find_beside(l, "constants.pkl") != NULL)
        return err_set(l->err, ERR_FORMAT,
                       "%s: recognised as TorchScript, which holds code and is not read: save the "
                       "state_dict of the model instead",
                       l->c->name);
    if (!pickle->stored)
        return err_set(l->err, ERR_FORMAT,
                       "%s: data.pkl is compressed or encrypted, which torch.save does not do",
                       l->c->name);
    order = find_beside(l, "byteorder");
    if (order != NULL && order->stored && order->len >= 3 && memcmp(order->data, "big", 3) == 0)
        return err_set(l->err, ERR_FORMAT, "%s: big-endian numbers are not read", l->c->name);
    return 0;
}

/* Messages give offsets in the file, not in the entry: the reader starts at the file's start. */
static struct pickle *read_entry(struct load *l, const struct zip_entry *e)
{
    struct reader r;

    reader_init(&r, l->c->name, l->c->bytes, (size_t)(e->data - l->c->bytes) + e->len);
    r.p = e->data;
    return pickle_read(&r, &l->arena, NULL, l->err);
}

/* torch can be told to compute no checksums: it writes 0 then. */
static void note_sums(struct load *l)
{
    for (size_t i = 0; i < l->zip.n; i++) {
        const struct zip_entry *e = &l->zip.entries[i];

        if (e->stored && e->crc != 0)
            ckpt_add_sum(l->c, &(struct ckpt_sum){e->name, e->data, e->len, e->crc});
    }
}

static void load_clear(struct load *l)
{
    arena_clear(&l->arena);
    zip_clear(&l->zip);
    free(l->storages);
}

int torch_load(struct ckpt *c, struct err *err)
{
    struct load l = {.c = c, .err = err, .arena = ARENA_INIT};
    const struct zip_entry *e = NULL;
    struct pickle *p = NULL;
    int result = -1;

    if (zip_open(&l.zip, c->name, c->bytes, c->len, err) == 0) {
        e = find_pickle(&l);
        if (check_archive(&l, e) == 0 && (p = read_entry(&l, e)) != NULL)
            result = read_object(&l, p);
        note_sums(&l);
    }
    load_clear(&l);
    return result;
}

/* ---- legacy ----------------------------------------------------------------------- */

/* What is known of the storages that the object names, wherever in it: one for each key. */
static int collect(struct load *l, const struct pickle_list *named)
{
    struct storage *s;

    l->storages = s = xcalloc(named->n + 1, sizeof *l->storages);
    for (size_t i = 0; i < named->n; i++)
        if (read_storage(l, named->items[i], "a tensor", &s[i]) == -1)
            return -1;
    qsort(s, named->n, sizeof *s, by_key);
    for (size_t i = 0; i < named->n; i++) {
        if (l->n_storages == 0 || by_key(&s[l->n_storages - 1], &s[i]) != 0)
            s[l->n_storages++] = s[i];
        else if (s[l->n_storages - 1].dtype != s[i].dtype)
            return refuse(l, s[i].at, "", "a storage of two types");
    }
    return 0;
}

/* The storages in the order of their keys: the count as an int64, then the bytes. */
static int read_storages(struct load *l, const struct pickle *keys, struct reader *r)
{
    for (size_t i = 0; i < keys->list.n; i++) {
        struct storage key = {.key = pickle_item(keys, i)->bytes}, *s;
        size_t at = (size_t)(r->p - r->start), bytes;
        uint64_t count;

        if (pickle_item(keys, i)->kind != PICKLE_TEXT)
            return refuse(l, keys->at, "", "a storage's key is no text");
        s = l->n_storages == 0 ? NULL
                               : bsearch(&key, l->storages, l->n_storages, sizeof key, by_key);
        if (s == NULL || s->size == 0)
            return refuse(l, at, "", "a storage whose type is not known");
        if (!reader_u64le(r, &count) || !mem_product((size_t)count, s->size, &bytes) ||
            bytes > reader_left(r))
            return refuse(l, at, "", "a storage is longer than the file");
        s->data = r->p;
        s->count = count;
        r->p += bytes;
    }
    if (reader_left(r) > 0)
        return refuse(l, (size_t)(r->p - r->start), "", "bytes follow the last storage");
    return 0;
}

static bool is_big_endian(const struct pickle *machine)
{
    const struct pickle *little = pickle_get(machine, "little_endian");

    return little != NULL && little->kind == PICKLE_BOOL && !little->boolean;
}

int torch_legacy_load(struct ckpt *c, struct err *err)
{
    enum { MAGIC, VERSION, MACHINE, OBJECT, KEYS, PICKLES };
    struct load l = {.c = c, .err = err, .arena = ARENA_INIT};
    struct pickle_list named = {NULL, 0, 0};
    struct pickle *p[PICKLES];
    struct reader r;
    int result = -1;

    reader_init(&r, c->name, c->bytes, c->len);
    for (int i = 0; i < PICKLES; i++)
        if ((p[i] = pickle_read(&r, &l.arena, &named, err)) == NULL)
            goto out;
    if (p[VERSION]->kind != PICKLE_INT || p[VERSION]->number != 1001)
        refuse(&l, p[VERSION]->at, "", "the version is not 1001");
    else if (is_big_endian(p[MACHINE]))
        refuse(&l, p[MACHINE]->at, "", "big-endian numbers are not read");
    else if (p[KEYS]->kind != PICKLE_LIST)
        refuse(&l, p[KEYS]->at, "", "the keys of the storages are no list");
    else if (collect(&l, &named) == 0 && read_storages(&l, p[KEYS], &r) == 0)
        result = read_object(&l, p[OBJECT]);
out:
    load_clear(&l);
    return result;
}
