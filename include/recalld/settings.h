/* settings.h - the recall settings: what an operator, and later an arm, may turn.
 *
 * One table (name, type, bounds, default, help) serves the configuration file ([recall] section),
 * experiments, documentation and the checks. A struct settings is plain data, copied freely. */
#ifndef RECALLD_SETTINGS_H
#define RECALLD_SETTINGS_H

#include "recalld/base.h"

enum merge_policy { MERGE_MAX, MERGE_QUOTA, MERGE_DIVERSE };
enum fallback_policy { FALLBACK_POPULAR, FALLBACK_NONE };
/* How many interests a user of L known items gets, at most K. */
enum dynamic_interests {
    DYNAMIC_MODEL, /* as the bundle's manifest says */
    DYNAMIC_NONE,
    DYNAMIC_FLOOR_LOG2,   /* max(1, floor(log2 L)) */
    DYNAMIC_CEIL_LOG2,    /* max(1, ceil(log2 L)) */
    DYNAMIC_TRUNC_LN,     /* max(1, trunc(ln L)) */
    DYNAMIC_FLOOR_LOG2_1P /* max(1, floor(log2(1 + L))) */
};

#define SETTINGS_NAME_MAX 128

struct settings {
    char bundle[SETTINGS_NAME_MAX]; /* name@version or alias; "" = the default bundle */
    int n;                          /* answers when the request does not say */
    int interests;                  /* use at most so many; 0 = all */
    int candidates;                 /* hits per interest before the merge; 0 = n */
    double effort;                  /* multiplier on the index's search parameter */
    enum merge_policy merge;
    int min_per_interest;                        /* quota */
    double lambda;                               /* diverse */
    char diversity_attribute[SETTINGS_NAME_MAX]; /* "" = the bundle's first attribute */
    bool exclude_history;
    bool exclude_exposed;
    enum dynamic_interests dynamic_interests;
    double similar_interests; /* cosine above which the later of two is dropped */
    enum fallback_policy fallback;
};

enum setting_type { SETTING_INT, SETTING_DOUBLE, SETTING_BOOL, SETTING_ENUM, SETTING_STRING };

struct setting {
    const char *name;
    enum setting_type type;
    size_t offset;
    const char *fallback; /* the default, as text */
    double min, max;
    const char *const *words; /* SETTING_ENUM: NULL-terminated, in the order of the enum */
    const char *help;
};

const struct setting *settings_table(size_t *n);
const struct setting *settings_find(const char *name);
void settings_default(struct settings *s);
/* `text` is the value as written in a file. Refused with ERR_USAGE and what is allowed ("must be
 * from 1 to 64"): the caller puts the name ahead. */
int settings_set(struct settings *s, const struct setting *which, const char *text, struct err *err)
    WARN_UNUSED;
/* The value as text, into `out`. */
void settings_get(const struct settings *s, const struct setting *which, struct buf *out);
/* The word of an enum setting's value. */
const char *settings_word(const char *name, int value);

#endif
