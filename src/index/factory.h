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

/* Walks through an index file before Faiss sees it. Faiss believes what it reads, sizes and links
 * included; so everything it will use as one is checked here, and that the file is one
 * inner-product index of `dim` dimensions over rows 0 .. rows - 1, and nothing else. Where it holds
 * the vectors as they are, they must be `items` (rows, dim) up to rounding: the index belongs to
 * these weights. */
int layout_check(const char *name, const void *bytes, size_t len, const float *items, size_t dim,
                 uint32_t rows, struct factory *f, struct err *err) WARN_UNUSED;

#endif
