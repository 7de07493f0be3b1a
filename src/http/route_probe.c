/* route_probe.c - what monitors, load balancers and generated clients ask: alive, ready, metrics,
 * version, the interface description. */
#include <string.h>

#include "recalld/metrics.h"
#include "server.h"

/* docs/openapi.json, put into the program by the assembler; the path starts where make runs. */
__asm__(".pushsection .rodata\n"
        "openapi_start:\n"
        ".incbin \"docs/openapi.json\"\n"
        "openapi_end:\n"
        ".popsection\n");
extern const char openapi_start[], openapi_end[];

/* ---- state --------------------------------------------------------------------------------- */

/* Why nothing is recalled at present, or NULL. */
static const char *not_ready(const struct http_server *s, bool has_default)
{
    if (atomic_load(&s->draining))
        return "the service is stopping";
    return has_default ? NULL : "no default bundle is loaded yet";
}

/* "ready":...,"bundle":...,"redis":... Returns the reason why not ready, or NULL. */
static const char *put_state(struct http_server *s, struct buf *out)
{
    const struct bundle_set *set = registry_acquire(s->on.registry);
    struct bundle *b = set == NULL ? NULL : bundle_set_find(set, NULL);
    const char *why = not_ready(s, b != NULL);

    buf_printf(out, "\"ready\":%s,\"bundle\":", why == NULL ? "true" : "false");
    if (b != NULL)
        buf_json(out, bundle_name(b), strlen(bundle_name(b)));
    else
        buf_puts(out, "null");
    bundle_set_release(set);
    pthread_mutex_lock(&s->lock);
    buf_printf(out, ",\"redis\":\"%s\"", behaviour_state(s->on.behaviour));
    pthread_mutex_unlock(&s->lock);
    return why;
}

/* Alive whatever the state: restarting would not load a bundle faster. */
enum MHD_Result route_live(struct request *r)
{
    struct buf body = BUF_INIT;

    buf_puts(&body, "{\"status\":\"alive\",");
    put_state(r->server, &body);
    buf_puts(&body, "}\n");
    return respond_json(r, 200, &body);
}

/* Redis down is no reason to send traffic away: the answers are marked, and every replica would be
 * as bad. */
enum MHD_Result route_ready(struct request *r)
{
    struct buf members = BUF_INIT, body = BUF_INIT;
    const char *why = put_state(r->server, &members);
    enum MHD_Result result;

    if (why == NULL) {
        buf_printf(&body, "{%s}\n", buf_cstr(&members));
        result = respond_json(r, 200, &body);
    } else {
        result = problem_with(r, 503, buf_cstr(&members), why);
    }
    buf_clear(&members);
    return result;
}

/* ---- documents ----------------------------------------------------------------------------- */

enum MHD_Result route_metrics(struct request *r)
{
    struct buf body = BUF_INIT;
    struct MHD_Response *response;

    metrics_render(&body);
    response = MHD_create_response_from_buffer(body.len, body.p, MHD_RESPMEM_MUST_FREE);
    if (response == NULL) {
        buf_clear(&body);
        return MHD_NO;
    }
    MHD_add_response_header(response, "Content-Type", "text/plain; version=0.0.4; charset=utf-8");
    return respond(r, 200, response);
}

enum MHD_Result route_version(struct request *r)
{
    struct buf body = BUF_INIT;

    buf_printf(&body, "{\"name\":\"recalld\",\"version\":\"%s\",\"libmicrohttpd\":\"%s\"}\n",
               recalld_version, MHD_get_version());
    return respond_json(r, 200, &body);
}

enum MHD_Result route_openapi(struct request *r)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer((size_t)(openapi_end - openapi_start),
                                        (void *)(uintptr_t)openapi_start, MHD_RESPMEM_PERSISTENT);

    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "application/json");
    return respond(r, 200, response);
}
