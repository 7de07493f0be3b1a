/* graph.c - loading a graph, and walking through it.
 *
 * A walk keeps one list of the best rows it has seen and looks at the neighbours of the best it has
 * not looked from yet, until it has looked from all of the first `effort`. It may be for several
 * interests: then a row counts with its best score, and the walk looks from far fewer rows than one
 * for each would.
 *
 * Of the levels of an HNSW graph only the lowest is kept. The others are there to lead a walk near
 * its goal; to score all rows of one of them, a thousandth of all, costs less than to walk down,
 * for they are in the cache and each can be scored without waiting for the one before.
 *
 * Nearly every other row a walk looks at is a cache miss, and so is every list of links. So it
 * takes some steps at once, and what it will need is on its way from memory before it is touched:
 * the links of the rows it looks from next, chosen while those found last are still to be scored,
 * and of these some ahead of the one that is. (Walks of several interests that take turns, each
 * working while the others wait, were measured and gain nothing on top of that; nor does it help to
 * store rows in an order in which neighbours lie near each other.) */
#include "graph.h"

#include "codes.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LINE 16 /* words of a cache line */

struct graph {
    struct codes codes;
    uint32_t *first; /* (rows): the line where a row's links begin */
    uint32_t *links; /* per row: how many, then the rows */
    uint32_t *high;  /* (n_high): rows that every walk looks at first */
    size_t links_max, n_high;
    uint32_t rows;
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

static size_t lines(size_t words)
{
    return (words + LINE - 1) / LINE;
}

static int take_links(struct graph *g, const struct layout_graph *file, uint32_t *words)
{
    uint64_t total = 0;

    for (size_t row = 0; row < g->rows; row++) {
        g->first[row] = (uint32_t)total;
        total += lines(layout_links(file, row, 0, words) + 1);
        if (total > UINT32_MAX)
            return -1;
    }
    g->links = table(g, total, LINE * sizeof *g->links);
    if (g->links == NULL)
        return -1;
    for (size_t row = 0; row < g->rows; row++) {
        uint32_t *to = g->links + (size_t)g->first[row] * LINE;

        *to = (uint32_t)layout_links(file, row, 0, words);
        memcpy(to + 1, words, *to * sizeof *words);
    }
    return 0;
}

/* Looking at so many rows costs a tenth of a walk or less. */
#define HIGH_MIN 1024
#define HIGH_SHARE 200

/* The rows of the lowest level that has few, or of the highest; but the entry alone when that is
 * the lowest, or has many as well. */
static int take_high(struct graph *g, const struct layout_graph *file)
{
    size_t most = g->rows / HIGH_SHARE > HIGH_MIN ? g->rows / HIGH_SHARE : HIGH_MIN;
    size_t top = layout_levels(file, file->entry) - 1, level = 0, n = SIZE_MAX;

    while (n > most && level < top) {
        n = 0;
        level++;
        for (size_t row = 0; row < g->rows; row++)
            n += layout_levels(file, row) > level;
    }
    n = n > most ? 1 : n;
    g->high = table(g, n, sizeof *g->high);
    if (g->high == NULL)
        return -1;
    g->high[0] = file->entry;
    for (size_t row = 0; row < g->rows && n > 1; row++)
        if (layout_levels(file, row) > level)
            g->high[g->n_high++] = (uint32_t)row;
    g->n_high = n;
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
    g->links_max = layout_links_max(file);
    g->score = codes_pick();
    g->codes.stride = codes_stride(dim);
    g->codes.bytes = table(g, rows, g->codes.stride);
    g->first = table(g, rows, sizeof *g->first);
    words = mem_try_array(g->links_max + 1, sizeof *words);
    if (g->codes.bytes != NULL && g->first != NULL && words != NULL && take_high(g, file) == 0)
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
    free(g->first);
    free(g->links);
    free(g->high);
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
    struct probe *probes; /* (n_probes) */
    size_t n_probes;
    uint64_t *seen;          /* a bit for each row */
    uint64_t *list;          /* entries, best first */
    uint64_t *came;          /* those that are about to join it */
    uint32_t *fresh;         /* rows seen for the first time, to be scored */
    float *scores;           /* of these */
    size_t n, n_fresh, room; /* room: of fresh */
    size_t length;           /* of the list, at most */
    size_t effort;
    size_t next; /* all before it have been looked from */
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

static inline const uint32_t *links_of(const struct graph *g, uint32_t row)
{
    return g->links + (size_t)g->first[row] * LINE;
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

/* The rows that the chosen ones lead to. */
static void look(const struct graph *g, struct walk *w)
{
    size_t n = 0;

    for (size_t i = 0; i < w->n_from; i++) {
        const uint32_t *to = links_of(g, w->from[i]);

        n += unseen(w->seen, w->fresh + n, to + 1, *to);
    }
    codes_prefetch(&g->codes, w->fresh, n);
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
    uint64_t least = w->n == w->length ? w->list[w->n - 1] : 0;
    size_t m = 0;

    if (w->n_fresh == 0)
        return;
    g->score(&g->codes, w->probes, w->n_probes, w->fresh, w->n_fresh, w->scores);
    for (size_t i = 0; i < w->n_fresh; i++) {
        w->came[m] = entry_of(w->scores[i], w->fresh[i]);
        m += w->came[m] > least;
    }
    for (size_t i = 0; i < m; i++) /* of these, some will be looked from */
        __builtin_prefetch(&g->first[entry_row(w->came[i])]);
    top_sort(w->came, m);
    merge(w, m);
}

/* The best that have not been looked from. */
static void choose(const struct graph *g, struct walk *w)
{
    size_t within = w->effort < w->n ? w->effort : w->n;
    size_t n = 0;

    for (; w->next < within && n < STEPS; w->next++) {
        uint64_t *entry = &w->list[w->next];

        if ((*entry & 1) == 0)
            continue;
        *entry -= 1;
        w->from[n++] = entry_row(*entry);
    }
    for (size_t i = 0; i < n; i++) {
        const char *p = (const char *)links_of(g, w->from[i]);

        __builtin_prefetch(p);
        __builtin_prefetch(p + 64);
        __builtin_prefetch(p + 128);
    }
    w->n_from = n;
}

static size_t seen_words(const struct graph *g)
{
    return ((size_t)g->rows + 63) / 64;
}

#define STARTS 32 /* rows a walk begins with: some for each interest */

/* The best of the high rows. */
static void start(const struct graph *g, struct walk *w)
{
    size_t length = w->length;

    memset(w->seen, 0, seen_words(g) * sizeof *w->seen);
    w->n = w->next = 0;
    w->length = length < STARTS ? length : STARTS;
    for (size_t at = 0; at < g->n_high; at += w->n_fresh) {
        w->n_fresh = g->n_high - at < w->room ? g->n_high - at : w->room;
        memcpy(w->fresh, g->high + at, w->n_fresh * sizeof *w->fresh);
        take_in(g, w);
    }
    w->length = length;
    for (size_t i = 0; i < w->n; i++) {
        uint32_t row = entry_row(w->list[i]);

        w->seen[row / 64] |= (uint64_t)1 << row % 64;
    }
}

#define LATE_TURNS 32 /* between two looks at the clock: some hundred rows looked from */

static void walk(const struct graph *g, struct walk *w, struct index_query *q)
{
    start(g, w);
    w->n_fresh = 0;
    for (size_t turn = 1;; turn++) {
        choose(g, w);
        take_in(g, w);
        if (w->n_from == 0)
            choose(g, w);
        if (w->n_from == 0 || (turn % LATE_TURNS == 0 && query_late(q)))
            return;
        look(g, w);
    }
}

/* ---- a request's walks -------------------------------------------------------------- */

static int prepare(const struct graph *g, struct index_scratch *s, const struct graph_search *q,
                   struct walk *w)
{
    size_t room = STEPS * (g->links_max + 1), stride = g->codes.stride;
    int8_t *packed = scratch_room(s, ROOM_WORDS, q->n * stride, sizeof *packed);

    *w = (struct walk){
        .length = q->ask > q->effort ? q->ask : q->effort, .effort = q->effort, .room = room};
    if (w->length > g->rows)
        w->length = g->rows;
    w->probes = scratch_room(s, ROOM_PROBES, q->n, sizeof *w->probes);
    w->seen = scratch_room(s, ROOM_SEEN, seen_words(g), sizeof *w->seen);
    w->list = scratch_room(s, ROOM_LISTS, w->length, sizeof *w->list);
    w->came = scratch_room(s, ROOM_CAME, room + 1, sizeof *w->came);
    w->fresh = scratch_room(s, ROOM_FRESH, room + 1, sizeof *w->fresh);
    w->scores = scratch_room(s, ROOM_SCORES, room + 4, sizeof *w->scores);
    if (packed == NULL || w->probes == NULL || w->seen == NULL || w->list == NULL ||
        w->came == NULL || w->fresh == NULL || w->scores == NULL)
        return -1;
    for (size_t i = 0; i < q->n; i++) {
        w->probes[i].v = packed + i * stride;
        probe_pack(&w->probes[i], q->interests + i * q->dim, q->dim);
    }
    return 0;
}

static void finish(const struct walk *w, int64_t *rows, size_t ask)
{
    for (size_t i = 0; i < ask; i++)
        rows[i] = i < w->n ? (int64_t)entry_row(w->list[i]) : -1;
}

int graph_search(const struct graph *g, struct index_scratch *s, struct index_query *q,
                 const struct graph_search *search)
{
    struct walk w;
    struct probe *probes;

    if (prepare(g, s, search, &w) == -1)
        return -1;
    probes = w.probes;
    w.n_probes = search->together ? search->n : 1;
    for (size_t i = 0; i < search->n; i += w.n_probes) {
        w.probes = probes + i;
        w.n = 0;
        if (i == 0 || !query_late(q))
            walk(g, &w, q);
        finish(&w, search->rows + i * search->ask, search->ask);
    }
    return 0;
}
