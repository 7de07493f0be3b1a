/* kernels.c - the few loops over numbers that vec.h does not have. Like vec.h's they add in one
 * fixed order, and of libm only what is exact on every machine is called. */
#include "model_impl.h"

#include "recalld/vec.h"

#include <math.h>
#include <string.h>

/* ---- softmax over the interests ------------------------------------------------- */

/* Columns taken at a time. */
#define COLUMNS 64

/* x[r * ld + j], j < n <= COLUMNS */
static void subtract_most(float *x, size_t ld, size_t rows, size_t n)
{
    float most[COLUMNS];

    for (size_t j = 0; j < COLUMNS; j++)
        most[j] = -INFINITY;
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            most[j] = x[r * ld + j] > most[j] ? x[r * ld + j] : most[j];
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            x[r * ld + j] = x[r * ld + j] - most[j];
}

static void divide_by_sum(float *x, size_t ld, size_t rows, size_t n)
{
    float sum[COLUMNS];

    for (size_t j = 0; j < n; j++)
        sum[j] = 0 + x[j];
    for (size_t r = 1; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            sum[j] = sum[j] + x[r * ld + j];
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < n; j++)
            x[r * ld + j] = x[r * ld + j] / sum[j];
}

void kernel_softmax_across(float *x, size_t rows, size_t n)
{
    for (size_t i = 0; i < n; i += COLUMNS)
        subtract_most(x + i, n, rows, n - i < COLUMNS ? n - i : COLUMNS);
    vec_exp(x, rows * n);
    for (size_t i = 0; i < n; i += COLUMNS)
        divide_by_sum(x + i, n, rows, n - i < COLUMNS ? n - i : COLUMNS);
}

/* ---- hyperbolic tangent ---------------------------------------------------------- */

/* 1 - 2 / (e^2x + 1); e^2x may be 0 or infinity. */
void kernel_tanh(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        x[i] = 2 * x[i];
    vec_exp(x, n);
    for (size_t i = 0; i < n; i++)
        x[i] = 1 - 2 / (x[i] + 1);
}

/* ---- logarithm and power --------------------------------------------------------- */

#define LN_2 0.69314718055994530942
#define SQRT_HALF 0.70710678118654752440

/* x = m 2^e with m in [sqrt 1/2, sqrt 2); log m = 2 artanh s, s = (m-1)/(m+1), |s| < 0.172: the
 * first term left out is below 2e-18. */
double kernel_log(double x)
{
    int e;
    double m = frexp(x, &e), s, s2, sum = 0;

    if (m < SQRT_HALF) {
        m = 2 * m;
        e--;
    }
    s = (m - 1) / (m + 1);
    s2 = s * s;
    for (int n = 21; n >= 1; n -= 2)
        sum = sum * s2 + 1.0 / n;
    return e * LN_2 + 2 * s * sum;
}

/* e^y = 2^n e^r, |r| <= ln 2 / 2; Taylor to r^14. */
static double exp_of(double y)
{
    double n = floor(y / LN_2 + 0.5), r = y - n * LN_2, sum = 1;

    for (int i = 14; i >= 1; i--)
        sum = 1 + r / i * sum;
    return ldexp(sum, (int)n);
}

double kernel_pow(double x, double p)
{
    double y;

    if (x == 0)
        return 0;
    y = p * kernel_log(x);
    return y < -740 ? 0 : y > 709 ? HUGE_VAL : exp_of(y);
}
