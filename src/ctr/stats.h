/* stats.h - the statistics of an experiment: ratios of sums over units, differences between arms,
 * shares that change. Pure functions of numbers; tests compare them with scipy's and statsmodels'.
 */
#ifndef CTR_STATS_H
#define CTR_STATS_H

#include <stddef.h>

/* Over the units of an arm (users, as a rule): x is the numerator, y the denominator of each. Sums
 * of whole numbers below 2^53 are exact, so their order makes no difference. */
struct stats_sums {
    double n, x, y, xx, xy, yy;
};
void stats_add(struct stats_sums *s, double x, double y);

/* x / y summed over units, and its standard error by the delta method: units are independent of
 * each other, what one unit did is not. NaN without a y, the error also below two units. */
struct stats_ratio {
    double value, se;
};
struct stats_ratio stats_ratio(const struct stats_sums *s);

struct stats_interval {
    double value, low, high;
};
/* `b` against the control `a`. The p-value is two-sided: of a difference at least as large if there
 * were none. The lift is difference / control. NaN where there is nothing to compare. */
struct stats_difference {
    struct stats_interval difference, lift;
    double p;
};
struct stats_difference stats_compare(const struct stats_sums *a, const struct stats_sums *b,
                                      double confidence);
/* value -+ quantile * se */
struct stats_interval stats_interval(double value, double se, double confidence);

/* The two-proportion z-test with a pooled variance, as if every y were a coin of its own; p. */
double stats_naive_p(const struct stats_sums *a, const struct stats_sums *b);

/* Chi-square of a table, whether its rows have the same shares: counts[row * columns + column].
 * Empty rows and columns count for nothing; p = 1 when nothing can be compared. */
double stats_homogeneity(const double *counts, size_t rows, size_t columns);

/* Kolmogorov-Smirnov of `n` numbers, which it sorts, against the uniform distribution on 0..1;
 * returns p (asymptotic), *d the largest distance. */
double stats_uniform_p(double *values, size_t n, double *d);

/* Holm's step-down: p-values of `n` comparisons become ones that hold for all of them together.
 * NaN stays and is no comparison. */
void stats_holm(const double *p, double *adjusted, size_t n);

/* z such that a normal variable lies within -+z with that probability: 0.95 gives 1.959964. */
double stats_normal_quantile(double confidence);

#endif
