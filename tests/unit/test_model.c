/* test_model.c - interest vectors against golden vectors, against a naive twin in double precision,
 * and against themselves: the same bits in any batch and on any machine. Models are written into
 * memory by the tests; see tests/golden/model.py for where the golden vectors come from. */
#include "recalld/model.h"

#include "../../src/model/model_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/model.txt"
#define BITS_OF_A_HUNDRED_MODELS 0x53cd74c4b66616f4u

/* ---- small models in memory ------------------------------------------------------------ */

#define MAX_TENSORS 8

struct draft {
    struct ckpt_writer_tensor t[MAX_TENSORS];
    size_t n;
};

static void put(struct draft *d, const char *name, const float *data, int n_dims, size_t a,
                size_t b, size_t c, size_t e)
{
    assert_true(d->n < MAX_TENSORS);
    d->t[d->n++] = (struct ckpt_writer_tensor){name, n_dims, {a, b, c, e}, data};
}

struct opened {
    struct buf bytes;
    struct ckpt *c;
    struct model *m; /* NULL: err says why */
    struct err err;
};

/* `options`: pairs key=value with blanks between, `variant` first. */
static int read_options(struct model_options *o, const char *options, struct err *err)
{
    char *copy = xstrdup(options), *rest = copy, *pair;
    int result = 0;

    memset(o, 0, sizeof *o);
    while (result == 0 && (pair = strsep(&rest, " ")) != NULL) {
        char *value = strchr(pair, '=');

        if (value == NULL)
            continue;
        *value++ = '\0';
        result = model_options_set(o, pair, value, err);
    }
    free(copy);
    return result;
}

static struct opened try_open(const struct draft *d, const char *options)
{
    struct opened f = {.err = ERR_INIT};
    struct model_options o;

    ckpt_encode(&f.bytes, d->t, d->n, NULL);
    f.c = ckpt_open_mem("w", f.bytes.p, f.bytes.len, &f.err);
    assert_non_null(f.c);
    if (read_options(&o, options, &f.err) == 0)
        f.m = model_open(f.c, &o, NULL, &f.err);
    assert_int_equal(f.m == NULL, f.err.code != ERR_NONE);
    return f;
}

static struct opened open_draft(const struct draft *d, const char *options)
{
    struct opened f = try_open(d, options);

    assert_string_equal(f.err.text, "");
    return f;
}

static void close_draft(struct opened *f)
{
    model_free(f->m);
    ckpt_free(f->c);
    buf_clear(&f->bytes);
}

static void assert_refused(const struct draft *d, const char *options, enum err_code code,
                           const char *text)
{
    struct opened f = try_open(d, options);

    assert_string_equal(f.err.text, text);
    assert_int_equal(f.err.code, code);
    close_draft(&f);
}

static int run_one(const struct model *m, const uint32_t *rows, size_t n, float *interests,
                   float *weights)
{
    struct model_scratch *s = model_scratch_new();
    struct model_input in = {
        .rows = rows, .n_rows = n, .dynamic = -1, .interests = interests, .weights = weights};

    model_interests(m, s, &in, 1);
    model_scratch_free(s);
    return in.live;
}

/* ---- inputs of the golden vectors ------------------------------------------------------ */

enum { S = 6, D = 4, K = 3, ROWS = 9 };

static const uint32_t history[4] = {3, 5, 2, 8};
static float M[ROWS * D], b0[K * S], W0[D * D], W0_turned[D * D], bias[D], Wp[S * K * D * D];
static float P[D * D], p0[D], Ws[D * D];

static void g(float *out, size_t n, uint32_t seed, double scale)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t h = (uint32_t)i * 2654435761u + seed * 2246822519u + 374761393u;

        h ^= h >> 15;
        h *= 2246822519u;
        h ^= h >> 13;
        out[i] = (float)(scale * (h / 4294967296.0 - 0.5));
    }
}

static void turn(float *out, const float *in, size_t n, size_t m)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < m; j++)
            out[j * n + i] = in[i * m + j];
}

static int make_inputs(void **state)
{
    (void)state;
    g(M, ROWS * D, 1, 2);
    g(b0, K * S, 2, 4);
    g(W0, D * D, 3, 2);
    g(bias, D, 4, 0.5);
    g(Wp, S * K * D * D, 7, 2);
    g(P, D * D, 8, 2);
    g(p0, D, 9, 0.5);
    g(Ws, D * D, 11, 2);
    turn(W0_turned, W0, D, D);
    return 0;
}

static void generated_inputs_are_those_of_the_golden_vectors(void **state)
{
    (void)state;
    assert_float_equal(M[3 * D], -0.09958079, 1e-7);
    assert_float_equal(M[3 * D + 3], -0.28557378, 1e-7);
    assert_float_equal(b0[0], -0.39131245, 1e-7);
    assert_float_equal(b0[5], -1.3938354, 1e-7);
    assert_float_equal(W0[0], 0.02088564, 1e-7);
    assert_float_equal(W0[3], 0.21986562, 1e-7);
}

/* THUDM's MIND; `map` (D, D), `map_bias` and b0 may be NULL. */
static struct draft thudm_mind(const float *map, const float *map_bias, const float *logits)
{
    struct draft d = {.n = 0};

    put(&d, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule_network/bilinear/dense/kernel", map, 2, D, D, 0, 0);
    if (map_bias != NULL)
        put(&d, "capsule_network/bilinear/dense/bias", map_bias, 1, D, 0, 0, 0);
    if (logits != NULL)
        put(&d, "b0", logits, 2, K, S, 0, 0);
    return d;
}

static struct draft thudm_book(void)
{
    struct draft d = thudm_mind(W0, bias, b0);

    put(&d, "capsule_network/proj/kernel", P, 2, D, D, 0, 0);
    put(&d, "capsule_network/proj/bias", p0, 1, D, 0, 0, 0);
    return d;
}

static struct draft thudm_dr(void)
{
    struct draft d = {.n = 0};

    put(&d, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule_network/bilinear/weights", Wp, 4, 1, S, K * D, D);
    return d;
}

static struct draft datawhale(bool by_position)
{
    struct draft d = {.n = 0};

    put(&d, "item_emb.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule.relu.0.weight", P, 2, D, D, 0, 0);
    put(&d, "b0", b0, 3, 1, K, S, 0);
    if (by_position)
        put(&d, "capsule.w", Wp, 4, 1, S, K * D, D);
    else
        put(&d, "capsule.linear.weight", W0, 2, D, D, 0, 0);
    return d;
}

static struct draft pytorch(bool by_position)
{
    struct draft d = {.n = 0};

    put(&d, "embeddings.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "b0", b0, 2, K, S, 0, 0);
    if (by_position)
        put(&d, "capsule_network.w", Wp, 4, 1, S, K * D, D);
    else
        put(&d, "capsule_network.linear.weight", W0_turned, 2, D, D, 0, 0);
    return d;
}

static struct draft paddlerec(void)
{
    struct draft d = {.n = 0};

    put(&d, "item_emb.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "capsual_layer.routing_logits", b0, 3, 1, K, S, 0);
    put(&d, "capsual_layer.bilinear_mapping_matrix", W0, 2, D, D, 0, 0);
    put(&d, "capsual_layer.relu_layer.weight", P, 2, D, D, 0, 0);
    put(&d, "capsual_layer.relu_layer.bias", p0, 1, D, 0, 0, 0);
    return d;
}

/* ---- golden vectors -------------------------------------------------------------------- */

/* The numbers of the line that begins with `name`; returns how many. */
static size_t golden(const char *name, float *out, size_t max)
{
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;
    char *line, *end;
    size_t n = 0;

    assert_int_equal(file_read(GOLDEN, 1 << 16, &text, &err), 0);
    for (line = (char *)buf_cstr(&text); line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
            break;
    }
    assert_non_null(line);
    line += strlen(name);
    for (; *line != '\n' && n < max; line = end)
        out[n++] = strtof(line, &end);
    assert_int_equal(*line, '\n');
    buf_clear(&text);
    return n;
}

static void check_golden(const char *name, const struct draft *d, const char *options,
                         double tolerance)
{
    struct opened f = open_draft(d, options);
    float got[K * D], expected[K * D];

    assert_int_equal(model_interest_count(f.m), K);
    assert_int_equal(model_dim(f.m), D);
    assert_int_equal(golden(name, expected, K * D), K * D);
    run_one(f.m, history, 4, got, NULL);
    for (size_t i = 0; i < K * D; i++)
        if (!(fabs((double)got[i] - expected[i]) <= tolerance))
            fail_msg("%s[%zu]: %.9g, expected %.9g", name, i, (double)got[i], (double)expected[i]);
    close_draft(&f);
}

#define FOUND "interests=3 max_history=6 "
#define TIGHT 2e-6
#define LOOSE 1e-4 /* logits times 20 */

static void thudm_mind_gives_golden_vectors(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0), book = thudm_book();

    (void)state;
    check_golden("A1", &d, "variant=thudm-mind init=tensor:b0", TIGHT);
    check_golden("A1r", &book, "variant=thudm-mind init=tensor:b0 projection=relu", TIGHT);
}

static void thudm_comirec_dr_gives_golden_vectors(void **state)
{
    struct draft d = thudm_dr();

    (void)state;
    check_golden("A2", &d, "variant=thudm-comirec-dr", TIGHT);
}

static void datawhale_models_give_golden_vectors(void **state)
{
    struct draft dr = datawhale(true), mind = datawhale(false);

    (void)state;
    check_golden("A3", &dr, "variant=datawhale-comirec-dr normalize_user=false", TIGHT);
    check_golden("A5", &mind, "variant=datawhale-mind init=tensor:b0 normalize_user=false", TIGHT);
}

static void pytorch_comirec_models_give_golden_vectors(void **state)
{
    struct draft dr = pytorch(true), mind = pytorch(false);

    (void)state;
    check_golden("A3", &dr, "variant=pytorch-comirec-dr", TIGHT);
    check_golden("A4", &mind, "variant=pytorch-comirec-mind init=tensor:b0", TIGHT);
}

static void paddlerec_models_give_golden_vectors(void **state)
{
    struct draft d = paddlerec();

    (void)state;
    check_golden("A6", &d, "variant=paddlerec-mind", TIGHT);
    check_golden("A7", &d, "variant=paddlerec-mind-2022", TIGHT);
    check_golden("A8", &d, "variant=paddlerec-mind-2021", TIGHT);
}

static void routing_of_other_codebases_gives_golden_vectors(void **state)
{
    struct draft deepmatch = thudm_mind(W0, NULL, b0), easyrec = thudm_mind(Ws, NULL, NULL);
    struct draft torcheasyrec = thudm_mind(Ws, NULL, b0);

    (void)state;
    check_golden("A9", &deepmatch, "variant=thudm-mind init=tensor:b0 padding_vector=live", TIGHT);
    check_golden("A10", &easyrec,
                 "variant=thudm-mind " FOUND "init=easyrec update=replace_scaled mid_activation=l2 "
                 "squash=clamp_square squash_eps=1e-8 squash_power=0.2 logit_scale=20",
                 LOOSE);
    check_golden("A11", &easyrec,
                 "variant=thudm-mind " FOUND "init=easyrec update=replace_scaled mid_activation=l2 "
                 "squash=clamp_square squash_eps=1e-8 dynamic_interests=floor_log2",
                 LOOSE);
    check_golden("A12", &torcheasyrec,
                 "variant=thudm-mind init=tensor:b0 update=probability_add mid_activation=none "
                 "squash=clamp_length squash_eps=1e-7 squash_power=0.2 logit_scale=20 "
                 "dynamic_interests=ceil_log2",
                 LOOSE);
}

/* per_interest with K copies of a shared map is that shared map. */
static void per_interest_with_equal_maps_is_shared(void **state)
{
    struct draft d = {.n = 0};
    float wide[D * K * D], wide_bias[K * D];

    (void)state;
    for (size_t i = 0; i < D; i++)
        for (size_t j = 0; j < K * D; j++)
            wide[i * K * D + j] = W0[i * D + j % D];
    for (size_t j = 0; j < K * D; j++)
        wide_bias[j] = bias[j % D];
    put(&d, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule_network/bilinear/dense/kernel", wide, 2, D, K * D, 0, 0);
    put(&d, "capsule_network/bilinear/dense/bias", wide_bias, 1, K * D, 0, 0, 0);
    put(&d, "b0", b0, 2, K, S, 0, 0);
    check_golden("A1", &d, "variant=thudm-mind bilinear=per_interest init=tensor:b0", TIGHT);
}

/* ---- the twin: section 0 of model-semantics.md, word by word, in double ---------------- */

enum { MAX_S = 40, MAX_K = 8, MAX_DIM = 72, MAX_ROWS = 30 };

struct twin {
    const struct model_options *o; /* completed */
    const float *items;            /* (rows, D) */
    const float *map;              /* (D, H or K*H), or (S, K*H, D) */
    const float *bias;             /* or NULL */
    const float *logits;           /* (K, S) */
    const float *projection;       /* (H, D), or NULL */
    const float *projection_bias;  /* or NULL */
};

static double u[MAX_K][MAX_S][MAX_DIM], b[MAX_K][MAX_S], w[MAX_K][MAX_S], v[MAX_K][MAX_DIM];

static size_t twin_live(const struct model_options *o, size_t length)
{
    double l = length > 0 ? (double)length : 1, k = o->interests;

    switch (o->dynamic_interests) {
    case KDYN_FLOOR_LOG2:
        k = floor(log2(l));
        break;
    case KDYN_CEIL_LOG2:
        k = ceil(log2(l));
        break;
    case KDYN_TRUNC_LN:
        k = trunc(log(l));
        break;
    case KDYN_FLOOR_LOG2_1P:
        k = floor(log2(1 + (double)length));
        break;
    case KDYN_NONE:
        break;
    }
    return (size_t)fmin(fmax(k, 1), o->interests);
}

/* The map's output j for slot s. */
static double twin_map(const struct twin *t, size_t s, const double *e, size_t j, size_t width)
{
    size_t dim = (size_t)t->o->item_dim;
    double sum = t->bias != NULL ? t->bias[j] : 0;

    for (size_t c = 0; c < dim; c++)
        sum += e[c] * (t->o->bilinear == BILINEAR_PER_POSITION ? t->map[(s * width + j) * dim + c]
                                                               : t->map[c * width + j]);
    return sum;
}

static void twin_bilinear(const struct twin *t, size_t s, const double *e)
{
    size_t interests = (size_t)t->o->interests, dim = (size_t)t->o->capsule_dim;

    for (size_t k = 0; k < interests; k++)
        for (size_t j = 0; j < dim; j++)
            switch (t->o->bilinear) {
            case BILINEAR_SHARED:
                u[k][s][j] = twin_map(t, s, e, j, dim);
                break;
            case BILINEAR_SHARED_INTERLEAVED:
                u[k][s][j] = twin_map(t, s, e, (k * dim + j) / interests, dim);
                break;
            case BILINEAR_PER_INTEREST:
            case BILINEAR_PER_POSITION:
                u[k][s][j] = twin_map(t, s, e, k * dim + j, interests * dim);
                break;
            }
}

static void twin_softmax(double *x, size_t n, size_t step)
{
    double most = -INFINITY, sum = 0;

    for (size_t i = 0; i < n; i++)
        most = fmax(most, x[i * step]);
    for (size_t i = 0; i < n; i++)
        sum += x[i * step] = exp(x[i * step] - most);
    for (size_t i = 0; i < n; i++)
        x[i * step] /= sum;
}

static void twin_weigh(const struct model_options *o, enum model_axis axis, const bool *real,
                       size_t live)
{
    size_t interests = (size_t)o->interests, slots = (size_t)o->max_history;
    bool scales = o->logit_scale > 0 && o->update != UPDATE_REPLACE_SCALED;

    for (size_t k = 0; k < interests; k++)
        for (size_t s = 0; s < slots; s++) {
            w[k][s] = scales ? o->logit_scale * b[k][s] : b[k][s];
            if (o->mask == MASK_BEFORE && !real[s])
                w[k][s] = -4294967296.0;
            if (axis == AXIS_INTEREST && k >= live)
                w[k][s] = -INFINITY;
        }
    for (size_t s = 0; axis == AXIS_INTEREST && s < slots; s++)
        twin_softmax(&w[0][s], interests, MAX_S);
    for (size_t k = 0; axis == AXIS_SEQUENCE && k < interests; k++)
        twin_softmax(w[k], slots, 1);
    for (size_t k = 0; k < interests; k++)
        for (size_t s = 0; s < slots; s++)
            if ((o->mask == MASK_AFTER && !real[s]) || k >= live)
                w[k][s] = 0;
}

static double norm_of(const double *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static double twin_factor(const struct model_options *o, enum model_activation a, double norm)
{
    double n = norm * norm, r = fmax(norm, o->squash_eps);

    if (a == ACTIVATION_NONE)
        return 1;
    if (a == ACTIVATION_L2)
        return 1 / sqrt(fmax(n, 1e-12));
    switch (o->squash) {
    case SQUASH_EPS_INSIDE:
        return o->squash_ratio * pow(n / (1 + n), o->squash_power) / sqrt(n + o->squash_eps);
    case SQUASH_CLAMP_SQUARE:
        n = fmax(n, o->squash_eps);
        return o->squash_ratio * pow(n / (1 + n), o->squash_power) / sqrt(n);
    case SQUASH_CLAMP_LENGTH:
        break;
    }
    return o->squash_ratio * pow(r * r / (1 + r * r), o->squash_power) / r;
}

static void twin_update(const struct model_options *o)
{
    size_t slots = (size_t)o->max_history, dim = (size_t)o->capsule_dim;

    for (size_t k = 0; k < (size_t)o->interests; k++) {
        double d[MAX_S], unit[MAX_S], norm;

        for (size_t s = 0; s < slots; s++) {
            d[s] = 0;
            for (size_t j = 0; j < dim; j++)
                d[s] += u[k][s][j] * v[k][j];
            norm = norm_of(u[k][s], dim);
            unit[s] = d[s] / fmax(norm, o->update == UPDATE_REPLACE_SCALED ? 1e-6 : 1e-12);
        }
        norm = fmax(norm_of(d, slots), 1);
        for (size_t s = 0; s < slots; s++)
            switch (o->update) {
            case UPDATE_ADD:
                b[k][s] += d[s];
                break;
            case UPDATE_ADD_CLIPPED:
                b[k][s] += d[s] / norm;
                break;
            case UPDATE_REPLACE_SCALED:
                b[k][s] = o->logit_scale > 0 ? o->logit_scale * unit[s] : d[s];
                break;
            case UPDATE_PROBABILITY_ADD:
                b[k][s] = w[k][s] + unit[s];
                break;
            }
    }
}

static void twin_pass(const struct twin *t, const bool *real, size_t live, int i)
{
    const struct model_options *o = t->o;
    size_t slots = (size_t)o->max_history, dim = (size_t)o->capsule_dim;
    bool last = i == o->iterations - 1;

    twin_weigh(o, o->softmax[i], real, live);
    for (size_t k = 0; k < (size_t)o->interests; k++) {
        double c;

        for (size_t j = 0; j < dim; j++) {
            v[k][j] = 0;
            for (size_t s = 0; s < slots; s++)
                v[k][j] += w[k][s] * u[k][s][j];
        }
        c = twin_factor(o, last ? ACTIVATION_SQUASH : o->mid_activation, norm_of(v[k], dim));
        for (size_t j = 0; j < dim; j++)
            v[k][j] *= c;
    }
    if (!last)
        twin_update(o);
}

static void twin_finish(const struct twin *t, size_t k, bool is_live, double *out)
{
    size_t dim = (size_t)t->o->capsule_dim, n = (size_t)t->o->item_dim;
    double norm;

    for (size_t j = 0; j < n; j++) {
        if (t->projection == NULL) {
            out[j] = v[k][j];
            continue;
        }
        out[j] = t->projection_bias != NULL ? t->projection_bias[j] : 0;
        for (size_t c = 0; c < dim; c++)
            out[j] += v[k][c] * t->projection[c * n + j];
        out[j] = fmax(out[j], 0);
    }
    norm = fmax(norm_of(out, n), 1e-12);
    for (size_t j = 0; j < n; j++) {
        if (t->o->normalize_user)
            out[j] /= norm;
        if (!is_live)
            out[j] = 0;
    }
}

/* (K, D) interests; w keeps the weights by slot. Returns K'. */
static size_t twin_interests(const struct twin *t, const uint32_t *rows, size_t n_rows, double *out)
{
    const struct model_options *o = t->o;
    size_t slots = (size_t)o->max_history, n = n_rows < slots ? n_rows : slots, live;
    size_t first = o->truncate == TRUNCATE_LAST ? n_rows - n : 0, length = 0;
    size_t dim = (size_t)o->item_dim;
    bool real[MAX_S];

    for (size_t s = 0; s < slots; s++) {
        size_t at = o->history_order == ORDER_OLDEST_FIRST ? first + s : first + n - 1 - s;
        uint32_t row = s < n ? rows[at] : 0;
        double e[MAX_DIM];

        real[s] = s < n && (o->padding_by == PADDING_BY_LENGTH || row != 0);
        length += real[s];
        for (size_t c = 0; c < dim; c++)
            e[c] = real[s] || o->padding_vector == PADDING_LIVE ? t->items[row * dim + c] : 0;
        twin_bilinear(t, s, e);
        for (size_t k = 0; k < (size_t)o->interests; k++)
            b[k][s] = t->logits != NULL ? t->logits[k * slots + s] : 0;
    }
    live = twin_live(o, length);
    for (int i = 0; i < o->iterations; i++)
        twin_pass(t, real, live, i);
    for (size_t k = 0; k < (size_t)o->interests; k++)
        twin_finish(t, k, k < live, out + k * dim);
    for (size_t s = 0; s < slots; s++) /* pads are not reported */
        for (size_t k = 0; k < (size_t)o->interests && !real[s]; k++)
            w[k][s] = 0;
    return live;
}

/* ---- random models --------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t random_u64(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 20;
}

static size_t below(size_t n)
{
    return (size_t)(random_u64() % n);
}

static void random_floats(float *out, size_t n, double scale)
{
    for (size_t i = 0; i < n; i++)
        out[i] = (float)(scale * ((double)below(2000001) / 1e6 - 1));
}

static const char *pick(const char *const *words)
{
    size_t n = 0;

    while (words[n] != NULL)
        n++;
    return words[below(n)];
}

static const struct names {
    const char *variant, *items, *linear, *linear_bias, *per_position, *projection,
        *projection_bias;
    bool out_in;
    bool three_passes;
} codebases[] = {
    {"thudm-mind", "mid_embedding_var", "capsule_network/bilinear/dense/kernel",
     "capsule_network/bilinear/dense/bias", "capsule_network/bilinear/weights",
     "capsule_network/proj/kernel", "capsule_network/proj/bias", false, true},
    {"pytorch-comirec-mind", "embeddings.weight", "capsule_network.linear.weight",
     "capsule_network.linear.bias", "capsule_network.w", "capsule_network.relu.0.weight",
     "capsule_network.relu.0.bias", true, true},
    {"paddlerec-mind", "item_emb.weight", "capsual_layer.bilinear_mapping_matrix", NULL, NULL,
     "capsual_layer.relu_layer.weight", "capsual_layer.relu_layer.bias", false, false},
};

/* A random model: its tensors, and the same for the twin, which knows no [out, in]. */
static struct random_model {
    float items[MAX_ROWS * MAX_DIM], logits[MAX_K * MAX_S];
    float map[MAX_S * MAX_K * MAX_DIM * MAX_DIM], turned_map[MAX_K * MAX_DIM * MAX_DIM];
    float map_bias[MAX_K * MAX_DIM];
    float projection[MAX_DIM * MAX_DIM], turned_projection[MAX_DIM * MAX_DIM];
    float projection_bias[MAX_DIM];
    size_t rows;
    struct draft draft;
    struct twin twin;
    char options[1024];
} rm;

static void put_linear(const struct names *names, const char *name, const float *values,
                       float *turned, size_t in, size_t out)
{
    if (!names->out_in) {
        put(&rm.draft, name, values, 2, in, out, 0, 0);
        return;
    }
    turn(turned, values, in, out);
    put(&rm.draft, name, turned, 2, out, in, 0, 0);
}

static void put_map(const struct names *names, const char *bilinear, size_t k, size_t s, size_t d,
                    size_t h)
{
    size_t width = strncmp(bilinear, "shared", 6) == 0 ? h : k * h;

    if (strcmp(bilinear, "per_position") == 0) {
        random_floats(rm.map, s * width * d, 1);
        put(&rm.draft, names->per_position, rm.map, 4, 1, s, width, d);
        return;
    }
    random_floats(rm.map, d * width, 1);
    put_linear(names, names->linear, rm.map, rm.turned_map, d, width);
    if (names->linear_bias != NULL && below(2) == 0) {
        random_floats(rm.map_bias, width, 0.5);
        rm.twin.bias = rm.map_bias;
        put(&rm.draft, names->linear_bias, rm.map_bias, 1, width, 0, 0, 0);
    }
}

static void put_projection(const struct names *names, size_t h, size_t d)
{
    random_floats(rm.projection, h * d, 1);
    rm.twin.projection = rm.projection;
    put_linear(names, names->projection, rm.projection, rm.turned_projection, h, d);
    if (below(2) == 0) {
        random_floats(rm.projection_bias, d, 0.5);
        rm.twin.projection_bias = rm.projection_bias;
        put(&rm.draft, names->projection_bias, rm.projection_bias, 1, d, 0, 0, 0);
    }
}

static void random_softmax(struct buf *o, int passes)
{
    static const char *const axis_words[] = {"interest", "sequence", NULL};

    buf_puts(o, " softmax=");
    if (below(2) == 0) {
        buf_puts(o, pick(axis_words));
        return;
    }
    for (int i = 0; i < passes; i++)
        buf_printf(o, "%c\"%s\"", i == 0 ? '[' : ',', pick(axis_words));
    buf_putc(o, ']');
}

/* What no tensor depends on. */
static void random_options(struct buf *o)
{
    static const struct {
        const char *key;
        const char *values[8]; /* NULL ends them */
    } choices[] = {
        {"mask", {"before", "after"}},
        {"padding_vector", {"zero", "live"}},
        {"update", {"add", "add_clipped", "replace_scaled", "probability_add"}},
        {"mid_activation", {"squash", "l2", "none"}},
        {"squash", {"eps_inside", "clamp_square", "clamp_length"}},
        {"squash_eps", {"1e-9", "1e-8", "1e-3"}},
        {"squash_power", {"1", "0.2", "0.5", "2"}},
        {"squash_ratio", {"1", "1.5"}},
        {"logit_scale", {"0", "1", "3"}},
        {"normalize_user", {"false", "true"}},
        {"normalize_item", {"false", "true"}},
        {"dynamic_interests",
         {"none", "none", "floor_log2", "ceil_log2", "trunc_ln", "floor_log2_1p"}},
        {"history_order", {"oldest_first", "newest_first"}},
        {"truncate", {"last", "first"}},
        {"padding_by", {"length", "id"}},
    };

    for (size_t i = 0; i < ARRAY_LEN(choices); i++)
        buf_printf(o, " %s=%s", choices[i].key, pick(choices[i].values));
}

static void draw_model(uint64_t seed)
{
    static const char *const bilinear_words[] = {"shared", "shared_interleaved", "per_interest",
                                                 "per_position", NULL};
    const struct names *names;
    const char *bilinear;
    size_t k, s, d, h;
    int passes;
    struct buf o = BUF_INIT;

    random_state = seed * 0x9e3779b97f4a7c15u;
    names = &codebases[below(ARRAY_LEN(codebases))];
    do
        bilinear = pick(bilinear_words);
    while (names->per_position == NULL && strcmp(bilinear, "per_position") == 0);
    k = 1 + below(MAX_K);
    s = 1 + below(below(2) == 0 ? 8 : MAX_S);
    d = 1 + below(below(12) == 0 ? MAX_DIM : 24); /* the large ones take the twin's time */
    h = below(2) == 0 ? d : 1 + below(below(6) == 0 ? MAX_DIM : 24);
    passes = names->three_passes ? 3 : 1 + (int)below(5);
    rm.rows = 2 + below(MAX_ROWS - 1);

    rm.draft.n = 0;
    memset(&rm.twin, 0, sizeof rm.twin);
    rm.twin.items = rm.items;
    rm.twin.map = rm.map;
    random_floats(rm.items, rm.rows * d, 1);
    put(&rm.draft, names->items, rm.items, 2, rm.rows, d, 0, 0);
    buf_printf(&o,
               "variant=%s bilinear=%s interests=%zu max_history=%zu capsule_dim=%zu "
               "iterations=%d",
               names->variant, bilinear, k, s, h, passes);
    put_map(names, bilinear, k, s, d, h);
    if (below(4) > 0) {
        random_floats(rm.logits, k * s, 2);
        rm.twin.logits = rm.logits;
        put(&rm.draft, "b0", rm.logits, 3, 1, k, s, 0);
    }
    buf_printf(&o, " init=%s", rm.twin.logits != NULL ? "tensor:b0" : "zeros");
    if (h != d || below(3) == 0) {
        put_projection(names, h, d);
        buf_puts(&o, " projection=relu");
    } else {
        buf_puts(&o, " projection=none");
    }
    random_softmax(&o, passes);
    random_options(&o);
    snprintf(rm.options, sizeof rm.options, "%s", buf_cstr(&o));
    buf_clear(&o);
}

enum { USERS = 24 }; /* more than MODEL_BATCH */

static struct user {
    uint32_t rows[2 * MAX_S];
    float interests[MAX_K * MAX_DIM], weights[MAX_K * MAX_S];
} users[USERS];

/* Lengths 0, 1, S-1, S, S+1, 2 S and others; rows repeat, and row 0 occurs. */
static void draw_users(const struct model *m, struct model_input *in)
{
    size_t slots = (size_t)model_options(m)->max_history;
    const size_t lengths[] = {0, 1, slots - 1, slots, slots + 1, 2 * slots};

    for (size_t i = 0; i < USERS; i++) {
        size_t n = i < ARRAY_LEN(lengths) ? lengths[i] : below(slots + 2);

        for (size_t r = 0; r < n; r++)
            users[i].rows[r] = (uint32_t)(i % 5 == 4 ? 0 : below(model_rows(m)));
        in[i] = (struct model_input){.rows = users[i].rows,
                                     .n_rows = n,
                                     .dynamic = below(3) == 0 ? (int)below(5) : -1,
                                     .interests = users[i].interests,
                                     .weights = users[i].weights};
    }
}

/* Large logits make a softmax of small differences: there an error of 1e-7 grows. */
static double tolerance(const struct model_options *o)
{
    bool grows = o->mid_activation == ACTIVATION_NONE || o->update == UPDATE_REPLACE_SCALED ||
                 o->logit_scale > 1;

    return grows ? 1e-4 : 1e-5;
}

static void compare_with_twin(const struct model *m, const struct model_input *in, uint64_t seed)
{
    struct model_options o = *model_options(m);
    size_t interests = (size_t)o.interests, dim = (size_t)o.item_dim, live;
    double expected[MAX_K * MAX_DIM];

    if (in->dynamic >= 0)
        o.dynamic_interests = (enum model_dynamic)in->dynamic;
    rm.twin.o = &o;
    live = twin_interests(&rm.twin, in->rows, in->n_rows, expected);
    assert_int_equal(in->live, live);
    assert_int_equal(in->used,
                     in->n_rows < (size_t)o.max_history ? in->n_rows : (size_t)o.max_history);
    assert_int_equal(in->first_used, o.truncate == TRUNCATE_LAST ? in->n_rows - in->used : 0);
    for (size_t i = 0; i < interests * dim; i++)
        if (!(fabs(in->interests[i] - expected[i]) <= tolerance(&o) * fmax(1, fabs(expected[i]))))
            fail_msg("model %llu (%s), %zu rows: interest [%zu,%zu] is %.9g, expected %.9g",
                     (unsigned long long)seed, rm.options, in->n_rows, i / dim, i % dim,
                     (double)in->interests[i], expected[i]);
    for (size_t k = 0; k < interests; k++)
        for (size_t r = 0; r < in->used; r++) {
            size_t s = o.history_order == ORDER_OLDEST_FIRST ? r : in->used - 1 - r;

            if (!(fabs(in->weights[k * in->used + r] - w[k][s]) <= tolerance(&o)))
                fail_msg("model %llu (%s), %zu rows: weight [%zu,%zu] is %.9g, expected %.9g",
                         (unsigned long long)seed, rm.options, in->n_rows, k, r,
                         (double)in->weights[k * in->used + r], w[k][s]);
        }
}

/* Alone, without weights, and in the scratch of another batch: the same bits. */
static void compare_with_single(const struct model *m, const struct model_input *in)
{
    struct model_scratch *s = model_scratch_new();
    float interests[MAX_K * MAX_DIM];
    struct model_input one = *in;

    one.interests = interests;
    one.weights = NULL;
    model_interests(m, s, &one, 1);
    assert_int_equal(one.used, in->used);
    assert_int_equal(one.first_used, in->first_used);
    assert_memory_equal(interests, in->interests,
                        (size_t)model_interest_count(m) * (size_t)model_dim(m) * sizeof(float));
    model_scratch_free(s);
}

static void check_random_model(uint64_t seed, struct model_scratch *s)
{
    struct model_input in[USERS];
    struct opened f;

    draw_model(seed);
    f = open_draft(&rm.draft, rm.options);
    draw_users(f.m, in);
    model_interests(f.m, s, in, USERS);
    for (size_t i = 0; i < USERS; i++) {
        compare_with_twin(f.m, &in[i], seed);
        compare_with_single(f.m, &in[i]);
    }
    close_draft(&f);
}

static void log_nothing_below_errors(void)
{
    log_setup(LOG_LEVEL_ERROR, false);
}

static void random_models_agree_with_the_twin_and_batches_with_singles(void **state)
{
    struct model_scratch *s = model_scratch_new();

    (void)state;
    log_nothing_below_errors(); /* zeros and shared: warned of, and meant */
    for (uint64_t seed = 1; seed <= 600; seed++)
        check_random_model(seed, s);
    log_setup(LOG_LEVEL_INFO, false);
    model_scratch_free(s);
}

/* ---- the same bits everywhere ---------------------------------------------------------- */

/* One number stands for all interests of a hundred models. It must never change: not with the
 * compiler, the optimisation, the vector width or the machine. */
static void interests_are_the_same_bits_on_every_machine(void **state)
{
    struct model_scratch *s = model_scratch_new();
    struct model_input in[USERS];
    struct buf all = BUF_INIT;

    (void)state;
    log_nothing_below_errors();
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct opened f;

        draw_model(seed);
        f = open_draft(&rm.draft, rm.options);
        draw_users(f.m, in);
        model_interests(f.m, s, in, USERS);
        for (size_t i = 0; i < USERS; i++)
            buf_put(&all, in[i].interests,
                    (size_t)model_interest_count(f.m) * (size_t)model_dim(f.m) * sizeof(float));
        close_draft(&f);
    }
    log_setup(LOG_LEVEL_INFO, false);
    assert_int_equal(hash_bytes(all.p, all.len), BITS_OF_A_HUNDRED_MODELS);
    buf_clear(&all);
    model_scratch_free(s);
}

/* ---- history --------------------------------------------------------------------------- */

static void the_last_or_the_first_rows_are_used_and_said_to_be(void **state)
{
    static const uint32_t rows[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened last = open_draft(&d, "variant=thudm-mind init=tensor:b0");
    struct opened first = open_draft(&d, "variant=thudm-mind init=tensor:b0 truncate=first");
    struct model_scratch *s = model_scratch_new();
    float got[K * D], expected[K * D], row_weights[K * S];
    struct model_input in = {
        .rows = rows, .n_rows = 8, .dynamic = -1, .interests = got, .weights = row_weights};

    (void)state;
    model_interests(last.m, s, &in, 1);
    assert_int_equal(in.first_used, 2);
    assert_int_equal(in.used, S);
    run_one(last.m, rows + 2, 6, expected, NULL);
    assert_memory_equal(got, expected, sizeof got);
    for (size_t r = 0; r < S; r++) /* softmax over the interests */
        assert_float_equal(row_weights[r] + row_weights[S + r] + row_weights[2 * S + r], 1, 1e-6);

    model_interests(first.m, s, &in, 1);
    assert_int_equal(in.first_used, 0);
    run_one(last.m, rows, 6, expected, NULL);
    assert_memory_equal(got, expected, sizeof got);
    model_scratch_free(s);
    close_draft(&last);
    close_draft(&first);
}

static void newest_first_is_the_reversed_history(void **state)
{
    static const uint32_t rows[4] = {3, 5, 2, 8}, reversed[4] = {8, 2, 5, 3};
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened f = open_draft(&d, "variant=thudm-mind init=tensor:b0");
    struct opened newest =
        open_draft(&d, "variant=thudm-mind init=tensor:b0 history_order=newest_first");
    float got[K * D], expected[K * D];

    (void)state;
    run_one(newest.m, rows, 4, got, NULL);
    run_one(f.m, reversed, 4, expected, NULL);
    assert_memory_equal(got, expected, sizeof got);
    close_draft(&f);
    close_draft(&newest);
}

static void an_empty_history_gives_zeros_or_the_projected_bias(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0), book = thudm_book();
    struct opened f = open_draft(&d, "variant=thudm-mind init=tensor:b0");
    struct opened projected =
        open_draft(&book, "variant=thudm-mind init=tensor:b0 projection=relu");
    static const float zeros[K * D];
    float got[K * D];

    (void)state;
    run_one(f.m, NULL, 0, got, NULL);
    assert_memory_equal(got, zeros, sizeof got);
    run_one(projected.m, NULL, 0, got, NULL);
    for (size_t i = 0; i < K * D; i++)
        assert_float_equal(got[i], fmaxf(p0[i % D], 0), 0);
    close_draft(&f);
    close_draft(&projected);
}

/* model-semantics.md 1.5 to 1.8 */
static void dynamic_interests_follow_the_length_as_each_codebase_does(void **state)
{
    static const struct {
        enum model_dynamic dynamic;
        size_t length;
        int live;
    } cases[] = {
        {KDYN_NONE, 0, 8},           {KDYN_FLOOR_LOG2, 0, 1},    {KDYN_FLOOR_LOG2, 3, 1},
        {KDYN_FLOOR_LOG2, 4, 2},     {KDYN_FLOOR_LOG2, 7, 2},    {KDYN_FLOOR_LOG2, 8, 3},
        {KDYN_FLOOR_LOG2, 1000, 8},  {KDYN_CEIL_LOG2, 0, 1},     {KDYN_CEIL_LOG2, 2, 1},
        {KDYN_CEIL_LOG2, 3, 2},      {KDYN_CEIL_LOG2, 4, 2},     {KDYN_CEIL_LOG2, 5, 3},
        {KDYN_CEIL_LOG2, 8, 3},      {KDYN_CEIL_LOG2, 9, 4},     {KDYN_TRUNC_LN, 0, 1},
        {KDYN_TRUNC_LN, 7, 1},       {KDYN_TRUNC_LN, 8, 2},      {KDYN_TRUNC_LN, 20, 2},
        {KDYN_TRUNC_LN, 21, 3},      {KDYN_TRUNC_LN, 54, 3},     {KDYN_TRUNC_LN, 55, 4},
        {KDYN_TRUNC_LN, 148, 4},     {KDYN_TRUNC_LN, 149, 5},    {KDYN_TRUNC_LN, 403, 5},
        {KDYN_TRUNC_LN, 404, 6},     {KDYN_FLOOR_LOG2_1P, 0, 1}, {KDYN_FLOOR_LOG2_1P, 2, 1},
        {KDYN_FLOOR_LOG2_1P, 3, 2},  {KDYN_FLOOR_LOG2_1P, 6, 2}, {KDYN_FLOOR_LOG2_1P, 7, 3},
        {KDYN_FLOOR_LOG2_1P, 15, 4},
    };
    struct draft d = thudm_mind(W0, bias, NULL);
    struct opened f = open_draft(&d, "variant=thudm-mind interests=8 max_history=1024");
    struct model_scratch *s = model_scratch_new();
    static uint32_t rows[1024];
    float got[8 * D];

    (void)state;
    for (size_t i = 0; i < 1024; i++)
        rows[i] = 1 + (uint32_t)i % (ROWS - 1);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct model_input in = {
            .rows = rows, .n_rows = cases[i].length, .dynamic = cases[i].dynamic, .interests = got};

        model_interests(f.m, s, &in, 1);
        assert_int_equal(in.live, cases[i].live);
        for (size_t j = (size_t)in.live * D; j < 8 * D; j++)
            assert_true(got[j] == 0);
    }
    model_scratch_free(s);
    close_draft(&f);
}

static void one_scratch_serves_different_models(void **state)
{
    struct draft small = thudm_mind(W0, bias, b0), dr = thudm_dr();
    struct opened a = open_draft(&small, "variant=thudm-mind init=tensor:b0");
    struct opened c = open_draft(&dr, "variant=thudm-comirec-dr");
    struct model_scratch *s = model_scratch_new();
    float got[K * D], expected[K * D];
    struct model_input in = {.rows = history, .n_rows = 4, .dynamic = -1, .interests = got};

    (void)state;
    for (int i = 0; i < 4; i++) {
        const struct model *m = i % 2 == 0 ? a.m : c.m;

        model_interests(m, s, &in, 1);
        run_one(m, history, 4, expected, NULL);
        assert_memory_equal(got, expected, sizeof got);
    }
    model_scratch_free(s);
    close_draft(&a);
    close_draft(&c);
}

/* ---- item vectors ---------------------------------------------------------------------- */

static void plain_item_vectors_are_a_view_into_the_file(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened f = open_draft(&d, "variant=thudm-mind init=tensor:b0");

    (void)state;
    assert_int_equal(model_rows(f.m), ROWS);
    assert_ptr_equal(model_vectors(f.m), ckpt_find(f.c, "mid_embedding_var")->data);
    assert_memory_equal(model_vectors(f.m), M, sizeof M);
    assert_in_range(model_memory(f.m), ROWS * D * sizeof(float), 2000); /* the projected table */
    close_draft(&f);
}

static void normalised_item_vectors_have_length_one_and_zero_stays_zero(void **state)
{
    static float items[ROWS * D];
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened plain = open_draft(&d, "variant=thudm-mind init=tensor:b0"), f;
    float got[K * D], expected[K * D];

    (void)state;
    memcpy(items, M, sizeof items);
    memset(items, 0, D * sizeof *items); /* row 0, not used by the history */
    d.t[0].data = items;
    f = open_draft(&d, "variant=thudm-mind init=tensor:b0 normalize_item=true");
    for (size_t r = 0; r < ROWS; r++) {
        const float *vector = model_vectors(f.m) + r * D;
        float sum = 0;

        for (size_t j = 0; j < D; j++) {
            sum += vector[j] * vector[j];
            assert_true(vector[j] * items[r * D + j] >= 0);
        }
        assert_float_equal(sum, r == 0 ? 0 : 1, 1e-6);
    }
    run_one(f.m, history, 4, got, NULL); /* routing uses the raw ones */
    run_one(plain.m, history, 4, expected, NULL);
    assert_memory_equal(got, expected, sizeof got);
    close_draft(&plain);
    close_draft(&f);
}

/* Items as F16, by hand: the writer has only F32. Here the raw floats are the model's own. */
static void half_precision_items_are_normalised_in_place(void **state)
{
    static const uint16_t items[2 * 2] = {0, 0, 0x4200, 0x4400}; /* 0 0, 3 4 */
    static const float identity[4] = {1, 0, 0, 1};
    struct err err = ERR_INIT;
    struct model_options o;
    struct buf file = BUF_INIT;
    struct model *m;
    struct ckpt *c;
    char header[256];
    size_t len;
    float got[2];

    (void)state;
    snprintf(header, sizeof header,
             "{\"mid_embedding_var\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]},"
             "\"capsule_network/bilinear/dense/kernel\":{\"dtype\":\"F32\",\"shape\":[2,2],"
             "\"data_offsets\":[8,24]}}");
    len = strlen(header);
    for (int i = 0; i < 8; i++)
        buf_putc(&file, (char)(len >> 8 * i & 0xff));
    buf_put(&file, header, len);
    buf_put(&file, items, sizeof items);
    buf_put(&file, identity, sizeof identity);
    c = ckpt_open_mem("half", file.p, file.len, &err);
    assert_int_equal(read_options(&o,
                                  "variant=thudm-mind interests=1 max_history=2 "
                                  "normalize_item=true normalize_user=true",
                                  &err),
                     0);
    m = model_open(c, &o, NULL, &err);
    assert_non_null(m);
    assert_float_equal(model_vectors(m)[2], 0.6, 1e-7);
    assert_float_equal(model_vectors(m)[3], 0.8, 1e-7);
    run_one(m, (const uint32_t[]){1}, 1, got, NULL);
    assert_float_equal(got[0], 0.6, 1e-6);
    assert_float_equal(got[1], 0.8, 1e-6);
    model_free(m);
    ckpt_free(c);
    buf_clear(&file);
}

/* ---- routing tables -------------------------------------------------------------------- */

static void generated_tables_are_the_golden_ones(void **state)
{
    static const char *const names[] = {"easyrec", "normal:1:1", "truncated_normal:7:0.5",
                                        "uniform:18446744073709551615:2"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *options = xasprintf("variant=thudm-mind " FOUND "init=%s", names[i]);
        float expected[K * S], table[K * S];
        struct err err = ERR_INIT;
        struct model_options o;
        bool by_slot = i == 0; /* EasyRec's layout is (S, K) */

        assert_int_equal(read_options(&o, options, &err), 0);
        logits_generate(table, S, &o);
        assert_int_equal(golden(names[i], expected, K * S), K * S);
        for (size_t k = 0; k < K; k++)
            for (size_t s = 0; s < S; s++)
                assert_true(table[k * S + s] == expected[by_slot ? s * K + k : k * S + s]);
        free(options);
    }
}

static void generated_tables_have_the_shape_they_promise(void **state)
{
    enum { N = 64 * 1000 };
    static float table[N];
    struct model_options o = {.interests = 64, .max_history = 1000, .init_seed = 3, .init_std = 2};
    double sum = 0, squares = 0;

    (void)state;
    o.init = INIT_NORMAL;
    logits_generate(table, 1000, &o);
    for (size_t i = 0; i < N; i++) {
        sum += table[i];
        squares += table[i] * table[i];
    }
    assert_float_equal(sum / N, 0, 0.05);
    assert_float_equal(squares / N, 4, 0.1);
    o.init = INIT_TRUNCATED_NORMAL;
    logits_generate(table, 1000, &o);
    for (size_t i = 0; i < N; i++)
        assert_true(table[i] >= -4 && table[i] <= 4);
    o.init = INIT_UNIFORM;
    logits_generate(table, 1000, &o);
    for (size_t i = 0; i < N; i++)
        assert_true(table[i] >= 0 && table[i] < 2);
}

static void logarithm_and_power_agree_with_libm(void **state)
{
    (void)state;
    for (double x = 1e-300; x < 1e300; x *= 1.37) {
        assert_true(fabs(kernel_log(x) - log(x)) <= 4e-16 * fmax(1, fabs(log(x))));
        for (double p = 0.01; p < 100; p *= 3.1)
            if (pow(x, p) < 1e300 && pow(x, p) > 1e-300)
                assert_true(fabs(kernel_pow(x, p) - pow(x, p)) <= 1e-12 * pow(x, p));
    }
    assert_true(kernel_pow(0, 0.2) == 0);
    assert_true(kernel_pow(1, 0.2) == 1);
    assert_true(kernel_log(1) == 0);
}

static void softmax_across_columns_sums_to_one_in_each(void **state)
{
    float x[3 * 32];

    (void)state;
    for (size_t i = 0; i < 3 * 32; i++)
        x[i] = (float)i * (i % 2 ? -3 : 2);
    kernel_softmax_across(x, 32, 3, 17);
    for (size_t j = 0; j < 32; j++)
        assert_float_equal(x[j] + x[32 + j] + x[64 + j], 1, 1e-6);
    assert_true(x[64] > 0.99f && x[1] > 0.99f); /* the largest of 0 64 128 and of -3 -99 -195 */
}

/* A template for mkstemp or mkdtemp; caller frees. */
static char *temporary_name(void)
{
    const char *dir = getenv("TMPDIR");

    return path_join(dir != NULL ? dir : P_tmpdir, "test_model.XXXXXX");
}

/* A directory of its own with one file of routing logits. */
static char *logits_dir(const struct ckpt_writer_tensor *t, size_t n)
{
    char *dir = temporary_name(), *path;
    struct err err = ERR_INIT;

    assert_non_null(mkdtemp(dir));
    path = path_join(dir, "logits.safetensors");
    assert_int_equal(ckpt_write(path, t, n, NULL, &err), 0);
    free(path);
    return dir;
}

static void remove_logits_dir(char *dir)
{
    char *path = path_join(dir, "logits.safetensors");

    unlink(path);
    rmdir(dir);
    free(path);
    free(dir);
}

static struct model *open_with_file(const struct opened *f, const char *dir, struct err *err)
{
    struct model_options o;

    assert_int_equal(read_options(&o, "variant=thudm-mind init=file:logits.safetensors", err), 0);
    return model_open(f->c, &o, dir, err);
}

static void routing_logits_come_from_a_file_beside_the_manifest(void **state)
{
    const struct ckpt_writer_tensor t = {"any name", 3, {1, K, S}, b0};
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened f = open_draft(&d, "variant=thudm-mind init=tensor:b0");
    char *dir = logits_dir(&t, 1);
    struct err err = ERR_INIT;
    struct model *m = open_with_file(&f, dir, &err);
    float got[K * D], expected[K * D];

    (void)state;
    assert_non_null(m);
    assert_int_equal(model_options(m)->max_history, S);
    run_one(m, history, 4, got, NULL);
    run_one(f.m, history, 4, expected, NULL);
    assert_memory_equal(got, expected, sizeof got);
    model_free(m);
    close_draft(&f);
    remove_logits_dir(dir);
}

static void a_file_of_logits_must_be_there_and_have_one_tensor(void **state)
{
    const struct ckpt_writer_tensor t[2] = {{"a", 2, {K, S}, b0}, {"b", 2, {K, S}, b0}};
    struct draft d = thudm_mind(W0, bias, b0);
    struct opened f = open_draft(&d, "variant=thudm-mind init=tensor:b0");
    char *dir = logits_dir(t, 2), *text;
    struct err err = ERR_INIT;

    (void)state;
    assert_null(open_with_file(&f, dir, &err));
    text = xasprintf("%s/logits.safetensors: 2 tensors, a file of routing logits has one", dir);
    assert_string_equal(err.text, text);
    free(text);
    remove_logits_dir(dir);

    err_clear(&err);
    assert_null(open_with_file(&f, "/nonexistent", &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_non_null(strstr(err.text, "init: "));
    assert_non_null(strstr(err.text, "/nonexistent/logits.safetensors"));
    close_draft(&f);
}

/* What `run` writes to standard error. */
static struct buf stderr_of(const struct draft *d, const char *options)
{
    char *path = temporary_name();
    int file = mkstemp(path), keep = dup(STDERR_FILENO);
    struct err err = ERR_INIT;
    struct buf text = BUF_INIT;
    struct opened f;

    fflush(stderr);
    dup2(file, STDERR_FILENO);
    f = open_draft(d, options);
    fflush(stderr);
    dup2(keep, STDERR_FILENO);
    close(keep);
    close(file);
    close_draft(&f);
    assert_int_equal(file_read(path, 1 << 16, &text, &err), 0);
    unlink(path);
    free(path);
    buf_cstr(&text);
    return text;
}

static void interests_that_must_all_be_equal_are_warned_of(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0);
    struct buf equal = stderr_of(&d, "variant=thudm-mind " FOUND "init=zeros");
    struct buf different = stderr_of(&d, "variant=thudm-mind init=tensor:b0");
    struct buf single = stderr_of(&d, "variant=thudm-mind interests=1 max_history=6 init=zeros");

    (void)state;
    assert_non_null(strstr(equal.p, "model_interests_identical"));
    assert_non_null(strstr(equal.p, "file=w"));
    assert_string_equal(different.p, "");
    assert_string_equal(single.p, "");
    buf_clear(&equal);
    buf_clear(&different);
    buf_clear(&single);
}

/* ---- options --------------------------------------------------------------------------- */

static const char *const variants[] = {
    "thudm-mind",           "thudm-comirec-dr",     "thudm-comirec-sa",     "paddlerec-mind",
    "paddlerec-mind-2022",  "paddlerec-mind-2022b", "paddlerec-mind-2021",  "datawhale-mind",
    "datawhale-comirec-dr", "pytorch-comirec-mind", "pytorch-comirec-dr",   "pytorch-comirec-sa",
    "rechub-mind",          "rechub-comirec-dr",    "rechub-comirec-sa",    "easyrec-mind",
    "torcheasyrec-mind",    "deepmatch-mind",       "deepmatch-comirec-sa",
};

static void put_pair(void *arg, const char *key, const char *json)
{
    buf_printf(arg, "%s %s\n", key, json);
}

static void set_pair(void *arg, const char *key, const char *json)
{
    struct err err = ERR_INIT;

    assert_true(model_options_is_key(key));
    assert_int_equal(model_options_set(arg, key, json, &err), 0);
}

static void assert_round_trip(const struct model_options *o)
{
    struct buf before = BUF_INIT, after = BUF_INIT;
    struct model_options copy;

    memset(&copy, 0, sizeof copy);
    model_options_each(o, set_pair, &copy);
    model_options_each(o, put_pair, &before);
    model_options_each(&copy, put_pair, &after);
    assert_string_equal(buf_cstr(&before), buf_cstr(&after));
    assert_int_equal(strncmp(before.p, "variant ", 8), 0);
    buf_clear(&before);
    buf_clear(&after);
}

static void every_key_of_every_variant_survives_printing_and_reading(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        struct err err = ERR_INIT;
        struct model_options o;

        assert_int_equal(model_options_variant(&o, variants[i], &err), 0);
        assert_string_equal(o.variant, variants[i]);
        assert_round_trip(&o);
    }
}

static void random_options_survive_printing_and_reading(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        struct err err = ERR_INIT;
        struct model_options o;

        draw_model(seed);
        assert_int_equal(read_options(&o, rm.options, &err), 0);
        assert_round_trip(&o);
    }
}

struct wanted {
    const char *key;
    struct buf value;
};

static void keep_value(void *arg, const char *key, const char *json)
{
    struct wanted *wanted = arg;

    if (strcmp(key, wanted->key) == 0)
        buf_puts(&wanted->value, json);
}

static void assert_option(const struct model_options *o, const char *key, const char *json)
{
    struct wanted wanted = {key, BUF_INIT};

    model_options_each(o, keep_value, &wanted);
    assert_string_equal(buf_cstr(&wanted.value), json);
    buf_clear(&wanted.value);
}

/* model-semantics.md section 5 */
static void variants_differ_where_the_codebases_do(void **state)
{
    static const struct {
        const char *variant, *key, *json;
    } facts[] = {
        {"thudm-mind", "softmax", "\"interest\""},
        {"thudm-mind", "mask", "\"after\""},
        {"thudm-mind", "init", "\"truncated_normal:1:1\""},
        {"thudm-mind", "squash_eps", "1e-09"},
        {"thudm-mind", "normalize_user", "false"},
        {"thudm-comirec-dr", "bilinear", "\"per_position\""},
        {"thudm-comirec-dr", "init", "\"zeros\""},
        {"paddlerec-mind", "softmax", "[\"sequence\",\"sequence\",\"interest\"]"},
        {"paddlerec-mind", "mask", "\"before\""},
        {"paddlerec-mind", "squash_eps", "1e-08"},
        {"paddlerec-mind", "projection", "\"relu\""},
        {"paddlerec-mind", "init", "\"tensor:capsual_layer.routing_logits\""},
        {"paddlerec-mind-2022", "softmax", "\"interest\""},
        {"paddlerec-mind-2022", "projection", "\"relu\""},
        {"paddlerec-mind-2022b", "update", "\"add_clipped\""},
        {"paddlerec-mind-2022b", "softmax", "\"interest\""},
        {"paddlerec-mind-2022b", "projection", "\"none\""},
        {"paddlerec-mind-2021", "update", "\"add_clipped\""},
        {"paddlerec-mind-2021", "softmax", "\"sequence\""},
        {"datawhale-mind", "bilinear", "\"shared_interleaved\""},
        {"datawhale-mind", "normalize_user", "true"},
        {"datawhale-mind", "normalize_item", "false"},
        {"pytorch-comirec-mind", "softmax", "\"sequence\""},
        {"pytorch-comirec-mind", "bilinear", "\"shared\""},
        {"rechub-mind", "padding_vector", "\"live\""},
        {"rechub-mind", "padding_by", "\"id\""},
        {"rechub-mind", "truncate", "\"first\""},
        {"rechub-mind", "normalize_item", "true"},
        {"easyrec-mind", "init", "\"easyrec\""},
        {"easyrec-mind", "update", "\"replace_scaled\""},
        {"easyrec-mind", "mid_activation", "\"l2\""},
        {"easyrec-mind", "squash", "\"clamp_square\""},
        {"easyrec-mind", "logit_scale", "20"},
        {"easyrec-mind", "dynamic_interests", "\"trunc_ln\""},
        {"torcheasyrec-mind", "update", "\"probability_add\""},
        {"torcheasyrec-mind", "mid_activation", "\"none\""},
        {"torcheasyrec-mind", "squash", "\"clamp_length\""},
        {"torcheasyrec-mind", "dynamic_interests", "\"ceil_log2\""},
        {"deepmatch-mind", "history_order", "\"newest_first\""},
        {"deepmatch-mind", "truncate", "\"last\""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
        struct err err = ERR_INIT;
        struct model_options o;

        assert_int_equal(model_options_variant(&o, facts[i].variant, &err), 0);
        assert_option(&o, facts[i].key, facts[i].json);
        assert_option(&o, "iterations", "3");
    }
}

static void an_unknown_variant_lists_the_names(void **state)
{
    struct err err = ERR_INIT;
    struct buf text = BUF_INIT;
    struct model_options o;

    (void)state;
    buf_puts(&text, "there is no model variant \"mind\"; the variants are");
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        buf_printf(&text, " %s", variants[i]);
    assert_int_equal(model_options_variant(&o, "mind", &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, buf_cstr(&text));
    buf_clear(&text);
}

static void a_variant_resets_what_was_set_before(void **state)
{
    struct err err = ERR_INIT;
    struct model_options o;

    (void)state;
    assert_int_equal(
        read_options(&o, "variant=paddlerec-mind interests=7 variant=thudm-mind", &err), 0);
    assert_option(&o, "interests", "");
    assert_option(&o, "mask", "\"after\"");
}

static void values_are_read_plain_or_as_json(void **state)
{
    static const struct {
        const char *key, *value, *printed_key, *json;
    } cases[] = {
        {"softmax", "sequence", "softmax", "\"sequence\""},
        {"softmax", "\"sequence\"", "softmax", "\"sequence\""},
        {"softmax", "sequence,interest", "softmax", "[\"sequence\",\"interest\"]"},
        {"softmax", "[ \"interest\", \"sequence\" ]", "softmax", "[\"interest\",\"sequence\"]"},
        {"softmax", "[\"interest\"]", "softmax", "[\"interest\"]"},
        {"interests", "12", "interests", "12"},
        {"squash_eps", "1e-6", "squash_eps", "1e-06"},
        {"squash_power", "0.2", "squash_power", "0.2"},
        {"normalize_user", "true", "normalize_user", "true"},
        {"normalize_item", "\"yes\"", "normalize_item", "true"},
        {"relu_layer", "relu", "projection", "\"relu\""},
        {"init", "\"tensor:a \\\"b\\\"/:0\"", "init", "\"tensor:a \\\"b\\\"/:0\""},
        {"init", "file:sub/logits.safetensors", "init", "\"file:sub/logits.safetensors\""},
        {"init", "normal:18446744073709551615:0.1", "init", "\"normal:18446744073709551615:0.1\""},
        {"dynamic_interests", "\"trunc_ln\"", "dynamic_interests", "\"trunc_ln\""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct model_options o;

        assert_int_equal(model_options_variant(&o, "thudm-mind", &err), 0);
        assert_int_equal(model_options_set(&o, cases[i].key, cases[i].value, &err), 0);
        assert_option(&o, cases[i].printed_key, cases[i].json);
    }
}

#define INITS                                                                            \
    "one of zeros, tensor:NAME, file:PATH, normal:SEED:STD, truncated_normal:SEED:STD, " \
    "uniform:SEED:STD, easyrec"

static void bad_values_are_refused_by_key_and_value(void **state)
{
    static const struct {
        const char *key, *value, *allowed;
    } cases[] = {
        {"bilinear", "dense", "shared, shared_interleaved, per_interest or per_position"},
        {"mask", "", "before or after"},
        {"mask", "After", "before or after"},
        {"interests", "0", "a whole number from 1 to 64"},
        {"interests", "65", "a whole number from 1 to 64"},
        {"interests", "4.0", "a whole number from 1 to 64"},
        {"interests", "4x", "a whole number from 1 to 64"},
        {"interests", "99999999999999999999", "a whole number from 1 to 64"},
        {"max_history", "1025", "a whole number from 1 to 1024"},
        {"item_dim", "-4", "a whole number from 1 to 4096"},
        {"iterations", "17", "a whole number from 1 to 16"},
        {"squash_eps", "0", "a number from 1e-30 to 1"},
        {"squash_eps", "nan", "a number from 1e-30 to 1"},
        {"squash_power", "inf", "a number from 0.01 to 100"},
        {"logit_scale", "-1", "a number from 0 to 1e+06"},
        {"normalize_user", "maybe", "true or false"},
        {"softmax", "rows", "interest, sequence or a list of at most 16 of them, one per pass"},
        {"softmax", "[]", "interest, sequence or a list of them"},
        {"init", "random", INITS},
        {"init", "zeros:1", INITS},
        {"init", "tensor:", INITS},
        {"init", "tensor", INITS},
        {"init", "normal:1", INITS},
        {"init", "normal:1:0", INITS},
        {"init", "normal:-1:1", INITS},
        {"init", "normal:1:1:1", INITS},
        {"init", "easyrec:2", INITS},
        {"relu_layer", "yes", "none or relu"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct model_options o, before;
        char *text =
            xasprintf("%s: \"%s\" is not %s", cases[i].key, cases[i].value, cases[i].allowed);

        assert_int_equal(model_options_variant(&o, "thudm-mind", &err), 0);
        before = o;
        assert_int_equal(model_options_set(&o, cases[i].key, cases[i].value, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
        assert_string_equal(err.text, text);
        assert_memory_equal(&o, &before, sizeof o);
        free(text);
    }
}

static void an_unknown_key_is_refused(void **state)
{
    struct err err = ERR_INIT;
    struct model_options o;

    (void)state;
    assert_int_equal(model_options_variant(&o, "thudm-mind", &err), 0);
    assert_int_equal(model_options_set(&o, "interest", "4", &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, "interest: there is no such model option");
    assert_false(model_options_is_key("interest"));
    assert_true(model_options_is_key("relu_layer"));
}

static int options_from(const char *const *meta, struct model_options *o, struct err *err)
{
    struct buf bytes = BUF_INIT;
    struct ckpt *c;
    int n;

    ckpt_encode(&bytes, NULL, 0, meta);
    c = ckpt_open_mem("w", bytes.p, bytes.len, err);
    assert_non_null(c);
    memset(o, 0, sizeof *o);
    n = model_options_ckpt(o, c, err);
    ckpt_free(c);
    buf_clear(&bytes);
    return n;
}

static void metadata_set_options_variant_first(void **state)
{
    static const char *const meta[] = {"interests", "4",       "epoch",      "12", "mask",
                                       "before",    "variant", "thudm-mind", NULL};
    static const char *const bad[] = {"variant", "thudm-mind", "interests", "many", NULL};
    static const char *const none[] = {"format", "pt", NULL};
    struct err err = ERR_INIT;
    struct model_options o;

    (void)state;
    assert_int_equal(options_from(meta, &o, &err), 3);
    assert_string_equal(o.variant, "thudm-mind");
    assert_int_equal(o.interests, 4);
    assert_int_equal(o.mask, MASK_BEFORE);
    assert_int_equal(options_from(none, &o, &err), 0);
    assert_null(o.variant);
    assert_int_equal(options_from(bad, &o, &err), -1);
    assert_string_equal(err.text, "w: metadata: interests: \"many\" is not a whole "
                                  "number from 1 to 64");
}

/* ---- refusing to open ---------------------------------------------------------------- */

static void variants_that_cannot_be_loaded_yet_are_refused_by_name(void **state)
{
    static const struct {
        const char *variant, *why;
    } cases[] = {
        {"thudm-comirec-sa", "self-attention is not implemented"},
        {"pytorch-comirec-sa", "self-attention is not implemented"},
        {"rechub-mind", "its user tower is not implemented"},
        {"rechub-comirec-dr", "its user tower is not implemented"},
        {"rechub-comirec-sa", "self-attention is not implemented"},
        {"easyrec-mind", "its two towers are not implemented"},
        {"torcheasyrec-mind", "its two towers are not implemented"},
        {"deepmatch-mind", "its user tower is not implemented"},
        {"deepmatch-comirec-sa", "self-attention is not implemented"},
    };
    struct draft d = thudm_mind(W0, bias, b0);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *options = xasprintf("variant=%s", cases[i].variant);
        char *text = xasprintf("models of variant %s cannot be loaded yet: %s", cases[i].variant,
                               cases[i].why);

        assert_refused(&d, options, ERR_USAGE, text);
        free(options);
        free(text);
    }
}

static void a_model_without_variant_is_refused(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0);

    (void)state;
    assert_refused(&d, "", ERR_USAGE, "w: no model variant is given, by option or in the metadata");
}

static void missing_tensors_are_named_with_their_role(void **state)
{
    struct draft mind = thudm_mind(W0, bias, b0), nothing = {.n = 0}, items = {.n = 0};

    (void)state;
    put(&items, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    assert_refused(&nothing, "variant=thudm-mind", ERR_FORMAT,
                   "w: no tensor mid_embedding_var, where variant thudm-mind keeps the item "
                   "vectors");
    assert_refused(&items, "variant=thudm-mind", ERR_FORMAT,
                   "w: no tensor capsule_network/bilinear/dense/kernel, where variant thudm-mind "
                   "keeps the weights of the bilinear map");
    assert_refused(&items, "variant=thudm-comirec-dr", ERR_FORMAT,
                   "w: no tensor capsule_network/bilinear/weights, where variant "
                   "thudm-comirec-dr keeps the weights of bilinear per_position");
    assert_refused(&mind, "variant=thudm-mind init=tensor:b0 projection=relu", ERR_FORMAT,
                   "w: no tensor capsule_network/proj/kernel, where variant thudm-mind keeps the "
                   "weights of the projection");
    assert_refused(&mind, "variant=thudm-mind init=tensor:b1", ERR_FORMAT,
                   "w: no tensor b1, which init names");
}

static void a_codebase_without_per_position_says_so(void **state)
{
    struct draft d = paddlerec();

    (void)state;
    assert_refused(&d, "variant=paddlerec-mind bilinear=per_position", ERR_USAGE,
                   "variant paddlerec-mind has no tensor for the weights of bilinear per_position");
}

static void what_no_tensor_tells_must_be_set(void **state)
{
    struct draft d = thudm_mind(W0, bias, NULL);

    (void)state;
    assert_refused(&d, "variant=thudm-mind", ERR_USAGE,
                   "w: no tensor tells interests; set it as an option, in the file's metadata or "
                   "in the manifest's \"model\"");
    assert_refused(&d, "variant=thudm-mind interests=4", ERR_USAGE,
                   "w: no tensor tells max_history; set it as an option, in the file's metadata "
                   "or in the manifest's \"model\"");
}

static void options_are_completed_from_shapes(void **state)
{
    struct draft mind = thudm_mind(W0, bias, b0), dr = thudm_dr();
    struct opened f = open_draft(&mind, "variant=thudm-mind init=tensor:b0");
    struct opened by_position = open_draft(&dr, "variant=thudm-comirec-dr");
    const struct model_options *o = model_options(f.m), *p = model_options(by_position.m);

    (void)state;
    assert_int_equal(o->interests, K);
    assert_int_equal(o->max_history, S);
    assert_int_equal(o->item_dim, D);
    assert_int_equal(o->capsule_dim, D);
    assert_int_equal(p->interests, K);
    assert_int_equal(p->max_history, S);
    assert_int_equal(p->capsule_dim, D);
    close_draft(&f);
    close_draft(&by_position);
}

static void wrong_shapes_are_refused_with_both_shapes(void **state)
{
    static const float zeros[1024];
    static const struct {
        const char *name;
        int n_dims;
        size_t shape[4];
        const char *options, *text;
    } cases[] = {
        {"mid_embedding_var",
         1,
         {ROWS * D},
         "",
         "tensor mid_embedding_var has 1 dimensions, expected 2"},
        {"mid_embedding_var",
         2,
         {ROWS, D + 1},
         "item_dim=4",
         "tensor mid_embedding_var has shape [9,5], expected [9,4] (rows, item_dim)"},
        {"capsule_network/bilinear/dense/kernel",
         2,
         {D + 1, D},
         "",
         "tensor capsule_network/bilinear/dense/kernel has shape [5,4], expected [4,4] (item_dim, "
         "capsule_dim)"},
        {"capsule_network/bilinear/dense/kernel",
         2,
         {D, D + 1},
         "",
         "tensor capsule_network/bilinear/dense/bias has shape [4], expected [5] (the width of the "
         "bilinear map)"},
        {"capsule_network/bilinear/dense/kernel",
         2,
         {D, K * D + 1},
         "bilinear=per_interest",
         "tensor capsule_network/bilinear/dense/kernel has shape [4,13], expected [4,12] "
         "(item_dim, interests * capsule_dim)"},
        {"capsule_network/bilinear/dense/bias",
         1,
         {D + 1},
         "",
         "tensor capsule_network/bilinear/dense/bias has shape [5], expected [4] (the width of the "
         "bilinear map)"},
        {"b0",
         2,
         {K, S},
         "interests=4",
         "tensor b0 has shape [3,6], expected [4,6] (interests, max_history)"},
        {"b0",
         3,
         {1, K, S},
         "max_history=50",
         "tensor b0 has shape [1,3,6], expected [1,3,50] (1, interests, max_history)"},
        {"b0",
         3,
         {2, K, S},
         "",
         "tensor b0 has shape [2,3,6], expected [1,3,6] (1, interests, max_history)"},
        {"b0",
         1,
         {K * S},
         "interests=3 max_history=6",
         "tensor b0 has shape [18], expected [3,6] (interests, max_history)"},
        {"b0", 2, {65, 2}, "", "interests is 65, the limit is 64"},
        {"capsule_network/proj/kernel",
         2,
         {D, D + 1},
         "projection=relu",
         "tensor capsule_network/proj/kernel has shape [4,5], expected [4,4] (capsule_dim, "
         "item_dim)"},
        {"capsule_network/proj/bias",
         1,
         {1},
         "projection=relu",
         "tensor capsule_network/proj/bias has shape [1], expected [4] (item_dim)"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct draft d = thudm_book();
        char *options = xasprintf("variant=thudm-mind init=tensor:b0 %s", cases[i].options);
        char *text = xasprintf("w: %s", cases[i].text);

        for (size_t t = 0; t < d.n; t++)
            if (strcmp(d.t[t].name, cases[i].name) == 0) {
                d.t[t].n_dims = cases[i].n_dims;
                memcpy(d.t[t].shape, cases[i].shape, sizeof cases[i].shape);
                d.t[t].data = zeros;
            }
        assert_refused(&d, options, strstr(cases[i].text, "limit") != NULL ? ERR_LIMIT : ERR_FORMAT,
                       text);
        free(options);
        free(text);
    }
}

static void wrong_shapes_of_per_position_are_refused(void **state)
{
    struct draft d = thudm_dr();

    (void)state;
    assert_refused(&d, "variant=thudm-comirec-dr max_history=5", ERR_FORMAT,
                   "w: tensor capsule_network/bilinear/weights has shape [1,6,12,4], expected "
                   "[1,5,12,4] (1, max_history, interests * capsule_dim, item_dim)");
    assert_refused(&d, "variant=thudm-comirec-dr interests=4", ERR_FORMAT,
                   "w: tensor capsule_network/bilinear/weights has shape [1,6,12,4], expected "
                   "[1,6,16,4] (1, max_history, interests * capsule_dim, item_dim)");
    assert_refused(&d, "variant=thudm-comirec-dr capsule_dim=24", ERR_FORMAT,
                   "w: tensor capsule_network/bilinear/weights has shape [1,6,12,4], expected "
                   "[1,6,24,4] (1, max_history, interests * capsule_dim, item_dim)");
}

static void a_layer_stored_out_in_is_expected_that_way(void **state)
{
    struct draft d = pytorch(false);

    (void)state;
    d.t[2].shape[1] = 2; /* capsule_network.linear.weight: out 4, in 2 */
    assert_refused(&d, "variant=pytorch-comirec-mind init=tensor:b0", ERR_FORMAT,
                   "w: tensor capsule_network.linear.weight has shape [4,2], expected [4,4] "
                   "(capsule_dim, item_dim)");
}

static void interests_that_items_cannot_be_scored_against_are_refused(void **state)
{
    struct draft d = {.n = 0};

    (void)state;
    put(&d, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule_network/bilinear/dense/kernel", W0, 2, D, 2, 0, 0);
    assert_refused(&d, "variant=thudm-mind " FOUND, ERR_FORMAT,
                   "w: interests have 2 dimensions and item vectors 4, so neither can be scored "
                   "against the other (capsule_dim and item_dim must be equal)");
}

static void passes_that_the_codebase_does_not_have_are_refused(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0), p = paddlerec();

    (void)state;
    assert_refused(&d, "variant=thudm-mind init=tensor:b0 iterations=4", ERR_USAGE,
                   "iterations must be 3 for variant thudm-mind, not 4: its code stops updating "
                   "the routing after two passes");
    assert_refused(&p, "variant=paddlerec-mind iterations=4", ERR_USAGE,
                   "softmax lists 3 passes, iterations is 4");
}

static void nan_is_refused_wherever_it_is(void **state)
{
    static const char *const names[] = {"mid_embedding_var",
                                        "capsule_network/bilinear/dense/kernel",
                                        "capsule_network/bilinear/dense/bias",
                                        "b0",
                                        "capsule_network/proj/kernel",
                                        "capsule_network/proj/bias"};
    float bad[ROWS * D] = {0, NAN};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct draft d = thudm_book();
        char *text = xasprintf("w: tensor %s holds NaN at element 1 %s", names[i],
                               strstr(names[i], "bias") != NULL ? "[1]" : "[0,1]");

        for (size_t t = 0; t < d.n; t++)
            if (strcmp(d.t[t].name, names[i]) == 0)
                d.t[t].data = bad;
        assert_refused(&d, "variant=thudm-mind init=tensor:b0 projection=relu", ERR_FORMAT, text);
        free(text);
    }
}

/* Fails the 1st, 2nd, ... allocation of an opening until it succeeds; returns their number. */
static unsigned fail_each_allocation(const struct draft *d, const char *options)
{
    struct opened f = open_draft(d, options);
    struct model_options o = *model_options(f.m);
    struct model *m = NULL;
    unsigned n = 0;

    while (m == NULL) {
        struct err err = ERR_INIT;

        mem_test_fail_at(++n);
        m = model_open(f.c, &o, NULL, &err);
        assert_int_equal(err.code, m == NULL ? ERR_NOMEM : ERR_NONE);
    }
    mem_test_fail_at(0);
    model_free(m);
    close_draft(&f);
    return n - 1;
}

static void running_out_of_memory_is_an_error_with_nothing_leaked(void **state)
{
    struct draft book = thudm_book(), dr = thudm_dr(), mind = pytorch(false);

    (void)state;
    /* logits, projected items, a pad's u, normalised items */
    assert_int_equal(fail_each_allocation(&book,
                                          "variant=thudm-mind init=tensor:b0 projection=relu "
                                          "normalize_item=true"),
                     4);
    /* logits, weights by position, the pads' u */
    assert_int_equal(fail_each_allocation(&dr, "variant=thudm-comirec-dr"), 3);
    /* logits, turned weights, projected items, a pad's u */
    assert_int_equal(fail_each_allocation(&mind, "variant=pytorch-comirec-mind init=tensor:b0"), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generated_inputs_are_those_of_the_golden_vectors),
        cmocka_unit_test(thudm_mind_gives_golden_vectors),
        cmocka_unit_test(thudm_comirec_dr_gives_golden_vectors),
        cmocka_unit_test(datawhale_models_give_golden_vectors),
        cmocka_unit_test(pytorch_comirec_models_give_golden_vectors),
        cmocka_unit_test(paddlerec_models_give_golden_vectors),
        cmocka_unit_test(routing_of_other_codebases_gives_golden_vectors),
        cmocka_unit_test(per_interest_with_equal_maps_is_shared),
        cmocka_unit_test(random_models_agree_with_the_twin_and_batches_with_singles),
        cmocka_unit_test(interests_are_the_same_bits_on_every_machine),
        cmocka_unit_test(the_last_or_the_first_rows_are_used_and_said_to_be),
        cmocka_unit_test(newest_first_is_the_reversed_history),
        cmocka_unit_test(an_empty_history_gives_zeros_or_the_projected_bias),
        cmocka_unit_test(dynamic_interests_follow_the_length_as_each_codebase_does),
        cmocka_unit_test(one_scratch_serves_different_models),
        cmocka_unit_test(plain_item_vectors_are_a_view_into_the_file),
        cmocka_unit_test(normalised_item_vectors_have_length_one_and_zero_stays_zero),
        cmocka_unit_test(half_precision_items_are_normalised_in_place),
        cmocka_unit_test(generated_tables_are_the_golden_ones),
        cmocka_unit_test(generated_tables_have_the_shape_they_promise),
        cmocka_unit_test(logarithm_and_power_agree_with_libm),
        cmocka_unit_test(softmax_across_columns_sums_to_one_in_each),
        cmocka_unit_test(routing_logits_come_from_a_file_beside_the_manifest),
        cmocka_unit_test(a_file_of_logits_must_be_there_and_have_one_tensor),
        cmocka_unit_test(interests_that_must_all_be_equal_are_warned_of),
        cmocka_unit_test(every_key_of_every_variant_survives_printing_and_reading),
        cmocka_unit_test(random_options_survive_printing_and_reading),
        cmocka_unit_test(variants_differ_where_the_codebases_do),
        cmocka_unit_test(an_unknown_variant_lists_the_names),
        cmocka_unit_test(a_variant_resets_what_was_set_before),
        cmocka_unit_test(values_are_read_plain_or_as_json),
        cmocka_unit_test(bad_values_are_refused_by_key_and_value),
        cmocka_unit_test(an_unknown_key_is_refused),
        cmocka_unit_test(metadata_set_options_variant_first),
        cmocka_unit_test(variants_that_cannot_be_loaded_yet_are_refused_by_name),
        cmocka_unit_test(a_model_without_variant_is_refused),
        cmocka_unit_test(missing_tensors_are_named_with_their_role),
        cmocka_unit_test(a_codebase_without_per_position_says_so),
        cmocka_unit_test(what_no_tensor_tells_must_be_set),
        cmocka_unit_test(options_are_completed_from_shapes),
        cmocka_unit_test(wrong_shapes_are_refused_with_both_shapes),
        cmocka_unit_test(wrong_shapes_of_per_position_are_refused),
        cmocka_unit_test(a_layer_stored_out_in_is_expected_that_way),
        cmocka_unit_test(interests_that_items_cannot_be_scored_against_are_refused),
        cmocka_unit_test(passes_that_the_codebase_does_not_have_are_refused),
        cmocka_unit_test(nan_is_refused_wherever_it_is),
        cmocka_unit_test(running_out_of_memory_is_an_error_with_nothing_leaked),
    };

    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
