/* machine.c - what a pickle's machine holds: a stack with marks, a memo, records; and the limits
 * that bound what a hostile file can make of them. */
#include "machine.h"

#include <stdio.h>
#include <string.h>

#define STACK_MAX 100000 /* writers add to a container after every thousand */
#define MEMO_MAX 1000000
#define RECORDS_MAX 4000000 /* a tensor of torch takes about 25 */
#define PUSHES_MAX 8000000  /* what is in a list takes no record each time */
#define RECORDS_FREE 1000   /* beyond these, a record for every two bytes: writers need three */
#define BLOCK 256           /* records that are allocated at once */

void machine_init(struct machine *m, struct reader *in, struct arena *a,
                  struct pickle_list *persistent, struct err *err)
{
    size_t len = (size_t)(in->end - in->start);

    *m = (struct machine){.in = in, .arena = a, .err = err, .persistent = persistent};
    m->max_records = len / 2 < RECORDS_MAX ? RECORDS_FREE + len / 2 : RECORDS_MAX;
}

int machine_refuse(struct machine *m, const char *fmt, ...)
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

void machine_list_add(struct machine *m, struct pickle_list *s, struct pickle *p)
{
    list_grow(m, s, s->n + 1);
    s->items[s->n++] = p;
}

int machine_push(struct machine *m, struct pickle *p)
{
    if (m->stack.n == STACK_MAX)
        return machine_refuse(m, "more than %d values on the stack", STACK_MAX);
    if (m->n_pushes++ == PUSHES_MAX)
        return machine_refuse(m, "more than %d values", PUSHES_MAX);
    machine_list_add(m, &m->stack, p);
    return 0;
}

/* What lies above the last mark, or the bottom. */
static size_t above_mark(const struct machine *m)
{
    return m->stack.n - (m->n_marks > 0 ? m->marks[m->n_marks - 1] : 0);
}

/* NULL with the error set when nothing is there to take. */
struct pickle *machine_pop(struct machine *m)
{
    if (above_mark(m) == 0) {
        machine_refuse(m, "an operation finds nothing to work on");
        return NULL;
    }
    return m->stack.items[--m->stack.n];
}

struct pickle *machine_top(struct machine *m)
{
    if (above_mark(m) == 0) {
        machine_refuse(m, "an operation finds nothing to work on");
        return NULL;
    }
    return m->stack.items[m->stack.n - 1];
}

int machine_count(struct machine *m, size_t n)
{
    if (n > m->max_records - m->n_records)
        return machine_refuse(m, "more than %zu values, the limit for a file of this size",
                              m->max_records);
    m->n_records += n;
    return 0;
}

struct pickle *machine_record(struct machine *m, enum pickle_kind kind)
{
    if (machine_count(m, 1) == -1)
        return NULL;
    if (m->block_left == 0) {
        m->block = arena_alloc(m->arena, BLOCK * sizeof *m->block);
        m->block_left = BLOCK;
    }
    m->block_left--;
    *m->block = (struct pickle){.kind = kind, .at = m->at};
    return m->block++;
}

int machine_push_new(struct machine *m, struct pickle *p)
{
    return p == NULL ? -1 : machine_push(m, p);
}

int machine_memo_put(struct machine *m, uint64_t slot)
{
    struct pickle *p = machine_top(m);

    if (p == NULL)
        return -1;
    if (slot >= MEMO_MAX)
        return machine_refuse(m, "memo slot %llu, at most %d are allowed", (unsigned long long)slot,
                              MEMO_MAX);
    /* Slots are given out in order; one that is far off must not cost memory for those before. */
    if (slot > m->memo.n + 1024)
        return machine_refuse(m, "memo slot %llu where %zu are in use", (unsigned long long)slot,
                              m->memo.n);
    list_grow(m, &m->memo, (size_t)slot + 1);
    while (m->memo.n <= slot)
        m->memo.items[m->memo.n++] = NULL;
    m->memo.items[slot] = p;
    return 0;
}

int machine_memo_get(struct machine *m, uint64_t slot)
{
    if (slot >= m->memo.n || m->memo.items[slot] == NULL)
        return machine_refuse(m, "memo slot %llu is empty", (unsigned long long)slot);
    return machine_push(m, m->memo.items[slot]);
}

struct pickle *machine_result(struct machine *m)
{
    if (m->n_marks != 0)
        machine_refuse(m, "the pickle ends behind a mark");
    else if (m->stack.n != 1)
        machine_refuse(m, "the pickle ends with %zu values, must be one", m->stack.n);
    else
        return m->stack.items[0];
    return NULL;
}

/* ---- marks and containers -------------------------------------------------------- */

int machine_mark(struct machine *m)
{
    if (m->n_marks == MACHINE_DEPTH_MAX)
        return machine_refuse(m, "nested deeper than %d", MACHINE_DEPTH_MAX);
    m->marks[m->n_marks++] = m->stack.n;
    return 0;
}

/* Takes the mark away; *n is what lay above it, and stays on the stack. */
static int end_mark(struct machine *m, size_t *n)
{
    *n = 0;
    if (m->n_marks == 0)
        return machine_refuse(m, "an operation finds no mark");
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

int machine_tuple(struct machine *m, size_t n)
{
    struct pickle *p;

    if (above_mark(m) < n)
        return machine_refuse(m, "an operation finds nothing to work on");
    p = machine_record(m, PICKLE_TUPLE);
    if (p == NULL)
        return -1;
    p->list.items = take(m, n);
    p->list.n = n;
    return machine_push_new(m, p);
}

int machine_marked_tuple(struct machine *m)
{
    size_t n;

    return end_mark(m, &n) == -1 ? -1 : machine_tuple(m, n);
}

/* Moves the n values on top into the container below them. A container that is added to again and
 * again doubles its room. */
int machine_add(struct machine *m, enum pickle_kind kind, size_t n)
{
    struct pickle *into, **items;

    if (above_mark(m) < n + 1)
        return machine_refuse(m, "an operation finds nothing to work on");
    into = m->stack.items[m->stack.n - n - 1];
    if (into->kind != kind)
        return machine_refuse(m, "an operation adds to what is no %s",
                              kind == PICKLE_DICT ? "dict" : "list");
    if (kind == PICKLE_DICT && n % 2 != 0)
        return machine_refuse(m, "a key without a value");
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

int machine_marked_add(struct machine *m, enum pickle_kind kind)
{
    size_t n;

    return end_mark(m, &n) == -1 ? -1 : machine_add(m, kind, n);
}
