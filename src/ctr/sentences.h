/* sentences.h - what may be wrong with a report, in words. */
#ifndef CTR_SENTENCES_H
#define CTR_SENTENCES_H

#include "report.h"

/* Fills the report's warnings and notes from its figures. `e` may be NULL. */
void sentences_add(struct ctr_report *r, const struct experiments *e);

#endif
