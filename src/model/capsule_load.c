/* capsule_load.c - the tensors of a capsule model, and what can be computed once for all users: the
 * items through the map, the routing table, what pads can change. */
#include "loading.h"

#include <stdlib.h>
#include <string.h>

static bool is_shared(const struct model *m)
{
    return m->o.bilinear == BILINEAR_SHARED || m->o.bilinear == BILINEAR_SHARED_INTERLEAVED;
}

static bool is_by_position(const struct model *m)
{
    return m->o.bilinear == BILINEAR_PER_POSITION;
}

/* ---- tensors --------------------------------------------------------------------- */

static int check_options(const struct loading *l)
{
    const struct model_options *o = &l->m->o;

    if (l->names->three_passes && o->iterations != 3)
        return err_set(l->err, ERR_USAGE,
                       "iterations must be 3 for variant %s, not %d: its code stops updating the "
                       "routing after two passes",
                       o->variant, o->iterations);
    if (o->softmax_passes > 0 && o->softmax_passes != o->iterations)
        return err_set(l->err, ERR_USAGE, "softmax lists %d passes, iterations is %d",
                       o->softmax_passes, o->iterations);
    return 0;
}

/* Each call of its code adds to them and keeps the sum. */
int capsules_refuse_changing(const struct loading *l)
{
    const char *pattern = l->names->changing_logits;
    const struct tensor *t = pattern == NULL ? NULL : variant_tensor(l->m->ckpt, pattern, 0);

    if (t == NULL)
        return 0;
    return err_set(
        l->err, ERR_USAGE,
        "%s: tensor %s holds routing logits that every call changes (DeepMatch before "
        "0.2.1, fun-rec): its interests depend on who was asked for before, nobody can repeat "
        "them",
        ckpt_name(l->m->ckpt), t->name);
}

/* Loaded, not mapped: nobody knows who may write to the file. */
static int open_init(struct loading *l, const char *dir)
{
    char *path = path_join(dir != NULL ? dir : ".", l->m->o.init_name);

    if (file_load(&l->init_bytes, path, l->err) == 0)
        l->init_file = ckpt_open_mem(path, l->init_bytes.bytes, l->init_bytes.len, l->err);
    free(path);
    return l->init_file == NULL ? err_prefix(l->err, "init: ") : 0;
}

/* The first of several names for the same that is there. */
static int find_init_tensor(struct loading *l)
{
    char *name = l->m->o.init_name, *copy = xstrdup(name), *rest = copy, *one;
    struct buf names = BUF_INIT;

    l->init = ckpt_find(l->m->ckpt, name);
    while (l->init == NULL && (one = strsep(&rest, "|")) != NULL)
        if ((l->init = ckpt_find(l->m->ckpt, one)) != NULL)
            memmove(name, one, strlen(one) + 1);
    free(copy);
    if (l->init != NULL)
        return 0;
    variant_put_names(&names, name);
    err_set(l->err, ERR_FORMAT, "%s: no tensor %s, which init names", ckpt_name(l->m->ckpt),
            buf_cstr(&names));
    buf_clear(&names);
    return -1;
}

static int find_init(struct loading *l, const char *dir)
{
    struct model_options *o = &l->m->o;

    if (o->init == INIT_TENSOR) {
        l->init_ckpt = l->m->ckpt;
        if (find_init_tensor(l) == -1)
            return -1;
    } else if (o->init == INIT_FILE) {
        if (open_init(l, dir) == -1)
            return -1;
        l->init_ckpt = l->init_file;
        if (ckpt_count(l->init_file) != 1)
            return err_set(l->err, ERR_FORMAT, "%s: %zu tensors, a file of routing logits has one",
                           ckpt_name(l->init_file), ckpt_count(l->init_file));
        l->init = ckpt_at(l->init_file, 0);
    }
    return 0;
}

int capsules_find(struct loading *l, const char *dir)
{
    const struct codebase *names = l->names;

    if (check_options(l) == -1 || capsules_refuse_changing(l) == -1)
        return -1;
    if (is_by_position(l->m)) {
        if (loading_find(l, &l->map, names->per_position, "the weights of bilinear per_position") ==
            -1)
            return -1;
    } else if (loading_find(l, &l->map, names->linear, "the weights of the bilinear map") == -1 ||
               loading_find_any(l, &l->bias, names->linear_bias, "the bias of the map") == -1) {
        return -1;
    }
    return find_init(l, dir);
}

/* ---- shapes ---------------------------------------------------------------------- */

/* The map's output: H or K*H. */
static size_t width_of(const struct loading *l)
{
    if (is_by_position(l->m))
        return l->map->shape[2];
    return l->map->shape[l->names->linear_out_in ? 0 : 1];
}

/* Disagreement shows when the shapes are checked against the result. */
int capsules_complete(struct loading *l)
{
    struct model_options *o = &l->m->o;
    const size_t *table; /* (K, S) of the init tensor */
    size_t in;           /* of the projection: H, after the features if it takes any */

    if (loading_expect_dims(l, l->m->ckpt, l->map, is_by_position(l->m) ? 4 : 2) == -1)
        return -1;
    if (is_shared(l->m))
        loading_complete(&o->capsule_dim, width_of(l));
    if (l->projection != NULL && !l->names->projection_takes_features) {
        in = l->projection->shape[l->names->projection_out_in ? 1 : 0];
        loading_complete(&o->capsule_dim, in);
    }
    loading_complete(&o->capsule_dim, (size_t)o->item_dim);
    if (is_by_position(l->m))
        loading_complete(&o->max_history, l->map->shape[1]);
    if (!is_shared(l->m)) {
        loading_complete(&o->interests, width_of(l) / (size_t)o->capsule_dim);
        loading_complete(&o->interests, 1); /* width < H: the shape check will say so */
    }
    if (l->init != NULL && l->init->n_dims >= 2) {
        table = l->init->shape + l->init->n_dims - 2;
        loading_complete(&o->interests, table[0]);
        loading_complete(&o->max_history, table[1]);
    }
    return 0;
}

int capsules_check(struct loading *l)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.capsule_dim, interests = (size_t)m->o.interests;
    const size_t by_position[4] = {1, (size_t)m->o.max_history, interests * dim,
                                   (size_t)m->o.item_dim};
    size_t width = is_shared(m) ? dim : interests * dim; /* of the map */
    int result;

    m->u_step = m->o.bilinear == BILINEAR_SHARED ? 0 : dim;
    m->u_width = m->o.bilinear == BILINEAR_SHARED ? dim : interests * dim;
    if (is_by_position(m))
        result = loading_expect_shape(l, m->ckpt, l->map, 4, by_position,
                                      "1, max_history, interests * capsule_dim, item_dim");
    else
        result = loading_expect_linear(l, l->map, l->names->linear_out_in, by_position[3], width,
                                       "item_dim",
                                       is_shared(m) ? "capsule_dim" : "interests * capsule_dim");
    if (result == 0 && l->bias != NULL)
        result =
            loading_expect_shape(l, m->ckpt, l->bias, 1, &width, "the width of the bilinear map");
    if (result == 0 && l->init != NULL)
        result = loading_expect_table(l, l->init_ckpt, l->init, interests, by_position[1],
                                      "interests, max_history");
    return result;
}

/* ---- routing logits --------------------------------------------------------------- */

static int load_logits(struct loading *l)
{
    struct model *m = l->m;
    size_t interests = (size_t)m->o.interests, slots = (size_t)m->o.max_history;
    const float *values;
    float *copy;

    m->logits = loading_allot(l, interests, slots);
    if (m->logits == NULL)
        return -1;
    if (l->init == NULL) {
        logits_generate(m->logits, slots, &m->o);
        return 0;
    }
    values = tensor_f32(l->init_ckpt, l->init, &copy, l->err);
    if (values == NULL)
        return -1;
    memcpy(m->logits, values, interests * slots * sizeof *values);
    free(copy);
    return 0;
}

/* With one u for all interests, only the logits tell the interests apart. */
static void warn_if_identical(const struct model *m)
{
    size_t slots = (size_t)m->o.max_history;

    if (m->o.bilinear != BILINEAR_SHARED || m->o.interests == 1)
        return;
    for (size_t k = 1; k < (size_t)m->o.interests; k++)
        if (memcmp(m->logits, m->logits + k * slots, slots * sizeof(float)) != 0)
            return;
    LOG_WARN("model_interests_identical",
             "file=%s variant=%s: a shared bilinear map and the same initial logits for every "
             "interest make all %d interests equal",
             ckpt_name(m->ckpt), m->o.variant, m->o.interests);
}

/* ---- the map ---------------------------------------------------------------------- */

/* What a padded slot's u is when the map depends on the item alone. */
static int load_pad(struct loading *l, const float *bias)
{
    struct model *m = l->m;
    const float *source = m->o.padding_vector == PADDING_LIVE ? m->projected : bias;

    m->pad_u = loading_allot(l, 1, m->u_width);
    if (m->pad_u == NULL)
        return -1;
    if (source == NULL)
        memset(m->pad_u, 0, m->u_width * sizeof(float));
    else if (m->o.bilinear == BILINEAR_SHARED_INTERLEAVED)
        capsule_interleave(m, m->pad_u, source);
    else
        memcpy(m->pad_u, source, m->u_width * sizeof(float));
    return 0;
}

/* The map depends on the item alone: all items once, requests only look up. */
static int project_items(struct loading *l)
{
    struct model *m = l->m;
    float *weights_copy = NULL, *bias_copy = NULL;
    const float *weights = loading_matrix(l, l->map, l->names->linear_out_in, &weights_copy);
    const float *bias = NULL;
    int result = -1;

    if (weights == NULL)
        goto out;
    if (l->bias != NULL && (bias = tensor_f32(m->ckpt, l->bias, &bias_copy, l->err)) == NULL)
        goto out;
    if (loading_project_items(l, weights, bias, width_of(l)) == 0)
        result = load_pad(l, bias);
out:
    free(weights_copy);
    free(bias_copy);
    return result;
}

/* From (S, K*H, D) to input-major panels, in the order in which a batch will read them. */
static void pack_positions(struct model *m, const float *values)
{
    size_t slots = (size_t)m->o.max_history, dim = (size_t)m->o.item_dim;

    for (size_t s = 0; s < slots; s++)
        for (size_t j = 0; j < m->u_width; j += MODEL_PANEL) {
            size_t width = m->u_width - j < MODEL_PANEL ? m->u_width - j : MODEL_PANEL;
            size_t at = (s * m->u_width + j) * dim;

            loading_transpose(m->positions + at, values + at, width, dim);
        }
}

static int load_positions(struct loading *l)
{
    struct model *m = l->m;
    size_t slots = (size_t)m->o.max_history, dim = (size_t)m->o.item_dim, width = m->u_width;
    float *copy;
    const float *values = tensor_f32(m->ckpt, l->map, &copy, l->err);

    if (values == NULL)
        return -1;
    m->positions = loading_allot(l, slots * dim, width);
    if (m->positions != NULL)
        pack_positions(m, values);
    free(copy);
    m->pad_u = m->positions == NULL ? NULL : loading_allot(l, slots, width);
    if (m->pad_u == NULL)
        return -1;
    memset(m->pad_u, 0, slots * width * sizeof(float));
    if (m->o.padding_vector == PADDING_LIVE)
        for (size_t s = 0; s < slots; s++)
            capsule_map_position(m, s, m->pad_u + s * width, width, m->items, 1);
    return 0;
}

/* ---- what pads can do -------------------------------------------------------------- */

static bool uses_axis(const struct model *m, enum model_axis axis)
{
    for (int i = 0; i < m->o.iterations; i++)
        if (m->o.softmax[i] == axis)
            return true;
    return false;
}

static bool all_zero(const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (v[i] != 0)
            return false;
    return true;
}

/* A pad reaches the result by its share of a softmax over the sequence, if it is masked only
 * afterwards; by w u, if the mask came before a softmax over the interests, which leaves it 1/K, or
 * there is no item to take the weight; and by its u.v in the norm of add_clipped. All but the first
 * need a u that is not zero. */
static void choose_pads(struct model *m)
{
    bool by_position = m->o.bilinear == BILINEAR_PER_POSITION;
    bool has_u = !all_zero(m->pad_u, (by_position ? (size_t)m->o.max_history : 1) * m->u_width);
    bool shares = m->o.mask == MASK_AFTER && uses_axis(m, AXIS_SEQUENCE);
    bool weighs = m->o.mask == MASK_BEFORE && uses_axis(m, AXIS_INTEREST);
    bool clips = m->o.update == UPDATE_ADD_CLIPPED;

    if (has_u)
        m->pads = shares || weighs || clips ? PADS_FULL : PADS_INERT;
    else
        m->pads = shares ? PADS_WEIGH : PADS_INERT;
    m->pads_when_empty = has_u && m->o.mask == MASK_BEFORE ? PADS_FULL : PADS_INERT;
}

int capsules_load(struct loading *l)
{
    if (load_logits(l) == -1)
        return -1;
    if (is_by_position(l->m) ? load_positions(l) == -1 : project_items(l) == -1)
        return -1;
    choose_pads(l->m);
    warn_if_identical(l->m);
    return 0;
}
