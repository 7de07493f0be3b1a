/* experiment.h - who gets which arm, and what the arms changed about the answers.
 *
 * An experiments file describes independent layers; each assigns at most one arm to a request, by
 * hashing the request's unit (user_id, request_id, context.NAME) with the layer's seed, and an arm
 * sets recall settings. The hash and its ranges are GrowthBook's version 2, so that anybody can
 * compute every assignment again: a layer's arm i owns [start, start + coverage * weight), where
 * start is the sum of the weights before it. Raising the coverage moves nobody between arms.
 *
 * A struct experiments is checked as a whole before there is one, never changes afterwards and
 * lives as long as someone holds a reference. The store says which one is in effect, keeps what a
 * client put, and counts what was served, exposed and clicked per arm. Any thread may call. */
#ifndef RECALLD_EXPERIMENT_H
#define RECALLD_EXPERIMENT_H

#include <jansson.h>

#include "recalld/base.h"
#include "recalld/settings.h"

#define EXPERIMENT_LAYERS_MAX 32
#define EXPERIMENT_ARMS_MAX 32 /* of a layer */
#define EXPERIMENT_NAME_MAX                                              \
    64 /* of a layer's or an arm's name, [A-Za-z0-9._-], without the NUL \
        */
#define EXPERIMENT_FORCE_MAX 100000           /* forced units of a layer */
#define EXPERIMENT_TEXT_MAX (4 * 1024 * 1024) /* bytes of an experiments file */
#define EXPERIMENT_NO_ARM 255

/* ---- what is in effect ---- */

struct experiments;

/* What a file is checked against beside itself. */
struct experiment_checks {
    /* Is there a bundle or alias of that name? NULL = not checked, for tools. */
    bool (*bundle_known)(void *arg, const char *name);
    void *arg;
    int n_max; /* recall.n_max, for arms that set n; 0 = not checked */
};

/* Reads and checks a whole file; NULL with *err set (USAGE). The text of an error begins with the
 * place: "layers[1].arms[0].weight: ...", behind "NAME: " when `name` is not NULL. `checks` NULL =
 * only the file itself. */
struct experiments *experiments_parse(const char *name, const char *text, size_t len,
                                      const struct experiment_checks *checks, struct err *err)
    WARN_UNUSED;
/* Only what `checks` says of an existing one: the bundles its arms name, for instance. */
int experiments_check(const struct experiments *e, const struct experiment_checks *checks,
                      struct err *err) WARN_UNUSED;
const struct experiments *experiments_acquire(const struct experiments *e); /* NULL allowed */
void experiments_release(const struct experiments *e);                      /* NULL allowed */

/* Strings live as long as `e`. */
int64_t experiments_version(const struct experiments *e);
const char *experiments_hash(const struct experiments *e);              /* "growthbook-v2" */
const char *experiments_text(const struct experiments *e, size_t *len); /* as it was given */
const char *experiments_sha256(const struct experiments *e);            /* of that text, hex */
int experiments_layers(const struct experiments *e);
const char *experiments_layer_name(const struct experiments *e, int layer);
const char *experiments_layer_seed(const struct experiments *e, int layer);
const char *experiments_layer_unit(const struct experiments *e, int layer);
double experiments_layer_coverage(const struct experiments *e, int layer);
int experiments_layer_find(const struct experiments *e, const char *name); /* -1 = none */
int experiments_arms(const struct experiments *e, int layer);
const char *experiments_arm_name(const struct experiments *e, int layer, int arm);
double experiments_arm_weight(const struct experiments *e, int layer, int arm);

/* ---- assignment: allocates nothing, takes no lock ---- */

/* The number of a unit in [0, 1): n = fnv1a32(decimal(fnv1a32(seed, unit))) mod 10000 / 10000. */
double experiment_hash(const char *seed, size_t seed_len, const char *unit, size_t unit_len);

/* The arm that a layer gives a unit in requests that its `when` suits, or EXPERIMENT_NO_ARM; for
 * tools. */
int experiments_arm_of(const struct experiments *e, int layer, const char *unit, size_t len);

/* What of a request decides. Everything is borrowed for the call. */
struct experiment_subject {
    struct str user_id, scene; /* len 0 = none */
    const json_t *context;     /* an object or NULL */
    const json_t *forced;      /* the request's "arms": an object or NULL */
    const char *request_id;    /* NULL = none */
};

struct assignment {
    uint8_t arm[EXPERIMENT_LAYERS_MAX]; /* by layer; EXPERIMENT_NO_ARM = none */
    uint64_t code;                      /* all of them as one number; 0 = no layer assigned one */
    bool forced;                        /* by the file or the request: stays out of CTR */
};

/* -1 when the request asks for arms it cannot have: USAGE (no such layer or arm, or two that set
 * one setting; the text begins with "arms.LAYER: "), CONFLICT (the file does not allow it). Without
 * `forced` it always succeeds. What is chosen need not suit the layer's `when`; an arm that the
 * hash gives and that sets what a chosen one sets is left out. */
int experiments_assign(const struct experiments *e, const struct experiment_subject *subject,
                       struct assignment *out, struct err *err) WARN_UNUSED;
/* The arms behind a code of this very `e`. */
void experiments_decode(const struct experiments *e, uint64_t code,
                        uint8_t arm[EXPERIMENT_LAYERS_MAX]);
/* The arms' settings over `settings`, in the order of the layers. */
void experiments_apply(const struct experiments *e, const struct assignment *a,
                       struct settings *settings);
/* {"layer":"arm",...} of the layers that assigned one. */
void experiments_arms_json(const struct experiments *e, const struct assignment *a,
                           struct buf *json);

/* ---- the store ---- */

struct experiment_store;
/* `state_dir` "" = nothing can be put. `remember`: how many of the newest answers an event can be
 * counted for (64 bytes each). Begins with experiments that have no layers. */
struct experiment_store *experiment_store_new(const char *state_dir, size_t remember);
void experiment_store_free(struct experiment_store *s); /* NULL allowed */
/* Never NULL; the caller releases. */
const struct experiments *experiment_store_acquire(struct experiment_store *s);

/* Reads `file` ("" = none: no layers) and what a client put over it, checks, and puts into effect;
 * on failure nothing changes. If the file is another than the one a client replaced, the file
 * holds, with a log line. */
int experiment_store_load(struct experiment_store *s, const char *file,
                          const struct experiment_checks *checks, struct err *err) WARN_UNUSED;
/* Once what was loaded serves: a put whose file was changed since is gone for good, and does not
 * come back should the file ever be again what it was. */
void experiment_store_settle(struct experiment_store *s);

enum experiment_put {
    EXPERIMENT_PUT,       /* in effect, and on disk */
    EXPERIMENT_NO_MATCH,  /* if_match is NULL: say which version is meant */
    EXPERIMENT_BAD_MATCH, /* if_match is not as HTTP has it */
    EXPERIMENT_CHANGED,   /* if_match names another version than the present one */
    EXPERIMENT_NO_STATE,  /* no state.dir, so it could not be kept */
    EXPERIMENT_BAD,       /* *err begins with the place, "body" when it is all of it */
    EXPERIMENT_EARLY,     /* nothing is loaded yet */
    EXPERIMENT_FAILED     /* the disk's fault */
};
/* `if_match` is an If-Match header (RFC 9110, 13.1.1): a list of entity tags ("SHA256" in quotes),
 * or * alone. On disk before it
 * returns EXPERIMENT_PUT; otherwise nothing has changed and *err says why. */
enum experiment_put experiment_store_put(struct experiment_store *s, const char *text, size_t len,
                                         const char *if_match,
                                         const struct experiment_checks *checks, struct err *err)
    WARN_UNUSED;

/* ---- live counts ---- */

/* Counts belong to a layer as it assigns: they start again when its seed, unit, when, coverage, or
 * its arms' names or weights change, and go on otherwise. */

enum experiment_event { EXPERIMENT_EXPOSED, EXPERIMENT_CLICKED, EXPERIMENT_OTHER };

/* After an answer: counts it per layer and arm, and remembers both ids so that events find it. What
 * is forced is counted as such and has no events. Takes no lock. Either id may be NULL. */
void experiment_count_served(struct experiment_store *s, const struct experiments *e,
                             const struct assignment *a, const char *serve_id,
                             const char *request_id);
/* `id` is a serve_id or request_id; false when it is not, or no longer, remembered (or its answer
 * had no arm): then nothing is counted. */
bool experiment_count_event(struct experiment_store *s, enum experiment_event kind, const char *id,
                            size_t len);
/* The report of GET /experiments/report: per layer and arm what was served, exposed and clicked,
 * the shares, and how likely such shares are by chance (chi-square). */
void experiment_report(struct experiment_store *s, struct buf *json);
/* recalld_experiment_{served,exposed,clicked}_total and recalld_experiments_info; once. */
void experiment_register_metrics(struct experiment_store *s);

#endif
