/* pipeline.c - a batch of requests through the stages. Read this first.
 *
 *   parsed calls, behaviour read
 *     -> prepare    arms, settings, bundle, external ids to rows, what to exclude, filter
 *     -> interests  capsule routing, one batch per bundle
 *     -> search     all live interests of the batch, one call per bundle
 *     -> merge      K lists into one; asks the index for more when too little is left
 *     -> render     the answer, handed back at once
 *
 * Nothing here waits, locks or knows about threads. Memory comes from each call's arena. */
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "effort.h"
#include "recalld/vec.h"

/* How often the index is asked for more, each time for GROWTH times as much. */
#define REFILLS 4
#define GROWTH 4
/* Of the zero vector nothing is near; a capsule this short holds nothing but rounding. */
#define ZERO_NORM 1e-8f

struct pipeline {
    struct model_scratch *model;
    struct index_scratch *index;
    const struct index *instead; /* of the bundles' own; or NULL */
    struct arena arena;          /* of the batch */
    struct slot {                /* filters, used again from batch to batch */
        struct row_filter *filter;
        size_t rows;
    } * slots;
    size_t n_slots, n_taken;
};

struct pipeline *pipeline_new(void)
{
    struct pipeline *p = xcalloc(1, sizeof *p);

    p->model = model_scratch_new();
    p->index = index_scratch_new();
    return p;
}

void pipeline_free(struct pipeline *p)
{
    if (p == NULL)
        return;
    model_scratch_free(p->model);
    index_scratch_free(p->index);
    for (size_t i = 0; i < p->n_slots; i++)
        filter_free(p->slots[i].filter);
    free(p->slots);
    arena_clear(&p->arena);
    free(p);
}

void pipeline_index(struct pipeline *p, const struct index *ix)
{
    p->instead = ix;
}

void call_refuse(struct recall_call *c, int status, const char *sentence)
{
    c->status = status;
    c->answer.len = 0;
    buf_puts(&c->answer, sentence);
}

/* ---- prepare ----------------------------------------------------------------------- */

/* Who gets which arm, and what that makes of the settings; -1 when the call is refused. */
static int assign_arms(struct recall_call *c, const struct bundle_set *set)
{
    const struct experiments *e = (const struct experiments *)bundle_set_beside(set);
    struct experiment_subject subject = {c->user_id, c->scene, c->context, c->arms, c->request_id};
    struct err err = ERR_INIT;

    if (e == NULL && json_object_size(c->arms) > 0) {
        call_refuse(c, 403, "arms: there are no experiments");
        return -1;
    }
    if (e == NULL)
        return 0;
    if (experiments_assign(e, &subject, &c->assignment, &err) == -1) {
        snprintf(c->field, sizeof c->field, "%.*s", (int)strcspn(err.text, ":"), err.text);
        call_refuse(c, err.code == ERR_CONFLICT ? 403 : 400, err.text);
        return -1;
    }
    c->experiments = e;
    experiments_apply(e, &c->assignment, &c->settings);
    return 0;
}

static void choose_bundle(struct recall_call *c, const struct bundle_set *set)
{
    c->bundle = bundle_set_find(set, c->settings.bundle);
    if (c->bundle == NULL && c->settings.bundle[0] != '\0') {
        c->bundle = bundle_set_find(set, NULL);
        call_degrade(c, DEGRADED_BUNDLE_FALLBACK);
    }
}

/* Why the behaviour that came is less than it could be. */
static void mark_behaviour(struct recall_call *c, size_t n_items)
{
    enum behaviour_status status = c->has_history ? BEHAVIOUR_READ : c->job.status;

    switch (status) {
    case BEHAVIOUR_TIMEOUT:
        call_degrade(c, c->redis_cut_by_deadline ? DEGRADED_DEADLINE_BEHAVIOUR
                                                 : DEGRADED_REDIS_TIMEOUT);
        return;
    case BEHAVIOUR_ERROR:
        call_degrade(c, DEGRADED_REDIS_ERROR);
        return;
    case BEHAVIOUR_BREAKER:
        call_degrade(c, DEGRADED_BREAKER_OPEN);
        return;
    case BEHAVIOUR_READ:
        break;
    }
    if (n_items == 0)
        call_degrade(c, DEGRADED_EMPTY_HISTORY);
    else if (c->n_rows == 0)
        call_degrade(c, DEGRADED_UNKNOWN_ITEMS);
}

/* The rows of the ids that the bundle has, in the call's arena; *n becomes how many they are. */
static uint32_t *known_rows(struct recall_call *c, const struct str *ids, size_t *n)
{
    uint32_t *rows = arena_alloc(&c->arena, (*n + 1) * sizeof *rows);
    size_t known = 0;

    items_rows(bundle_items(c->bundle), ids, *n, rows);
    for (size_t i = 0; i < *n; i++)
        if (rows[i] != ITEMS_NONE)
            rows[known++] = rows[i];
    *n = known;
    return rows;
}

static void exclude_rows(struct recall_call *c, const uint32_t *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        row_set_add(c->excluded, rows[i]);
}

static void exclude_ids(struct recall_call *c, const struct str *ids, size_t n)
{
    const uint32_t *rows = known_rows(c, ids, &n);

    exclude_rows(c, rows, n);
}

/* External ids to rows: the history the model sees, and the set that must not come back. */
static void map_items(struct recall_call *c)
{
    const struct str *ids = c->has_history ? c->history : c->job.items;
    size_t n = c->has_history ? c->n_history : c->job.n_items;
    size_t n_exposed = c->settings.exclude_exposed ? c->job.n_exposed : 0;

    c->n_rows = n;
    c->rows = known_rows(c, ids, &c->n_rows);
    c->n_unknown = n - c->n_rows;
    c->excluded = row_set_new(&c->arena, n + c->n_exclude + n_exposed);
    if (c->settings.exclude_history)
        exclude_rows(c, c->rows, c->n_rows);
    if (c->n_exclude > 0)
        exclude_ids(c, c->exclude, c->n_exclude);
    if (n_exposed > 0)
        exclude_ids(c, c->job.exposed, n_exposed);
    mark_behaviour(c, n);
}

/* One attribute's wanted values into the filter; false when the bundle has no such attribute. */
static bool apply_filter(struct recall_call *c, const struct call_filter *want, bool first)
{
    const struct items *items = bundle_items(c->bundle);
    int attribute = items_attribute(items, want->attribute.p, want->attribute.len);
    const uint32_t **lists = arena_alloc(&c->arena, (want->n_values + 1) * sizeof *lists);
    size_t *lens = arena_alloc(&c->arena, (want->n_values + 1) * sizeof *lens);
    size_t n = 0;

    if (attribute == -1)
        return false;
    for (size_t i = 0; i < want->n_values; i++) {
        uint32_t code =
            items_value(items, (size_t)attribute, want->values[i].p, want->values[i].len);

        if (code != ITEMS_NONE) {
            lists[n] = items_postings(items, (size_t)attribute, code, &lens[n]);
            n++;
        }
    }
    if (first)
        filter_any(c->filter, lists, lens, n);
    else
        filter_also_any(c->filter, lists, lens, n);
    return true;
}

/* A filter over `rows` rows for the rest of the batch, or NULL with *err set. Its rows are those of
 * a batch before until filter_any starts it over. */
static struct row_filter *take_filter(struct pipeline *p, size_t rows, struct err *err)
{
    struct slot *slot;

    if (p->n_taken == p->n_slots) {
        p->slots = xrealloc(p->slots, (p->n_slots + 1) * sizeof *p->slots);
        p->slots[p->n_slots++] = (struct slot){NULL, 0};
    }
    slot = &p->slots[p->n_taken];
    if (slot->filter == NULL || slot->rows != rows) {
        filter_free(slot->filter);
        *slot = (struct slot){filter_new(rows, err), rows};
    }
    if (slot->filter != NULL)
        p->n_taken++;
    return slot->filter;
}

/* -1 when the call is refused. */
static int build_filter(struct pipeline *p, struct recall_call *c)
{
    struct err err = ERR_INIT;

    if (c->n_filters == 0)
        return 0;
    c->filter = take_filter(p, bundle_vectors(c->bundle)->rows, &err);
    if (c->filter == NULL) {
        call_refuse(c, 503, err.text);
        return -1;
    }
    for (size_t i = 0; i < c->n_filters; i++)
        if (!apply_filter(c, &c->filters[i], i == 0)) {
            char sentence[CALL_FIELD_MAX + BUNDLE_NAME_MAX + 64];

            snprintf(c->field, sizeof c->field, "filter.%s", c->filters[i].attribute.p);
            snprintf(sentence, sizeof sentence, "%s: bundle %s has no such attribute", c->field,
                     bundle_name(c->bundle));
            call_refuse(c, 400, sentence);
            return -1;
        }
    return 0;
}

/* -1 when the call is refused (its status is set then). */
static int prepare(struct pipeline *p, struct recall_call *c, const struct bundle_set *set,
                   uint64_t now)
{
    c->at[MOMENT_DEQUEUED] = now;
    if (now >= c->deadline_ns) {
        call_refuse(c, 504, "the deadline passed before a worker took the request");
        return -1;
    }
    c->settings = c->policy->settings;
    if (assign_arms(c, set) == -1)
        return -1;
    if (c->n != 0)
        c->settings.n = c->n;
    choose_bundle(c, set);
    if (c->bundle == NULL) {
        call_refuse(c, 503, "no bundle is loaded");
        return -1;
    }
    map_items(c);
    return build_filter(p, c);
}

/* ---- interests ----------------------------------------------------------------------- */

static void ask_model(struct recall_call *c)
{
    const struct model *m = bundle_model(c->bundle);
    size_t k = (size_t)model_interest_count(m);

    c->input = (struct model_input){
        .rows = c->rows,
        .n_rows = c->n_rows,
        /* The settings know one word more than the model: "model", which is -1 here. */
        .dynamic = (int)c->settings.dynamic_interests - 1,
        .interests = arena_alloc(&c->arena, k * (size_t)model_dim(m) * sizeof(float)),
        .weights =
            c->explain ? arena_alloc(&c->arena, k * MODEL_HISTORY_MAX * sizeof(float)) : NULL,
    };
}

/* Why interest k should not be searched; the ones before it have been decided. */
static enum drop_reason judge(const struct recall_call *c, int k, size_t dim, const float *norms)
{
    const float *v = c->input.interests + (size_t)k * dim;
    int most = c->settings.interests;

    if (k >= c->input.live)
        return DROP_UNUSED;
    if (!(norms[k] - norms[k] == 0)) /* NaN or infinite */
        return DROP_NOT_FINITE;
    if (norms[k] < ZERO_NORM)
        return DROP_ZERO;
    if (c->settings.similar_interests < 1)
        for (int i = 0; i < c->n_live; i++) {
            int other = c->live[i];
            float dot = vec_dot(v, c->input.interests + (size_t)other * dim, dim);

            if ((double)dot >
                c->settings.similar_interests * (double)norms[k] * (double)norms[other])
                return DROP_SIMILAR;
        }
    return most > 0 && c->n_live >= most ? DROP_UNUSED : DROP_KEPT;
}

/* Keeps the interests worth a search, moved together for it; c->live says which they were. */
static float *choose_interests(struct recall_call *c)
{
    size_t dim = (size_t)model_dim(bundle_model(c->bundle));
    int k = model_interest_count(bundle_model(c->bundle));
    float *kept = arena_alloc(&c->arena, (size_t)k * dim * sizeof *kept);
    float norms[MODEL_INTERESTS_MAX];

    c->live = arena_alloc(&c->arena, (size_t)k * sizeof *c->live);
    c->dropped = arena_alloc(&c->arena, (size_t)k);
    for (int i = 0; i < k; i++) {
        const float *v = c->input.interests + (size_t)i * dim;

        norms[i] = vec_norm(v, dim);
        c->dropped[i] = (unsigned char)judge(c, i, dim, norms);
        if (c->dropped[i] == DROP_KEPT) {
            memcpy(kept + (size_t)c->n_live * dim, v, dim * sizeof *v);
            c->live[c->n_live++] = i;
        }
    }
    return kept;
}

/* ---- under load ------------------------------------------------------------------------ */

/* What is left of the search effort. Measured on HNSW32 over 35,118 real items (K = 4, n = 200):
 * the search takes 0.76, 0.69, 0.59 of the time, and 0.96, 0.93, 0.87 of the exact answer's items
 * are still there (0.98 before). Where each interest is searched by itself, half of them halve the
 * time as well, but leave only 0.7 of the items: so they come last. */
static const double effort_left[1 + EFFORT_STEPS] = {1, 0.65, 0.4, 0.25};

/* Keeps the first half, as the setting `interests` would: where users are normalised, nothing about
 * an interest says how much it stands for. */
static void cut_interests(struct recall_call *c)
{
    int kept = (c->n_live + 1) / 2;

    if (kept == c->n_live)
        return;
    for (int i = kept; i < c->n_live; i++)
        c->dropped[c->live[i]] = DROP_UNUSED;
    c->n_live = kept;
    call_degrade(c, DEGRADED_INTERESTS_CUT);
}

/* To say who else found an item takes whole lists. */
static bool searched_together(const struct recall_call *c)
{
    return c->settings.merge == MERGE_MAX && c->settings.candidates == 0 && !c->explain;
}

/* Does less for this answer when there is too much to do, and says what was really left out: an
 * index that knows no effort does no less. */
static void ease(struct recall_call *c)
{
    int step = c->level < EFFORT_STEPS ? c->level : EFFORT_STEPS;

    if (c->n_live == 0)
        return;
    if (step > 0 && index_effort_applies(bundle_index(c->bundle))) {
        c->settings.effort *= effort_left[step];
        call_degrade(c, DEGRADED_EFFORT_1 + (unsigned)step - 1);
    }
    if (c->level > EFFORT_STEPS &&
        !(searched_together(c) && index_shares_search(bundle_index(c->bundle))))
        cut_interests(c);
}

/* ---- search ---------------------------------------------------------------------------- */

static void search(struct pipeline *p, const struct bundle *b, struct index_query *q, size_t n)
{
    index_search(p->instead != NULL ? p->instead : bundle_index(b), p->index, q, n);
}

static void ask_index(struct recall_call *c, size_t k)
{
    c->query.k = k;
    c->query.hits = arena_alloc(&c->arena, (size_t)c->n_live * k * sizeof *c->query.hits);
    c->query.from = c->query.together ? arena_alloc(&c->arena, k) : NULL;
    memset(c->query.found, 0, (size_t)c->n_live * sizeof *c->query.found);
}

static void first_query(struct recall_call *c, const float *interests)
{
    size_t want = (size_t)(c->settings.candidates > 0 ? c->settings.candidates : c->settings.n);
    size_t rows = bundle_vectors(c->bundle)->rows;

    c->query = (struct index_query){
        .interests = interests,
        .n_interests = c->n_live,
        .together = searched_together(c),
        .effort = c->settings.effort,
        .filter = c->filter,
        .deadline_ns = c->deadline_ns,
        .found = arena_alloc(&c->arena, (size_t)c->n_live * sizeof *c->query.found),
    };
    /* Excluded rows may take places in a list: ask for as many more. */
    want += row_set_count(c->excluded);
    ask_index(c, want < rows ? want : rows);
}

/* ---- merge ------------------------------------------------------------------------------- */

static void merge(struct recall_call *c)
{
    const struct items *items = bundle_items(c->bundle);
    const char *name = c->settings.diversity_attribute;
    struct merge m = {
        .policy = c->settings.merge,
        .n = (size_t)c->settings.n,
        .min_per_interest = (size_t)c->settings.min_per_interest,
        .lambda = c->settings.lambda,
        .hits = c->query.hits,
        .found = c->query.found,
        .from = c->query.joined ? c->query.from : NULL,
        .k = c->query.k,
        .n_lists = c->n_live,
        .excluded = c->excluded,
        .items = items,
        .attribute = name[0] != '\0'               ? items_attribute(items, name, strlen(name))
                     : items_attributes(items) > 0 ? 0
                                                   : -1,
    };

    c->n_picks = merge_picks(&m, &c->arena, c->picks);
}

/* True when a list ended because of k, not because there was nothing more. */
static bool index_has_more(const struct recall_call *c)
{
    if (c->query.late || c->query.k >= bundle_vectors(c->bundle)->rows)
        return false;
    for (int i = 0; i < c->n_live; i++)
        if (c->query.found[i] == c->query.k)
            return true;
    return false;
}

/* Asks for k hits per interest instead. What is there already stays if this gives less: a refill
 * that the deadline cut short must not cost what the first search found. */
static void refill(struct pipeline *p, struct recall_call *c, size_t k)
{
    struct index_query before = c->query;
    struct pick *picks = c->picks;
    size_t n_picks = c->n_picks;

    c->query.found = arena_alloc(&c->arena, (size_t)c->n_live * sizeof *c->query.found);
    ask_index(c, k);
    search(p, c->bundle, &c->query, 1);
    c->picks = arena_alloc(&c->arena, ((size_t)c->settings.n + 1) * sizeof *c->picks);
    merge(c);
    if (c->n_picks < n_picks) {
        before.late = c->query.late;
        before.shards_failed = c->query.shards_failed;
        c->query = before;
        c->picks = picks;
        c->n_picks = n_picks;
    }
}

/* Merges, and asks the index for more while that leaves fewer than n. */
static void merge_and_refill(struct pipeline *p, struct recall_call *c)
{
    size_t rows = bundle_vectors(c->bundle)->rows;

    c->picks = arena_alloc(&c->arena, ((size_t)c->settings.n + 1) * sizeof *c->picks);
    merge(c);
    for (int i = 0; i < REFILLS && c->n_picks < (size_t)c->settings.n && index_has_more(c); i++) {
        size_t k = c->query.k * GROWTH;

        refill(p, c, k < rows ? k : rows);
    }
}

static void mark_search(struct recall_call *c)
{
    if (c->query.late)
        call_degrade(c, DEGRADED_DEADLINE_SEARCH);
    if (c->query.shards_failed > 0)
        call_degrade(c, DEGRADED_SHARD_FAILED);
}

static void mark_short(struct recall_call *c)
{
    if (c->n_picks < (size_t)c->settings.n)
        call_degrade(c, c->filter != NULL ? DEGRADED_SHORT_FILTER : DEGRADED_SHORT_CANDIDATES);
}

/* ---- answer --------------------------------------------------------------------------------- */

static void answer(struct pipeline *p, struct recall_call *c)
{
    if (c->n_live > 0) {
        merge_and_refill(p, c);
        mark_search(c);
        c->source = SOURCE_MODEL;
    }
    if (c->n_rows > 0)
        mark_short(c); /* of the model, whatever the fallback makes of it */
    if (c->n_picks == 0)
        fallback_fill(c);
    mark_short(c);
    c->at[MOMENT_MERGED] = clock_ns();
    c->status = 200;
    render_answer(c);
}

/* All calls of one bundle, prepared. */
static void run_group(struct pipeline *p, struct recall_call **calls, size_t n,
                      void (*finish)(struct recall_call *))
{
    const struct bundle *b = calls[0]->bundle;
    struct model_input *inputs = arena_alloc(&p->arena, n * sizeof *inputs);
    struct index_query *queries = arena_alloc(&p->arena, n * sizeof *queries);
    size_t n_inputs = 0, n_queries = 0;
    const float *interests;
    uint64_t now;

    for (size_t i = 0; i < n; i++)
        if (calls[i]->n_rows > 0) {
            ask_model(calls[i]);
            inputs[n_inputs++] = calls[i]->input;
        }
    model_interests(bundle_model(b), p->model, inputs, n_inputs);
    n_inputs = 0;
    for (size_t i = 0; i < n; i++)
        if (calls[i]->n_rows > 0) {
            calls[i]->input = inputs[n_inputs++];
            interests = choose_interests(calls[i]);
            ease(calls[i]);
            first_query(calls[i], interests);
            if (calls[i]->n_live > 0)
                queries[n_queries++] = calls[i]->query;
        }
    now = clock_ns();
    for (size_t i = 0; i < n; i++)
        calls[i]->at[MOMENT_INTERESTS] = now;

    if (n_queries > 0)
        search(p, b, queries, n_queries);
    n_queries = 0;
    now = clock_ns();
    for (size_t i = 0; i < n; i++) {
        calls[i]->at[MOMENT_SEARCHED] = now;
        if (calls[i]->n_live > 0)
            calls[i]->query = queries[n_queries++];
    }
    for (size_t i = 0; i < n; i++) {
        answer(p, calls[i]);
        finish(calls[i]);
    }
}

size_t pipeline_run(struct pipeline *p, const struct bundle_set *set, struct recall_call **calls,
                    size_t n, void (*finish)(struct recall_call *))
{
    struct recall_call **ready, **group;
    size_t n_ready = 0, n_answered;
    uint64_t now = clock_ns();

    arena_reset(&p->arena);
    p->n_taken = 0;
    ready = arena_alloc(&p->arena, n * sizeof *ready);
    group = arena_alloc(&p->arena, n * sizeof *group);
    for (size_t i = 0; i < n; i++) {
        if (prepare(p, calls[i], set, now) == 0)
            ready[n_ready++] = calls[i];
        else
            finish(calls[i]);
    }
    n_answered = n_ready;
    while (n_ready > 0) { /* the first one's bundle, in the order they came */
        const struct bundle *b = ready[0]->bundle;
        size_t n_group = 0, n_left = 0;

        for (size_t i = 0; i < n_ready; i++) {
            if (ready[i]->bundle == b)
                group[n_group++] = ready[i];
            else
                ready[n_left++] = ready[i];
        }
        n_ready = n_left;
        run_group(p, group, n_group, finish);
    }
    return n_answered;
}
