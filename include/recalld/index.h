/* index.h - the best rows for K interests: shards over contiguous row ranges behind one engine
 * interface, filters, and a brute-force twin.
 *
 * Two engines so far: `exact` (every row is scored for a whole batch, first in small integers, then
 * what might be among the best from the item vectors; it has no files, and takes little more than a
 * quarter of the memory of the vectors) and `faiss` (one index file per shard; a plain HNSW graph
 * is walked by code of our own, the rest by Faiss). Both only choose candidates; every score that
 * leaves is vec_dot of the interest and the item vector, so answers do not depend on engine
 * rounding, batch or load. Equal scores come by row; a score of -0 leaves as 0. An interest that
 * holds NaN or infinity finds nothing. An index never changes once open; each thread brings its
 * scratch. */
#ifndef RECALLD_INDEX_H
#define RECALLD_INDEX_H

#include "recalld/base.h"

#define INDEX_INTERESTS_MAX 64
#define INDEX_SHARDS_MAX 256

struct hit {
    uint32_t row;
    float score;
};

/* One integer that is larger the better a hit is: by score, then the smaller row; never 0. Adding
 * zero turns -0 into 0. */
static inline uint64_t hit_order(float score, uint32_t row)
{
    uint32_t bits;

    score = score + 0.0f;
    memcpy(&bits, &score, sizeof bits);
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)bits << 32 | (uint32_t)~row;
}

/* The item vectors as they are scored (normalised already where the model says so). Borrowed. */
struct vectors {
    const float *data; /* (rows, dim) row-major, finite */
    size_t rows, dim;
};

/* ---- filters: a set of rows ---- */

struct row_filter; /* a bitmap and its sorted row list */
/* An empty set over `rows` rows; NULL with *err set (NOMEM). */
struct row_filter *filter_new(size_t rows, struct err *err) WARN_UNUSED;
void filter_free(struct row_filter *f);
/* Starts over with the rows of these ascending lists, joined (any of them). */
void filter_any(struct row_filter *f, const uint32_t *const *lists, const size_t *lens, size_t n);
/* Keeps only rows that are also in one of these lists. */
void filter_also_any(struct row_filter *f, const uint32_t *const *lists, const size_t *lens,
                     size_t n);
size_t filter_count(const struct row_filter *f);
bool filter_has(const struct row_filter *f, uint32_t row);

/* ---- opening ---- */

struct index_shard {
    const char *path; /* NULL for the exact engine */
    uint32_t first_row;
    uint32_t rows;
};

struct index_spec {
    const char *engine;  /* "exact" or "faiss" */
    const char *factory; /* what the faiss shards were built as, e.g. "HNSW32"; NULL for exact */
    int effort;          /* efSearch or nprobe at effort 1.0; 0 where the engine has none */
    const struct index_shard *shards;
    size_t n_shards;
    /* How the file of shard `i` comes into memory, verified perhaps; NULL = file_load of its path.
     * The engine unmaps it. */
    int (*load)(void *arg, size_t i, struct mapped *m, struct err *err);
    void *arg;
};

struct index;
/* Opens and checks every shard against `v`: ranges (each begins where the one before ends), type,
 * dimension, metric (inner product), rows, every link and size inside, and, where the index holds
 * the vectors as they are, that they are these. The vectors and the spec's strings are borrowed
 * (vectors for the index's life, the spec for the call). Errors: USAGE, FORMAT, IO, NOMEM, LIMIT.
 */
struct index *index_open(const struct index_spec *spec, const struct vectors *v, struct err *err)
    WARN_UNUSED;
void index_free(struct index *ix);
bool index_effort_applies(const struct index *ix); /* false: exact and fast-scan */
/* True: interests taken together share one search, and half of them take hardly less time. */
bool index_shares_search(const struct index *ix);
size_t index_memory(const struct index *ix);

/* ---- searching ---- */

/* One request's interests. The caller owns everything; `hits` and `found` are written. */
struct index_query {
    const float *interests; /* (n_interests, dim) */
    int n_interests;
    size_t k;      /* hits wanted per interest */
    bool together; /* only the k best rows over all interests are wanted: lists may end early, but
                      each of those rows is in one of them with its best score */
    uint8_t *from; /* together: NULL, or room (k) for an answer that is joined */
    double effort; /* multiplier on the spec's effort, 1.0 = as tuned */
    const struct row_filter *filter; /* NULL = all rows */
    uint64_t deadline_ns;            /* clock_ns; 0 = none. Checked between shards and blocks */
    struct hit *hits;                /* out (n_interests, k), best first */
    size_t *found;                   /* out (n_interests): how many of k are filled */
    bool joined;                     /* out: hits[0 .. found[0]) are all, each row once, best first;
                                        from[i] is the interest that hits[i] has its score from, the
                                        first of equals. Asked for by `together` and `from` */
    bool late;                       /* out: the deadline passed; hits are what was found by then */
    int shards_failed;               /* out: shards that gave an error (logged, rate-limited) */
};

/* Scratch memory of one thread; grows as needed, then stays. */
struct index_scratch;
struct index_scratch *index_scratch_new(void);
void index_scratch_free(struct index_scratch *s);

/* Answers a batch of queries. Sets OpenMP to one thread for the calling thread at its first call.
 */
void index_search(const struct index *ix, struct index_scratch *s, struct index_query *q, size_t n);
/* The twin: every row, one vec_dot each, nothing clever. Same contract (effort and deadline
 * ignored). */
void index_search_brute(const struct vectors *v, uint32_t first_row, uint32_t rows,
                        struct index_query *q, size_t n);

/* ---- building ---- */

/* Which factories a bundle may use, as a sentence for messages. */
extern const char index_factories[];
/* Builds one faiss shard over rows [first_row, first_row + rows) and writes it beside `path`,
 * syncs, renames. `progress` (may be NULL) hears rows done. ERR_USAGE for a factory that is not
 * supported or does not suit the rows. Uses `threads` cores; with one thread the same file every
 * time. */
int index_build_shard(const char *path, const char *factory, const struct vectors *v,
                      uint32_t first_row, uint32_t rows, int threads,
                      void (*progress)(void *arg, size_t done, size_t total), void *arg,
                      struct err *err) WARN_UNUSED;
/* "HNSW" -> "efSearch", "IVF..." -> "nprobe", NULL where effort is fixed. */
const char *index_effort_name(const char *factory);

#endif
