/* ckpt_report.h - inside recallctl/ only: what ckpt show tells of a checkpoint, for programs
 * (ckpt_json.c) and for people (ckpt_text.c). */
#ifndef RECALLCTL_CKPT_REPORT_H
#define RECALLCTL_CKPT_REPORT_H

#include "recalld/ckpt.h"
#include "recalld/model.h"

/* Findings, copied. */
struct found {
    struct model_finding *at;
    size_t n;
};

struct report {
    const struct ckpt *c;
    bool values;
    struct found found;
    size_t n_fits;
    struct tensor_facts *facts; /* of every tensor; NULL without values */
    char *step;
    size_t done, total; /* bytes read of those to be read */
};

/* The first of its kind, about `name` unless that is NULL; NULL = none. */
const struct model_finding *finding_of(const struct found *found, enum model_finding_kind kind,
                                       const char *name);
/* What is refused without fitting any variant, or NULL. */
const struct model_finding *finding_refusal(const struct found *found);
const char *dtype_text(const struct tensor *t);

void ckpt_print_json(const struct report *r);
void ckpt_print_text(const struct report *r);

/* Bytes from a file are not to move a terminal's cursor: both mend what was put since `begin` (one
 * line), or print all with '?' in place of such. */
void text_one_line(struct buf *b, size_t begin);
void text_print(struct buf *b);

#endif
