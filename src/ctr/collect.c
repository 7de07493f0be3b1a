/* collect.c - events into memory, answers past them, sums per unit.
 *
 * Where the events do not fit into memory, they are dealt out to rounds by the hash of the answer
 * they name, and the answers are read in each round, every one of them counting in one. */
#include "collect.h"

#include "events.h"

#include "recalld/journal.h"

#include <stdlib.h>

const int rank_ends[RANKS] = {10, 20, 50, 100, 200, 500, INT32_MAX};

#define EARLY_MS 60000 /* clocks differ: an event may precede its answer by so much */
#define BUCKETS 50     /* of the plot, about */
#define BY_REQUEST \
    0x9e3779b97f4a7c15u /* sets hashes of request ids apart from those of serve ids */
#define KNOWN 1024      /* sets of arms that are remembered */
#define KNOWN_LEN 512   /* bytes of one */

/* ---- state ------------------------------------------------------------------------- */

/* The arms of an answer. */
struct assigned {
    size_t n;
    uint8_t layer[EXPERIMENT_LAYERS_MAX], arm[EXPERIMENT_LAYERS_MAX];
};

struct known {
    char text[KNOWN_LEN];
    size_t len;
    struct assigned to;
};

/* An item of an answer that something happened to. */
struct reaction {
    uint64_t item;
    bool exposed, clicked;
    int32_t position; /* where it was shown, -1 = not said */
    int32_t rank;     /* in the answer, -1 = it is not there */
    int interest;
};

struct collector {
    const struct ctr_ask *ask;
    struct collected *c;
    struct events events;
    bool by_serve, by_request; /* how events name their answers */
    uint64_t round, rounds;
    bool counting; /* events are read for the first time */
    struct known *known;
    struct reaction *reactions; /* of the answer at hand */
    size_t n_reactions, cap_reactions;
    int16_t *interests; /* of its items, as far as they are needed */
    size_t cap_interests;
    uint32_t late, early; /* of its events */
    progress_fn *progress;
    void *arg;
};

static int no_memory(struct err *err, size_t n, const char *what)
{
    return err_set(err, ERR_NOMEM, "no memory for more than %zu %s", n, what);
}

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

/* ---- names --------------------------------------------------------------------------- */

/* The number of a layer or arm, new ones at the end; -1 when there are too many. */
static int layer_number(struct collector *k, const char *name, struct err *err)
{
    struct collected *c = k->c;
    const struct experiments *e = k->ask->experiments;
    int known;

    for (size_t i = 0; i < c->n_layers; i++)
        if (strcmp(c->layers[i].name, name) == 0)
            return (int)i;
    if (c->n_layers == LAYERS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d layers", LAYERS_MAX);
    known = e == NULL ? -1 : experiments_layer_find(e, name);
    c->layers[c->n_layers].name = xstrdup(name);
    if (known >= 0) {
        const char *unit = experiments_layer_unit(e, known);

        c->layers[c->n_layers].by_request = strcmp(unit, "request_id") == 0;
        c->layers[c->n_layers].by_context = strncmp(unit, "context.", 8) == 0;
    }
    return (int)c->n_layers++;
}

static int arm_number(struct seen_layer *layer, const char *name, struct err *err)
{
    for (size_t i = 0; i < layer->n_arms; i++)
        if (strcmp(layer->arms[i]->name, name) == 0)
            return (int)i;
    if (layer->n_arms == ARMS_MAX)
        return err_set(err, ERR_LIMIT, "more than %d arms of a layer", ARMS_MAX);
    layer->arms[layer->n_arms] = xcalloc(1, sizeof *layer->arms[0]);
    layer->arms[layer->n_arms]->name = xstrdup(name);
    return (int)layer->n_arms++;
}

/* Names are printed: what a terminal or a page would take for more than text becomes '?'. */
static void take_name(struct raw r, struct buf *name)
{
    bool text;

    name->len = 0;
    raw_text(r, name);
    text = utf8_valid(name->p, name->len);
    for (size_t i = 0; i < name->len; i++) {
        unsigned char c = (unsigned char)name->p[i];

        if (c < 0x20 || c == 0x7f || (c >= 0x80 && !text))
            name->p[i] = '?';
        else if (c == 0xc2 && (unsigned char)name->p[i + 1] < 0xa0) /* U+0080 to U+009F */
            name->p[i] = name->p[i + 1] = '?';
    }
}

static int read_arms(struct collector *k, struct str text, struct assigned *out, struct err *err)
{
    struct raw layer, arm;
    struct buf name = BUF_INIT;
    int result = 0;

    out->n = 0;
    while (result == 0 && scan_arm(&text, &layer, &arm)) {
        int l, a = -1;

        take_name(layer, &name);
        l = layer_number(k, buf_cstr(&name), err);
        take_name(arm, &name);
        if (l >= 0)
            a = arm_number(&k->c->layers[l], buf_cstr(&name), err);
        if (a >= 0 && out->n == EXPERIMENT_LAYERS_MAX)
            a = err_set(err, ERR_LIMIT, "arms: more than %d layers", EXPERIMENT_LAYERS_MAX);
        result = a == -1 ? -1 : 0;
        if (result == 0) {
            out->layer[out->n] = (uint8_t)l;
            out->arm[out->n++] = (uint8_t)a;
        }
    }
    buf_clear(&name);
    return result;
}

/* The same few texts come over and over. */
static const struct assigned *find_arms(struct collector *k, struct str text,
                                        struct assigned *scratch, struct err *err)
{
    struct known *at = &k->known[hash_bytes(text.p, text.len) % KNOWN];

    if (at->len == text.len && memcmp(at->text, text.p, text.len) == 0)
        return &at->to;
    if (read_arms(k, text, scratch, err) == -1)
        return NULL;
    if (text.len <= KNOWN_LEN) {
        memcpy(at->text, text.p, text.len);
        at->len = text.len;
        at->to = *scratch;
    }
    return scratch;
}

static uint8_t version_number(struct collected *c, int64_t version)
{
    for (size_t i = 0; i < c->n_versions; i++)
        if (c->versions[i] == version)
            return (uint8_t)i;
    if (c->n_versions == VERSIONS_MAX)
        return VERSIONS_MAX - 1;
    c->versions[c->n_versions] = version;
    return (uint8_t)c->n_versions++;
}

/* ---- an answer and its events -------------------------------------------------------- */

static int by_item(const void *left, const void *right)
{
    const struct reaction *a = left, *b = right;

    return (a->item > b->item) - (a->item < b->item);
}

/* The reactions have the order of their items, unless events of two names are put together. */
static struct reaction *reaction_of(struct collector *k, uint64_t item, size_t sorted)
{
    struct reaction key = {.item = item}, *r = NULL;

    if (k->n_reactions > 0 && k->reactions[k->n_reactions - 1].item == item)
        return &k->reactions[k->n_reactions - 1];
    if (sorted > 0)
        r = bsearch(&key, k->reactions, sorted, sizeof key, by_item);
    if (r != NULL)
        return r;
    if (k->n_reactions == k->cap_reactions) {
        k->cap_reactions = 2 * k->cap_reactions + 64;
        k->reactions = xrealloc(k->reactions, k->cap_reactions * sizeof *k->reactions);
    }
    r = &k->reactions[k->n_reactions++];
    *r = (struct reaction){.item = item, .position = -1, .rank = -1, .interest = INTERESTS - 1};
    return r;
}

static void react(struct collector *k, const struct event_row *rows, size_t n, int64_t ts_ms)
{
    size_t sorted = k->n_reactions;

    for (size_t i = 0; i < n; i++) {
        int64_t after = rows[i].ts_ms - ts_ms;
        struct reaction *r;

        if (after > k->ask->window_ms || after < -EARLY_MS) {
            k->late += after > 0;
            k->early += after < 0;
            continue;
        }
        r = reaction_of(k, rows[i].item, sorted);
        r->exposed |= rows[i].kind == SCAN_EXPOSED;
        r->clicked |= rows[i].kind == SCAN_CLICKED;
        if (r->position == -1)
            r->position = rows[i].position;
    }
    if (sorted > 0)
        qsort(k->reactions, k->n_reactions, sizeof *k->reactions, by_item);
}

/* Ranks of those that the answer contains; returns how many items were looked at. */
static size_t find_ranks(struct collector *k, struct str items)
{
    uint64_t mask = 0;
    size_t missing = k->n_reactions, rank = 0;
    struct raw item;

    for (size_t i = 0; i < k->n_reactions; i++)
        mask |= (uint64_t)1 << (k->reactions[i].item & 63);
    for (; missing > 0 && scan_item(&items, &item); rank++) {
        struct reaction key = {.item = raw_hash(item)}, *r;

        if (!(mask >> (key.item & 63) & 1))
            continue;
        r = bsearch(&key, k->reactions, k->n_reactions, sizeof key, by_item);
        if (r != NULL && r->rank == -1) {
            r->rank = (int32_t)rank;
            missing--;
        }
    }
    return rank;
}

static void find_interests(struct collector *k, struct str by, size_t ranks)
{
    int64_t interest;
    size_t n = 0;

    if (by.p == NULL)
        return;
    if (ranks > k->cap_interests) {
        k->cap_interests = 2 * ranks;
        k->interests = xrealloc(k->interests, k->cap_interests * sizeof *k->interests);
    }
    while (n < ranks && scan_number(&by, &interest))
        k->interests[n++] =
            (int16_t)(interest >= 0 && interest < INTERESTS - 1 ? interest : INTERESTS - 1);
    for (size_t i = 0; i < k->n_reactions; i++) {
        struct reaction *r = &k->reactions[i];

        if (r->rank >= 0 && (size_t)r->rank < n)
            r->interest = k->interests[r->rank];
    }
}

/* What of the reaction counts for the ratio of clicks to exposures. */
static bool counts(const struct collector *k, const struct reaction *r)
{
    return r->exposed && (r->rank >= 0 || k->ask->all_items);
}

static void describe(struct share *s, bool exposed, const struct reaction *r)
{
    s->exposed += exposed;
    s->clicked += exposed && r->clicked;
    s->hits += r->clicked && r->rank >= 0;
}

static void describe_arm(const struct collector *k, struct seen_arm *arm)
{
    arm->apart[APART_LATE] += k->late;
    arm->apart[APART_EARLY] += k->early;
    for (size_t i = 0; i < k->n_reactions; i++) {
        const struct reaction *r = &k->reactions[i];
        bool exposed = counts(k, r);
        size_t rank = 0;

        arm->apart[APART_UNEXPOSED] += r->clicked && !r->exposed;
        arm->apart[APART_FOREIGN] += r->exposed && r->rank < 0;
        if (r->rank >= 0) {
            while (r->rank >= rank_ends[rank])
                rank++;
            describe(&arm->ranks[rank], exposed, r);
            describe(&arm->interests[r->interest], exposed, r);
        }
        if (r->position >= 0)
            describe(&arm->shown[r->position < SHOWN ? r->position : SHOWN - 1], exposed, r);
    }
}

static int count_unit(struct collector *k, uint64_t id, uint32_t layer, uint8_t arm,
                      const struct scan_served *s, const uint32_t n[COUNTERS], struct err *err)
{
    struct unit key = {.id = id, .layer = layer}, *u;
    size_t row = keyed_get(&k->c->units, &key);
    uint8_t version = version_number(k->c, s->experiments);
    struct stretch cell = {.unit = (uint32_t)row, .bucket = (uint32_t)(s->ts_ms / k->c->bucket_ms)};

    if (row == SIZE_MAX)
        return no_memory(err, k->c->units.n, "users and layers");
    u = keyed_row(&k->c->units, row);
    if (u->n[ALL][COUNT_ANSWERS] == 0) {
        u->arm = arm;
        u->version = version;
    }
    u->crossed |= u->arm != arm;
    if (k->c->versions[version] < k->c->versions[u->version])
        u->version = version;
    for (size_t i = 0; i < COUNTERS; i++) {
        u->n[ALL][i] += n[i];
        u->n[UNDEGRADED][i] += s->degraded ? 0 : n[i];
    }
    k->c->layers[layer].arms[arm]->versions[version]++;
    if (n[COUNT_EXPOSED] == 0)
        return 0;
    row = keyed_get(&k->c->stretches, &cell);
    if (row == SIZE_MAX)
        return no_memory(err, k->c->stretches.n, "users and stretches of time");
    ((struct stretch *)keyed_row(&k->c->stretches, row))->exposed += n[COUNT_EXPOSED];
    ((struct stretch *)keyed_row(&k->c->stretches, row))->clicked += n[COUNT_CLICKED];
    return 0;
}

static int count_answer(struct collector *k, const struct scan_served *s,
                        const struct assigned *arms, uint64_t request, struct err *err)
{
    uint32_t n[COUNTERS] = {[COUNT_ANSWERS] = 1};
    uint64_t user = s->user_id.p != NULL ? raw_hash(s->user_id) : request;

    for (size_t i = 0; i < k->n_reactions; i++) {
        const struct reaction *r = &k->reactions[i];

        n[COUNT_EXPOSED] += counts(k, r);
        n[COUNT_CLICKED] += counts(k, r) && r->clicked;
        n[COUNT_CLICKS] += r->clicked;
        n[COUNT_HITS] += r->clicked && r->rank >= 0;
    }
    for (size_t i = 0; i < arms->n; i++) {
        struct seen_layer *layer = &k->c->layers[arms->layer[i]];
        struct seen_arm *arm = layer->arms[arms->arm[i]];

        if (count_unit(k, layer->by_request ? request : user, arms->layer[i], arms->arm[i], s, n,
                       err) == -1)
            return -1;
        arm->answers++;
        arm->degraded += s->degraded;
        describe_arm(k, arm);
    }
    return 0;
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

static void note_answer(struct collected *c, const struct scan_served *s)
{
    if (c->answers == 0 || s->ts_ms < c->first_ms)
        c->first_ms = s->ts_ms;
    if (c->answers == 0 || s->ts_ms > c->last_ms)
        c->last_ms = s->ts_ms;
    if (c->answers == 0 || s->sample < c->sample_min)
        c->sample_min = s->sample;
    if (c->answers == 0 || s->sample > c->sample_max)
        c->sample_max = s->sample;
    c->answers++;
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
        k->c->reused += rows[0]->id != serve ? n : 0;
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
    k->n_reactions = 0;
    k->late = k->early = 0;
    react(k, rows[0], n[0], s.ts_ms);
    react(k, rows[1], n[1], s.ts_ms);
    if (k->n_reactions > 0) {
        if (scan_served_lists(&s, why) == -1)
            return 1;
        find_interests(k, s.by, find_ranks(k, s.items));
    }
    note_answer(k->c, &s);
    k->c->unassigned += arms->n == 0;
    return count_answer(k, &s, arms, s.request_id.p != NULL ? request : serve, err) == -1 ? -1 : 1;
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
            k->c->unmatched += i + 1 - first;
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
    return mostly_good(&k->c->bad_served, "--served", err);
}

/* Ascending: which was met first depends on the rounds. */
static void sort_versions(struct collected *c)
{
    size_t place[VERSIONS_MAX] = {0};
    int64_t versions[VERSIONS_MAX];
    uint64_t answers[VERSIONS_MAX] = {0};

    memcpy(versions, c->versions, sizeof versions);
    for (size_t i = 0; i < c->n_versions; i++) {
        for (size_t j = 0; j < c->n_versions; j++)
            place[i] += versions[j] < versions[i];
        c->versions[place[i]] = versions[i];
    }
    for (size_t i = 0; i < c->units.n; i++) {
        struct unit *u = keyed_row(&c->units, i);

        u->version = (uint8_t)place[u->version];
    }
    for (size_t l = 0; l < c->n_layers; l++)
        for (size_t a = 0; a < c->layers[l].n_arms; a++) {
            uint64_t *of_arm = c->layers[l].arms[a]->versions;

            for (size_t i = 0; i < c->n_versions; i++)
                answers[place[i]] = of_arm[i];
            memcpy(of_arm, answers, sizeof answers);
        }
}

int collect(const struct ctr_ask *ask, struct collected *c, progress_fn *progress, void *arg,
            struct err *err)
{
    struct collector k = {.ask = ask, .c = c, .rounds = 1, .progress = progress, .arg = arg};
    struct journal_reader *served = NULL, *events = NULL;
    int result = -1;

    *c = (struct collected){0};
    keyed_init(&c->units, sizeof(struct unit), UNIT_KEY);
    keyed_init(&c->stretches, sizeof(struct stretch), STRETCH_KEY);
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
    sort_versions(c);
out:
    journal_reader_free(served);
    journal_reader_free(events);
    events_clear(&k.events);
    free(k.known);
    free(k.reactions);
    free(k.interests);
    if (result == -1)
        collected_clear(c);
    return result;
}

static void bad_clear(struct bad_lines *bad)
{
    for (size_t i = 0; i < BAD_SHOWN; i++)
        free(bad->first[i]);
}

void collected_clear(struct collected *c)
{
    for (size_t i = 0; i < c->n_layers; i++) {
        for (size_t j = 0; j < c->layers[i].n_arms; j++) {
            free(c->layers[i].arms[j]->name);
            free(c->layers[i].arms[j]);
        }
        free(c->layers[i].name);
    }
    keyed_clear(&c->units);
    keyed_clear(&c->stretches);
    bad_clear(&c->bad_served);
    bad_clear(&c->bad_events);
    *c = (struct collected){0};
}
