/* attention.c - self-attention: K heads, each a softmax over the history, and no routing
 * (ComiRec-SA; docs/models.md).
 *
 * With x the inputs: A = softmax over the slots of act(tanh(x W1 + c1) W2 + c2), v[k] = sum A x' .
 * An input is an item and, maybe, its slot's position: x = f e + p, so x W1 + c1 is the sum of
 * f e W1, computed once for all items, and of p W1 + c1, once for all slots.
 *
 * The codebases mask pads with -2^32 or add -10^9. Beside a real slot either leaves them no weight;
 * without any real slot all weights are equal, which is again the same for all users. */
#include "loading.h"

#include "recalld/vec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool has_positions(const struct model *m)
{
    return m->o.attention_positions != POSITIONS_NONE;
}

/* f of x = f e + p: DeepMatch's layer adds positions to what it is given, and its caller adds the
 * result to that once more. */
static float item_factor(const struct model *m)
{
    return m->o.attention_positions == POSITIONS_ADD_SCALED ? 2 : 1;
}

/* ---- tensors --------------------------------------------------------------------- */

int attention_find(struct loading *l, const char *dir)
{
    const struct codebase *names = l->names;

    (void)dir;
    if (has_positions(l->m) &&
        loading_find(l, &l->positions, names->positions,
                     "the positions (attention_positions none: the model has none)") == -1)
        return -1;
    if (loading_find(l, &l->hidden, names->hidden, "the first layer of its attention") == -1 ||
        loading_find_any(l, &l->hidden_bias, names->hidden_bias, "the first bias") == -1 ||
        loading_find(l, &l->heads, names->heads, "the second layer of its attention") == -1 ||
        loading_find_any(l, &l->heads_bias, names->heads_bias, "the second bias") == -1)
        return -1;
    return 0;
}

static size_t out_of(const struct loading *l, const struct tensor *linear)
{
    return linear->shape[l->names->attention_out_in ? 0 : 1];
}

int attention_complete(struct loading *l)
{
    struct model_options *o = &l->m->o;

    if (loading_expect_dims(l, l->m->ckpt, l->hidden, 2) == -1 ||
        loading_expect_dims(l, l->m->ckpt, l->heads, 2) == -1)
        return -1;
    loading_complete(&o->interests, out_of(l, l->heads));
    if (l->positions != NULL && l->positions->n_dims >= 2)
        loading_complete(&o->max_history, l->positions->shape[l->positions->n_dims - 2]);
    o->capsule_dim = o->item_dim;
    return 0;
}

int attention_check(struct loading *l)
{
    const struct model_options *o = &l->m->o;
    const struct ckpt *c = l->m->ckpt;
    bool turned = l->names->attention_out_in;
    size_t dim = (size_t)o->item_dim, width = out_of(l, l->hidden), heads = (size_t)o->interests;

    if (width > MODEL_HIDDEN_MAX)
        return err_set(l->err, ERR_LIMIT, "%s: tensor %s has %zu outputs, the limit is %d",
                       ckpt_name(c), l->hidden->name, width, MODEL_HIDDEN_MAX);
    if (l->positions != NULL && loading_expect_table(l, c, l->positions, (size_t)o->max_history,
                                                     dim, "max_history, item_dim") == -1)
        return -1;
    if (loading_expect_linear(l, l->hidden, turned, dim, width, "item_dim", "hidden") == -1 ||
        loading_expect_linear(l, l->heads, turned, width, heads, "hidden", "interests") == -1)
        return -1;
    if (l->hidden_bias != NULL &&
        loading_expect_shape(l, c, l->hidden_bias, 1, &width, "hidden") == -1)
        return -1;
    if (l->heads_bias != NULL &&
        loading_expect_shape(l, c, l->heads_bias, 1, &heads, "interests") == -1)
        return -1;
    return 0;
}

/* ---- what does not depend on the user ---------------------------------------------- */

/* p of every slot, in memory of its own that the caller frees; NULL with l->err set. */
static float *load_positions(struct loading *l)
{
    const struct model *m = l->m;
    float *copy, *p = NULL, scale;
    const float *values = tensor_f32(m->ckpt, l->positions, &copy, l->err);

    if (values == NULL)
        return NULL;
    scale = m->o.attention_positions == POSITIONS_ADD_SCALED ? sqrtf((float)m->o.item_dim) : 1;
    p = mem_try_array(l->positions->count, sizeof *p);
    if (p == NULL)
        err_set(l->err, ERR_NOMEM, "%s: no memory for tensor %s", ckpt_name(m->ckpt),
                l->positions->name);
    for (size_t i = 0; p != NULL && i < l->positions->count; i++)
        p[i] = scale * values[i];
    free(copy);
    return p;
}

/* p W1 + c1 of every slot; c1 or zeros without positions. */
static int load_position_hidden(struct loading *l, const float *weights, const float *bias,
                                const float *p)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.item_dim, width = m->item_width;
    size_t slots = p != NULL ? (size_t)m->o.max_history : 1;

    m->position_hidden = loading_allot(l, slots, width);
    if (m->position_hidden == NULL)
        return -1;
    if (p != NULL)
        vec_affine(m->position_hidden, width, p, dim, slots, weights, bias, dim, width);
    else if (bias != NULL)
        memcpy(m->position_hidden, bias, width * sizeof *bias);
    else
        memset(m->position_hidden, 0, width * sizeof *bias);
    return 0;
}

static void scale(float *x, size_t n, float by)
{
    for (size_t i = 0; by != 1 && i < n; i++)
        x[i] = by * x[i];
}

static int load_hidden(struct loading *l, const float *p)
{
    struct model *m = l->m;
    float *weights_copy = NULL, *bias_copy = NULL;
    const float *bias = NULL, *weights;
    int result = -1;

    weights = loading_matrix(l, l->hidden, l->names->attention_out_in, &weights_copy);
    if (weights == NULL)
        goto out;
    if (l->hidden_bias != NULL &&
        (bias = tensor_f32(m->ckpt, l->hidden_bias, &bias_copy, l->err)) == NULL)
        goto out;
    if (loading_project_items(l, weights, NULL, out_of(l, l->hidden)) == -1)
        goto out;
    scale(m->projected, m->rows * m->item_width, item_factor(m));
    result = load_position_hidden(l, weights, bias, p);
out:
    free(weights_copy);
    free(bias_copy);
    return result;
}

static int load_heads(struct loading *l)
{
    struct model *m = l->m;

    m->heads = loading_keep(l, l->heads, !l->names->attention_out_in);
    if (m->heads == NULL || l->heads_bias == NULL)
        return m->heads == NULL ? -1 : 0;
    m->heads_bias = loading_keep(l, l->heads_bias, false);
    return m->heads_bias == NULL ? -1 : 0;
}

/* out = f e + p: what is summed up of one slot. `p` may be NULL. */
static void value_of(const struct model *m, float *out, const float *e, const float *p)
{
    float by = item_factor(m);

    for (size_t j = 0; j < (size_t)m->o.item_dim; j++)
        out[j] = p != NULL ? by * e[j] + p[j] : e[j];
}

/* Without items every slot is a pad and weighs 1/S. */
static int load_empty(struct loading *l)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.item_dim, slots = (size_t)m->o.max_history;
    float *value = loading_allot(l, 3, dim), *pad;

    if (value == NULL)
        return -1;
    pad = value + dim;
    m->empty = pad + dim;
    memset(value, 0, 3 * dim * sizeof *value);
    if (m->o.padding_vector == PADDING_LIVE)
        memcpy(pad, m->items, dim * sizeof *pad);
    for (size_t s = 0; s < slots; s++) {
        value_of(m, value, pad, m->position_values == NULL ? NULL : m->position_values + s * dim);
        vec_axpy(m->empty, 1 / (float)slots, value, dim);
    }
    return 0;
}

int attention_load(struct loading *l)
{
    struct model *m = l->m;
    float *p = NULL;
    int result;

    if (has_positions(m) && (p = load_positions(l)) == NULL)
        return -1;
    result = load_hidden(l, p);
    if (p != NULL && m->o.attention_values == VALUES_INPUTS) {
        m->position_values = p;
        loading_adopt(l, p, l->positions->count);
    } else {
        free(p);
    }
    if (result == -1 || load_heads(l) == -1)
        return -1;
    return load_empty(l);
}

/* ---- a user ------------------------------------------------------------------------- */

void attention_lay_out(const struct model *m, struct model_scratch *s)
{
    size_t slots = (size_t)m->o.max_history;

    s->hidden = scratch_floats(s, slots, m->item_width);
    s->hidden_rows = arena_alloc(&s->arena, slots * sizeof *s->hidden_rows);
    if (m->position_values != NULL)
        s->values = scratch_floats(s, slots, (size_t)m->o.item_dim);
}

/* tanh(x W1 + c1) */
static void find_hidden(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    size_t width = m->item_width, step = has_positions(m) ? width : 0;

    for (size_t t = 0; t < slots->valid; t++) {
        const float *item = m->projected + slots->row[t] * width;
        const float *position = m->position_hidden + slots->position[t] * step;
        float *out = s->hidden + t * width;

        for (size_t j = 0; j < width; j++)
            out[j] = item[j] + position[j];
        kernel_tanh(out, width);
        s->hidden_rows[t] = out;
    }
}

static void weigh(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    vec_dot_table(s->w, slots->ld, m->heads, slots->live, s->hidden_rows, slots->valid,
                  m->item_width);
    for (size_t k = 0; k < slots->live; k++) {
        float *w = s->w + k * slots->ld;

        for (size_t t = 0; m->heads_bias != NULL && t < slots->valid; t++)
            w[t] = w[t] + m->heads_bias[k];
        if (m->o.attention_activation == ATTENTION_TANH)
            kernel_tanh(w, slots->valid);
        vec_softmax(w, slots->valid);
    }
}

static void find_values(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    size_t dim = (size_t)m->o.item_dim;

    for (size_t t = 0; t < slots->valid; t++) {
        s->u[t] = m->items + slots->row[t] * dim;
        if (m->position_values == NULL)
            continue;
        value_of(m, s->values + t * dim, s->u[t], m->position_values + slots->position[t] * dim);
        s->u[t] = s->values + t * dim;
    }
}

void attention_attend(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    size_t dim = (size_t)m->o.item_dim;

    if (slots->valid == 0) {
        for (size_t k = 0; k < slots->live; k++)
            memcpy(s->v + k * dim, m->empty, dim * sizeof *m->empty);
        return;
    }
    find_hidden(m, s, slots);
    weigh(m, s, slots);
    find_values(m, s, slots);
    for (size_t k = 0; k < slots->live; k++)
        vec_weighted_sum(s->v + k * dim, s->w + k * slots->ld, s->u, 0, slots->valid, dim);
}
