/* blas.c - the OpenBLAS calls. One thread: recalld runs one worker per core already. */
#include "recalld/blas.h"

#include <cblas.h>

void blas_single_thread(void)
{
    openblas_set_num_threads(1);
}

void blas_gemm_nt(size_t m, size_t n, size_t d, const float *a, size_t lda, const float *b,
                  size_t ldb, float *c, size_t ldc)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)m, (blasint)n, (blasint)d, 1.0f,
                a, (blasint)lda, b, (blasint)ldb, 0.0f, c, (blasint)ldc);
}
