/* report.h - the figures of an experiment, ready to be printed. */
#ifndef CTR_REPORT_H
#define CTR_REPORT_H

#include "collect.h"
#include "stats.h"

#define MISMATCH_P 0.001 /* below it the sample ratio does not hold */
#define BUCKETS_MAX 2000 /* of the figures over time; with more there are none */

enum metric { METRIC_CTR, METRIC_PER_ANSWER, METRIC_PER_USER, METRIC_HIT_RATE, METRICS };

/* Sums of `x` over sums of `y`, or over units. */
struct metric_row {
    const char *key, *title, *about;
    int x, y;     /* enum counter; COUNTERS = one for each unit */
    bool percent; /* how people read it */
};
extern const struct metric_row metric_rows[METRICS];
extern const char *const apart_keys[APARTS], *const apart_titles[APARTS];

struct report_arm {
    const struct seen_arm *seen;
    double share;         /* of the units that it should have; NaN = not known */
    uint64_t n[COUNTERS]; /* of all its units */
    struct stats_sums sums[POPULATIONS][METRICS];
    /* Against the control; NaN for itself. */
    struct stats_difference versus[POPULATIONS][METRICS];
    double holm[POPULATIONS][METRICS];
    double naive_p[POPULATIONS];  /* METRIC_CTR */
    struct stats_sums *over_time; /* (n_buckets) of METRIC_CTR */
};

/* Splits of the units into two halves at random: no difference is real. */
struct aa {
    int n;
    double *p, *naive_p;       /* (n), sorted; of METRIC_CTR */
    double d, uniform_p;       /* Kolmogorov-Smirnov of p */
    double below, naive_below; /* the share below 1 - confidence; 0.05 is right at 95 % */
};

struct report_layer {
    const struct seen_layer *seen;
    struct report_arm *arms; /* the control first */
    size_t n_arms;
    bool weights_known;                /* from the experiments; otherwise equal ones are assumed */
    double shares_p, shares_statistic; /* p is NaN when they could not be checked */
    double missing_share;              /* of arms that are not in the journal at all */
    double versions_p; /* that all versions of the experiments have the same shares */
    size_t n_versions; /* that the layer was served with */
    uint64_t crossed;  /* units in several arms */
    struct aa aa;
};

struct ctr_report {
    struct collected c;
    struct report_layer *layers; /* by name */
    size_t n_layers;
    int64_t first_ms; /* where the first bucket begins */
    size_t n_buckets; /* 0 = no plot over time */
    int64_t window_ms;
    double confidence;
    uint64_t seed;
    bool all_items, has_events;
    /* Sentences: what a reader must know before believing a figure, and what is good to know. */
    char **warnings, **notes;
    size_t n_warnings, n_notes;
};

bool layer_mismatches(const struct report_layer *l);
/* "users" or "requests" */
const char *layer_units(const struct report_layer *l);
/* The arm's figure, NaN when there is none. */
double arm_value(const struct report_arm *a, enum population p, enum metric m);

#endif
