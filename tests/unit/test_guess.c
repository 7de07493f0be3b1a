/* test_guess.c - which model a checkpoint is told to be, and what is said to be missing; every
 * codebase by the names of its own files. */
#include "recalld/model.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- checkpoints ------------------------------------------------------------------- */

enum { ROWS = 9, D = 4, K = 3, S = 6, F = 16 };

/* "name 9x4; name 4": a checkpoint of such tensors; values follow from the place alone. */
struct file {
    struct buf bytes;
    struct ckpt *c;
};

static float values[4096];

static struct file file_of(const char *tensors, const char *const *meta)
{
    struct ckpt_writer_tensor t[16] = {{.name = NULL}};
    char *copy = xstrdup(tensors), *rest = copy, *one;
    struct file f = {BUF_INIT, NULL};
    struct err err = ERR_INIT;
    size_t n = 0;

    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        values[i] = (float)((int)(i * i * 31 % 127) - 63) / 64;
    while ((one = strsep(&rest, ";")) != NULL) {
        char *name = one + (*one == ' '), *sizes = strchr(name, ' '), *size;

        *sizes++ = '\0';
        t[n].name = name;
        while ((size = strsep(&sizes, "x")) != NULL)
            t[n].shape[t[n].n_dims++] = (size_t)atoi(size);
        t[n++].data = values;
    }
    ckpt_encode(&f.bytes, t, n, meta);
    free(copy);
    f.c = ckpt_open_mem("f", f.bytes.p, f.bytes.len, &err);
    assert_string_equal(err.text, "");
    return f;
}

static void file_clear(struct file *f)
{
    ckpt_free(f->c);
    buf_clear(&f->bytes);
}

/* ---- findings as text --------------------------------------------------------------- */

static const char *const words[] = {"variant", "refused", "missing", "told", "untold", "tensor"};

struct listing {
    struct buf text;
    unsigned kinds; /* those that are wanted, as bits */
};

static void put_finding(void *arg, const struct model_finding *f)
{
    struct listing *l = arg;

    if ((l->kinds & 1u << f->kind) == 0)
        return;
    buf_printf(&l->text, "%s %s", words[f->kind], f->name);
    if (f->value != NULL)
        buf_printf(&l->text, " %s", f->value);
    if (f->text != NULL && f->kind != FINDING_UNTOLD)
        buf_printf(&l->text, ": %s", f->text);
    buf_putc(&l->text, '\n');
    assert_int_equal(f->text != NULL, f->kind != FINDING_TOLD);
}

static void assert_found(struct file f, unsigned kinds, size_t fits, const char *expected)
{
    struct listing l = {BUF_INIT, kinds};

    assert_int_equal(model_guess(f.c, NULL, put_finding, &l), fits);
    assert_string_equal(buf_cstr(&l.text), expected);
    buf_clear(&l.text);
    file_clear(&f);
}

#define OF(kind) (1u << FINDING_##kind)

/* ---- which model -------------------------------------------------------------------- */

#define PADDLE "item_emb.weight 9x4; embedding_bias 9; "
#define PADDLE_CAPSULE \
    "capsual_layer.routing_logits 1x3x6; capsual_layer.bilinear_mapping_matrix 4x4"
#define PADDLE_RELU "; capsual_layer.relu_layer.weight 4x4; capsual_layer.relu_layer.bias 4"
#define STATIC "item_emb 9x4; embedding_bias 9; routing_logits 1x3x6; bilinear_mapping_matrix 4x4"
#define TH "mid_embedding_var 9x4; bias_lookup_table 9; "
#define DW "item_emb.weight 9x4; capsule.relu.0.weight 4x4; "
#define SC "embeddings.weight 9x4; "
#define RH "embedding.embed_dict.movie_id.weight 9x4; convert_user_weight 4x4; "

/* A column each of the table of codebases: names of its own file, the variants that they may be,
 * and what has to be said beside that. */
static const struct {
    const char *tensors, *variants, *say;
} columns[] = {
    {TH "capsule_network/bilinear/dense/kernel 4x4; capsule_network/bilinear/dense/bias 4",
     "thudm-mind", "interests max_history"},
    {TH "capsule_network/bilinear/weights 1x6x12x4", "thudm-comirec-dr", ""},
    {TH "position_embedding 1x6x4; self_atten/dense/kernel 4x16; self_atten/dense/bias 16; "
        "self_atten/dense_1/kernel 16x3; self_atten/dense_1/bias 3",
     "thudm-comirec-sa", ""},
    {PADDLE PADDLE_CAPSULE PADDLE_RELU, "paddlerec-mind paddlerec-mind-2022", ""},
    {PADDLE PADDLE_CAPSULE, "paddlerec-mind-2022b paddlerec-mind-2021", ""},
    {STATIC "; linear_0.w_0 4x4; linear_0.b_0 4", "paddlerec-mind paddlerec-mind-2022", ""},
    {STATIC, "paddlerec-mind-2022b paddlerec-mind-2021", ""},
    {DW "capsule.linear.weight 4x4", "datawhale-mind", "interests max_history"},
    {DW "capsule.w 1x6x12x4", "datawhale-comirec-dr", ""},
    {SC "capsule_network.relu.0.weight 4x4; capsule_network.linear.weight 4x4",
     "pytorch-comirec-mind", "interests max_history"},
    {SC "capsule_network.relu.0.weight 4x4; capsule_network.w 1x6x12x4", "pytorch-comirec-dr", ""},
    {SC "position_embedding 1x6x4; linear1.0.weight 16x4; linear2.weight 3x16",
     "pytorch-comirec-sa", ""},
    {RH "capsule.relu.0.weight 4x4; capsule.linear.weight 4x4", "rechub-mind",
     "interests max_history"},
    {RH "capsule.relu.0.weight 4x4; capsule.w 1x6x12x4", "rechub-comirec-dr", ""},
    {RH "multi_interest_sa.W1 4x16; multi_interest_sa.W2 16x3; multi_interest_sa.W3 4x4",
     "rechub-comirec-sa", "max_history"},
    {"input_layer/book_id_seq/embedding_weights 9x4; capsule/S 4x4; sim_w 1; sim_b 1",
     "easyrec-mind", "interests max_history"},
    {"sparse_seq_emb_hist_movie_id/embeddings 9x4; capsule_layer/S 4x4", "deepmatch-mind",
     "interests max_history"},
};

struct summary {
    struct buf variants, say, refused;
};

static void summarise(void *arg, const struct model_finding *f)
{
    struct summary *s = arg;
    struct buf *b = f->kind == FINDING_VARIANT                      ? &s->variants
                    : f->kind == FINDING_UNTOLD && f->value == NULL ? &s->say
                    : f->kind == FINDING_REFUSAL                    ? &s->refused
                                                                    : NULL;

    if (b != NULL)
        buf_printf(b, "%s%s", b->len > 0 ? " " : "", f->name);
}

static void every_codebase_is_told_by_the_names_of_its_file(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        struct file f = file_of(columns[i].tensors, NULL);
        struct summary s = {BUF_INIT, BUF_INIT, BUF_INIT};

        model_guess(f.c, NULL, summarise, &s);
        assert_string_equal(buf_cstr(&s.variants), columns[i].variants);
        assert_string_equal(buf_cstr(&s.say), columns[i].say);
        assert_string_equal(buf_cstr(&s.refused), "");
        buf_clear(&s.variants);
        buf_clear(&s.say);
        buf_clear(&s.refused);
        file_clear(&f);
    }
}

/* Saying just what the guess asks for is enough. */
static void what_is_asked_for_is_all_that_loading_needs(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(columns); i++) {
        struct file f = file_of(columns[i].tensors, NULL);
        char *copy = xstrdup(columns[i].variants), *rest = copy, *variant;
        struct err err = ERR_INIT;

        while ((variant = strsep(&rest, " ")) != NULL) {
            struct model_options o;
            struct model *m;

            assert_int_equal(model_options_variant(&o, variant, &err), 0);
            if (strstr(columns[i].say, "interests") != NULL)
                assert_int_equal(model_options_set(&o, "interests", "3", &err), 0);
            if (strstr(columns[i].say, "max_history") != NULL)
                assert_int_equal(model_options_set(&o, "max_history", "6", &err), 0);
            m = model_open(f.c, &o, NULL, &err);
            assert_string_equal(err.text, "");
            assert_int_equal(model_interest_count(m), K);
            assert_int_equal(model_options(m)->max_history, S);
            model_free(m);
        }
        free(copy);
        file_clear(&f);
    }
}

static void the_reason_names_the_tensors_that_decide(void **state)
{
    (void)state;
    assert_found(file_of(TH "capsule_network/bilinear/weights 1x6x12x4", NULL), OF(VARIANT), 1,
                 "variant thudm-comirec-dr: has mid_embedding_var [9,4] and "
                 "capsule_network/bilinear/weights [1,6,12,4], not capsule_network/proj/kernel\n");
    assert_found(file_of(PADDLE PADDLE_CAPSULE, NULL), OF(VARIANT), 2,
                 "variant paddlerec-mind-2022b: has item_emb.weight [9,4] and "
                 "capsual_layer.bilinear_mapping_matrix [4,4], not "
                 "capsual_layer.relu_layer.weight or linear_*.w_0; two weeks of May 2022: a "
                 "softmax over the interests in every pass\n"
                 "variant paddlerec-mind-2021: has item_emb.weight [9,4] and "
                 "capsual_layer.bilinear_mapping_matrix [4,4], not "
                 "capsual_layer.relu_layer.weight or linear_*.w_0; March 2021 to May 2022: a "
                 "softmax over the history in every pass\n");
}

static void what_shapes_tell_and_what_they_do_not(void **state)
{
    (void)state;
    assert_found(file_of(SC "capsule_network.relu.0.weight 4x4; capsule_network.w 1x6x12x4", NULL),
                 OF(TOLD) | OF(UNTOLD), 1,
                 "told interests 3\ntold max_history 6\ntold item_dim 4\ntold capsule_dim 4\n"
                 "untold projection \"none\"\n");
    assert_found(file_of(RH "capsule.linear.weight 4x4", NULL), OF(UNTOLD), 1,
                 "untold interests\nuntold max_history\nuntold init \"normal:1:1\"\n"
                 "untold dynamic_interests \"none\"\nuntold truncate \"first\"\n");
    assert_found(file_of("a/embedding_weights 9x4; capsule/S 4x4", NULL), OF(UNTOLD), 1,
                 "untold interests\nuntold max_history\nuntold iterations 3\n"
                 "untold init \"easyrec\"\nuntold squash_power 1\nuntold squash_ratio 1\n"
                 "untold logit_scale 20\nuntold dynamic_interests \"trunc_ln\"\n");
}

/* Datawhale's bilinear type 1. */
static void a_map_with_a_part_for_each_interest_is_told_by_its_shape(void **state)
{
    (void)state;
    assert_found(file_of(DW "capsule.linear.weight 4x12", NULL), OF(TOLD) | OF(UNTOLD), 1,
                 "untold bilinear\nuntold init\nuntold max_history\ntold interests 3\n"
                 "told item_dim 4\ntold capsule_dim 4\nuntold projection \"none\"\n");
}

/* Without its weights in the file there is no question whether it is used. */
static void a_projection_that_is_not_there_is_not_asked_for(void **state)
{
    (void)state;
    assert_found(file_of(SC "capsule_network.w 1x6x12x4", NULL), OF(UNTOLD), 1, "");
}

static void tensors_are_told_by_what_they_are_for(void **state)
{
    (void)state;
    assert_found(
        file_of(STATIC "; linear_7.w_0 4x4; linear_7.b_0 4", NULL), OF(TENSOR), 2,
        "tensor item_emb: item vectors\ntensor bilinear_mapping_matrix: map of the capsules\n"
        "tensor routing_logits: routing logits\ntensor linear_7.w_0: projection\n"
        "tensor linear_7.b_0: bias of the projection\n");
    assert_found(file_of(TH "position_embedding 1x6x4; self_atten/dense/kernel 4x16; "
                            "self_atten/dense/bias 16; self_atten/dense_1/kernel 16x3",
                         NULL),
                 OF(TENSOR), 1,
                 "tensor mid_embedding_var: item vectors\ntensor position_embedding: positions\n"
                 "tensor self_atten/dense/kernel: attention, first layer\n"
                 "tensor self_atten/dense/bias: bias of the first layer\n"
                 "tensor self_atten/dense_1/kernel: attention, second layer\n");
}

static void metadata_decide_where_they_speak(void **state)
{
    static const char *const meta[] = {"variant", "pytorch-comirec-mind", "interests", "3", NULL};
    static const char *const no_variant[] = {"interests", "3", "note", "x", NULL};
    static const char *const bad[] = {"variant", "mind", NULL};
    static const char *const quoted[] = {"variant", "\"pytorch-comirec-mind\"", NULL};
    static const char tensors[] = SC "capsule_network.linear.weight 4x4";

    (void)state;
    assert_found(file_of(tensors, meta), OF(VARIANT) | OF(TOLD) | OF(UNTOLD), 1,
                 "variant pytorch-comirec-mind: its metadata say so\nuntold max_history\n"
                 "told interests 3\ntold item_dim 4\ntold capsule_dim 4\n"
                 "untold init \"normal:1:1\"\n");
    assert_found(file_of(tensors, no_variant), OF(TOLD), 1,
                 "told interests 3\ntold item_dim 4\ntold capsule_dim 4\n");
    assert_found(file_of(tensors, quoted), OF(VARIANT), 1,
                 "variant pytorch-comirec-mind: its metadata say so\n");
    assert_found(file_of(tensors, bad), OF(VARIANT) | OF(MISSING), 0, "");
}

/* ---- no model ------------------------------------------------------------------------ */

struct count {
    size_t missing, others;
    bool says_what_is_there;
};

static void count(void *arg, const struct model_finding *f)
{
    struct count *n = arg;

    n->missing += f->kind == FINDING_MISSING;
    n->others += f->kind != FINDING_MISSING;
    if (strcmp(f->name, "thudm-mind") == 0)
        n->says_what_is_there =
            strcmp(f->text,
                   "mid_embedding_var (is there), capsule_network/bilinear/dense/kernel") == 0;
}

static void where_nothing_fits_what_was_looked_for_is_told(void **state)
{
    struct file f = file_of("mid_embedding_var 9x4; other 4x4", NULL);
    struct count n = {0, 0, false};

    (void)state;
    assert_int_equal(model_guess(f.c, NULL, count, &n), 0);
    assert_true(n.missing > 10);
    assert_int_equal(n.others, 0);
    assert_true(n.says_what_is_there);
    file_clear(&f);
}

#define CHANGES                                                                             \
    " holds routing logits that every call changes (DeepMatch before 0.2.1, fun-rec): its " \
    "interests depend on who was asked for before, nobody can repeat them\n"

/* As DeepMatch's and fun-rec's files have them: HDF5's names, and those of a TensorFlow 2 one. */
static void logits_that_every_call_changes_are_refused_with_the_reason(void **state)
{
    (void)state;
    assert_found(file_of("sparse_seq_emb_hist_movie_id/embeddings 9x4; capsule_layer/S 4x4; "
                         "capsule_layer/B 1x3x6",
                         NULL),
                 OF(VARIANT) | OF(REFUSAL), 1,
                 "variant deepmatch-mind: has sparse_seq_emb_hist_movie_id/embeddings [9,4] and "
                 "capsule_layer/S [4,4]\n"
                 "refused deepmatch-mind: f: tensor capsule_layer/B" CHANGES);
    assert_found(
        file_of("movie_id/embeddings 9x4; capsule_layer_1/S 4x4; capsule_layer_1/B 1x3x6", NULL),
        OF(VARIANT) | OF(REFUSAL), 0,
        "refused deepmatch-mind: f: tensor capsule_layer_1/B" CHANGES);
    assert_found(file_of("layer_with_weights-4/bilinear_mapping_matrix 4x4; "
                         "layer_with_weights-4/routing_logits 1x3x6",
                         NULL),
                 OF(VARIANT) | OF(REFUSAL), 0,
                 "refused deepmatch-mind: f: tensor layer_with_weights-4/routing_logits" CHANGES);
}

static void what_would_not_load_says_so(void **state)
{
    (void)state;
    assert_found(file_of("a/embedding_weights 9x4; b/embedding_weights 9x4; capsule/S 4x4", NULL),
                 OF(REFUSAL) | OF(TENSOR), 1,
                 "refused easyrec-mind: f: tensors a/embedding_weights and b/embedding_weights can "
                 "both be the item vectors of variant easyrec-mind; keep only the one that is\n");
    assert_found(file_of("mid_embedding_var 0x4; capsule_network/bilinear/dense/kernel 4x4", NULL),
                 OF(REFUSAL), 1,
                 "refused thudm-mind: f: tensor mid_embedding_var holds no values, a size of it is "
                 "0\n");
}

/* ---- names of PaddleRec's static graph ------------------------------------------------- */

/* The interests of one user. */
static void interests_of(const char *tensors, const char *variant, float out[K * D])
{
    static const uint32_t rows[] = {3, 5, 2, 8};
    struct file f = file_of(tensors, NULL);
    struct model_scratch *s = model_scratch_new();
    struct model_input in = {.rows = rows, .n_rows = 4, .dynamic = -1, .interests = out};
    struct err err = ERR_INIT;
    struct model_options o;
    struct model *m;

    assert_int_equal(model_options_variant(&o, variant, &err), 0);
    m = model_open(f.c, &o, NULL, &err);
    assert_string_equal(err.text, "");
    model_interests(m, s, &in, 1);
    model_free(m);
    model_scratch_free(s);
    file_clear(&f);
}

static void a_static_graph_s_file_is_the_same_model(void **state)
{
    static const char *const variants[] = {"paddlerec-mind", "paddlerec-mind-2022",
                                           "paddlerec-mind-2021", "paddlerec-mind-2022b"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(variants); i++) {
        bool relu = i < 2;
        float a[K * D], b[K * D];

        interests_of(relu ? PADDLE PADDLE_CAPSULE PADDLE_RELU : PADDLE PADDLE_CAPSULE, variants[i],
                     a);
        interests_of(relu ? STATIC "; linear_0.w_0 4x4; linear_0.b_0 4" : STATIC, variants[i], b);
        assert_memory_equal(a, b, sizeof a);
    }
}

/* The manifest names the one tensor that is there. */
static void keep_init(void *arg, const char *key, const char *json)
{
    if (strcmp(key, "init") == 0)
        snprintf(arg, 64, "%s", json);
}

static void the_first_of_several_names_that_is_there_is_kept(void **state)
{
    struct file f = file_of(STATIC, NULL);
    struct err err = ERR_INIT;
    struct model_options o;
    struct model *m;
    char init[64] = "";

    (void)state;
    assert_int_equal(model_options_variant(&o, "paddlerec-mind-2021", &err), 0);
    m = model_open(f.c, &o, NULL, &err);
    assert_non_null(m);
    model_options_each(model_options(m), keep_init, init);
    assert_string_equal(init, "\"tensor:routing_logits\"");
    model_free(m);
    assert_int_equal(model_options_set(&o, "init", "tensor:a|b", &err), 0);
    assert_null(model_open(f.c, &o, NULL, &err));
    assert_string_equal(err.text, "f: no tensor a or b, which init names");
    file_clear(&f);
}

/* ---- biases ---------------------------------------------------------------------------- */

static void a_bias_that_is_there_is_used(void **state)
{
    static const struct {
        const char *variant, *tensors, *bias;
    } cases[] = {
        {"thudm-mind", TH "capsule_network/bilinear/dense/kernel 4x4",
         "; capsule_network/bilinear/dense/bias 4"},
        {"datawhale-mind", DW "capsule.linear.weight 4x4", "; capsule.linear.bias 4"},
        {"pytorch-comirec-mind", SC "capsule_network.linear.weight 4x4",
         "; capsule_network.linear.bias 4"},
        {"rechub-mind", RH "capsule.linear.weight 4x4", "; capsule.linear.bias 4"},
        {"pytorch-comirec-sa",
         SC "position_embedding 1x6x4; linear1.0.weight 16x4; "
            "linear2.weight 3x16",
         "; linear2.bias 3; linear1.0.bias 16"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char *with = xasprintf("%s%s", cases[i].tensors, cases[i].bias);
        struct file plain = file_of(cases[i].tensors, NULL), biased = file_of(with, NULL);
        struct listing a = {BUF_INIT, OF(TENSOR)}, b = {BUF_INIT, OF(TENSOR)};

        model_guess(plain.c, NULL, put_finding, &a);
        model_guess(biased.c, NULL, put_finding, &b);
        assert_null(strstr(buf_cstr(&a.text), "bias"));
        assert_non_null(strstr(buf_cstr(&b.text), "bias of the "));
        buf_clear(&a.text);
        buf_clear(&b.text);
        file_clear(&plain);
        file_clear(&biased);
        free(with);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_codebase_is_told_by_the_names_of_its_file),
        cmocka_unit_test(what_is_asked_for_is_all_that_loading_needs),
        cmocka_unit_test(the_reason_names_the_tensors_that_decide),
        cmocka_unit_test(what_shapes_tell_and_what_they_do_not),
        cmocka_unit_test(a_map_with_a_part_for_each_interest_is_told_by_its_shape),
        cmocka_unit_test(a_projection_that_is_not_there_is_not_asked_for),
        cmocka_unit_test(tensors_are_told_by_what_they_are_for),
        cmocka_unit_test(metadata_decide_where_they_speak),
        cmocka_unit_test(where_nothing_fits_what_was_looked_for_is_told),
        cmocka_unit_test(logits_that_every_call_changes_are_refused_with_the_reason),
        cmocka_unit_test(what_would_not_load_says_so),
        cmocka_unit_test(a_static_graph_s_file_is_the_same_model),
        cmocka_unit_test(the_first_of_several_names_that_is_there_is_kept),
        cmocka_unit_test(a_bias_that_is_there_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
