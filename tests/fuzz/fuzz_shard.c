/* fuzz_shard.c - a Faiss index file: one shard of a bundle.
 *
 * Faiss believes what it reads, and what it refuses midway it never frees; so what layout_check
 * lets through must open, and be safe to search: every interest finds as many rows as there are,
 * none twice, best first, each with the score of its item vector. */
#include "../../src/index/factory.h"
#include "fuzz.h"
#include "recalld/vec.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define NAME "fuzz.faiss"
#define ROWS 48
#define DIM 4
#define FEW 7 /* hits */

static float data[ROWS * DIM];
static const struct vectors vectors = {data, ROWS, DIM};

static void fill(void)
{
    for (unsigned i = 0; i < ROWS * DIM; i++)
        data[i] = (float)((int)(i * i * 37 + i * 11) % 101 - 50) / 64;
}

/* ---- opening ------------------------------------------------------------------------- */

/* The engine unmaps what it gets. */
static int load(void *arg, size_t i, struct mapped *m, struct err *err)
{
    const struct str *file = arg;
    void *p;

    (void)i;
    *m = (struct mapped){NULL, 0};
    if (file->len == 0)
        return 0;
    p = mmap(NULL, file->len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, ERR_NOMEM, NAME ": out of memory");
    memcpy(p, file->p, file->len);
    *m = (struct mapped){p, file->len};
    return 0;
}

static struct index *open_as(const char *factory, struct str *file, struct err *err)
{
    const struct index_shard shard = {NAME, 0, ROWS};
    const struct index_spec spec = {.engine = "faiss",
                                    .factory = factory,
                                    .effort = index_effort_name(factory) != NULL ? 2 : 0,
                                    .shards = &shard,
                                    .n_shards = 1,
                                    .load = load,
                                    .arg = file};

    return index_open(&spec, &vectors, err);
}

/* ---- searching ----------------------------------------------------------------------- */

static void assert_hits(const float *interest, const struct hit *hits, size_t n)
{
    bool seen[ROWS] = {false};

    for (size_t i = 0; i < n; i++) {
        assert(hits[i].row < ROWS && !seen[hits[i].row]);
        seen[hits[i].row] = true;
        assert(hits[i].score == vec_dot(interest, data + hits[i].row * DIM, DIM));
        assert(i == 0 || hits[i - 1].score > hits[i].score ||
               (hits[i - 1].score == hits[i].score && hits[i - 1].row < hits[i].row));
    }
}

static void search(const struct index *ix, size_t k)
{
    static const float interests[2 * DIM] = {0.5f, -1, 0.25f, 0.125f, -3, 2, 1, 0};
    struct index_scratch *scratch = index_scratch_new();
    struct hit hits[2 * ROWS];
    size_t found[2];
    struct index_query q = {.interests = interests,
                            .n_interests = 2,
                            .k = k,
                            .effort = 1,
                            .hits = hits,
                            .found = found};

    index_search(ix, scratch, &q, 1);
    assert(q.shards_failed == 0 && !q.late);
    for (size_t i = 0; i < 2; i++) {
        assert(found[i] == k);
        assert_hits(interests + i * DIM, hits + i * k, k);
    }
    index_scratch_free(scratch);
}

/* ---- the target ------------------------------------------------------------------------ */

/* The factory string of what the file holds. */
static void name_factory(char *out, size_t size, const struct factory *f)
{
    static const char *const codes[] = {"Flat", "SQ8", "PQ", "PQ"};
    char head[40] = "", parts[40] = "";

    if (f->search == SEARCH_HNSW)
        snprintf(head, sizeof head, "HNSW%zu,", f->links);
    if (f->search == SEARCH_IVF)
        snprintf(head, sizeof head, "IVF%zu,", f->lists);
    if (f->parts > 0)
        snprintf(parts, sizeof parts, f->code == CODE_PQ ? "%zu" : "%zux4fs", f->parts);
    snprintf(out, size, "%s%s%s", head, codes[f->code], parts);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct str file = {(const char *)bytes, len};
    struct err err = ERR_INIT;
    struct factory f, named;
    struct index *ix;
    char factory[128];

    if (data[0] == 0)
        fill();
    if (layout_check(NAME, bytes, len, data, DIM, ROWS, &f, NULL, &err) == -1) {
        assert(err.code == ERR_FORMAT || err.code == ERR_LIMIT);
        assert_refusal(&err, NAME ": ");
        return 0;
    }
    name_factory(factory, sizeof factory, &f);
    if (!factory_parse(factory, &named))
        return 0; /* larger than a bundle may ask for */
    ix = open_as(factory, &file, &err);
    assert(ix != NULL);
    search(ix, FEW);
    search(ix, ROWS);
    index_free(ix);
    return 0;
}
