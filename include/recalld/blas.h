/* blas.h - how OpenBLAS, on which Faiss stands, is to behave. */
#ifndef RECALLD_BLAS_H
#define RECALLD_BLAS_H

void blas_single_thread(void); /* once, at program start */

#endif
