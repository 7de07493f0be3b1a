/* figures.c - what the request path counts, in one place. */
#include "call.h"
#include "recalld/metrics.h"

static const double length_bounds[] = {0, 1, 2, 5, 10, 20, 50, 100, 200, 500};
static const double interest_bounds[] = {0, 1, 2, 3, 4, 6, 8, 16, 32};
static const double batch_bounds[] = {1, 2, 3, 4, 6, 8, 16, 32, 64};

/* Labels are kept for the life of the process: string constants only. */
static const char *const stage_labels[MOMENT_COUNT] = {
    [MOMENT_PARSED] = "stage=\"parse\"",    [MOMENT_BEHAVIOUR] = "stage=\"behaviour\"",
    [MOMENT_DEQUEUED] = "stage=\"queue\"",  [MOMENT_INTERESTS] = "stage=\"interests\"",
    [MOMENT_SEARCHED] = "stage=\"search\"", [MOMENT_MERGED] = "stage=\"merge\"",
};
static const char *const degraded_labels[DEGRADED_COUNT] = {
#define X(id, word) "reason=\"" #word "\"",
    RECALL_DEGRADED(X)
#undef X
};
static const char *const source_labels[] = {"source=\"model\"", "source=\"popular\"",
                                            "source=\"none\""};
static const char *const drop_labels[DROP_REASONS] = {
    [DROP_ZERO] = "reason=\"zero\"",
    [DROP_NOT_FINITE] = "reason=\"not_finite\"",
    [DROP_SIMILAR] = "reason=\"similar\"",
    [DROP_UNUSED] = "reason=\"unused\"",
};

static const char *const refused_labels[REFUSALS] = {
    [REFUSED_BAD] = "reason=\"bad_request\"",    [REFUSED_FULL] = "reason=\"queue_full\"",
    [REFUSED_WAIT] = "reason=\"expected_wait\"", [REFUSED_DRAINING] = "reason=\"draining\"",
    [REFUSED_DEADLINE] = "reason=\"deadline\"",  [REFUSED_NOT_LOADED] = "reason=\"not_loaded\"",
};

static struct {
    int stage[MOMENT_COUNT], render;
    int degraded[DEGRADED_COUNT], source[3], dropped[DROP_REASONS];
    int refused[REFUSALS], refusal;
    int batch, length, interests, short_answers, unknown_items;
} figure;

static int stage_histogram(const char *labels)
{
    return metric_histogram("recalld_stage_seconds",
                            "Time per stage of a request, failed ones included.", labels,
                            metric_stage_bounds, METRIC_STAGE_BOUNDS_N);
}

static void register_outcomes(void)
{
    for (int i = 0; i < DEGRADED_COUNT; i++)
        figure.degraded[i] = metric_counter("recalld_degraded_total",
                                            "Answers that are less than they could be, by reason.",
                                            degraded_labels[i]);
    for (int i = 0; i < (int)ARRAY_LEN(source_labels); i++)
        figure.source[i] = metric_counter(
            "recalld_answers_total", "Answers by where their items come from.", source_labels[i]);
    for (int i = 1; i < DROP_REASONS; i++)
        figure.dropped[i] =
            metric_counter("recalld_interests_dropped_total",
                           "Interests that were not searched, by reason.", drop_labels[i]);
    for (int i = 0; i < REFUSALS; i++)
        figure.refused[i] = metric_counter(
            "recalld_rejected_total", "Requests that got no recall, by reason.", refused_labels[i]);
    figure.refusal = metric_histogram("recalld_overload_refusal_seconds",
                                      "From the complete body to the refusal, where there was too "
                                      "much to do.",
                                      "", metric_stage_bounds, METRIC_STAGE_BOUNDS_N);
}

void figures_register(void)
{
    for (int i = MOMENT_PARSED; i < MOMENT_COUNT; i++)
        figure.stage[i] = stage_histogram(stage_labels[i]);
    figure.render = stage_histogram("stage=\"render\"");
    register_outcomes();
    figure.batch = metric_histogram("recalld_batch_size", "Requests a worker takes at once.", "",
                                    batch_bounds, ARRAY_LEN(batch_bounds));
    figure.length =
        metric_histogram("recalld_behaviour_items", "Known items a model was given per request.",
                         "", length_bounds, ARRAY_LEN(length_bounds));
    figure.interests = metric_histogram("recalld_live_interests", "Interests searched per request.",
                                        "", interest_bounds, ARRAY_LEN(interest_bounds));
    figure.short_answers =
        metric_counter("recalld_short_answers_total", "Answers with fewer than n items.", "");
    figure.unknown_items = metric_counter("recalld_unknown_items_total",
                                          "Behaviour items that the bundle does not have.", "");
}

void figures_batch(size_t n)
{
    metric_observe(figure.batch, (double)n);
}

static double seconds(uint64_t from, uint64_t to)
{
    return to > from ? (double)(to - from) * 1e-9 : 0;
}

static void count_answer(const struct recall_call *c)
{
    int k = c->n_rows > 0 ? model_interest_count(bundle_model(c->bundle)) : 0;

    metric_add(figure.source[c->source], 1);
    for (int d = 0; d < DEGRADED_COUNT; d++)
        if (c->degraded & UINT32_C(1) << d)
            metric_add(figure.degraded[d], 1);
    for (int i = 0; i < k; i++)
        if (c->dropped[i] != DROP_KEPT)
            metric_add(figure.dropped[c->dropped[i]], 1);
    if (c->n_picks < (size_t)c->settings.n)
        metric_add(figure.short_answers, 1);
    if (c->n_unknown > 0)
        metric_add(figure.unknown_items, c->n_unknown);
    metric_observe(figure.length, (double)c->n_rows);
    metric_observe(figure.interests, (double)c->n_live);
}

static void observe_stages(const struct recall_call *c)
{
    for (int i = MOMENT_PARSED; i < MOMENT_COUNT && c->at[i] != 0; i++)
        metric_observe(figure.stage[i], seconds(c->at[i - 1], c->at[i]));
}

void figures_refused(const struct recall_call *c, enum refusal why)
{
    observe_stages(c);
    metric_add(figure.refused[why], 1);
    if (why == REFUSED_FULL || why == REFUSED_WAIT)
        metric_observe(figure.refusal, seconds(c->at[MOMENT_START], clock_ns()));
}

void figures_call(const struct recall_call *c, uint64_t now)
{
    switch (c->status) {
    case 200:
        observe_stages(c);
        metric_observe(figure.render, seconds(c->at[MOMENT_MERGED], now));
        count_answer(c);
        break;
    case 400:
    case 403:
        figures_refused(c, REFUSED_BAD);
        break;
    case 504:
        figures_refused(c, REFUSED_DEADLINE);
        break;
    default:
        figures_refused(c, REFUSED_NOT_LOADED);
        break;
    }
}
