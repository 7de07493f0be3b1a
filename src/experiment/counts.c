/* counts.c - what was served, exposed and clicked per arm while the daemon runs.
 *
 * An event names an answer by an id; a table remembers which arms the newest answers had. It is
 * written by workers and read by whoever takes events, without a lock: a place holds two words,
 * key ^ value and value, so that a half-written one does not match its key. Places come in groups
 * that are written in turn: of the newest `remember` ids about 99 of 100 are still there, of older
 * ones fewer and fewer. The value is the code of the assignment and the generation of the
 * experiments it belongs to. */
#include <stdlib.h>
#include <string.h>

#include "experiment_impl.h"

#define GROUP 16 /* places */
#define CODE_BITS 52
#define GENERATIONS 4096 /* 1 to 4095 are given out in turn */
#define RECENT 16        /* so many past experiments still get their events */

struct arm_counts {
    _Atomic uint64_t served, exposed, clicked;
};

struct layer_counts {
    struct ref ref;
    int64_t since_ms;
    _Atomic uint64_t forced; /* answers of which any layer was forced */
    struct arm_counts arms[EXPERIMENT_ARMS_MAX];
};

struct place {
    _Atomic uint64_t mixed, value;
};

/* From ids to values; ids are known by their 64-bit hash. */
struct table {
    struct place *places;
    _Atomic uint8_t *turns; /* per group: how many were written */
    size_t mask;            /* groups - 1 */
};

struct counts {
    struct table by_serve, by_request;
    pthread_mutex_t lock; /* of what follows: taken by events, never by requests */
    const struct experiments *recent[RECENT];
    unsigned generation;
};

/* ---- the table ----------------------------------------------------------------- */

/* Twice the places, so that groups that fill faster than others keep theirs long enough. The
 * kernel gives the memory when it is first used. */
static void table_init(struct table *t, size_t remember)
{
    size_t groups = 1;

    if (remember == 0)
        return;
    while (groups * GROUP < 2 * remember)
        groups *= 2;
    t->places = xcalloc(groups * GROUP, sizeof *t->places);
    t->turns = xcalloc(groups, sizeof *t->turns);
    t->mask = groups - 1;
}

static void table_clear(struct table *t)
{
    free(t->places);
    free((void *)t->turns);
}

static void table_put(struct table *t, const char *id, uint64_t value)
{
    uint64_t key;
    size_t group;
    struct place *p;

    if (t->places == NULL || id == NULL)
        return;
    key = hash_bytes(id, strlen(id));
    group = key & t->mask;
    p = &t->places[group * GROUP +
                   atomic_fetch_add_explicit(&t->turns[group], 1, memory_order_relaxed) % GROUP];
    atomic_store_explicit(&p->mixed, key ^ value, memory_order_relaxed);
    atomic_store_explicit(&p->value, value, memory_order_relaxed);
}

/* 0 = not there. */
static uint64_t table_get(const struct table *t, const char *id, size_t len)
{
    uint64_t key = hash_bytes(id, len);

    if (t->places == NULL)
        return 0;
    for (size_t i = 0; i < GROUP; i++) {
        struct place *p = &t->places[(key & t->mask) * GROUP + i];
        uint64_t value = atomic_load_explicit(&p->value, memory_order_relaxed);
        uint64_t mixed = atomic_load_explicit(&p->mixed, memory_order_relaxed);

        if (value != 0 && (mixed ^ value) == key)
            return value;
    }
    return 0;
}

/* ---- life ---------------------------------------------------------------------- */

struct counts *counts_new(size_t remember)
{
    struct counts *c = xcalloc(1, sizeof *c);

    table_init(&c->by_serve, remember);
    table_init(&c->by_request, remember);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void counts_free(struct counts *c)
{
    if (c == NULL)
        return;
    for (size_t i = 0; i < RECENT; i++)
        experiments_release(c->recent[i]);
    table_clear(&c->by_serve);
    table_clear(&c->by_request);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static void layer_counts_free(struct ref *ref)
{
    free(ref); /* the reference is the first member */
}

void layer_counts_release(struct layer_counts *c)
{
    if (c != NULL)
        ref_release(&c->ref);
}

static struct layer_counts *layer_counts_new(void)
{
    struct layer_counts *c = xcalloc(1, sizeof *c);

    ref_init(&c->ref, layer_counts_free);
    c->since_ms = clock_wall_ms();
    return c;
}

void counts_adopt(struct counts *c, struct experiments *e, const struct experiments *old)
{
    for (int i = 0; i < e->n_layers; i++) {
        struct layer *l = &e->layers[i];
        int before = old == NULL ? -1 : experiments_layer_find(old, l->name);

        if (before != -1 && strcmp(old->layers[before].identity, l->identity) == 0) {
            l->counts = old->layers[before].counts;
            ref_acquire(&l->counts->ref);
        } else {
            l->counts = layer_counts_new();
        }
    }
    pthread_mutex_lock(&c->lock);
    c->generation = c->generation % (GENERATIONS - 1) + 1;
    e->generation = c->generation;
    experiments_release(c->recent[c->generation % RECENT]);
    c->recent[c->generation % RECENT] = experiments_acquire(e);
    pthread_mutex_unlock(&c->lock);
}

/* ---- counting ------------------------------------------------------------------ */

static void add(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

void counts_served(struct counts *c, const struct experiments *e, const struct assignment *a,
                   const char *serve_id, const char *request_id)
{
    uint64_t value = (uint64_t)e->generation << CODE_BITS | a->code;

    if (a->code == 0)
        return;
    for (int i = 0; i < e->n_layers; i++) {
        if (a->arm[i] == EXPERIMENT_NO_ARM)
            continue;
        add(a->forced ? &e->layers[i].counts->forced
                      : &e->layers[i].counts->arms[a->arm[i]].served);
    }
    if (a->forced)
        return;
    table_put(&c->by_serve, serve_id, value);
    table_put(&c->by_request, request_id, value);
}

static void count_for(const struct experiments *e, enum experiment_event kind, uint64_t code)
{
    uint8_t arm[EXPERIMENT_LAYERS_MAX];

    experiments_decode(e, code, arm);
    for (int i = 0; i < e->n_layers; i++) {
        struct arm_counts *counts;

        if (arm[i] == EXPERIMENT_NO_ARM)
            continue;
        counts = &e->layers[i].counts->arms[arm[i]];
        if (kind != EXPERIMENT_OTHER)
            add(kind == EXPERIMENT_EXPOSED ? &counts->exposed : &counts->clicked);
    }
}

bool counts_event(struct counts *c, enum experiment_event kind, const char *id, size_t len)
{
    uint64_t value = table_get(&c->by_serve, id, len);
    const struct experiments *e;
    unsigned generation;
    bool found;

    if (value == 0)
        value = table_get(&c->by_request, id, len);
    if (value == 0)
        return false;
    generation = (unsigned)(value >> CODE_BITS);
    pthread_mutex_lock(&c->lock);
    e = c->recent[generation % RECENT];
    found = e != NULL && e->generation == generation;
    if (found)
        count_for(e, kind, value & (CODES_MAX - 1));
    pthread_mutex_unlock(&c->lock);
    return found;
}

/* ---- reporting ----------------------------------------------------------------- */

struct seen {
    uint64_t served, exposed, clicked;
};

static uint64_t see(const struct layer *l, struct seen *arms)
{
    uint64_t sum = 0;

    for (int i = 0; i < l->n_arms; i++) {
        struct arm_counts *c = &l->counts->arms[i];

        arms[i] = (struct seen){atomic_load_explicit(&c->served, memory_order_relaxed),
                                atomic_load_explicit(&c->exposed, memory_order_relaxed),
                                atomic_load_explicit(&c->clicked, memory_order_relaxed)};
        sum += arms[i].served;
    }
    return sum;
}

static void put_arm(struct buf *json, const struct layer *l, int arm, const struct seen *s,
                    uint64_t sum)
{
    buf_printf(json, "%s{\"arm\":\"%s\",\"weight\":", arm > 0 ? "," : "", l->arms[arm].name);
    buf_f64(json, l->arms[arm].weight);
    buf_puts(json, ",\"share\":");
    if (sum > 0)
        buf_f64(json, (double)s->served / (double)sum);
    else
        buf_puts(json, "null");
    buf_printf(json, ",\"served\":%llu,\"exposed\":%llu,\"clicked\":%llu}",
               (unsigned long long)s->served, (unsigned long long)s->exposed,
               (unsigned long long)s->clicked);
}

static void put_ratio(struct buf *json, const struct layer *l, const struct seen *arms,
                      uint64_t sum)
{
    double served[EXPERIMENT_ARMS_MAX], shares[EXPERIMENT_ARMS_MAX], weights = 0, x, p;
    int degrees;

    for (int i = 0; i < l->n_arms; i++)
        weights += l->arms[i].weight;
    for (int i = 0; i < l->n_arms; i++) {
        served[i] = (double)arms[i].served;
        shares[i] = l->arms[i].weight / weights;
    }
    p = chi_square_test(served, shares, (size_t)l->n_arms, &x, &degrees);
    buf_puts(json, ",\"sample_ratio\":{\"of\":\"answers\",\"chi_square\":");
    if (sum == 0 || degrees < 1) {
        buf_puts(json, "null,\"degrees\":null,\"p\":null}");
        return;
    }
    buf_f64(json, x);
    buf_printf(json, ",\"degrees\":%d,\"p\":", degrees);
    buf_f64(json, p);
    buf_putc(json, '}');
}

static void put_layer(struct buf *json, const struct layer *l)
{
    struct seen arms[EXPERIMENT_ARMS_MAX];
    uint64_t sum = see(l, arms), forced = atomic_load(&l->counts->forced);

    buf_printf(json, "{\"layer\":\"%s\",\"unit\":\"%s\",\"coverage\":", l->name, l->unit_text);
    buf_f64(json, l->coverage);
    buf_printf(json, ",\"since_ms\":%lld,\"served\":%llu,\"forced\":%llu,\"arms\":[",
               (long long)l->counts->since_ms, (unsigned long long)sum, (unsigned long long)forced);
    for (int i = 0; i < l->n_arms; i++)
        put_arm(json, l, i, &arms[i], sum);
    buf_putc(json, ']');
    put_ratio(json, l, arms, sum);
    buf_putc(json, '}');
}

void counts_report(const struct experiments *e, struct buf *json)
{
    buf_printf(json, "{\"version\":%lld,\"sha256\":\"%s\",\"hash\":\"%s\",\"layers\":[",
               (long long)e->version, e->sha256, experiments_hash(e));
    for (int i = 0; i < e->n_layers; i++) {
        if (i > 0)
            buf_putc(json, ',');
        put_layer(json, &e->layers[i]);
    }
    buf_puts(json, "],\"note\":\"Answers of one user come together, so chi_square over answers is "
                   "only a first sign; recallctl ctr counts users from the journal.\"}\n");
}

void counts_samples(const struct experiments *e, int which, struct buf *out)
{
    static const char *const names[] = {"served", "exposed", "clicked"};

    for (int i = 0; i < e->n_layers; i++) {
        const struct layer *l = &e->layers[i];
        struct seen arms[EXPERIMENT_ARMS_MAX];

        see(l, arms);
        for (int k = 0; k < l->n_arms; k++) {
            const uint64_t values[] = {arms[k].served, arms[k].exposed, arms[k].clicked};

            buf_printf(out, "recalld_experiment_%s_total{layer=\"%s\",arm=\"%s\"} %llu\n",
                       names[which], l->name, l->arms[k].name, (unsigned long long)values[which]);
        }
    }
}
