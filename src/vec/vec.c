/* vec.c - float32 arithmetic in one fixed order.
 *
 * Sixteen lanes are held in PARTS vectors of the width the machine has registers for. The width
 * changes the speed and never which lane an element goes to, so never the order of an addition. */
#include "recalld/vec.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 16
#ifdef __AVX__
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define PARTS (LANES / WIDTH)
#define WIDE_PARTS 8 /* vectors that a loop over rows keeps in registers */
typedef float part __attribute__((vector_size(WIDTH * sizeof(float))));

/* Macros, not functions: a vector this wide has no calling convention on every machine. */
#define LOAD(v, p) memcpy(&(v), (p), sizeof(v))
#define STORE(p, v) memcpy((p), &(v), sizeof(v))

/* ---- sums --------------------------------------------------------------------- */

typedef float quad __attribute__((vector_size(4 * sizeof(float))));

/* Lanes 0..15 folded in halves down to four: l + (l + 8), then + 4. */
static inline __attribute__((always_inline)) quad fold_to_quad(part *sum)
{
    quad low;

    for (int half = PARTS / 2; half > 0; half /= 2)
        for (int p = 0; p < half; p++)
            sum[p] = sum[p] + sum[p + half];
    LOAD(low, sum);
#if WIDTH == 8
    quad high;

    LOAD(high, (const float *)sum + 4);
    low = low + high;
#endif
    return low;
}

/* And the rest of the way: + 2, + 1. */
static inline __attribute__((always_inline)) float fold(part *sum)
{
    quad q = fold_to_quad(sum);

    return (q[0] + q[2]) + (q[1] + q[3]);
}

/* The last n < 16 elements filled up with zeros. A lane starts at +0 and therefore never becomes
 * -0, so what the zeros add to it changes nothing. */
static inline void fill_up(float out[LANES], const float *x, size_t n)
{
    memset(out, 0, LANES * sizeof *out);
    memcpy(out, x, n * sizeof *x);
}

static inline __attribute__((always_inline)) void add_products(part *sum, const float *a,
                                                               const float *b)
{
    part x, y;

    for (int p = 0; p < PARTS; p++) {
        LOAD(x, a + p * WIDTH);
        LOAD(y, b + p * WIDTH);
        sum[p] = sum[p] + x * y;
    }
}

static inline __attribute__((always_inline)) float dot(const float *a, const float *b, size_t n)
{
    part sum[PARTS] = {{0}};
    float a_end[LANES], b_end[LANES];
    size_t i = 0;

    for (; i + LANES <= n; i += LANES)
        add_products(sum, a + i, b + i);
    if (i < n) {
        fill_up(a_end, a + i, n - i);
        fill_up(b_end, b + i, n - i);
        add_products(sum, a_end, b_end);
    }
    return fold(sum);
}

float vec_dot(const float *a, const float *b, size_t n)
{
    return dot(a, b, n);
}

void vec_dots(float *out, const float *a, const float *const *rows, size_t at, size_t n_rows,
              size_t n)
{
    for (size_t r = 0; r < n_rows; r++)
        out[r] = dot(a, rows[r] + at, n);
}

/* ---- many vectors against many rows ------------------------------------------------ */

typedef int32_t choice __attribute__((vector_size(4 * sizeof(int32_t))));

#if defined(__clang__)
#define CHOOSE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define CHOOSE(a, b, i, j, k, l) __builtin_shuffle(a, b, (choice){i, j, k, l})
#endif

/* (l0 + l2) + (l1 + l3) of four quads at once. */
static inline __attribute__((always_inline)) quad fold_quads(quad a, quad b, quad c, quad d)
{
    quad ab = CHOOSE(a, b, 0, 1, 4, 5) + CHOOSE(a, b, 2, 3, 6, 7);
    quad cd = CHOOSE(c, d, 0, 1, 4, 5) + CHOOSE(c, d, 2, 3, 6, 7);

    return CHOOSE(ab, cd, 0, 2, 4, 6) + CHOOSE(ab, cd, 1, 3, 5, 7);
}

/* A block of the table: BLOCK_ROWS rows against one vector or two, n a multiple of LANES. One part
 * of the lanes after the other, so that all sums under way stay in registers: two vectors against
 * four rows take six loads for eight products. */
#define BLOCK_ROWS 4
#define BLOCK_VECTORS 2

static inline __attribute__((always_inline)) void dot_block(float *out, size_t ldo, const float *a,
                                                            int n_a, const float *const *rows,
                                                            size_t n)
{
    part sum[BLOCK_VECTORS][BLOCK_ROWS][PARTS];
    const float *r0 = rows[0], *r1 = rows[1], *r2 = rows[2], *r3 = rows[3];

#pragma GCC unroll 4
    for (int p = 0; p < PARTS; p++) {
        part s[BLOCK_VECTORS][BLOCK_ROWS] = {{{0}}}, x[BLOCK_ROWS], y;

        for (size_t i = (size_t)p * WIDTH; i < n; i += LANES) {
            LOAD(x[0], r0 + i);
            LOAD(x[1], r1 + i);
            LOAD(x[2], r2 + i);
            LOAD(x[3], r3 + i);
#pragma GCC unroll 2
            for (int k = 0; k < n_a; k++) {
                LOAD(y, a + (size_t)k * n + i);
#pragma GCC unroll 4
                for (int r = 0; r < BLOCK_ROWS; r++)
                    s[k][r] = s[k][r] + y * x[r];
            }
        }
#pragma GCC unroll 2
        for (int k = 0; k < n_a; k++)
#pragma GCC unroll 4
            for (int r = 0; r < BLOCK_ROWS; r++)
                sum[k][r][p] = s[k][r];
    }
#pragma GCC unroll 2
    for (int k = 0; k < n_a; k++) {
        quad dots = fold_quads(fold_to_quad(sum[k][0]), fold_to_quad(sum[k][1]),
                               fold_to_quad(sum[k][2]), fold_to_quad(sum[k][3]));

        STORE(out + (size_t)k * ldo, dots);
    }
}

void vec_dot_table(float *out, size_t ldo, const float *a, size_t n_a, const float *const *rows,
                   size_t n_rows, size_t n)
{
    size_t blocks = n % LANES == 0 ? n_rows / BLOCK_ROWS * BLOCK_ROWS : 0;

    for (size_t r = 0; r < blocks; r += BLOCK_ROWS) {
        size_t k = 0;

        for (; k + BLOCK_VECTORS <= n_a; k += BLOCK_VECTORS)
            dot_block(out + k * ldo + r, ldo, a + k * n, BLOCK_VECTORS, rows + r, n);
        if (k < n_a)
            dot_block(out + k * ldo + r, ldo, a + k * n, 1, rows + r, n);
    }
    for (size_t k = 0; blocks < n_rows && k < n_a; k++)
        vec_dots(out + k * ldo + blocks, a + k * n, rows + blocks, 0, n_rows - blocks, n);
}

/* ---- lengths and sums ----------------------------------------------------------------- */

float vec_norm(const float *a, size_t n)
{
    return sqrtf(vec_dot(a, a, n));
}

void vec_normalise(float *out, const float *a, size_t n, float floor)
{
    float norm = vec_norm(a, n);
    float by = norm > floor ? norm : floor;

    for (size_t i = 0; i < n; i++)
        out[i] = a[i] / by;
}

void vec_axpy(float *y, float c, const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = y[i] + c * x[i];
}

/* Columns i .. i + WIDE_PARTS * WIDTH, held in registers while the rows pass by. */
static void sum_tile(float *out, const float *w, const float *const *rows, size_t at, size_t n_rows)
{
    part sum[WIDE_PARTS] = {{0}}, x;

    for (size_t r = 0; r < n_rows; r++)
        for (int p = 0; p < WIDE_PARTS; p++) {
            LOAD(x, rows[r] + at + p * WIDTH);
            sum[p] = sum[p] + w[r] * x;
        }
    for (int p = 0; p < WIDE_PARTS; p++)
        STORE(out + p * WIDTH, sum[p]);
}

void vec_weighted_sum(float *out, const float *w, const float *const *rows, size_t at,
                      size_t n_rows, size_t n)
{
    size_t i = 0;

    for (; i + WIDE_PARTS * WIDTH <= n; i += WIDE_PARTS * WIDTH)
        sum_tile(out + i, w, rows, at + i, n_rows);
    if (i < n)
        memset(out + i, 0, (n - i) * sizeof *out);
    for (size_t r = 0; i < n && r < n_rows; r++)
        vec_axpy(out + i, w[r], rows[r] + at + i, n - i);
}

/* ---- exponential ---------------------------------------------------------------- */

#define EXP_LOW (-87.3f)
#define EXP_HIGH 88.3f
#define LOG2_E 1.44269504f
/* ln 2 in two parts: the first has 9 bits, so that n times it is exact for every n in use. */
#define LN2_HIGH 0.693359375f
#define LN2_LOW (-2.12194440e-4f)
/* Adding and subtracting 1.5 * 2^23 rounds to an integer, which then sits in the low bits. */
#define ROUNDER 12582912.0f
#define ROUNDER_BITS 0x4b400000

void vec_exp(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float in = x[i];
        float v = in < EXP_LOW ? EXP_LOW : in;
        float shifted, whole, r, p, scale;
        int32_t bits;

        v = v > EXP_HIGH ? EXP_HIGH : v;
        shifted = v * LOG2_E + ROUNDER;
        whole = shifted - ROUNDER;
        r = (v - whole * LN2_HIGH) - whole * LN2_LOW;
        /* Taylor to r^7: |r| <= 0.347, so the rest is below 6e-9. */
        p = 1.0f / 5040;
        p = p * r + 1.0f / 720;
        p = p * r + 1.0f / 120;
        p = p * r + 1.0f / 24;
        p = p * r + 1.0f / 6;
        p = p * r + 0.5f;
        p = p * (r * r) + r;
        p = p + 1.0f;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (int32_t)((uint32_t)(bits - ROUNDER_BITS + 127) << 23);
        memcpy(&scale, &bits, sizeof scale);
        p = p * scale;
        p = in < EXP_LOW ? 0.0f : p;
        p = in > EXP_HIGH ? INFINITY : p;
        x[i] = p;
    }
}

void vec_softmax(float *x, size_t n)
{
    float most = -INFINITY, sum, end[LANES];
    part lanes[PARTS] = {{0}}, v;
    size_t at = 0;

    for (size_t i = 0; i < n; i++)
        most = x[i] > most ? x[i] : most;
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] - most;
    vec_exp(x, n);
    for (; at < n; at += LANES) {
        fill_up(end, x + at, n - at < LANES ? n - at : LANES);
        for (int p = 0; p < PARTS; p++) {
            LOAD(v, end + p * WIDTH);
            lanes[p] = lanes[p] + v;
        }
    }
    sum = fold(lanes);
    for (size_t i = 0; i < n; i++)
        x[i] = x[i] / sum;
}

/* ---- affine map ------------------------------------------------------------------ */

/* `rows` (1 to 4) rows against sixteen columns; every output adds its products in the order of c.
 */
#define AFFINE_ROWS 4
static inline __attribute__((always_inline)) void affine_tile(float *out, size_t ldo,
                                                              const float *x, size_t ldx, int rows,
                                                              const float *w, size_t ldw, size_t d)
{
    part sum[AFFINE_ROWS][PARTS] = {{{0}}}, row[PARTS];

    for (size_t c = 0; c < d; c++) {
        for (int p = 0; p < PARTS; p++)
            LOAD(row[p], w + c * ldw + p * WIDTH);
        for (int r = 0; r < rows; r++)
            for (int p = 0; p < PARTS; p++)
                sum[r][p] = sum[r][p] + x[(size_t)r * ldx + c] * row[p];
    }
    for (int r = 0; r < rows; r++)
        for (int p = 0; p < PARTS; p++)
            STORE(out + (size_t)r * ldo + p * WIDTH, sum[r][p]);
}

/* One row against as many columns as registers hold: a row alone has too few sums under way with
 * sixteen. */
static void affine_wide(float *out, const float *x, const float *w, size_t ldw, size_t d)
{
    part sum[WIDE_PARTS] = {{0}}, v;

    for (size_t c = 0; c < d; c++)
        for (int p = 0; p < WIDE_PARTS; p++) {
            LOAD(v, w + c * ldw + p * WIDTH);
            sum[p] = sum[p] + x[c] * v;
        }
    for (int p = 0; p < WIDE_PARTS; p++)
        STORE(out + p * WIDTH, sum[p]);
}

/* The same for a tail of fewer than sixteen columns, one output at a time, in the same order. */
static void affine_tail(float *out, size_t ldo, const float *x, size_t ldx, size_t rows,
                        const float *w, size_t ldw, size_t d, size_t columns)
{
    for (size_t r = 0; r < rows; r++)
        for (size_t j = 0; j < columns; j++) {
            float sum = 0;

            for (size_t c = 0; c < d; c++)
                sum = sum + x[r * ldx + c] * w[c * ldw + j];
            out[r * ldo + j] = sum;
        }
}

void vec_affine(float *out, size_t ldo, const float *x, size_t ldx, size_t rows, const float *w,
                const float *bias, size_t d, size_t m)
{
    size_t j = 0, groups = rows / AFFINE_ROWS * AFFINE_ROWS;

    for (; j + LANES <= m; j += LANES)
        for (size_t r = 0; r < groups; r += AFFINE_ROWS)
            affine_tile(out + r * ldo + j, ldo, x + r * ldx, ldx, AFFINE_ROWS, w + j, m, d);
    for (size_t r = groups; r < rows; r++) {
        j = 0;
        for (; j + WIDE_PARTS * WIDTH <= m; j += WIDE_PARTS * WIDTH)
            affine_wide(out + r * ldo + j, x + r * ldx, w + j, m, d);
        for (; j + LANES <= m; j += LANES)
            affine_tile(out + r * ldo + j, ldo, x + r * ldx, ldx, 1, w + j, m, d);
    }
    j = m / LANES * LANES;
    if (j < m)
        affine_tail(out + j, ldo, x, ldx, rows, w + j, m, d, m - j);
    if (bias != NULL)
        for (size_t r = 0; r < rows; r++)
            for (j = 0; j < m; j++)
                out[r * ldo + j] = out[r * ldo + j] + bias[j];
}
