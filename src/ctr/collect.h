/* collect.h - reads the journal into sums. */
#ifndef CTR_COLLECT_H
#define CTR_COLLECT_H

#include "collected.h"

#include "recalld/ctr.h"

typedef void progress_fn(void *arg, const char *step, size_t done, size_t total);

int collect(const struct ctr_ask *ask, struct collected *c, progress_fn *progress, void *arg,
            struct err *err) WARN_UNUSED;

#endif
