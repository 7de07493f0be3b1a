/* pickle.c - the opcodes of a pickle, reduced to what leaves records behind; and what callers ask
 * of these. */
#include "pickle.h"
#include "machine.h"

#include <string.h>

enum {
    MARK = '(',
    STOP = '.',
    NONE = 'N',
    NEWTRUE = 0x88,
    NEWFALSE = 0x89,
    BININT = 'J',
    BININT1 = 'K',
    BININT2 = 'M',
    LONG1 = 0x8a,
    BINFLOAT = 'G',
    BINUNICODE = 'X',
    SHORT_BINUNICODE = 0x8c,
    BINUNICODE8 = 0x8d,
    BINBYTES = 'B',
    SHORT_BINBYTES = 'C',
    BINBYTES8 = 0x8e,
    BINSTRING = 'T',
    SHORT_BINSTRING = 'U',
    EMPTY_TUPLE = ')',
    TUPLE = 't',
    TUPLE1 = 0x85,
    TUPLE2 = 0x86,
    TUPLE3 = 0x87,
    EMPTY_LIST = ']',
    APPEND = 'a',
    APPENDS = 'e',
    EMPTY_DICT = '}',
    SETITEM = 's',
    SETITEMS = 'u',
    GLOBAL = 'c',
    STACK_GLOBAL = 0x93,
    REDUCE = 'R',
    BUILD = 'b',
    BINPERSID = 'Q',
    BINPUT = 'q',
    LONG_BINPUT = 'r',
    MEMOIZE = 0x94,
    BINGET = 'h',
    LONG_BINGET = 'j',
    PROTO = 0x80,
    FRAME = 0x95,
};

/* Whatever else a pickle names, it is not a checkpoint's tensors. A name that begins with * ends in
 * the rest. */
static const struct {
    const char *module, *name;
} symbols[] = {
    {"numpy.core.multiarray", "_reconstruct"},
    {"numpy._core.multiarray", "_reconstruct"},
    {"numpy.core.multiarray", "scalar"},
    {"numpy._core.multiarray", "scalar"},
    {"numpy", "ndarray"},
    {"numpy", "dtype"},
    {"_codecs", "encode"},
    {"__builtin__", "bytes"},
    {"builtins", "bytes"},
    {"__builtin__", "tuple"},
    {"builtins", "tuple"},
    {"collections", "OrderedDict"},
    {"collections", "defaultdict"},
    {"collections", "Counter"},
    {"torch._utils", "_rebuild_tensor_v2"},
    {"torch._utils", "_rebuild_tensor_v3"},
    {"torch._utils", "_rebuild_parameter"},
    {"torch.storage", "UntypedStorage"},
    {"torch", "Size"},
    {"torch", "device"},
    {"torch", "*Storage"},
    {"torch", "uint16"}, /* dtypes, of _rebuild_tensor_v3 */
    {"torch", "uint32"},
    {"torch", "uint64"},
    {"torch", "float8_e4m3fn"},
    {"torch", "float8_e4m3fnuz"},
    {"torch", "float8_e5m2"},
    {"torch", "float8_e5m2fnuz"},
    {"torch", "float8_e8m0fnu"},
};

/* What takes one byte of the file takes no record: these never change. */
static struct pickle none = {.kind = PICKLE_NONE}, yes = {.kind = PICKLE_BOOL, .boolean = true},
                     no = {.kind = PICKLE_BOOL}, empty_tuple = {.kind = PICKLE_TUPLE};

/* ---- reading -------------------------------------------------------------------- */

static int cut_short(struct machine *m)
{
    return machine_refuse(m, "the file ends within a value");
}

/* `width` bytes, little-endian. */
static int read_number(struct machine *m, size_t width, uint64_t *v)
{
    *v = 0;
    if (reader_left(m->in) < width)
        return cut_short(m);
    for (size_t i = 0; i < width; i++)
        *v |= (uint64_t)m->in->p[i] << (8 * i);
    m->in->p += width;
    return 0;
}

static int read_bytes(struct machine *m, size_t width, struct str *s)
{
    uint64_t len;

    if (read_number(m, width, &len) == -1)
        return -1;
    if (len > reader_left(m->in))
        return machine_refuse(m, "a string of %llu bytes where %zu are left",
                              (unsigned long long)len, reader_left(m->in));
    *s = (struct str){(const char *)m->in->p, (size_t)len};
    m->in->p += len;
    return 0;
}

/* The bytes up to a line feed, which is skipped. */
static int read_line(struct machine *m, struct str *s)
{
    const uint8_t *end = memchr(m->in->p, '\n', reader_left(m->in));

    if (end == NULL)
        return cut_short(m);
    *s = (struct str){(const char *)m->in->p, (size_t)(end - m->in->p)};
    m->in->p = end + 1;
    return 0;
}

/* ---- plain values --------------------------------------------------------------- */

static int push_int(struct machine *m, int64_t v)
{
    struct pickle *p = machine_record(m, PICKLE_INT);

    if (p != NULL)
        p->number = v;
    return machine_push_new(m, p);
}

static int op_int(struct machine *m, size_t width)
{
    uint64_t v;

    if (read_number(m, width, &v) == -1)
        return -1;
    return push_int(m, width == 4 ? (int32_t)(uint32_t)v : (int64_t)v);
}

static int op_long(struct machine *m)
{
    struct str bytes;
    struct pickle *p;
    uint64_t v = 0;

    if (read_bytes(m, 1, &bytes) == -1)
        return -1;
    if (bytes.len > 8) {
        p = machine_record(m, PICKLE_LONG);
        if (p != NULL)
            p->bytes = bytes;
        return machine_push_new(m, p);
    }
    if (bytes.len > 0 && (bytes.p[bytes.len - 1] & 0x80) != 0)
        v = bytes.len < 8 ? UINT64_MAX << (8 * bytes.len) : 0;
    for (size_t i = 0; i < bytes.len; i++)
        v |= (uint64_t)(unsigned char)bytes.p[i] << (8 * i);
    return push_int(m, (int64_t)v);
}

static int op_float(struct machine *m)
{
    struct pickle *p = machine_record(m, PICKLE_FLOAT);
    uint64_t v;

    if (p == NULL || read_number(m, 8, &v) == -1)
        return -1;
    v = __builtin_bswap64(v); /* the one number that is stored big-endian */
    memcpy(&p->real, &v, sizeof v);
    return machine_push_new(m, p);
}

static int op_text(struct machine *m, size_t width)
{
    struct pickle *p = machine_record(m, PICKLE_TEXT);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    if (!utf8_valid(p->bytes.p, p->bytes.len))
        return machine_refuse(m, "a text that is not UTF-8");
    return machine_push_new(m, p);
}

static int op_bytes(struct machine *m, size_t width)
{
    struct pickle *p = machine_record(m, PICKLE_BYTES);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    return machine_push_new(m, p);
}

/* A string of Python 2 is text or bytes, whichever it looks like; both keep its bytes. */
static int op_string(struct machine *m, size_t width)
{
    struct pickle *p = machine_record(m, PICKLE_BYTES);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    if (utf8_valid(p->bytes.p, p->bytes.len))
        p->kind = PICKLE_TEXT;
    return machine_push_new(m, p);
}

/* ---- symbols and calls ------------------------------------------------------------ */

static bool equals(struct str s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
}

static bool matches(struct str s, const char *pattern)
{
    size_t len = strlen(pattern);

    if (pattern[0] != '*')
        return equals(s, pattern);
    return s.len >= len - 1 && memcmp(s.p + s.len - (len - 1), pattern + 1, len - 1) == 0;
}

static int push_symbol(struct machine *m, struct str module, struct str name)
{
    struct pickle *p;

    for (size_t i = 0; i < ARRAY_LEN(symbols); i++)
        if (equals(module, symbols[i].module) && matches(name, symbols[i].name)) {
            p = machine_record(m, PICKLE_SYMBOL);
            if (p == NULL)
                return -1;
            p->symbol.module = symbols[i].module;
            p->symbol.name = name;
            return machine_push_new(m, p);
        }
    return machine_refuse(
        m,
        "names %.*s.%.*s, which tensors do not need; save the state_dict alone (nothing "
        "of the file was run)",
        (int)(module.len < 64 ? module.len : 64), module.p, (int)(name.len < 64 ? name.len : 64),
        name.p);
}

static int op_global(struct machine *m)
{
    struct str module, name;

    if (read_line(m, &module) == -1 || read_line(m, &name) == -1)
        return -1;
    return push_symbol(m, module, name);
}

static int op_stack_global(struct machine *m)
{
    struct pickle *name = machine_pop(m), *module = name == NULL ? NULL : machine_pop(m);

    if (module == NULL)
        return -1;
    if (module->kind != PICKLE_TEXT || name->kind != PICKLE_TEXT)
        return machine_refuse(m, "a symbol's name is no text");
    return push_symbol(m, module->bytes, name->bytes);
}

/* OrderedDict() and OrderedDict([(key, value), ...]) are dicts like any other. */
static int ordered_dict(struct machine *m, struct pickle *p, const struct pickle *args)
{
    const struct pickle *pairs = args->list.n == 0 ? args : args->list.items[0];

    if (args->list.n > 1 || (pairs->kind != PICKLE_LIST && pairs->kind != PICKLE_TUPLE))
        return machine_refuse(m, "an OrderedDict of something else than pairs");
    /* The pairs may be those of many dicts, at a few bytes of the file each. */
    if (machine_count(m, pairs->list.n) == -1)
        return -1;
    p->kind = PICKLE_DICT;
    p->list.items = arena_alloc(m->arena, (2 * pairs->list.n + 1) * sizeof *p->list.items);
    p->list.n = p->list.room = 2 * pairs->list.n;
    for (size_t i = 0; i < pairs->list.n; i++) {
        const struct pickle *pair = pairs->list.items[i];

        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->list.n != 2)
            return machine_refuse(m, "an OrderedDict of something else than pairs");
        p->list.items[2 * i] = pair->list.items[0];
        p->list.items[2 * i + 1] = pair->list.items[1];
    }
    return machine_push_new(m, p);
}

static int op_reduce(struct machine *m)
{
    struct pickle *args = machine_pop(m), *symbol = args == NULL ? NULL : machine_pop(m);
    struct pickle *p = symbol == NULL ? NULL : machine_record(m, PICKLE_CALL);

    if (p == NULL)
        return -1;
    if (symbol->kind != PICKLE_SYMBOL || args->kind != PICKLE_TUPLE)
        return machine_refuse(m, "a call of what is no symbol, or without arguments");
    if (pickle_is_symbol(symbol, "collections", "OrderedDict"))
        return ordered_dict(m, p, args);
    p->call.symbol = symbol;
    p->call.args = args;
    return machine_push_new(m, p);
}

/* The state of a dict is what Python hangs on it beside its entries, such as torch's _metadata. */
static int op_build(struct machine *m)
{
    struct pickle *state = machine_pop(m), *into = state == NULL ? NULL : machine_top(m);

    if (into == NULL)
        return -1;
    if (into->kind == PICKLE_DICT)
        return 0;
    if (into->kind != PICKLE_CALL)
        return machine_refuse(m, "a state for what was not made by a call");
    into->call.state = state;
    return 0;
}

static int op_persistent(struct machine *m)
{
    struct pickle *id = machine_pop(m),
                  *p = id == NULL ? NULL : machine_record(m, PICKLE_PERSISTENT);

    if (p == NULL)
        return -1;
    p->id = id;
    if (m->persistent != NULL)
        machine_list_add(m, m->persistent, p);
    return machine_push_new(m, p);
}

/* ---- the machine ------------------------------------------------------------------ */

static int op_memo(struct machine *m, int op)
{
    uint64_t slot;

    if (op == MEMOIZE)
        return machine_memo_put(m, m->memo.n);
    if (read_number(m, op == BINPUT || op == BINGET ? 1 : 4, &slot) == -1)
        return -1;
    return op == BINPUT || op == LONG_BINPUT ? machine_memo_put(m, slot)
                                             : machine_memo_get(m, slot);
}

static int op_frame(struct machine *m)
{
    uint64_t len;

    if (read_number(m, 8, &len) == -1)
        return -1;
    return len <= reader_left(m->in) ? 0
                                     : machine_refuse(m, "a frame that is longer than the file");
}

static int op_value(struct machine *m, int op)
{
    switch (op) {
    case NONE:
        return machine_push(m, &none);
    case NEWTRUE:
        return machine_push(m, &yes);
    case NEWFALSE:
        return machine_push(m, &no);
    case BININT:
        return op_int(m, 4);
    case BININT1:
        return op_int(m, 1);
    case BININT2:
        return op_int(m, 2);
    case LONG1:
        return op_long(m);
    case BINFLOAT:
        return op_float(m);
    case SHORT_BINUNICODE:
        return op_text(m, 1);
    case BINUNICODE:
        return op_text(m, 4);
    case BINUNICODE8:
        return op_text(m, 8);
    case SHORT_BINBYTES:
        return op_bytes(m, 1);
    case BINBYTES:
        return op_bytes(m, 4);
    case BINBYTES8:
        return op_bytes(m, 8);
    case SHORT_BINSTRING:
        return op_string(m, 1);
    case BINSTRING:
        return op_string(m, 4);
    default:
        return machine_refuse(m,
                              "opcode 0x%02x, which tensors do not need; save the state_dict alone "
                              "(nothing of the file was run)",
                              (unsigned)op);
    }
}

static int op_container(struct machine *m, int op)
{
    switch (op) {
    case MARK:
        return machine_mark(m);
    case EMPTY_TUPLE:
        return machine_push(m, &empty_tuple);
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
        return machine_tuple(m, (size_t)(op - TUPLE1 + 1));
    case TUPLE:
        return machine_marked_tuple(m);
    case EMPTY_LIST:
        return machine_push_new(m, machine_record(m, PICKLE_LIST));
    case APPEND:
        return machine_add(m, PICKLE_LIST, 1);
    case APPENDS:
        return machine_marked_add(m, PICKLE_LIST);
    case EMPTY_DICT:
        return machine_push_new(m, machine_record(m, PICKLE_DICT));
    case SETITEM:
        return machine_add(m, PICKLE_DICT, 2);
    case SETITEMS:
        return machine_marked_add(m, PICKLE_DICT);
    default:
        return op_value(m, op);
    }
}

static int op_any(struct machine *m, int op)
{
    switch (op) {
    case GLOBAL:
        return op_global(m);
    case STACK_GLOBAL:
        return op_stack_global(m);
    case REDUCE:
        return op_reduce(m);
    case BUILD:
        return op_build(m);
    case BINPERSID:
        return op_persistent(m);
    case BINPUT:
    case LONG_BINPUT:
    case MEMOIZE:
    case BINGET:
    case LONG_BINGET:
        return op_memo(m, op);
    case FRAME:
        return op_frame(m);
    default:
        return op_container(m, op);
    }
}

static int read_op(struct machine *m)
{
    m->at = (size_t)(m->in->p - m->in->start);
    if (reader_left(m->in) == 0)
        return machine_refuse(m, "the file ends within a pickle");
    return *m->in->p++;
}

static int read_proto(struct machine *m)
{
    int proto = -1;

    if (read_op(m) != PROTO || reader_left(m->in) == 0)
        return machine_refuse(m, "not a pickle of protocol 2, 3 or 4");
    proto = *m->in->p++;
    return proto >= 2 && proto <= 4
               ? 0
               : machine_refuse(m, "a pickle of protocol %d; 2, 3 and 4 are read", proto);
}

struct pickle *pickle_read(struct reader *r, struct arena *a, struct pickle_list *persistent,
                           struct err *err)
{
    struct machine m;
    int op;

    machine_init(&m, r, a, persistent, err);
    if (read_proto(&m) == -1)
        return NULL;
    while ((op = read_op(&m)) != STOP)
        if (op == -1 || op_any(&m, op) == -1)
            return NULL;
    return machine_result(&m);
}

/* ---- asking records ----------------------------------------------------------------- */

bool pickle_is_text(const struct pickle *p, const char *text)
{
    return p->kind == PICKLE_TEXT && equals(p->bytes, text);
}

bool pickle_is_named(const struct pickle *p, const char *name)
{
    return p->kind == PICKLE_SYMBOL && equals(p->symbol.name, name);
}

bool pickle_is_symbol(const struct pickle *p, const char *module, const char *name)
{
    return pickle_is_named(p, name) && strcmp(p->symbol.module, module) == 0;
}

const struct pickle *pickle_get(const struct pickle *dict, const char *key)
{
    if (dict->kind != PICKLE_DICT)
        return NULL;
    for (size_t i = 0; i + 1 < dict->list.n; i += 2)
        if (pickle_is_text(pickle_item(dict, i), key))
            return pickle_item(dict, i + 1);
    return NULL;
}

static bool has_tensors(const struct pickle *dict,
                        const struct pickle *(*tensor_of)(const struct pickle *))
{
    for (size_t i = 0; dict->kind == PICKLE_DICT && i + 1 < dict->list.n; i += 2)
        if (pickle_item(dict, i)->kind == PICKLE_TEXT &&
            tensor_of(pickle_item(dict, i + 1)) != NULL)
            return true;
    return false;
}

const struct pickle *pickle_state_dict(const struct pickle *p,
                                       const struct pickle *(*tensor_of)(const struct pickle *))
{
    static const char *const keys[] = {"state_dict", "model_state_dict", "model_state",
                                       "model",      "module",           "net",
                                       "network",    "weights"};

    if (has_tensors(p, tensor_of))
        return p;
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const struct pickle *inner = pickle_get(p, keys[i]);

        if (inner != NULL && has_tensors(inner, tensor_of))
            return inner;
    }
    return NULL;
}
