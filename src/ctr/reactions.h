/* reactions.h - what happened to the items of one answer. */
#ifndef CTR_REACTIONS_H
#define CTR_REACTIONS_H

#include "events.h"

#define INTERESTS 65 /* the last one: found by none (popular items), or 64 and more */

/* An item that something happened to. */
struct reaction {
    uint64_t item;
    bool exposed, clicked;
    int32_t position; /* where it was shown, -1 = not said */
    int32_t rank;     /* in the answer, -1 = it is not there */
    int interest;     /* that found it, below INTERESTS */
};

struct reactions {
    struct reaction *of; /* by item */
    size_t n, cap;
    uint32_t late, early; /* events that do not count for their time */
    int16_t *interests;   /* of the answer's items, as far as they are needed */
    size_t cap_interests;
};

/* For the next answer: empty, with the memory it had. */
void reactions_reset(struct reactions *r);
void reactions_clear(struct reactions *r);
/* Events of an answer that was given then, as events_find has them; those under its other name may
 * follow. */
void reactions_add(struct reactions *r, const struct event_row *rows, size_t n, int64_t answered_ms,
                   int64_t window_ms);
/* Finds them in the answer's lists (scan.h). */
void reactions_place(struct reactions *r, struct str items, struct str by);

#endif
