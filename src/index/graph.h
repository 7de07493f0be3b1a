/* graph.h - the graph of a Faiss HNSW file, packed for searching, and the walk through it.
 *
 * Of the file only the links are kept; rows are looked at as bytes (codes.h), so a walk reads a
 * cache line where it would read four. It finds candidates: the scores that leave come from the
 * weights. */
#ifndef RECALLD_INDEX_GRAPH_H
#define RECALLD_INDEX_GRAPH_H

#include "engine.h"
#include "factory.h"

struct graph;

/* From a file that layout_check has accepted, over items (rows, dim); both are borrowed for the
 * call. NULL with *err set (NOMEM, LIMIT). */
struct graph *graph_new(const struct layout_graph *file, const float *items, size_t dim,
                        uint32_t rows, struct err *err) WARN_UNUSED;
void graph_free(struct graph *g);
size_t graph_memory(const struct graph *g);

/* What a search asks: the interests are finite. */
struct graph_search {
    const float *interests; /* (n, dim) */
    size_t n, dim;
    bool together; /* one list is wanted, of the rows that are best for any interest */
    size_t effort; /* a walk looks from so many of the best rows it has seen */
    size_t ask;    /* rows wanted in a list */
    int64_t *rows; /* out (n or, together, 1; ask), best first by the bytes; then -1 */
};

/* 0; -1 when memory is out. Looks at the clock for q's deadline and, once it has passed, ends with
 * what was found. */
int graph_search(const struct graph *g, struct index_scratch *s, struct index_query *q,
                 const struct graph_search *search) WARN_UNUSED;

#endif
