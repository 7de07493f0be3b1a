/* loading.h - a model on its way from a checkpoint: what model_open and the kinds of model share
 * while they find tensors, check shapes and copy what must be copied. Private to model/.
 *
 * All return 0 or a pointer, or -1 or NULL with l->err set. */
#ifndef MODEL_LOADING_H
#define MODEL_LOADING_H

#include "model_impl.h"

struct loading {
    struct model *m;
    const struct codebase *names;
    const struct tensor *items, *projection, *projection_bias;
    float *items_copy; /* the model's own floats of `items`, NULL when they are a view */
    /* capsules */
    const struct tensor *map, *bias;
    struct mapped init_bytes;     /* INIT_FILE, else empty */
    struct ckpt *init_file;       /* over them, or NULL */
    const struct ckpt *init_ckpt; /* where `init` is */
    const struct tensor *init;    /* (K, S) or (1, K, S), or NULL */
    /* attention */
    const struct tensor *positions, *hidden, *hidden_bias, *heads, *heads_bias;
    struct err *err;
};

/* The first steps of model_open: finds the tensors, and completes the options as far as their
 * shapes go. l->m has options and checkpoint. */
int loading_tensors(struct loading *l, const char *dir) WARN_UNUSED;
void loading_clear(struct loading *l); /* not the model */

/* ---- memory that the model owns -------------------------------------------------- */

/* NULL is nothing. */
void loading_adopt(struct loading *l, float *p, size_t count);
/* a * b floats, freed with the model. */
float *loading_allot(struct loading *l, size_t a, size_t b) WARN_UNUSED;

/* ---- tensors --------------------------------------------------------------------- */

/* The one whose name fits, for a role that the message names; `pattern` may be NULL. */
int loading_find(struct loading *l, const struct tensor **t, const char *pattern, const char *role)
    WARN_UNUSED;
/* The same, but *t is NULL when there is none. */
int loading_find_any(struct loading *l, const struct tensor **t, const char *pattern,
                     const char *role) WARN_UNUSED;

/* Fills an option that is not set; sizes beyond an int are caught when limits are checked. */
void loading_complete(int *option, size_t found);

int loading_expect_dims(struct loading *l, const struct ckpt *c, const struct tensor *t, int n_dims)
    WARN_UNUSED;
/* `axes` tells the options that the expected sizes come from. */
int loading_expect_shape(struct loading *l, const struct ckpt *c, const struct tensor *t,
                         int n_dims, const size_t *shape, const char *axes) WARN_UNUSED;
/* (a, b) or (1, a, b). */
int loading_expect_table(struct loading *l, const struct ckpt *c, const struct tensor *t, size_t a,
                         size_t b, const char *axes) WARN_UNUSED;
/* A linear layer; `turned`: stored [out, in]. `in_name`, `out_name`: the options. */
int loading_expect_linear(struct loading *l, const struct tensor *t, bool turned, size_t in,
                          size_t out, const char *in_name, const char *out_name) WARN_UNUSED;

/* A matrix as it is, or with its axes exchanged. *owned is freed by the caller. */
const float *loading_matrix(struct loading *l, const struct tensor *t, bool turn, float **owned)
    WARN_UNUSED;
/* The same for as long as the model lives, in memory that it owns. */
const float *loading_keep(struct loading *l, const struct tensor *t, bool turn) WARN_UNUSED;
/* (n, m) to (m, n) */
void loading_transpose(float *out, const float *in, size_t n, size_t m);
/* m->projected and m->item_width: all items times `weights` (D, width), plus bias or NULL. */
int loading_project_items(struct loading *l, const float *weights, const float *bias, size_t width)
    WARN_UNUSED;

/* ---- kinds of model --------------------------------------------------------------- */

/* The steps of model_open that differ: find tensors, complete options from their shapes, check
 * shapes, and compute once what does not depend on the user. */
/* -1 when the checkpoint has routing logits that each call of its code changes. */
int capsules_refuse_changing(const struct loading *l) WARN_UNUSED;
int capsules_find(struct loading *l, const char *dir) WARN_UNUSED;
int capsules_complete(struct loading *l) WARN_UNUSED;
int capsules_check(struct loading *l) WARN_UNUSED;
int capsules_load(struct loading *l) WARN_UNUSED;

int attention_find(struct loading *l, const char *dir) WARN_UNUSED;
int attention_complete(struct loading *l) WARN_UNUSED;
int attention_check(struct loading *l) WARN_UNUSED;
int attention_load(struct loading *l) WARN_UNUSED;

#endif
