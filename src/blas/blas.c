/* blas.c - OpenBLAS keeps to the calling thread: recalld runs one worker per core already. */
#include "recalld/blas.h"

#include <cblas.h>

void blas_single_thread(void)
{
    openblas_set_num_threads(1);
}
