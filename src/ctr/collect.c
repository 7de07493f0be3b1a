/* collect.c - events into memory, answers past them, which each take theirs.
 *
 * Where the events do not fit into memory, they are dealt out to rounds by the hash of the answer
 * they name, and the answers are read in each round, every one of them counting in one. */
#include "collect.h"

#include "events.h"

#include "recalld/journal.h"

#include <stdlib.h>

#define BUCKETS 50 /* of the plot, about */
#define BY_REQUEST \
    0x9e3779b97f4a7c15u /* sets hashes of request ids apart from those of serve ids */
#define KNOWN 1024      /* sets of arms that are remembered */
#define KNOWN_LEN 512   /* bytes of one */

/* ---- state ------------------------------------------------------------------------- */

struct known {
    char text[KNOWN_LEN];
    size_t len;
    struct assigned to;
};

struct collector {
    const struct ctr_ask *ask;
    struct collected *c;
    struct events events;
    bool by_serve, by_request; /* how events name their answers */
    uint64_t round, rounds;
    bool counting; /* events are read for the first time */
    struct known *known;
    struct reactions reactions; /* of the answer at hand */
    progress_fn *progress;
    void *arg;
};

/* Counts a bad line, keeps what was wrong with the first ones, whatever the round that found them,
 * or, when that is asked for, fails. */
static int bad_line(struct collector *k, struct bad_lines *bad, uint64_t line, const char *place,
                    struct err *why, struct err *err)
{
    size_t shown = bad->n < BAD_SHOWN ? bad->n : BAD_SHOWN, i;

    if (k->ask->strict)
        return err_set(err, ERR_FORMAT, "%s: %s", place, why->text);
    bad->n++;
    if (shown == BAD_SHOWN && line > bad->at[--shown])
        return 0;
    free(bad->first[shown]);
    for (i = shown; i > 0 && bad->at[i - 1] > line; i--) {
        bad->at[i] = bad->at[i - 1];
        bad->first[i] = bad->first[i - 1];
    }
    bad->at[i] = line;
    bad->first[i] = xasprintf("%s: %s", place, why->text);
    return 0;
}

/* Files of another kind are no journal with a few bad lines. */
static int mostly_good(const struct bad_lines *bad, const char *option, struct err *err)
{
    if (bad->n <= bad->good)
        return 0;
    return err_set(err, ERR_FORMAT, "%s: %llu of %llu lines cannot be read: %s", option,
                   (unsigned long long)bad->n, (unsigned long long)(bad->n + bad->good),
                   bad->first[0]);
}

static void show(struct collector *k, struct journal_reader *r, const char *step)
{
    struct journal_progress p;

    if (k->progress == NULL)
        return;
    journal_reader_progress(r, &p);
    k->progress(k->arg, step, (size_t)p.bytes, (size_t)p.bytes_total);
}

#define SHOW_EVERY 4096 /* lines */

/* ---- events ------------------------------------------------------------------------ */

/* Keeps those of the round at hand. Without room for one, *full says so, and the rest is counted.
 */
static int take_event(struct collector *k, const struct scan_event *e, bool *full, struct err *err)
{
    bool serve = e->serve_id.p != NULL;
    struct event_row row = {
        .answer = raw_hash(serve ? e->serve_id : e->request_id) ^ (serve ? 0 : BY_REQUEST),
        .item = raw_hash(e->item_id),
        .id = raw_hash(e->event_id),
        .ts_ms = e->ts_ms,
        .position = e->position >= 0 && e->position < INT32_MAX ? (int32_t)e->position : -1,
        .kind = (uint8_t)e->kind,
    };
    int added;

    if (k->counting) {
        k->c->exposures += e->kind == SCAN_EXPOSED;
        k->c->clicks += e->kind == SCAN_CLICKED;
        k->c->others += e->kind == SCAN_OTHER;
    }
    if (e->kind == SCAN_OTHER)
        return 0;
    k->by_serve |= serve;
    k->by_request |= !serve;
    if (*full || row.answer % k->rounds != k->round)
        return 0;
    added = events_add(&k->events, &row, err);
    *full = added == 0;
    return added == -1 ? -1 : 0;
}

/* Of the times at which events came in. */
struct span {
    int64_t first, last;
};

static void span_add(struct span *s, int64_t ms)
{
    if (s->last == 0 || ms < s->first)
        s->first = ms;
    if (ms > s->last)
        s->last = ms;
}

static int read_events(struct collector *k, struct journal_reader *r, bool *full, struct span *span,
                       struct err *err)
{
    const char *line;
    size_t len;
    int more;

    for (uint64_t n = 0; (more = journal_reader_next(r, &line, &len, err)) == 1; n++) {
        struct scan_event e;
        struct err why = ERR_INIT;

        if (n % SHOW_EVERY == 0)
            show(k, r, "reading events");
        if (scan_event(line, len, &e, &why) == -1) {
            if (k->counting &&
                bad_line(k, &k->c->bad_events, n, journal_reader_place(r), &why, err) == -1)
                return -1;
            continue;
        }
        if (k->counting) {
            k->c->bad_events.good++;
            span_add(span, e.received_ms >= 0 ? e.received_ms : e.ts_ms);
        }
        if (take_event(k, &e, full, err) == -1)
            return -1;
    }
    return more;
}

static void choose_bucket(struct collector *k, const struct span *span)
{
    static const int minutes[] = {1, 5, 15, 60, 180, 360, 720, 1440};
    int64_t length = span->last - span->first;

    k->c->bucket_ms = k->ask->bucket_ms;
    for (size_t i = 0; k->c->bucket_ms == 0 && i < ARRAY_LEN(minutes); i++)
        if (length <= (int64_t)minutes[i] * 60000 * BUCKETS)
            k->c->bucket_ms = (int64_t)minutes[i] * 60000;
    if (k->c->bucket_ms == 0)
        k->c->bucket_ms = (int64_t)7 * 86400000;
}

/* So many rounds that each has room: hashes deal out evenly, but not exactly. */
static int choose_rounds(struct collector *k, struct err *err)
{
    uint64_t all = k->c->exposures + k->c->clicks;

    if (k->by_serve && k->by_request)
        return err_set(err, ERR_LIMIT,
                       "%llu events do not fit into the memory that --memory allows, and they "
                       "cannot be read in rounds because some name their answer by serve_id, "
                       "others by request_id: %llu MB would do",
                       (unsigned long long)all,
                       (unsigned long long)(all * (sizeof(struct event_row) + 4) / 1000000 + 1));
    k->rounds = all / (k->events.max - k->events.max / 4) + 1;
    return 0;
}

/* Those of round k->round, from the first line again. */
static int load_round(struct collector *k, struct journal_reader *r, struct err *err)
{
    struct span span = {0, 0};
    bool full = false;

    events_reset(&k->events);
    journal_reader_rewind(r);
    if (read_events(k, r, &full, &span, err) == -1)
        return -1;
    if (full)
        return err_set(err, ERR_LIMIT,
                       "the events of one round do not fit into the memory that --memory allows: "
                       "a few answers have very many of them, or the journal is being written to");
    return events_sort(&k->events, err);
}

/* Reads all, keeps them when they fit. */
static int load_first(struct collector *k, struct journal_reader *r, struct err *err)
{
    struct journal_progress p;
    struct span span = {0, 0};
    bool full = false;

    k->counting = true;
    if (r != NULL && (read_events(k, r, &full, &span, err) == -1 ||
                      mostly_good(&k->c->bad_events, "--events", err) == -1))
        return -1;
    k->counting = false;
    choose_bucket(k, &span);
    if (r != NULL) {
        journal_reader_progress(r, &p);
        k->c->event_files = p.files_total;
        k->c->torn += p.torn;
    }
    if (full)
        return choose_rounds(k, err) == -1 ? -1 : load_round(k, r, err);
    return events_sort(&k->events, err);
}

/* ---- an answer and its events -------------------------------------------------------- */

/* The same few texts come over and over. */
static const struct assigned *find_arms(struct collector *k, struct str text,
                                        struct assigned *scratch, struct err *err)
{
    struct known *at = &k->known[hash_bytes(text.p, text.len) % KNOWN];

    if (at->len == text.len && memcmp(at->text, text.p, text.len) == 0)
        return &at->to;
    if (collected_assigned(k->c, k->ask->experiments, text, scratch, err) == -1)
        return NULL;
    if (text.len <= KNOWN_LEN) {
        memcpy(at->text, text.p, text.len);
        at->len = text.len;
        at->to = *scratch;
    }
    return scratch;
}

/* Is it one that counts? The others are counted by reason. */
static bool is_wanted(struct collector *k, const struct scan_served *s)
{
    const struct ctr_ask *ask = k->ask;

    if (s->ts_ms < ask->since_ms || s->ts_ms >= ask->until_ms)
        k->c->outside++;
    else if (ask->version != -1 && s->experiments != ask->version)
        k->c->other_version++;
    else if (s->forced)
        k->c->forced++;
    else
        return true;
    return false;
}

/* Events of one of the two names, for the first answer that comes with it. */
static size_t claim(struct collector *k, uint64_t answer, uint64_t serve, bool *twice,
                    struct event_row **rows)
{
    size_t n = events_find(&k->events, answer, rows);

    if (n == 0)
        return 0;
    if (rows[0]->found) {
        *twice |= rows[0]->id == serve;
        k->c->reused += rows[0]->id != serve ? events_groups(rows[0], n) : 0;
        return 0;
    }
    rows[0]->found = true;
    rows[0]->id = serve;
    return n;
}

/* 1 when it is one of this round, 0 when it is not or nobody can tell; *why says what is wrong with
 * the line. */
static int take_answer(struct collector *k, const char *line, size_t len, struct err *why,
                       struct err *err)
{
    struct scan_served s;
    struct assigned scratch;
    const struct assigned *arms;
    struct event_row *rows[2] = {NULL, NULL};
    struct reactions *r = &k->reactions;
    uint64_t serve, request;
    size_t n[2] = {0, 0};
    bool twice = false;

    if (scan_served(line, len, &s, why) == -1)
        return 0;
    serve = raw_hash(s.serve_id);
    request = raw_hash(s.request_id);
    if (k->rounds > 1 && (k->by_serve ? serve : request ^ BY_REQUEST) % k->rounds != k->round)
        return 0;
    if (k->by_serve && s.serve_id.p != NULL)
        n[0] = claim(k, serve, serve, &twice, &rows[0]);
    if (k->by_request && s.request_id.p != NULL)
        n[1] = claim(k, request ^ BY_REQUEST, serve, &twice, &rows[1]);
    if (twice) {
        k->c->twice++;
        return 1;
    }
    if (!is_wanted(k, &s))
        return 1;
    arms = find_arms(k, s.arms, &scratch, why);
    if (arms == NULL)
        return 1;
    reactions_reset(r);
    for (size_t i = 0; i < 2; i++)
        reactions_add(r, rows[i], n[i], s.ts_ms, k->ask->window_ms);
    if (r->n > 0) {
        if (scan_served_lists(&s, why) == -1)
            return 1;
        reactions_place(r, s.items, s.by);
    }
    return collected_count(k->c, &s, arms, r, k->ask->all_items, err) == -1 ? -1 : 1;
}

/* ---- all of them --------------------------------------------------------------------- */

static int read_served(struct collector *k, struct journal_reader *r, struct err *err)
{
    const char *line;
    size_t len;
    int more;

    for (uint64_t n = 0; (more = journal_reader_next(r, &line, &len, err)) == 1; n++) {
        struct err why = ERR_INIT;
        int mine;

        if (n % SHOW_EVERY == 0)
            show(k, r, "reading answers");
        mine = take_answer(k, line, len, &why, err);
        if (mine == -1)
            return -1;
        k->c->bad_served.good += mine == 1 && why.code == ERR_NONE;
        if (why.code != ERR_NONE && (mine == 1 || k->round == 0) &&
            bad_line(k, &k->c->bad_served, n, journal_reader_place(r), &why, err) == -1)
            return -1;
    }
    for (size_t i = 0; i < k->events.n; i++) {
        size_t first = i;

        while (i + 1 < k->events.n && k->events.rows[i + 1].answer == k->events.rows[first].answer)
            i++;
        if (!k->events.rows[first].found)
            k->c->unmatched += events_groups(&k->events.rows[first], i + 1 - first);
    }
    return more;
}

static void end_of_served(struct collector *k, struct journal_reader *r)
{
    struct journal_progress p;

    journal_reader_progress(r, &p);
    k->c->served_files = p.files_total;
    k->c->text_bytes = p.text_bytes;
    k->c->torn += p.torn;
}

/* Of the last time that they were read: what is gone does not come back. */
static uint64_t gone(const struct journal_reader *r)
{
    struct journal_progress p = {0};

    if (r != NULL)
        journal_reader_progress(r, &p);
    return p.gone;
}

static int read_all(struct collector *k, struct journal_reader *served,
                    struct journal_reader *events, struct err *err)
{
    if (load_first(k, events, err) == -1)
        return -1;
    for (k->round = 0; k->round < k->rounds; k->round++) {
        if (k->round > 0) {
            journal_reader_rewind(served);
            if (load_round(k, events, err) == -1)
                return -1;
        }
        if (read_served(k, served, err) == -1)
            return -1;
        k->c->same_id += k->events.same_id;
        k->c->again += k->events.again;
        k->events.same_id = k->events.again = 0;
        if (k->round == 0)
            end_of_served(k, served);
    }
    k->c->rounds = (int)k->rounds;
    k->c->gone = gone(served) + gone(events);
    return mostly_good(&k->c->bad_served, "--served", err);
}

int collect(const struct ctr_ask *ask, struct collected *c, progress_fn *progress, void *arg,
            struct err *err)
{
    struct collector k = {.ask = ask, .c = c, .rounds = 1, .progress = progress, .arg = arg};
    struct journal_reader *served = NULL, *events = NULL;
    int result = -1;

    collected_init(c);
    events_init(&k.events, ask->memory);
    k.known = xcalloc(KNOWN, sizeof *k.known);
    served = journal_reader_open(JOURNAL_SERVED, ask->served, ask->n_served, err);
    if (served == NULL)
        goto out;
    if (ask->n_events > 0) {
        events = journal_reader_open(JOURNAL_EVENTS, ask->events, ask->n_events, err);
        if (events == NULL)
            goto out;
    }
    result = read_all(&k, served, events, err);
    collected_end(c);
out:
    journal_reader_free(served);
    journal_reader_free(events);
    events_clear(&k.events);
    free(k.known);
    reactions_clear(&k.reactions);
    if (result == -1)
        collected_clear(c);
    return result;
}
