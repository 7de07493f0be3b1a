/* pickle.c - the stack machine of a pickle, reduced to what leaves records behind. */
#include "pickle.h"

#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 64
#define STACK_MAX 100000 /* writers add to a container after every thousand */
#define MEMO_MAX 1000000
#define RECORDS_MAX 4000000 /* a tensor of torch takes about 25 */
#define PUSHES_MAX 8000000  /* what is in a list takes no record each time */
#define RECORDS_FREE 1000   /* beyond these, a record for every two bytes: writers need three */
#define BLOCK 256           /* records that are allocated at once */

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
    {"torch._utils", "_rebuild_parameter"},
    {"torch", "Size"},
    {"torch", "device"},
    {"torch", "*Storage"},
};

/* What takes one byte of the file takes no record: these never change. */
static struct pickle none = {.kind = PICKLE_NONE}, yes = {.kind = PICKLE_BOOL, .boolean = true},
                     no = {.kind = PICKLE_BOOL}, empty_tuple = {.kind = PICKLE_TUPLE};

struct machine {
    struct reader *in;
    struct arena *arena;
    struct err *err;
    size_t at; /* of the current opcode */
    struct pickle_list stack, memo, *persistent;
    size_t marks[DEPTH_MAX], n_marks;
    size_t n_records, max_records, n_pushes;
    struct pickle *block; /* the next of the records that are allocated */
    size_t block_left;
};

static int refuse(struct machine *m, const char *fmt, ...) PRINTF_LIKE(2, 3);

static int refuse(struct machine *m, const char *fmt, ...)
{
    char reason[256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(reason, sizeof reason, fmt, args);
    va_end(args);
    return err_set(m->err, ERR_FORMAT, "%s: offset %zu: %s", m->in->name, m->at, reason);
}

/* ---- stack and memo ------------------------------------------------------------- */

static void list_grow(struct machine *m, struct pickle_list *s, size_t n)
{
    struct pickle **larger;
    size_t room = s->room == 0 ? 64 : s->room;

    if (n <= s->room)
        return;
    while (room < n)
        room *= 2;
    larger = arena_alloc(m->arena, room * sizeof *larger);
    if (s->n > 0)
        memcpy(larger, s->items, s->n * sizeof *larger);
    s->items = larger;
    s->room = room;
}

static void list_add(struct machine *m, struct pickle_list *s, struct pickle *p)
{
    list_grow(m, s, s->n + 1);
    s->items[s->n++] = p;
}

static int push(struct machine *m, struct pickle *p)
{
    if (m->stack.n == STACK_MAX)
        return refuse(m, "more than %d values on the stack", STACK_MAX);
    if (m->n_pushes++ == PUSHES_MAX)
        return refuse(m, "more than %d values", PUSHES_MAX);
    list_add(m, &m->stack, p);
    return 0;
}

/* What lies above the last mark, or the bottom. */
static size_t above_mark(const struct machine *m)
{
    return m->stack.n - (m->n_marks > 0 ? m->marks[m->n_marks - 1] : 0);
}

/* NULL with the error set when nothing is there to take. */
static struct pickle *pop(struct machine *m)
{
    if (above_mark(m) == 0) {
        refuse(m, "an operation finds nothing to work on");
        return NULL;
    }
    return m->stack.items[--m->stack.n];
}

static struct pickle *top(struct machine *m)
{
    if (above_mark(m) == 0) {
        refuse(m, "an operation finds nothing to work on");
        return NULL;
    }
    return m->stack.items[m->stack.n - 1];
}

static int count_records(struct machine *m, size_t n)
{
    if (n > m->max_records - m->n_records)
        return refuse(m, "more than %zu values, the limit for a file of this size", m->max_records);
    m->n_records += n;
    return 0;
}

static struct pickle *record(struct machine *m, enum pickle_kind kind)
{
    if (count_records(m, 1) == -1)
        return NULL;
    if (m->block_left == 0) {
        m->block = arena_alloc(m->arena, BLOCK * sizeof *m->block);
        m->block_left = BLOCK;
    }
    m->block_left--;
    *m->block = (struct pickle){.kind = kind, .at = m->at};
    return m->block++;
}

static int push_new(struct machine *m, struct pickle *p)
{
    return p == NULL ? -1 : push(m, p);
}

static int memo_put(struct machine *m, uint64_t slot)
{
    struct pickle *p = top(m);

    if (p == NULL)
        return -1;
    if (slot >= MEMO_MAX)
        return refuse(m, "memo slot %llu, at most %d are allowed", (unsigned long long)slot,
                      MEMO_MAX);
    /* Slots are given out in order; one that is far off must not cost memory for those before. */
    if (slot > m->memo.n + 1024)
        return refuse(m, "memo slot %llu where %zu are in use", (unsigned long long)slot,
                      m->memo.n);
    list_grow(m, &m->memo, (size_t)slot + 1);
    while (m->memo.n <= slot)
        m->memo.items[m->memo.n++] = NULL;
    m->memo.items[slot] = p;
    return 0;
}

static int memo_get(struct machine *m, uint64_t slot)
{
    if (slot >= m->memo.n || m->memo.items[slot] == NULL)
        return refuse(m, "memo slot %llu is empty", (unsigned long long)slot);
    return push(m, m->memo.items[slot]);
}

/* ---- reading -------------------------------------------------------------------- */

static int cut_short(struct machine *m)
{
    return refuse(m, "the file ends within a value");
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
        return refuse(m, "a string of %llu bytes where %zu are left", (unsigned long long)len,
                      reader_left(m->in));
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
    struct pickle *p = record(m, PICKLE_INT);

    if (p != NULL)
        p->number = v;
    return push_new(m, p);
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
        p = record(m, PICKLE_LONG);
        if (p != NULL)
            p->bytes = bytes;
        return push_new(m, p);
    }
    if (bytes.len > 0 && (bytes.p[bytes.len - 1] & 0x80) != 0)
        v = bytes.len < 8 ? UINT64_MAX << (8 * bytes.len) : 0;
    for (size_t i = 0; i < bytes.len; i++)
        v |= (uint64_t)(unsigned char)bytes.p[i] << (8 * i);
    return push_int(m, (int64_t)v);
}

static int op_float(struct machine *m)
{
    struct pickle *p = record(m, PICKLE_FLOAT);
    uint64_t v;

    if (p == NULL || read_number(m, 8, &v) == -1)
        return -1;
    v = __builtin_bswap64(v); /* the one number that is stored big-endian */
    memcpy(&p->real, &v, sizeof v);
    return push_new(m, p);
}

static int op_text(struct machine *m, size_t width)
{
    struct pickle *p = record(m, PICKLE_TEXT);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    if (!utf8_valid(p->bytes.p, p->bytes.len))
        return refuse(m, "a text that is not UTF-8");
    return push_new(m, p);
}

static int op_bytes(struct machine *m, size_t width)
{
    struct pickle *p = record(m, PICKLE_BYTES);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    return push_new(m, p);
}

/* A string of Python 2 is text or bytes, whichever it looks like; both keep its bytes. */
static int op_string(struct machine *m, size_t width)
{
    struct pickle *p = record(m, PICKLE_BYTES);

    if (p == NULL || read_bytes(m, width, &p->bytes) == -1)
        return -1;
    if (utf8_valid(p->bytes.p, p->bytes.len))
        p->kind = PICKLE_TEXT;
    return push_new(m, p);
}

/* ---- containers ----------------------------------------------------------------- */

static int op_mark(struct machine *m)
{
    if (m->n_marks == DEPTH_MAX)
        return refuse(m, "nested deeper than %d", DEPTH_MAX);
    m->marks[m->n_marks++] = m->stack.n;
    return 0;
}

/* Takes the mark away; *n is what lay above it, and stays on the stack. */
static int end_mark(struct machine *m, size_t *n)
{
    *n = 0;
    if (m->n_marks == 0)
        return refuse(m, "an operation finds no mark");
    *n = above_mark(m);
    m->n_marks--;
    return 0;
}

static struct pickle **take(struct machine *m, size_t n)
{
    struct pickle **items = arena_alloc(m->arena, (n + 1) * sizeof *items);

    m->stack.n -= n;
    if (n > 0)
        memcpy(items, m->stack.items + m->stack.n, n * sizeof *items);
    return items;
}

static int op_tuple(struct machine *m, size_t n)
{
    struct pickle *p;

    if (above_mark(m) < n)
        return refuse(m, "an operation finds nothing to work on");
    p = record(m, PICKLE_TUPLE);
    if (p == NULL)
        return -1;
    p->list.items = take(m, n);
    p->list.n = n;
    return push_new(m, p);
}

static int op_marked_tuple(struct machine *m)
{
    size_t n;

    return end_mark(m, &n) == -1 ? -1 : op_tuple(m, n);
}

/* Moves the n values on top into the container below them. A container that is added to again and
 * again doubles its room. */
static int op_add(struct machine *m, enum pickle_kind kind, size_t n)
{
    struct pickle *into, **items;

    if (above_mark(m) < n + 1)
        return refuse(m, "an operation finds nothing to work on");
    into = m->stack.items[m->stack.n - n - 1];
    if (into->kind != kind)
        return refuse(m, "an operation adds to what is no %s",
                      kind == PICKLE_DICT ? "dict" : "list");
    if (kind == PICKLE_DICT && n % 2 != 0)
        return refuse(m, "a key without a value");
    if (into->list.n + n > into->list.room) {
        into->list.room = 2 * (into->list.n + n);
        items = arena_alloc(m->arena, into->list.room * sizeof *items);
        if (into->list.n > 0)
            memcpy(items, into->list.items, into->list.n * sizeof *items);
        into->list.items = items;
    }
    if (n > 0)
        memcpy(into->list.items + into->list.n, m->stack.items + m->stack.n - n,
               n * sizeof *into->list.items);
    into->list.n += n;
    m->stack.n -= n;
    return 0;
}

static int op_marked_add(struct machine *m, enum pickle_kind kind)
{
    size_t n;

    return end_mark(m, &n) == -1 ? -1 : op_add(m, kind, n);
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
            p = record(m, PICKLE_SYMBOL);
            if (p == NULL)
                return -1;
            p->symbol.module = symbols[i].module;
            p->symbol.name = name;
            return push_new(m, p);
        }
    return refuse(m,
                  "names %.*s.%.*s, which tensors do not need; save the state_dict alone (nothing "
                  "of the file was run)",
                  (int)(module.len < 64 ? module.len : 64), module.p,
                  (int)(name.len < 64 ? name.len : 64), name.p);
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
    struct pickle *name = pop(m), *module = name == NULL ? NULL : pop(m);

    if (module == NULL)
        return -1;
    if (module->kind != PICKLE_TEXT || name->kind != PICKLE_TEXT)
        return refuse(m, "a symbol's name is no text");
    return push_symbol(m, module->bytes, name->bytes);
}

/* OrderedDict() and OrderedDict([(key, value), ...]) are dicts like any other. */
static int ordered_dict(struct machine *m, struct pickle *p, const struct pickle *args)
{
    const struct pickle *pairs = args->list.n == 0 ? args : args->list.items[0];

    if (args->list.n > 1 || (pairs->kind != PICKLE_LIST && pairs->kind != PICKLE_TUPLE))
        return refuse(m, "an OrderedDict of something else than pairs");
    /* The pairs may be those of many dicts, at a few bytes of the file each. */
    if (count_records(m, pairs->list.n) == -1)
        return -1;
    p->kind = PICKLE_DICT;
    p->list.items = arena_alloc(m->arena, (2 * pairs->list.n + 1) * sizeof *p->list.items);
    p->list.n = p->list.room = 2 * pairs->list.n;
    for (size_t i = 0; i < pairs->list.n; i++) {
        const struct pickle *pair = pairs->list.items[i];

        if ((pair->kind != PICKLE_LIST && pair->kind != PICKLE_TUPLE) || pair->list.n != 2)
            return refuse(m, "an OrderedDict of something else than pairs");
        p->list.items[2 * i] = pair->list.items[0];
        p->list.items[2 * i + 1] = pair->list.items[1];
    }
    return push_new(m, p);
}

static int op_reduce(struct machine *m)
{
    struct pickle *args = pop(m), *symbol = args == NULL ? NULL : pop(m);
    struct pickle *p = symbol == NULL ? NULL : record(m, PICKLE_CALL);

    if (p == NULL)
        return -1;
    if (symbol->kind != PICKLE_SYMBOL || args->kind != PICKLE_TUPLE)
        return refuse(m, "a call of what is no symbol, or without arguments");
    if (pickle_is_symbol(symbol, "collections", "OrderedDict"))
        return ordered_dict(m, p, args);
    p->call.symbol = symbol;
    p->call.args = args;
    return push_new(m, p);
}

/* The state of a dict is what Python hangs on it beside its entries, such as torch's _metadata. */
static int op_build(struct machine *m)
{
    struct pickle *state = pop(m), *into = state == NULL ? NULL : top(m);

    if (into == NULL)
        return -1;
    if (into->kind == PICKLE_DICT)
        return 0;
    if (into->kind != PICKLE_CALL)
        return refuse(m, "a state for what was not made by a call");
    into->call.state = state;
    return 0;
}

static int op_persistent(struct machine *m)
{
    struct pickle *id = pop(m), *p = id == NULL ? NULL : record(m, PICKLE_PERSISTENT);

    if (p == NULL)
        return -1;
    p->id = id;
    if (m->persistent != NULL)
        list_add(m, m->persistent, p);
    return push_new(m, p);
}

/* ---- the machine ------------------------------------------------------------------ */

static int op_memo(struct machine *m, int op)
{
    uint64_t slot;

    if (op == MEMOIZE)
        return memo_put(m, m->memo.n);
    if (read_number(m, op == BINPUT || op == BINGET ? 1 : 4, &slot) == -1)
        return -1;
    return op == BINPUT || op == LONG_BINPUT ? memo_put(m, slot) : memo_get(m, slot);
}

static int op_frame(struct machine *m)
{
    uint64_t len;

    if (read_number(m, 8, &len) == -1)
        return -1;
    return len <= reader_left(m->in) ? 0 : refuse(m, "a frame that is longer than the file");
}

static int op_value(struct machine *m, int op)
{
    switch (op) {
    case NONE:
        return push(m, &none);
    case NEWTRUE:
        return push(m, &yes);
    case NEWFALSE:
        return push(m, &no);
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
        return refuse(m,
                      "opcode 0x%02x, which tensors do not need; save the state_dict alone "
                      "(nothing of the file was run)",
                      (unsigned)op);
    }
}

static int op_container(struct machine *m, int op)
{
    switch (op) {
    case MARK:
        return op_mark(m);
    case EMPTY_TUPLE:
        return push(m, &empty_tuple);
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
        return op_tuple(m, (size_t)(op - TUPLE1 + 1));
    case TUPLE:
        return op_marked_tuple(m);
    case EMPTY_LIST:
        return push_new(m, record(m, PICKLE_LIST));
    case APPEND:
        return op_add(m, PICKLE_LIST, 1);
    case APPENDS:
        return op_marked_add(m, PICKLE_LIST);
    case EMPTY_DICT:
        return push_new(m, record(m, PICKLE_DICT));
    case SETITEM:
        return op_add(m, PICKLE_DICT, 2);
    case SETITEMS:
        return op_marked_add(m, PICKLE_DICT);
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
        return refuse(m, "the file ends within a pickle");
    return *m->in->p++;
}

static int read_proto(struct machine *m)
{
    int proto = -1;

    if (read_op(m) != PROTO || reader_left(m->in) == 0)
        return refuse(m, "not a pickle of protocol 2, 3 or 4");
    proto = *m->in->p++;
    return proto >= 2 && proto <= 4
               ? 0
               : refuse(m, "a pickle of protocol %d; 2, 3 and 4 are read", proto);
}

struct pickle *pickle_read(struct reader *r, struct arena *a, struct pickle_list *persistent,
                           struct err *err)
{
    struct machine m = {.in = r, .arena = a, .err = err, .persistent = persistent};
    size_t len = (size_t)(r->end - r->start);
    int op;

    m.max_records = len / 2 < RECORDS_MAX ? RECORDS_FREE + len / 2 : RECORDS_MAX;
    if (read_proto(&m) == -1)
        return NULL;
    while ((op = read_op(&m)) != STOP)
        if (op == -1 || op_any(&m, op) == -1)
            return NULL;
    if (m.n_marks != 0) {
        refuse(&m, "the pickle ends behind a mark");
        return NULL;
    }
    if (m.stack.n != 1) {
        refuse(&m, "the pickle ends with %zu values, must be one", m.stack.n);
        return NULL;
    }
    return m.stack.items[0];
}

bool pickle_is_text(const struct pickle *p, const char *text)
{
    return p->kind == PICKLE_TEXT && equals(p->bytes, text);
}

bool pickle_is_symbol(const struct pickle *p, const char *module, const char *name)
{
    return p->kind == PICKLE_SYMBOL && strcmp(p->symbol.module, module) == 0 &&
           equals(p->symbol.name, name);
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
