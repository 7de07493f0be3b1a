/* registry.h - what registry.c (what is served) and loader.c (what is on its way in or out) share.
 * Private to bundle/.
 *
 * Locks, in this order: `loading` (one bundle is opened at a time), `change` (state file and set
 * move together), `lock` (jobs and retired bundles; held for moments only). */
#ifndef BUNDLE_REGISTRY_H
#define BUNDLE_REGISTRY_H

#include "set.h"

struct job;

/* A bundle that left the set: the loader thread drops the last reference, so that no request thread
 * has to unmap gigabytes. */
struct retired {
    struct bundle *bundle;
    struct retired *next;
};

struct registry {
    char *state_dir, *state_path; /* state_path NULL = nothing is kept */
    uint64_t memory_max;
    bool by_size; /* bundles are not hashed */
    struct bundle_users users;
    struct cell set;
    pthread_mutex_t loading, change, lock;
    pthread_cond_t wake;
    struct job *jobs;        /* under `lock`, oldest first */
    struct retired *retired; /* under `lock` */
    bool stopping;           /* under `lock` */
    pthread_t loader;
};

/* The current set; the caller releases it. */
struct bundle_set *registry_set(struct registry *r);
/* ERR_CONFLICT without a state file. */
int registry_need_state(const struct registry *r, struct err *err) WARN_UNUSED;
/* With `loading` held: adds the bundle of a directory to `fresh`, one that is there or served
 * already, or newly opened. */
int registry_obtain(struct registry *r, const char *dir, bool posted, struct bundle_set *fresh,
                    bundle_progress progress, void *arg, struct err *err) WARN_UNUSED;
/* With `loading` held: serves the one bundle of `fresh` too, and remembers its directory. */
int registry_keep_loaded(struct registry *r, const struct bundle_set *fresh, struct err *err)
    WARN_UNUSED;

void loader_start(struct registry *r);
/* Ends the thread, after the job at hand. */
void loader_stop(struct registry *r);
/* Keeps what `next` no longer holds until nobody uses it. */
void loader_retire(struct registry *r, const struct bundle_set *old, const struct bundle_set *next);
/* With `lock` held: the bundles that are not ready, as JSON objects; `comma` goes before the first.
 */
void loader_list_locked(const struct registry *r, struct buf *json, const char *comma);

#endif
