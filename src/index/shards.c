/* shards.c - an index: opening and checking its shards, handing searches to its engine, and the
 * exact search over a list of rows that engines share. */
#include "engine.h"

#include "recalld/vec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening -------------------------------------------------------------------- */

static int check_ranges(struct index *ix, const struct index_spec *spec, struct err *err)
{
    uint64_t next;

    if (spec->n_shards == 0 || spec->n_shards > INDEX_SHARDS_MAX)
        return err_set(err, ERR_LIMIT, "%zu shards, must be 1 to %d", spec->n_shards,
                       INDEX_SHARDS_MAX);
    next = spec->shards[0].first_row;
    for (size_t i = 0; i < spec->n_shards; i++) {
        const struct index_shard *s = &spec->shards[i];

        if (s->first_row != next)
            return err_set(err, ERR_FORMAT, "shard %zu begins at row %u, must be %llu", i,
                           s->first_row, (unsigned long long)next);
        next += s->rows;
        if (next > ix->v.rows || next >= UINT32_MAX)
            return err_set(err, ERR_FORMAT, "shard %zu ends at row %llu, there are %zu", i,
                           (unsigned long long)next, ix->v.rows);
        ix->shards[i] = (struct shard_range){s->first_row, s->rows};
    }
    ix->all.first_row = spec->shards[0].first_row;
    ix->all.rows = (uint32_t)(next - ix->all.first_row);
    return 0;
}

static const struct engine *find_engine(const char *name)
{
    static const struct engine *const engines[] = {&engine_exact, &engine_faiss};

    for (size_t i = 0; i < ARRAY_LEN(engines); i++)
        if (strcmp(engines[i]->name, name) == 0)
            return engines[i];
    return NULL;
}

struct index *index_open(const struct index_spec *spec, const struct vectors *v, struct err *err)
{
    struct index *ix = xcalloc(1, sizeof *ix);
    const struct engine *engine = find_engine(spec->engine);

    ix->v = *v;
    ix->n_shards = spec->n_shards;
    ix->shards = xcalloc(spec->n_shards, sizeof *ix->shards);
    if (engine == NULL)
        err_set(err, ERR_USAGE, "unknown index engine %s (exact, faiss)", spec->engine);
    else if (check_ranges(ix, spec, err) == 0) {
        ix->engine = engine;
        if (engine->open(ix, spec, err) == 0)
            return ix;
    }
    index_free(ix);
    return NULL;
}

void index_free(struct index *ix)
{
    if (ix == NULL)
        return;
    if (ix->engine != NULL)
        ix->engine->close(ix->state);
    free(ix->shards);
    free(ix);
}

bool index_effort_applies(const struct index *ix)
{
    return ix->effort_applies;
}

bool index_shares_search(const struct index *ix)
{
    return ix->shares_search;
}

size_t index_memory(const struct index *ix)
{
    return ix->memory;
}

/* ---- scratch -------------------------------------------------------------------- */

struct index_scratch *index_scratch_new(void)
{
    return xcalloc(1, sizeof(struct index_scratch));
}

void index_scratch_free(struct index_scratch *s)
{
    if (s == NULL)
        return;
    for (size_t i = 0; i < ROOM_COUNT; i++)
        free(s->block[i]);
    free(s);
}

void *scratch_room(struct index_scratch *s, enum room room, size_t n, size_t size)
{
    size_t bytes;

    if (!mem_product(n, size, &bytes))
        return NULL;
    if (bytes > s->bytes[room] || s->block[room] == NULL) {
        free(s->block[room]);
        s->block[room] = mem_try_aligned(bytes, 1);
        s->bytes[room] = s->block[room] == NULL ? 0 : bytes;
    }
    return s->block[room];
}

/* ---- searching ------------------------------------------------------------------ */

void index_search(const struct index *ix, struct index_scratch *s, struct index_query *q, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        assert(q[i].filter == NULL || q[i].filter->rows >= ix->v.rows);
        q[i].joined = false;
        q[i].late = false;
        q[i].shards_failed = 0;
        for (int j = 0; j < q[i].n_interests; j++)
            q[i].found[j] = 0;
    }
    ix->engine->search(ix, s, q, n);
}

bool query_late(struct index_query *q)
{
    if (!q->late && q->deadline_ns != 0 && clock_ns() >= q->deadline_ns)
        q->late = true;
    return q->late;
}

void query_shard_failed(struct index_query *q, size_t shard, const char *why)
{
    static struct log_limit limit;
    unsigned held;

    q->shards_failed++;
    if (log_allow(&limit, &held))
        LOG_WARN("shard_failed", "shard=%zu error=\"%s\" held_back=%u", shard, why, held);
}

void query_finish(struct index_query *q, struct top *tops)
{
    for (int i = 0; i < q->n_interests; i++)
        q->found[i] = top_finish(&tops[i], q->hits + (size_t)i * q->k);
}

/* Rows that are scored together, between two looks at the clock. */
#define GATHER_BLOCK 64

void gather(const struct vectors *v, struct index_query *q, struct top *tops, uint32_t first,
            const uint32_t *list, size_t n)
{
    uint32_t number[GATHER_BLOCK];
    const float *rows[GATHER_BLOCK];
    float scores[INDEX_INTERESTS_MAX * GATHER_BLOCK];

    for (size_t from = 0; from < n && !query_late(q); from += GATHER_BLOCK) {
        size_t m = n - from < GATHER_BLOCK ? n - from : GATHER_BLOCK;

        for (size_t i = 0; i < m; i++) {
            number[i] = list != NULL ? list[from + i] : first + (uint32_t)(from + i);
            rows[i] = v->data + (size_t)number[i] * v->dim;
            if (list != NULL)
                prefetch_row(v, number[i]);
        }
        vec_dot_table(scores, GATHER_BLOCK, q->interests, (size_t)q->n_interests, rows, m, v->dim);
        for (int j = 0; j < q->n_interests; j++)
            for (size_t i = 0; i < m; i++)
                top_offer(&tops[j], scores[(size_t)j * GATHER_BLOCK + i], number[i]);
    }
}
