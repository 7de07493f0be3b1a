/* engine.h - what every engine offers, and the pieces engines share. Internal to index/. */
#ifndef RECALLD_INDEX_ENGINE_H
#define RECALLD_INDEX_ENGINE_H

#include "filter.h"
#include "top.h"

struct engine {
    const char *name;
    /* Fills ix->state and what of ix it knows better; the shards' ranges are checked already. */
    int (*open)(struct index *ix, const struct index_spec *spec, struct err *err);
    void (*close)(void *state);
    /* Answers the whole batch. Every query's outputs were set to "nothing found" before. */
    void (*search)(const struct index *ix, struct index_scratch *s, struct index_query *q,
                   size_t n);
};

extern const struct engine engine_exact, engine_faiss;

struct shard_range {
    uint32_t first_row, rows;
};

struct index {
    const struct engine *engine;
    void *state;
    struct vectors v;
    struct shard_range *shards;
    size_t n_shards;
    struct shard_range all; /* the shards join without a gap */
    bool effort_applies, shares_search;
    size_t memory;
};

/* Room of one thread. Each purpose has its own block, which grows and never shrinks. */
enum room {
    ROOM_AIMS,
    ROOM_TOPS,
    ROOM_KEYS,
    ROOM_GROUPS,
    ROOM_WORDS,
    ROOM_INTERESTS,
    ROOM_LABELS,
    ROOM_SCORES,
    ROOM_WAYS,
    ROOM_PROBES,
    ROOM_SEEN,
    ROOM_LISTS,
    ROOM_CAME,
    ROOM_FRESH,
    ROOM_COUNT
};
struct index_scratch {
    void *block[ROOM_COUNT];
    size_t bytes[ROOM_COUNT];
};
/* At least n * size bytes, 64-byte aligned; NULL when memory is out. Earlier content is lost. */
void *scratch_room(struct index_scratch *s, enum room room, size_t n, size_t size);

static inline void prefetch_row(const struct vectors *v, uint32_t row)
{
    const char *p = (const char *)(v->data + (size_t)row * v->dim);

    for (size_t i = 0; i < v->dim * sizeof(float); i += 64)
        __builtin_prefetch(p + i);
}

/* True, and q->late set, once the query's deadline has passed. */
bool query_late(struct index_query *q);
/* An engine could not search a shard: counts it, and logs at most a line a second. */
void query_shard_failed(struct index_query *q, size_t shard, const char *why);

/* Offers rows first .. first + n - 1 or, when `list` is not NULL, list[0] .. list[n - 1] to the
 * tops of all interests of q, with final scores. */
void gather(const struct vectors *v, struct index_query *q, struct top *tops, uint32_t first,
            const uint32_t *list, size_t n);
/* Writes the tops of q to its hits. */
void query_finish(struct index_query *q, struct top *tops);

#endif
