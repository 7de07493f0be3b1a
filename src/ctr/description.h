/* description.h - the groups by which the items of an arm are described: by interest, by place. No
 * test is made of them; all answers of the arm count. */
#ifndef CTR_DESCRIPTION_H
#define CTR_DESCRIPTION_H

#include "report.h"

struct description {
    const char *title; /* "by interest" */
    size_t offset, n;  /* of the shares in struct seen_arm */
    void (*name)(struct buf *b, size_t group);
};

#define DESCRIPTIONS 3
extern const struct description descriptions[DESCRIPTIONS];

const struct share *description_share(const struct description *d, const struct report_arm *a,
                                      size_t group);
/* Has an arm of the layer anything in the group? */
bool description_has(const struct description *d, const struct report_layer *l, size_t group);
bool description_empty(const struct description *d, const struct report_layer *l);
/* NaN without exposed items. */
double description_ctr(const struct share *s);

#endif
