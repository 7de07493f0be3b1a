/* collected.c - layers, arms and versions by number, and what answers add to their sums. */
#include "collected.h"

#include <stdlib.h>

const int rank_ends[RANKS] = {10, 20, 50, 100, 200, 500, INT32_MAX};

static int no_memory(struct err *err, size_t n, const char *what)
{
    return err_set(err, ERR_NOMEM, "no memory for more than %zu %s", n, what);
}

void collected_init(struct collected *c)
{
    *c = (struct collected){0};
    keyed_init(&c->units, sizeof(struct unit), UNIT_KEY);
    keyed_init(&c->stretches, sizeof(struct stretch), STRETCH_KEY);
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

/* ---- names --------------------------------------------------------------------------- */

/* The number of a layer or arm, new ones at the end; -1 when there are too many. */
static int layer_number(struct collected *c, const struct experiments *e, const char *name,
                        struct err *err)
{
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

int collected_assigned(struct collected *c, const struct experiments *e, struct str arms,
                       struct assigned *out, struct err *err)
{
    struct raw layer, arm;
    struct buf name = BUF_INIT;
    int result = 0;

    out->n = 0;
    while (result == 0 && scan_arm(&arms, &layer, &arm)) {
        int l, a = -1;

        take_name(layer, &name);
        l = layer_number(c, e, buf_cstr(&name), err);
        take_name(arm, &name);
        if (l >= 0)
            a = arm_number(&c->layers[l], buf_cstr(&name), err);
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

void collected_end(struct collected *c)
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

/* ---- sums ---------------------------------------------------------------------------- */

/* What of the reaction counts for the ratio of clicks to exposures. */
static bool counts(const struct reaction *r, bool all_items)
{
    return r->exposed && (r->rank >= 0 || all_items);
}

static void describe(struct share *s, bool exposed, const struct reaction *r)
{
    s->exposed += exposed;
    s->clicked += exposed && r->clicked;
    s->hits += r->clicked && r->rank >= 0;
}

static void describe_arm(struct seen_arm *arm, const struct reactions *all, bool all_items)
{
    arm->apart[APART_LATE] += all->late;
    arm->apart[APART_EARLY] += all->early;
    for (size_t i = 0; i < all->n; i++) {
        const struct reaction *r = &all->of[i];
        bool exposed = counts(r, all_items);
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

/* Buckets are counted from the first one met. What lies too far from it becomes the end of the
 * range, which is too far for a plot, too. */
static int count_stretch(struct collected *c, size_t unit, int64_t ts_ms, uint32_t exposed,
                         uint32_t clicked, struct err *err)
{
    int64_t bucket = ts_ms / c->bucket_ms;
    struct stretch key = {.unit = (uint32_t)unit}, *cell;
    size_t row;

    if (c->stretches.n == 0)
        c->bucket_zero = bucket;
    bucket -= c->bucket_zero;
    key.bucket = (int32_t)(bucket > INT32_MAX   ? INT32_MAX
                           : bucket < INT32_MIN ? INT32_MIN
                                                : bucket);
    row = keyed_get(&c->stretches, &key);
    if (row == SIZE_MAX)
        return no_memory(err, c->stretches.n, "users and stretches of time");
    cell = keyed_row(&c->stretches, row);
    cell->exposed += exposed;
    cell->clicked += clicked;
    return 0;
}

static int count_unit(struct collected *c, uint64_t id, uint32_t layer, uint8_t arm,
                      const struct scan_served *s, const uint32_t n[COUNTERS], struct err *err)
{
    struct unit key = {.id = id, .layer = layer}, *u;
    size_t row = keyed_get(&c->units, &key);
    uint8_t version = version_number(c, s->experiments);

    if (row == SIZE_MAX)
        return no_memory(err, c->units.n, "users and layers");
    u = keyed_row(&c->units, row);
    if (u->n[ALL][COUNT_ANSWERS] == 0) {
        u->arm = arm;
        u->version = version;
    }
    u->crossed |= u->arm != arm;
    if (c->versions[version] < c->versions[u->version])
        u->version = version;
    for (size_t i = 0; i < COUNTERS; i++) {
        u->n[ALL][i] += n[i];
        u->n[UNDEGRADED][i] += s->degraded ? 0 : n[i];
    }
    c->layers[layer].arms[arm]->versions[version]++;
    return n[COUNT_EXPOSED] == 0
               ? 0
               : count_stretch(c, row, s->ts_ms, n[COUNT_EXPOSED], n[COUNT_CLICKED], err);
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

int collected_count(struct collected *c, const struct scan_served *s, const struct assigned *arms,
                    const struct reactions *r, bool all_items, struct err *err)
{
    uint32_t n[COUNTERS] = {[COUNT_ANSWERS] = 1};
    uint64_t request = raw_hash(s->request_id.p != NULL ? s->request_id : s->serve_id);
    uint64_t user = s->user_id.p != NULL ? raw_hash(s->user_id) : request;

    note_answer(c, s);
    c->unassigned += arms->n == 0;
    for (size_t i = 0; i < r->n; i++) {
        bool exposed = counts(&r->of[i], all_items), clicked = r->of[i].clicked;

        n[COUNT_EXPOSED] += exposed;
        n[COUNT_CLICKED] += exposed && clicked;
        n[COUNT_CLICKS] += clicked;
        n[COUNT_HITS] += clicked && r->of[i].rank >= 0;
    }
    for (size_t i = 0; i < arms->n; i++) {
        struct seen_layer *layer = &c->layers[arms->layer[i]];
        struct seen_arm *arm = layer->arms[arms->arm[i]];

        if (count_unit(c, layer->by_request ? request : user, arms->layer[i], arms->arm[i], s, n,
                       err) == -1)
            return -1;
        arm->answers++;
        arm->degraded += s->degraded;
        describe_arm(arm, r, all_items);
    }
    return 0;
}
