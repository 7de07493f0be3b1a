/* eval.h - how good a bundle is, measured on users whose behaviour is known.
 *
 * The first part of a user's behaviour is asked with, as a request over the serving path
 * (recall.h); the rest, the targets, is looked for in the answer. What goes where is the
 * protocol's choice. Nothing here depends on the number of threads or on how users are batched. */
#ifndef RECALLD_EVAL_H
#define RECALLD_EVAL_H

#include "recalld/recall.h"

/* ---- behaviour --------------------------------------------------------------- */

/* Two forms, told apart by the first line that is not blank:
 *   user,item,position     one event a line, in any order; position is a whole number
 *   a user a line, items oldest first, as history_line_start reads them (bundle.h)
 * Blank lines are skipped; ids are 1 to 256 bytes of UTF-8. */
struct eval_data;
/* Errors name file, line and reason. */
struct eval_data *eval_data_open(const char *path, struct err *err) WARN_UNUSED;
/* The same from memory; the bytes are borrowed for the data's life. */
struct eval_data *eval_data_read(const char *name, const void *bytes, size_t len, struct err *err)
    WARN_UNUSED;
void eval_data_free(struct eval_data *d);

struct eval_user {
    struct str id;
    const struct str *items; /* oldest first */
    size_t n;
};
size_t eval_data_users(const struct eval_data *d); /* in the order of their first lines */
struct eval_user eval_data_user(const struct eval_data *d, size_t i);
const char *eval_data_form(const struct eval_data *d); /* for people: "user,item,position" */

/* ---- protocols --------------------------------------------------------------- */

/* items[0, history) are asked with, items[history, end) are the targets. */
struct eval_cut {
    size_t history, end;
};

struct eval_protocol {
    const char *name;
    const char *about; /* what is history, what are the targets: a sentence */
    /* False: the user's behaviour is too short. `seed`: of what is drawn. */
    bool (*cut)(const struct eval_user *u, uint64_t seed, struct eval_cut *out);
    int every;       /* of so many users the last is tested, unless the caller says otherwise */
    bool normalised; /* asks for interests of length 1 */
};
const struct eval_protocol *eval_protocols(size_t *n);
const struct eval_protocol *eval_protocol_find(const char *name); /* or NULL */

/* The settings of a reference evaluation, over what is there: history may come back, similar
 * interests stay, no popular items, merge by best score. */
void eval_reference(struct settings *s);

/* ---- figures of one answer --------------------------------------------------- */

/* Which of the published definitions. All of them: 0 without a hit, ranks from 0, gain of rank r
 * 1 / log2(r + 2). */
enum eval_ndcg {
    EVAL_NDCG_MASTER,   /* over the hits' ranks in the answer; ideal: these hits come first */
    EVAL_NDCG_STANDARD, /* the same; ideal: min(n, different targets) hits come first */
    EVAL_NDCG_PAPER,    /* over the found targets' places in the list of targets, which their
                           order in the answer does not change; ideal: they come first in it */
    EVAL_NDCG_COUNT
};
extern const char *const eval_ndcg_words[EVAL_NDCG_COUNT];
extern const char *const eval_ndcg_about[EVAL_NDCG_COUNT]; /* sentences */
extern const char eval_recall_about[], eval_hit_rate_about[], eval_diversity_about[];

struct eval_score {
    size_t hits;   /* rows of the answer that are a target */
    double recall; /* hits / targets, one that is repeated counts each time */
    double ndcg;
};
/* `answer`: rows, best first, none twice. `targets` in the order of the user's behaviour; at least
 * one; numbers that are no row stand for items which the bundle does not have. */
struct eval_score eval_score(const uint32_t *answer, size_t n_answer, const uint32_t *targets,
                             size_t n_targets, size_t n, enum eval_ndcg kind);
/* The share of pairs of rows that have no value of the attribute in common; 0 below two rows. */
double eval_diversity(const struct items *items, size_t attribute, const uint32_t *rows, size_t n);

/* ---- a run ------------------------------------------------------------------- */

struct eval_ask {
    const struct eval_protocol *protocol;
    int every;     /* of so many users the last is tested; 1 = all are */
    uint64_t seed; /* of what the protocol draws */
    size_t n;      /* answers; recall_n_max of the configuration must allow it */
    enum eval_ndcg ndcg;
    bool diversity; /* of the setting diversity_attribute */
    bool exact;     /* search every row, whatever engine the bundle has */
    int threads;
    size_t batch; /* users in one call */
};

struct eval_result {
    size_t users;                    /* tested */
    size_t too_short;                /* left out by the protocol */
    size_t hits;                     /* users with a hit */
    size_t short_answers;            /* with fewer than n items */
    size_t history, history_unknown; /* items asked with; those the bundle does not have */
    size_t targets, targets_unknown;
    double recall, hit_rate, ndcg, diversity; /* means over the users tested */
    double seconds;                           /* of answering, on all threads */
};

/* Evaluates the registry's default bundle with cfg->recall. `progress` may be NULL. ERR_USAGE:
 * the protocol, the attribute or the data do not fit the bundle; FORMAT: a shard cannot be
 * searched; IO, NOMEM. */
int eval_run(const struct eval_ask *ask, const struct config *cfg, struct registry *reg,
             const struct eval_data *d, bundle_progress progress, void *arg,
             struct eval_result *out, struct err *err) WARN_UNUSED;

#endif
