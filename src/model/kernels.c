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

/* ---- dot products --------------------------------------------------------------- */

/* As in vec.c: sixteen lanes in vectors as wide as the machine's, folded in halves. */
#define LANES 16
#ifdef __AVX__
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define PARTS (LANES / WIDTH)
#define GROUP 4 /* vectors against which a row is read once */
typedef float part __attribute__((vector_size(WIDTH * sizeof(float))));
typedef float quad __attribute__((vector_size(4 * sizeof(float))));
typedef int32_t choice __attribute__((vector_size(4 * sizeof(int32_t))));

#define LOAD(v, p) memcpy(&(v), (p), sizeof(v))
#if defined(__clang__)
#define CHOOSE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define CHOOSE(a, b, i, j, k, l) __builtin_shuffle(a, b, (choice){i, j, k, l})
#endif

static inline __attribute__((always_inline)) quad fold_to_quad(part *sum)
{
    quad low, high;

    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int p = 0; p < half; p++)
            sum[p] = sum[p] + sum[p + half];
    LOAD(low, sum);
    if (WIDTH == 4)
        return low;
    LOAD(high, (const float *)sum + 4);
    return low + high;
}

/* (l0 + l2) + (l1 + l3) of four quads at once. */
static inline __attribute__((always_inline)) quad fold_quads(quad a, quad b, quad c, quad d)
{
    quad ab = CHOOSE(a, b, 0, 1, 4, 5) + CHOOSE(a, b, 2, 3, 6, 7);
    quad cd = CHOOSE(c, d, 0, 1, 4, 5) + CHOOSE(c, d, 2, 3, 6, 7);

    return CHOOSE(ab, cd, 0, 2, 4, 6) + CHOOSE(ab, cd, 1, 3, 5, 7);
}

/* The row against four vectors, n a multiple of LANES. */
static inline __attribute__((always_inline)) quad dot_group(const float *a, const float *row,
                                                            size_t n)
{
    part sum[GROUP][PARTS] = {{{0}}}, x, y;

    for (size_t i = 0; i < n; i += LANES)
        for (int p = 0; p < PARTS; p++) {
            LOAD(x, row + i + p * WIDTH);
            for (int g = 0; g < GROUP; g++) {
                LOAD(y, a + (size_t)g * n + i + p * WIDTH);
                sum[g][p] = sum[g][p] + y * x;
            }
        }
    return fold_quads(fold_to_quad(sum[0]), fold_to_quad(sum[1]), fold_to_quad(sum[2]),
                      fold_to_quad(sum[3]));
}

void kernel_dots(float *out, size_t ldo, const float *a, size_t n_a, const float *const *rows,
                 size_t n_rows, size_t n)
{
    size_t k = 0;

    for (; n % LANES == 0 && k + GROUP <= n_a; k += GROUP)
        for (size_t r = 0; r < n_rows; r++) {
            quad dots = dot_group(a + k * n, rows[r], n);

            for (size_t g = 0; g < GROUP; g++)
                out[(k + g) * ldo + r] = dots[g];
        }
    for (; k < n_a; k++)
        vec_dots(out + k * ldo, a + k * n, rows, 0, n_rows, n);
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
