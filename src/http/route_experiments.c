/* route_experiments.c - experiments over HTTP: read, replaced, reported on.
 *
 * They are replaced on the administrative thread, with the bundles held still: what is checked
 * against the bundles is published together with them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server.h"

static void put_etag(struct request *r, const struct experiments *e)
{
    snprintf(r->etag, sizeof r->etag, "\"%s\"", experiments_sha256(e));
}

static void read_all(struct request *r)
{
    const struct experiments *e = experiment_store_acquire(r->server->on.experiments);
    size_t len;
    const char *text = experiments_text(e, &len);

    buf_put(&r->answer, text, len);
    put_etag(r, e);
    r->status = 200;
    experiments_release(e);
}

enum MHD_Result route_experiments(struct request *r)
{
    return on_admin_thread(r, read_all);
}

static void report(struct request *r)
{
    experiment_report(r->server->on.experiments, &r->answer);
    r->status = 200;
}

enum MHD_Result route_report(struct request *r)
{
    return on_admin_thread(r, report);
}

/* ---- replacing ----------------------------------------------------------------------------- */

static const int status_of_put[] = {
    [EXPERIMENT_PUT] = 200,     [EXPERIMENT_NO_MATCH] = 428, [EXPERIMENT_BAD_MATCH] = 400,
    [EXPERIMENT_CHANGED] = 412, [EXPERIMENT_NO_STATE] = 409, [EXPERIMENT_BAD] = 400,
    [EXPERIMENT_EARLY] = 503,   [EXPERIMENT_FAILED] = 500,
};

static bool bundle_known(void *set, const char *name)
{
    return bundle_set_find(set, name) != NULL;
}

/* What is wrong is named first, by its place in the body. When that is all of it, no field is to
 * blame. */
static void take_field(struct request *r)
{
    snprintf(r->field, sizeof r->field, "%.*s", (int)strcspn(r->err.text, ":"), r->err.text);
    if (strcmp(r->field, "body") == 0)
        r->field[0] = '\0';
}

static int replace_beside(void *arg, const struct bundle_set *set, struct ref **beside,
                          struct err *err)
{
    struct request *r = arg;
    struct experiment_store *store = r->server->on.experiments;
    const struct experiments *e;
    struct experiment_checks checks = {bundle_known, (void *)(uintptr_t)set,
                                       recall_n_max(r->server->on.recall)};
    enum experiment_put result =
        experiment_store_put(store, r->body.p, r->body.len, r->given, &checks, err);

    r->status = status_of_put[result];
    if (result == EXPERIMENT_BAD)
        take_field(r);
    if (result != EXPERIMENT_PUT)
        return -1;
    /* Here, where no reload can come between, they are those that were put. */
    e = experiment_store_acquire(store);
    buf_printf(&r->answer, "{\"version\":%lld,\"sha256\":\"%s\"}\n",
               (long long)experiments_version(e), experiments_sha256(e));
    put_etag(r, e);
    *beside = (struct ref *)(uintptr_t)e;
    return 0;
}

static void replace(struct request *r)
{
    if (registry_set_beside(r->server->on.registry, replace_beside, r, &r->err) == 0)
        r->status = 200;
}

/* A header that comes twice is one list. */
static enum MHD_Result add_if_match(void *given, enum MHD_ValueKind kind, const char *key,
                                    const char *value)
{
    char **list = given, *before = *list;

    (void)kind;
    if (strcasecmp(key, "If-Match") != 0)
        return MHD_YES;
    *list = before == NULL ? xstrdup(value != NULL ? value : "")
                           : xasprintf("%s, %s", before, value != NULL ? value : "");
    free(before);
    return MHD_YES;
}

enum MHD_Result route_replace(struct request *r)
{
    MHD_get_connection_values(r->mhd, MHD_HEADER_KIND, add_if_match, &r->given);
    return on_admin_thread(r, replace);
}
