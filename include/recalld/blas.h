/* blas.h - the OpenBLAS calls. Results may differ in the last bits between machines, kernels and
 * batch sizes, so they only ever *choose* candidates; what is returned comes from model/ and
 * index/'s fixed-order dot product (vec_dot). */
#ifndef RECALLD_BLAS_H
#define RECALLD_BLAS_H

#include <stddef.h>

void blas_single_thread(void); /* once, at program start */

/* c[m][n] = a[m][d] . b[n][d]^T, all row-major float32; lda, ldb, ldc in floats. */
void blas_gemm_nt(size_t m, size_t n, size_t d, const float *a, size_t lda, const float *b,
                  size_t ldb, float *c, size_t ldc);

#endif
