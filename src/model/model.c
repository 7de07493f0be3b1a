/* model.c - from a checkpoint and options to a model that is ready to serve: finds the tensors by
 * the names of the variant's codebase, completes the options from their shapes, checks every shape,
 * and computes once what does not depend on the user. What only capsules or only attention have is
 * in capsule_load.c and attention.c; a request's way through a model is in interests.c. */
#include "loading.h"

#include "recalld/vec.h"

#include <stdlib.h>
#include <string.h>

/* x / max(|x|, 1e-12), as PyTorch has it. */
#define NORM_FLOOR 1e-12f

static const struct {
    int (*find)(struct loading *l, const char *dir);
    int (*complete)(struct loading *l);
    int (*check)(struct loading *l);
    int (*load)(struct loading *l);
} kinds[] = {
    [MODEL_CAPSULES] = {capsules_find, capsules_complete, capsules_check, capsules_load},
    [MODEL_ATTENTION] = {attention_find, attention_complete, attention_check, attention_load},
};

/* ---- tensors --------------------------------------------------------------------- */

static int refuse_towers(const struct loading *l)
{
    for (size_t i = 0; i < MODEL_TOWERS_MAX && l->names->towers[i] != NULL; i++) {
        const struct tensor *t = variant_tensor(l->m->ckpt, l->names->towers[i], 0);

        if (t != NULL)
            return err_set(l->err, ERR_USAGE,
                           "%s: tensor %s is part of a tower around the interests, which is not "
                           "computed yet: models of variant %s load without towers only",
                           ckpt_name(l->m->ckpt), t->name, l->m->o.variant);
    }
    return 0;
}

/* An unset projection is the one that the file has. */
static int find_projection(struct loading *l)
{
    const struct codebase *names = l->names;
    struct model_options *o = &l->m->o;
    const struct tensor *t = NULL;

    if (loading_find_any(l, &t, names->projection, "the weights of the projection") == -1)
        return -1;
    if (o->projection == PROJECTION_UNSET)
        o->projection = t != NULL ? names->projection_form : PROJECTION_NONE;
    if (o->projection == PROJECTION_NONE) {
        if (t == NULL || !names->projection_means_used)
            return 0;
        return err_set(l->err, ERR_USAGE,
                       "%s: tensor %s is there only when a model was trained with a projection, "
                       "but projection is none",
                       ckpt_name(l->m->ckpt), t->name);
    }
    if (loading_find(l, &l->projection, names->projection, "the weights of the projection") == -1)
        return -1;
    return loading_find_any(l, &l->projection_bias, names->projection_bias,
                            "the bias of the projection");
}

/* ---- options ---------------------------------------------------------------------- */

static int complete_options(struct loading *l)
{
    if (loading_expect_dims(l, l->m->ckpt, l->items, 2) == -1 ||
        (l->projection != NULL && loading_expect_dims(l, l->m->ckpt, l->projection, 2) == -1))
        return -1;
    loading_complete(&l->m->o.item_dim, l->items->shape[1]);
    return kinds[l->m->o.kind].complete(l);
}

static int check_limit(struct loading *l, const char *key, int value, int limit)
{
    if (value == 0)
        return err_set(l->err, ERR_USAGE,
                       "%s: no tensor tells %s; set it as an option, in the file's metadata or in "
                       "the manifest's \"model\"",
                       ckpt_name(l->m->ckpt), key);
    if (value > limit)
        return err_set(l->err, ERR_LIMIT, "%s: %s is %d, the limit is %d", ckpt_name(l->m->ckpt),
                       key, value, limit);
    return 0;
}

static int check_limits(struct loading *l)
{
    const struct model_options *o = &l->m->o;

    if (check_limit(l, "interests", o->interests, MODEL_INTERESTS_MAX) == -1 ||
        check_limit(l, "max_history", o->max_history, MODEL_HISTORY_MAX) == -1 ||
        check_limit(l, "item_dim", o->item_dim, MODEL_DIM_MAX) == -1 ||
        check_limit(l, "capsule_dim", o->capsule_dim, MODEL_DIM_MAX) == -1)
        return -1;
    if (l->items->shape[0] > UINT32_MAX)
        return err_set(l->err, ERR_LIMIT, "%s: tensor %s has %zu rows, the limit is %u",
                       ckpt_name(l->m->ckpt), l->items->name, l->items->shape[0], UINT32_MAX);
    return 0;
}

/* ---- shapes ---------------------------------------------------------------------- */

/* The projection may lead to another dimension; in the end interests and items agree. */
static int check_projection(struct loading *l)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.capsule_dim, out = (size_t)m->o.item_dim, features;

    m->out_dim = l->projection != NULL ? out : dim;
    if (m->out_dim != out)
        return err_set(l->err, ERR_FORMAT,
                       "%s: interests have %zu dimensions and item vectors %zu, so neither can be "
                       "scored against the other (capsule_dim and item_dim must be equal)",
                       ckpt_name(m->ckpt), dim, out);
    if (l->projection == NULL)
        return 0;
    if (l->names->projection_takes_features && l->projection->shape[0] > dim) {
        features = l->projection->shape[0] - dim;
        return err_set(
            l->err, ERR_USAGE,
            "%s: tensor %s has %zu rows for features of the user ahead of the interest's "
            "%zu, and user features are not read yet: models of variant %s load without "
            "them only",
            ckpt_name(m->ckpt), l->projection->name, features, dim, m->o.variant);
    }
    if (loading_expect_linear(l, l->projection, l->names->projection_out_in, dim, out,
                              "capsule_dim", "item_dim") == -1)
        return -1;
    if (l->projection_bias == NULL)
        return 0;
    return loading_expect_shape(l, m->ckpt, l->projection_bias, 1, &out, "item_dim");
}

static int check_shapes(struct loading *l)
{
    struct model *m = l->m;
    const size_t items[2] = {l->items->shape[0], (size_t)m->o.item_dim};

    m->rows = l->items->shape[0];
    if (loading_expect_shape(l, m->ckpt, l->items, 2, items, "rows, item_dim") == -1 ||
        kinds[m->o.kind].check(l) == -1)
        return -1;
    return check_projection(l);
}

/* ---- what does not depend on the user --------------------------------------------- */

static int load_projection(struct loading *l)
{
    struct model *m = l->m;

    if (l->projection == NULL)
        return 0;
    m->projection = loading_keep(l, l->projection, l->names->projection_out_in);
    if (m->projection == NULL || l->projection_bias == NULL)
        return m->projection == NULL ? -1 : 0;
    m->projection_bias = loading_keep(l, l->projection_bias, false);
    return m->projection_bias == NULL ? -1 : 0;
}

/* The last step: afterwards only per_position and attention still read the raw item vectors. */
static int load_vectors(struct loading *l)
{
    struct model *m = l->m;
    float *normalised = NULL;

    m->vectors = m->items;
    if (m->o.kind == MODEL_CAPSULES && m->positions == NULL) {
        m->items = NULL;
        normalised = l->items_copy; /* in place */
    }
    if (!m->o.normalize_item)
        return 0;
    if (normalised == NULL)
        normalised = loading_allot(l, m->rows, m->out_dim);
    if (normalised == NULL)
        return -1;
    for (size_t r = 0; r < m->rows; r++)
        vec_normalise(normalised + r * m->out_dim, m->vectors + r * m->out_dim, m->out_dim,
                      m->norm_floor);
    m->vectors = normalised;
    return 0;
}

/* ---- opening ------------------------------------------------------------------------ */

int loading_tensors(struct loading *l, const char *dir)
{
    l->names = variant_codebase(l->m->o.variant);
    if (refuse_towers(l) == -1 ||
        loading_find(l, &l->items, l->names->items, "the item vectors") == -1 ||
        kinds[l->m->o.kind].find(l, dir) == -1 || find_projection(l) == -1)
        return -1;
    return complete_options(l);
}

static int load(struct loading *l, const char *dir)
{
    struct model *m = l->m;
    const float *table;

    if (loading_tensors(l, dir) == -1 || check_limits(l) == -1 || check_shapes(l) == -1)
        return -1;
    m->norm_floor = l->names->norm_floor > 0 ? l->names->norm_floor : NORM_FLOOR;
    table = m->items = tensor_f32(m->ckpt, l->items, &l->items_copy, l->err);
    loading_adopt(l, l->items_copy, l->items->count);
    if (table == NULL || kinds[m->o.kind].load(l) == -1 || load_projection(l) == -1 ||
        load_vectors(l) == -1)
        return -1;
    if (l->items_copy == NULL && (m->items != NULL || m->vectors == table))
        m->view = table;
    return 0;
}

void loading_clear(struct loading *l)
{
    ckpt_free(l->init_file);
    file_unmap(&l->init_bytes);
}

struct model *model_open(const struct ckpt *c, const struct model_options *o, const char *dir,
                         struct err *err)
{
    struct loading l = {.err = err};
    int result;

    if (o->variant == NULL) {
        err_set(err, ERR_USAGE, "%s: no model variant is given, by option or in the metadata",
                ckpt_name(c));
        return NULL;
    }
    l.m = xcalloc(1, sizeof *l.m);
    l.m->o = *o;
    l.m->ckpt = c;
    l.m->memory = sizeof *l.m;
    result = load(&l, dir);
    loading_clear(&l);
    if (result == -1) {
        model_free(l.m);
        return NULL;
    }
    l.m->ckpt = NULL;
    return l.m;
}

void model_free(struct model *m)
{
    if (m == NULL)
        return;
    for (size_t i = 0; i < m->n_owned; i++)
        free(m->owned[i]);
    free(m);
}

/* ---- looking ------------------------------------------------------------------------ */

const struct model_options *model_options(const struct model *m)
{
    return &m->o;
}

int model_interest_count(const struct model *m)
{
    return m->o.interests;
}

int model_dim(const struct model *m)
{
    return (int)m->out_dim;
}

size_t model_rows(const struct model *m)
{
    return m->rows;
}

const float *model_vectors(const struct model *m)
{
    return m->vectors;
}

size_t model_memory(const struct model *m)
{
    return m->memory;
}

const float *model_view(const struct model *m, size_t *bytes)
{
    *bytes = m->view == NULL ? 0 : m->rows * (size_t)m->o.item_dim * sizeof *m->view;
    return m->view;
}
