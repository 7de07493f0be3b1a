/* text.h - numbers as people read them. Each function appends; NaN becomes "-". */
#ifndef CTR_TEXT_H
#define CTR_TEXT_H

#include "report.h"

void text_count(struct buf *b, double n);       /* 1,234,567 */
void text_percent(struct buf *b, double share); /* 3.214 % */
void text_value(struct buf *b, double value, bool percent);
/* With its sign; of percentages in points: "+0.21 pp". */
void text_difference(struct buf *b, double d, bool percent);
void text_lift(struct buf *b, double lift); /* +13.6 % */
void text_range(struct buf *b, const struct stats_interval *i, bool percent);
void text_p(struct buf *b, double p);          /* 0.0312, 2.1e-07 */
void text_time(struct buf *b, int64_t ms);     /* 2026-11-24 13:55, UTC */
void text_duration(struct buf *b, int64_t ms); /* 24 h */

#endif
