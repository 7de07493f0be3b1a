/* bundle.h - what is served: model, items and index that belong together, one directory, one
 * manifest.
 *
 * A bundle is verified as a whole (every hash, shape, metric, row range and the pairing of index
 * and weights) before anything sees it, never changes afterwards, whatever becomes of its files,
 * and lives as long as someone holds a reference. The registry says which bundles are loaded, which
 * is the default, and what aliases name. */
#ifndef RECALLD_BUNDLE_H
#define RECALLD_BUNDLE_H

#include "recalld/base.h"
#include "recalld/index.h"
#include "recalld/items.h"
#include "recalld/model.h"

#define BUNDLE_NAME_MAX 128 /* of "name@version", with the NUL */

/* ---- one bundle ---- */

struct bundle;
/* Opens and verifies. `progress` (may be NULL) hears each step: "hash weights.safetensors", done,
 * total (0 = unknown). ERR text says which file and field and why. */
typedef void (*bundle_progress)(void *arg, const char *step, size_t done, size_t total);
struct bundle *bundle_open(const char *dir, bundle_progress progress, void *arg, struct err *err)
    WARN_UNUSED;
/* The same, but a file is taken for the one that is meant if it has its size: nothing is hashed.
 * For bundles whose files were verified where they came from. ERR_FORMAT when the manifest has no
 * sizes. */
struct bundle *bundle_open_by_size(const char *dir, bundle_progress progress, void *arg,
                                   struct err *err) WARN_UNUSED;
struct bundle *bundle_acquire(struct bundle *b);
void bundle_release(struct bundle *b); /* NULL allowed */

const char *bundle_name(const struct bundle *b); /* name@version */
const char *bundle_dir(const struct bundle *b);
const struct model *bundle_model(const struct bundle *b);
const struct items *bundle_items(const struct bundle *b);
const struct index *bundle_index(const struct bundle *b);
const struct vectors *bundle_vectors(const struct bundle *b);
/* Rows in fallback order; empty without popular.txt. */
const uint32_t *bundle_popular(const struct bundle *b, size_t *n);
size_t bundle_memory(const struct bundle *b); /* bytes */
/* Facts for people and probes. Strings live as long as the bundle. */
struct bundle_facts {
    const char *variant;                          /* of the model */
    const char *engine, *factory;                 /* factory NULL with the exact engine */
    const char *effort_name;                      /* "efSearch", "nprobe" or NULL */
    const char *weights_sha256, *manifest_sha256; /* hex */
    int effort;
    int interests, dim;
    double recall; /* share of sample users' exact answers, measured when it was built */
    size_t shards, items, rows;
};
void bundle_describe(const struct bundle *b, struct bundle_facts *out);
/* The same facts, with name, dir and memory, as members of a JSON object: no braces around them. */
void bundle_describe_json(const struct bundle *b, struct buf *out);

/* ---- registry ---- */

/* What is served right now; immutable, counted. Take one per batch, release it after. */
struct bundle_set;
void bundle_set_release(const struct bundle_set *s);
/* By name@version or alias; NULL name or "" = the default. NULL when there is none. Borrowed. */
struct bundle *bundle_set_find(const struct bundle_set *s, const char *name);
size_t bundle_set_count(const struct bundle_set *s);
struct bundle *bundle_set_at(const struct bundle_set *s, size_t i);

struct registry;
/* `state_dir` "" = nothing a client changes is kept (then those calls are ERR_CONFLICT).
 * `memory_max` 0 = no limit. */
struct registry *registry_new(const char *state_dir, int64_t memory_max);
/* From now on bundles are opened by size; before the first is loaded. */
void registry_verify_by_size(struct registry *r);
/* What else is published with a set of bundles, at one moment with it: something that names some of
 * them. NULL = nothing. Borrowed. */
struct ref *bundle_set_beside(const struct bundle_set *s);

/* Makes what stands beside `set`, counted for the caller, or refuses: -1 with *err set. Called with
 * the registry locked against changes, and must not call it. */
typedef int (*bundle_beside)(void *arg, const struct bundle_set *set, struct ref **beside,
                             struct err *err);
struct bundle_users {
    /* Everything is opened and `set` will be published, which cannot fail. */
    bundle_beside configure;
    /* A client unloads a bundle: `next` is without it. -1 with *err set refuses. */
    int (*unload)(void *arg, const struct bundle_set *next, struct err *err);
    void *arg;
};
void registry_set_users(struct registry *r, const struct bundle_users *users); /* before the rest */
/* Puts another thing beside the present set. */
int registry_set_beside(struct registry *r, bundle_beside make, void *arg, struct err *err)
    WARN_UNUSED;
/* Loads the configured directories and those of the state file, then publishes them at once; the
 * default is `def`, or the only (configured) bundle when "" (the state file's choice first);
 * several configured ones need a default. All or nothing: a path of the state file that is gone is
 * an error too. Also SIGHUP's way: bundles whose manifest did not change are kept, not loaded
 * again. Takes long. */
int registry_configure(struct registry *r, const char *const *dirs, size_t n, const char *def,
                       struct err *err) WARN_UNUSED;
/* Ends the loader thread and drops all references. */
void registry_free(struct registry *r);
const struct bundle_set *registry_acquire(struct registry *r);

/* Queues a directory for the loader thread; ERR_CONFLICT without state dir. The result
 * shows in registry_list. */
int registry_load_async(struct registry *r, const char *dir, struct err *err) WARN_UNUSED;
/* NOT_FOUND, CONFLICT (still named by default, alias or arm; no state dir), IO (cannot be
 * persisted: nothing changes then). Persisted, with a sync of the disk, before they return. A
 * default may be an alias; an alias is [A-Za-z0-9._-]{1,60} (USAGE) and names name@version. An
 * unloaded bundle that bundle.paths lists comes back at the next reload. */
int registry_set_default(struct registry *r, const char *name, struct err *err) WARN_UNUSED;
int registry_set_alias(struct registry *r, const char *alias, const char *name, struct err *err)
    WARN_UNUSED;
int registry_unload(struct registry *r, const char *name, struct err *err) WARN_UNUSED;
/* {"default":..., "aliases":{...}, "bundles":[{name, dir, state: ready|loading|failed, error?,
 * step?, done?, total?, items, ...}]} */
void registry_list(struct registry *r, struct buf *json);

/* ---- building ---- */

struct bundle_build {
    const char *out; /* directory to create; replaced as a whole when it exists and is a bundle */
    const char *name, *version;  /* [A-Za-z0-9._-]+ ; version NULL = today's date and time */
    const char *weights, *items; /* input files, copied in */
    const char *popular;         /* ids, one a line; NULL = none */
    const char *histories; /* `user<TAB>item item ...`, sample histories for measuring; NULL = rows
                              of the table themselves make them */
    const char *const *model_keys; /* key, value, ..., NULL: over the checkpoint's metadata */
    const char *engine;            /* "auto", "exact" or "faiss" */
    const char *factory;           /* NULL = chosen by size */
    int shards;                    /* 0 = one per million rows */
    int effort;          /* 0 = the least that reaches `recall_floor` + a margin, measured */
    double recall_floor; /* refuse below: the share of sample users' exact answers it finds */
    int threads;
};
void bundle_build_defaults(struct bundle_build *b);
/* Builds beside, verifies, then renames. `say` hears sentences for people (what was chosen and
 * why). */
int bundle_build(const struct bundle_build *b, bundle_progress progress,
                 void (*say)(void *arg, const char *sentence), void *arg, struct err *err)
    WARN_UNUSED;

/* ---- history files: a user a line, items oldest first ---- */

/* A line is `user<TAB>item item ...`, or all fields separated by tabs (so that ids may hold blanks;
 * two items at least), or all by blanks. */
struct history_line {
    const char *user;
    size_t user_len;
    const char *p, *end; /* private: what is left */
    const char *separators;
};
/* False for a line that is blank or has no user. The line is borrowed. */
bool history_line_start(struct history_line *h, const char *line, size_t len) WARN_UNUSED;
/* The next item, or false at the end. */
bool history_line_next(struct history_line *h, const char **item, size_t *len) WARN_UNUSED;

#endif
