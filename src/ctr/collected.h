/* collected.h - what is known once the journal was read: sums per layer, arm and unit. */
#ifndef CTR_COLLECTED_H
#define CTR_COLLECTED_H

#include "keyed.h"
#include "reactions.h"

#include "recalld/experiment.h"

#define LAYERS_MAX 64
#define ARMS_MAX 64     /* of a layer */
#define VERSIONS_MAX 64 /* of the experiments; further ones count as the last */

/* What is counted of a unit. An item of an answer counts once, however often it was clicked. */
enum counter {
    COUNT_ANSWERS,
    COUNT_EXPOSED, /* items */
    COUNT_CLICKED, /* of those */
    COUNT_CLICKS,  /* items that were clicked, whether exposed, in the answer, or not */
    COUNT_HITS,    /* of those: the answer contained it */
    COUNTERS
};
/* All answers, and those with nothing in `degraded`. */
enum population { ALL, UNDEGRADED, POPULATIONS };

/* A unit of a layer; the key comes first (keyed.h). */
struct unit {
    uint64_t id;
    uint32_t layer;
    uint8_t arm, version; /* of its first answer; the lowest it was served with */
    bool crossed;         /* it was in several arms: it counts for none */
    uint32_t n[POPULATIONS][COUNTERS];
};
#define UNIT_KEY (offsetof(struct unit, arm))

/* A unit in a stretch of time; only where something was exposed. */
struct stretch {
    uint32_t unit;  /* its row */
    int32_t bucket; /* ts_ms / bucket_ms - bucket_zero */
    uint32_t clicked, exposed;
};
#define STRETCH_KEY (offsetof(struct stretch, clicked))

/* Descriptions of an arm that no test is made of: all its answers count. */
struct share {
    uint64_t exposed, clicked, hits;
};
#define RANKS 7
extern const int rank_ends[RANKS]; /* items before it, in the answer; the last is INT32_MAX */
#define SHOWN 21                   /* positions that clients report: 0 to 19, and more */

/* Of what was left out. */
enum apart {
    APART_UNEXPOSED, /* clicks on items that were not exposed; they count as clicks */
    APART_LATE,      /* events behind the window */
    APART_EARLY,     /* events before their answer */
    APART_FOREIGN,   /* exposed items that the answer did not contain */
    APARTS
};

struct seen_arm {
    char *name;
    uint64_t answers, degraded;
    uint64_t apart[APARTS];
    struct share interests[INTERESTS], ranks[RANKS], shown[SHOWN];
    uint64_t versions[VERSIONS_MAX]; /* answers */
};

struct seen_layer {
    char *name;
    struct seen_arm *arms[ARMS_MAX];
    size_t n_arms;
    bool by_request; /* its unit */
    bool by_context; /* its unit, which the journal does not have: users are taken instead */
};

/* Lines that could not be read. */
#define BAD_SHOWN 5
struct bad_lines {
    uint64_t n, good;
    uint64_t at[BAD_SHOWN]; /* the number of the line, all files counted through */
    char *first[BAD_SHOWN];
};

struct collected {
    struct seen_layer layers[LAYERS_MAX];
    size_t n_layers;
    struct keyed units, stretches;
    int64_t bucket_ms, bucket_zero;
    int64_t versions[VERSIONS_MAX];
    size_t n_versions;

    struct bad_lines bad_served, bad_events;
    uint64_t served_files, event_files, torn, text_bytes;
    uint64_t gone; /* files that were deleted before they were read */
    int rounds;    /* in which the answers were read */

    int64_t first_ms, last_ms; /* of the answers */
    uint64_t answers;          /* that count; of the others: */
    uint64_t forced, outside, other_version, unassigned, twice;
    double sample_min, sample_max;

    uint64_t exposures, clicks, others; /* events, by kind */
    uint64_t same_id, again;            /* duplicates */
    uint64_t unmatched;                 /* of no answer */
    uint64_t reused; /* of a request_id that several answers have: the first took them */
};

void collected_init(struct collected *c);
void collected_clear(struct collected *c);

/* The arms of an answer, by the numbers of layers and arms in struct collected. */
struct assigned {
    size_t n;
    uint8_t layer[EXPERIMENT_LAYERS_MAX], arm[EXPERIMENT_LAYERS_MAX];
};
/* Of the object {"layer":"arm",...}; names that are new get a number. `e` (may be NULL) says what
 * the unit of a layer is. */
int collected_assigned(struct collected *c, const struct experiments *e, struct str arms,
                       struct assigned *out, struct err *err) WARN_UNUSED;
/* An answer that counts, and what happened to its items. With `all_items` also those count that it
 * did not contain. */
int collected_count(struct collected *c, const struct scan_served *s, const struct assigned *arms,
                    const struct reactions *r, bool all_items, struct err *err) WARN_UNUSED;
/* After the last one: versions ascend, in whatever order they were met. */
void collected_end(struct collected *c);

#endif
