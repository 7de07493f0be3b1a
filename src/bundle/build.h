/* build.h - what building a bundle shares between build.c (files and order of steps) and tune.c
 * (which engine, how much effort, is it good enough). Private to bundle/. */
#ifndef BUNDLE_BUILD_H
#define BUNDLE_BUILD_H

#include "manifest.h"
#include "measure.h"

/* Below so many rows scoring all of them costs little more than walking a graph that finds nearly
 * as much, and it misses nothing. Measured with real interests, 64 dimensions, k = 200, recall
 * 0.98: the two meet near 100,000 rows; at 300,000 the graph costs 0.6 of exact search. */
#define BUNDLE_EXACT_ROWS 200000
#define BUNDLE_SHARD_ROWS 1000000 /* about so many rows a shard */

struct builder {
    const struct bundle_build *ask;
    bundle_progress progress;
    void (*say)(void *arg, const char *sentence);
    void *arg;
    struct err *err;

    char *out, *dir; /* built in `dir`, which becomes `out` */
    struct mapped weights, items_text;
    struct ckpt *ckpt;
    struct model *model;
    struct items *items;
    struct vectors vectors;
    uint32_t first_row, rows; /* the items' */
    struct manifest manifest;
    char *weights_name, version[32];
    char shard_names[INDEX_SHARDS_MAX][24];
};

void build_say(const struct builder *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void build_progress(const struct builder *b, const char *step, size_t done, size_t total);
/* 10328 -> "10,328" */
const char *build_number(char out[32], uint64_t n);

/* Sets engine, factory and the shards' ranges of the manifest, and says why. */
int tune_choose(struct builder *b) WARN_UNUSED;
/* With the shards built: sets effort and recall of the manifest; refuses below the floor. */
int tune_measure(struct builder *b) WARN_UNUSED;

#endif
