/* metrics.h - counters, histograms and gauges, rendered as Prometheus text (format 0.0.4).
 *
 * Modules register their metrics before threads start; metrics of one family have the same name and
 * the same help. Each thread then counts in its own cache lines without a lock; a scrape sums them.
 * A thread that ends leaves its sums behind. */
#ifndef RECALLD_METRICS_H
#define RECALLD_METRICS_H

#include "recalld/base.h"

/* `labels` is "" or the inside of the braces: reason="redis_timeout". Names, help and labels are
 * borrowed for the life of the process. Return the metric's id. Registering the very same name and
 * labels again returns the same id (a gauge then reads with the newer function). The process aborts
 * when there are more than 256 metrics: that is a mistake in the program. */
int metric_counter(const char *name, const char *help, const char *labels);
/* `bounds`: n upper bounds, ascending, borrowed; +Inf is added. */
int metric_histogram(const char *name, const char *help, const char *labels, const double *bounds,
                     int n);
/* Read at scrape time. */
int metric_gauge(const char *name, const char *help, const char *labels, double (*read)(void *arg),
                 void *arg);
/* A whole family written at scrape time, for labels known only then: `write` appends sample lines;
 * HELP and TYPE (gauge) lines are written for it. */
int metric_family(const char *name, const char *help, void (*write)(struct buf *out, void *arg),
                  void *arg);
/* The same of counters. */
int metric_counter_family(const char *name, const char *help,
                          void (*write)(struct buf *out, void *arg), void *arg);

void metric_add(int id, uint64_t n);
void metric_observe(int id, double value);
uint64_t metric_value(int id); /* a counter's sum now; a histogram's number of observations */

/* Bounds in seconds for stages of a request, 20 us to 1 s. */
#define METRIC_STAGE_BOUNDS_N 16
extern const double metric_stage_bounds[METRIC_STAGE_BOUNDS_N];

void metrics_render(struct buf *out);
/* process_* figures: processor time, resident memory, file descriptors, start time. */
void metrics_register_process(void);

#endif
