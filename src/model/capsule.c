/* capsule.c - dynamic routing: from a user's rows to K interest vectors.
 *
 * model-semantics.md section 0, once, for every combination of options. A user becomes a list of
 * slots, real ones first, then the pads as far as they can change the result; what a pad cannot
 * change is left out. Users of a batch are independent of each other: only the projection of
 * per_position walks over all of them at once, to read each slot's weights once. */
#include "model_impl.h"

#include "recalld/vec.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The masked logit of the reference code, -2^32 + 1, as float32. */
#define MASKED (-4294967296.0f)
#define NORM_FLOOR 1e-12f /* of normalize_user */

/* ---- scratch ---------------------------------------------------------------------- */

/* One user's slots. `valid` real ones; with pads, up to `n` in the softmax and up to `n_u` with a u
 * of their own. */
struct slots {
    uint32_t *position, *row; /* (S) */
    size_t window;            /* rows used of the request, pads by id included */
    size_t valid, n_u, n;
    size_t live; /* K' */
};

struct model_scratch {
    struct arena arena; /* everything below, laid out anew for each batch */
    struct slots users[MODEL_BATCH];
    size_t by_window[MODEL_BATCH]; /* users, longest window first */
    float *position_u;             /* (batch, S, K*H) in the order of by_window: per_position */
    float *position_e;             /* (batch, D) in the order of by_window: per_position */
    float *interleaved;            /* (S, K*H): shared_interleaved */
    const float **u;               /* (S) where each slot's u is */
    float *b, *w, *d;              /* (K, stride) logits, weights, agreements u.v */
    float *inverse; /* (K, stride) 1 / |u|, or NULL when the update has no use for it */
    float *z, *v;   /* (K, H) */
};

struct model_scratch *model_scratch_new(void)
{
    return xcalloc(1, sizeof(struct model_scratch));
}

void model_scratch_free(struct model_scratch *s)
{
    if (s == NULL)
        return;
    arena_clear(&s->arena);
    free(s);
}

static bool needs_inverse(const struct model_options *o)
{
    return o->update == UPDATE_PROBABILITY_ADD ||
           (o->update == UPDATE_REPLACE_SCALED && o->logit_scale > 0);
}

/* Products stay far below SIZE_MAX: every factor has its limit in model.h. */
static float *floats(struct model_scratch *s, size_t a, size_t b)
{
    return arena_alloc(&s->arena, a * b * sizeof(float));
}

static void lay_out(const struct model *m, struct model_scratch *s, size_t batch)
{
    size_t slots = (size_t)m->o.max_history, dim = (size_t)m->o.capsule_dim;
    size_t interests = (size_t)m->o.interests;

    arena_reset(&s->arena);
    for (size_t i = 0; i < batch; i++) {
        s->users[i].position = arena_alloc(&s->arena, slots * sizeof(uint32_t));
        s->users[i].row = arena_alloc(&s->arena, slots * sizeof(uint32_t));
    }
    if (m->o.bilinear == BILINEAR_PER_POSITION) {
        s->position_u = floats(s, batch * slots, m->u_width);
        s->position_e = floats(s, batch, (size_t)m->o.item_dim);
    }
    if (m->o.bilinear == BILINEAR_SHARED_INTERLEAVED)
        s->interleaved = floats(s, slots, m->u_width);
    s->u = arena_alloc(&s->arena, slots * sizeof *s->u);
    s->b = floats(s, interests, m->stride);
    s->w = floats(s, interests, m->stride);
    s->d = floats(s, interests, m->stride);
    s->inverse = needs_inverse(&m->o) ? floats(s, interests, m->stride) : NULL;
    s->z = floats(s, interests, dim);
    s->v = floats(s, interests, dim);
}

/* ---- from rows to slots ------------------------------------------------------------ */

/* The largest K' <= interests whose threshold in `length` is reached. */
static size_t live_interests(const struct model *m, int dynamic, size_t length)
{
    /* trunc(ln L): e^2 .. e^6 rounded up */
    static const size_t ln_steps[] = {8, 21, 55, 149, 404};
    size_t most = (size_t)m->o.interests, live = 1;

    switch ((enum model_dynamic)dynamic) {
    case KDYN_NONE:
        return most;
    case KDYN_FLOOR_LOG2:
        while (live < most && length >> (live + 1) > 0)
            live++;
        break;
    case KDYN_CEIL_LOG2:
        while (live < most && length > (size_t)1 << live)
            live++;
        break;
    case KDYN_TRUNC_LN:
        for (size_t i = 0; i < ARRAY_LEN(ln_steps) && length >= ln_steps[i] && live < most; i++)
            live++;
        break;
    case KDYN_FLOOR_LOG2_1P:
        while (live < most && (length + 1) >> (live + 1) > 0)
            live++;
        break;
    }
    return live;
}

static void append(struct slots *slots, size_t *n, size_t position, uint32_t row)
{
    slots->position[*n] = (uint32_t)position;
    slots->row[*n] = row;
    ++*n;
}

/* Slot s of the window as a row of the request. */
static uint32_t row_at(const struct model *m, const struct model_input *in, size_t s)
{
    size_t at = m->o.history_order == ORDER_OLDEST_FIRST ? s : in->used - 1 - s;

    assert(in->rows[in->first_used + at] < m->rows);
    return in->rows[in->first_used + at];
}

static void plan(const struct model *m, struct model_input *in, struct slots *slots)
{
    size_t most = (size_t)m->o.max_history;
    bool by_id = m->o.padding_by == PADDING_BY_ID;
    enum pads pads;

    in->used = in->n_rows < most ? in->n_rows : most;
    in->first_used = m->o.truncate == TRUNCATE_LAST ? in->n_rows - in->used : 0;
    slots->window = in->used;
    slots->valid = 0;
    for (size_t s = 0; s < in->used; s++)
        if (!by_id || row_at(m, in, s) != 0)
            append(slots, &slots->valid, s, row_at(m, in, s));

    slots->n = slots->valid;
    pads = slots->valid > 0 ? m->pads : m->pads_when_empty;
    if (pads != PADS_INERT) {
        for (size_t s = 0; s < in->used; s++)
            if (by_id && row_at(m, in, s) == 0)
                append(slots, &slots->n, s, 0);
        for (size_t s = in->used; s < most; s++)
            append(slots, &slots->n, s, 0);
    }
    slots->n_u = pads == PADS_FULL ? slots->n : slots->valid;
    slots->live = live_interests(m, in->dynamic >= 0 ? in->dynamic : (int)m->o.dynamic_interests,
                                 slots->valid);
    in->live = (int)slots->live;
}

/* ---- low capsules u ---------------------------------------------------------------- */

static void sort_by_window(struct model_scratch *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t j = i;

        for (; j > 0 && s->users[s->by_window[j - 1]].window < s->users[i].window; j--)
            s->by_window[j] = s->by_window[j - 1];
        s->by_window[j] = i;
    }
}

void model_map_position(const struct model *m, size_t s, float *out, size_t ldo, const float *x,
                        size_t rows)
{
    size_t dim = (size_t)m->o.item_dim;

    for (size_t j = 0; j < m->u_width; j += MODEL_PANEL) {
        size_t width = m->u_width - j < MODEL_PANEL ? m->u_width - j : MODEL_PANEL;

        vec_affine(out + j, ldo, x, dim, rows, m->positions + (s * m->u_width + j) * dim, NULL, dim,
                   width);
    }
}

/* per_position: slot by slot over all users that have it, which are the first ones by window. A pad
 * by id inside the window is computed with them and not looked at. */
static void project_positions(const struct model *m, struct model_scratch *s,
                              const struct model_input *in, size_t n)
{
    size_t slots = (size_t)m->o.max_history, dim = (size_t)m->o.item_dim;
    size_t user_u = slots * m->u_width;

    for (size_t at = 0; at < slots; at++) {
        size_t have = 0;

        while (have < n && s->users[s->by_window[have]].window > at) {
            uint32_t row = row_at(m, &in[s->by_window[have]], at);

            memcpy(s->position_e + have * dim, m->items + row * dim, dim * sizeof(float));
            have++;
        }
        if (have == 0)
            return;
        model_map_position(m, at, s->position_u + at * m->u_width, user_u, s->position_e, have);
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
        model_interleave(m, expanded, m->projected + slots->row[t] * m->item_width);
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

            s->inverse[k * m->stride + t] = 1 / (norm > least ? norm : least);
        }
}

/* ---- one pass ---------------------------------------------------------------------- */

/* b starts as the model's table, in the order of the slots. */
static void start_logits(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    for (size_t k = 0; k < slots->live; k++) {
        float *b = s->b + k * m->stride;

        memset(b, 0, m->stride * sizeof *b);
        for (size_t t = 0; t < slots->n; t++)
            b[t] = m->logits[k * m->stride + slots->position[t]];
    }
}

/* w = mask_post(softmax(mask_pre(scale b))) */
static void weigh(const struct model *m, struct model_scratch *s, const struct slots *slots,
                  enum model_axis axis)
{
    bool scales = m->o.logit_scale > 0 && m->o.update != UPDATE_REPLACE_SCALED;
    float scale = (float)m->o.logit_scale;

    memcpy(s->w, s->b, slots->live * m->stride * sizeof(float));
    if (scales)
        for (size_t i = 0; i < slots->live * m->stride; i++)
            s->w[i] = scale * s->w[i];
    if (m->o.mask == MASK_BEFORE)
        for (size_t k = 0; k < slots->live; k++)
            for (size_t t = slots->valid; t < slots->n; t++)
                s->w[k * m->stride + t] = MASKED;
    if (axis == AXIS_INTEREST)
        kernel_softmax_across(s->w, m->stride, slots->live, slots->n);
    else
        for (size_t k = 0; k < slots->live; k++)
            vec_softmax(s->w + k * m->stride, slots->n);
    if (m->o.mask == MASK_AFTER)
        for (size_t k = 0; k < slots->live; k++)
            for (size_t t = slots->valid; t < slots->n; t++)
                s->w[k * m->stride + t] = 0;
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

        vec_weighted_sum(z, s->w + k * m->stride, s->u, k * m->u_step, n, dim);
        c = activation_factor(&m->o, activation, vec_dot(z, z, dim));
        for (size_t j = 0; j < dim; j++)
            v[j] = c * z[j];
    }
}

/* d[k][s] = u.v; zero for pads without a u. */
static void compare(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    size_t dim = (size_t)m->o.capsule_dim;

    for (size_t k = 0; k < slots->live; k++) {
        float *d = s->d + k * m->stride;

        vec_dots(d, s->v + k * dim, s->u, k * m->u_step, slots->n_u, dim);
        for (size_t t = slots->n_u; t < slots->n; t++)
            d[t] = 0;
        if (s->inverse != NULL)
            for (size_t t = 0; t < slots->n_u; t++)
                d[t] = d[t] * s->inverse[k * m->stride + t];
    }
}

static void update(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
    float scale = m->o.logit_scale > 0 ? (float)m->o.logit_scale : 1;

    for (size_t k = 0; k < slots->live; k++) {
        float *b = s->b + k * m->stride, norm;
        const float *d = s->d + k * m->stride, *w = s->w + k * m->stride;

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

/* ---- a user, a batch ---------------------------------------------------------------- */

static void route(const struct model *m, struct model_scratch *s, const struct slots *slots)
{
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

/* v to what the model gives out: relu(v P + p), length 1 if wanted, zero beyond K'. */
static void finish(const struct model *m, const struct model_scratch *s, size_t live, float *out)
{
    size_t dim = (size_t)m->o.capsule_dim, interests = (size_t)m->o.interests;

    if (m->projection == NULL) {
        memcpy(out, s->v, live * dim * sizeof *out);
    } else {
        vec_affine(out, m->out_dim, s->v, dim, live, m->projection, m->projection_bias, dim,
                   m->out_dim);
        for (size_t i = 0; i < live * m->out_dim; i++)
            out[i] = out[i] > 0 ? out[i] : 0;
    }
    if (m->o.normalize_user)
        for (size_t k = 0; k < live; k++)
            vec_normalise(out + k * m->out_dim, out + k * m->out_dim, m->out_dim, NORM_FLOOR);
    memset(out + live * m->out_dim, 0, (interests - live) * m->out_dim * sizeof *out);
}

/* The last pass's weights, slot by slot back to the order of the request's rows. */
static void report_weights(const struct model *m, const struct model_scratch *s,
                           const struct slots *slots, const struct model_input *in)
{
    memset(in->weights, 0, (size_t)m->o.interests * in->used * sizeof(float));
    for (size_t k = 0; k < slots->live; k++)
        for (size_t t = 0; t < slots->valid; t++) {
            size_t at = slots->position[t];

            if (m->o.history_order == ORDER_NEWEST_FIRST)
                at = in->used - 1 - at;
            in->weights[k * in->used + at] = s->w[k * m->stride + t];
        }
}

static void run_batch(const struct model *m, struct model_scratch *s, struct model_input *in,
                      size_t n)
{
    lay_out(m, s, n);
    for (size_t i = 0; i < n; i++)
        plan(m, &in[i], &s->users[i]);
    sort_by_window(s, n);
    if (m->o.bilinear == BILINEAR_PER_POSITION)
        project_positions(m, s, in, n);
    for (size_t at = 0; at < n; at++) {
        size_t i = s->by_window[at];

        find_u(m, s, at, &s->users[i]);
        route(m, s, &s->users[i]);
        finish(m, s, s->users[i].live, in[i].interests);
        if (in[i].weights != NULL)
            report_weights(m, s, &s->users[i], &in[i]);
    }
}

void model_interests(const struct model *m, struct model_scratch *s, struct model_input *in,
                     size_t n)
{
    for (size_t i = 0; i < n; i += MODEL_BATCH)
        run_batch(m, s, in + i, n - i < MODEL_BATCH ? n - i : MODEL_BATCH);
}
