/* test_model.c - interest vectors against golden vectors, against a naive twin in double precision,
 * and against themselves: the same bits in any batch and on any machine. Models are written into
 * memory by the tests; see tests/golden/model.py for where the golden vectors come from. */
#include "recalld/model.h"

#include "recalld/vec.h"

#include "../../src/model/model_impl.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define GOLDEN "tests/golden/model.txt"
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif
/* Of each variant, where the build is fast. */
#if defined(__OPTIMIZE__) && !defined(SANITIZED)
#define RANDOM_MODELS 2000
#else
#define RANDOM_MODELS 100
#endif
#define BITS_OF_A_HUNDRED_MODELS 0x23b9178cdb6fa0e3u

/* ---- small models in memory ------------------------------------------------------------ */

#define MAX_TENSORS 10

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

enum { S = 6, D = 4, K = 3, ROWS = 9, F = 4 * D };

static const uint32_t history[4] = {3, 5, 2, 8}, newest_first[4] = {8, 2, 5, 3};
static float M[ROWS * D], b0[K * S], W0[D * D], W0_turned[D * D], bias[D], Wp[S * K * D * D];
static float P[D * D], p0[D], Ws[D * D];
static float positions[S * D], W1[D * F], W1_turned[F * D], c1[F], W2[F * K], W2_turned[K * F];
static float c2[K];

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
    g(positions, S * D, 12, 1);
    g(W1, D * F, 21, 1);
    g(W2, F * K, 22, 1);
    g(c1, F, 23, 0.5);
    g(c2, K, 24, 0.5);
    turn(W0_turned, W0, D, D);
    turn(W1_turned, W1, D, F);
    turn(W2_turned, W2, F, K);
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

static struct draft paddlerec(bool projects)
{
    struct draft d = {.n = 0};

    put(&d, "item_emb.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "capsual_layer.routing_logits", b0, 3, 1, K, S, 0);
    put(&d, "capsual_layer.bilinear_mapping_matrix", W0, 2, D, D, 0, 0);
    if (projects) {
        put(&d, "capsual_layer.relu_layer.weight", P, 2, D, D, 0, 0);
        put(&d, "capsual_layer.relu_layer.bias", p0, 1, D, 0, 0, 0);
    }
    return d;
}

static struct draft thudm_sa(void)
{
    struct draft d = {.n = 0};

    put(&d, "mid_embedding_var", M, 2, ROWS, D, 0, 0);
    put(&d, "position_embedding", positions, 3, 1, S, D, 0);
    put(&d, "self_atten/dense/kernel", W1, 2, D, F, 0, 0);
    put(&d, "self_atten/dense/bias", c1, 1, F, 0, 0, 0);
    put(&d, "self_atten/dense_1/kernel", W2, 2, F, K, 0, 0);
    put(&d, "self_atten/dense_1/bias", c2, 1, K, 0, 0, 0);
    return d;
}

static struct draft pytorch_sa(void)
{
    struct draft d = {.n = 0};

    put(&d, "position_embedding", positions, 3, 1, S, D, 0);
    put(&d, "embeddings.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "linear1.0.weight", W1_turned, 2, F, D, 0, 0);
    put(&d, "linear2.weight", W2_turned, 2, K, F, 0, 0);
    return d;
}

/* As a trainer on several GPUs writes it. */
#define RECHUB_ITEMS "module.embedding.embed_dict.movie_id.weight"
static struct draft rechub_items(void)
{
    struct draft d = {.n = 0};

    put(&d, RECHUB_ITEMS, M, 2, ROWS, D, 0, 0);
    put(&d, "module.convert_user_weight", P, 2, D, D, 0, 0);
    return d;
}

static struct draft rechub(bool by_position)
{
    struct draft d = rechub_items();

    put(&d, "module.capsule.relu.0.weight", W0, 2, D, D, 0, 0);
    put(&d, "b0", b0, 2, K, S, 0, 0);
    if (by_position)
        put(&d, "module.capsule.w", Wp, 4, 1, S, K * D, D);
    else
        put(&d, "module.capsule.linear.weight", W0_turned, 2, D, D, 0, 0);
    return d;
}

static struct draft rechub_sa(void)
{
    struct draft d = rechub_items();

    put(&d, "module.multi_interest_sa.W1", W1, 2, D, F, 0, 0);
    put(&d, "module.multi_interest_sa.W2", W2, 2, F, K, 0, 0);
    put(&d, "module.multi_interest_sa.W3", W0, 2, D, D, 0, 0);
    return d;
}

static struct draft easyrec(void)
{
    struct draft d = {.n = 0};

    put(&d, "input_layer/book_id_seq/embedding_weights", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule/S", Ws, 2, D, D, 0, 0);
    return d;
}

static struct draft torcheasyrec(void)
{
    struct draft d = {.n = 0};

    put(&d, "model.user_tower.embedding_group.ec.embeddings.item_emb.weight", M, 2, ROWS, D, 0, 0);
    put(&d, "model.user_tower._capsule_layer.bilinear_matrix", Ws, 2, D, D, 0, 0);
    put(&d, "b0", b0, 2, K, S, 0, 0);
    return d;
}

static struct draft deepmatch(void)
{
    struct draft d = {.n = 0};

    put(&d, "sparse_seq_emb_hist_movie_id/embeddings", M, 2, ROWS, D, 0, 0);
    put(&d, "capsule_layer/S", W0, 2, D, D, 0, 0);
    put(&d, "b0", b0, 2, K, S, 0, 0);
    return d;
}

static struct draft deepmatch_sa(void)
{
    struct draft d = {.n = 0};

    put(&d, "sparse_seq_emb_hist_movie_id/embeddings", M, 2, ROWS, D, 0, 0);
    put(&d, "position_encoding/lookup_table", positions, 2, S, D, 0, 0);
    put(&d, "user_dnn_attn/kernel0", W1, 2, D, F, 0, 0);
    put(&d, "user_dnn_attn/bias0", c1, 1, F, 0, 0, 0);
    put(&d, "user_dnn_attn/kernel1", W2, 2, F, K, 0, 0);
    put(&d, "user_dnn_attn/bias1", c2, 1, K, 0, 0, 0);
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

static void check_golden_for(const char *name, const struct draft *d, const char *options,
                             const uint32_t *rows, double tolerance)
{
    struct opened f = open_draft(d, options);
    float got[K * D], expected[K * D];

    assert_int_equal(model_interest_count(f.m), K);
    assert_int_equal(model_dim(f.m), D);
    assert_int_equal(golden(name, expected, K * D), K * D);
    run_one(f.m, rows, 4, got, NULL);
    for (size_t i = 0; i < K * D; i++)
        if (!(fabs((double)got[i] - expected[i]) <= tolerance))
            fail_msg("%s[%zu]: %.9g, expected %.9g", name, i, (double)got[i], (double)expected[i]);
    close_draft(&f);
}

static void check_golden(const char *name, const struct draft *d, const char *options,
                         double tolerance)
{
    check_golden_for(name, d, options, history, tolerance);
}

#define FOUND "interests=3 max_history=6 "
#define TIGHT 2e-6
#define LOOSE 1e-4 /* logits times 20 */

static void thudm_mind_gives_golden_vectors(void **state)
{
    struct draft d = thudm_mind(W0, bias, b0), book = thudm_book();

    (void)state;
    check_golden("A1", &d, "variant=thudm-mind init=tensor:b0", TIGHT);
    check_golden("A1r", &book, "variant=thudm-mind init=tensor:b0", TIGHT);
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
    struct draft dr = pytorch(true), mind = pytorch(false), sa = pytorch_sa();

    (void)state;
    check_golden("A3", &dr, "variant=pytorch-comirec-dr", TIGHT);
    check_golden("A4", &mind, "variant=pytorch-comirec-mind init=tensor:b0", TIGHT);
    check_golden("A14", &sa, "variant=pytorch-comirec-sa", TIGHT);
}

static void paddlerec_models_give_golden_vectors(void **state)
{
    struct draft d = paddlerec(true), older = paddlerec(false);

    (void)state;
    check_golden("A6", &d, "variant=paddlerec-mind", TIGHT);
    check_golden("A7", &d, "variant=paddlerec-mind-2022", TIGHT);
    check_golden("A8", &older, "variant=paddlerec-mind-2021", TIGHT);
    check_golden("paddlerec-mind-2022b", &older, "variant=paddlerec-mind-2022b", TIGHT);
}

static void thudm_comirec_sa_gives_golden_vectors(void **state)
{
    struct draft d = thudm_sa();

    (void)state;
    check_golden("A13", &d, "variant=thudm-comirec-sa", TIGHT);
}

/* The capsules alone are A3; these vectors went through its tower and have length 1. */
static void rechub_models_give_golden_vectors(void **state)
{
    struct draft mind = rechub(false), dr = rechub(true), sa = rechub_sa();

    (void)state;
    check_golden("rechub-mind", &mind, "variant=rechub-mind init=tensor:b0", TIGHT);
    check_golden("rechub-comirec-dr", &dr, "variant=rechub-comirec-dr", TIGHT);
    check_golden("A3", &dr,
                 "variant=rechub-comirec-dr padding_vector=zero projection=none "
                 "normalize_user=false",
                 TIGHT);
    check_golden("rechub-comirec-sa", &sa, "variant=rechub-comirec-sa max_history=6", TIGHT);
}

static void deepmatch_models_give_golden_vectors(void **state)
{
    struct draft mind = deepmatch(), sa = deepmatch_sa();

    (void)state;
    check_golden_for("A9", &mind, "variant=deepmatch-mind init=tensor:b0", newest_first, TIGHT);
    check_golden_for("deepmatch-comirec-sa", &sa, "variant=deepmatch-comirec-sa", newest_first,
                     TIGHT);
}

static void easyrec_capsules_give_golden_vectors(void **state)
{
    struct draft d = easyrec();

    (void)state;
    check_golden("A10", &d,
                 "variant=easyrec-mind " FOUND
                 "squash_power=0.2 dynamic_interests=none normalize_user=false",
                 LOOSE);
    check_golden("A11", &d,
                 "variant=easyrec-mind " FOUND
                 "logit_scale=0 dynamic_interests=floor_log2 normalize_user=false",
                 LOOSE);
}

static void torcheasyrec_capsules_give_golden_vectors(void **state)
{
    struct draft d = torcheasyrec();

    (void)state;
    check_golden("A12", &d,
                 "variant=torcheasyrec-mind init=tensor:b0 squash_power=0.2 normalize_user=false",
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

/* ---- the twin: the formulas, word by word, in double ----------------------------- */

enum { MAX_S = 40, MAX_K = 8, MAX_DIM = 72, MAX_ROWS = 30, MAX_F = 96 };

/* Matrices input-major, whatever the file has. NULL: there is none. */
struct twin {
    const struct model_options *o; /* completed */
    const float *items;            /* (rows, D) */
    const float *map;              /* (D, H or K*H), or (S, K*H, D) */
    const float *bias;
    const float *logits;          /* (K, S) */
    const float *projection;      /* (H, D) */
    const float *projection_bias; /* used with relu only */
    size_t hidden;                /* F */
    const float *positions;       /* (S, D) */
    const float *w1, *c1, *w2, *c2;
    bool mask_is_added; /* -10^9 on top of a pad's logit instead of -2^32 in its place */
    double norm_floor;
};

static double u[MAX_K][MAX_S][MAX_DIM], b[MAX_K][MAX_S], w[MAX_K][MAX_S], v[MAX_K][MAX_DIM];
/* Rounding on purpose, to see what it leads to: every second number becomes larger by this share,
 * the others smaller. */
static double stretch;

static double stretched(double x, size_t i)
{
    return i % 2 ? x + stretch * x : x - stretch * x;
}

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
        for (size_t j = 0; j < dim; j++) {
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
            u[k][s][j] = stretched(u[k][s][j], j + s);
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
            w[k][s] = stretched(scales ? o->logit_scale * b[k][s] : b[k][s], k + s);
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
        if (t->o->projection == PROJECTION_NONE) {
            out[j] = v[k][j];
            continue;
        }
        out[j] = t->projection_bias != NULL ? t->projection_bias[j] : 0;
        for (size_t c = 0; c < dim; c++)
            out[j] += v[k][c] * t->projection[c * n + j];
        if (t->o->projection == PROJECTION_RELU)
            out[j] = fmax(out[j], 0);
    }
    norm = fmax(norm_of(out, n), t->norm_floor);
    for (size_t j = 0; j < n; j++) {
        if (t->o->normalize_user)
            out[j] /= norm;
        if (!is_live)
            out[j] = 0;
    }
}

/* One user's slots. */
static struct {
    bool real[MAX_S];
    double e[MAX_S][MAX_DIM];
    size_t length;
} user_slots;

static void twin_slots(const struct twin *t, const uint32_t *rows, size_t n_rows)
{
    const struct model_options *o = t->o;
    size_t slots = (size_t)o->max_history, n = n_rows < slots ? n_rows : slots;
    size_t first = o->truncate == TRUNCATE_LAST ? n_rows - n : 0, dim = (size_t)o->item_dim;

    user_slots.length = 0;
    for (size_t s = 0; s < slots; s++) {
        size_t at = o->history_order == ORDER_OLDEST_FIRST ? first + s : first + n - 1 - s;
        uint32_t row = s < n ? rows[at] : 0;
        bool real = s < n && (o->padding_by == PADDING_BY_LENGTH || row != 0);

        user_slots.real[s] = real;
        user_slots.length += real;
        for (size_t c = 0; c < dim; c++)
            user_slots.e[s][c] =
                real || o->padding_vector == PADDING_LIVE ? (double)t->items[row * dim + c] : 0;
    }
}

static void twin_route(const struct twin *t, size_t live)
{
    size_t slots = (size_t)t->o->max_history;

    for (size_t s = 0; s < slots; s++) {
        twin_bilinear(t, s, user_slots.e[s]);
        for (size_t k = 0; k < (size_t)t->o->interests; k++)
            b[k][s] = t->logits != NULL ? t->logits[k * slots + s] : 0;
    }
    for (int i = 0; i < t->o->iterations; i++)
        twin_pass(t, user_slots.real, live, i);
}

/* Inputs and values of slot s. */
static void twin_inputs(const struct twin *t, size_t s, double *x, double *values)
{
    size_t dim = (size_t)t->o->item_dim;

    for (size_t c = 0; c < dim; c++) {
        double e = user_slots.e[s][c];

        x[c] = e;
        if (t->o->attention_positions == POSITIONS_ADD)
            x[c] = e + t->positions[s * dim + c];
        else if (t->o->attention_positions == POSITIONS_ADD_SCALED)
            x[c] = e + (e + t->positions[s * dim + c] * sqrt((double)dim));
        values[c] = stretched(t->o->attention_values == VALUES_ITEMS ? e : x[c], s + c);
    }
}

static double twin_logit(const struct twin *t, const double *x, size_t k)
{
    size_t dim = (size_t)t->o->item_dim, heads = (size_t)t->o->interests;
    double sum = t->c2 != NULL ? t->c2[k] : 0;

    for (size_t f = 0; f < t->hidden; f++) {
        double in = t->c1 != NULL ? t->c1[f] : 0;

        for (size_t c = 0; c < dim; c++)
            in += x[c] * t->w1[c * t->hidden + f];
        sum += tanh(in) * t->w2[f * heads + k];
    }
    return t->o->attention_activation == ATTENTION_TANH ? tanh(sum) : sum;
}

static void twin_attend(const struct twin *t, size_t live)
{
    static double values[MAX_S][MAX_DIM];
    size_t slots = (size_t)t->o->max_history, dim = (size_t)t->o->item_dim;

    for (size_t s = 0; s < slots; s++) {
        double x[MAX_DIM];

        twin_inputs(t, s, x, values[s]);
        for (size_t k = 0; k < (size_t)t->o->interests; k++) {
            w[k][s] = stretched(twin_logit(t, x, k), k + s);
            if (!user_slots.real[s])
                w[k][s] = t->mask_is_added ? w[k][s] - 1e9 : -4294967296.0;
        }
    }
    for (size_t k = 0; k < (size_t)t->o->interests; k++) {
        twin_softmax(w[k], slots, 1);
        for (size_t c = 0; c < dim; c++) {
            v[k][c] = 0;
            for (size_t s = 0; s < slots; s++)
                v[k][c] += w[k][s] * values[s][c];
        }
        for (size_t s = 0; k >= live && s < slots; s++)
            w[k][s] = 0;
    }
}

/* (K, D) interests; w keeps the weights by slot. Returns K'. */
static size_t twin_interests(const struct twin *t, const uint32_t *rows, size_t n_rows, double *out)
{
    size_t interests = (size_t)t->o->interests, live;

    twin_slots(t, rows, n_rows);
    live = twin_live(t->o, user_slots.length);
    if (t->o->kind == MODEL_ATTENTION)
        twin_attend(t, live);
    else
        twin_route(t, live);
    for (size_t k = 0; k < interests; k++)
        twin_finish(t, k, k < live, out + k * (size_t)t->o->item_dim);
    for (size_t s = 0; s < (size_t)t->o->max_history; s++) /* pads are not reported */
        for (size_t k = 0; k < interests && !user_slots.real[s]; k++)
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
    const char *items, *linear, *linear_bias, *per_position;
    const char *positions, *hidden, *hidden_bias, *heads, *heads_bias;
    const char *projection, *projection_bias, *projection_form;
    bool linear_out_in, attention_out_in, projection_out_in;
    bool projection_means_used, mask_is_added, three_passes;
    double norm_floor;
} thudm_names = {"mid_embedding_var",
                 "capsule_network/bilinear/dense/kernel",
                 "capsule_network/bilinear/dense/bias",
                 "capsule_network/bilinear/weights",
                 "position_embedding",
                 "self_atten/dense/kernel",
                 "self_atten/dense/bias",
                 "self_atten/dense_1/kernel",
                 "self_atten/dense_1/bias",
                 "capsule_network/proj/kernel",
                 "capsule_network/proj/bias",
                 "relu",
                 .projection_means_used = true,
                 .three_passes = true,
                 .norm_floor = 1e-12},
  paddlerec_names = {.items = "item_emb.weight",
                     .linear = "capsual_layer.bilinear_mapping_matrix",
                     .projection = "capsual_layer.relu_layer.weight",
                     .projection_bias = "capsual_layer.relu_layer.bias",
                     .projection_form = "relu",
                     .projection_means_used = true,
                     .norm_floor = 1e-12},
  datawhale_names = {.items = "item_emb.weight",
                     .linear = "capsule.linear.weight",
                     .per_position = "capsule.w",
                     .projection = "capsule.relu.0.weight",
                     .projection_form = "relu",
                     .three_passes = true,
                     .norm_floor = 1e-12},
  pytorch_names = {.items = "embeddings.weight",
                   .linear = "capsule_network.linear.weight",
                   .per_position = "capsule_network.w",
                   .positions = "position_embedding",
                   .hidden = "linear1.0.weight",
                   .heads = "linear2.weight",
                   .projection = "capsule_network.relu.0.weight",
                   .projection_form = "relu",
                   .linear_out_in = true,
                   .attention_out_in = true,
                   .projection_out_in = true,
                   .three_passes = true,
                   .norm_floor = 1e-12},
  rechub_names = {.items = "embedding.embed_dict.item_id.weight",
                  .linear = "capsule.linear.weight",
                  .per_position = "capsule.w",
                  .hidden = "multi_interest_sa.W1",
                  .heads = "multi_interest_sa.W2",
                  .projection = "convert_user_weight",
                  .projection_form = "linear",
                  .linear_out_in = true,
                  .mask_is_added = true,
                  .three_passes = true,
                  .norm_floor = 1e-12},
  easyrec_names = {.items = "input_layer/book_id/embedding_weights",
                   .linear = "capsule/S",
                   .norm_floor = 1e-6},
  torcheasyrec_names = {.items = "user_tower.embedding_group.ec.embeddings.a.weight",
                        .linear = "user_tower._capsule_layer.bilinear_matrix",
                        .norm_floor = 1e-12},
  deepmatch_names = {.items = "sparse_emb_item/embeddings",
                     .linear = "capsule_layer/S",
                     .positions = "position_encoding/lookup_table",
                     .hidden = "user_dnn_attn/kernel0",
                     .hidden_bias = "user_dnn_attn/bias0",
                     .heads = "user_dnn_attn/kernel1",
                     .heads_bias = "user_dnn_attn/bias1",
                     .norm_floor = 1e-12};

static const struct {
    const char *variant;
    const struct names *names;
} published[] = {
    {"thudm-mind", &thudm_names},
    {"thudm-comirec-dr", &thudm_names},
    {"thudm-comirec-sa", &thudm_names},
    {"paddlerec-mind", &paddlerec_names},
    {"paddlerec-mind-2022", &paddlerec_names},
    {"paddlerec-mind-2022b", &paddlerec_names},
    {"paddlerec-mind-2021", &paddlerec_names},
    {"datawhale-mind", &datawhale_names},
    {"datawhale-comirec-dr", &datawhale_names},
    {"pytorch-comirec-mind", &pytorch_names},
    {"pytorch-comirec-dr", &pytorch_names},
    {"pytorch-comirec-sa", &pytorch_names},
    {"rechub-mind", &rechub_names},
    {"rechub-comirec-dr", &rechub_names},
    {"rechub-comirec-sa", &rechub_names},
    {"easyrec-mind", &easyrec_names},
    {"torcheasyrec-mind", &torcheasyrec_names},
    {"deepmatch-mind", &deepmatch_names},
    {"deepmatch-comirec-sa", &deepmatch_names},
};

/* A random model: its tensors, and the same for the twin, which knows no [out, in]. */
static struct random_model {
    float items[MAX_ROWS * MAX_DIM], logits[MAX_K * MAX_S], positions[MAX_S * MAX_DIM];
    float map[MAX_S * MAX_K * MAX_DIM * MAX_DIM], turned_map[MAX_K * MAX_DIM * MAX_DIM];
    float map_bias[MAX_K * MAX_DIM];
    float w1[MAX_DIM * MAX_F], turned_w1[MAX_DIM * MAX_F], c1[MAX_F];
    float w2[MAX_F * MAX_K], turned_w2[MAX_F * MAX_K], c2[MAX_K];
    float projection[MAX_DIM * MAX_DIM], turned_projection[MAX_DIM * MAX_DIM];
    float projection_bias[MAX_DIM];
    size_t k, s, d, h, rows;
    const struct names *names;
    struct model_options o; /* the variant's own */
    struct draft draft;
    struct twin twin;
    struct buf options;
} rm;

static void put_linear(bool turned, const char *name, float *values, float *turned_values,
                       size_t in, size_t out)
{
    random_floats(values, in * out, 1);
    if (!turned) {
        put(&rm.draft, name, values, 2, in, out, 0, 0);
        return;
    }
    turn(turned_values, values, in, out);
    put(&rm.draft, name, turned_values, 2, out, in, 0, 0);
}

/* Half of the models that may have the bias have it. */
static const float *put_bias(const char *name, float *values, size_t n)
{
    if (name == NULL || below(2) == 0)
        return NULL;
    random_floats(values, n, 0.5);
    put(&rm.draft, name, values, 1, n, 0, 0, 0);
    return values;
}

static void put_map(enum model_bilinear bilinear)
{
    bool shared = bilinear == BILINEAR_SHARED || bilinear == BILINEAR_SHARED_INTERLEAVED;
    size_t width = shared ? rm.h : rm.k * rm.h;

    rm.twin.map = rm.map;
    if (bilinear == BILINEAR_PER_POSITION) {
        random_floats(rm.map, rm.s * width * rm.d, 1);
        put(&rm.draft, rm.names->per_position, rm.map, 4, 1, rm.s, width, rm.d);
        return;
    }
    put_linear(rm.names->linear_out_in, rm.names->linear, rm.map, rm.turned_map, rm.d, width);
    rm.twin.bias = put_bias(rm.names->linear_bias, rm.map_bias, width);
}

static void put_logits(const char *name)
{
    random_floats(rm.logits, rm.k * rm.s, 2);
    rm.twin.logits = rm.logits;
    put(&rm.draft, name, rm.logits, 3, 1, rm.k, rm.s, 0);
}

static void put_attention(enum model_positions form)
{
    rm.twin.hidden = 1 + below(below(8) == 0 ? MAX_F : 20);
    rm.twin.w1 = rm.w1;
    rm.twin.w2 = rm.w2;
    put_linear(rm.names->attention_out_in, rm.names->hidden, rm.w1, rm.turned_w1, rm.d,
               rm.twin.hidden);
    put_linear(rm.names->attention_out_in, rm.names->heads, rm.w2, rm.turned_w2, rm.twin.hidden,
               rm.k);
    rm.twin.c1 = put_bias(rm.names->hidden_bias, rm.c1, rm.twin.hidden);
    rm.twin.c2 = put_bias(rm.names->heads_bias, rm.c2, rm.k);
    if (form == POSITIONS_NONE)
        return;
    random_floats(rm.positions, rm.s * rm.d, 1);
    rm.twin.positions = rm.positions;
    put(&rm.draft, rm.names->positions, rm.positions, 3, 1, rm.s, rm.d, 0);
}

static void put_projection(void)
{
    rm.twin.projection = rm.projection;
    put_linear(rm.names->projection_out_in, rm.names->projection, rm.projection,
               rm.turned_projection, rm.h, rm.d);
    rm.twin.projection_bias = put_bias(rm.names->projection_bias, rm.projection_bias, rm.d);
}

static void random_softmax(int passes)
{
    static const char *const axis_words[] = {"interest", "sequence", NULL};

    buf_puts(&rm.options, " softmax=");
    if (below(2) == 0) {
        buf_puts(&rm.options, pick(axis_words));
        return;
    }
    for (int i = 0; i < passes; i++)
        buf_printf(&rm.options, "%c\"%s\"", i == 0 ? '[' : ',', pick(axis_words));
    buf_putc(&rm.options, ']');
}

/* What no tensor depends on. */
static void random_options(void)
{
    static const struct {
        enum { CAPSULES_ONLY, ATTENTION_ONLY, BOTH } kind;
        const char *key;
        const char *values[8]; /* NULL ends them */
    } choices[] = {
        {CAPSULES_ONLY, "mask", {"before", "after"}},
        {CAPSULES_ONLY, "update", {"add", "add_clipped", "replace_scaled", "probability_add"}},
        {CAPSULES_ONLY, "mid_activation", {"squash", "l2", "none"}},
        {CAPSULES_ONLY, "squash", {"eps_inside", "clamp_square", "clamp_length"}},
        {CAPSULES_ONLY, "squash_eps", {"1e-9", "1e-8", "1e-3"}},
        {CAPSULES_ONLY, "squash_power", {"1", "0.2", "0.5", "2"}},
        {CAPSULES_ONLY, "squash_ratio", {"1", "1.5"}},
        {CAPSULES_ONLY, "logit_scale", {"0", "1", "3"}},
        {ATTENTION_ONLY, "attention_values", {"items", "inputs"}},
        {ATTENTION_ONLY, "attention_activation", {"none", "tanh"}},
        {BOTH, "padding_vector", {"zero", "live"}},
        {BOTH, "normalize_user", {"false", "true"}},
        {BOTH, "normalize_item", {"false", "true"}},
        {BOTH,
         "dynamic_interests",
         {"none", "none", "floor_log2", "ceil_log2", "trunc_ln", "floor_log2_1p"}},
        {BOTH, "history_order", {"oldest_first", "newest_first"}},
        {BOTH, "truncate", {"last", "first"}},
        {BOTH, "padding_by", {"length", "id"}},
    };

    for (size_t i = 0; i < ARRAY_LEN(choices); i++)
        if (choices[i].kind == BOTH ||
            (choices[i].kind == CAPSULES_ONLY) == (rm.o.kind == MODEL_CAPSULES))
            buf_printf(&rm.options, " %s=%s", choices[i].key, pick(choices[i].values));
}

/* As its codebase has it; only the sizes differ. */
static void draw_published(void)
{
    bool projects = rm.o.projection == PROJECTION_RELU ||
                    (rm.names->projection != NULL && below(2) == 0 &&
                     !(rm.o.projection == PROJECTION_NONE && rm.names->projection_means_used));

    if (rm.o.kind == MODEL_ATTENTION)
        put_attention(rm.o.attention_positions);
    else
        put_map(rm.o.bilinear);
    if (rm.o.init == INIT_TENSOR) {
        put_logits(rm.o.init_name);
    } else if (rm.o.kind == MODEL_CAPSULES) {
        rm.o.interests = (int)rm.k;
        rm.o.max_history = (int)rm.s;
        logits_generate(rm.logits, rm.s, &rm.o);
        rm.twin.logits = rm.logits;
    }
    if (projects)
        put_projection();
}

static void draw_capsules(void)
{
    static const char *const words[] = {"shared", "shared_interleaved", "per_interest",
                                        "per_position"};
    size_t bilinear = below(rm.names->per_position != NULL ? 4 : 3);
    int passes = rm.names->three_passes ? 3 : 1 + (int)below(5);

    buf_printf(&rm.options, " bilinear=%s capsule_dim=%zu iterations=%d", words[bilinear], rm.h,
               passes);
    put_map((enum model_bilinear)bilinear);
    if (below(4) > 0)
        put_logits("b0");
    buf_printf(&rm.options, " init=%s", rm.twin.logits != NULL ? "tensor:b0" : "zeros");
    random_softmax(passes);
}

static void draw_attention(void)
{
    static const char *const words[] = {"none", "add", "add_scaled"};
    size_t form = below(rm.names->positions != NULL ? 3 : 1);

    buf_printf(&rm.options, " attention_positions=%s", words[form]);
    put_attention((enum model_positions)form);
}

/* Every option that makes sense is set, to anything. */
static void draw_anything(void)
{
    static const char *const forms[] = {"relu", "linear", NULL};

    if (rm.names->projection != NULL && rm.o.kind == MODEL_CAPSULES && below(2) == 0)
        rm.h = 1 + below(below(12) == 0 ? MAX_DIM : 12);
    if (rm.o.kind == MODEL_ATTENTION)
        draw_attention();
    else
        draw_capsules();
    if (rm.names->projection != NULL && (rm.h != rm.d || below(3) == 0)) {
        put_projection();
        buf_printf(&rm.options, " projection=%s", pick(forms));
    } else {
        buf_puts(&rm.options, " projection=none");
    }
    random_options();
}

/* Model number `seed`, of each variant in turn; every other one as published. */
static void draw_model(uint64_t seed)
{
    const char *variant = published[seed % ARRAY_LEN(published)].variant;
    struct err err = ERR_INIT;

    random_state = seed * 0x9e3779b97f4a7c15u;
    rm.names = published[seed % ARRAY_LEN(published)].names;
    assert_int_equal(model_options_variant(&rm.o, variant, &err), 0);
    rm.k = 1 + below(MAX_K);
    rm.s = 1 + below(below(24) == 0 ? MAX_S : 8);
    rm.d = rm.h = 1 + below(below(48) == 0 ? MAX_DIM : 12); /* the large ones take the time */
    if (below(8) == 0)
        rm.d = rm.h = 16;
    rm.rows = 2 + below(MAX_ROWS - 1);
    rm.draft.n = 0;
    rm.options.len = 0;
    rm.twin = (struct twin){.items = rm.items,
                            .mask_is_added = rm.names->mask_is_added,
                            .norm_floor = rm.names->norm_floor};
    random_floats(rm.items, rm.rows * rm.d, rm.o.logit_scale > 1 ? 0.3 : 1);
    for (size_t c = 0; c < rm.d; c++) /* one is nearly nothing */
        rm.items[rm.d + c] *= 1e-7f;
    put(&rm.draft, rm.names->items, rm.items, 2, rm.rows, rm.d, 0, 0);
    buf_printf(&rm.options, "variant=%s interests=%zu max_history=%zu", variant, rm.k, rm.s);
    if (seed / ARRAY_LEN(published) % 2 == 0)
        draw_published();
    else
        draw_anything();
    buf_cstr(&rm.options);
}

enum { USERS = 18 }; /* more than MODEL_BATCH */

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

/* What the twin says; w by slot. */
static struct {
    double interests[MAX_K * MAX_DIM], w[MAX_K][MAX_S];
} said;

/* The largest distance of a model's answer from what the twin said. */
struct distance {
    double interests, weights;
};

static struct distance distance_from_twin(const struct model_input *in,
                                          const struct model_options *o)
{
    struct distance most = {0, 0};

    for (size_t i = 0; i < (size_t)o->interests * (size_t)o->item_dim; i++) {
        assert_true(isfinite(in->interests[i])); /* fmax would hide it */
        most.interests = fmax(most.interests, fabs(in->interests[i] - said.interests[i]) /
                                                  fmax(1, fabs(said.interests[i])));
    }
    for (size_t k = 0; k < (size_t)o->interests; k++)
        for (size_t r = 0; r < in->used; r++) {
            size_t s = o->history_order == ORDER_OLDEST_FIRST ? r : in->used - 1 - r;

            most.weights = fmax(most.weights, fabs(in->weights[k * in->used + r] - said.w[k][s]));
        }
    return most;
}

/* How far the twin's own answer moves when its numbers are off by the last bit of a float. Routing
 * may make a large difference of a small one: a softmax of large logits, the direction of a sum of
 * nearly zero. */
static struct distance distance_from_itself(const struct model_input *in,
                                            const struct model_options *o)
{
    struct distance most = {0, 0};
    double moved[MAX_K * MAX_DIM];

    stretch = 6e-8; /* 2^-24 */
    twin_interests(&rm.twin, in->rows, in->n_rows, moved);
    stretch = 0;
    for (size_t i = 0; i < (size_t)o->interests * (size_t)o->item_dim; i++)
        most.interests = fmax(most.interests, fabs(moved[i] - said.interests[i]));
    for (size_t k = 0; k < (size_t)o->interests; k++)
        for (size_t s = 0; s < (size_t)o->max_history; s++)
            most.weights = fmax(most.weights, fabs(w[k][s] - said.w[k][s]));
    return most;
}

/* The allowance of the golden vectors, for longer sums; and so many times what the twin's own
 * answer moves. */
#define WORSE 30
static double allowance(const struct model_options *o)
{
    return o->kind == MODEL_CAPSULES && o->logit_scale > 1 ? 1e-4 : 1e-5;
}

/* Of all comparisons, those in which an error could hide behind a routing that is nearly chaos. */
static size_t comparisons, loose_comparisons;

static void compare_with_twin(const struct model *m, const struct model_input *in, uint64_t seed)
{
    struct model_options o = *model_options(m);
    struct distance off, moves;
    size_t live;

    if (in->dynamic >= 0)
        o.dynamic_interests = (enum model_dynamic)in->dynamic;
    rm.twin.o = &o;
    live = twin_interests(&rm.twin, in->rows, in->n_rows, said.interests);
    memcpy(said.w, w, sizeof w);
    assert_int_equal(in->live, live);
    assert_int_equal(in->used,
                     in->n_rows < (size_t)o.max_history ? in->n_rows : (size_t)o.max_history);
    assert_int_equal(in->first_used, o.truncate == TRUNCATE_LAST ? in->n_rows - in->used : 0);

    off = distance_from_twin(in, &o);
    comparisons++;
    if (off.interests <= allowance(&o) && off.weights <= allowance(&o))
        return;
    moves = distance_from_itself(in, &o);
    loose_comparisons++;
    if (!(off.interests <= allowance(&o) + WORSE * moves.interests) ||
        !(off.weights <= allowance(&o) + WORSE * moves.weights))
        fail_msg("model %llu (%s), %zu rows: interests are off by %g, weights by %g",
                 (unsigned long long)seed, rm.options.p, in->n_rows, off.interests, off.weights);
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
    f = open_draft(&rm.draft, rm.options.p);
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
    for (uint64_t seed = 0; seed < RANDOM_MODELS * ARRAY_LEN(published); seed++)
        check_random_model(seed, s);
    log_setup(LOG_LEVEL_INFO, false);
    assert_true(loose_comparisons * 1000 < comparisons);
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
        f = open_draft(&rm.draft, rm.options.p);
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

/* Its mask comes from the id: row 0 inside a history is a pad, wherever it stands, and a pad is a
 * vector like any other that takes its share of the softmax. */
static void rechub_takes_row_0_for_a_pad_wherever_it_stands(void **state)
{
    static const uint32_t with_pads[6] = {3, 0, 5, 2, 0, 8}, only_pads[3] = {0, 0, 0};
    struct draft dr = rechub(true), sa = rechub_sa();
    struct opened by_id = open_draft(&dr, "variant=rechub-comirec-dr");
    struct opened zero = open_draft(&dr, "variant=rechub-comirec-dr padding_vector=zero");
    struct opened by_length = open_draft(&dr, "variant=rechub-comirec-dr padding_by=length");
    struct opened attends = open_draft(&sa, "variant=rechub-comirec-sa max_history=6");
    float got[K * D], other[K * D], row_weights[K * S];

    (void)state;
    run_one(by_id.m, with_pads, 6, got, row_weights);
    for (size_t k = 0; k < K; k++) {
        assert_true(row_weights[k * S + 1] == 0 && row_weights[k * S + 4] == 0);
        assert_true(row_weights[k * S] > 0 && row_weights[k * S + 5] > 0);
    }
    run_one(zero.m, with_pads, 6, other, NULL);
    assert_memory_not_equal(got, other, sizeof got);
    run_one(by_length.m, with_pads, 6, other, NULL);
    assert_memory_not_equal(got, other, sizeof got);

    run_one(by_id.m, only_pads, 3, got, NULL); /* nothing is left of z */
    for (size_t i = 0; i < K * D; i++)
        assert_true(got[i] == 0);

    run_one(attends.m, with_pads, 6, got, NULL); /* without positions only the items count */
    run_one(attends.m, history, 4, other, NULL);
    assert_memory_equal(got, other, sizeof got);
    close_draft(&by_id);
    close_draft(&zero);
    close_draft(&by_length);
    close_draft(&attends);
}

static void attention_without_items_is_the_mean_of_the_pads(void **state)
{
    static const uint32_t row_0[1] = {0};
    struct draft d = thudm_sa(), live = rechub_sa(), dm = deepmatch_sa();
    struct opened f = open_draft(&d, "variant=thudm-comirec-sa");
    struct opened rh = open_draft(
        &live, "variant=rechub-comirec-sa max_history=6 projection=none normalize_user=false");
    struct opened with_positions = open_draft(&dm, "variant=deepmatch-comirec-sa");
    float got[K * D];

    (void)state;
    run_one(f.m, NULL, 0, got, NULL);
    for (size_t i = 0; i < K * D; i++)
        assert_true(got[i] == 0);
    run_one(rh.m, row_0, 1, got, NULL);
    for (size_t i = 0; i < K * D; i++)
        assert_float_equal(got[i], M[i % D], 2e-7);
    run_one(with_positions.m, NULL, 0, got, NULL);
    for (size_t i = 0; i < K * D; i++) {
        float mean = 0;

        for (size_t s = 0; s < S; s++)
            mean += (2 * M[i % D] + 2 * positions[s * D + i % D]) / S; /* sqrt D is 2 */
        assert_float_equal(got[i], mean, 5e-7);
    }
    close_draft(&f);
    close_draft(&rh);
    close_draft(&with_positions);
}

/* As EasyRec, TorchEasyRec, DeepMatch and torch-rechub count them. */
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

/* ---- allocations ----------------------------------------------------------------------- */

static unsigned allocations;

#ifdef SANITIZED
static void count_allocation(const volatile void *p, size_t size)
{
    (void)p;
    (void)size;
    allocations++;
}

static void ignore_free(const volatile void *p)
{
    (void)p;
}

int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t),
                                              void (*)(const volatile void *));

static int count_allocations(void **state)
{
    (void)state;
    return __sanitizer_install_malloc_and_free_hooks(count_allocation, ignore_free) > 0 ? 0 : -1;
}
#else
/* The C library's own, under other names: these stand in front of them. */
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);
void *__libc_memalign(size_t alignment, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    allocations++;
    return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}

static int count_allocations(void **state)
{
    (void)state;
    return 0;
}
#endif

/* It puts its own functions in front of ours. */
static bool under_valgrind(void)
{
    const char *preloaded = getenv("LD_PRELOAD");

    return preloaded != NULL && strstr(preloaded, "vgpreload") != NULL;
}

/* Whatever the model: capsules of every form and attention, alone and in a batch. */
static void a_warm_scratch_never_allocates(void **state)
{
    static struct opened f[ARRAY_LEN(published) * 2];
    struct model_scratch *s = model_scratch_new();
    struct model_input in[USERS];
    unsigned cold = allocations;

    (void)state;
    log_nothing_below_errors();
    for (int round = 0; round < 2; round++) {
        unsigned before = 0;

        for (uint64_t i = 0; i < ARRAY_LEN(f); i++) {
            if (round == 0) {
                draw_model(i);
                f[i] = open_draft(&rm.draft, rm.options.p);
            }
            random_state = i; /* the same users in both rounds */
            draw_users(f[i].m, in);
            before = allocations;
            model_interests(f[i].m, s, in, USERS);
            model_interests(f[i].m, s, in, 1);
            if (round == 1)
                assert_int_equal(allocations, before);
        }
    }
    assert_true(allocations > cold || under_valgrind()); /* the first round did */
    log_setup(LOG_LEVEL_INFO, false);
    for (uint64_t i = 0; i < ARRAY_LEN(f); i++)
        close_draft(&f[i]);
    model_scratch_free(s);
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

/* The checkpoint's bytes, but for those that the model says it goes on reading. */
static void spoil(struct opened *f)
{
    size_t kept;
    char *end = f->bytes.p + f->bytes.len, *view = (char *)(uintptr_t)model_view(f->m, &kept);

    ckpt_free(f->c);
    f->c = NULL;
    if (view == NULL)
        view = end;
    memset(f->bytes.p, 0xff, (size_t)(view - f->bytes.p));
    memset(view + kept, 0xff, (size_t)(end - view - (ptrdiff_t)kept));
}

static void an_open_model_reads_nothing_of_its_checkpoint_but_the_item_table(void **state)
{
    struct model_scratch *s = model_scratch_new();
    struct model_input in[USERS];
    unsigned views = 0;

    (void)state;
    log_nothing_below_errors();
    for (uint64_t i = 0; i < ARRAY_LEN(published) * 2; i++) {
        struct opened f;
        struct buf before[2] = {BUF_INIT, BUF_INIT};
        size_t vectors, interests, kept;

        draw_model(i);
        f = open_draft(&rm.draft, rm.options.p);
        vectors = model_rows(f.m) * (size_t)model_dim(f.m) * sizeof(float);
        interests = (size_t)(model_interest_count(f.m) * model_dim(f.m)) * sizeof(float);
        draw_users(f.m, in);
        model_interests(f.m, s, in, 1);
        buf_put(&before[0], model_vectors(f.m), vectors);
        buf_put(&before[1], in[0].interests, interests);
        views += model_view(f.m, &kept) != NULL;
        spoil(&f);
        model_interests(f.m, s, in, 1);
        assert_memory_equal(model_vectors(f.m), before[0].p, vectors);
        assert_memory_equal(in[0].interests, before[1].p, interests);
        buf_clear(&before[0]);
        buf_clear(&before[1]);
        close_draft(&f);
    }
    assert_in_range(views, 1, ARRAY_LEN(published) * 2 - 1); /* of both kinds */
    log_setup(LOG_LEVEL_INFO, false);
    model_scratch_free(s);
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

static void the_table_of_easyrec_is_scaled_by_its_deviation(void **state)
{
    float plain[K * S], scaled[K * S];
    struct err err = ERR_INIT;
    struct model_options o;

    (void)state;
    assert_int_equal(read_options(&o, "variant=easyrec-mind " FOUND, &err), 0);
    logits_generate(plain, S, &o);
    assert_int_equal(model_options_set(&o, "init", "easyrec:0.5", &err), 0);
    logits_generate(scaled, S, &o);
    for (size_t i = 0; i < K * S; i++)
        assert_true(scaled[i] == 0.5f * plain[i]);
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
    kernel_softmax_across(x, 3, 32);
    for (size_t j = 0; j < 32; j++)
        assert_float_equal(x[j] + x[32 + j] + x[64 + j], 1, 1e-6);
    assert_true(x[64] > 0.99f && x[1] > 0.99f); /* the largest of 0 64 128 and of -3 -99 -195 */
}

static void dot_products_of_a_group_are_those_of_one(void **state)
{
    enum { N_A = 7, N_ROWS = 5, N = 50 };
    static float a[N_A * N], table[N_ROWS * N];
    const float *rows[N_ROWS];
    float got[N_A * 6];

    (void)state;
    random_state = 5;
    random_floats(a, N_A * N, 1);
    random_floats(table, N_ROWS * N, 1);
    for (size_t r = 0; r < N_ROWS; r++)
        rows[r] = table + r * N;
    for (size_t n_a = 1; n_a <= N_A; n_a++)
        for (size_t n = 1; n <= N; n++) {
            vec_dot_table(got, 6, a, n_a, rows, N_ROWS, n);
            for (size_t k = 0; k < n_a; k++)
                for (size_t r = 0; r < N_ROWS; r++)
                    assert_true(got[k * 6 + r] == vec_dot(a + k * n, rows[r], n));
        }
}

static void the_hyperbolic_tangent_agrees_with_libm(void **state)
{
    float x[4001];

    (void)state;
    for (size_t i = 0; i < 4001; i++)
        x[i] = ((float)i - 2000) / 100;
    kernel_tanh(x, 4001);
    for (size_t i = 0; i < 4001; i++)
        assert_float_equal(x[i], tanh(((double)i - 2000) / 100), 2e-7);
    x[0] = 1e30f;
    x[1] = -1e30f;
    x[2] = 0;
    kernel_tanh(x, 3);
    assert_true(x[0] == 1 && x[1] == -1 && x[2] == 0);
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
    for (size_t i = 0; i < ARRAY_LEN(published); i++) {
        struct err err = ERR_INIT;
        struct model_options o;

        assert_int_equal(model_options_variant(&o, published[i].variant, &err), 0);
        assert_string_equal(o.variant, published[i].variant);
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
        assert_int_equal(read_options(&o, rm.options.p, &err), 0);
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

/* Each codebase by its row of the variant table. */
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
        {"paddlerec-mind", "init", "\"tensor:capsual_layer.routing_logits|routing_logits\""},
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
        {"rechub-mind", "projection", ""}, /* what the file has */
        {"rechub-mind", "softmax", "\"sequence\""},
        {"rechub-mind", "mask", "\"after\""},
        {"rechub-comirec-dr", "init", "\"zeros\""},
        {"rechub-comirec-dr", "bilinear", "\"per_position\""},
        {"rechub-comirec-sa", "attention_positions", "\"none\""},
        {"rechub-comirec-sa", "padding_by", "\"id\""},
        {"rechub-comirec-sa", "normalize_user", "true"},
        {"thudm-mind", "projection", ""},
        {"thudm-comirec-sa", "attention_positions", "\"add\""},
        {"thudm-comirec-sa", "attention_values", "\"items\""},
        {"thudm-comirec-sa", "attention_activation", "\"none\""},
        {"thudm-comirec-sa", "softmax", ""}, /* it has no routing */
        {"thudm-comirec-sa", "iterations", ""},
        {"thudm-mind", "attention_positions", ""},
        {"pytorch-comirec-sa", "attention_positions", "\"add\""},
        {"deepmatch-comirec-sa", "attention_positions", "\"add_scaled\""},
        {"deepmatch-comirec-sa", "attention_values", "\"inputs\""},
        {"deepmatch-comirec-sa", "attention_activation", "\"tanh\""},
        {"deepmatch-comirec-sa", "history_order", "\"newest_first\""},
        {"deepmatch-comirec-sa", "padding_vector", "\"live\""},
        {"easyrec-mind", "truncate", "\"first\""},
        {"easyrec-mind", "normalize_item", "true"},
        {"torcheasyrec-mind", "logit_scale", "20"},
        {"torcheasyrec-mind", "truncate", "\"first\""},
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
        assert_option(&o, "iterations", o.kind == MODEL_CAPSULES ? "3" : "");
    }
}

static void an_unknown_variant_lists_the_names(void **state)
{
    struct err err = ERR_INIT;
    struct buf text = BUF_INIT;
    struct model_options o;

    (void)state;
    buf_puts(&text, "there is no model variant \"mind\"; the variants are");
    for (size_t i = 0; i < ARRAY_LEN(published); i++)
        buf_printf(&text, " %s", published[i].variant);
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
        {"projection", "linear", "projection", "\"linear\""},
        {"init", "easyrec", "init", "\"easyrec\""},
        {"init", "easyrec:0.1", "init", "\"easyrec:0.1\""},
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
    "uniform:SEED:STD, easyrec, easyrec:STD"

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
        {"init", "easyrec:", INITS},
        {"init", "easyrec:0", INITS},
        {"init", "easyrec:28:1", INITS},
        {"relu_layer", "yes", "none, relu or linear"},
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

static void keys_of_the_other_kind_of_model_are_refused(void **state)
{
    struct err err = ERR_INIT;
    struct model_options o;

    (void)state;
    assert_int_equal(model_options_variant(&o, "thudm-comirec-sa", &err), 0);
    assert_int_equal(model_options_set(&o, "softmax", "interest", &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, "softmax: is for capsules, variant thudm-comirec-sa has none");
    err_clear(&err);
    assert_int_equal(model_options_variant(&o, "thudm-mind", &err), 0);
    assert_int_equal(model_options_set(&o, "attention_values", "items", &err), -1);
    assert_string_equal(err.text,
                        "attention_values: is for attention, variant thudm-mind has none");
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

/* ---- which variant a checkpoint is of -------------------------------------------------- */

/* The variant that the tensors tell, or the error's text; caller frees. */
static char *told_by(const struct draft *d)
{
    struct buf bytes = BUF_INIT;
    struct err err = ERR_INIT;
    struct model_options o = {.variant = NULL};
    struct ckpt *c;
    char *text;

    ckpt_encode(&bytes, d->t, d->n, NULL);
    c = ckpt_open_mem("w", bytes.p, bytes.len, &err);
    assert_non_null(c);
    if (model_options_ckpt(&o, c, &err) == -1) {
        assert_int_equal(err.code, ERR_USAGE);
        text = xstrdup(err.text);
    } else {
        text = xstrdup(o.variant != NULL ? o.variant : "none");
    }
    ckpt_free(c);
    buf_clear(&bytes);
    return text;
}

static void tensors_tell_the_variant(void **state)
{
    const struct {
        struct draft draft;
        const char *variant;
    } cases[] = {
        {thudm_mind(W0, NULL, NULL), "thudm-mind"},
        {thudm_book(), "thudm-mind"},
        {thudm_dr(), "thudm-comirec-dr"},
        {thudm_sa(), "thudm-comirec-sa"},
        {datawhale(false), "datawhale-mind"},
        {datawhale(true), "datawhale-comirec-dr"},
        {pytorch(false), "pytorch-comirec-mind"},
        {pytorch(true), "pytorch-comirec-dr"},
        {pytorch_sa(), "pytorch-comirec-sa"},
        {rechub(false), "rechub-mind"},
        {rechub(true), "rechub-comirec-dr"},
        {rechub_sa(), "rechub-comirec-sa"},
        {easyrec(), "easyrec-mind"},
        {torcheasyrec(), "torcheasyrec-mind"},
        {deepmatch(), "deepmatch-mind"},
        {deepmatch_sa(), "deepmatch-comirec-sa"},
        {rechub_items(), "none"},
        {paddlerec(true), "w: its tensors do not tell which model it is: say so with "
                          "--model.variant paddlerec-mind or paddlerec-mind-2022 "
                          "(docs/models.md)"},
        {paddlerec(false), "w: its tensors do not tell which model it is: say so with "
                           "--model.variant paddlerec-mind-2022b or paddlerec-mind-2021 "
                           "(docs/models.md)"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *text = told_by(&cases[i].draft);

        assert_string_equal(text, cases[i].variant);
        free(text);
    }
}

static void the_metadata_know_better_than_the_tensors(void **state)
{
    static const char *const meta[] = {"variant", "datawhale-mind", "interests", "2", NULL};
    static const char *const sizes[] = {"interests", "2", NULL};
    struct draft d = thudm_mind(W0, NULL, NULL);
    const char *const *metas[] = {meta, sizes};
    static const char *const expected[] = {"datawhale-mind", "thudm-mind"};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct buf bytes = BUF_INIT;
        struct err err = ERR_INIT;
        struct model_options o = {.variant = NULL};
        struct ckpt *c;

        ckpt_encode(&bytes, d.t, d.n, metas[i]);
        c = ckpt_open_mem("w", bytes.p, bytes.len, &err);
        assert_int_equal(model_options_ckpt(&o, c, &err), i == 0 ? 2 : 1);
        assert_string_equal(o.variant, expected[i]);
        assert_int_equal(o.interests, 2);
        ckpt_free(c);
        buf_clear(&bytes);
    }
}

/* ---- refusing to open ---------------------------------------------------------------- */

static void towers_are_refused_by_the_name_of_a_tensor(void **state)
{
    static const char *const easyrec_towers[] = {
        "pre_capsule_dnn/dnn_0/kernel", "user_fea_bn/gamma", "user_dnn/dnn_0/bias",
        "concat_dnn/dnn_1/kernel", "item_dnn/dnn_0/kernel"};
    static const char *const torcheasyrec_towers[] = {
        "model.user_tower.user_mlp.mlp.0.perceptron.0.weight",
        "user_tower.user_mlp_out.weight",
        "user_tower._hist_seq_mlp.weight",
        "user_tower._concat_mlp.mlp.0.perceptron.0.weight",
        "user_tower.output.weight",
        "item_tower.mlp.mlp.0.perceptron.0.weight",
        "item_tower.output.weight"};
    static const char *const deepmatch_towers[] = {"user_dnn/kernel0", "user_dnn_attn/gamma"};
    const struct {
        struct draft draft;
        const char *variant;
        const char *const *towers;
        size_t n;
    } cases[] = {
        {easyrec(), "easyrec-mind", easyrec_towers, ARRAY_LEN(easyrec_towers)},
        {torcheasyrec(), "torcheasyrec-mind", torcheasyrec_towers, ARRAY_LEN(torcheasyrec_towers)},
        {deepmatch(), "deepmatch-mind", deepmatch_towers, ARRAY_LEN(deepmatch_towers)},
        {deepmatch_sa(), "deepmatch-comirec-sa", deepmatch_towers, ARRAY_LEN(deepmatch_towers)},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        for (size_t j = 0; j < cases[i].n; j++) {
            struct draft d = cases[i].draft;
            char *options = xasprintf("variant=%s", cases[i].variant);
            char *text = xasprintf("w: tensor %s is part of a tower around the interests, which is "
                                   "not computed yet: models of variant %s load without towers "
                                   "only",
                                   cases[i].towers[j], cases[i].variant);

            put(&d, cases[i].towers[j], W0, 1, D, 0, 0, 0);
            assert_refused(&d, options, ERR_USAGE, text);
            free(options);
            free(text);
        }
}

static void features_of_the_user_are_refused(void **state)
{
    static const float wide[(D + 2) * D];
    struct draft d = rechub(false);

    (void)state;
    d.t[1].data = wide;
    d.t[1].shape[0] = D + 2;
    assert_refused(&d, "variant=rechub-mind init=tensor:b0", ERR_USAGE,
                   "w: tensor module.convert_user_weight has 2 rows for features of the user ahead "
                   "of the interest's 4, and user features are not read yet: models of variant "
                   "rechub-mind load without them only");
    d.t[1].shape[0] = D - 1;
    assert_refused(&d, "variant=rechub-mind init=tensor:b0", ERR_FORMAT,
                   "w: tensor module.convert_user_weight has shape [3,4], expected [4,4] "
                   "(capsule_dim, item_dim)");
}

static void capsules_and_items_alone_are_a_model(void **state)
{
    struct draft d = rechub(false);
    struct opened f;

    (void)state;
    d.t[1].name = "something else";
    f = open_draft(&d, "variant=rechub-mind init=tensor:b0");
    assert_int_equal(model_options(f.m)->projection, PROJECTION_NONE);
    close_draft(&f);
    assert_refused(&d, "variant=rechub-mind init=tensor:b0 projection=linear", ERR_FORMAT,
                   "w: no tensor *convert_user_weight, where variant rechub-mind keeps the weights "
                   "of the projection");
}

static void a_projection_that_is_only_there_when_used_must_be_used(void **state)
{
    struct draft thudm = thudm_book(), paddle = paddlerec(true), dw = datawhale(false);
    struct opened f = open_draft(&thudm, "variant=thudm-mind init=tensor:b0");
    struct opened unused = open_draft(&dw, "variant=datawhale-mind init=tensor:b0");

    (void)state;
    assert_int_equal(model_options(f.m)->projection, PROJECTION_RELU);
    assert_int_equal(model_options(unused.m)->projection, PROJECTION_NONE);
    assert_refused(&thudm, "variant=thudm-mind init=tensor:b0 projection=none", ERR_USAGE,
                   "w: tensor capsule_network/proj/kernel is there only when a model was trained "
                   "with a projection, but projection is none");
    assert_refused(&paddle, "variant=paddlerec-mind-2021", ERR_USAGE,
                   "w: tensor capsual_layer.relu_layer.weight is there only when a model was "
                   "trained with a projection, but projection is none");
    close_draft(&f);
    close_draft(&unused);
}

static void two_tables_of_items_are_refused(void **state)
{
    struct draft d = easyrec();

    (void)state;
    put(&d, "input_layer/book_id/embedding_weights", M, 2, ROWS, D, 0, 0);
    assert_refused(&d, "variant=easyrec-mind " FOUND, ERR_FORMAT,
                   "w: tensors input_layer/book_id_seq/embedding_weights and "
                   "input_layer/book_id/embedding_weights can both be the item vectors of variant "
                   "easyrec-mind; keep only the one that is");
}

static void logits_that_every_call_changes_are_refused(void **state)
{
    struct draft d = deepmatch();

    (void)state;
    put(&d, "capsule_layer/B", b0, 3, 1, K, S, 0);
    assert_refused(&d, "variant=deepmatch-mind " FOUND, ERR_USAGE,
                   "w: tensor capsule_layer/B holds routing logits that every call changes "
                   "(DeepMatch before 0.2.1, fun-rec): its interests depend on who was asked for "
                   "before, nobody can repeat them");
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

static void missing_tensors_of_attention_are_named_with_their_role(void **state)
{
    struct draft d = thudm_sa(), sa = rechub_sa();

    (void)state;
    d.t[1].name = "elsewhere";
    assert_refused(&d, "variant=thudm-comirec-sa", ERR_FORMAT,
                   "w: no tensor position_embedding, where variant thudm-comirec-sa keeps the "
                   "positions (attention_positions none: the model has none)");
    d.t[2].name = "elsewhere 2";
    assert_refused(&d, "variant=thudm-comirec-sa attention_positions=none", ERR_FORMAT,
                   "w: no tensor self_atten/dense/kernel, where variant thudm-comirec-sa keeps the "
                   "first layer of its attention");
    assert_refused(&sa, "variant=rechub-comirec-sa attention_positions=add", ERR_USAGE,
                   "variant rechub-comirec-sa has no tensor for the positions "
                   "(attention_positions none: the model has none)");
    assert_refused(&sa, "variant=rechub-comirec-sa", ERR_USAGE,
                   "w: no tensor tells max_history; set it as an option, in the file's metadata "
                   "or in the manifest's \"model\"");
}

static void a_codebase_without_per_position_says_so(void **state)
{
    struct draft d = paddlerec(true);

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

static void wrong_shapes_of_attention_are_refused(void **state)
{
    static const float zeros[4096];
    static const struct {
        size_t tensor; /* of thudm_sa */
        int n_dims;
        size_t shape[4];
        const char *options, *text;
    } cases[] = {
        {1,
         3,
         {1, S, D + 1},
         "",
         "tensor position_embedding has shape [1,6,5], expected [1,6,4] "
         "(1, max_history, item_dim)"},
        {1,
         3,
         {1, S, D},
         "max_history=7",
         "tensor position_embedding has shape [1,6,4], expected "
         "[1,7,4] (1, max_history, item_dim)"},
        {1,
         1,
         {S},
         "max_history=6",
         "tensor position_embedding has shape [6], expected [6,4] "
         "(max_history, item_dim)"},
        {2, 1, {D}, "", "tensor self_atten/dense/kernel has 1 dimensions, expected 2"},
        {2,
         2,
         {D + 1, F},
         "",
         "tensor self_atten/dense/kernel has shape [5,16], expected [4,16] "
         "(item_dim, hidden)"},
        {3, 1, {F + 1}, "", "tensor self_atten/dense/bias has shape [17], expected [16] (hidden)"},
        {4,
         2,
         {F + 1, K},
         "",
         "tensor self_atten/dense_1/kernel has shape [17,3], expected [16,3] "
         "(hidden, interests)"},
        {4,
         2,
         {F, K},
         "interests=4",
         "tensor self_atten/dense_1/kernel has shape [16,3], expected "
         "[16,4] (hidden, interests)"},
        {5,
         1,
         {K + 1},
         "",
         "tensor self_atten/dense_1/bias has shape [4], expected [3] "
         "(interests)"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct draft d = thudm_sa();
        char *options = xasprintf("variant=thudm-comirec-sa %s", cases[i].options);
        char *text = xasprintf("w: %s", cases[i].text);

        d.t[cases[i].tensor].n_dims = cases[i].n_dims;
        memcpy(d.t[cases[i].tensor].shape, cases[i].shape, sizeof cases[i].shape);
        d.t[cases[i].tensor].data = zeros;
        assert_refused(&d, options, ERR_FORMAT, text);
        free(options);
        free(text);
    }
}

static void a_hidden_layer_that_is_too_wide_is_refused(void **state)
{
    static const float zeros[4 * 4096 + 1];
    struct draft d = {.n = 0};

    (void)state;
    put(&d, "mid_embedding_var", zeros, 2, 2, 1, 0, 0);
    put(&d, "self_atten/dense/kernel", zeros, 2, 1, 4 * 4096 + 1, 0, 0);
    put(&d, "self_atten/dense_1/kernel", zeros, 2, 4 * 4096 + 1, 1, 0, 0);
    assert_refused(&d, "variant=thudm-comirec-sa attention_positions=none max_history=2", ERR_LIMIT,
                   "w: tensor self_atten/dense/kernel has 16385 outputs, the limit is 16384");
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
    struct draft d = thudm_mind(W0, bias, b0), p = paddlerec(true);

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

static void nan_in_attention_is_refused_wherever_it_is(void **state)
{
    float bad[D * F] = {0, NAN};

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        struct draft d = thudm_sa();
        char *text = xasprintf("w: tensor %s holds NaN at element 1 %s", d.t[i].name,
                               i == 1               ? "[0,0,1]"
                               : d.t[i].n_dims == 1 ? "[1]"
                                                    : "[0,1]");

        d.t[i].data = bad;
        assert_refused(&d, "variant=thudm-comirec-sa", ERR_FORMAT, text);
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
    struct draft book = thudm_book(), dr = thudm_dr(), mind = pytorch(false), sa = deepmatch_sa();

    (void)state;
    /* logits, projected items, a pad's u, the projection and its bias, normalised items */
    assert_int_equal(fail_each_allocation(&book,
                                          "variant=thudm-mind init=tensor:b0 projection=relu "
                                          "normalize_item=true"),
                     6);
    /* logits, weights by position, the pads' u */
    assert_int_equal(fail_each_allocation(&dr, "variant=thudm-comirec-dr"), 3);
    /* logits, turned weights, projected items, a pad's u */
    assert_int_equal(fail_each_allocation(&mind, "variant=pytorch-comirec-mind init=tensor:b0"), 4);
    /* positions, projected items, what positions add to them, heads and their bias, a user without
     * items */
    assert_int_equal(fail_each_allocation(&sa, "variant=deepmatch-comirec-sa"), 6);
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
        cmocka_unit_test(thudm_comirec_sa_gives_golden_vectors),
        cmocka_unit_test(rechub_models_give_golden_vectors),
        cmocka_unit_test(deepmatch_models_give_golden_vectors),
        cmocka_unit_test(easyrec_capsules_give_golden_vectors),
        cmocka_unit_test(torcheasyrec_capsules_give_golden_vectors),
        cmocka_unit_test(per_interest_with_equal_maps_is_shared),
        cmocka_unit_test(random_models_agree_with_the_twin_and_batches_with_singles),
        cmocka_unit_test(interests_are_the_same_bits_on_every_machine),
        cmocka_unit_test(the_last_or_the_first_rows_are_used_and_said_to_be),
        cmocka_unit_test(newest_first_is_the_reversed_history),
        cmocka_unit_test(an_empty_history_gives_zeros_or_the_projected_bias),
        cmocka_unit_test(rechub_takes_row_0_for_a_pad_wherever_it_stands),
        cmocka_unit_test(attention_without_items_is_the_mean_of_the_pads),
        cmocka_unit_test(dynamic_interests_follow_the_length_as_each_codebase_does),
        cmocka_unit_test(one_scratch_serves_different_models),
        cmocka_unit_test_setup(a_warm_scratch_never_allocates, count_allocations),
        cmocka_unit_test(plain_item_vectors_are_a_view_into_the_file),
        cmocka_unit_test(an_open_model_reads_nothing_of_its_checkpoint_but_the_item_table),
        cmocka_unit_test(normalised_item_vectors_have_length_one_and_zero_stays_zero),
        cmocka_unit_test(half_precision_items_are_normalised_in_place),
        cmocka_unit_test(generated_tables_are_the_golden_ones),
        cmocka_unit_test(the_table_of_easyrec_is_scaled_by_its_deviation),
        cmocka_unit_test(generated_tables_have_the_shape_they_promise),
        cmocka_unit_test(logarithm_and_power_agree_with_libm),
        cmocka_unit_test(softmax_across_columns_sums_to_one_in_each),
        cmocka_unit_test(dot_products_of_a_group_are_those_of_one),
        cmocka_unit_test(the_hyperbolic_tangent_agrees_with_libm),
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
        cmocka_unit_test(keys_of_the_other_kind_of_model_are_refused),
        cmocka_unit_test(metadata_set_options_variant_first),
        cmocka_unit_test(tensors_tell_the_variant),
        cmocka_unit_test(the_metadata_know_better_than_the_tensors),
        cmocka_unit_test(towers_are_refused_by_the_name_of_a_tensor),
        cmocka_unit_test(features_of_the_user_are_refused),
        cmocka_unit_test(capsules_and_items_alone_are_a_model),
        cmocka_unit_test(a_projection_that_is_only_there_when_used_must_be_used),
        cmocka_unit_test(two_tables_of_items_are_refused),
        cmocka_unit_test(logits_that_every_call_changes_are_refused),
        cmocka_unit_test(a_model_without_variant_is_refused),
        cmocka_unit_test(missing_tensors_are_named_with_their_role),
        cmocka_unit_test(missing_tensors_of_attention_are_named_with_their_role),
        cmocka_unit_test(a_codebase_without_per_position_says_so),
        cmocka_unit_test(what_no_tensor_tells_must_be_set),
        cmocka_unit_test(options_are_completed_from_shapes),
        cmocka_unit_test(wrong_shapes_are_refused_with_both_shapes),
        cmocka_unit_test(wrong_shapes_of_per_position_are_refused),
        cmocka_unit_test(wrong_shapes_of_attention_are_refused),
        cmocka_unit_test(a_hidden_layer_that_is_too_wide_is_refused),
        cmocka_unit_test(a_layer_stored_out_in_is_expected_that_way),
        cmocka_unit_test(interests_that_items_cannot_be_scored_against_are_refused),
        cmocka_unit_test(passes_that_the_codebase_does_not_have_are_refused),
        cmocka_unit_test(nan_is_refused_wherever_it_is),
        cmocka_unit_test(nan_in_attention_is_refused_wherever_it_is),
        cmocka_unit_test(running_out_of_memory_is_an_error_with_nothing_leaked),
    };

    return cmocka_run_group_tests(tests, make_inputs, NULL);
}
