/* faiss.c - the Faiss engine: one index file per shard.
 *
 * A plain HNSW graph is walked by graph.c, which knows how to read its file; the other kinds are
 * searched by Faiss.
 *
 * Each request searches each shard in a call of its own, so what a request finds does not depend on
 * what others ask at the same time. Both only choose candidates; all of them are scored again by
 * vec_dot and the best of all shards are kept. Where its storage is lossy, more candidates are
 * asked for.
 *
 * A query that wants the best rows of all its interests together is answered by one walk through a
 * graph, in which a row counts with its best score.
 *
 * Faiss' own filters ruin a graph's recall, so a filter is applied to what comes back, and more is
 * asked for and looked at in proportion; narrow filters, and searches that fall short all the same,
 * are answered exactly over the rows that match. */
#include "engine.h"
#include "factory.h"
#include "faiss_extra.h"
#include "graph.h"
#include "joint.h"

#include "recalld/vec.h"

#include <faiss/c_api/Index_c.h>
#include <stdlib.h>
#include <string.h>

/* From the OpenMP library that Faiss runs on; its header does not come with every compiler. */
void omp_set_num_threads(int n);

#define WHY_MAX 256

struct shard {
    FaissIndex *faiss; /* one of the two */
    struct graph *graph;
};

struct faiss_shards {
    struct shard *shards;
    size_t n;
    struct factory kind;
    int effort;   /* at 1.0 */
    bool bounded; /* graphs whose rows cannot make a score overflow */
};

/* By code of our own: see graph.h. */
static bool walks(const struct factory *kind)
{
    return kind->search == SEARCH_HNSW && kind->code == CODE_FLAT;
}

/* Faiss gets no number with which a sum of products could overflow: NaN sends it astray. */
#define COMPONENT_MAX 1e15f

static bool harmless(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(x[i]) <= COMPONENT_MAX))
            return false;
    return true;
}

/* ---- opening -------------------------------------------------------------------- */

static int load_shard(const struct index_spec *spec, size_t i, struct mapped *m, struct err *err)
{
    const struct index_shard *s = &spec->shards[i];

    if (s->path == NULL || s->rows == 0)
        return err_set(err, ERR_USAGE, "a faiss shard needs a file and at least one row");
    return spec->load == NULL ? file_load(m, s->path, err) : spec->load(spec->arg, i, m, err);
}

/* What searches the shard, from the bytes of its file, which were checked. */
static int make_shard(struct index *ix, struct shard *made, const struct index_shard *s,
                      const struct mapped *file, const struct factory *kind,
                      const struct layout_graph *links, struct err *err)
{
    char why[WHY_MAX] = "";

    if (walks(kind)) {
        made->graph = graph_new(links, ix->v.data + (size_t)s->first_row * ix->v.dim, ix->v.dim,
                                s->rows, err);
        if (made->graph == NULL)
            return -1;
        ix->memory += graph_memory(made->graph);
        return 0;
    }
    made->faiss = extra_read(file->bytes, file->len, why, sizeof why);
    ix->memory += file->len;
    return made->faiss != NULL ? 0 : err_set(err, ERR_FORMAT, "%s: %s", s->path, why);
}

static int open_shard(struct index *ix, struct faiss_shards *f, const struct index_spec *spec,
                      size_t i, struct err *err)
{
    const struct index_shard *s = &spec->shards[i];
    struct shard *made = &f->shards[i];
    struct layout_graph links;
    struct factory kind;
    struct mapped file;
    int rc;

    if (load_shard(spec, i, &file, err) == -1)
        return -1;
    rc = layout_check(s->path, file.bytes, file.len, ix->v.data + (size_t)s->first_row * ix->v.dim,
                      ix->v.dim, s->rows, &kind, &links, err);
    if (rc == 0 && !factory_equal(&kind, &f->kind))
        rc = err_set(err, ERR_FORMAT, "%s: the index is not %s", s->path, spec->factory);
    if (rc == 0)
        rc = make_shard(ix, made, s, &file, &kind, &links, err);
    file_unmap(&file);
    /* Fast-scan takes no parameters: its number of lists is set once and for all. */
    if (rc == 0 && f->kind.search == SEARCH_IVF && f->effort > 0)
        extra_set_nprobe(made->faiss, (size_t)f->effort);
    return rc;
}

static int faiss_open(struct index *ix, const struct index_spec *spec, struct err *err)
{
    struct faiss_shards *f = xcalloc(1, sizeof *f);

    ix->state = f;
    f->shards = xcalloc(spec->n_shards, sizeof *f->shards);
    f->n = spec->n_shards;
    f->effort = spec->effort;
    if (!factory_parse(spec->factory, &f->kind))
        return err_set(err, ERR_USAGE, "unsupported index factory %s (%s)",
                       spec->factory != NULL ? spec->factory : "", index_factories);
    ix->effort_applies = factory_has_effort(&f->kind);
    ix->shares_search = walks(&f->kind);
    f->bounded = walks(&f->kind) && harmless(ix->v.data + (size_t)ix->all.first_row * ix->v.dim,
                                             (size_t)ix->all.rows * ix->v.dim);
    if (ix->effort_applies && f->effort < 1)
        return err_set(err, ERR_USAGE, "index factory %s needs %s", spec->factory,
                       index_effort_name(spec->factory));
    for (size_t i = 0; i < spec->n_shards; i++)
        if (open_shard(ix, f, spec, i, err) == -1)
            return -1;
    return 0;
}

static void faiss_close(void *state)
{
    struct faiss_shards *f = state;

    if (f == NULL)
        return;
    for (size_t i = 0; i < f->n; i++) {
        graph_free(f->shards[i].graph);
        faiss_Index_free(f->shards[i].faiss);
    }
    free(f->shards);
    free(f);
}

/* ---- one query in one shard ------------------------------------------------------- */

/* An attempt: candidates asked for per interest, and efSearch or nprobe. */
struct plan {
    size_t ask;
    size_t effort;
};

struct job {
    const struct index *ix;
    const struct faiss_shards *f;
    struct index_scratch *scratch;
    struct index_query *q;
    const float *interests; /* as Faiss gets them: finite */
    bool joint;             /* one walk for all interests, one list of rows */
    struct top *tops;       /* one for each list; of a joint one, entries are as joint.h says */
    size_t shard;
    const uint32_t *list; /* rows of this shard that the filter keeps; NULL without a filter */
    size_t available;     /* how many rows may be found in this shard */
    int64_t *labels;      /* (lists, ask) */
};

static size_t lists(const struct job *j)
{
    return j->joint ? 1 : (size_t)j->q->n_interests;
}

/* How many times k candidates are worth asking for before the weights decide. Measured on real item
 * vectors (35,118 x 64, k = 200, all lists visited): SQ8 loses nothing; PQ16 0.743 of recall at 1,
 * 0.988 at 4, 0.999 at 8; 32 parts of 4 bits 0.720, 0.981, 0.999. */
static double code_factor(enum code_kind code)
{
    switch (code) {
    case CODE_SQ8:
        return 1.125;
    case CODE_PQ:
    case CODE_PQ_FAST:
        return 8;
    default:
        return 1;
    }
}

#define EFFORT_MAX 100000
#define FILTER_MARGIN 1.25
#define TIES 16 /* equal or nearly equal scores around the last place */

static size_t limit(double x, size_t max)
{
    return x < (double)max ? (size_t)x : max;
}

/* `grow` makes everything larger in the next attempt. A joint walk for n interests finds as much of
 * their answer as one walk for each when it looks from (n + 1) / 2 times as many rows (measured on
 * a million rows with four interests: 2.2 to 2.5 times). */
static struct plan make_plan(const struct job *j, size_t grow)
{
    size_t rows = j->ix->shards[j->shard].rows;
    double share = (double)j->available / (double)rows;
    double ask = (double)j->q->k * code_factor(j->f->kind.code) / share * (double)grow;
    double effort = (double)j->f->effort;
    struct plan p;

    /* Chosen for joint answers; a list of its own is k long. */
    if (walks(&j->f->kind) && !j->joint && effort < (double)j->q->k)
        effort = (double)j->q->k;
    effort *= j->q->effort / share * (double)grow;

    if (j->list != NULL)
        ask *= FILTER_MARGIN;
    if (j->joint)
        effort *= (1 + (double)j->q->n_interests) / 2;
    p.effort = limit(effort, EFFORT_MAX);
    p.effort = p.effort > 0 ? p.effort : 1;
    if (j->f->kind.search == SEARCH_IVF && p.effort > j->f->kind.lists)
        p.effort = j->f->kind.lists;
    p.ask = limit(ask + TIES, rows);
    /* Faiss holds no more candidates than results in a graph; so ask for as many. */
    if (j->f->kind.search == SEARCH_HNSW && !walks(&j->f->kind) && p.ask < p.effort)
        p.ask = p.effort < rows ? p.effort : rows;
    return p;
}

static bool accepts(const struct job *j, int64_t label, uint32_t *row)
{
    const struct shard_range *s = &j->ix->shards[j->shard];

    if (label < 0 || label >= (int64_t)s->rows)
        return false;
    *row = s->first_row + (uint32_t)label;
    return j->q->filter == NULL || filter_has(j->q->filter, *row);
}

/* The list that got fewest: how many rows it may use. */
static size_t fewest(const struct job *j, const struct plan *p)
{
    size_t least = SIZE_MAX;
    uint32_t row;

    for (size_t i = 0; i < lists(j); i++) {
        size_t n = 0;

        for (size_t l = 0; l < p->ask; l++)
            n += accepts(j, j->labels[i * p->ask + l], &row);
        least = n < least ? n : least;
    }
    return least;
}

static void offer(const struct job *j, int interest, const int64_t *labels, size_t n)
{
    const struct vectors *v = &j->ix->v;
    const float *x = j->q->interests + (size_t)interest * v->dim;
    uint32_t row, ahead;

    for (size_t l = 0; l < n; l++) {
        if (l + 4 < n && accepts(j, labels[l + 4], &ahead))
            prefetch_row(v, ahead);
        if (accepts(j, labels[l], &row))
            top_offer(&j->tops[interest], vec_dot(x, v->data + (size_t)row * v->dim, v->dim), row);
    }
}

#define BLOCK 64 /* rows that are scored together */

static void offer_joint(const struct job *j, const int64_t *labels, size_t n)
{
    uint64_t keys[BLOCK];
    size_t m = 0;
    uint32_t row;

    for (size_t l = 0; l < n; l++) {
        if (accepts(j, labels[l], &row))
            keys[m++] = hit_order(0, joint_place(row - j->ix->all.first_row, 0));
        if (m < BLOCK && l + 1 < n)
            continue;
        joint_score(j->ix, j->q, keys, m);
        for (size_t i = 0; i < m; i++)
            top_offer(j->tops, key_score(keys[i]), key_row(keys[i]));
        m = 0;
    }
}

static int ask_faiss(const struct job *j, const FaissIndex *index, const struct plan *p, char *why)
{
    static const enum extra_search with[] = {EXTRA_PLAIN, EXTRA_HNSW, EXTRA_IVF};
    size_t n = (size_t)j->q->n_interests;
    float *scores = scratch_room(j->scratch, ROOM_SCORES, n * p->ask, sizeof *scores);

    if (scores == NULL)
        return -1;
    return extra_search(index, j->ix->effort_applies ? with[j->f->kind.search] : EXTRA_PLAIN,
                        (int)p->effort, (int64_t)n, j->interests, (int64_t)p->ask, scores,
                        j->labels, why, WHY_MAX);
}

static int attempt(struct job *j, const struct plan *p, char *why)
{
    const struct shard *s = &j->f->shards[j->shard];
    size_t n = (size_t)j->q->n_interests;
    struct graph_search search = {.interests = j->interests,
                                  .n = n,
                                  .dim = j->ix->v.dim,
                                  .together = j->joint,
                                  .effort = p->effort,
                                  .ask = p->ask};

    strcpy(why, "out of memory");
    search.rows = j->labels =
        scratch_room(j->scratch, ROOM_LABELS, lists(j) * p->ask, sizeof *j->labels);
    if (j->labels == NULL)
        return -1;
    return s->graph != NULL ? graph_search(s->graph, j->scratch, j->q, &search)
                            : ask_faiss(j, s->faiss, p, why);
}

/* What an interest costs, in dot products of rows in memory order. Measured: a candidate of our
 * walk through a graph 40, of Faiss' 250, one of a list 8, a row that is looked at 2 (in fast-scan
 * 1/4); a row of a filter, which may lie anywhere, 1.5. A joint walk costs all interests together
 * what it costs one. */
static double faiss_cost(const struct job *j, const struct plan *p)
{
    double rows = (double)j->ix->shards[j->shard].rows, ask = (double)p->ask;
    double scanned = j->f->kind.code == CODE_PQ_FAST ? rows / 4 : 2 * rows;
    double walked = p->effort > p->ask ? (double)p->effort : ask;

    switch (j->f->kind.search) {
    case SEARCH_HNSW:
        return walks(&j->f->kind) ? 40 * walked * (double)lists(j) / (double)j->q->n_interests
                                  : 250 * ask;
    case SEARCH_IVF:
        return scanned * (double)p->effort / (double)j->f->kind.lists + 8 * ask;
    default:
        return scanned + 8 * ask;
    }
}

static double gather_cost(const struct job *j)
{
    return 1.5 * (double)j->available;
}

/* Another attempt would look no further than this one did. */
static bool exhausted(const struct job *j, const struct plan *p)
{
    bool all = p->ask == j->ix->shards[j->shard].rows;

    if (j->f->kind.search == SEARCH_IVF)
        return p->effort == j->f->kind.lists ? all : !j->ix->effort_applies;
    return all;
}

static void offer_all(const struct job *j, const struct plan *p)
{
    if (j->joint)
        offer_joint(j, j->labels, p->ask);
    for (int i = 0; !j->joint && i < j->q->n_interests; i++)
        offer(j, i, j->labels + (size_t)i * p->ask, p->ask);
}

static void gather_all(const struct job *j)
{
    uint32_t first = j->ix->shards[j->shard].first_row;

    if (j->joint)
        joint_gather(j->ix, j->q, j->tops, first, j->list, j->available);
    else
        gather(&j->ix->v, j->q, j->tops, first, j->list, j->available);
}

/* Asks the index, and asks for more while some list has fewer rows than there are for it;
 * unless scoring every row that may be found is cheaper. */
static void search_shard(struct job *j)
{
    size_t wanted = j->q->k < j->available ? j->q->k : j->available;
    char why[WHY_MAX] = "";

    for (size_t grow = 1; wanted > 0; grow *= 4) {
        struct plan p = make_plan(j, grow);

        if ((j->list != NULL || grow > 1) && gather_cost(j) < faiss_cost(j, &p)) {
            gather_all(j);
            return;
        }
        if (attempt(j, &p, why) == -1) {
            query_shard_failed(j->q, j->shard, why);
            return;
        }
        if (fewest(j, &p) >= wanted || query_late(j->q)) {
            offer_all(j, &p);
            return;
        }
        if (exhausted(j, &p)) {
            gather_all(j);
            return;
        }
    }
}

/* ---- a batch ---------------------------------------------------------------------- */

/* An interest that could do harm finds nothing. */
static const float *clean(struct job *j, size_t n, size_t dim)
{
    float *copy;

    if (harmless(j->q->interests, n * dim))
        return j->q->interests;
    copy = scratch_room(j->scratch, ROOM_INTERESTS, n * dim, sizeof *copy);
    for (size_t i = 0; copy != NULL && i < n * dim; i++)
        copy[i] = harmless(&j->q->interests[i], 1) ? j->q->interests[i] : 0.0f;
    return copy;
}

/* A row that no interest may have, or a place that has no number, takes lists of their own. */
static bool can_join(const struct job *j)
{
    const struct index_query *q = j->q;

    return q->together && q->from != NULL && q->n_interests > 1 && walks(&j->f->kind) &&
           j->f->bounded && j->ix->all.rows <= JOINT_ROWS_MAX && j->interests == q->interests;
}

static int prepare(struct job *j)
{
    size_t dim = j->ix->v.dim, room = top_room(j->q->k);
    uint64_t *keys;

    j->interests = clean(j, (size_t)j->q->n_interests, dim);
    j->joint = can_join(j);
    keys = scratch_room(j->scratch, ROOM_KEYS, lists(j) * room, sizeof *keys);
    j->tops = scratch_room(j->scratch, ROOM_TOPS, lists(j), sizeof *j->tops);
    if (keys == NULL || j->tops == NULL || j->interests == NULL)
        return -1;
    for (size_t i = 0; i < lists(j); i++)
        top_init(&j->tops[i], keys + i * room,
                 harmless(j->q->interests + i * dim, dim) ? j->q->k : 0, 0);
    return 0;
}

static void search_query(struct job *j)
{
    const struct index *ix = j->ix;

    if (j->q->n_interests <= 0 || j->q->k == 0)
        return;
    if (prepare(j) == -1) {
        for (size_t i = 0; i < ix->n_shards; i++)
            query_shard_failed(j->q, i, "out of memory");
        return;
    }
    for (j->shard = 0; j->shard < ix->n_shards && !query_late(j->q); j->shard++) {
        const struct shard_range *s = &ix->shards[j->shard];

        j->list = NULL;
        j->available = s->rows;
        if (j->q->filter != NULL)
            j->list = filter_rows(j->q->filter, s->first_row, s->rows, &j->available);
        search_shard(j);
    }
    if (j->joint)
        joint_finish(j->ix, j->q, j->tops);
    else
        query_finish(j->q, j->tops);
}

static void faiss_search(const struct index *ix, struct index_scratch *s, struct index_query *q,
                         size_t n)
{
    static _Thread_local bool alone;

    if (!alone)
        omp_set_num_threads(1);
    alone = true;
    for (size_t i = 0; i < n; i++) {
        struct job j = {.ix = ix, .f = ix->state, .scratch = s, .q = &q[i]};

        search_query(&j);
    }
}

const struct engine engine_faiss = {"faiss", faiss_open, faiss_close, faiss_search};
