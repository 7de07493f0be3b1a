/* events.h - what happened to the items of answers, in memory, found by the answer.
 *
 * Filled, then sorted once, then asked. 40 bytes an event and 8 an answer. Ids are kept as 64-bit
 * hashes: among 100 million answers two are taken for one with a chance of 1 in 4,000. */
#ifndef CTR_EVENTS_H
#define CTR_EVENTS_H

#include "scan.h"

struct event_row {
    uint64_t answer, item;
    uint64_t id; /* of the event, 0 = it has none; in an answer's first row, once that was found:
                    who found it */
    int64_t ts_ms;
    int32_t position; /* -1 = not said */
    uint8_t kind;     /* exposed, clicked */
    bool found;       /* of an answer's first row: the answer was there */
};

struct events {
    struct event_row *rows; /* by answer, item, kind */
    size_t n, cap, max;     /* rows; `max` is what memory allows */
    uint32_t *starts;       /* by the first bits of the answer: its first row at the earliest */
    int bits;
    uint64_t same_id; /* repeats: the same event once more */
    uint64_t again;   /* repeats: the same item of the same answer, another event */
};

/* `memory` in bytes bounds rows and starts together. */
void events_init(struct events *e, size_t memory);
void events_clear(struct events *e);
/* 1, 0 when there is no room for it, -1 with *err set when memory is out. */
int events_add(struct events *e, const struct event_row *row, struct err *err) WARN_UNUSED;
/* After the last one: sorts, and counts what is there twice. */
int events_sort(struct events *e, struct err *err) WARN_UNUSED;
/* How many rows the answer has; *first is the first of them. */
size_t events_find(struct events *e, uint64_t answer, struct event_row **first);
/* Rows of one answer, item and kind stand together: of these, `n` > 0, how many the first such
 * group has, and how many groups there are. Which row of a group counts, only the answer tells. */
size_t events_group(const struct event_row *rows, size_t n);
size_t events_groups(const struct event_row *rows, size_t n);
/* For the next part: empty, with the memory it had. */
void events_reset(struct events *e);

#endif
