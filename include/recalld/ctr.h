/* ctr.h - what the journal says about an experiment: click-through per arm, with statistics.
 *
 * Events are read into memory first; then answers go past once and each takes its events. What is
 * kept of answers are sums per layer and user, the unit of randomisation; figures and their errors
 * come from those. docs/ctr.md defines every figure. One thread. */
#ifndef RECALLD_CTR_H
#define RECALLD_CTR_H

#include "recalld/base.h"
#include "recalld/experiment.h"

struct ctr_ask {
    const char *const *served, *const *events; /* files and folders; events may be none */
    size_t n_served, n_events;
    /* Weights and units of the layers; NULL = equal weights, users. */
    const struct experiments *experiments;
    const char *const *controls; /* "ARM" or "LAYER=ARM" */
    size_t n_controls;
    int64_t window_ms;          /* an event counts that long after its answer */
    int64_t since_ms, until_ms; /* answers in [since, until) only */
    int64_t bucket_ms;          /* of the plot over time; 0 = about 50 buckets */
    int64_t version;            /* answers of this version of the experiments only; -1 = all */
    double confidence;          /* 0.95 */
    size_t memory;              /* bytes for events; more of them take several rounds */
    bool strict;                /* a bad line is an error; otherwise it is counted and left out */
    bool all_items;             /* also events on items that the answer did not contain */
    int aa;                     /* so many A/A splits of the same users */
    uint64_t seed;              /* of those */
};
/* All times, all versions, 24 hours, 95 %, 1 GiB. */
void ctr_ask_default(struct ctr_ask *ask);

struct ctr_report;
/* `progress` may be NULL: of bytes read. NULL with *err set; errors about lines name the file, the
 * line and the reason. The experiments may go before the report. */
struct ctr_report *ctr_run(const struct ctr_ask *ask,
                           void (*progress)(void *arg, const char *step, size_t done, size_t total),
                           void *arg, struct err *err) WARN_UNUSED;
void ctr_report_free(struct ctr_report *r); /* NULL allowed */

/* Layers whose arms do not have the users they should: nothing else about them can be believed. */
size_t ctr_mismatches(const struct ctr_report *r);

void ctr_print_text(const struct ctr_report *r, struct buf *out);
void ctr_print_json(const struct ctr_report *r, struct buf *out);
void ctr_print_html(const struct ctr_report *r,
                    struct buf *out); /* a page that needs nothing else */

#endif
