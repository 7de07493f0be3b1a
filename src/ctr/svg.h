/* svg.h - the plots of the page. Colours are classes of its style sheet: a0 to a7 by arm. */
#ifndef CTR_SVG_H
#define CTR_SVG_H

#include "description.h"

#define COLOURS 8

/* Text of outside as HTML or SVG takes it. */
void html_text(struct buf *out, const char *s);

/* CTR by stretch of time, a line and a band of confidence for each arm. */
void svg_over_time(struct buf *out, const struct ctr_report *r, const struct report_layer *l);
/* The lift of every arm and figure with its interval. */
void svg_forest(struct buf *out, const struct report_layer *l);
/* The share of units that each arm has, and the one that it should have. */
void svg_ratio(struct buf *out, const struct report_layer *l);
/* A bar of CTR for each arm in each group; nothing where nothing was exposed. */
void svg_groups(struct buf *out, const struct report_layer *l, const struct description *d);

#endif
