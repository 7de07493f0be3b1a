/* parts.c - what starting, reloading and checking share: bundles with the experiments beside them,
 * the behaviour stage, the password. */
#include "parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "notify.h"

#define PASSWORD_FILE_MAX 4096

/* ---- experiments beside the bundles ---------------------------------------------------------- */

static bool bundle_known(void *set, const char *name)
{
    return bundle_set_find(set, name) != NULL;
}

static int load_experiments(void *arg, const struct bundle_set *set, struct ref **beside,
                            struct err *err)
{
    const struct companion *c = arg;
    struct experiment_checks checks = {bundle_known, (void *)(uintptr_t)set,
                                       c->config->recall_n_max};

    if (experiment_store_load(c->experiments, c->config->experiments_file, &checks, err) == -1)
        return -1;
    *beside = (struct ref *)(uintptr_t)experiment_store_acquire(c->experiments);
    return 0;
}

/* A bundle that an arm names stays. */
static int keep_what_arms_name(void *arg, const struct bundle_set *next, struct err *err)
{
    const struct companion *c = arg;
    const struct experiments *e = experiment_store_acquire(c->experiments);
    struct experiment_checks checks = {bundle_known, (void *)(uintptr_t)next, 0};
    struct err why = ERR_INIT;
    int result = experiments_check(e, &checks, &why);

    experiments_release(e);
    return result == 0 ? 0
                       : err_set(err, ERR_CONFLICT, "the experiments name it: %.*s",
                                 (int)strcspn(why.text, ":"), why.text);
}

long long experiments_now(const struct companion *c)
{
    const struct experiments *e = experiment_store_acquire(c->experiments);
    long long version = experiments_version(e);

    experiments_release(e);
    return version;
}

/* ---- parts ------------------------------------------------------------------------------- */

struct config *sources_load(const struct sources *from, struct err *err)
{
    return config_load(from->path, from->env, from->args, from->n_args, err);
}

/* The directories of bundle.paths; free both the list and *storage. */
static const char **split_paths(const char *paths, char **storage, size_t *n)
{
    char *p = *storage = xstrdup(paths), *save = NULL;
    const char **list = xcalloc(strlen(paths) / 2 + 1, sizeof *list);

    *n = 0;
    for (char *one = strtok_r(p, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) {
        size_t len;

        one += strspn(one, " \t");
        len = strlen(one);
        while (len > 0 && strchr(" \t", one[len - 1]) != NULL)
            one[--len] = '\0';
        if (len > 0)
            list[(*n)++] = one;
    }
    return list;
}

/* And the experiments with them. */
int load_bundles(struct registry *r, struct companion *c, const struct config *cfg, struct err *err)
{
    char *storage;
    size_t n;
    const char **dirs = split_paths(cfg->bundle_paths, &storage, &n);
    int result;

    c->config = cfg;
    result = registry_configure(r, dirs, n, cfg->bundle_default, err);

    free(dirs);
    free(storage);
    return result;
}

int hash_password(const struct config *cfg, char sha256[SHA256_HEX], struct err *err)
{
    struct buf text = BUF_INIT;
    int result = 0;

    sha256[0] = '\0';
    if (cfg->redis_password_file[0] == '\0')
        return 0;
    if (file_read(cfg->redis_password_file, PASSWORD_FILE_MAX, &text, err) == -1)
        result = err_prefix(err, "redis.password_file: ");
    else
        sha256_hex(text.p, text.len, sha256);
    buf_clear(&text);
    return result;
}

struct behaviour *start_behaviour(const struct config *cfg, struct poller *p, struct err *err)
{
    return behaviour_start(cfg, (size_t)cfg->workers_queue, p, err);
}

void default_name(struct registry *r, char name[BUNDLE_NAME_MAX])
{
    const struct bundle_set *set = registry_acquire(r);
    struct bundle *b = bundle_set_find(set, NULL);

    snprintf(name, BUNDLE_NAME_MAX, "%s", b == NULL ? "" : bundle_name(b));
    bundle_set_release(set);
}

/* What systemd shows beside "active". */
void tell_ready(struct app *a, const char *more)
{
    char name[BUNDLE_NAME_MAX];
    char *status;

    default_name(a->registry, name);
    status = xasprintf("%s%s%s", name[0] == '\0' ? "no default bundle" : "serving ", name, more);
    notify_ready(status);
    free(status);
}

/* Registry and experiments know of each other from the start. */
struct registry *new_registry(const struct config *cfg, size_t remember, struct companion *c)
{
    struct registry *r = registry_new(cfg->state_dir, cfg->bundle_memory_max);

    c->experiments = experiment_store_new(cfg->state_dir, remember);
    registry_set_users(r, &(struct bundle_users){load_experiments, keep_what_arms_name, c});
    if (cfg->bundle_verify_size)
        registry_verify_by_size(r);
    return r;
}
