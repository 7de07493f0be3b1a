/* model.c - from a checkpoint and options to a model that is ready to serve: finds the tensors by
 * the names of the variant's codebase, completes the options from their shapes, checks every shape,
 * and computes once what does not depend on the user. The routing itself is in capsule.c. */
#include "model_impl.h"

#include "recalld/vec.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* RecHub's and PyTorch's: x / max(|x|, 1e-12). */
#define NORM_FLOOR 1e-12f
/* Rows projected at a time: their vectors stay in the cache while every column is computed. */
#define PROJECT_ROWS 256

/* What only model_open needs. */
struct loading {
    struct model *m;
    const struct codebase *names;
    struct ckpt *init_file;       /* INIT_FILE, else NULL */
    const struct ckpt *init_ckpt; /* where `init` is */
    const struct tensor *items, *map, *bias, *projection, *projection_bias;
    const struct tensor *init; /* (K, S) or (1, K, S), or NULL */
    float *items_copy;         /* the model's own floats of `items`, NULL when they are a view */
    struct err *err;
};

static bool is_shared(const struct model *m)
{
    return m->o.bilinear == BILINEAR_SHARED || m->o.bilinear == BILINEAR_SHARED_INTERLEAVED;
}

/* ---- memory that the model owns -------------------------------------------------- */

static void adopt(struct model *m, float *p, size_t count)
{
    if (p == NULL)
        return;
    m->owned[m->n_owned++] = p;
    m->memory += count * sizeof *p;
}

/* a * b floats, freed with the model; NULL with *err set. */
static float *allot(struct loading *l, size_t a, size_t b)
{
    size_t count = 0;
    float *p = mem_product(a, b, &count) ? mem_try_aligned(count, sizeof *p) : NULL;

    if (p == NULL)
        err_set(l->err, ERR_NOMEM, "%s: no memory for %zu times %zu floats", ckpt_name(l->m->ckpt),
                a, b);
    adopt(l->m, p, count);
    return p;
}

/* ---- options --------------------------------------------------------------------- */

static int check_options(const struct model_options *o, const struct codebase *names,
                         struct err *err)
{
    if (names->three_passes && o->iterations != 3)
        return err_set(err, ERR_USAGE,
                       "iterations must be 3 for variant %s, not %d: its code stops updating the "
                       "routing after two passes",
                       o->variant, o->iterations);
    if (o->softmax_passes > 0 && o->softmax_passes != o->iterations)
        return err_set(err, ERR_USAGE, "softmax lists %d passes, iterations is %d",
                       o->softmax_passes, o->iterations);
    return 0;
}

/* ---- tensors --------------------------------------------------------------------- */

static int need(struct loading *l, const struct tensor **t, const char *name, const char *role)
{
    const struct model *m = l->m;

    if (name == NULL)
        return err_set(l->err, ERR_USAGE, "variant %s has no tensor for %s", m->o.variant, role);
    *t = ckpt_find(m->ckpt, name);
    if (*t == NULL)
        return err_set(l->err, ERR_FORMAT, "%s: no tensor %s, where variant %s keeps %s",
                       ckpt_name(m->ckpt), name, m->o.variant, role);
    return 0;
}

static const struct tensor *find_if_named(const struct ckpt *c, const char *name)
{
    return name == NULL ? NULL : ckpt_find(c, name);
}

static int find_init(struct loading *l, const char *dir)
{
    const struct model_options *o = &l->m->o;
    char *path;

    if (o->init == INIT_TENSOR) {
        l->init_ckpt = l->m->ckpt;
        l->init = ckpt_find(l->m->ckpt, o->init_name);
        if (l->init == NULL)
            return err_set(l->err, ERR_FORMAT, "%s: no tensor %s, which init names",
                           ckpt_name(l->m->ckpt), o->init_name);
    } else if (o->init == INIT_FILE) {
        path = path_join(dir != NULL ? dir : ".", o->init_name);
        l->init_ckpt = l->init_file = ckpt_open(path, l->err);
        free(path);
        if (l->init_file == NULL)
            return err_prefix(l->err, "init: ");
        if (ckpt_count(l->init_file) != 1)
            return err_set(l->err, ERR_FORMAT, "%s: %zu tensors, a file of routing logits has one",
                           ckpt_name(l->init_file), ckpt_count(l->init_file));
        l->init = ckpt_at(l->init_file, 0);
    }
    return 0;
}

static int find_tensors(struct loading *l, const char *dir)
{
    const struct ckpt *c = l->m->ckpt;
    const struct codebase *names = l->names;

    if (need(l, &l->items, names->items, "the item vectors") == -1)
        return -1;
    if (l->m->o.bilinear == BILINEAR_PER_POSITION) {
        if (need(l, &l->map, names->per_position, "the weights of bilinear per_position") == -1)
            return -1;
    } else {
        if (need(l, &l->map, names->linear, "the weights of the bilinear map") == -1)
            return -1;
        l->bias = find_if_named(c, names->linear_bias);
    }
    if (l->m->o.projection == PROJECTION_RELU) {
        if (need(l, &l->projection, names->projection, "the weights of the projection") == -1)
            return -1;
        l->projection_bias = find_if_named(c, names->projection_bias);
    }
    return find_init(l, dir);
}

/* ---- shapes ---------------------------------------------------------------------- */

static void put_shape(struct buf *b, const size_t *shape, int n_dims)
{
    buf_putc(b, '[');
    for (int d = 0; d < n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", shape[d]);
    buf_putc(b, ']');
}

/* `axes` tells the options the expected sizes come from. */
static int expect_shape(struct loading *l, const struct ckpt *c, const struct tensor *t, int n_dims,
                        const size_t *shape, const char *axes)
{
    struct buf b = BUF_INIT;

    if (t->n_dims == n_dims && memcmp(t->shape, shape, (size_t)n_dims * sizeof *shape) == 0)
        return 0;
    buf_printf(&b, "%s: tensor %s has shape ", ckpt_name(c), t->name);
    put_shape(&b, t->shape, t->n_dims);
    buf_puts(&b, ", expected ");
    put_shape(&b, shape, n_dims);
    buf_printf(&b, " (%s)", axes);
    err_set(l->err, ERR_FORMAT, "%s", buf_cstr(&b));
    buf_clear(&b);
    return -1;
}

static int expect_dims(struct loading *l, const struct ckpt *c, const struct tensor *t, int n_dims)
{
    if (t->n_dims == n_dims)
        return 0;
    return err_set(l->err, ERR_FORMAT, "%s: tensor %s has %d dimensions, expected %d", ckpt_name(c),
                   t->name, t->n_dims, n_dims);
}

static size_t in_of(const struct loading *l, const struct tensor *linear)
{
    return linear->shape[l->names->linear_out_in ? 1 : 0];
}

static size_t out_of(const struct loading *l, const struct tensor *linear)
{
    return linear->shape[l->names->linear_out_in ? 0 : 1];
}

/* Fills an option that is not set; sizes beyond an int are caught by check_limits. */
static void complete(int *option, size_t found)
{
    if (*option == 0)
        *option = found > INT_MAX ? INT_MAX : (int)found;
}

/* What shapes can tell. Disagreement shows when the shapes are checked against the result. */
static int complete_options(struct loading *l)
{
    struct model_options *o = &l->m->o;
    const struct ckpt *c = l->m->ckpt;
    bool by_position = o->bilinear == BILINEAR_PER_POSITION;
    const size_t *table; /* (K, S) of the init tensor */
    size_t width;        /* of the map's output: H or K*H */

    if (expect_dims(l, c, l->items, 2) == -1 ||
        expect_dims(l, c, l->map, by_position ? 4 : 2) == -1 ||
        (l->projection != NULL && expect_dims(l, c, l->projection, 2) == -1))
        return -1;
    width = by_position ? l->map->shape[2] : out_of(l, l->map);
    complete(&o->item_dim, l->items->shape[1]);
    if (is_shared(l->m))
        complete(&o->capsule_dim, width);
    complete(&o->capsule_dim,
             l->projection != NULL ? in_of(l, l->projection) : (size_t)o->item_dim);
    if (by_position)
        complete(&o->max_history, l->map->shape[1]);
    if (!is_shared(l->m)) {
        complete(&o->interests, width / (size_t)o->capsule_dim);
        complete(&o->interests, 1); /* width < H: the shape check will say so */
    }
    if (l->init != NULL && l->init->n_dims >= 2) {
        table = l->init->shape + l->init->n_dims - 2;
        complete(&o->interests, table[0]);
        complete(&o->max_history, table[1]);
    }
    return 0;
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

static int check_linear(struct loading *l, const struct tensor *t, size_t in, size_t out,
                        const char *in_out, const char *out_in)
{
    bool turned = l->names->linear_out_in;
    const size_t shape[2] = {turned ? out : in, turned ? in : out};

    return expect_shape(l, l->m->ckpt, t, 2, shape, turned ? out_in : in_out);
}

static int check_map(struct loading *l)
{
    const struct model *m = l->m;
    const struct ckpt *c = m->ckpt;
    size_t dim = (size_t)m->o.item_dim, width = m->u_width;
    int result;

    if (m->o.bilinear == BILINEAR_PER_POSITION) {
        const size_t shape[4] = {1, (size_t)m->o.max_history, width, dim};

        return expect_shape(l, c, l->map, 4, shape,
                            "1, max_history, interests * capsule_dim, item_dim");
    }
    if (m->o.bilinear == BILINEAR_PER_INTEREST) {
        result = check_linear(l, l->map, dim, width, "item_dim, interests * capsule_dim",
                              "interests * capsule_dim, item_dim");
    } else {
        width = (size_t)m->o.capsule_dim;
        result =
            check_linear(l, l->map, dim, width, "item_dim, capsule_dim", "capsule_dim, item_dim");
    }
    if (result == 0 && l->bias != NULL)
        result = expect_shape(l, c, l->bias, 1, &width, "the width of the bilinear map");
    return result;
}

static int check_init(struct loading *l)
{
    const struct model_options *o = &l->m->o;
    const size_t shape[3] = {1, (size_t)o->interests, (size_t)o->max_history};

    if (l->init == NULL)
        return 0;
    if (l->init->n_dims == 3)
        return expect_shape(l, l->init_ckpt, l->init, 3, shape, "1, interests, max_history");
    return expect_shape(l, l->init_ckpt, l->init, 2, shape + 1, "interests, max_history");
}

/* The projection may lead to another dimension; in the end interests and items agree. */
static int check_projection(struct loading *l)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.item_dim;

    m->out_dim = (size_t)m->o.capsule_dim;
    if (l->projection != NULL) {
        m->out_dim = dim;
        if (check_linear(l, l->projection, (size_t)m->o.capsule_dim, dim, "capsule_dim, item_dim",
                         "item_dim, capsule_dim") == -1)
            return -1;
        if (l->projection_bias != NULL)
            return expect_shape(l, m->ckpt, l->projection_bias, 1, &dim, "item_dim");
    } else if (m->out_dim != dim) {
        return err_set(l->err, ERR_FORMAT,
                       "%s: interests have %zu dimensions and item vectors %zu, so neither can be "
                       "scored against the other (capsule_dim and item_dim must be equal)",
                       ckpt_name(m->ckpt), m->out_dim, dim);
    }
    return 0;
}

static int check_shapes(struct loading *l)
{
    struct model *m = l->m;
    const size_t items[2] = {l->items->shape[0], (size_t)m->o.item_dim};
    size_t dim = (size_t)m->o.capsule_dim, interests = (size_t)m->o.interests;

    m->rows = l->items->shape[0];
    m->u_step = m->o.bilinear == BILINEAR_SHARED ? 0 : dim;
    m->u_width = m->o.bilinear == BILINEAR_SHARED ? dim : interests * dim;
    m->stride = ((size_t)m->o.max_history + MODEL_BLOCK - 1) / MODEL_BLOCK * MODEL_BLOCK;
    if (expect_shape(l, m->ckpt, l->items, 2, items, "rows, item_dim") == -1 ||
        check_map(l) == -1 || check_init(l) == -1)
        return -1;
    return check_projection(l);
}

/* ---- what does not depend on the user --------------------------------------------- */

static int load_logits(struct loading *l)
{
    struct model *m = l->m;
    size_t slots = (size_t)m->o.max_history;
    const float *values;
    float *copy;

    m->logits = allot(l, (size_t)m->o.interests, m->stride);
    if (m->logits == NULL)
        return -1;
    memset(m->logits, 0, (size_t)m->o.interests * m->stride * sizeof(float));
    if (l->init == NULL) {
        logits_generate(m->logits, m->stride, &m->o);
        return 0;
    }
    values = tensor_f32(l->init_ckpt, l->init, &copy, l->err);
    if (values == NULL)
        return -1;
    for (size_t k = 0; k < (size_t)m->o.interests; k++)
        memcpy(m->logits + k * m->stride, values + k * slots, slots * sizeof(float));
    free(copy);
    return 0;
}

/* A tensor for as long as the model lives: a view, or a copy that the model owns. */
static const float *keep_tensor(struct loading *l, const struct tensor *t, float **copy)
{
    const float *values = tensor_f32(l->m->ckpt, t, copy, l->err);

    adopt(l->m, *copy, t->count);
    return values;
}

/* (n, m) to (m, n) */
static void transpose(float *out, const float *in, size_t n, size_t m)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            out[j * n + i] = in[i * m + j];
}

/* A linear layer's weights as (in, out), whichever way they are stored. *owned is freed by the
 * caller. */
static const float *linear_weights(struct loading *l, const struct tensor *t, float **owned)
{
    const float *values = tensor_f32(l->m->ckpt, t, owned, l->err);
    float *turned;

    if (values == NULL || !l->names->linear_out_in)
        return values;
    turned = mem_try_aligned(t->count, sizeof *turned);
    if (turned == NULL)
        err_set(l->err, ERR_NOMEM, "%s: no memory for tensor %s", ckpt_name(l->m->ckpt), t->name);
    else
        transpose(turned, values, t->shape[0], t->shape[1]);
    free(*owned);
    *owned = turned;
    return turned;
}

void model_interleave(const struct model *m, float *out, const float *h)
{
    size_t interests = (size_t)m->o.interests;

    for (size_t i = 0; i < m->u_width; i++)
        out[i] = h[i / interests];
}

/* What a padded slot's u is when the map depends on the item alone. */
static int load_pad(struct loading *l, const float *bias)
{
    struct model *m = l->m;
    const float *source = m->o.padding_vector == PADDING_LIVE ? m->projected : bias;

    m->pad_u = allot(l, 1, m->u_width);
    if (m->pad_u == NULL)
        return -1;
    if (source == NULL)
        memset(m->pad_u, 0, m->u_width * sizeof(float));
    else if (m->o.bilinear == BILINEAR_SHARED_INTERLEAVED)
        model_interleave(m, m->pad_u, source);
    else
        memcpy(m->pad_u, source, m->u_width * sizeof(float));
    return 0;
}

/* The map depends on the item alone: all items once, requests only look up. */
static int project_items(struct loading *l)
{
    struct model *m = l->m;
    size_t dim = (size_t)m->o.item_dim, width = out_of(l, l->map);
    float *weights_copy = NULL, *bias_copy = NULL;
    const float *weights = linear_weights(l, l->map, &weights_copy), *bias = NULL;
    int result = -1;

    if (weights == NULL)
        goto out;
    if (l->bias != NULL && (bias = tensor_f32(m->ckpt, l->bias, &bias_copy, l->err)) == NULL)
        goto out;
    m->item_width = width;
    m->projected = allot(l, m->rows, width);
    if (m->projected == NULL)
        goto out;
    for (size_t r = 0; r < m->rows; r += PROJECT_ROWS) {
        size_t n = m->rows - r < PROJECT_ROWS ? m->rows - r : PROJECT_ROWS;

        vec_affine(m->projected + r * width, width, m->items + r * dim, dim, n, weights, bias, dim,
                   width);
    }
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

            transpose(m->positions + at, values + at, width, dim);
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
    m->positions = allot(l, slots * dim, width);
    if (m->positions != NULL)
        pack_positions(m, values);
    free(copy);
    m->pad_u = m->positions == NULL ? NULL : allot(l, slots, width);
    if (m->pad_u == NULL)
        return -1;
    memset(m->pad_u, 0, slots * width * sizeof(float));
    if (m->o.padding_vector == PADDING_LIVE)
        for (size_t s = 0; s < slots; s++)
            model_map_position(m, s, m->pad_u + s * width, width, m->items, 1);
    return 0;
}

static int load_projection(struct loading *l)
{
    struct model *m = l->m;
    float *copy = NULL;

    if (l->projection == NULL)
        return 0;
    m->projection = linear_weights(l, l->projection, &copy);
    adopt(m, copy, l->projection->count);
    if (m->projection == NULL)
        return -1;
    if (l->projection_bias == NULL)
        return 0;
    m->projection_bias = keep_tensor(l, l->projection_bias, &copy);
    return m->projection_bias == NULL ? -1 : 0;
}

/* The last step: afterwards only per_position still reads the raw item vectors. */
static int load_vectors(struct loading *l)
{
    struct model *m = l->m;
    float *normalised = NULL;

    m->vectors = m->items;
    if (m->positions == NULL) {
        m->items = NULL;
        normalised = l->items_copy; /* in place */
    }
    if (!m->o.normalize_item)
        return 0;
    if (normalised == NULL)
        normalised = allot(l, m->rows, m->out_dim);
    if (normalised == NULL)
        return -1;
    for (size_t r = 0; r < m->rows; r++)
        vec_normalise(normalised + r * m->out_dim, m->vectors + r * m->out_dim, m->out_dim,
                      NORM_FLOOR);
    m->vectors = normalised;
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

/* ---- opening ------------------------------------------------------------------------ */

/* With one u for all interests, only the logits tell the interests apart. */
static void warn_if_identical(const struct model *m)
{
    if (m->o.bilinear != BILINEAR_SHARED || m->o.interests == 1)
        return;
    for (size_t k = 1; k < (size_t)m->o.interests; k++)
        if (memcmp(m->logits, m->logits + k * m->stride, m->stride * sizeof(float)) != 0)
            return;
    LOG_WARN("model_interests_identical",
             "file=%s variant=%s: a shared bilinear map and the same initial logits for every "
             "interest make all %d interests equal",
             ckpt_name(m->ckpt), m->o.variant, m->o.interests);
}

static int load(struct loading *l, const char *dir)
{
    struct model *m = l->m;

    l->names = variant_codebase(m->o.variant, l->err);
    if (l->names == NULL || check_options(&m->o, l->names, l->err) == -1 ||
        find_tensors(l, dir) == -1 || complete_options(l) == -1 || check_limits(l) == -1 ||
        check_shapes(l) == -1 || load_logits(l) == -1)
        return -1;
    m->items = keep_tensor(l, l->items, &l->items_copy);
    if (m->items == NULL)
        return -1;
    if (m->o.bilinear == BILINEAR_PER_POSITION ? load_positions(l) == -1 : project_items(l) == -1)
        return -1;
    if (load_projection(l) == -1 || load_vectors(l) == -1)
        return -1;
    choose_pads(m);
    warn_if_identical(m);
    return 0;
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
    ckpt_free(l.init_file);
    if (result == -1) {
        model_free(l.m);
        return NULL;
    }
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
