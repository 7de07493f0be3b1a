/* model_impl.h - what the files of model/ share. Private to model/.
 *
 * Letters are those of model-semantics.md: S slots of history, K interests, D item dimension, H
 * capsule dimension, R passes; e item vectors, u what the bilinear map makes of them, b routing
 * logits, w routing weights, z = sum w u, v interests. */
#ifndef MODEL_IMPL_H
#define MODEL_IMPL_H

#include "recalld/model.h"

/* Rows of per-slot floats are padded to whole blocks, so that loops over slots have a fixed inner
 * length and compilers vectorise them. */
#define MODEL_BLOCK 16
/* Columns of per_position's weights that lie together, so that a slot's are read in one line from
 * start to end. The last panel of a slot may be narrower. */
#define MODEL_PANEL 64

/* ---- variant.c ----------------------------------------------------------------- */

/* Where a codebase keeps its tensors. Linear layers are y = x W: [in, out], or transposed. */
struct codebase {
    const char *items;
    const char *linear, *linear_bias; /* bilinear: shared, shared_interleaved, per_interest */
    const char *per_position;         /* bilinear: per_position */
    const char *projection, *projection_bias;
    bool linear_out_in;
    bool three_passes;   /* its code stops updating the logits after two, whatever it is told */
    const char *missing; /* why its checkpoints cannot be loaded yet, or NULL */
};

/* The codebase of a loadable variant, or NULL with a sentence in *err. */
const struct codebase *variant_codebase(const char *variant, struct err *err) WARN_UNUSED;

/* ---- logits.c ------------------------------------------------------------------ */

/* The routing logits that all users start from, for the inits that need no tensor: (K, S), rows
 * `ld` floats apart. */
void logits_generate(float *b, size_t ld, const struct model_options *o);

/* ---- kernels.c ----------------------------------------------------------------- */

/* Softmax over the `rows` values of each of n columns; x[r * ld + column]. n is rounded up to whole
 * blocks, so columns up to there must hold finite floats. */
void kernel_softmax_across(float *x, size_t ld, size_t rows, size_t n);
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
    struct model_options o; /* completed */
    const struct ckpt *ckpt;
    size_t rows;          /* of the item table */
    size_t out_dim;       /* of the interests: H, or what the projection gives */
    size_t u_width;       /* floats of one slot's u: H when all interests share it, else K*H */
    size_t u_step;        /* from one interest's u to the next: 0 or H */
    size_t item_width;    /* floats of one row of `projected` */
    size_t stride;        /* S in whole blocks */
    const float *items;   /* (rows, D), NULL when nothing reads it after loading */
    const float *vectors; /* (rows, out_dim): what scores are taken with */
    float *projected;     /* (rows, item_width) = items W + bias; NULL for per_position */
    float *positions;     /* (S, panels, D, MODEL_PANEL): per_position's weights; else NULL */
    float *pad_u;         /* (S, K*H) for per_position, else (1, u_width) */
    float *logits;        /* (K, stride), zero beyond S */
    const float *projection, *projection_bias; /* (H, out_dim), (out_dim) or NULL */
    enum pads pads, pads_when_empty;           /* of a user with items; of one without */
    size_t memory;
    float *owned[8]; /* everything above that is not a view, for model_free */
    size_t n_owned;
};

/* out[r] = x[r] W of slot s, for `rows` rows: u (K*H each, `ldo` apart) of item vectors (D). */
void model_map_position(const struct model *m, size_t s, float *out, size_t ldo, const float *x,
                        size_t rows);
/* Interleaved: dimension j of interest k is element (k*H + j) / K of the shared map's output. */
void model_interleave(const struct model *m, float *out, const float *h);

#endif
