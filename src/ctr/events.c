/* events.c - sorted rows with an index over the first bits of their key. */
#include "events.h"

#include <stdlib.h>

#define ROWS_MIN 1024
#define FEW 32 /* rows that are sorted by insertion */

void events_init(struct events *e, size_t memory)
{
    /* There are at most as many starts as rows, and two. */
    size_t max = memory / (sizeof *e->rows + sizeof *e->starts);

    *e = (struct events){.max = max < ROWS_MIN ? ROWS_MIN : max};
    if (e->max > UINT32_MAX)
        e->max = UINT32_MAX;
}

void events_clear(struct events *e)
{
    free(e->rows);
    free(e->starts);
    *e = (struct events){0};
}

void events_reset(struct events *e)
{
    free(e->starts);
    e->starts = NULL;
    e->n = 0;
}

int events_add(struct events *e, const struct event_row *row, struct err *err)
{
    if (e->n == e->max)
        return 0;
    if (e->n == e->cap) {
        size_t cap = e->cap < ROWS_MIN ? ROWS_MIN : e->cap + e->cap / 2;
        struct event_row *rows;

        if (cap > e->max)
            cap = e->max;
        rows = realloc(e->rows, cap * sizeof *rows);
        if (rows == NULL)
            return err_set(err, ERR_NOMEM, "no memory for %zu events: give less with --memory",
                           cap);
        e->rows = rows;
        e->cap = cap;
    }
    e->rows[e->n++] = *row;
    return 1;
}

/* ---- order --------------------------------------------------------------------------- */

#define ORDER(a, b) (((a) > (b)) - ((a) < (b)))

static int compare(const void *left, const void *right)
{
    const struct event_row *a = left, *b = right;
    int order = ORDER(a->answer, b->answer);

    if (order == 0)
        order = ORDER(a->item, b->item);
    if (order == 0)
        order = ORDER(a->kind, b->kind);
    if (order == 0)
        order = ORDER(a->id, b->id);
    if (order == 0)
        order = ORDER(a->ts_ms, b->ts_ms);
    return order != 0 ? order : ORDER(a->position, b->position);
}

static void sort_few(struct event_row *rows, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        struct event_row row = rows[i];
        size_t j = i;

        for (; j > 0 && compare(&rows[j - 1], &row) > 0; j--)
            rows[j] = rows[j - 1];
        rows[j] = row;
    }
}

/* By the byte of `answer` at `shift`, in place: each row is swapped to where its bucket is filled
 * next; then each bucket by the next byte. Keys are hashes, so buckets are even. */
static void sort(struct event_row *rows, size_t n, int shift)
{
    size_t next[256] = {0}, end[256], sum = 0;

    if (n <= FEW || shift < 0) {
        if (n <= FEW)
            sort_few(rows, n);
        else
            qsort(rows, n, sizeof *rows, compare);
        return;
    }
    for (size_t i = 0; i < n; i++)
        next[rows[i].answer >> shift & 255]++;
    for (size_t b = 0; b < 256; b++) {
        sum += next[b];
        end[b] = sum;
        next[b] = sum - next[b];
    }
    for (size_t b = 0; b < 256; b++)
        while (next[b] < end[b]) {
            struct event_row row = rows[next[b]];
            size_t to = row.answer >> shift & 255;

            rows[next[b]] = rows[next[to]];
            rows[next[to]++] = row;
        }
    for (size_t b = 0; b < 256; b++) {
        size_t start = b == 0 ? 0 : end[b - 1];

        sort(rows + start, end[b] - start, shift - 8);
    }
}

static bool same(const struct event_row *a, const struct event_row *b)
{
    return a->answer == b->answer && a->item == b->item && a->kind == b->kind;
}

size_t events_group(const struct event_row *rows, size_t n)
{
    size_t len = 1;

    while (len < n && same(&rows[0], &rows[len]))
        len++;
    return len;
}

size_t events_groups(const struct event_row *rows, size_t n)
{
    size_t groups = 0;

    for (size_t i = 0; i < n; i += events_group(rows + i, n - i))
        groups++;
    return groups;
}

static void count_repeats(struct events *e)
{
    for (size_t i = 1; i < e->n; i++) {
        const struct event_row *row = &e->rows[i], *before = row - 1;

        if (!same(before, row))
            continue;
        if (row->id != 0 && row->id == before->id)
            e->same_id++;
        else
            e->again++;
    }
}

int events_sort(struct events *e, struct err *err)
{
    size_t i = 0;

    sort(e->rows, e->n, 56);
    count_repeats(e);
    for (e->bits = 1; (size_t)4 << e->bits < e->n;)
        e->bits++;
    e->starts = mem_try_array(((size_t)1 << e->bits) + 1, sizeof *e->starts);
    if (e->starts == NULL)
        return err_set(err, ERR_NOMEM, "no memory for an index of %zu events", e->n);
    for (size_t b = 0; b <= (size_t)1 << e->bits; b++) {
        while (i < e->n && e->rows[i].answer >> (64 - e->bits) < b)
            i++;
        e->starts[b] = (uint32_t)i;
    }
    return 0;
}

size_t events_find(struct events *e, uint64_t answer, struct event_row **first)
{
    size_t i, end, n = 0;

    if (e->n == 0)
        return 0;
    i = e->starts[answer >> (64 - e->bits)];
    end = e->starts[(answer >> (64 - e->bits)) + 1];
    while (i < end && e->rows[i].answer < answer)
        i++;
    while (i + n < end && e->rows[i + n].answer == answer)
        n++;
    *first = &e->rows[i];
    return n;
}
