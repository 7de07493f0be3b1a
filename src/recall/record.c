/* record.c - an answered call as the journal's record of it.
 *
 * Written by the worker after the whole batch was handed back, so no answer waits for it. */
#include <stdlib.h>

#include "call.h"

#define PICKS_MAX 10000 /* recall.n_max's upper bound */

struct recorder {
    struct journal *journal;
    struct journal_ring *ring;
    struct settings defaults;
    struct buf line, settings;
    struct journal_pair arms[EXPERIMENT_LAYERS_MAX];
    struct str degraded[DEGRADED_COUNT];
    float scores[PICKS_MAX];
    int by[PICKS_MAX];
};

struct recorder *recorder_new(struct journal *j)
{
    struct recorder *r;

    if (j == NULL)
        return NULL;
    r = xcalloc(1, sizeof *r);
    r->journal = j;
    r->ring = journal_ring(j, JOURNAL_SERVED);
    settings_default(&r->defaults);
    return r;
}

void recorder_free(struct recorder *r)
{
    if (r == NULL)
        return;
    buf_clear(&r->line);
    buf_clear(&r->settings);
    free(r);
}

/* ---- parts --------------------------------------------------------------------------------- */

static struct str text(const char *s)
{
    return (struct str){s, strlen(s)};
}

static bool same_value(const struct settings *a, const struct settings *b, const struct setting *s)
{
    const char *x = (const char *)a + s->offset, *y = (const char *)b + s->offset;

    switch (s->type) {
    case SETTING_INT:
    case SETTING_ENUM:
        return memcmp(x, y, sizeof(int)) == 0;
    case SETTING_DOUBLE:
        return memcmp(x, y, sizeof(double)) == 0;
    case SETTING_BOOL:
        return memcmp(x, y, sizeof(bool)) == 0;
    case SETTING_STRING:
        break;
    }
    return strcmp(x, y) == 0;
}

static void put_setting(struct buf *out, const struct settings *values, const struct setting *s)
{
    bool word = s->type == SETTING_ENUM;

    buf_puts(out, out->len == 0 ? "{\"" : ",\"");
    buf_puts(out, s->name);
    buf_puts(out, word ? "\":\"" : "\":");
    if (s->type == SETTING_STRING) {
        const char *value = (const char *)values + s->offset;

        buf_json(out, value, strlen(value));
        return;
    }
    settings_get(values, s, out);
    if (word)
        buf_putc(out, '"');
}

/* The settings this answer was made with, where they are not the defaults; "" = none. */
static struct str differing(struct recorder *r, const struct settings *s)
{
    struct buf *out = &r->settings;
    const struct setting *table;
    size_t n;

    out->len = 0;
    table = settings_table(&n);
    for (size_t i = 0; i < n; i++)
        if (!same_value(s, &r->defaults, &table[i]))
            put_setting(out, s, &table[i]);
    if (out->len > 0)
        buf_putc(out, '}');
    return (struct str){out->p, out->len};
}

static void record_experiments(struct recorder *r, const struct recall_call *c,
                               struct journal_served *s)
{
    const struct experiments *e = c->experiments;

    if (e == NULL)
        return;
    s->hash = text(experiments_hash(e));
    s->experiments = experiments_version(e);
    s->forced = c->assignment.forced;
    s->arms = r->arms;
    for (int i = 0; i < experiments_layers(e); i++)
        if (c->assignment.arm[i] != EXPERIMENT_NO_ARM)
            r->arms[s->n_arms++] =
                (struct journal_pair){text(experiments_layer_name(e, i)),
                                      text(experiments_arm_name(e, i, c->assignment.arm[i]))};
}

static void record_degraded(struct recorder *r, const struct recall_call *c,
                            struct journal_served *s)
{
    s->degraded = r->degraded;
    for (int d = 0; d < DEGRADED_COUNT; d++)
        if (c->degraded & UINT32_C(1) << d)
            r->degraded[s->n_degraded++] = text(degraded_words[d]);
}

static void record_items(struct recorder *r, const struct recall_call *c, struct journal_served *s)
{
    s->items = c->ids;
    s->n_items = c->n_picks;
    if (c->source != SOURCE_MODEL)
        return;
    s->scores = r->scores;
    s->by = r->by;
    s->n_scores = c->n_picks;
    for (size_t i = 0; i < c->n_picks; i++) {
        r->scores[i] = c->picks[i].score;
        r->by[i] = c->live[c->picks[i].list];
    }
}

/* ---- the whole ------------------------------------------------------------------------------ */

static struct journal_served record(struct recorder *r, const struct recall_call *c,
                                    char room[JOURNAL_USER_ROOM])
{
    struct journal_served s = {
        .ts_ms = clock_wall_ms(),
        .serve_id = text(c->serve_id),
        .request_id = text(c->request_id),
        .user_id = journal_user(r->journal, c->user_id, room),
        .scene = c->scene,
        .bundle = text(bundle_name(c->bundle)),
        .settings = differing(r, &c->settings),
        .source = text(source_words[c->source]),
        .history = c->n_rows > 0 ? c->input.used : 0,
        .interests = (uint64_t)c->n_live,
        .sample = journal_sample(r->journal),
        .took_us = c->took_us,
    };

    record_experiments(r, c, &s);
    record_degraded(r, c, &s);
    record_items(r, c, &s);
    return s;
}

void recorder_write(struct recorder *r, const struct recall_call *c)
{
    char room[JOURNAL_USER_ROOM];
    struct journal_served s;

    if (c->n_picks > PICKS_MAX || !journal_samples(r->journal, c->user_id, c->request_id))
        return;
    s = record(r, c, room);
    r->line.len = 0;
    journal_served_encode(&r->line, &s);
    journal_push(r->ring, r->line.p, r->line.len);
}
