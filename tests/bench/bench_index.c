/* bench_index.c - what the search of a request costs by engine and number of rows, at equal recall:
 *
 *     bench_index BUNDLE HISTORIES MAX_ROWS CACHE_DIR
 *
 * Requests are real: the interests that the bundle's model makes of users drawn from HISTORIES
 * (lines `user item item ...`), four of them or so; wanted are the 200 best rows
 * over all, as the daemon asks for them. Rows are the bundle's own, as
 * many as there are, then further ones drawn from them: a real one moved among its 16 nearest by a
 * random mixture of the differences to them, half as far to as far as the nearest is. So a large
 * catalogue has the directions, lengths and crowding of the real one. (catalogue.py does the same.)
 *
 * Graphs and lists get the least effort that finds 98 % of the exact answers; built once, they are
 * kept in CACHE_DIR. The graph is also searched by Faiss itself, an interest after the other, for
 * as few rows of each as that takes, which are scored again as ours are. A line for each engine:
 * rows, name, microseconds of a single request, of one in a batch of 8, recall, effort. Times are
 * of this thread on the processor, the median of rounds in which the engines take turns, so other
 * programs disturb little; but caches are shared: compare within one run. */
#include "../../src/index/faiss_extra.h"
#include "../../src/index/top.h"
#include "recalld/blas.h"
#include "recalld/bundle.h"
#include "recalld/vec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void faiss_Index_free(struct FaissIndex_H *index); /* of the C API, whose header defines OK */

#define K 200
#define BATCH 8
#define REQUESTS 64
#define HISTORY_MIN 5
#define RECALL 0.98
#define EFFORT_MAX 20000
#define THREADS 2
#define ROUNDS 5
#define NEAR 16
#define ENGINES 4

static uint64_t seed = 88172645463325252u;

static uint32_t any(size_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

static float uniform(void)
{
    return (float)any(1 << 24) / (1 << 24);
}

/* Nearly normal. */
static float noise(void)
{
    float sum = 0;

    for (int i = 0; i < 12; i++)
        sum += uniform();
    return sum - 6;
}

static _Noreturn void die(const char *text)
{
    fprintf(stderr, "bench_index: %s\n", text);
    exit(1);
}

static double cpu_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static struct index *open_index(const struct vectors *v, const char *factory, const char *path)
{
    struct err err = ERR_INIT;
    struct index_shard shard = {path, 0, (uint32_t)v->rows};
    struct index_spec spec = {.engine = factory != NULL ? "faiss" : "exact",
                              .factory = factory,
                              .effort = 1,
                              .shards = &shard,
                              .n_shards = 1};
    struct index *ix = index_open(&spec, v, &err);

    if (ix == NULL)
        die(err.text);
    return ix;
}

/* ---- vectors ------------------------------------------------------------------------ */

struct real {
    struct vectors v; /* without the padding row */
    float *unit;      /* the same, of length 1 */
    uint32_t *near;   /* (rows, NEAR) nearest first */
};

static struct real real_rows(const struct bundle *b)
{
    const struct vectors *all = bundle_vectors(b);
    struct real r = {.v = {all->data + all->dim, all->rows - 1, all->dim}};
    size_t dim = r.v.dim;
    struct index_scratch *s = index_scratch_new();
    struct index *ix;

    r.unit = xmalloc(r.v.rows * dim * sizeof *r.unit);
    r.near = xmalloc(r.v.rows * NEAR * sizeof *r.near);
    for (size_t i = 0; i < r.v.rows; i++)
        vec_normalise(r.unit + i * dim, r.v.data + i * dim, dim, 1e-9f);
    ix = open_index(&(struct vectors){r.unit, r.v.rows, dim}, NULL, NULL);
    for (size_t i = 0; i < r.v.rows; i++) {
        struct hit hits[NEAR + 1] = {{0, 0}};
        size_t found = 0, n = 0;
        struct index_query q = {.interests = r.unit + i * dim,
                                .n_interests = 1,
                                .k = NEAR + 1,
                                .hits = hits,
                                .found = &found};

        index_search(ix, s, &q, 1);
        for (size_t j = 0; j < found && n < NEAR; j++)
            if (hits[j].row != i)
                r.near[i * NEAR + n++] = hits[j].row;
    }
    index_free(ix);
    index_scratch_free(s);
    return r;
}

/* A real row moved, as the head of this file says. */
static void make_row(const struct real *r, float *x, float *away)
{
    size_t dim = r->v.dim, from = any(r->v.rows);
    const float *unit = r->unit + from * dim;
    const uint32_t *near = r->near + from * NEAR;
    float reach = 0;

    memset(away, 0, dim * sizeof *away);
    for (size_t i = 0; i < NEAR; i++) {
        float weight = noise();

        vec_axpy(away, weight, r->unit + near[i] * dim, dim);
        vec_axpy(away, -weight, unit, dim);
    }
    for (size_t d = 0; d < dim; d++)
        reach += (r->unit[near[0] * dim + d] - unit[d]) * (r->unit[near[0] * dim + d] - unit[d]);
    reach = sqrtf(reach) * (0.5f + 0.5f * uniform());
    vec_normalise(away, away, dim, 1e-9f);
    memcpy(x, unit, dim * sizeof *x);
    vec_axpy(x, reach, away, dim);
    vec_normalise(x, x, dim, 1e-9f);
    reach = vec_norm(r->v.data + from * dim, dim);
    for (size_t d = 0; d < dim; d++)
        x[d] *= reach;
}

static struct vectors enlarged(const struct real *r, size_t rows)
{
    size_t dim = r->v.dim, own = rows < r->v.rows ? rows : r->v.rows;
    float *x = xmalloc(rows * dim * sizeof *x), *away = xmalloc(dim * sizeof *away);

    memcpy(x, r->v.data, own * dim * sizeof *x);
    for (size_t i = own; i < rows; i++)
        make_row(r, x + i * dim, away);
    free(away);
    return (struct vectors){x, rows, dim};
}

/* ---- requests ----------------------------------------------------------------------- */

struct requests {
    size_t interests;                   /* of a request */
    float *vectors;                     /* (REQUESTS, interests, dim) */
    struct hit *best;                   /* (REQUESTS, K): the exact answers */
    size_t *n_best;                     /* (REQUESTS) */
    struct index_query query[REQUESTS]; /* with room for answers */
};

/* The known items of a line, oldest first. */
static size_t read_rows(const struct items *items, char *line, uint32_t *rows)
{
    size_t n = 0;

    strtok(line, " \t\n"); /* the user */
    for (char *id = strtok(NULL, " \t\n"); id != NULL; id = strtok(NULL, " \t\n"))
        if ((rows[n] = items_row(items, id, strlen(id))) != ITEMS_NONE)
            n++;
    return n;
}

/* A user with a history of some length: the lines in turn, with a stride that meets all of them. */
static size_t next_user(const struct bundle *b, struct mapped *file, size_t *at, uint32_t **rows)
{
    const char *text = (const char *)file->bytes;

    for (size_t tries = 0; tries < 100000; tries++) {
        size_t begin, end, n;
        char *line;

        *at = (*at + 7919) % file->len;
        for (begin = *at; begin > 0 && text[begin - 1] != '\n';)
            begin--;
        for (end = *at; end < file->len && text[end] != '\n';)
            end++;
        line = xstrndup(text + begin, end - begin);
        *rows = xrealloc(*rows, (end - begin + 1) * sizeof **rows);
        n = read_rows(bundle_items(b), line, *rows);
        free(line);
        if (n >= HISTORY_MIN)
            return n;
    }
    die("too few histories that are long enough");
}

static struct requests *new_requests(const struct bundle *b, const char *histories)
{
    const struct model *m = bundle_model(b);
    size_t k = (size_t)model_interest_count(m), dim = (size_t)model_dim(m), at = 0;
    struct model_scratch *scratch = model_scratch_new();
    struct requests *r = xcalloc(1, sizeof *r);
    struct err err = ERR_INIT;
    struct mapped file;
    uint32_t *rows = NULL;

    if (file_map(&file, histories, &err) == -1)
        die(err.text);
    r->interests = k;
    r->vectors = xcalloc(REQUESTS * k * dim, sizeof *r->vectors);
    r->best = xcalloc(REQUESTS * K, sizeof *r->best);
    r->n_best = xcalloc(REQUESTS, sizeof *r->n_best);
    for (size_t i = 0; i < REQUESTS; i++) {
        size_t n = next_user(b, &file, &at, &rows);
        struct model_input in = {
            .rows = rows, .n_rows = n, .dynamic = -1, .interests = r->vectors + i * k * dim};

        model_interests(m, scratch, &in, 1);
        r->query[i] = (struct index_query){.interests = in.interests,
                                           .n_interests = (int)k,
                                           .k = K,
                                           .hits = xcalloc(k * K, sizeof(struct hit)),
                                           .together = true,
                                           .from = xmalloc(K),
                                           .found = xcalloc(k, sizeof(size_t))};
    }
    free(rows);
    file_unmap(&file);
    model_scratch_free(scratch);
    return r;
}

static void free_requests(struct requests *r)
{
    for (size_t i = 0; i < REQUESTS; i++) {
        free(r->query[i].hits);
        free(r->query[i].found);
        free(r->query[i].from);
    }
    free(r->vectors);
    free(r->best);
    free(r->n_best);
    free(r);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static double median(double *x, size_t n)
{
    qsort(x, n, sizeof *x, by_size);
    return x[n / 2];
}

struct engine {
    const char *name; /* the factory; NULL: exact */
    struct index *ix;
    struct FaissIndex_H *faiss; /* instead of ix; over the rows of v */
    const struct vectors *v;
    int effort;
    double found, one[ROUNDS], batched[ROUNDS];
};

/* What index/ does with one query, the walk done by Faiss. */
static void faiss_search(const struct engine *e, struct index_query *q)
{
    size_t ask = (size_t)e->effort, n = (size_t)q->n_interests, dim = e->v->dim;
    float *scores = xmalloc(n * ask * sizeof *scores);
    int64_t *rows = xmalloc(n * ask * sizeof *rows);
    uint64_t *keys = xmalloc(top_room(q->k) * sizeof *keys);
    char why[256] = "";

    if (extra_search(e->faiss, EXTRA_HNSW, e->effort, (int64_t)n, q->interests, (int64_t)ask,
                     scores, rows, why, sizeof why) != 0)
        die(why);
    for (size_t i = 0; i < n; i++) {
        struct top t;

        top_init(&t, keys, q->k, 0);
        for (size_t j = i * ask; j < (i + 1) * ask; j++)
            if (rows[j] >= 0)
                top_offer(&t,
                          vec_dot(q->interests + i * dim, e->v->data + (size_t)rows[j] * dim, dim),
                          (uint32_t)rows[j]);
        q->found[i] = top_finish(&t, q->hits + i * q->k);
    }
    q->joined = false;
    free(scores);
    free(rows);
    free(keys);
}

static void search(const struct engine *e, struct index_scratch *s, struct index_query *q, size_t n)
{
    if (e->faiss == NULL)
        index_search(e->ix, s, q, n);
    for (size_t i = 0; e->faiss != NULL && i < n; i++)
        faiss_search(e, &q[i]);
}

/* Microseconds per request, median over batches. */
static double run(const struct engine *e, struct requests *r, size_t batch)
{
    struct index_scratch *s = index_scratch_new();
    double us[REQUESTS] = {0};
    size_t n = 0;

    for (size_t i = 0; i < REQUESTS; i++)
        r->query[i].effort = e->effort;
    search(e, s, r->query, batch); /* warm */
    for (size_t i = 0; i + batch <= REQUESTS; i += batch) {
        double start = cpu_us();

        search(e, s, r->query + i, batch);
        us[n++] = (cpu_us() - start) / (double)batch;
    }
    index_scratch_free(s);
    return median(us, n);
}

static int best_first(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;
}

/* The answer of a query, whose lists are joined where the index has not: room for K. */
static size_t answer(const struct index_query *q, struct hit *out)
{
    size_t lists = q->joined ? 1 : (size_t)q->n_interests, all = 0, n = 0;
    struct hit *hits = xmalloc(lists * K * sizeof *hits);

    for (size_t l = 0; l < lists; l++) {
        memcpy(hits + all, q->hits + l * K, q->found[l] * sizeof *hits);
        all += q->found[l];
    }
    qsort(hits, all, sizeof *hits, best_first);
    for (size_t i = 0; i < all && n < K; i++) {
        bool again = false;

        for (size_t j = 0; j < n && !again; j++)
            again = out[j].row == hits[i].row;
        if (!again)
            out[n++] = hits[i];
    }
    free(hits);
    return n;
}

static void remember_best(struct requests *r, const struct engine *exact)
{
    run(exact, r, 1);
    for (size_t i = 0; i < REQUESTS; i++)
        r->n_best[i] = answer(&r->query[i], r->best + i * K);
}

/* What the last run found of the best: answers are sorted by score, equal ones by row, and scores
 * are the same to the bit, so one walk over both compares them. */
static double recall(const struct requests *r)
{
    size_t both = 0, all = 0;

    for (size_t i = 0; i < REQUESTS; i++) {
        const struct hit *best = r->best + i * K;
        struct hit mine[K];
        size_t found = answer(&r->query[i], mine);

        for (size_t a = 0, b = 0; a < found && b < r->n_best[i]; b++) {
            bool same = mine[a].row == best[b].row;

            both += same;
            a += same;
        }
        all += r->n_best[i];
    }
    return (double)both / (double)all;
}

/* ---- engines ------------------------------------------------------------------------ */

/* The file of an index over the rows. */
static char *built(const struct vectors *v, const char *factory, const char *cache)
{
    char name[64];
    struct err err = ERR_INIT;
    char *path;

    snprintf(name, sizeof name, "%zu-%.4s-%016lx.faiss", v->rows, factory,
             hash_bytes(v->data, v->rows * v->dim * sizeof *v->data));
    path = path_join(cache, name);
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "building %s over %zu rows ...\n", factory, v->rows);
        if (index_build_shard(path, factory, v, 0, (uint32_t)v->rows, THREADS, NULL, NULL, &err) ==
            -1)
            die(err.text);
    }
    return path;
}

static struct FaissIndex_H *open_faiss(const char *path)
{
    struct err err = ERR_INIT;
    struct FaissIndex_H *faiss;
    struct mapped file;
    char why[256] = "";

    if (file_map(&file, path, &err) == -1)
        die(err.text);
    faiss = extra_read(file.bytes, file.len, why, sizeof why);
    if (faiss == NULL)
        die(why);
    file_unmap(&file);
    return faiss;
}

/* The least effort that is enough, to a sixteenth. */
static void tune(struct engine *e, struct requests *r)
{
    e->effort = e->name[0] != 'I' ? K / 8 : (int)sqrt((double)e->v->rows) / 8;
    while (run(e, r, 1), (e->found = recall(r)) < RECALL && e->effort < EFFORT_MAX)
        e->effort += e->effort / 16 + 1;
}

/* The exact engine, a graph, lists, and the graph by Faiss itself. */
static void open_engines(struct engine *engines, const struct vectors *v, const char *lists,
                         struct requests *r, const char *cache)
{
    char *graph_path = built(v, "HNSW32", cache), *lists_path = built(v, lists, cache);

    engines[0] = (struct engine){.ix = open_index(v, NULL, NULL), .v = v, .effort = 1, .found = 1};
    engines[1] = (struct engine){"HNSW32", open_index(v, "HNSW32", graph_path), .v = v};
    engines[2] = (struct engine){lists, open_index(v, lists, lists_path), .v = v};
    engines[3] = (struct engine){"Faiss:HNSW32", .faiss = open_faiss(graph_path), .v = v};
    remember_best(r, &engines[0]);
    tune(&engines[1], r);
    tune(&engines[2], r);
    tune(&engines[3], r);
    free(graph_path);
    free(lists_path);
}

static void bench_rows(const struct real *real, struct requests *r, size_t rows, const char *cache)
{
    struct vectors v = enlarged(real, rows);
    struct engine engines[ENGINES];
    char ivf[32];

    snprintf(ivf, sizeof ivf, "IVF%.0f,Flat", 4 * sqrt((double)rows));
    open_engines(engines, &v, ivf, r, cache);
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < ENGINES; i++) {
            engines[i].one[round] = run(&engines[i], r, 1);
            engines[i].batched[round] = run(&engines[i], r, BATCH);
        }
    for (int i = 0; i < ENGINES; i++) {
        struct engine *e = &engines[i];

        printf("%9zu  %-12s %9.0f %9.0f   %.4f %5d\n", rows, e->name != NULL ? e->name : "exact",
               median(e->one, ROUNDS), median(e->batched, ROUNDS), e->found, e->effort);
        index_free(e->ix);
        faiss_Index_free(e->faiss);
    }
    fflush(stdout);
    free((void *)(uintptr_t)v.data);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {10000, 35000, 100000, 300000, 1000000, 3000000};
    struct err err = ERR_INIT;
    struct bundle *b;
    struct requests *r;
    struct real real;

    if (argc != 5) {
        fputs("usage: bench_index BUNDLE HISTORIES MAX_ROWS CACHE_DIR\n", stderr);
        return 2;
    }
    blas_single_thread();
    b = bundle_open(argv[1], NULL, NULL, &err);
    if (b == NULL)
        die(err.text);
    real = real_rows(b);
    r = new_requests(b, argv[2]);
    for (size_t i = 0; i < ARRAY_LEN(sizes) && sizes[i] <= strtoul(argv[3], NULL, 10); i++)
        bench_rows(&real, r, sizes[i], argv[4]);
    free_requests(r);
    free(real.unit);
    free(real.near);
    bundle_release(b);
    return 0;
}
