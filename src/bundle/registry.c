/* registry.c - which bundles are loaded, which is the default, what aliases name.
 *
 * Readers take the current set, an immutable snapshot. A change copies the set, writes the state
 * file and swaps. Opening a bundle takes long and happens outside all that: in the loader thread,
 * in the background, or in the caller of registry_configure. */
#include "registry.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct bundle_set *registry_set(struct registry *r)
{
    return (struct bundle_set *)cell_acquire(&r->set);
}

const struct bundle_set *registry_acquire(struct registry *r)
{
    return registry_set(r);
}

int registry_need_state(const struct registry *r, struct err *err)
{
    return r->state_path != NULL ? 0
                                 : err_set(err, ERR_CONFLICT,
                                           "state.dir is not set, so the change could not be kept");
}

/* ---- memory -------------------------------------------------------------------- */

/* What is loaded, whether served, about to be served (`fresh`) or retired and still in use. */
static uint64_t taken(struct registry *r, const struct bundle_set *set,
                      const struct bundle_set *fresh)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < bundle_set_count(set); i++)
        sum += bundle_memory(bundle_set_at(set, i));
    for (size_t i = 0; i < bundle_set_count(fresh); i++)
        sum += set_has(set, bundle_set_at(fresh, i)) ? 0 : bundle_memory(bundle_set_at(fresh, i));
    pthread_mutex_lock(&r->lock);
    for (const struct retired *dead = r->retired; dead != NULL; dead = dead->next)
        sum += bundle_memory(dead->bundle);
    pthread_mutex_unlock(&r->lock);
    return sum;
}

static uint64_t file_size(const char *dir, const struct manifest_file *f)
{
    char *path = f->file == NULL ? NULL : path_join(dir, f->file);
    struct stat st;
    uint64_t size = path != NULL && stat(path, &st) == 0 ? (uint64_t)st.st_size : 0;

    free(path);
    return size;
}

/* A lower bound known before anything is opened: weights and shards come into memory as they are.
 */
static uint64_t least_memory(const char *dir, const struct manifest *m)
{
    uint64_t sum = file_size(dir, &m->weights);

    for (size_t i = 0; i < m->n_shards; i++)
        sum += file_size(dir, &m->shards[i].file);
    return sum;
}

static int check_memory(const struct registry *r, const char *name, uint64_t need, uint64_t used,
                        struct err *err)
{
    if (r->memory_max == 0 || need + used <= r->memory_max)
        return 0;
    return err_set(err, ERR_LIMIT,
                   "%s needs %llu bytes and %llu are taken by other bundles: more than "
                   "bundle.memory_max = %llu",
                   name, (unsigned long long)need, (unsigned long long)used,
                   (unsigned long long)r->memory_max);
}

/* ---- opening ------------------------------------------------------------------- */

/* 1 and *out when `set` holds this very bundle, 0 when it has none of that name; a name stands for
 * one content, so other bytes under it are refused. */
static int find_same(const struct bundle_set *set, const char *dir, const struct manifest *m,
                     struct bundle **out, struct err *err)
{
    struct bundle *b = set == NULL ? NULL : set_bundle(set, m->full_name);
    struct bundle_facts f;

    if (b == NULL)
        return 0;
    bundle_describe(b, &f);
    if (strcmp(f.manifest_sha256, m->sha256) != 0)
        return err_set(err, ERR_CONFLICT,
                       "%s: %s is loaded already with another manifest, from %s: give the new one "
                       "another version",
                       dir, m->full_name, bundle_dir(b));
    *out = b;
    return 1;
}

static struct bundle *open_new(struct registry *r, const char *dir, const struct manifest *m,
                               const struct bundle_set *set, const struct bundle_set *fresh,
                               bundle_progress progress, void *arg, struct err *err)
{
    uint64_t used = taken(r, set, fresh);
    struct bundle_facts f;
    struct bundle *b;

    if (check_memory(r, m->full_name, least_memory(dir, m), used, err) == -1)
        return NULL;
    b = (r->by_size ? bundle_open_by_size : bundle_open)(dir, progress, arg, err);
    if (b == NULL)
        return NULL;
    bundle_describe(b, &f);
    if (strcmp(f.manifest_sha256, m->sha256) != 0)
        err_set(err, ERR_CONFLICT, "%s: was replaced while it was opened", dir);
    else if (check_memory(r, m->full_name, bundle_memory(b), used, err) == 0)
        return b;
    bundle_release(b);
    return NULL;
}

/* Adds the bundle of a directory to `fresh`: one that is there or served already, or newly opened.
 */
int registry_obtain(struct registry *r, const char *dir, bool posted, struct bundle_set *fresh,
                    bundle_progress progress, void *arg, struct err *err)
{
    struct bundle_set *set = registry_set(r);
    struct bundle *b = NULL;
    struct manifest *m = NULL;
    int found, result = -1;

    if (!utf8_valid(dir, strlen(dir))) {
        err_set(err, ERR_USAGE, "a bundle's path must be UTF-8");
        goto out;
    }
    m = manifest_read(dir, err);
    if (m == NULL)
        goto out;
    found = find_same(fresh, dir, m, &b, err);
    if (found == 0)
        found = find_same(set, dir, m, &b, err);
    if (found == 1) {
        set_add(fresh, b, posted);
        result = 0;
    } else if (found == 0) {
        b = open_new(r, dir, m, set, fresh, progress, arg, err);
        if (b == NULL)
            goto out;
        set_add(fresh, b, posted);
        bundle_release(b);
        result = 0;
    }
out:
    manifest_free(m);
    bundle_set_release(set);
    return result;
}

/* ---- publishing ---------------------------------------------------------------- */

/* Under `change`. Owns `next`. */
static void publish(struct registry *r, struct bundle_set *next)
{
    struct bundle_set *old = registry_set(r);

    loader_retire(r, old, next);
    cell_swap(&r->set, &next->ref);
    bundle_set_release(old);
}

/* The folder of the state file may be new. What fails here is the disk's fault, not the client's.
 */
static int keep(const struct registry *r, const struct bundle_set *next, struct err *err)
{
    struct err why = ERR_INIT;

    if (file_mkdirs(r->state_dir, &why) == 0 && state_write(r->state_path, next, &why) == 0)
        return 0;
    return err_set(err, ERR_IO, "the change cannot be kept: %s", why.text);
}

/* The change a client asked for: kept first, then seen. Owns `next`; `result` is what making it
 * said. */
static int keep_and_publish(struct registry *r, struct bundle_set *next, int result,
                            struct err *err)
{
    if (result == 0)
        result = keep(r, next, err);
    if (result == 0)
        publish(r, next);
    else
        bundle_set_release(next);
    return result;
}

static struct bundle_set *copy_current(struct registry *r)
{
    struct bundle_set *old = registry_set(r), *next = set_copy(old);

    bundle_set_release(old);
    return next;
}

int registry_set_default(struct registry *r, const char *name, struct err *err)
{
    struct bundle_set *next;
    int result;

    if (registry_need_state(r, err) == -1)
        return -1;
    if (name[0] == '\0')
        return err_set(err, ERR_USAGE, "the default must be name@version or an alias");
    pthread_mutex_lock(&r->change);
    next = copy_current(r);
    result = keep_and_publish(r, next, set_default(next, name, true, err), err);
    pthread_mutex_unlock(&r->change);
    return result;
}

int registry_set_alias(struct registry *r, const char *alias, const char *name, struct err *err)
{
    struct bundle_set *next;
    int result;

    if (registry_need_state(r, err) == -1)
        return -1;
    pthread_mutex_lock(&r->change);
    next = copy_current(r);
    result = keep_and_publish(r, next, set_alias(next, alias, name, err), err);
    pthread_mutex_unlock(&r->change);
    return result;
}

static int remove_unused(struct bundle_set *next, const char *name, struct err *err)
{
    struct bundle *b = set_bundle(next, name);

    if (b == NULL)
        return err_set(err, ERR_NOT_FOUND, "no bundle \"%s\" is loaded", name);
    if (set_check_unused(next, b, err) == -1)
        return -1;
    set_remove(next, b);
    return 0;
}

static int ask_users(const struct registry *r, const struct bundle_set *next, struct err *err)
{
    return r->users.unload == NULL ? 0 : r->users.unload(r->users.arg, next, err);
}

int registry_unload(struct registry *r, const char *name, struct err *err)
{
    struct bundle_set *next;
    int result;

    if (registry_need_state(r, err) == -1)
        return -1;
    pthread_mutex_lock(&r->change);
    next = copy_current(r);
    result = remove_unused(next, name, err);
    if (result == 0)
        result = ask_users(r, next, err);
    result = keep_and_publish(r, next, result, err);
    pthread_mutex_unlock(&r->change);
    return result;
}

int registry_keep_loaded(struct registry *r, const struct bundle_set *fresh, struct err *err)
{
    struct bundle *b = fresh->entries[0].bundle;
    struct bundle_set *next;
    int result = 0;

    pthread_mutex_lock(&r->change);
    next = copy_current(r);
    if (set_has(next, b)) { /* it was there all along */
        bundle_set_release(next);
    } else {
        set_add(next, b, true);
        result = keep_and_publish(r, next, 0, err);
    }
    pthread_mutex_unlock(&r->change);
    return result;
}

/* ---- configuring --------------------------------------------------------------- */

/* Puts the default that holds without a client's choice: `def`, else the only configured bundle,
 * else the only one there is. */
static int configured_default(struct bundle_set *s, size_t n_configured, const char *def,
                              struct err *err)
{
    if (def[0] == '\0' && s->n_entries > 0 && (n_configured == 1 || s->n_entries == 1))
        def = bundle_name(s->entries[0].bundle); /* configured ones come first */
    else if (def[0] == '\0' && n_configured > 1)
        return err_set(err, ERR_USAGE, "bundle.default must say which of the %zu bundles answers",
                       s->n_entries);
    if (set_default(s, def, false, err) == -1)
        return err_prefix(err, "bundle.default: ");
    return 0;
}

/* Aliases and default of the state file, over what is configured. */
static int apply_state(const struct registry *r, struct bundle_set *s, const struct state *st,
                       size_t n_configured, const char *def, struct err *err)
{
    for (size_t i = 0; i < st->n_aliases; i++) {
        if (set_alias(s, st->aliases[2 * i], st->aliases[2 * i + 1], err) == -1)
            return err_prefix(err, "%s: aliases.%s: ", r->state_path, st->aliases[2 * i]);
    }
    if (st->def == NULL)
        return configured_default(s, n_configured, def, err);
    if (set_default(s, st->def, true, err) == -1)
        return err_prefix(err, "%s: default: ", r->state_path);
    return 0;
}

/* A client may have unloaded a bundle while they were opened; nothing can have been added, since
 * the loader waits. */
static bool same_paths(const struct state *a, const struct state *b)
{
    bool same = a->n_paths == b->n_paths;

    for (size_t i = 0; same && i < a->n_paths; i++)
        same = strcmp(a->paths[i], b->paths[i]) == 0;
    return same;
}

/* `next` holds the opened bundles; `opened` is the state file as it was then. Owns `next`. */
static int publish_configured(struct registry *r, struct bundle_set *next, size_t n_configured,
                              const struct state *opened, const char *def, struct err *err)
{
    struct ref *beside = NULL;
    struct state st;
    int result;

    pthread_mutex_lock(&r->change);
    result = state_read(&st, r->state_path, err);
    if (result == 0 && !same_paths(opened, &st))
        result = err_set(err, ERR_CONFLICT, "%s: changed while the bundles were opened: try again",
                         r->state_path);
    if (result == 0)
        result = apply_state(r, next, &st, n_configured, def, err);
    if (result == 0 && r->users.configure != NULL)
        result = r->users.configure(r->users.arg, next, &beside, err);
    set_beside(next, beside);
    if (result == 0)
        publish(r, next);
    else
        bundle_set_release(next);
    pthread_mutex_unlock(&r->change);
    state_clear(&st);
    return result;
}

int registry_configure(struct registry *r, const char *const *dirs, size_t n, const char *def,
                       struct err *err)
{
    struct bundle_set *fresh = set_new();
    struct state st = {.json = NULL};
    size_t n_configured = 0;
    int result;

    pthread_mutex_lock(&r->loading);
    result = state_read(&st, r->state_path, err);
    for (size_t i = 0; result == 0 && i < n; i++)
        result = registry_obtain(r, dirs[i], false, fresh, NULL, NULL, err);
    n_configured = fresh->n_entries;
    for (size_t i = 0; result == 0 && i < st.n_paths; i++) {
        result = registry_obtain(r, st.paths[i], true, fresh, NULL, NULL, err);
        if (result == -1)
            err_prefix(err, "%s: paths[%zu]: ", r->state_path, i);
    }
    if (result == 0)
        result = publish_configured(r, fresh, n_configured, &st, def, err);
    else
        bundle_set_release(fresh);
    pthread_mutex_unlock(&r->loading);
    state_clear(&st);
    return result;
}

/* ---- users --------------------------------------------------------------------- */

void registry_set_users(struct registry *r, const struct bundle_users *users)
{
    r->users = *users;
}

int registry_set_beside(struct registry *r, bundle_beside make, void *arg, struct err *err)
{
    struct bundle_set *next;
    struct ref *beside = NULL;
    int result;

    pthread_mutex_lock(&r->change);
    next = copy_current(r);
    result = make(arg, next, &beside, err);
    if (result == 0) {
        set_beside(next, beside);
        publish(r, next);
    } else {
        bundle_set_release(next);
    }
    pthread_mutex_unlock(&r->change);
    return result;
}

/* ---- listing ------------------------------------------------------------------- */

static void put_names(struct buf *json, const struct bundle_set *s)
{
    buf_puts(json, "{\"default\":");
    if (s->def[0] == '\0')
        buf_puts(json, "null");
    else
        buf_json(json, s->def, strlen(s->def));
    buf_puts(json, ",\"aliases\":{");
    for (size_t i = 0; i < s->n_aliases; i++)
        buf_printf(json, "%s\"%s\":\"%s\"", i > 0 ? "," : "", s->aliases[i].name,
                   bundle_name(s->aliases[i].bundle));
    buf_puts(json, "}");
}

/* Set and jobs are read under one lock: a bundle that becomes ready meanwhile is in one or the
 * other. */
void registry_list(struct registry *r, struct buf *json)
{
    struct bundle_set *s;
    const char *comma = "";

    pthread_mutex_lock(&r->lock);
    s = registry_set(r);
    put_names(json, s);
    buf_puts(json, ",\"bundles\":[");
    for (size_t i = 0; i < s->n_entries; i++) {
        buf_printf(json, "%s{\"state\":\"ready\",", comma);
        bundle_describe_json(s->entries[i].bundle, json);
        buf_puts(json, "}");
        comma = ",";
    }
    loader_list_locked(r, json, comma);
    pthread_mutex_unlock(&r->lock);
    bundle_set_release(s);
    buf_puts(json, "]}");
}

/* ---- life ---------------------------------------------------------------------- */

struct registry *registry_new(const char *state_dir, int64_t memory_max)
{
    struct registry *r = xcalloc(1, sizeof *r);

    r->state_dir = xstrdup(state_dir);
    r->state_path = state_dir[0] == '\0' ? NULL : path_join(state_dir, "bundles.json");
    r->memory_max = (uint64_t)memory_max;
    cell_init(&r->set, &set_new()->ref);
    pthread_mutex_init(&r->loading, NULL);
    pthread_mutex_init(&r->change, NULL);
    loader_start(r);
    return r;
}

void registry_verify_by_size(struct registry *r)
{
    r->by_size = true;
}

void registry_free(struct registry *r)
{
    if (r == NULL)
        return;
    loader_stop(r);
    cell_clear(&r->set);
    pthread_mutex_destroy(&r->change);
    pthread_mutex_destroy(&r->loading);
    free(r->state_path);
    free(r->state_dir);
    free(r);
}
