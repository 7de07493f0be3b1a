/* graph.c - loading a graph, and walking through it.
 *
 * A walk keeps one list of the best rows it has seen and looks at the neighbours of the best it has
 * not looked from yet, until it has looked from all of the first `effort`. On the levels above the
 * lowest, where few rows are, it goes from row to better row and keeps the last.
 *
 * Nearly every row it looks at is a cache miss, and so is every list of links. So a walk takes some
 * steps at once, and what it will need is on its way from memory before it is touched: first the
 * links, then the bytes of the rows they lead to. (Walks of several interests that take turns, each
 * working while the others wait, were measured and gain nothing on top of that.) */
#include "graph.h"

#include "codes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LINE 16 /* words of a cache line */

struct graph {
    struct codes codes;
    uint32_t *first; /* (rows): the line where a row's links begin */
    uint32_t *links; /* per row and level, the lowest first: how many, then the rows */
    size_t links_max, top;
    uint32_t rows, entry;
    codes_fn *score;
    size_t memory;
};

/* ---- loading ---------------------------------------------------------------------- */

/* Read here and there: large pages spare many a look at the page table. */
static void *table(struct graph *g, size_t n, size_t size)
{
    const uintptr_t page = 4096;
    uintptr_t start;
    void *p = mem_try_aligned(n, size);

    if (p != NULL) {
        start = ((uintptr_t)p + page - 1) / page * page;
        if (start < (uintptr_t)p + n * size)
            madvise((void *)start, (uintptr_t)p + n * size - start, MADV_HUGEPAGE);
        g->memory += n * size;
    }
    return p;
}

/* The words of a row's links, with room for them: as many as its levels have at most. */
static size_t row_links(const struct layout_graph *file, size_t row, uint32_t *words)
{
    size_t n = 0;

    for (size_t l = 0; l < layout_levels(file, row); l++) {
        words[n] = (uint32_t)layout_links(file, row, l, words + n + 1);
        n += words[n] + 1;
    }
    return n;
}

static size_t lines(size_t words)
{
    return (words + LINE - 1) / LINE;
}

static int take_links(struct graph *g, const struct layout_graph *file, uint32_t *words)
{
    uint64_t total = 0;

    for (size_t row = 0; row < g->rows; row++) {
        g->first[row] = (uint32_t)total;
        total += lines(row_links(file, row, words));
        if (total > UINT32_MAX)
            return -1;
    }
    g->links = table(g, total, LINE * sizeof *g->links);
    if (g->links == NULL)
        return -1;
    for (size_t row = 0; row < g->rows; row++) {
        size_t n = row_links(file, row, words);

        memcpy(g->links + (size_t)g->first[row] * LINE, words, n * sizeof *words);
    }
    return 0;
}

struct graph *graph_new(const struct layout_graph *file, const float *items, size_t dim,
                        uint32_t rows, struct err *err)
{
    struct graph *g = xcalloc(1, sizeof *g);
    uint32_t *words;
    int rc = -1;

    if (rows > INT32_MAX) {
        err_set(err, ERR_LIMIT, "a graph of %u rows: at most %d in a shard", rows, INT32_MAX);
        graph_free(g);
        return NULL;
    }
    g->rows = rows;
    g->entry = file->entry;
    g->top = layout_levels(file, file->entry) - 1;
    g->links_max = layout_links_max(file);
    g->score = codes_pick();
    g->codes.stride = codes_stride(dim);
    g->codes.bytes = table(g, rows, g->codes.stride);
    g->codes.scale = table(g, rows, sizeof *g->codes.scale);
    g->first = table(g, rows, sizeof *g->first);
    words = mem_try_array((g->links_max + 1) * file->slots.n, sizeof *words);
    if (g->codes.bytes != NULL && g->codes.scale != NULL && g->first != NULL && words != NULL)
        rc = take_links(g, file, words);
    free(words);
    if (rc == -1) {
        err_set(err, ERR_NOMEM, "out of memory for a graph of %u rows", rows);
        graph_free(g);
        return NULL;
    }
    for (size_t row = 0; row < rows; row++)
        codes_pack(&g->codes, row, items + row * dim, dim);
    return g;
}

void graph_free(struct graph *g)
{
    if (g == NULL)
        return;
    free(g->codes.bytes);
    free(g->codes.scale);
    free(g->first);
    free(g->links);
    free(g);
}

size_t graph_memory(const struct graph *g)
{
    return g->memory;
}

/* ---- one walk --------------------------------------------------------------------- */

/* Measured on a million rows with four interests: to take 1 or 2 steps at once costs 16 or 7 % more
 * than 4; 8 and 12 cost what 4 do and find a little more, for a few rows more are looked from. */
#define STEPS 8 /* rows looked from at once */

struct walk {
    struct probe probe;
    uint64_t *seen;  /* a bit for each row */
    uint64_t *list;  /* entries, best first */
    uint64_t *came;  /* those that are about to join it */
    uint32_t *fresh; /* rows seen for the first time, to be scored */
    float *scores;   /* of these */
    size_t n, n_fresh;
    size_t length; /* of the list, at most */
    size_t effort;
    size_t next; /* all before it have been looked from */
    size_t level;
    uint32_t from[STEPS];
    size_t n_from; /* 0: the walk is over */
};

/* An entry orders like hit_order. Its last bit tells that the row has not been looked from. */
static inline uint64_t entry_of(float score, uint32_t row)
{
    uint64_t order = hit_order(score, 0) & 0xffffffff00000000u;

    return order | ((uint32_t)~row << 1) | 1;
}

static inline uint32_t entry_row(uint64_t entry)
{
    return ~(uint32_t)(entry >> 1) & 0x7fffffff;
}

static inline const uint32_t *links_of(const struct graph *g, uint32_t row, size_t level)
{
    const uint32_t *p = g->links + (size_t)g->first[row] * LINE;

    for (; level > 0; level--)
        p += *p + 1;
    return p;
}

static inline void mark(struct walk *w, uint32_t row)
{
    w->seen[row / 64] |= (uint64_t)1 << row % 64;
}

/* Rows that were not seen before; returns how many of n. Written without a branch: nobody could
 * foresee which are. */
static size_t unseen(uint64_t *restrict seen, uint32_t *restrict fresh, const uint32_t *rows,
                     size_t n)
{
    size_t found = 0;

    for (size_t i = 0; i < n; i++) {
        uint32_t row = rows[i];
        uint64_t word = seen[row / 64];

        fresh[found] = row;
        found += ~(word >> row % 64) & 1;
        seen[row / 64] = word | (uint64_t)1 << row % 64;
    }
    return found;
}

/* The rows that the chosen ones lead to. Above the lowest level none is remembered: only one that
 * is better than all others is taken in there. */
static void look(const struct graph *g, struct walk *w)
{
    size_t n = 0;

    for (size_t i = 0; i < w->n_from; i++) {
        const uint32_t *to = links_of(g, w->from[i], w->level);

        if (w->level == 0) {
            n += unseen(w->seen, w->fresh + n, to + 1, *to);
        } else {
            memcpy(w->fresh + n, to + 1, *to * sizeof *to);
            n += *to;
        }
    }
    for (size_t i = 0; i < n; i++)
        codes_prefetch(&g->codes, w->fresh[i]);
    w->n_fresh = n;
}

/* Joins the list with m entries that are sorted, too; the worst of both fall out. */
static void merge(struct walk *w, size_t m)
{
    size_t n = w->n, total = n + m;

    for (; total > w->length; total--) {
        if (m > 0 && (n == 0 || w->list[n - 1] > w->came[m - 1]))
            m--;
        else
            n--;
    }
    w->n = total;
    while (m > 0) {
        if (n > 0 && w->list[n - 1] < w->came[m - 1])
            w->list[--total] = w->list[--n];
        else
            w->list[--total] = w->came[--m];
    }
    w->next = total < w->next ? total : w->next;
}

static void take_in(const struct graph *g, struct walk *w)
{
    uint64_t least = 0;
    size_t m = 0;

    if (w->n_fresh == 0)
        return;
    if (w->level > 0 && w->n > 0)
        least = w->list[0] | 1;
    else if (w->n == w->length)
        least = w->list[w->n - 1];
    g->score(&g->codes, &w->probe, w->fresh, w->n_fresh, w->scores);
    for (size_t i = 0; i < w->n_fresh; i++) {
        w->came[m] = entry_of(w->scores[i], w->fresh[i]);
        m += w->came[m] > least;
    }
    for (size_t i = 0; i < m; i++) /* of these, some will be looked from */
        __builtin_prefetch(&g->first[entry_row(w->came[i])]);
    top_sort(w->came, m);
    /* Rows are not remembered above the lowest level, so a second one might be there already. */
    merge(w, w->level > 0 && m > 1 ? 1 : m);
}

/* The best that have not been looked from. */
static size_t choose(const struct graph *g, struct walk *w)
{
    size_t within = w->level > 0 ? 1 : w->effort < w->n ? w->effort : w->n;
    size_t n = 0;

    for (; w->next < within && n < STEPS; w->next++) {
        uint64_t *entry = &w->list[w->next];

        if ((*entry & 1) == 0)
            continue;
        *entry -= 1;
        w->from[n++] = entry_row(*entry);
    }
    for (size_t i = 0; i < n; i++) {
        const char *p = (const char *)links_of(g, w->from[i], 0);

        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
        __builtin_prefetch(p + 128);
    }
    return n;
}

/* A level down, from the best row. */
static void descend(struct walk *w)
{
    w->level--;
    w->n = 1;
    w->next = 0;
    w->list[0] |= 1;
    if (w->level == 0)
        mark(w, entry_row(w->list[0]));
}

static void next_steps(const struct graph *g, struct walk *w)
{
    while ((w->n_from = choose(g, w)) == 0 && w->level > 0)
        descend(w);
}

/* ---- a request's walks -------------------------------------------------------------- */

static size_t seen_words(const struct graph *g)
{
    return ((size_t)g->rows + 63) / 64;
}

static int prepare(const struct graph *g, struct index_scratch *s, const struct graph_search *q,
                   struct walk *w)
{
    size_t room = STEPS * g->links_max + 4;

    *w = (struct walk){.length = q->ask, .effort = q->effort};
    w->probe.v = scratch_room(s, ROOM_WORDS, g->codes.stride, sizeof *w->probe.v);
    w->seen = scratch_room(s, ROOM_SEEN, seen_words(g), sizeof *w->seen);
    w->list = scratch_room(s, ROOM_LISTS, q->ask, sizeof *w->list);
    w->came = scratch_room(s, ROOM_CAME, room, sizeof *w->came);
    w->fresh = scratch_room(s, ROOM_FRESH, room, sizeof *w->fresh);
    w->scores = scratch_room(s, ROOM_SCORES, room, sizeof *w->scores);
    return w->probe.v != NULL && w->seen != NULL && w->list != NULL && w->came != NULL &&
                   w->fresh != NULL && w->scores != NULL
               ? 0
               : -1;
}

static void start(const struct graph *g, struct walk *w, const float *interest, size_t dim)
{
    probe_pack(&w->probe, interest, dim);
    memset(w->seen, 0, seen_words(g) * sizeof *w->seen);
    w->n = w->next = 0;
    w->level = g->top;
    w->fresh[0] = g->entry;
    w->n_fresh = 1;
    if (w->level == 0)
        mark(w, g->entry);
}

#define LATE_TURNS 32 /* between two looks at the clock: some hundred rows looked from */

static void walk(const struct graph *g, struct walk *w, struct index_query *q)
{
    for (size_t turn = 1;; turn++) {
        take_in(g, w);
        next_steps(g, w);
        if (w->n_from == 0 || (turn % LATE_TURNS == 0 && query_late(q)))
            return;
        look(g, w);
    }
}

static void finish(const struct walk *w, int64_t *rows)
{
    for (size_t i = 0; i < w->n; i++)
        rows[i] = entry_row(w->list[i]);
    for (size_t i = w->n; i < w->length; i++)
        rows[i] = -1;
}

int graph_search(const struct graph *g, struct index_scratch *s, struct index_query *q,
                 const struct graph_search *search)
{
    struct walk w;

    if (prepare(g, s, search, &w) == -1)
        return -1;
    for (size_t i = 0; i < search->n; i++) {
        w.n = 0;
        if (i == 0 || !query_late(q)) {
            start(g, &w, search->interests + i * search->dim, search->dim);
            walk(g, &w, q);
        }
        finish(&w, search->rows + i * search->ask);
    }
    return 0;
}
