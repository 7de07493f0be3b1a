/* vec.h - float32 arithmetic in one fixed order: the same bits on any machine, batch or load.
 *
 * Everything a client sees (interests, scores) is computed here. A sum runs in 16 lanes (element i
 * into lane i mod 16), which are then folded in halves: 8, 4, 2, 1. Multiplication and addition
 * round separately (-ffp-contract=off), so SSE, AVX2, AVX-512 and NEON agree to the bit. */
#ifndef RECALLD_VEC_H
#define RECALLD_VEC_H

#include <stddef.h>

float vec_dot(const float *a, const float *b, size_t n);
/* out[r] = vec_dot(a, rows[r] + at, n), to the bit. */
void vec_dots(float *out, const float *a, const float *const *rows, size_t at, size_t n_rows,
              size_t n);
/* out[k * ldo + r] = vec_dot(a + k * n, rows[r], n), to the bit, for n_a vectors a. */
void vec_dot_table(float *out, size_t ldo, const float *a, size_t n_a, const float *const *rows,
                   size_t n_rows, size_t n);
/* Euclidean length. */
float vec_norm(const float *a, size_t n);
/* out[i] = a[i] / max(|a|, floor); out may be a. */
void vec_normalise(float *out, const float *a, size_t n, float floor);
/* y[i] += c * x[i] */
void vec_axpy(float *y, float c, const float *x, size_t n);
/* out[i] = sum_r w[r] * rows[r][at + i], r ascending; zeros when there are no rows. */
void vec_weighted_sum(float *out, const float *w, const float *const *rows, size_t at,
                      size_t n_rows, size_t n);
/* x[i] = e^x[i], within 2 units in the last place; below -87.3 gives 0, above 88.3 infinity. */
void vec_exp(float *x, size_t n);
/* Softmax in place: e^(x - max) / sum. n = 0 does nothing. */
void vec_softmax(float *x, size_t n);
/* out[r][j] = (sum_c x[r][c] * w[c][j], c ascending) + bias[j]; w is (d, m) input-major, bias may
 * be NULL. Each output's order does not depend on `rows`. ldx, ldo: floats from one row to the
 * next. */
void vec_affine(float *out, size_t ldo, const float *x, size_t ldx, size_t rows, const float *w,
                const float *bias, size_t d, size_t m);

#endif
