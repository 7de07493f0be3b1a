/* route_admin.c - the administrative thread, and bundles over HTTP, each call on that thread.
 *
 * The registry writes what changes to disk, synced, before it returns, and may hold its lock
 * meanwhile; so even GET /bundles stays off the loops. The request is suspended until its
 * turn has come. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

#define ADMIN_QUEUE 64

struct admin {
    struct queue *queue;
    pthread_t thread;
};

/* ---- the thread ---------------------------------------------------------------------------- */

static void *admin_thread(void *arg)
{
    struct admin *a = arg;
    struct request *r;

    while ((r = queue_pop(a->queue)) != NULL) {
        r->work(r);
        request_resume(r);
    }
    return NULL;
}

struct admin *admin_start(struct err *err)
{
    struct admin *a = xcalloc(1, sizeof *a);
    int why;

    a->queue = queue_new(ADMIN_QUEUE);
    why = pthread_create(&a->thread, NULL, admin_thread, a);
    if (why != 0) {
        err_set(err, ERR_IO, "administrative thread: %s", strerror(why));
        queue_free(a->queue);
        free(a);
        return NULL;
    }
    pthread_setname_np(a->thread, "admin");
    return a;
}

void admin_stop(struct admin *a)
{
    if (a == NULL)
        return;
    queue_close(a->queue);
    pthread_join(a->thread, NULL);
    queue_free(a->queue);
    free(a);
}

static enum MHD_Result worked(struct request *r)
{
    if (r->err.code != ERR_NONE)
        return problem(r, r->status != 0 ? r->status : status_of(r->err.code),
                       r->field[0] != '\0' ? r->field : NULL, "%s", r->err.text);
    return respond_json(r, r->status, &r->answer);
}

enum MHD_Result on_admin_thread(struct request *r, void (*work)(struct request *r))
{
    r->work = work;
    request_suspend(r, worked);
    if (!queue_try_push(r->server->admin->queue, r)) {
        err_set(&r->err, ERR_UNAVAILABLE, "too many administrative requests wait");
        request_resume(r);
    }
    return MHD_YES;
}

/* ---- bodies -------------------------------------------------------------------------------- */

/* {"key": "text"} and nothing else. Returns a copy, or NULL after the problem was answered
 * (*result). */
static char *only_string(struct request *r, const char *key, enum MHD_Result *result)
{
    json_error_t why;
    json_t *body =
        json_loadb(r->body.p == NULL ? "" : r->body.p, r->body.len, JSON_REJECT_DUPLICATES, &why);
    const char *name;
    json_t *value;
    char *text = NULL;

    if (!json_is_object(body)) {
        *result = problem(r, 400, NULL, "the body must be a JSON object: %s",
                          body == NULL ? why.text : "it is something else");
        goto out;
    }
    json_object_foreach (body, name, value) {
        if (strcmp(name, key) != 0) {
            *result = problem(r, 400, name, "unknown field; only \"%s\" is taken here", key);
            goto out;
        }
    }
    value = json_object_get(body, key);
    if (json_is_string(value) && json_string_length(value) > 0)
        text = xstrdup(json_string_value(value));
    else
        *result = problem(r, 400, key, "%s must be a string that is not empty", key);
out:
    json_decref(body);
    return text;
}

/* ---- routes -------------------------------------------------------------------------------- */

static void put_member(struct buf *out, const char *key, const char *text)
{
    buf_printf(out, "%s\"%s\":", out->len == 0 ? "{" : ",", key);
    buf_json(out, text, strlen(text));
}

static void list(struct request *r)
{
    r->status = 200;
    registry_list(r->server->on.registry, &r->answer);
    buf_putc(&r->answer, '\n');
}

enum MHD_Result route_bundles(struct request *r)
{
    return on_admin_thread(r, list);
}

static void load(struct request *r)
{
    if (registry_load_async(r->server->on.registry, r->given, &r->err) == -1)
        return;
    r->status = 202;
    put_member(&r->answer, "path", r->given);
    put_member(&r->answer, "state", "loading");
    put_member(&r->answer, "progress", "/bundles");
    buf_puts(&r->answer, "}\n");
}

enum MHD_Result route_load(struct request *r)
{
    enum MHD_Result result;

    r->given = only_string(r, "path", &result);
    return r->given == NULL ? result : on_admin_thread(r, load);
}

static void alias(struct request *r)
{
    if (registry_set_alias(r->server->on.registry, r->param, r->given, &r->err) == -1)
        return;
    r->status = 200;
    put_member(&r->answer, "alias", r->param);
    put_member(&r->answer, "bundle", r->given);
    buf_puts(&r->answer, "}\n");
}

enum MHD_Result route_alias(struct request *r)
{
    enum MHD_Result result;

    r->given = only_string(r, "bundle", &result);
    return r->given == NULL ? result : on_admin_thread(r, alias);
}

static void set_default(struct request *r)
{
    if (registry_set_default(r->server->on.registry, r->given, &r->err) == -1)
        return;
    r->status = 200;
    put_member(&r->answer, "default", r->given);
    buf_puts(&r->answer, "}\n");
}

enum MHD_Result route_default(struct request *r)
{
    enum MHD_Result result;

    r->given = only_string(r, "bundle", &result);
    return r->given == NULL ? result : on_admin_thread(r, set_default);
}

static void unload(struct request *r)
{
    if (registry_unload(r->server->on.registry, r->param, &r->err) == -1)
        return;
    r->status = 200;
    put_member(&r->answer, "unloaded", r->param);
    buf_puts(&r->answer, "}\n");
}

enum MHD_Result route_unload(struct request *r)
{
    return on_admin_thread(r, unload);
}
