/* build.c - making a shard's index file. */
#include "factory.h"
#include "faiss_extra.h"

#include <errno.h>
#include <faiss/c_api/Index_c.h>
#include <faiss/c_api/error_c.h>
#include <faiss/c_api/index_factory_c.h>
#include <faiss/c_api/index_io_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* From the OpenMP library that Faiss runs on; its header does not come with every compiler. */
void omp_set_num_threads(int n);
int omp_get_max_threads(void);

#define CHUNK_ROWS 10000
#define TRAIN_ROWS 262144
#define TRAIN_ROWS_PER_LIST 256
/* Faiss' 40 builds in 40 % of the time, but its graph needs a fifth more effort for equal recall.
 */
#define GRAPH_EFFORT 100

struct build {
    const char *path, *factory;
    struct factory kind;
    const float *data; /* (rows, dim) */
    size_t rows, dim;
    void (*progress)(void *arg, size_t done, size_t total);
    void *arg;
    struct err *err;
};

/* The text is Faiss' own, of this thread, and gone with the next call. */
static int faiss_says(struct build *b, const char *doing)
{
    const char *why = faiss_get_last_error();

    return err_set(b->err, ERR_IO, "%s: %s: %s", b->path, doing, why != NULL ? why : "failed");
}

static int check(struct build *b)
{
    if (!factory_parse(b->factory, &b->kind))
        return err_set(b->err, ERR_USAGE, "unsupported index factory %s (%s)", b->factory,
                       index_factories);
    if (b->rows == 0)
        return err_set(b->err, ERR_USAGE, "%s: no rows", b->path);
    if (b->kind.parts > 0 && b->dim % b->kind.parts != 0)
        return err_set(b->err, ERR_USAGE, "%s: %zu parts do not divide %zu dimensions", b->factory,
                       b->kind.parts, b->dim);
    if (b->kind.lists > b->rows)
        return err_set(b->err, ERR_USAGE, "%s: more lists than rows (%zu)", b->factory, b->rows);
    if (b->kind.code == CODE_PQ && b->rows < 256)
        return err_set(b->err, ERR_USAGE, "%s: needs 256 rows or more, there are %zu", b->factory,
                       b->rows);
    if (b->kind.code == CODE_PQ_FAST && b->rows < 16)
        return err_set(b->err, ERR_USAGE, "%s: needs 16 rows or more, there are %zu", b->factory,
                       b->rows);
    return 0;
}

/* Trains on all rows, or on a sample taken at even distances. */
static int train(struct build *b, FaissIndex *index)
{
    size_t max = TRAIN_ROWS > TRAIN_ROWS_PER_LIST * b->kind.lists
                     ? TRAIN_ROWS
                     : TRAIN_ROWS_PER_LIST * b->kind.lists;
    float *sample;
    int rc;

    if (b->kind.search != SEARCH_IVF && b->kind.code == CODE_FLAT)
        return 0;
    if (b->rows <= max)
        return faiss_Index_train(index, (idx_t)b->rows, b->data) == 0 ? 0
                                                                      : faiss_says(b, "training");
    sample = mem_try_array(max, b->dim * sizeof *sample);
    if (sample == NULL)
        return err_set(b->err, ERR_NOMEM, "%s: out of memory for training", b->path);
    for (size_t i = 0; i < max; i++)
        memcpy(sample + i * b->dim, b->data + i * b->rows / max * b->dim, b->dim * sizeof *sample);
    rc = faiss_Index_train(index, (idx_t)max, sample);
    free(sample);
    return rc == 0 ? 0 : faiss_says(b, "training");
}

static int add(struct build *b, FaissIndex *index)
{
    for (size_t done = 0; done < b->rows;) {
        size_t n = b->rows - done < CHUNK_ROWS ? b->rows - done : CHUNK_ROWS;

        if (faiss_Index_add(index, (idx_t)n, b->data + done * b->dim) != 0)
            return faiss_says(b, "adding rows");
        done += n;
        if (b->progress != NULL)
            b->progress(b->arg, done, b->rows);
    }
    return 0;
}

static int system_says(struct build *b, const char *path, const char *doing)
{
    return err_set(b->err, ERR_IO, "%s: cannot %s: %s", path, doing, strerror(errno));
}

/* Beside, synced, then renamed. */
static int write_index(struct build *b, FaissIndex *index)
{
    char *path = xasprintf("%s.tmp", b->path);
    FILE *f = fopen(path, "wb");
    int rc = -1;

    if (f == NULL) {
        system_says(b, path, "create");
        goto out;
    }
    if (faiss_write_index(index, f) != 0)
        faiss_says(b, "writing");
    else if (fflush(f) != 0 || fsync(fileno(f)) != 0)
        system_says(b, path, "write");
    else
        rc = 0;
    if (fclose(f) != 0 && rc == 0)
        rc = system_says(b, path, "write");
    if (rc == 0 && rename(path, b->path) != 0)
        rc = system_says(b, b->path, "rename to");
    if (rc == -1)
        unlink(path);
out:
    free(path);
    return rc;
}

static int build(struct build *b)
{
    FaissIndex *index = NULL;
    char text[64];
    int rc = -1;

    /* Without "np" Faiss spends a minute on polysemous codes, which nothing here uses. */
    if (b->kind.code == CODE_PQ)
        snprintf(text, sizeof text, "IVF%zu,PQ%zunp", b->kind.lists, b->kind.parts);
    else
        snprintf(text, sizeof text, "%s", b->factory);
    if (faiss_index_factory(&index, (int)b->dim, text, METRIC_INNER_PRODUCT) != 0)
        return faiss_says(b, "creating");
    extra_prepare(index, GRAPH_EFFORT);
    if (train(b, index) == 0 && add(b, index) == 0) {
        /* What fast-scan uses, whose effort is fixed, when nothing else is said at opening. */
        extra_set_nprobe(index, (b->kind.lists + 7) / 8);
        rc = write_index(b, index);
    }
    faiss_Index_free(index);
    return rc;
}

int index_build_shard(const char *path, const char *factory, const struct vectors *v,
                      uint32_t first_row, uint32_t rows, int threads,
                      void (*progress)(void *arg, size_t done, size_t total), void *arg,
                      struct err *err)
{
    struct build b = {.path = path,
                      .factory = factory,
                      .rows = rows,
                      .dim = v->dim,
                      .progress = progress,
                      .arg = arg,
                      .err = err};
    int before = omp_get_max_threads(), rc;

    if ((size_t)first_row + rows > v->rows)
        return err_set(err, ERR_USAGE, "%s: rows %u to %llu of %zu", path, first_row,
                       (unsigned long long)first_row + rows, v->rows);
    b.data = v->data + (size_t)first_row * v->dim;
    if (check(&b) == -1)
        return -1;
    omp_set_num_threads(threads > 0 ? threads : 1);
    rc = build(&b);
    omp_set_num_threads(before);
    return rc;
}
