/* layout.c - what a Faiss index file says, checked byte by byte.
 *
 * The file is a four-letter kind, a common header and the kind's fields; vectors are a count and
 * that many elements. All numbers are little-endian. The kinds below have kept their layout from
 * Faiss 1.7.3 to 1.15. */
#include "factory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct walk {
    struct reader in;
    const float *items; /* (rows, dim) */
    size_t dim;
    uint32_t rows;
    struct factory *f;
    struct layout_graph *g;
    struct err *err;
};

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "index files are little-endian");

static uint64_t load(const uint8_t *p, size_t width)
{
    uint64_t v = 0;

    memcpy(&v, p, width);
    return v;
}

static uint64_t element(const struct layout_span *s, size_t i, size_t width)
{
    return load(s->p + i * width, width);
}

static int bad(struct walk *w, const char *what)
{
    return err_set(w->err, ERR_FORMAT, "%s: offset %zu: %s", w->in.name,
                   (size_t)(w->in.p - w->in.start), what);
}

static int take(struct walk *w, size_t width, uint64_t *v)
{
    if (reader_left(&w->in) < width)
        return bad(w, "the file ends too early");
    *v = load(w->in.p, width);
    w->in.p += width;
    return 0;
}

/* A number that must be what it is. */
static int expect(struct walk *w, size_t width, uint64_t wanted, const char *what)
{
    uint64_t v = 0;

    if (take(w, width, &v) == -1)
        return -1;
    return v == wanted ? 0 : bad(w, what);
}

static int skip(struct walk *w, size_t bytes)
{
    if (reader_left(&w->in) < bytes)
        return bad(w, "the file ends too early");
    w->in.p += bytes;
    return 0;
}

static int take_span(struct walk *w, size_t n, size_t width, struct layout_span *s)
{
    if (n > reader_left(&w->in) / width)
        return bad(w, "the file ends too early");
    *s = (struct layout_span){w->in.p, n};
    w->in.p += n * width;
    return 0;
}

static int take_vector(struct walk *w, size_t width, struct layout_span *s)
{
    uint64_t n = 0;

    return take(w, 8, &n) == -1 ? -1 : take_span(w, n, width, s);
}

/* A vector that must have `n` elements. */
static int expect_vector(struct walk *w, size_t width, uint64_t n, const char *what)
{
    struct layout_span s = {0};

    if (take_vector(w, width, &s) == -1)
        return -1;
    return s.n == n ? 0 : bad(w, what);
}

/* ---- pieces --------------------------------------------------------------------- */

static uint64_t kind_code(const char *kind)
{
    return load((const uint8_t *)kind, 4);
}

#define METRIC_INNER_PRODUCT 0

static int header(struct walk *w, uint64_t rows)
{
    uint64_t dim = 0, n = 0, trained = 0, metric = 0;

    if (take(w, 4, &dim) == -1 || take(w, 8, &n) == -1 || skip(w, 16) == -1 ||
        take(w, 1, &trained) == -1 || take(w, 4, &metric) == -1)
        return -1;
    if (dim != w->dim)
        return err_set(w->err, ERR_FORMAT, "%s: %d dimensions, the vectors have %zu", w->in.name,
                       (int)dim, w->dim);
    if (n != rows)
        return err_set(w->err, ERR_FORMAT, "%s: %lld rows, must be %llu", w->in.name, (long long)n,
                       (unsigned long long)rows);
    if (metric != METRIC_INNER_PRODUCT)
        return err_set(w->err, ERR_FORMAT, "%s: the metric is not inner product", w->in.name);
    return trained == 1 ? 0 : bad(w, "the index is not trained");
}

/* Sums of products of numbers up to this stay finite. */
#define COMPONENT_MAX 1e15f

static float component(const struct layout_span *s, size_t i)
{
    float v;

    memcpy(&v, s->p + i * sizeof v, sizeof v);
    return v;
}

/* A vector of `n` floats that arithmetic can bear. */
static int expect_floats(struct walk *w, uint64_t n, struct layout_span *s, const char *what)
{
    if (take_vector(w, sizeof(float), s) == -1)
        return -1;
    if (s->n != n)
        return bad(w, what);
    for (size_t i = 0; i < s->n; i++)
        if (!(fabsf(component(s, i)) <= COMPONENT_MAX))
            return bad(w, "a component is not a number, or beyond 1e15");
    return 0;
}

/* Vector `i` of the span is this row's, up to rounding. */
static int check_item(struct walk *w, const struct layout_span *s, size_t i, size_t row)
{
    const float *item = w->items + row * w->dim;
    float largest = 0;

    for (size_t d = 0; d < w->dim; d++)
        largest = fmaxf(largest, fabsf(item[d]));
    for (size_t d = 0; d < w->dim; d++)
        if (!(fabsf(component(s, i * w->dim + d) - item[d]) <= 1e-4f * largest))
            return err_set(
                w->err, ERR_FORMAT,
                "%s: vector %zu differs from the weights: the index was built from others",
                w->in.name, row);
    return largest <= COMPONENT_MAX ? 0 : bad(w, "a component is beyond 1e15");
}

/* The coarse quantizer of an IVF index: some vectors. */
static int centroids(struct walk *w, uint64_t n)
{
    struct layout_span s = {0};

    return header(w, n) == -1 ? -1 : expect_floats(w, n * w->dim, &s, "wrong number of components");
}

/* All items as they are. */
static int flat(struct walk *w)
{
    struct layout_span s = {0};

    if (header(w, w->rows) == -1 ||
        expect_floats(w, (uint64_t)w->rows * w->dim, &s, "wrong number of components") == -1)
        return -1;
    for (size_t row = 0; row < w->rows; row++)
        if (check_item(w, &s, row, row) == -1)
            return -1;
    return 0;
}

/* The scalar quantizer of SQ8. */
static int scalar_quantizer(struct walk *w)
{
    struct layout_span ranges = {0};
    const uint64_t eight_bits = 0;

    if (expect(w, 4, eight_bits, "not an 8-bit scalar quantizer") == -1 || skip(w, 8) == -1 ||
        expect(w, 8, w->dim, "wrong dimension of the scalar quantizer") == -1 ||
        expect(w, 8, w->dim, "wrong code size of the scalar quantizer") == -1)
        return -1;
    return expect_floats(w, 2 * w->dim, &ranges, "wrong number of ranges");
}

static int product_quantizer(struct walk *w, unsigned bits)
{
    struct layout_span s = {0};
    uint64_t parts = 0;

    if (expect(w, 8, w->dim, "wrong dimension of the product quantizer") == -1 ||
        take(w, 8, &parts) == -1)
        return -1;
    if (parts == 0 || w->dim % parts != 0)
        return bad(w, "the product quantizer's parts do not divide the dimension");
    w->f->parts = parts;
    if (expect(w, 8, bits, "wrong bits of the product quantizer") == -1)
        return -1;
    return expect_floats(w, (uint64_t)w->dim << bits, &s, "wrong number of centroids");
}

/* ---- HNSW ----------------------------------------------------------------------- */

static int32_t signed_element(const struct layout_span *s, size_t i)
{
    return (int32_t)(uint32_t)element(s, i, 4);
}

static int check_slots(struct walk *w, const struct layout_graph *g)
{
    if (g->slots.n < 2 || element(&g->slots, 0, 4) != 0)
        return bad(w, "the graph has no levels");
    for (size_t l = 1; l < g->slots.n; l++)
        if (signed_element(&g->slots, l) < signed_element(&g->slots, l - 1))
            return bad(w, "the graph's levels shrink");
    if (g->levels.n != w->rows || g->offsets.n != (size_t)w->rows + 1 ||
        element(&g->offsets, 0, 8) != 0)
        return bad(w, "the graph does not cover the rows");
    for (size_t i = 0; i < w->rows; i++) {
        uint64_t level = element(&g->levels, i, 4);

        if (level == 0 || level >= g->slots.n ||
            element(&g->offsets, i + 1, 8) - element(&g->offsets, i, 8) !=
                element(&g->slots, level, 4))
            return bad(w, "a row's links are out of place");
    }
    return element(&g->offsets, w->rows, 8) == g->neighbors.n ? 0 : bad(w, "wrong number of links");
}

/* A link on level l must lead to a row that is on level l: its slots are read there next. */
static int check_links(struct walk *w, const struct layout_graph *g)
{
    for (size_t i = 0; i < w->rows; i++) {
        uint64_t at = element(&g->offsets, i, 8), levels = element(&g->levels, i, 4);

        for (uint64_t l = 0; l < levels; l++)
            for (uint64_t s = element(&g->slots, l, 4); s < element(&g->slots, l + 1, 4); s++) {
                int32_t to = signed_element(&g->neighbors, at + s);

                if (to < -1 || (to >= 0 && ((uint32_t)to >= w->rows ||
                                            element(&g->levels, (size_t)to, 4) <= l)))
                    return bad(w, "a link leads nowhere");
            }
    }
    return 0;
}

/* Every search gives each, but Faiss allocates for as many candidates as the file says. */
#define GRAPH_EFFORT_MAX 100000

static int graph(struct walk *w)
{
    struct layout_span probabilities;
    uint64_t entry = 0, top = 0, effort = 0;
    struct layout_graph *g = w->g;

    if (take_vector(w, 8, &probabilities) == -1 || take_vector(w, 4, &g->slots) == -1 ||
        take_vector(w, 4, &g->levels) == -1 || take_vector(w, 8, &g->offsets) == -1 ||
        take_vector(w, 4, &g->neighbors) == -1 || check_slots(w, g) == -1 ||
        check_links(w, g) == -1 || take(w, 4, &entry) == -1 || take(w, 4, &top) == -1)
        return -1;
    if (entry >= w->rows || top + 1 != element(&g->levels, entry, 4))
        return bad(w, "the graph's entry is out of range");
    g->entry = (uint32_t)entry;
    /* links on levels above the lowest; twice as many on that */
    w->f->links = element(&g->slots, 1, 4) / 2;
    if (skip(w, 4) == -1 || take(w, 4, &effort) == -1)
        return -1;
    if (effort == 0 || effort > GRAPH_EFFORT_MAX)
        return bad(w, "the graph's efSearch is out of range");
    return expect(w, 4, 1, "unknown kind of graph search");
}

size_t layout_levels(const struct layout_graph *g, size_t row)
{
    return element(&g->levels, row, 4);
}

/* Of levels that rows are on: what the file says of others, no link bears out. */
size_t layout_links_max(const struct layout_graph *g)
{
    size_t levels = 0, most = 0;

    for (size_t row = 0; row < g->levels.n; row++)
        levels = layout_levels(g, row) > levels ? layout_levels(g, row) : levels;
    for (size_t l = 1; l <= levels; l++) {
        size_t n = element(&g->slots, l, 4) - element(&g->slots, l - 1, 4);

        most = n > most ? n : most;
    }
    return most;
}

size_t layout_links(const struct layout_graph *g, size_t row, size_t level, uint32_t *links)
{
    uint64_t at = element(&g->offsets, row, 8), end = at + element(&g->slots, level + 1, 4);
    size_t n = 0;

    for (at += element(&g->slots, level, 4); at < end; at++)
        if (signed_element(&g->neighbors, at) >= 0)
            links[n++] = (uint32_t)signed_element(&g->neighbors, at);
    return n;
}

/* ---- IVF ------------------------------------------------------------------------ */

static int ivf_header(struct walk *w)
{
    uint64_t lists = 0, probes = 0, kind = 0;

    if (header(w, w->rows) == -1 || take(w, 8, &lists) == -1 || take(w, 8, &probes) == -1 ||
        take(w, 4, &kind) == -1)
        return -1;
    if (lists == 0 || lists > reader_left(&w->in))
        return bad(w, "wrong number of lists");
    if (probes == 0 || probes > lists) /* fast-scan allocates for so many */
        return bad(w, "wrong number of lists to search");
    w->f->lists = lists;
    if (kind != kind_code("IxFI"))
        return bad(w, "the coarse quantizer is not flat");
    if (centroids(w, lists) == -1 || expect(w, 1, 0, "there is a direct map") == -1)
        return -1;
    return expect_vector(w, 8, 0, "there is a direct map");
}

/* Every row in one list, once. */
static int check_ids(struct walk *w, const struct layout_span *ids, uint8_t *seen)
{
    for (size_t i = 0; i < ids->n; i++) {
        uint64_t id = element(ids, i, 8);

        if (id >= w->rows || seen[id / 8] >> id % 8 & 1)
            return bad(w, "an id is out of range or repeated");
        seen[id / 8] = (uint8_t)(seen[id / 8] | 1u << id % 8);
    }
    return 0;
}

/* Sizes of the lists: all of them, or (sparse) pairs of list and size for those not empty. */
static int list_sizes(struct walk *w, uint64_t *sizes)
{
    uint64_t kind = 0;
    struct layout_span s = {0};

    if (take(w, 4, &kind) == -1 || take_vector(w, 8, &s) == -1)
        return -1;
    if (kind == kind_code("full") && s.n == w->f->lists) {
        for (size_t i = 0; i < s.n; i++)
            sizes[i] = element(&s, i, 8);
        return 0;
    }
    if (kind != kind_code("sprs") || s.n % 2 != 0)
        return bad(w, "unknown list sizes");
    memset(sizes, 0, w->f->lists * sizeof *sizes);
    for (size_t i = 0; i < s.n; i += 2) {
        if (element(&s, i, 8) >= w->f->lists)
            return bad(w, "a list is out of range");
        sizes[element(&s, i, 8)] = element(&s, i + 1, 8);
    }
    return 0;
}

static int plain_lists(struct walk *w, uint64_t code_size, uint64_t *sizes, uint8_t *seen)
{
    uint64_t total = 0;
    struct layout_span codes = {0}, ids = {0};

    if (expect(w, 8, w->f->lists, "wrong number of lists") == -1 ||
        expect(w, 8, code_size, "wrong code size") == -1 || list_sizes(w, sizes) == -1)
        return -1;
    for (size_t l = 0; l < w->f->lists; l++) {
        if (sizes[l] > w->rows)
            return bad(w, "a list is too long");
        if (take_span(w, sizes[l] * code_size, 1, &codes) == -1 ||
            take_span(w, sizes[l], 8, &ids) == -1 || check_ids(w, &ids, seen) == -1)
            return -1;
        for (size_t i = 0; w->f->code == CODE_FLAT && i < ids.n; i++)
            if (check_item(w, &codes, i, element(&ids, i, 8)) == -1)
                return -1;
        total += sizes[l];
    }
    return total == w->rows ? 0 : bad(w, "the lists do not cover the rows");
}

/* Fast-scan's lists: codes in blocks of 32 rows. */
static int block_lists(struct walk *w, uint64_t code_size, uint64_t block_size, uint8_t *seen)
{
    const uint64_t block_rows = 32;
    uint64_t total = 0, stated = 0;
    struct layout_span ids = {0};

    if (expect(w, 8, w->f->lists, "wrong number of lists") == -1 || take(w, 8, &stated) == -1 ||
        expect(w, 8, block_rows, "wrong block") == -1 ||
        expect(w, 8, block_size, "wrong block size") == -1)
        return -1;
    if (stated != code_size && stated != UINT64_MAX) /* all ones: not said */
        return bad(w, "wrong code size");
    for (size_t l = 0; l < w->f->lists; l++) {
        if (take_vector(w, 8, &ids) == -1 || check_ids(w, &ids, seen) == -1 ||
            expect_vector(w, 1, (ids.n + block_rows - 1) / block_rows * block_size,
                          "wrong number of blocks") == -1)
            return -1;
        total += ids.n;
    }
    return total == w->rows ? 0 : bad(w, "the lists do not cover the rows");
}

static int inverted_lists(struct walk *w, uint64_t code_size, uint64_t block_size)
{
    uint64_t *sizes = mem_try_array(w->f->lists, sizeof *sizes), kind = 0;
    uint8_t *seen = mem_try_array((size_t)w->rows / 8 + 1, 1);
    int rc = -1;

    if (sizes == NULL || seen == NULL) {
        err_set(w->err, ERR_NOMEM, "%s: out of memory", w->in.name);
        goto out;
    }
    memset(seen, 0, (size_t)w->rows / 8 + 1);
    if (take(w, 4, &kind) == -1)
        goto out;
    if (block_size == 0 && kind == kind_code("ilar"))
        rc = plain_lists(w, code_size, sizes, seen);
    else if (block_size != 0 && kind == kind_code("ilbl"))
        rc = block_lists(w, code_size, block_size, seen);
    else
        bad(w, "unknown kind of inverted lists");
out:
    free(sizes);
    free(seen);
    return rc;
}

/* ---- kinds ---------------------------------------------------------------------- */

static int sq_index(struct walk *w)
{
    if (header(w, w->rows) == -1 || scalar_quantizer(w) == -1)
        return -1;
    return expect_vector(w, 1, (uint64_t)w->rows * w->dim, "wrong number of codes");
}

static int hnsw_flat(struct walk *w)
{
    if (header(w, w->rows) == -1 || graph(w) == -1 ||
        expect(w, 4, kind_code("IxFI"), "the graph's storage is not flat") == -1)
        return -1;
    return flat(w);
}

static int hnsw_sq(struct walk *w)
{
    if (header(w, w->rows) == -1 || graph(w) == -1 ||
        expect(w, 4, kind_code("IxSQ"), "the graph's storage is not SQ8") == -1)
        return -1;
    return sq_index(w);
}

static int ivf_flat(struct walk *w)
{
    return ivf_header(w) == -1 ? -1 : inverted_lists(w, w->dim * sizeof(float), 0);
}

static int residual_flag(struct walk *w)
{
    uint64_t v = 0;

    if (take(w, 1, &v) == -1)
        return -1;
    return v <= 1 ? 0 : bad(w, "the residual flag is neither 0 nor 1");
}

static int ivf_sq(struct walk *w)
{
    if (ivf_header(w) == -1 || scalar_quantizer(w) == -1 ||
        expect(w, 8, w->dim, "wrong code size") == -1 || residual_flag(w) == -1)
        return -1;
    return inverted_lists(w, w->dim, 0);
}

static int ivf_pq(struct walk *w)
{
    uint64_t code_size = 0;

    if (ivf_header(w) == -1 || residual_flag(w) == -1 || take(w, 8, &code_size) == -1 ||
        product_quantizer(w, 8) == -1)
        return -1;
    return code_size == w->f->parts ? inverted_lists(w, code_size, 0) : bad(w, "wrong code size");
}

static uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) / to * to;
}

static int pq_fast(struct walk *w)
{
    uint64_t parts;

    if (header(w, w->rows) == -1 || product_quantizer(w, 4) == -1)
        return -1;
    parts = round_up(w->f->parts, 2);
    if (expect(w, 4, 0, "unknown kind of scan") == -1 || expect(w, 4, 32, "wrong block") == -1 ||
        expect(w, 4, 0, "unknown kind of scan") == -1 ||
        expect(w, 8, round_up(w->rows, 32), "wrong number of blocks") == -1 ||
        expect(w, 8, parts, "wrong number of parts") == -1)
        return -1;
    return expect_vector(w, 1, round_up(w->rows, 32) * parts / 2, "wrong number of codes");
}

static int ivf_pq_fast(struct walk *w)
{
    uint64_t code_size = 0, parts = 0;

    if (ivf_header(w) == -1 || residual_flag(w) == -1 || take(w, 8, &code_size) == -1 ||
        expect(w, 4, 32, "wrong block") == -1 || take(w, 8, &parts) == -1 ||
        expect(w, 4, 0, "unknown kind of scan") == -1 ||
        expect(w, 8, 0, "unknown kind of scan") == -1 || product_quantizer(w, 4) == -1)
        return -1;
    if (parts != round_up(w->f->parts, 2) || code_size != (w->f->parts + 1) / 2)
        return bad(w, "wrong code size");
    return inverted_lists(w, code_size, 32 * parts / 2);
}

static const struct {
    const char *kind;
    enum search_kind search;
    enum code_kind code;
    int (*check)(struct walk *w);
} kinds[] = {
    {"IxFI", SEARCH_ALL, CODE_FLAT, flat},       {"IHNf", SEARCH_HNSW, CODE_FLAT, hnsw_flat},
    {"IHNs", SEARCH_HNSW, CODE_SQ8, hnsw_sq},    {"IwFl", SEARCH_IVF, CODE_FLAT, ivf_flat},
    {"IwSq", SEARCH_IVF, CODE_SQ8, ivf_sq},      {"IwPQ", SEARCH_IVF, CODE_PQ, ivf_pq},
    {"IPfs", SEARCH_ALL, CODE_PQ_FAST, pq_fast}, {"IwPf", SEARCH_IVF, CODE_PQ_FAST, ivf_pq_fast},
};

int layout_check(const char *name, const void *bytes, size_t len, const float *items, size_t dim,
                 uint32_t rows, struct factory *f, struct layout_graph *g, struct err *err)
{
    struct layout_graph unused;
    struct walk w = {.items = items, .dim = dim, .rows = rows, .f = f, .g = g, .err = err};
    uint64_t kind = 0;

    if (g == NULL)
        w.g = &unused;
    memset(f, 0, sizeof *f);
    memset(w.g, 0, sizeof *w.g);
    reader_init(&w.in, name, bytes, len);
    if (take(&w, 4, &kind) == -1)
        return -1;
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (kind != kind_code(kinds[i].kind))
            continue;
        f->search = kinds[i].search;
        f->code = kinds[i].code;
        if (kinds[i].check(&w) == -1)
            return -1;
        return reader_left(&w.in) == 0 ? 0 : bad(&w, "there are bytes after the index");
    }
    return err_set(err, ERR_FORMAT, "%s: not a Faiss index of a supported kind (%s)", name,
                   index_factories);
}
