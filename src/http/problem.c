/* problem.c - answers: JSON, and RFC 9457 problem documents for everything that is not a success.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server.h"

/* Every status an answer may have; libmicrohttpd alone gives 414, 431 and 505. */
static const struct {
    int status;
    const char *title;
} statuses[] = {
    {200, "OK"},
    {202, "Accepted"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {409, "Conflict"},
    {412, "Precondition Failed"},
    {413, "Content Too Large"},
    {414, "URI Too Long"},
    {415, "Unsupported Media Type"},
    {428, "Precondition Required"},
    {431, "Request Header Fields Too Large"},
    {500, "Internal Server Error"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};
_Static_assert(ARRAY_LEN(statuses) <= STATUS_COUNT, "raise STATUS_COUNT");

static const int status_of_code[] = {
    [ERR_NONE] = 500,    [ERR_USAGE] = 400,       [ERR_FORMAT] = 400,    [ERR_IO] = 500,
    [ERR_NOMEM] = 503,   [ERR_LIMIT] = 413,       [ERR_NOT_FOUND] = 404, [ERR_CONFLICT] = 409,
    [ERR_TIMEOUT] = 504, [ERR_UNAVAILABLE] = 503,
};

int status_index(int status)
{
    for (int i = 0; i < (int)ARRAY_LEN(statuses); i++)
        if (statuses[i].status == status)
            return i;
    return -1;
}

int status_at(int index)
{
    return index < (int)ARRAY_LEN(statuses) ? statuses[index].status : 0;
}

int status_of(enum err_code code)
{
    return status_of_code[code];
}

/* ---- sending ------------------------------------------------------------------------------- */

enum MHD_Result respond(struct request *r, int status, struct MHD_Response *response)
{
    enum MHD_Result queued;

    MHD_add_response_header(response, "X-Request-Id", request_id(r));
    if (r->etag[0] != '\0')
        MHD_add_response_header(response, "ETag", r->etag);
    /* While draining a client should not send its next request here. */
    if (atomic_load_explicit(&r->server->draining, memory_order_relaxed))
        MHD_add_response_header(response, "Connection", "close");
    route_count(r, status);
    queued = MHD_queue_response(r->mhd, (unsigned)status, response);
    MHD_destroy_response(response);
    return queued;
}

static struct MHD_Response *response_take(struct buf *take, const char *type)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(take->len, take->p, MHD_RESPMEM_MUST_FREE);

    if (response == NULL) {
        LOG_ERROR("http", "out of memory for an answer");
        abort();
    }
    *take = (struct buf)BUF_INIT;
    MHD_add_response_header(response, "Content-Type", type);
    return response;
}

enum MHD_Result respond_json(struct request *r, int status, struct buf *take)
{
    return respond(r, status, response_take(take, "application/json"));
}

/* ---- problems ------------------------------------------------------------------------------ */

/* What is quoted in a detail may come from anywhere, and may be cut inside a character; JSON takes
 * only UTF-8. */
static void put_text(struct buf *out, const char *text)
{
    size_t len = strlen(text), whole = len;
    char *copy;

    while (!utf8_valid(text, whole) && whole > 0 && len - whole < 3)
        whole--;
    if (utf8_valid(text, whole)) {
        buf_json(out, text, whole);
        return;
    }
    copy = xstrndup(text, len);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)copy[i] >= 0x80)
            copy[i] = '?';
    buf_json(out, copy, len);
    free(copy);
}

static void put_problem(struct buf *out, struct request *r, int status, const char *field,
                        const char *detail)
{
    buf_puts(out, "{\"type\":\"about:blank\",\"title\":\"");
    buf_puts(out, statuses[status_index(status)].title);
    buf_puts(out, "\",\"status\":");
    buf_u64(out, (uint64_t)status);
    buf_puts(out, ",\"detail\":");
    put_text(out, detail);
    if (field != NULL) {
        buf_puts(out, ",\"field\":");
        put_text(out, field);
    }
    buf_puts(out, ",\"request_id\":\"");
    buf_puts(out, request_id(r));
    buf_putc(out, '"');
}

static enum MHD_Result send_problem(struct request *r, int status, struct buf *take)
{
    struct MHD_Response *response = response_take(take, "application/problem+json");
    struct buf allow = BUF_INIT;

    if (status == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer realm=\"recalld\"");
    if (status == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    if (status == 405) {
        route_allow(r, &allow);
        MHD_add_response_header(response, "Allow", buf_cstr(&allow));
        buf_clear(&allow);
    }
    return respond(r, status, response);
}

enum MHD_Result problem(struct request *r, int status, const char *field, const char *fmt, ...)
{
    struct buf detail = BUF_INIT, body = BUF_INIT;
    va_list args;

    va_start(args, fmt);
    buf_vprintf(&detail, fmt, args);
    va_end(args);
    put_problem(&body, r, status, field, buf_cstr(&detail));
    buf_puts(&body, "}\n");
    buf_clear(&detail);
    return send_problem(r, status, &body);
}

enum MHD_Result problem_with(struct request *r, int status, const char *members, const char *detail)
{
    struct buf body = BUF_INIT;

    put_problem(&body, r, status, NULL, detail);
    buf_printf(&body, ",%s}\n", members);
    return send_problem(r, status, &body);
}
