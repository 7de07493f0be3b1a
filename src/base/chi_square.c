/* chi_square.c - Pearson's test: how likely counts are by chance when their shares are known.
 *
 * Degrees of freedom are whole numbers here, so the probability is a finite sum of positive terms:
 * nothing converges, nothing cancels, and one as small as 1e-300 has its digits. Each term comes
 * from its logarithm, because exp(-x / 2) alone may be zero where the sum is not. */
#include "recalld/base.h"

#include <math.h>

/* Of n degrees: Q(n/2, h) = [erfc(sqrt(h)) when n is odd] + sum h^k e^-h / gamma(k + 1), with h =
 * x/2 and k = n/2 - 1, n/2 - 2, ... down to 0 or 1/2. */
double chi_square_p(double x, int degrees)
{
    double half = x / 2, p = degrees % 2 == 1 ? erfc(sqrt(half)) : 0;
    int sign;

    if (degrees < 1 || !(x >= 0))
        return NAN;
    if (x == 0 || isinf(x))
        return x == 0 ? 1 : 0;
    for (double k = degrees % 2 == 1 ? 0.5 : 0; k < degrees / 2.0; k++)
        p += exp(k * log(half) - half - lgamma_r(k + 1, &sign));
    return fmin(p, 1);
}

double chi_square_test(const double *counts, const double *shares, size_t n, double *statistic,
                       int *degrees)
{
    double total = 0, sum = 0;

    *degrees = -1;
    for (size_t i = 0; i < n; i++)
        total += counts[i];
    for (size_t i = 0; i < n; i++) {
        double expected = total * shares[i], off = counts[i] - expected;

        if (shares[i] == 0 && counts[i] == 0)
            continue;
        ++*degrees;
        if (expected > 0)
            sum += off * off / expected;
        else if (counts[i] > 0)
            sum = INFINITY;
    }
    *statistic = sum;
    return *degrees < 1 ? 1 : chi_square_p(sum, *degrees);
}
