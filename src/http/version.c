/* version.c - the version both programs tell; the Makefile may name another. */
#include "recalld/http.h"

#ifndef RECALLD_VERSION
#define RECALLD_VERSION "0.1.0"
#endif

const char recalld_version[] = RECALLD_VERSION;
