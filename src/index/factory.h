/* factory.h - what a Faiss index consists of: read from its factory string, and from its file. */
#ifndef RECALLD_INDEX_FACTORY_H
#define RECALLD_INDEX_FACTORY_H

#include "recalld/index.h"

enum search_kind { SEARCH_ALL, SEARCH_HNSW, SEARCH_IVF };
enum code_kind { CODE_FLAT, CODE_SQ8, CODE_PQ, CODE_PQ_FAST };

struct factory {
    enum search_kind search;
    enum code_kind code;
    size_t links; /* HNSW: of a row on the levels above the lowest */
    size_t lists; /* IVF */
    size_t parts; /* PQ */
};

/* "HNSW32" and the like; false when it is not one of index_factories. */
bool factory_parse(const char *text, struct factory *f) WARN_UNUSED;
/* Effort can be chosen for each search. */
bool factory_has_effort(const struct factory *f);
bool factory_equal(const struct factory *a, const struct factory *b);

/* A counted vector of an index file, left where it is: elements may not be aligned. */
struct layout_span {
    const uint8_t *p;
    size_t n;
};

/* The graph in an HNSW file, of which a row's links stand level after level, the lowest, on which
 * all rows are, first. */
struct layout_graph {
    struct layout_span slots;     /* i32: slots of a row below level l, cumulated */
    struct layout_span levels;    /* i32: levels a row is on, at least 1 */
    struct layout_span offsets;   /* u64: where a row's slots begin */
    struct layout_span neighbors; /* i32: a row or -1 */
    uint32_t entry;               /* a row on the highest level */
};

/* Walks through an index file before anything else sees it. Faiss believes what it reads, sizes and
 * links included; so everything it will use as one is checked here, and that the file is one
 * inner-product index of `dim` dimensions over rows 0 .. rows - 1, and nothing else. Where it holds
 * the vectors as they are, they must be `items` (rows, dim) up to rounding: the index belongs to
 * these weights. Tells what the file holds, and (`g` may be NULL) where its graph is. */
int layout_check(const char *name, const void *bytes, size_t len, const float *items, size_t dim,
                 uint32_t rows, struct factory *f, struct layout_graph *g, struct err *err)
    WARN_UNUSED;

/* Of a graph that was checked: on how many levels a row is; how many links a row has at most on a
 * level; and a row's links on a level it is on, of which it returns the number. Each leads to a row
 * on that level. */
size_t layout_levels(const struct layout_graph *g, size_t row);
size_t layout_links_max(const struct layout_graph *g);
size_t layout_links(const struct layout_graph *g, size_t row, size_t level, uint32_t *links);

#endif
