/* model_impl.h - what the files of model/ share. Private to model/.
 *
 * Letters are those of docs/models.md: S slots of history, K interests, D item dimension, H
 * capsule dimension, R passes; e item vectors, u what the bilinear map makes of them, b routing
 * logits, w weights, z = sum w u, v interests; F the width of attention's hidden layer. */
#ifndef MODEL_IMPL_H
#define MODEL_IMPL_H

#include "recalld/model.h"

/* Rows of per-slot floats are padded to whole blocks, so that loops over slots have a fixed inner
 * length and compilers vectorise them. */
#define MODEL_BLOCK 16
/* Columns of per_position's weights that lie together, so that a slot's are read in one line from
 * start to end. The last panel of a slot may be narrower. */
#define MODEL_PANEL 64
#define MODEL_HIDDEN_MAX (4 * MODEL_DIM_MAX)

/* ---- variant.c ----------------------------------------------------------------- */

#define MODEL_TOWERS_MAX 8

/* Where a codebase keeps its tensors: names, which may hold * where a part of it is the user's, and
 * | between two for the same. Linear layers are y = x W: [in, out], or transposed. NULL: there is
 * none. */
struct codebase {
    const char *items;
    const char *linear, *linear_bias; /* bilinear: shared, shared_interleaved, per_interest */
    const char *per_position;         /* bilinear: per_position */
    const char *positions;            /* attention: (S, D) or (1, S, D) */
    const char *hidden, *hidden_bias; /* attention: D to F */
    const char *heads, *heads_bias;   /* attention: F to K */
    const char *projection, *projection_bias;
    enum model_projection projection_form; /* how its code applies it */
    bool projection_means_used; /* it is in the file exactly when the model was trained with it */
    bool projection_takes_features; /* rows ahead of the interest's are for the user's features */
    bool linear_out_in, attention_out_in, projection_out_in;
    bool three_passes; /* its code stops updating the logits after two, whatever it is told */
    const char *towers[MODEL_TOWERS_MAX]; /* what is not computed: NULL after the last */
    const char *changing_logits;          /* routing logits that every call of its code changes */
    float norm_floor;                     /* of normalize_user; 0: 1e-12 */
};

struct variant {
    const char *name;
    enum model_kind kind;
    const struct codebase *codebase;
    const char *options; /* key=value, with blanks between */
    const char *untold;  /* keys that no tensor of it tells, unless a shape does */
    const char *about;   /* what tells it from others of the same tensors; or NULL */
};

const struct codebase *variant_codebase(const char *variant);
/* The n-th tensor, from 0, whose name fits; or NULL. */
const struct tensor *variant_tensor(const struct ckpt *c, const char *patterns, size_t nth);
/* Such names for people: "a or b". */
void variant_put_names(struct buf *b, const char *patterns);
const struct variant *variant_row(size_t i); /* NULL behind the last */
/* The names without which it does not fit, beside its items: of its map or attention. */
const char *variant_main(const struct variant *v);
/* These are there, and its projection is there when it is used. */
bool variant_fits(const struct variant *v, const struct ckpt *c);
/* *variant is the only one that the checkpoint's tensors fit, or unchanged when they fit none;
 * ERR_USAGE when they fit several. */
int variant_detect(const struct ckpt *c, const char **variant, struct err *err) WARN_UNUSED;

/* ---- options.c ------------------------------------------------------------------ */

/* Every key of the vocabulary that the checkpoint's metadata have; returns how many. */
int model_options_metadata(struct model_options *o, const struct ckpt *c, struct err *err)
    WARN_UNUSED;

/* ---- logits.c ------------------------------------------------------------------ */

/* The routing logits that all users start from, for the inits that need no tensor: (K, S), rows
 * `ld` floats apart. */
void logits_generate(float *b, size_t ld, const struct model_options *o);

/* ---- kernels.c ----------------------------------------------------------------- */

/* Softmax over the `rows` values of each of n columns; x[r * n + column]. n is a multiple of
 * MODEL_BLOCK. */
void kernel_softmax_across(float *x, size_t rows, size_t n);
/* x[i] = tanh(x[i]), within 2e-7. */
void kernel_tanh(float *x, size_t n);
/* Natural logarithm of a positive, finite x, and x^p for x >= 0, p > 0, from additions,
 * multiplications and divisions alone: libm's may differ from machine to machine. */
double kernel_log(double x);
double kernel_pow(double x, double p);

/* ---- model.c ------------------------------------------------------------------- */

/* What a padded slot can change, apart from its own weight. */
enum pads {
    PADS_INERT, /* nothing: left out */
    PADS_WEIGH, /* it takes part in a softmax over the sequence; its u is zero */
    PADS_FULL,  /* its u matters too: it is a slot like any other */
};

struct model {
    struct model_options o;  /* completed */
    const struct ckpt *ckpt; /* NULL once it is open */
    const float *view;       /* the item table where it lies in the checkpoint, or NULL */
    size_t rows;             /* of the item table */
    size_t out_dim;          /* of the interests: H, or what the projection gives */
    size_t item_width;       /* floats of one row of `projected` */
    const float *items;      /* (rows, D), NULL when nothing reads it after loading */
    const float *vectors;    /* (rows, out_dim): what scores are taken with */
    const float *projection, *projection_bias; /* (H, out_dim), (out_dim) or NULL */
    float norm_floor;
    enum pads pads, pads_when_empty; /* of a user with items; of one without */

    /* What a request looks up by row: items W + bias; attention: items W1. NULL: per_position. */
    float *projected; /* (rows, item_width) */

    /* capsules */
    size_t u_width;   /* floats of one slot's u: H when all interests share it, else K*H */
    size_t u_step;    /* from one interest's u to the next: 0 or H */
    float *positions; /* (S, panels, D, MODEL_PANEL): per_position's weights; else NULL */
    float *pad_u;     /* (S, K*H) for per_position, else (1, u_width) */
    float *logits;    /* (K, S) */

    /* attention */
    float
        *position_hidden; /* (S, F), or (1, F) without positions: what a slot adds to the item's */
    float *position_values;  /* (S, D): the same for the values, or NULL: these are the items */
    const float *heads;      /* (K, F) */
    const float *heads_bias; /* (K) or NULL */
    float *empty;            /* (D): every interest of a user without items */

    size_t memory;
    float *owned[10]; /* everything above that is not a view, for model_free */
    size_t n_owned;
};

/* ---- interests.c ---------------------------------------------------------------- */

/* One user's slots. `valid` real ones; with pads, up to `n` in the softmax and up to `n_u` with a u
 * of their own. */
struct slots {
    uint32_t *position, *row; /* (S) */
    size_t window;            /* rows used of the request, pads by id included */
    size_t valid, n_u, n;
    size_t ld;   /* n in whole blocks: from one interest's weights to the next */
    size_t live; /* K' */
};

struct model_scratch {
    struct arena arena; /* everything below, laid out anew for each batch */
    struct slots users[MODEL_BATCH];
    size_t by_window[MODEL_BATCH]; /* users, longest window first */
    const float **u;               /* (S) where each slot's u is; attention: its value */
    float *w;                      /* (K, ld) weights */
    float *v;                      /* (K, H) */
    /* capsules */
    float *position_u;  /* (batch, S, K*H) in the order of by_window: per_position */
    float *position_e;  /* (batch, D) in the order of by_window: per_position */
    float *interleaved; /* (S, K*H): shared_interleaved */
    float *b, *d;       /* (K, ld) logits, agreements u.v */
    float *inverse;     /* (K, ld) 1 / |u|, or NULL when the update has no use for it */
    float *z;           /* (K, H) */
    /* attention */
    float *hidden;             /* (S, F) */
    const float **hidden_rows; /* (S) */
    float *values;             /* (S, D), or NULL: they are the items */
};

/* a * b floats of the arena. Products stay far below SIZE_MAX: every factor has its limit. */
float *scratch_floats(struct model_scratch *s, size_t a, size_t b);
/* Slot s of the window as a row of the request. */
uint32_t model_row_at(const struct model *m, const struct model_input *in, size_t s);

/* ---- capsule.c, attention.c ------------------------------------------------------ */

void capsule_lay_out(const struct model *m, struct model_scratch *s, size_t batch, size_t ld);
/* What is done for all users of a batch at once, before one of them is routed. */
void capsule_prepare(const struct model *m, struct model_scratch *s, const struct model_input *in,
                     size_t n);
/* s->v and s->w of the user at place `at` of by_window. */
void capsule_route(const struct model *m, struct model_scratch *s, size_t at);
/* out[r] = x[r] W of slot s, for `rows` rows: u (K*H each, `ldo` apart) of item vectors (D). */
void capsule_map_position(const struct model *m, size_t s, float *out, size_t ldo, const float *x,
                          size_t rows);
/* Interleaved: dimension j of interest k is element (k*H + j) / K of the shared map's output. */
void capsule_interleave(const struct model *m, float *out, const float *h);

void attention_lay_out(const struct model *m, struct model_scratch *s);
void attention_attend(const struct model *m, struct model_scratch *s, const struct slots *slots);

#endif
