/* experiment_impl.h - what a checked experiments file is in memory, and what the files of
 * experiment/ share. */
#ifndef EXPERIMENT_IMPL_H
#define EXPERIMENT_IMPL_H

#include "recalld/experiment.h"

/* Assignments have fewer codes than this, so that a code and the generation of its experiments fit
 * one word (counts.c): 32 layers of two arms do, and 10 layers of 32. */
#define CODES_MAX (UINT64_C(1) << 52)

/* A value as `when` compares it: a string or an integer by its text, or true or false. */
struct value {
    enum { VALUE_TEXT, VALUE_FALSE, VALUE_TRUE } kind;
    char *text;
    size_t len;
};

/* One key of `when`: any of its values will do. */
struct condition {
    char *context; /* the member of `context`, or NULL: the scene */
    struct value *values;
    size_t n_values;
};

/* A setting of an arm: these bytes of its struct settings hold. */
struct span {
    uint16_t offset, size;
};

struct arm {
    char name[EXPERIMENT_NAME_MAX + 1];
    double weight;
    double start, end; /* of [0, 1): the units it owns */
    uint32_t sets;     /* a bit for each row of settings_table */
    struct settings settings;
    struct span *spans;
    size_t n_spans;
};

/* A unit that gets one arm whatever its hash says. */
struct forced {
    char *unit; /* NULL = an empty place of the table */
    size_t len;
    uint8_t arm;
};

enum unit_kind { UNIT_USER, UNIT_REQUEST, UNIT_CONTEXT };

struct layer_counts;

struct layer {
    char name[EXPERIMENT_NAME_MAX + 1];
    char *seed;
    uint32_t seed_hash; /* the hash after the seed, where the unit's bytes follow */
    enum unit_kind unit;
    char *unit_text;         /* as written: user_id, request_id, context.NAME */
    const char *unit_member; /* NAME, within unit_text */
    double coverage;
    struct condition *when;
    size_t n_when;
    struct arm *arms;
    int n_arms;
    uint64_t radix;        /* what this layer's arm + 1 is multiplied by in a code */
    struct forced *forced; /* open addressing, a power of two places; NULL when there are none */
    size_t forced_mask;
    char *identity;              /* all that decides who gets which arm, as text */
    struct layer_counts *counts; /* counted; NULL before the store takes it */
};

struct experiments {
    struct ref ref;
    int64_t version;
    bool allow_forced;
    struct layer *layers;
    int n_layers;
    char *text;
    size_t len;
    char sha256[SHA256_HEX];
    unsigned generation; /* given by the store */
};

/* ---- experiment.c ---- */

struct experiments *experiments_new(void);
bool experiment_name_valid(const char *s);
int layer_arm_find(const struct layer *l, const char *name); /* -1 = none */

/* ---- assign.c ---- */

#define FNV_START UINT32_C(2166136261)
uint32_t experiment_fnv(uint32_t h, const void *bytes, size_t len);
bool value_equal(const struct value *a, const struct value *b);
/* Of a JSON string, integer or boolean; `digits` holds an integer's text. False for anything else.
 * Borrows. */
bool value_of_json(const json_t *v, char digits[24], struct value *out);
/* The place in layer.forced where a unit is or would be. */
struct forced *forced_place(const struct layer *l, const char *unit, size_t len);

/* ---- counts.c ---- */

struct counts;
struct counts *counts_new(size_t remember);
void counts_free(struct counts *c);
/* Before `e` is seen: gives its layers the counts of those of `old` (may be NULL) that assign as
 * they do, or new ones. */
void counts_adopt(struct counts *c, struct experiments *e, const struct experiments *old);
void layer_counts_release(struct layer_counts *c); /* NULL allowed */
void counts_served(struct counts *c, const struct experiments *e, const struct assignment *a,
                   const char *serve_id, const char *request_id);
bool counts_event(struct counts *c, enum experiment_event kind, const char *id, size_t len);
void counts_report(const struct experiments *e, struct buf *json);
/* Samples of one family: which = 0 served, 1 exposed, 2 clicked. */
void counts_samples(const struct experiments *e, int which, struct buf *out);

#endif
