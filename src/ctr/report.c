/* report.c - sums per unit become figures per arm. */
#include "report.h"

#include "sentences.h"

#include <math.h>
#include <stdlib.h>

#define WEIGHTS_OFF 0.0001 /* weights of a file may sum to a little less than 1 */

const struct metric_row metric_rows[METRICS] = {
    {"ctr", "CTR", "clicked items / exposed items", COUNT_CLICKED, COUNT_EXPOSED, true},
    {"clicks_per_answer", "clicks per answer", "clicked items, exposed or not / answers",
     COUNT_CLICKS, COUNT_ANSWERS, false},
    {"clicks_per_user", "clicks per user", "clicked items, exposed or not / users", COUNT_CLICKS,
     COUNTERS, false},
    {"online_hit_rate", "online hit rate",
     "clicked items that the answer contains / clicked items, exposed or not", COUNT_HITS,
     COUNT_CLICKS, true},
};

const char *const apart_keys[APARTS] = {"clicks_without_exposure", "late_events", "early_events",
                                        "exposed_not_in_answer"};
const char *const apart_titles[APARTS] = {"clicks without exposure", "events after the window",
                                          "events before the answer", "exposed, not in the answer"};

bool layer_mismatches(const struct report_layer *l)
{
    return l->shares_p < MISMATCH_P;
}

const char *layer_units(const struct report_layer *l)
{
    return l->seen->by_request ? "requests" : "users";
}

double arm_value(const struct report_arm *a, enum population p, enum metric m)
{
    return stats_ratio(&a->sums[p][m]).value;
}

size_t ctr_mismatches(const struct ctr_report *r)
{
    size_t n = 0;

    for (size_t i = 0; i < r->n_layers; i++)
        n += layer_mismatches(&r->layers[i]);
    return n;
}

void ctr_ask_default(struct ctr_ask *ask)
{
    *ask = (struct ctr_ask){
        .window_ms = 24 * 3600 * 1000,
        .until_ms = INT64_MAX,
        .version = -1,
        .confidence = 0.95,
        .memory = (size_t)1 << 30,
    };
}

/* ---- order of layers and arms ---------------------------------------------------------- */

static int layer_by_name(const void *a, const void *b)
{
    return strcmp(((const struct report_layer *)a)->seen->name,
                  ((const struct report_layer *)b)->seen->name);
}

static int arm_by_name(const void *a, const void *b)
{
    return strcmp(((const struct report_arm *)a)->seen->name,
                  ((const struct report_arm *)b)->seen->name);
}

static size_t arm_find(const struct report_layer *l, const char *name)
{
    for (size_t i = 0; i < l->n_arms; i++)
        if (strcmp(l->arms[i].seen->name, name) == 0)
            return i;
    return SIZE_MAX;
}

static void swap_arms(struct report_layer *l, size_t a, size_t b)
{
    struct report_arm arm = l->arms[a];

    l->arms[a] = l->arms[b];
    l->arms[b] = arm;
}

/* Moves it to the front; the order of the others stays. */
static void to_front(struct report_layer *l, size_t at)
{
    for (; at > 0; at--)
        swap_arms(l, at, at - 1);
}

/* As the experiments file has them, and those it does not know behind. */
static void order_as_file(struct report_layer *l, const struct experiments *e, int layer)
{
    for (int i = experiments_arms(e, layer) - 1; i >= 0; i--) {
        size_t at = arm_find(l, experiments_arm_name(e, layer, i));

        if (at != SIZE_MAX)
            to_front(l, at);
    }
}

/* "ARM" is for every layer that has it, "LAYER=ARM" must be there. */
static int choose_control(struct ctr_report *r, const char *text, struct err *err)
{
    const char *equals = strchr(text, '=');
    const char *name = equals == NULL ? text : equals + 1;
    bool any = false;

    for (size_t i = 0; i < r->n_layers; i++) {
        struct report_layer *l = &r->layers[i];
        size_t at = arm_find(l, name);

        if (at == SIZE_MAX ||
            (equals != NULL && (strlen(l->seen->name) != (size_t)(equals - text) ||
                                memcmp(l->seen->name, text, (size_t)(equals - text)) != 0)))
            continue;
        to_front(l, at);
        any = true;
    }
    return any ? 0 : err_set(err, ERR_USAGE, "--control: no layer has an arm \"%s\"", text);
}

static void set_shares(struct report_layer *l, const struct experiments *e, int layer)
{
    for (size_t i = 0; i < l->n_arms; i++)
        l->arms[i].share = e == NULL ? 1.0 / (double)l->n_arms : NAN;
    for (int i = 0; e != NULL && i < experiments_arms(e, layer); i++) {
        size_t at = arm_find(l, experiments_arm_name(e, layer, i));

        if (at != SIZE_MAX)
            l->arms[at].share = experiments_arm_weight(e, layer, i);
    }
}

static int arrange(struct ctr_report *r, const struct ctr_ask *ask, struct err *err)
{
    r->n_layers = r->c.n_layers;
    r->layers = xcalloc(r->n_layers + 1, sizeof *r->layers);
    for (size_t i = 0; i < r->n_layers; i++) {
        struct report_layer *l = &r->layers[i];

        l->seen = &r->c.layers[i];
        l->n_arms = l->seen->n_arms;
        l->arms = xcalloc(l->n_arms + 1, sizeof *l->arms);
        for (size_t j = 0; j < l->n_arms; j++)
            l->arms[j].seen = l->seen->arms[j];
    }
    qsort(r->layers, r->n_layers, sizeof *r->layers, layer_by_name);
    for (size_t i = 0; i < r->n_layers; i++) {
        struct report_layer *l = &r->layers[i];
        const struct experiments *e = ask->experiments;
        int layer = e == NULL ? -1 : experiments_layer_find(e, l->seen->name);

        qsort(l->arms, l->n_arms, sizeof *l->arms, arm_by_name);
        if (layer >= 0)
            order_as_file(l, e, layer);
        else if (arm_find(l, "control") != SIZE_MAX)
            to_front(l, arm_find(l, "control"));
        l->weights_known = layer >= 0;
        set_shares(l, layer >= 0 ? e : NULL, layer);
    }
    for (size_t i = 0; i < ask->n_controls; i++)
        if (choose_control(r, ask->controls[i], err) == -1)
            return -1;
    return 0;
}

/* ---- sums ---------------------------------------------------------------------------- */

/* Where collect.h's numbers of layer and arm went. */
struct places {
    struct report_layer *layer[LAYERS_MAX];
    struct report_arm *arm[LAYERS_MAX][ARMS_MAX];
};

static void find_places(struct ctr_report *r, struct places *p)
{
    for (size_t i = 0; i < r->n_layers; i++) {
        struct report_layer *l = &r->layers[i];
        size_t number = (size_t)(l->seen - r->c.layers);

        p->layer[number] = l;
        for (size_t j = 0; j < l->n_arms; j++)
            p->arm[number][j] = &l->arms[arm_find(l, l->seen->arms[j]->name)];
    }
}

static double count_of(const struct unit *u, enum population p, int counter)
{
    return counter == COUNTERS ? 1 : u->n[p][counter];
}

/* Of all answers every unit counts, also one that clicked nothing; without the degraded ones those
 * that have one left. */
static void add_unit(struct report_arm *a, const struct unit *u)
{
    for (int i = 0; i < COUNTERS; i++)
        a->n[i] += u->n[ALL][i];
    for (int p = 0; p < POPULATIONS; p++)
        for (int m = 0; m < METRICS && u->n[p][COUNT_ANSWERS] > 0; m++)
            stats_add(&a->sums[p][m], count_of(u, p, metric_rows[m].x),
                      count_of(u, p, metric_rows[m].y));
}

static const struct unit *unit_at(const struct ctr_report *r, size_t i)
{
    return keyed_row(&r->c.units, i);
}

static void sum_units(struct ctr_report *r, const struct places *places)
{
    for (size_t i = 0; i < r->c.units.n; i++) {
        const struct unit *u = unit_at(r, i);

        if (u->crossed)
            places->layer[u->layer]->crossed++;
        else
            add_unit(places->arm[u->layer][u->arm], u);
    }
}

static void sum_over_time(struct ctr_report *r, const struct places *places)
{
    int64_t first = INT64_MAX, last = INT64_MIN;

    for (size_t i = 0; i < r->c.stretches.n; i++) {
        const struct stretch *s = keyed_row(&r->c.stretches, i);

        first = s->bucket < first ? s->bucket : first;
        last = s->bucket > last ? s->bucket : last;
    }
    if (r->c.stretches.n == 0)
        return;
    if (last - first >= BUCKETS_MAX)
        return;
    r->first_ms = (r->c.bucket_zero + first) * r->c.bucket_ms;
    r->n_buckets = (size_t)(last - first + 1);
    for (size_t i = 0; i < r->n_layers; i++)
        for (size_t j = 0; j < r->layers[i].n_arms; j++)
            r->layers[i].arms[j].over_time =
                xcalloc(r->n_buckets, sizeof *r->layers[i].arms[j].over_time);
    for (size_t i = 0; i < r->c.stretches.n; i++) {
        const struct stretch *s = keyed_row(&r->c.stretches, i);
        const struct unit *u = unit_at(r, s->unit);

        if (!u->crossed)
            stats_add(&places->arm[u->layer][u->arm]->over_time[s->bucket - first], s->clicked,
                      s->exposed);
    }
}

/* ---- comparisons --------------------------------------------------------------------- */

static void compare_arms(struct report_layer *l, double confidence)
{
    double p[ARMS_MAX], holm[ARMS_MAX];

    for (int pop = 0; pop < POPULATIONS; pop++)
        for (int m = 0; m < METRICS; m++) {
            for (size_t i = 0; i < l->n_arms; i++) {
                struct report_arm *a = &l->arms[i];

                a->versus[pop][m] =
                    stats_compare(&l->arms[0].sums[pop][m], &a->sums[pop][m], confidence);
                p[i] = i == 0 ? NAN : a->versus[pop][m].p;
            }
            stats_holm(p, holm, l->n_arms);
            for (size_t i = 0; i < l->n_arms; i++)
                l->arms[i].holm[pop][m] = holm[i];
        }
    for (int pop = 0; pop < POPULATIONS; pop++)
        for (size_t i = 0; i < l->n_arms; i++)
            l->arms[i].naive_p[pop] =
                stats_naive_p(&l->arms[0].sums[pop][METRIC_CTR], &l->arms[i].sums[pop][METRIC_CTR]);
}

static void check_shares(struct report_layer *l)
{
    double units[ARMS_MAX + 1], shares[ARMS_MAX + 1], sum = 0;
    int degrees;

    for (size_t i = 0; i < l->n_arms; i++) {
        units[i] = l->arms[i].sums[ALL][METRIC_PER_USER].n;
        shares[i] = l->arms[i].share;
        sum += shares[i];
    }
    l->shares_p = NAN;
    if (isnan(sum))
        return;
    l->missing_share = fmax(0, 1 - sum);
    if (l->missing_share < WEIGHTS_OFF)
        l->missing_share = 0;
    units[l->n_arms] = 0;
    shares[l->n_arms] = l->missing_share;
    l->shares_p = chi_square_test(units, shares, l->n_arms + 1, &l->shares_statistic, &degrees);
}

/* Each unit counts for the version that it was first served with. */
static void check_versions(struct ctr_report *r, const struct places *places)
{
    size_t size = VERSIONS_MAX * ARMS_MAX;
    double *counts = xcalloc(LAYERS_MAX * size, sizeof *counts);

    for (size_t i = 0; i < r->c.units.n; i++) {
        const struct unit *u = unit_at(r, i);

        size_t arm = (size_t)(places->arm[u->layer][u->arm] - places->layer[u->layer]->arms);

        if (!u->crossed)
            counts[u->layer * size + (size_t)u->version * ARMS_MAX + arm]++;
    }
    for (size_t i = 0; i < r->c.n_layers; i++) {
        struct report_layer *l = places->layer[i];

        l->versions_p = stats_homogeneity(counts + i * size, VERSIONS_MAX, ARMS_MAX);
        for (size_t v = 0; v < r->c.n_versions; v++)
            for (size_t j = 0; j < l->n_arms; j++)
                if (l->arms[j].seen->versions[v] > 0) {
                    l->n_versions++;
                    break;
                }
    }
    free(counts);
}

/* ---- A/A ------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static double share_below(const double *sorted, int n, double limit)
{
    int below = 0;

    while (below < n && sorted[below] < limit)
        below++;
    return n == 0 ? NAN : (double)below / n;
}

/* All layers in one pass over the units for each split. A split without a p-value (nobody clicked)
 * says nothing and is left out. */
static void split(struct ctr_report *r, const struct places *places, int times)
{
    struct stats_sums(*halves)[2] = xcalloc(LAYERS_MAX, sizeof *halves);

    for (size_t i = 0; i < r->n_layers; i++) {
        r->layers[i].aa.p = xcalloc((size_t)times + 1, sizeof(double));
        r->layers[i].aa.naive_p = xcalloc((size_t)times + 1, sizeof(double));
    }
    for (int t = 0; t < times; t++) {
        uint64_t seed = mix(r->seed * 0x100000001b3u + (uint64_t)t);

        memset(halves, 0, LAYERS_MAX * sizeof *halves);
        for (size_t i = 0; i < r->c.units.n; i++) {
            const struct unit *u = unit_at(r, i);

            if (!u->crossed)
                stats_add(&halves[u->layer][mix(u->id ^ seed) >> 63], u->n[ALL][COUNT_CLICKED],
                          u->n[ALL][COUNT_EXPOSED]);
        }
        for (size_t i = 0; i < r->c.n_layers; i++) {
            struct aa *aa = &places->layer[i]->aa;
            double p = stats_compare(&halves[i][0], &halves[i][1], 0.95).p;
            double naive_p = stats_naive_p(&halves[i][0], &halves[i][1]);

            if (isnan(p) || isnan(naive_p))
                continue;
            aa->naive_p[aa->n] = naive_p;
            aa->p[aa->n++] = p;
        }
    }
    free(halves);
}

static void check_splits(struct ctr_report *r)
{
    for (size_t i = 0; i < r->n_layers; i++) {
        struct aa *aa = &r->layers[i].aa;
        double d;

        aa->uniform_p = stats_uniform_p(aa->p, (size_t)aa->n, &aa->d);
        (void)stats_uniform_p(aa->naive_p, (size_t)aa->n, &d);
        aa->below = share_below(aa->p, aa->n, 1 - r->confidence);
        aa->naive_below = share_below(aa->naive_p, aa->n, 1 - r->confidence);
    }
}

/* ---- the whole ------------------------------------------------------------------------- */

static int figure(struct ctr_report *r, const struct ctr_ask *ask, struct err *err)
{
    struct places *places;

    if (arrange(r, ask, err) == -1)
        return -1;
    places = xcalloc(1, sizeof *places);
    find_places(r, places);
    sum_units(r, places);
    sum_over_time(r, places);
    check_versions(r, places);
    for (size_t i = 0; i < r->n_layers; i++) {
        compare_arms(&r->layers[i], r->confidence);
        check_shares(&r->layers[i]);
    }
    split(r, places, ask->aa);
    check_splits(r);
    sentences_add(r, ask->experiments);
    free(places);
    return 0;
}

struct ctr_report *ctr_run(const struct ctr_ask *ask, progress_fn *progress, void *arg,
                           struct err *err)
{
    struct ctr_report *r = xcalloc(1, sizeof *r);

    r->window_ms = ask->window_ms;
    r->confidence = ask->confidence;
    r->seed = ask->seed;
    r->all_items = ask->all_items;
    r->has_events = ask->n_events > 0;
    if (collect(ask, &r->c, progress, arg, err) == 0 && figure(r, ask, err) == 0)
        return r;
    ctr_report_free(r);
    return NULL;
}

static void free_all(char **list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(list[i]);
    free(list);
}

void ctr_report_free(struct ctr_report *r)
{
    if (r == NULL)
        return;
    for (size_t i = 0; i < r->n_layers; i++) {
        struct report_layer *l = &r->layers[i];

        for (size_t j = 0; j < l->n_arms; j++)
            free(l->arms[j].over_time);
        free(l->arms);
        free(l->aa.p);
        free(l->aa.naive_p);
    }
    free(r->layers);
    free_all(r->warnings, r->n_warnings);
    free_all(r->notes, r->n_notes);
    collected_clear(&r->c);
    free(r);
}
