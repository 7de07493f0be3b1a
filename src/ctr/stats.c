/* stats.c - the delta method, and tests of proportions, of tables and of many p-values. */
#include "stats.h"

#include "recalld/base.h"

#include <math.h>
#include <stdlib.h>

/* ---- the normal distribution ------------------------------------------------------ */

/* Halves the interval until no double lies between: slow, exact and short. */
double stats_normal_quantile(double confidence)
{
    double low = 0, high = 40, outside = 1 - confidence;

    for (;;) {
        double z = low + (high - low) / 2;

        if (z <= low || z >= high)
            return z;
        if (erfc(z / sqrt(2)) > outside)
            low = z;
        else
            high = z;
    }
}

static double two_sided(double z)
{
    return erfc(fabs(z) / sqrt(2));
}

/* ---- ratios and their differences --------------------------------------------------- */

void stats_add(struct stats_sums *s, double x, double y)
{
    s->n++;
    s->x += x;
    s->y += y;
    s->xx += x * x;
    s->xy += x * y;
    s->yy += y * y;
}

/* Var(x/y) = sum (x - r y)^2 / (n - 1) * n / (sum y)^2: the residuals x - r y sum to zero. */
struct stats_ratio stats_ratio(const struct stats_sums *s)
{
    struct stats_ratio r = {NAN, NAN};
    double squares;

    if (!(s->y > 0))
        return r;
    r.value = s->x / s->y;
    if (s->n < 2)
        return r;
    squares = s->xx - 2 * r.value * s->xy + r.value * r.value * s->yy;
    r.se = sqrt(fmax(squares, 0) * s->n / (s->n - 1)) / s->y;
    return r;
}

struct stats_interval stats_interval(double value, double se, double confidence)
{
    double half = stats_normal_quantile(confidence) * se;

    return (struct stats_interval){value, value - half, value + half};
}

/* Lift b/a - 1: Var = Var(b)/a^2 + b^2 Var(a)/a^4. */
struct stats_difference stats_compare(const struct stats_sums *a, const struct stats_sums *b,
                                      double confidence)
{
    struct stats_ratio ra = stats_ratio(a), rb = stats_ratio(b);
    double difference = rb.value - ra.value, se = hypot(ra.se, rb.se);
    double quotient = ra.value > 0 ? rb.value / ra.value : NAN;
    double lift_se = hypot(rb.se, quotient * ra.se) / ra.value;
    struct stats_difference d = {
        .difference = stats_interval(difference, se, confidence),
        .lift = stats_interval(quotient - 1, lift_se, confidence),
        .p = se > 0 ? two_sided(difference / se) : NAN,
    };

    return d;
}

double stats_naive_p(const struct stats_sums *a, const struct stats_sums *b)
{
    double pooled = (a->x + b->x) / (a->y + b->y);
    double se = sqrt(pooled * (1 - pooled) * (1 / a->y + 1 / b->y));

    if (!(a->y > 0) || !(b->y > 0) || !(se > 0))
        return NAN;
    return two_sided((b->x / b->y - a->x / a->y) / se);
}

/* ---- shares ---------------------------------------------------------------------- */

double stats_homogeneity(const double *counts, size_t rows, size_t columns)
{
    double total = 0, sum = 0;
    size_t live_rows = 0, live_columns = 0;
    double *of_row = xcalloc(rows + columns + 1, sizeof *of_row), *of_column = of_row + rows;

    for (size_t i = 0; i < rows * columns; i++) {
        of_row[i / columns] += counts[i];
        of_column[i % columns] += counts[i];
        total += counts[i];
    }
    for (size_t i = 0; i < rows; i++)
        live_rows += of_row[i] > 0;
    for (size_t i = 0; i < columns; i++)
        live_columns += of_column[i] > 0;
    for (size_t i = 0; i < rows * columns; i++) {
        double expected = of_row[i / columns] * of_column[i % columns] / fmax(total, 1);

        if (expected > 0)
            sum += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    free(of_row);
    if (live_rows < 2 || live_columns < 2)
        return 1;
    return chi_square_p(sum, (int)((live_rows - 1) * (live_columns - 1)));
}

/* ---- many p-values --------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* P(D > d) -> 2 sum (-1)^(k-1) exp(-2 k^2 t^2) with t = (sqrt(n) + 0.12 + 0.11/sqrt(n)) d, which is
 * within 1 % from eight numbers on (Stephens 1970). */
double stats_uniform_p(double *values, size_t n, double *d)
{
    double root = sqrt((double)n), t, p = 0, sign = 2;

    qsort(values, n, sizeof *values, by_value);
    *d = 0;
    for (size_t i = 0; i < n; i++) {
        double below = values[i] - (double)i / (double)n;
        double above = (double)(i + 1) / (double)n - values[i];

        *d = fmax(*d, fmax(below, above));
    }
    if (n == 0)
        return NAN;
    t = (root + 0.12 + 0.11 / root) * *d;
    if (t < 0.2)
        return 1; /* to twelve digits; the sum below converges slowly there */
    for (int k = 1; k <= 100; k++, sign = -sign)
        p += sign * exp(-2.0 * k * k * t * t);
    return fmin(fmax(p, 0), 1);
}

/* The smallest p is multiplied by the number of comparisons, the next by one less, and none may be
 * below the one before. */
void stats_holm(const double *p, double *adjusted, size_t n)
{
    size_t left = 0;
    double floor = 0;

    for (size_t i = 0; i < n; i++) {
        adjusted[i] = NAN;
        left += !isnan(p[i]);
    }
    for (; left > 0; left--) {
        size_t least = n;

        for (size_t i = 0; i < n; i++)
            if (!isnan(p[i]) && isnan(adjusted[i]) && (least == n || p[i] < p[least]))
                least = i;
        floor = fmin(1, fmax(floor, p[least] * (double)left));
        adjusted[least] = floor;
    }
}
