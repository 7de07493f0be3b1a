/* machine.h - the stack machine of a pickle: what its opcodes work on. Private to ckpt/pickle.c.
 *
 * Functions that return int return -1 with the error set, those that return a pointer NULL. */
#ifndef CKPT_MACHINE_H
#define CKPT_MACHINE_H

#include "pickle.h"

#define MACHINE_DEPTH_MAX 64

struct machine {
    struct reader *in;
    struct arena *arena;
    struct err *err;
    size_t at; /* of the current opcode */
    struct pickle_list stack, memo, *persistent;
    size_t marks[MACHINE_DEPTH_MAX], n_marks;
    size_t n_records, max_records, n_pushes;
    struct pickle *block; /* the next of the records that are allocated */
    size_t block_left;
};

void machine_init(struct machine *m, struct reader *in, struct arena *a,
                  struct pickle_list *persistent, struct err *err);
/* Says at which offset. */
int machine_refuse(struct machine *m, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* ---- stack ---- */

int machine_push(struct machine *m, struct pickle *p) WARN_UNUSED;
/* The same, and NULL is an error that is set already. */
int machine_push_new(struct machine *m, struct pickle *p) WARN_UNUSED;
/* Nothing below a mark is given. */
struct pickle *machine_pop(struct machine *m) WARN_UNUSED;
struct pickle *machine_top(struct machine *m) WARN_UNUSED;
/* At the end of a pickle: the one value that is left. */
struct pickle *machine_result(struct machine *m) WARN_UNUSED;

/* ---- records ---- */

struct pickle *machine_record(struct machine *m, enum pickle_kind kind) WARN_UNUSED;
/* Counts what takes as much as n records. */
int machine_count(struct machine *m, size_t n) WARN_UNUSED;
void machine_list_add(struct machine *m, struct pickle_list *s, struct pickle *p);

/* ---- memo: of what is on top ---- */

int machine_memo_put(struct machine *m, uint64_t slot) WARN_UNUSED;
int machine_memo_get(struct machine *m, uint64_t slot) WARN_UNUSED;

/* ---- marks and containers ---- */

int machine_mark(struct machine *m) WARN_UNUSED;
/* The n values on top, or those above the mark, become a tuple, or go into the container below. */
int machine_tuple(struct machine *m, size_t n) WARN_UNUSED;
int machine_marked_tuple(struct machine *m) WARN_UNUSED;
int machine_add(struct machine *m, enum pickle_kind kind, size_t n) WARN_UNUSED;
int machine_marked_add(struct machine *m, enum pickle_kind kind) WARN_UNUSED;

#endif
