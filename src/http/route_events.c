/* route_events.c - POST /events: what clients report of the items they were given.
 *
 * Each event is checked, then pushed into the journal's ring, in their order; nothing here waits
 * for the disk. 202 counts what the ring took. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "recalld/metrics.h"
#include "server.h"

#define EVENTS_MAX 1000 /* in one request */

enum outcome { ACCEPTED, DUPLICATE, REJECTED, FULL, OUTCOMES };

static int counters[OUTCOMES];

void events_register(void)
{
    static const char *const labels[OUTCOMES] = {"outcome=\"accepted\"", "outcome=\"duplicate\"",
                                                 "outcome=\"rejected\"", "outcome=\"full\""};

    for (int i = 0; i < OUTCOMES; i++)
        counters[i] = metric_counter(
            "recalld_events_total", "Events that clients sent, by what became of them.", labels[i]);
}

/* What one request brings. */
struct report {
    struct http_server *server;
    struct arena arena;
    struct buf scratch, rejected; /* the latter: members of a JSON list */
    size_t n[OUTCOMES];
    int64_t now_ms;
    struct err first; /* why the first one was rejected */
};

/* ---- one event ----------------------------------------------------------------------------- */

static void reject(struct report *p, size_t index, const struct err *why)
{
    if (p->n[REJECTED]++ == 0)
        p->first = *why;
    buf_printf(&p->rejected, "%s{\"index\":%zu,\"detail\":", p->rejected.len > 0 ? "," : "", index);
    buf_json(&p->rejected, why->text, strlen(why->text));
    buf_putc(&p->rejected, '}');
}

static bool is_word(struct str s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.p, word, s.len) == 0;
}

/* For the live figures of the arms. */
static void count(struct report *p, const struct journal_event *e)
{
    struct str id = e->serve_id.len > 0 ? e->serve_id : e->request_id;
    enum experiment_event kind = is_word(e->event, "exposed")   ? EXPERIMENT_EXPOSED
                                 : is_word(e->event, "clicked") ? EXPERIMENT_CLICKED
                                                                : EXPERIMENT_OTHER;

    if (p->server->on.experiments != NULL)
        experiment_count_event(p->server->on.experiments, kind, id.p, id.len);
}

/* False when the ring is full: the rest is not tried. */
static bool take(struct report *p, size_t index, json_t *value)
{
    struct journal_event event;
    struct err err = ERR_INIT;

    if (journal_event_parse(value, p->now_ms, &p->arena, &event, &err) == -1) {
        reject(p, index, &err);
        return true;
    }
    switch (journal_event_add(p->server->on.journal, &event, &p->scratch)) {
    case JOURNAL_ACCEPTED:
        p->n[ACCEPTED]++;
        count(p, &event);
        return true;
    case JOURNAL_DUPLICATE:
        p->n[DUPLICATE]++;
        return true;
    default:
        p->n[FULL]++;
        return false;
    }
}

/* ---- the answer ---------------------------------------------------------------------------- */

/* {"accepted":N,"duplicates":N,"rejected":[...] without the braces. */
static void put_members(struct buf *out, const struct report *p)
{
    buf_printf(out, "\"accepted\":%zu,\"duplicates\":%zu,\"rejected\":[", p->n[ACCEPTED],
               p->n[DUPLICATE]);
    buf_put(out, p->rejected.p, p->rejected.len);
    buf_putc(out, ']');
}

static enum MHD_Result refuse(struct request *r, const struct report *p, int status,
                              const char *more, const char *detail)
{
    struct buf members = BUF_INIT;
    enum MHD_Result result;

    put_members(&members, p);
    buf_puts(&members, more);
    result = problem_with(r, status, buf_cstr(&members), detail);
    buf_clear(&members);
    return result;
}

static enum MHD_Result accept_all(struct request *r, const struct report *p)
{
    struct buf body = BUF_INIT;

    buf_putc(&body, '{');
    put_members(&body, p);
    buf_puts(&body, "}\n");
    return respond_json(r, 202, &body);
}

static enum MHD_Result answer(struct request *r, const struct report *p, bool single, size_t next)
{
    char more[32];

    if (p->n[FULL] > 0) {
        snprintf(more, sizeof more, ",\"next\":%zu", next);
        return refuse(r, p, 503, more,
                      "the journal takes no more events now: send those from index next on again");
    }
    if (single && p->n[REJECTED] > 0) {
        char field[80];

        snprintf(field, sizeof field, "%.*s", (int)strcspn(p->first.text, ":"), p->first.text);
        return problem(r, 400, strcmp(field, "body") == 0 ? NULL : field, "%s", p->first.text);
    }
    if (p->n[REJECTED] > 0 && p->n[ACCEPTED] + p->n[DUPLICATE] == 0)
        return refuse(r, p, 400, "", "none of the events can be accepted");
    return accept_all(r, p);
}

/* ---- the request --------------------------------------------------------------------------- */

static enum MHD_Result take_all(struct request *r, json_t *body)
{
    bool single = !json_is_array(body);
    size_t n = single ? 1 : json_array_size(body), i = 0;
    struct report p = {.server = r->server, .now_ms = clock_wall_ms()};
    enum MHD_Result result;

    while (i < n && take(&p, i, single ? body : json_array_get(body, i)))
        i++;
    for (int k = 0; k < OUTCOMES; k++)
        metric_add(counters[k], p.n[k]);
    result = answer(r, &p, single, i);
    arena_clear(&p.arena);
    buf_clear(&p.scratch);
    buf_clear(&p.rejected);
    return result;
}

enum MHD_Result route_events(struct request *r)
{
    enum MHD_Result result;
    json_error_t why;
    json_t *body;

    if (r->server->on.journal == NULL)
        return problem(r, 409, NULL, "the journal is off: no journal.dir is configured");
    body =
        json_loadb(r->body.p == NULL ? "" : r->body.p, r->body.len, JSON_REJECT_DUPLICATES, &why);
    if (body == NULL)
        return problem(r, 400, NULL, "body: line %d, column %d: %s", why.line, why.column,
                       why.text);
    if (!json_is_object(body) && !json_is_array(body))
        result = problem(r, 400, NULL, "body: must be an event or a list of events");
    else if (json_array_size(body) > EVENTS_MAX)
        result = problem(r, 400, NULL, "body: has more than %d events", EVENTS_MAX);
    else
        result = take_all(r, body);
    json_decref(body);
    return result;
}
