/* capsule.c - dynamic routing: from a user's slots to K interests.
 *
 * docs/models.md, once, for every combination of options. */
#include "model_impl.h"

#include "recalld/vec.h"

#include <math.h>
#include <string.h>

/* The masked logit of the reference code, -2^32 + 1, as float32. */
#define MASKED (-4294967296.0f)

/* ---- scratch ---------------------------------------------------------------------- */

static bool needs_inverse(const struct model_options *o)
{
    return o->update == UPDATE_PROBABILITY_ADD ||
           (o->update == UPDATE_REPLACE_SCALED && o->logit_scale > 0);
}

void capsule_lay_out(const struct model *m, struct model_scratch *s, size_t batch, size_t ld)
{
    size_t slots = (size_t)m->o.max_history, interests = (size_t)m->o.interests;

    if (m->o.bilinear == BILINEAR_PER_POSITION) {
        s->position_u = scratch_floats(s, batch * slots, m->u_width);
        s->position_e = scratch_floats(s, batch, (size_t)m->o.item_dim);
    }
    if (m->o.bilinear == BILINEAR_SHARED_INTERLEAVED)
        s->interleaved = scratch_floats(s, slots, m->u_width);
    s->b = scratch_floats(s, interests, ld);
    s->d = scratch_floats(s, interests, ld);
    s->inverse = needs_inverse(&m->o) ? scratch_floats(s, interests, ld) : NULL;
    s->z = scratch_floats(s, interests, (size_t)m->o.capsule_dim);
}

/* ---- low capsules u ---------------------------------------------------------------- */

void capsule_map_position(const struct model *m, size_t s, float *out, size_t ldo, const float *x,
                          size_t rows)
{
    size_t dim = (size_t)m->o.item_dim;

    for (size_t j = 0; j < m->u_width; j += MODEL_PANEL) {
        size_t width = m->u_width - j < MODEL_PANEL ? m->u_width - j : MODEL_PANEL;

        vec_affine(out + j, ldo, x, dim, rows, m->positions + (s * m->u_width + j) * dim, NULL, dim,
                   width);
    }
}

void capsule_interleave(const struct model *m, float *out, const float *h)
{
    size_t interests = (size_t)m->o.interests;

    for (size_t i = 0; i < m->u_width; i++)
        out[i] = h[i / interests];
}

/* per_position: slot by slot over all users that have it, which are the first ones by window. A pad
 * by id inside the window is computed with them and not looked at. */
void capsule_prepare(const struct model *m, struct model_scratch *s, const struct model_input *in,
                     size_t n)
{
    size_t slots = (size_t)m->o.max_history, dim = (size_t)m->o.item_dim;
    size_t user_u = slots * m->u_width;

    for (size_t at = 0; at < slots && m->positions != NULL; at++) {
        size_t have = 0;

        while (have < n && s->users[s->by_window[have]].window > at) {
            uint32_t row = model_row_at(m, &in[s->by_window[have]], at);

            memcpy(s->position_e + have * dim, m->items + row * dim, dim * sizeof(float));
            have++;
        }
        if (have == 0)
            return;
        capsule_map_position(m, at, s->position_u + at * m->u_width, user_u, s->position_e, have);
    }
}

/* u of one real slot; `at` is the user's place in the batch. */
static const float *u_of(const struct model *m, struct model_scratch *s, size_t at,
                         const struct slots *slots, size_t t)
{
    float *expanded;

    switch (m->o.bilinear) {
    case BILINEAR_PER_POSITION:
        return s->position_u + (at * (size_t)m->o.max_history + slots->position[t]) * m->u_width;
    case BILINEAR_SHARED_INTERLEAVED:
        expanded = s->interleaved + t * m->u_width;
        capsule_interleave(m, expanded, m->projected + slots->row[t] * m->item_width);
        return expanded;
    case BILINEAR_SHARED:
    case BILINEAR_PER_INTEREST:
        break;
    }
    return m->projected + slots->row[t] * m->item_width;
}

static void find_u(const struct model *m, struct model_scratch *s, size_t at,
                   const struct slots *slots)
{
    size_t pad_step = m->o.bilinear == BILINEAR_PER_POSITION ? m->u_width : 0;

    for (size_t t = 0; t < slots->valid; t++)
        s->u[t] = u_of(m, s, at, slots, t);
    for (size_t t = slots->valid; t < slots->n_u; t++)
        s->u[t] = m->pad_u + slots->position[t] * pad_step;
}

/* 1 / |u|, with the floor of the codebase whose update it is. */
static void invert_lengths(const struct model *m, struct model_scratch *s,
                           const struct slots *slots)
{
    size_t dim = (size_t)m->o.capsule_dim;
    float least = m->o.update == UPDATE_REPLACE_SCALED ? 1e-6f : 1e-12f;

    for (size_t k = 0; k < slots->live; k++)
        for (size_t t = 0; t < slots->n_u; t++) {
            float norm = vec_norm(s->u[t] + k * m->u_step, dim);

            s->inverse[k * slots->ld + t] = 1 / (norm > least ? norm : least);
        }
}

/* ---- one pass ---------------------------------------------------------------------- */

/* b starts as the model's table, in the order of the slots. */
static void start_logits(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    for (size_t k = 0; k < slots->live; k++) {
        float *b = s->b + k * slots->ld;

        memset(b + slots->n, 0, (slots->ld - slots->n) * sizeof *b);
        for (size_t t = 0; t < slots->n; t++)
            b[t] = m->logits[k * (size_t)m->o.max_history + slots->position[t]];
    }
}

/* w = mask_post(softmax(mask_pre(scale b))) */
static void weigh(const struct model *m, struct model_scratch *s, const struct slots *slots,
                  enum model_axis axis)
{
    bool scales = m->o.logit_scale > 0 && m->o.update != UPDATE_REPLACE_SCALED;
    float scale = (float)m->o.logit_scale;

    memcpy(s->w, s->b, slots->live * slots->ld * sizeof(float));
    if (scales)
        for (size_t i = 0; i < slots->live * slots->ld; i++)
            s->w[i] = scale * s->w[i];
    if (m->o.mask == MASK_BEFORE)
        for (size_t k = 0; k < slots->live; k++)
            for (size_t t = slots->valid; t < slots->n; t++)
                s->w[k * slots->ld + t] = MASKED;
    if (axis == AXIS_INTEREST)
        kernel_softmax_across(s->w, slots->live, slots->ld);
    else
        for (size_t k = 0; k < slots->live; k++)
            vec_softmax(s->w + k * slots->ld, slots->n);
    if (m->o.mask == MASK_AFTER)
        for (size_t k = 0; k < slots->live; k++)
            for (size_t t = slots->valid; t < slots->n; t++)
                s->w[k * slots->ld + t] = 0;
}

/* The factor c of v = c z; section 5, "final squash". `n` is z.z. */
static float squash_factor(const struct model_options *o, float n)
{
    float eps = (float)o->squash_eps, under = n + eps, share;

    if (o->squash == SQUASH_CLAMP_SQUARE) {
        n = n > eps ? n : eps;
        under = n;
    } else if (o->squash == SQUASH_CLAMP_LENGTH) {
        float length = sqrtf(n);

        length = length > eps ? length : eps;
        n = length * length;
        under = n;
    }
    share = n / (1 + n);
    if (o->squash_power != 1)
        share = (float)kernel_pow(share, o->squash_power);
    return (float)o->squash_ratio * share / sqrtf(under);
}

static float activation_factor(const struct model_options *o, enum model_activation a, float n)
{
    if (a == ACTIVATION_SQUASH)
        return squash_factor(o, n);
    return a == ACTIVATION_L2 ? 1 / sqrtf(n > 1e-12f ? n : 1e-12f) : 1;
}

/* z[k] = sum_s w u, v[k] = act(z[k]). Slots whose weight the mask made zero are left out. */
static void collect(const struct model *m, struct model_scratch *s, const struct slots *slots,
                    enum model_activation activation)
{
    size_t dim = (size_t)m->o.capsule_dim;
    size_t n = m->o.mask == MASK_AFTER ? slots->valid : slots->n_u;

    for (size_t k = 0; k < slots->live; k++) {
        float *z = s->z + k * dim, *v = s->v + k * dim, c;

        vec_weighted_sum(z, s->w + k * slots->ld, s->u, k * m->u_step, n, dim);
        c = activation_factor(&m->o, activation, vec_dot(z, z, dim));
        for (size_t j = 0; j < dim; j++)
            v[j] = c * z[j];
    }
}

/* d[k][s] = u.v; zero for pads without a u. */
static void compare(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    size_t dim = (size_t)m->o.capsule_dim;

    if (m->u_step == 0)
        vec_dot_table(s->d, slots->ld, s->v, slots->live, s->u, slots->n_u, dim);
    for (size_t k = 0; k < slots->live; k++) {
        float *d = s->d + k * slots->ld;

        if (m->u_step > 0)
            vec_dots(d, s->v + k * dim, s->u, k * m->u_step, slots->n_u, dim);
        for (size_t t = slots->n_u; t < slots->n; t++)
            d[t] = 0;
        if (s->inverse != NULL)
            for (size_t t = 0; t < slots->n_u; t++)
                d[t] = d[t] * s->inverse[k * slots->ld + t];
    }
}

static void update(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    float scale = m->o.logit_scale > 0 ? (float)m->o.logit_scale : 1;

    for (size_t k = 0; k < slots->live; k++) {
        float *b = s->b + k * slots->ld, norm;
        const float *d = s->d + k * slots->ld, *w = s->w + k * slots->ld;

        switch (m->o.update) {
        case UPDATE_ADD:
            vec_axpy(b, 1, d, slots->n);
            break;
        case UPDATE_ADD_CLIPPED:
            norm = vec_norm(d, slots->n);
            vec_axpy(b, 1 / (norm > 1 ? norm : 1), d, slots->n);
            break;
        case UPDATE_REPLACE_SCALED:
            for (size_t t = 0; t < slots->n; t++)
                b[t] = scale * d[t];
            break;
        case UPDATE_PROBABILITY_ADD:
            for (size_t t = 0; t < slots->n; t++)
                b[t] = w[t] + d[t];
            break;
        }
    }
}

/* ---- a user ------------------------------------------------------------------------- */

void capsule_route(const struct model *m, struct model_scratch *s, size_t at)
{
    const struct slots *slots = &s->users[s->by_window[at]];

    find_u(m, s, at, slots);
    start_logits(m, s, slots);
    if (s->inverse != NULL)
        invert_lengths(m, s, slots);
    for (int i = 0; i < m->o.iterations; i++) {
        bool last = i == m->o.iterations - 1;

        weigh(m, s, slots, m->o.softmax[i]);
        collect(m, s, slots, last ? ACTIVATION_SQUASH : m->o.mid_activation);
        if (!last) {
            compare(m, s, slots);
            update(m, s, slots);
        }
    }
}
