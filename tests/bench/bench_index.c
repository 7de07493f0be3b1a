/* bench_index.c - what a request costs by engine and number of rows, at equal recall; and so how
 * many rows are too many for the exact engine.
 *
 *     bench_index [MAX_ROWS [CHECKPOINT [WORK_DIR]]]
 *
 * Item vectors come from the checkpoint's largest matrix (more rows than it has: its rows again
 * with some noise), or are made up in clusters. A request has four interests, each between five
 * items that lie near each other, and wants 200 rows for each. Graphs and lists get the least
 * effort that finds 98 % of the exact answer. Times are of this thread on the processor, medians;
 * so another program that runs beside disturbs little, but caches are shared: compare within one
 * run. MAX_ROWS is 300,000 by default, which takes some minutes, nearly all of them for building
 * graphs. */
#include "recalld/blas.h"
#include "recalld/ckpt.h"
#include "recalld/index.h"
#include "recalld/vec.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define INTERESTS 4
#define K 200
#define BATCH 8
#define REQUESTS 64
#define RECALL 0.98
#define THREADS 2

static uint64_t seed = 88172645463325252u;

static uint32_t any(size_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

static float noise(void)
{
    float sum = 0;

    for (int i = 0; i < 12; i++)
        sum += (float)any(1 << 20) / (1 << 20);
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

/* ---- vectors ------------------------------------------------------------------------ */

static struct vectors made_up(void)
{
    const size_t rows = 20000, dim = 64, centres = 2000;
    float *c = xmalloc(centres * dim * sizeof *c), *x = xmalloc(rows * dim * sizeof *x);

    for (size_t i = 0; i < centres * dim; i++)
        c[i] = noise();
    for (size_t r = 0; r < rows; r++) {
        const float *centre = c + any(centres) * dim;

        for (size_t d = 0; d < dim; d++)
            x[r * dim + d] = centre[d] + 0.8f * noise();
    }
    free(c);
    return (struct vectors){x, rows, dim};
}

/* Without its first row, which is padding. */
static struct vectors from_checkpoint(const char *path)
{
    struct err err = ERR_INIT;
    struct ckpt *c = ckpt_open(path, &err);
    const struct tensor *best = NULL;
    const float *data;
    float *owned, *x;

    for (size_t i = 0; c != NULL && i < ckpt_count(c); i++) {
        const struct tensor *t = ckpt_at(c, i);

        if (t->n_dims == 2 && (best == NULL || t->shape[0] > best->shape[0]))
            best = t;
    }
    if (c == NULL || best == NULL || best->shape[0] < 1000 ||
        (data = tensor_f32(c, best, &owned, &err)) == NULL)
        die(err.code != ERR_NONE ? err.text : "no matrix of 1000 rows or more");
    x = xmalloc((best->count - best->shape[1]) * sizeof *x);
    memcpy(x, data + best->shape[1], (best->count - best->shape[1]) * sizeof *x);
    return (struct vectors){x, best->shape[0] - 1, best->shape[1]};
}

/* `rows` unit vectors: the first of the base, then its rows again, moved a little. */
static struct vectors resampled(const struct vectors *base, size_t rows)
{
    float *x = xmalloc(rows * base->dim * sizeof *x);

    for (size_t r = 0; r < rows; r++) {
        float *to = x + r * base->dim;

        vec_normalise(to, base->data + (r < base->rows ? r : any(base->rows)) * base->dim,
                      base->dim, 1e-9f);
        for (size_t d = 0; r >= base->rows && d < base->dim; d++)
            to[d] += 0.4f / sqrtf((float)base->dim) * noise();
        vec_normalise(to, to, base->dim, 1e-9f);
    }
    return (struct vectors){x, rows, base->dim};
}

/* ---- requests ----------------------------------------------------------------------- */

struct requests {
    float *interests;                   /* (REQUESTS, INTERESTS, dim) */
    struct hit *best;                   /* (REQUESTS, INTERESTS, K) */
    struct index_query query[REQUESTS]; /* with room for answers */
};

static void make_interests(struct requests *r, const struct vectors *v, const struct index *exact)
{
    struct index_scratch *s = index_scratch_new();
    struct hit near[100] = {{0, 0}};
    size_t found = 0;

    for (size_t i = 0; i < (size_t)REQUESTS * INTERESTS; i++) {
        float *x = r->interests + i * v->dim;
        struct index_query q = {.interests = v->data + (size_t)any(v->rows) * v->dim,
                                .n_interests = 1,
                                .k = 100,
                                .hits = near,
                                .found = &found};

        index_search(exact, s, &q, 1);
        memset(x, 0, v->dim * sizeof *x);
        for (int j = 0; j < 5; j++)
            vec_axpy(x, 0.2f + (float)any(100) / 100,
                     v->data + (size_t)near[any(found)].row * v->dim, v->dim);
        vec_normalise(x, x, v->dim, 1e-9f);
    }
    index_scratch_free(s);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Microseconds per request, median over batches. */
static double run(const struct index *ix, struct requests *r, double effort, size_t batch)
{
    struct index_scratch *s = index_scratch_new();
    double us[REQUESTS] = {0};
    size_t n = 0;

    for (size_t i = 0; i < REQUESTS; i++)
        r->query[i].effort = effort;
    index_search(ix, s, r->query, batch); /* warm */
    for (size_t i = 0; i + batch <= REQUESTS; i += batch) {
        double start = cpu_us();

        index_search(ix, s, r->query + i, batch);
        us[n++] = (cpu_us() - start) / (double)batch;
    }
    qsort(us, n, sizeof *us, by_size);
    index_scratch_free(s);
    return us[n / 2];
}

static double recall(const struct requests *r)
{
    size_t both = 0;

    for (size_t i = 0; i < REQUESTS; i++)
        for (size_t j = 0; j < INTERESTS; j++)
            for (size_t a = 0; a < r->query[i].found[j]; a++)
                for (size_t b = 0; b < K; b++)
                    both +=
                        r->query[i].hits[j * K + a].row == r->best[(i * INTERESTS + j) * K + b].row;
    return (double)both / (REQUESTS * INTERESTS * K);
}

static struct requests *new_requests(const struct vectors *v, const struct index *exact)
{
    struct requests *r = xcalloc(1, sizeof *r);

    r->interests = xcalloc((size_t)REQUESTS * INTERESTS * v->dim, sizeof(float));
    r->best = xcalloc((size_t)REQUESTS * INTERESTS * K, sizeof *r->best);
    make_interests(r, v, exact);
    for (size_t i = 0; i < REQUESTS; i++)
        r->query[i] =
            (struct index_query){.interests = r->interests + i * INTERESTS * v->dim,
                                 .n_interests = INTERESTS,
                                 .k = K,
                                 .hits = xcalloc((size_t)INTERESTS * K, sizeof(struct hit)),
                                 .found = xcalloc(INTERESTS, sizeof(size_t))};
    run(exact, r, 1, 1);
    for (size_t i = 0; i < REQUESTS; i++)
        memcpy(r->best + i * INTERESTS * K, r->query[i].hits, INTERESTS * K * sizeof *r->best);
    return r;
}

static void free_requests(struct requests *r)
{
    for (size_t i = 0; i < REQUESTS; i++) {
        free(r->query[i].hits);
        free(r->query[i].found);
    }
    free(r->interests);
    free(r->best);
    free(r);
}

/* ---- engines ------------------------------------------------------------------------ */

static struct index *open_index(const struct vectors *v, const char *factory, const char *path)
{
    struct err err = ERR_INIT;
    struct index_shard shard = {path, 0, (uint32_t)v->rows};
    struct index_spec spec = {factory != NULL ? "faiss" : "exact", factory, 1, &shard, 1};
    struct index *ix = index_open(&spec, v, &err);

    if (ix == NULL)
        die(err.text);
    return ix;
}

/* Prints a line; returns the time of a single request. */
static double bench_faiss(const struct vectors *v, struct requests *r, const char *factory,
                          const char *dir)
{
    char *path = path_join(dir, "bench.faiss");
    struct err err = ERR_INIT;
    struct index *ix;
    double start = (double)clock_ns(), built, one, found;
    int effort = 1, step = 1;

    if (index_build_shard(path, factory, v, 0, (uint32_t)v->rows, THREADS, NULL, NULL, &err) == -1)
        die(err.text);
    built = ((double)clock_ns() - start) / 1e9;
    ix = open_index(v, factory, path);
    unlink(path);
    free(path);
    /* The least effort that is enough, to a sixteenth. */
    do {
        effort += step;
        step = effort / 16 + 1;
        one = run(ix, r, effort, 1);
        found = recall(r);
    } while (found < RECALL && effort < 20000);
    printf("%9zu  %-14s %9.0f %9.0f   %.4f  effort %d, built in %.0f s\n", v->rows, factory, one,
           run(ix, r, effort, BATCH), found, effort, built);
    fflush(stdout);
    index_free(ix);
    return one;
}

/* One number of rows: returns exact's time over that of the best other, for single requests. */
static double bench_rows(const struct vectors *base, size_t rows, const char *dir)
{
    struct vectors v = resampled(base, rows);
    struct index *exact = open_index(&v, NULL, NULL);
    struct requests *r = new_requests(&v, exact);
    double one = run(exact, r, 1, 1), graph, lists;
    char ivf[32];

    printf("%9zu  %-14s %9.0f %9.0f   1\n", rows, "exact", one, run(exact, r, 1, BATCH));
    graph = bench_faiss(&v, r, "HNSW32", dir);
    snprintf(ivf, sizeof ivf, "IVF%.0f,Flat", 4 * sqrt((double)rows));
    lists = bench_faiss(&v, r, ivf, dir);
    free_requests(r);
    index_free(exact);
    free((void *)(uintptr_t)v.data);
    return one / (graph < lists ? graph : lists);
}

int main(int argc, char **argv)
{
    static const size_t sizes[] = {10000, 35000, 100000, 300000, 1000000, 3000000};
    size_t max = argc > 1 ? strtoul(argv[1], NULL, 10) : 300000;
    struct vectors base = argc > 2 ? from_checkpoint(argv[2]) : made_up();
    const char *dir = argc > 3 ? argv[3] : P_tmpdir;
    double before = 0;

    blas_single_thread();
    printf("%zu x %zu item vectors; 4 interests, 200 each; microseconds per request\n", base.rows,
           base.dim);
    printf("     rows  engine            batch 1   batch %d   recall\n", BATCH);
    for (size_t i = 0; i < ARRAY_LEN(sizes) && sizes[i] <= max; i++) {
        double ratio = bench_rows(&base, sizes[i], dir);

        printf("%9zu  exact costs %.2f of the best other\n", sizes[i], ratio);
        if (before > 0 && before < 1 && ratio >= 1)
            printf("border near %.0f rows\n",
                   exp(log((double)sizes[i - 1]) + log((double)sizes[i] / (double)sizes[i - 1]) *
                                                       (log(before) / (log(before) - log(ratio)))));
        before = ratio;
    }
    free((void *)(uintptr_t)base.data);
    return 0;
}
