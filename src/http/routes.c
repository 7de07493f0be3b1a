/* routes.c - which request is answered where, and what is refused before its body is read.
 *
 * One table serves dispatch, the Allow header, the token rule, the kinds of body and the counters.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "recalld/metrics.h"
#include "server.h"

static enum MHD_Result route_none(struct request *r);

/* A path written out comes before one with a {segment}; the last row catches everything else. What
 * is malformed has no path: that row is there to be counted. */
static const struct route routes[] = {
    {"POST", "/recall", route_recall, ROUTE_BODY | ROUTE_CALL, "200 403 503 504"},
    {"POST", "/events", route_events, ROUTE_BODY, "202 409 503"},
    {"GET", "/livez", route_live, 0, "200"},
    {"GET", "/healthz", route_live, 0, "200"},
    {"GET", "/readyz", route_ready, 0, "200 503"},
    {"GET", "/metrics", route_metrics, 0, "200"},
    {"GET", "/version", route_version, 0, "200"},
    {"GET", "/openapi.json", route_openapi, 0, "200"},
    {"GET", "/experiments", route_experiments, ROUTE_TOKEN, "200 503"},
    {"PUT", "/experiments", route_replace, ROUTE_TOKEN | ROUTE_BODY, "200 409 412 428 500 503"},
    {"GET", "/experiments/report", route_report, ROUTE_TOKEN, "200 503"},
    {"GET", "/bundles", route_bundles, ROUTE_TOKEN, "200 503"},
    {"POST", "/bundles", route_load, ROUTE_TOKEN | ROUTE_BODY, "202 404 409 500 503"},
    {"PUT", "/bundles/aliases/{alias}", route_alias, ROUTE_TOKEN | ROUTE_BODY,
     "200 404 409 500 503"},
    {"PUT", "/bundles/default", route_default, ROUTE_TOKEN | ROUTE_BODY, "200 404 409 500 503"},
    {"DELETE", "/bundles/{bundle}", route_unload, ROUTE_TOKEN, "200 400 404 409 500 503"},
    {"", "malformed", NULL, 0, "400 413 414 431 500 505"},
    {"", "other", route_none, 0, "400 404"},
};
#define N_ROUTES (ARRAY_LEN(routes))
static const struct route *const nowhere = &routes[N_ROUTES - 1];
static const struct route *const malformed = &routes[N_ROUTES - 2];

/* ---- matching ------------------------------------------------------------------------------ */

/* True when `path` has the pattern's shape; *param is what stands for its {segment}, borrowed. */
static bool path_matches(const char *pattern, const char *path, struct str *param)
{
    while (*pattern != '\0') {
        if (*pattern == '{') {
            *param = (struct str){path, strcspn(path, "/")};
            if (param->len == 0)
                return false;
            path += param->len;
            pattern = strchr(pattern, '}') + 1;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static bool method_matches(const struct route *route, const char *method)
{
    if (strcmp(method, "HEAD") == 0)
        method = "GET"; /* libmicrohttpd leaves the body out */
    return strcmp(route->method, method) == 0;
}

/* The row of `method` among those with `first`'s path, or NULL. */
static const struct route *with_method(const struct route *first, const char *method)
{
    for (const struct route *row = first; row < nowhere; row++)
        if (strcmp(row->path, first->path) == 0 && method_matches(row, method))
            return row;
    return NULL;
}

void route_allow(const struct request *r, struct buf *out)
{
    for (const struct route *row = routes; row < nowhere; row++) {
        if (strcmp(row->path, r->route->path) != 0)
            continue;
        buf_printf(out, "%s%s", out->len > 0 ? ", " : "", row->method);
        if (strcmp(row->method, "GET") == 0)
            buf_puts(out, ", HEAD");
    }
}

/* ---- refusing ------------------------------------------------------------------------------ */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "a%40b" -> "a@b"; NULL when an escape is none, or what comes out is no text. */
static char *percent_decode(struct str s)
{
    char *out = xmalloc(s.len + 1), *p = out;

    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];

        if (c == '%') {
            int high = i + 2 < s.len ? hex_digit(s.p[i + 1]) : -1;
            int low = high >= 0 ? hex_digit(s.p[i + 2]) : -1;

            if (low < 0)
                goto bad;
            c = (char)(high * 16 + low);
            i += 2;
        }
        if ((unsigned char)c < 0x20 || c == 0x7f)
            goto bad;
        *p++ = c;
    }
    *p = '\0';
    if (utf8_valid(out, (size_t)(p - out)))
        return out;
bad:
    free(out);
    return NULL;
}

static void check_token(struct request *r, const struct head *h)
{
    struct http_token *t = (struct http_token *)cell_acquire(&r->server->token);

    if (t == NULL)
        request_refuse(r, 403, "administration is off: no admin.token_file is configured");
    else if (h->authorization == NULL)
        request_refuse(r, 401, "this route needs the header Authorization: Bearer TOKEN");
    else if (!token_matches(t, h->authorization))
        request_refuse(r, 401, "the token is not the one in admin.token_file");
    http_token_free(t);
}

static bool skip_word(const char **p, const char *word)
{
    size_t len = strlen(word);

    while (**p == ' ' || **p == '\t')
        ++*p;
    if (strncasecmp(*p, word, len) != 0)
        return false;
    *p += len;
    return true;
}

/* application/json, perhaps with charset=utf-8. */
static bool is_json_type(const char *type)
{
    if (type == NULL || !skip_word(&type, "application/json"))
        return false;
    if (skip_word(&type, ";") && !skip_word(&type, "charset=utf-8") &&
        !skip_word(&type, "charset=\"utf-8\""))
        return false;
    skip_word(&type, "");
    return *type == '\0';
}

static void check_body(struct request *r, const struct head *h)
{
    if (!is_json_type(h->type))
        request_refuse(r, 415, "the body must be application/json in UTF-8");
    if (h->encoding != NULL && strcasecmp(h->encoding, "identity") != 0)
        request_refuse(r, 415, "the body must not be compressed (Content-Encoding)");
}

void route_find(struct request *r, const struct head *h, const char *method, const char *path)
{
    const struct route *found = routes;
    struct str param = {NULL, 0};

    while (found < malformed && !path_matches(found->path, path, &param))
        found++;
    r->route = found < malformed ? found : nowhere;
    if (r->route == nowhere)
        return;
    found = with_method(found, method);
    if (found == NULL) {
        request_refuse(r, 405, "this path does not take %.32s", method);
        return;
    }
    r->route = found;
    if (found->flags & ROUTE_TOKEN)
        check_token(r, h);
    if (found->flags & ROUTE_BODY)
        check_body(r, h);
    if (param.p != NULL && (r->param = percent_decode(param)) == NULL)
        request_refuse(r, 400, "the path is not percent-encoded UTF-8");
}

static enum MHD_Result route_none(struct request *r)
{
    return problem(r, 404, NULL,
                   "there is nothing at this path; GET /openapi.json lists what there is");
}

/* ---- counting ------------------------------------------------------------------------------ */

/* Filled once; the labels live as long as the process, as metrics.h asks. */
static int counters[N_ROUTES][STATUS_COUNT];

static bool may_answer(const struct route *route, int status)
{
    char word[8];

    switch (status) {
    case 405:
        return route < malformed;
    case 400:
    case 413:
        return true;
    case 401:
    case 403:
        return route->flags & ROUTE_TOKEN;
    case 415:
        return route->flags & ROUTE_BODY;
    case 503: /* too many large bodies */
        if (route < malformed)
            return true;
    }
    snprintf(word, sizeof word, "%d", status);
    return strstr(route->codes, word) != NULL;
}

static int register_counter(size_t i, int k)
{
    for (size_t j = 0; j < i; j++) /* rows of one path share its counters */
        if (strcmp(routes[j].path, routes[i].path) == 0 && counters[j][k] >= 0)
            return counters[j][k];
    return metric_counter("recalld_http_requests_total",
                          "Answers by path and status, failures included.",
                          xasprintf("route=\"%s\",code=\"%d\"", routes[i].path, status_at(k)));
}

void routes_register(void)
{
    static bool done;

    if (done)
        return;
    done = true;
    for (size_t i = 0; i < N_ROUTES; i++)
        for (int k = 0; status_at(k) != 0; k++)
            counters[i][k] = may_answer(&routes[i], status_at(k)) ? register_counter(i, k) : -1;
}

static void count(const struct route *route, int status)
{
    int k = status_index(status);

    if (k >= 0 && counters[route - routes][k] >= 0)
        metric_add(counters[route - routes][k], 1);
}

void route_count(const struct request *r, int status)
{
    count(r->route, status);
}

void route_count_malformed(int status)
{
    count(malformed, status);
}
