/* manifest.h - manifest.json as C: what a bundle says about itself, read, checked and written.
 *
 * Everything that can be checked without opening another file has been checked once manifest_parse
 * returns. Private to bundle/ (tests and fuzzers may include it too). */
#ifndef BUNDLE_MANIFEST_H
#define BUNDLE_MANIFEST_H

#include "recalld/bundle.h"

#define MANIFEST_FILE "manifest.json"
#define MANIFEST_MAX (1024 * 1024) /* bytes; 256 shards need about 50 kB */
#define MANIFEST_NAME_MAX 60       /* of a name, a version or an alias, without the NUL */
#define MANIFEST_PATH_MAX 255      /* of a path, without the NUL */

struct manifest_file {
    const char *file; /* relative to the bundle's directory, inside it; NULL = there is none */
    char sha256[SHA256_HEX];
    int64_t bytes; /* its size; 0: not said, by a manifest of before sizes were */
};

struct manifest_shard {
    struct manifest_file file; /* none with the exact engine */
    int64_t first_row, rows;
};

/* Strings live as long as the manifest that was parsed; a builder lends its own. */
struct manifest {
    const char *name, *version;
    char full_name[BUNDLE_NAME_MAX]; /* name@version */
    char sha256[SHA256_HEX];         /* of the manifest's own bytes */
    struct model_options model;
    struct manifest_file weights, items;
    struct manifest_file popular;     /* optional */
    struct manifest_file init;        /* with init = file:PATH only */
    int64_t items_count, padding_row; /* padding_row -1 = none */
    const char *attributes[ITEMS_ATTRIBUTES_MAX];
    size_t n_attributes;
    const char *engine, *factory; /* factory NULL with the exact engine */
    int64_t effort;               /* efSearch or nprobe; 0 where the engine has none */
    double recall;
    struct manifest_shard *shards; /* ascending, each begins where the one before ends */
    size_t n_shards;
    void *json; /* owner of the strings */
};

/* `file` is the manifest's path, for messages. NULL with *err set (FORMAT): file, JSON path,
 * reason. */
struct manifest *manifest_parse(const char *file, const void *bytes, size_t len, struct err *err)
    WARN_UNUSED;
/* dir/manifest.json */
struct manifest *manifest_read(const char *dir, struct err *err) WARN_UNUSED;
void manifest_free(struct manifest *m);
/* The text of a manifest.json that says this. */
void manifest_write(const struct manifest *m, struct buf *out);

/* A name, version or alias: 1 to 60 of A-Z a-z 0-9 . _ - */
bool manifest_name_valid(const char *s);
/* One past the last row of the shards. */
int64_t manifest_end_row(const struct manifest *m);

#endif
