/* pickle.h - a pickle as data: records that say what a program would have built, nothing is built.
 *
 * Private to ckpt/. A GLOBAL is a pair of names and is never looked up; a REDUCE is a record of a
 * symbol and its arguments and is never called. Only protocols 2, 3 and 4, only the opcodes that
 * checkpoint writers use, only the symbols of a list. Strings are views. Limits bound marks, stack,
 * memo and records: a file costs at most about 40 bytes per byte, and 400 MB, however it is made.
 */
#ifndef CKPT_PICKLE_H
#define CKPT_PICKLE_H

#include "recalld/base.h"

enum pickle_kind {
    PICKLE_NONE,
    PICKLE_BOOL,
    PICKLE_INT,  /* within 64 bits; the one longer number, torch's magic, has its own length */
    PICKLE_LONG, /* bytes: little-endian two's complement, longer than 8 bytes */
    PICKLE_FLOAT,
    PICKLE_TEXT, /* UTF-8, checked */
    PICKLE_BYTES,
    PICKLE_TUPLE,      /* items */
    PICKLE_LIST,       /* items */
    PICKLE_DICT,       /* items: key, value, key, value ... */
    PICKLE_SYMBOL,     /* module and name, in the whitelist */
    PICKLE_CALL,       /* symbol, arguments (a tuple), and the state BUILD gave it or NULL */
    PICKLE_PERSISTENT, /* torch: a tuple that names a storage; args */
};

struct pickle {
    enum pickle_kind kind;
    size_t at; /* offset of its opcode in the file, for messages; 0 in None, booleans and () */
    union {
        bool boolean;
        int64_t number;
        double real;
        struct str bytes; /* TEXT, BYTES, LONG: a view into the file */
        struct {
            struct pickle **items;
            size_t n, room;
        } list; /* TUPLE, LIST, DICT */
        struct {
            const char *module;
            struct str name;
        } symbol;
        struct {
            struct pickle *symbol, *args, *state;
        } call;
        struct pickle *id; /* PERSISTENT */
    };
};

/* A growing array of records. */
struct pickle_list {
    struct pickle **items;
    size_t n, room;
};

/* Reads one pickle from `r` (its name is for messages) up to and including its STOP; what follows
 * stays in r. Records live in `a`. `persistent`, unless NULL, gets the PICKLE_PERSISTENT records
 * added, wherever they are. NULL with *err set: file, offset, reason. */
struct pickle *pickle_read(struct reader *r, struct arena *a, struct pickle_list *persistent,
                           struct err *err) WARN_UNUSED;

/* Of a tuple, list or dict. */
static inline const struct pickle *pickle_item(const struct pickle *p, size_t i)
{
    return p->list.items[i];
}

bool pickle_is_text(const struct pickle *p, const char *text);
bool pickle_is_symbol(const struct pickle *p, const char *module, const char *name);
bool pickle_is_named(const struct pickle *p, const char *name); /* whatever its module */
/* The dict whose values are tensors, as `tensor_of` tells them (NULL: none): p itself, or the one
 * it holds under a usual name. NULL when there is none. */
const struct pickle *pickle_state_dict(const struct pickle *p,
                                       const struct pickle *(*tensor_of)(const struct pickle *));
/* The value of a text key; NULL when there is none or p is no dict. */
const struct pickle *pickle_get(const struct pickle *dict, const char *key);

#endif
