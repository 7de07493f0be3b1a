/* route_recall.c - POST /recall: the body goes into a call, the call to recall/, its answer to the
 * client.
 *
 * The request is suspended while the call is under way, so no loop waits for a worker. A
 * client that hangs up meanwhile is noticed only after the call has come back: the call is put back
 * by whoever sees the request last, the response that carries its answer or request_end. */
#include <string.h>

#include "recalld/metrics.h"
#include "server.h"

static int seconds;

void recall_register(void)
{
    seconds = metric_histogram("recalld_http_request_seconds",
                               "POST /recall from the complete body to the queued answer, failed "
                               "requests included.",
                               "", metric_stage_bounds, METRIC_STAGE_BOUNDS_N);
}

static void call_done(struct recall_call *c)
{
    request_resume(recall_call_owner(c));
}

void recall_begin(struct request *r)
{
    r->call = recall_call_get(r->server->on.recall, call_done, r);
}

static void put_call(void *call)
{
    recall_call_put(call);
}

static void observe(const struct request *r)
{
    metric_observe(seconds, (double)(clock_ns() - r->complete_ns) * 1e-9);
}

static void take_request_id(struct request *r)
{
    const char *id = recall_call_request_id(r->call);
    size_t len = strnlen(id, sizeof r->id - 1);

    memcpy(r->id, id, len);
    r->id[len] = '\0';
}

/* The response owns the call and sends from its buffer: the answer is never copied. */
static enum MHD_Result send_answer(struct request *r, const char *answer, size_t len)
{
    struct MHD_Response *response = MHD_create_response_from_buffer_with_free_callback_cls(
        len, (void *)(uintptr_t)answer, put_call, r->call);

    if (response == NULL)
        return MHD_NO; /* out of memory: the connection closes, request_end puts the call back */
    r->call = NULL;
    MHD_add_response_header(response, "Content-Type", "application/json");
    return respond(r, 200, response);
}

static enum MHD_Result answered(struct request *r)
{
    size_t len;
    const char *answer = recall_call_answer(r->call, &len);
    int status = recall_call_status(r->call);

    observe(r);
    take_request_id(r);
    if (status == 200)
        return send_answer(r, answer, len);
    return problem(r, status, recall_call_field(r->call), "%.*s", (int)len, answer);
}

static void suspend(struct recall_call *c)
{
    request_suspend(recall_call_owner(c), answered);
}

enum MHD_Result route_recall(struct request *r)
{
    struct err err = ERR_INIT;
    enum recall_admission admission;

    r->complete_ns = clock_ns();
    admission = recall_submit(r->server->on.recall, r->call, suspend, &err);
    if (admission == RECALL_ADMITTED)
        return MHD_YES; /* perhaps answered already: nothing of it may be touched here */
    take_request_id(r);
    observe(r);
    return problem(r, admission == RECALL_BAD ? 400 : 503, recall_call_field(r->call), "%s",
                   err.text);
}
