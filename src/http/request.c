/* request.c - the life of a request: headers, pieces of the body, complete, answered.
 *
 * libmicrohttpd calls once for each: request_head decides which route answers and what is refused,
 * request_body collects, request_complete lets the route answer or suspend, request_resumed goes on
 * from there, request_end makes room for the next one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

/* A refused body of unknown length is read and dropped up to so many times http.max_body. */
#define DROP_FACTOR 4
/* Bodies beyond BODY_SMALL share a budget of so many times http.max_body. Smaller ones are always
 * taken, so nobody can crowd out ordinary requests by sending large ones slowly. */
#define BODIES_FACTOR 64
#define BODY_SMALL ((size_t)16 << 10)

/* ---- begin and end ------------------------------------------------------------------------- */

void request_begin(struct connection *c, struct MHD_Connection *mhd)
{
    c->request.connection = c;
    c->request.server = c->server;
    c->request.mhd = mhd;
}

const char *request_id(struct request *r)
{
    if (r->id[0] == '\0')
        uuid7(r->id);
    return r->id;
}

void request_refuse(struct request *r, int status, const char *fmt, ...)
{
    va_list args;

    if (r->refused != 0)
        return;
    r->refused = status;
    va_start(args, fmt);
    vsnprintf(r->refusal, sizeof r->refusal, fmt, args);
    va_end(args);
}

/* What has arrived of the body goes. */
static void drop_body(struct request *r)
{
    recall_call_put(r->call);
    r->call = NULL;
    buf_clear(&r->body);
    atomic_fetch_sub(&r->server->bodies, r->held);
    r->held = 0;
}

/* Ready for the next request of the connection; the buffers stay. */
void request_end(struct request *r)
{
    struct buf body = r->body;

    if (r->resumed != NULL) /* the client left while the request was suspended */
        atomic_fetch_sub(&r->server->at_work, 1);
    if (r->held > 0)
        atomic_fetch_sub(&r->server->bodies, r->held);
    recall_call_put(r->call); /* not NULL when no answer took it along */
    free(r->param);
    free(r->given);
    buf_clear(&r->answer);
    if (body.cap > BODY_KEEP)
        buf_clear(&body);
    body.len = 0;
    memset(r, 0, sizeof *r);
    r->body = body;
}

/* ---- waiting ------------------------------------------------------------------------------- */

/* libmicrohttpd first reads from a connection that was resumed, and when the client has closed its
 * side meanwhile, drops the answer. Connections with a time-out of their own it looks at before
 * that, and then the answer is on its way. So a suspended one has one. */
static void set_timeout(struct request *r, unsigned more_s)
{
    MHD_set_connection_option(r->mhd, MHD_CONNECTION_OPTION_TIMEOUT, r->server->idle_s + more_s);
}

/* `at_work` counts the request until it is answered, and whoever resumes it until he has let go of
 * the loop: http_stop waits for both. */
void request_suspend(struct request *r, enum MHD_Result (*resumed)(struct request *r))
{
    r->resumed = resumed;
    atomic_fetch_add(&r->server->at_work, 1);
    set_timeout(r, 1); /* first: libmicrohttpd 1.0 takes none from a suspended connection */
    MHD_suspend_connection(r->mhd);
}

void request_resume(struct request *r)
{
    struct http_server *s = r->server; /* read first: resumed, the request may soon be gone */

    atomic_fetch_add(&s->at_work, 1);
    loop_resume(r->connection->loop, r);
    atomic_fetch_sub(&s->at_work, 1);
}

enum MHD_Result request_resumed(struct request *r)
{
    enum MHD_Result (*resumed)(struct request *) = r->resumed;
    enum MHD_Result result;

    r->resumed = NULL;
    set_timeout(r, 0);
    result = resumed(r);
    atomic_fetch_sub(&r->server->at_work, 1);
    return result;
}

/* ---- what may come ------------------------------------------------------------------------- */

static void refuse_size(struct request *r)
{
    request_refuse(r, 413, "the body is larger than http.max_body (%zu bytes)",
                   r->server->max_body);
}

static void refuse_room(struct request *r)
{
    request_refuse(r, 503, "too many large bodies are being received");
}

/* What can be said of a body before it comes: 0 while its length is not known. */
static uint64_t announced(const struct head *h)
{
    uint64_t n = 0;

    if (h->length != NULL && !parse_u64(h->length, strlen(h->length), &n))
        return UINT64_MAX;
    return n;
}

static bool bodies_have_room(const struct http_server *s, size_t more)
{
    return atomic_load(&s->bodies) + more <= s->max_body * BODIES_FACTOR;
}

static enum MHD_Result answer_refusal(struct request *r)
{
    return problem(r, r->refused, NULL, "%s", r->refusal);
}

/* What is refused here is answered at once and the connection closed: where the request ends is not
 * known, or it is long. Other refusals wait for the body, so that the connection stays of use. */
enum MHD_Result request_head(struct request *r, const char *method, const char *path,
                             const char *version)
{
    struct head head;
    uint64_t length;

    head_read(&head, r->mhd, version);
    length = announced(&head);
    route_find(r, &head, method, path);
    if (head.fault[0] != '\0')
        return problem(r, 400, NULL, "%s", head.fault);
    if (length > r->server->max_body) {
        refuse_size(r);
        return answer_refusal(r);
    }
    if (length > BODY_SMALL && !bodies_have_room(r->server, length)) {
        refuse_room(r);
        return answer_refusal(r);
    }
    if (r->refused == 0 && r->route->flags & ROUTE_CALL)
        recall_begin(r);
    return MHD_YES;
}

/* The whole of a body counts once it is no longer small. */
static bool hold(struct request *r)
{
    size_t more = r->received - r->held;

    if (r->received <= BODY_SMALL)
        return true;
    if (!bodies_have_room(r->server, more))
        return false;
    atomic_fetch_add(&r->server->bodies, more);
    r->held = r->received;
    return true;
}

enum MHD_Result request_body(struct request *r, const char *bytes, size_t len)
{
    size_t max = r->server->max_body;

    r->received += len;
    if (r->received > max * DROP_FACTOR) {
        r->connection->hopeless = true;
        return MHD_NO; /* closes the connection: libmicrohttpd takes no answer inside a body */
    }
    if (r->received > max)
        refuse_size(r);
    if (r->refused == 0 && r->route->flags & ROUTE_BODY && !hold(r))
        refuse_room(r);
    if (r->refused != 0)
        drop_body(r);
    else if (r->call == NULL && r->route->flags & ROUTE_BODY)
        buf_put(&r->body, bytes, len);
    else if (r->call != NULL && recall_call_body(r->call, bytes, len, max) == -1)
        refuse_size(r);
    return MHD_YES;
}

/* ---- the answer ---------------------------------------------------------------------------- */

static enum MHD_Result request_answer(struct request *r)
{
    if (r->refused != 0)
        return answer_refusal(r);
    if (atomic_load(&r->server->closing))
        return problem(r, 503, NULL, "the service is stopping");
    return r->route->answer(r);
}

/* Counted before `closing` is read: once that is set and nothing is counted, nothing will be. */
enum MHD_Result request_complete(struct request *r)
{
    struct http_server *s = r->server;
    enum MHD_Result result;

    r->connection->linger = false;
    connection_enter(s, r->connection, PHASE_AT_WORK);
    atomic_fetch_add(&s->at_work, 1);
    result = request_answer(r);
    atomic_fetch_sub(&s->at_work, 1);
    return result;
}
