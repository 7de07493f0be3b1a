/* reactions.c - the events of an answer by item, and where in the answer those items stand. */
#include "reactions.h"

#include <stdlib.h>

#define EARLY_MS 60000 /* clocks differ: an event may precede its answer by so much */

void reactions_reset(struct reactions *r)
{
    r->n = 0;
    r->late = r->early = 0;
}

void reactions_clear(struct reactions *r)
{
    free(r->of);
    free(r->interests);
    *r = (struct reactions){0};
}

/* ---- events ------------------------------------------------------------------------ */

static int by_item(const void *left, const void *right)
{
    const struct reaction *a = left, *b = right;

    return (a->item > b->item) - (a->item < b->item);
}

static struct reaction *find(const struct reactions *r, uint64_t item, size_t n)
{
    struct reaction key = {.item = item};

    return n == 0 ? NULL : bsearch(&key, r->of, n, sizeof key, by_item);
}

/* The last one, one of the first `sorted`, or a new one. */
static struct reaction *reaction_of(struct reactions *r, uint64_t item, size_t sorted)
{
    struct reaction *known =
        r->n > 0 && r->of[r->n - 1].item == item ? &r->of[r->n - 1] : find(r, item, sorted);

    if (known != NULL)
        return known;
    if (r->n == r->cap) {
        r->cap = 2 * r->cap + 64;
        r->of = xrealloc(r->of, r->cap * sizeof *r->of);
    }
    r->of[r->n] =
        (struct reaction){.item = item, .position = -1, .rank = -1, .interest = INTERESTS - 1};
    return &r->of[r->n++];
}

static bool in_time(const struct event_row *row, int64_t answered_ms, int64_t window_ms)
{
    int64_t after = row->ts_ms - answered_ms;

    return after >= -EARLY_MS && after <= window_ms;
}

/* Of the rows of one item and kind the first that is in time; where none is, the first of all. */
static const struct event_row *first_of(const struct event_row *rows, size_t n, int64_t answered_ms,
                                        int64_t window_ms)
{
    const struct event_row *first = &rows[0];

    for (size_t i = 1; i < n; i++) {
        bool counts = in_time(&rows[i], answered_ms, window_ms);

        if (counts == in_time(first, answered_ms, window_ms) ? rows[i].ts_ms < first->ts_ms
                                                             : counts)
            first = &rows[i];
    }
    return first;
}

void reactions_add(struct reactions *r, const struct event_row *rows, size_t n, int64_t answered_ms,
                   int64_t window_ms)
{
    size_t sorted = r->n;

    for (size_t i = 0, group; i < n; i += group) {
        const struct event_row *row;
        struct reaction *at;

        group = events_group(rows + i, n - i);
        row = first_of(rows + i, group, answered_ms, window_ms);
        if (!in_time(row, answered_ms, window_ms)) {
            r->late += row->ts_ms > answered_ms;
            r->early += row->ts_ms < answered_ms;
            continue;
        }
        at = reaction_of(r, row->item, sorted);
        at->exposed |= row->kind == SCAN_EXPOSED;
        at->clicked |= row->kind == SCAN_CLICKED;
        if (at->position == -1)
            at->position = row->position;
    }
    if (sorted > 0)
        qsort(r->of, r->n, sizeof *r->of, by_item);
}

/* ---- places in the answer ------------------------------------------------------------ */

/* Ranks of those that the answer contains; returns how many items were looked at. */
static size_t find_ranks(struct reactions *r, struct str items)
{
    uint64_t mask = 0;
    size_t missing = r->n, rank = 0;
    struct raw item;

    for (size_t i = 0; i < r->n; i++)
        mask |= (uint64_t)1 << (r->of[i].item & 63);
    for (; missing > 0 && scan_item(&items, &item); rank++) {
        uint64_t hash = raw_hash(item);
        struct reaction *at;

        if (!(mask >> (hash & 63) & 1))
            continue;
        at = find(r, hash, r->n);
        if (at != NULL && at->rank == -1) {
            at->rank = (int32_t)rank;
            missing--;
        }
    }
    return rank;
}

static void find_interests(struct reactions *r, struct str by, size_t ranks)
{
    int64_t interest;
    size_t n = 0;

    if (by.p == NULL)
        return;
    if (ranks > r->cap_interests) {
        r->cap_interests = 2 * ranks;
        r->interests = xrealloc(r->interests, r->cap_interests * sizeof *r->interests);
    }
    while (n < ranks && scan_number(&by, &interest))
        r->interests[n++] =
            (int16_t)(interest >= 0 && interest < INTERESTS - 1 ? interest : INTERESTS - 1);
    for (size_t i = 0; i < r->n; i++)
        if (r->of[i].rank >= 0 && (size_t)r->of[i].rank < n)
            r->of[i].interest = r->interests[r->of[i].rank];
}

void reactions_place(struct reactions *r, struct str items, struct str by)
{
    find_interests(r, by, find_ranks(r, items));
}
