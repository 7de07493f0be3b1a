/* interests.c - a batch of users through a model: rows to slots, what the model's kind makes of
 * them, and from that to what is given out.
 *
 * A user becomes a list of slots, real ones first, then the pads as far as they can change the
 * result; what a pad cannot change is left out. Users of a batch are independent of each other:
 * only the map of per_position walks over all of them at once, to read each slot's weights once. */
#include "model_impl.h"

#include "recalld/vec.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define LINE_FLOATS 16 /* of a cache line */

/* ---- scratch ---------------------------------------------------------------------- */

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

float *scratch_floats(struct model_scratch *s, size_t a, size_t b)
{
    return arena_alloc(&s->arena, a * b * sizeof(float));
}

static size_t whole_blocks(size_t n)
{
    return (n + MODEL_BLOCK - 1) / MODEL_BLOCK * MODEL_BLOCK;
}

static void lay_out(const struct model *m, struct model_scratch *s, size_t batch)
{
    size_t slots = (size_t)m->o.max_history, ld = whole_blocks(slots);
    size_t interests = (size_t)m->o.interests;

    arena_reset(&s->arena);
    for (size_t i = 0; i < batch; i++) {
        s->users[i].position = arena_alloc(&s->arena, slots * sizeof(uint32_t));
        s->users[i].row = arena_alloc(&s->arena, slots * sizeof(uint32_t));
    }
    s->u = arena_alloc(&s->arena, slots * sizeof *s->u);
    s->w = scratch_floats(s, interests, ld);
    s->v = scratch_floats(s, interests, (size_t)m->o.capsule_dim);
    if (m->o.kind == MODEL_ATTENTION)
        attention_lay_out(m, s);
    else
        capsule_lay_out(m, s, batch, ld);
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

uint32_t model_row_at(const struct model *m, const struct model_input *in, size_t s)
{
    size_t at = m->o.history_order == ORDER_OLDEST_FIRST ? s : in->used - 1 - s;

    assert(in->rows[in->first_used + at] < m->rows);
    return in->rows[in->first_used + at];
}

/* What will be read of a row: on its way while other rows are looked at. */
static void fetch_row(const struct model *m, uint32_t row)
{
    const float *p = m->projected;

    for (size_t i = 0; p != NULL && i < m->item_width; i += LINE_FLOATS)
        __builtin_prefetch(p + row * m->item_width + i);
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
    for (size_t s = 0; s < in->used; s++) {
        uint32_t row = model_row_at(m, in, s);

        if (!by_id || row != 0)
            append(slots, &slots->valid, s, row);
        fetch_row(m, row);
    }

    slots->n = slots->valid;
    pads = slots->valid > 0 ? m->pads : m->pads_when_empty;
    if (pads != PADS_INERT) {
        for (size_t s = 0; s < in->used; s++)
            if (by_id && model_row_at(m, in, s) == 0)
                append(slots, &slots->n, s, 0);
        for (size_t s = in->used; s < most; s++)
            append(slots, &slots->n, s, 0);
    }
    slots->n_u = pads == PADS_FULL ? slots->n : slots->valid;
    slots->ld = whole_blocks(slots->n);
    slots->live = live_interests(m, in->dynamic >= 0 ? in->dynamic : (int)m->o.dynamic_interests,
                                 slots->valid);
    in->live = (int)slots->live;
}

static void sort_by_window(struct model_scratch *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t j = i;

        for (; j > 0 && s->users[s->by_window[j - 1]].window < s->users[i].window; j--)
            s->by_window[j] = s->by_window[j - 1];
        s->by_window[j] = i;
    }
}

/* ---- a user, a batch ---------------------------------------------------------------- */

/* v to what the model gives out: projected, length 1 if wanted, zero beyond K'. */
static void finish(const struct model *m, const struct model_scratch *s, size_t live, float *out)
{
    size_t dim = (size_t)m->o.capsule_dim, interests = (size_t)m->o.interests;

    if (m->projection == NULL) {
        memcpy(out, s->v, live * dim * sizeof *out);
    } else {
        vec_affine(out, m->out_dim, s->v, dim, live, m->projection, m->projection_bias, dim,
                   m->out_dim);
        for (size_t i = 0; m->o.projection == PROJECTION_RELU && i < live * m->out_dim; i++)
            out[i] = out[i] > 0 ? out[i] : 0;
    }
    if (m->o.normalize_user)
        for (size_t k = 0; k < live; k++)
            vec_normalise(out + k * m->out_dim, out + k * m->out_dim, m->out_dim, m->norm_floor);
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
            in->weights[k * in->used + at] = s->w[k * slots->ld + t];
        }
}

static void run_user(const struct model *m, struct model_scratch *s, size_t at,
                     struct model_input *in)
{
    const struct slots *slots = &s->users[s->by_window[at]];

    if (m->o.kind == MODEL_ATTENTION)
        attention_attend(m, s, slots);
    else
        capsule_route(m, s, at);
    finish(m, s, slots->live, in->interests);
    if (in->weights != NULL)
        report_weights(m, s, slots, in);
}

static void run_batch(const struct model *m, struct model_scratch *s, struct model_input *in,
                      size_t n)
{
    lay_out(m, s, n);
    for (size_t i = 0; i < n; i++)
        plan(m, &in[i], &s->users[i]);
    sort_by_window(s, n);
    if (m->o.kind == MODEL_CAPSULES)
        capsule_prepare(m, s, in, n);
    for (size_t at = 0; at < n; at++)
        run_user(m, s, at, &in[s->by_window[at]]);
}

void model_interests(const struct model *m, struct model_scratch *s, struct model_input *in,
                     size_t n)
{
    for (size_t i = 0; i < n; i += MODEL_BATCH)
        run_batch(m, s, in + i, n - i < MODEL_BATCH ? n - i : MODEL_BATCH);
}
