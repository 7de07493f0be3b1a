/* variant.c - the public codebases: where each keeps its tensors, and what its models set the
 * options to. A variant is a line of the options' own text: what docs/models.md says of a codebase
 * can be read off its row. */
#include "model_impl.h"

#include <assert.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

/* ---- codebases ----------------------------------------------------------------- */

/* Names as each code saves them; | stands between two for the same. Towers: tensors of what its
 * code has after the capsules, or before. Feature names are the user's own, a parallel trainer puts
 * its prefix in front. */
static const struct codebase thudm = {
    .items = "mid_embedding_var",
    .linear = "capsule_network/bilinear/dense/kernel",
    .linear_bias = "capsule_network/bilinear/dense/bias",
    .per_position = "capsule_network/bilinear/weights",
    .positions = "position_embedding",
    .hidden = "self_atten/dense/kernel",
    .hidden_bias = "self_atten/dense/bias",
    .heads = "self_atten/dense_1/kernel",
    .heads_bias = "self_atten/dense_1/bias",
    .projection = "capsule_network/proj/kernel",
    .projection_bias = "capsule_network/proj/bias",
    .projection_form = PROJECTION_RELU,
    .projection_means_used = true,
    .three_passes = true,
};
/* Its own spelling; and the names of its static graph, which numbers its linear layers. */
static const struct codebase paddlerec = {
    .items = "item_emb.weight|item_emb",
    .linear = "capsual_layer.bilinear_mapping_matrix|bilinear_mapping_matrix",
    .projection = "capsual_layer.relu_layer.weight|linear_*.w_0",
    .projection_bias = "capsual_layer.relu_layer.bias|linear_*.b_0",
    .projection_form = PROJECTION_RELU,
    .projection_means_used = true,
};
static const struct codebase datawhale = {
    .items = "item_emb.weight",
    .linear = "capsule.linear.weight",
    .linear_bias = "capsule.linear.bias",
    .per_position = "capsule.w",
    .projection = "capsule.relu.0.weight",
    .projection_bias = "capsule.relu.0.bias",
    .projection_form = PROJECTION_RELU,
    .three_passes = true,
};
static const struct codebase pytorch_comirec = {
    .items = "embeddings.weight",
    .linear = "capsule_network.linear.weight",
    .linear_bias = "capsule_network.linear.bias",
    .per_position = "capsule_network.w",
    .positions = "position_embedding",
    .hidden = "linear1.0.weight",
    .hidden_bias = "linear1.0.bias",
    .heads = "linear2.weight",
    .heads_bias = "linear2.bias",
    .projection = "capsule_network.relu.0.weight",
    .projection_bias = "capsule_network.relu.0.bias",
    .projection_form = PROJECTION_RELU,
    .linear_out_in = true,
    .attention_out_in = true,
    .projection_out_in = true,
    .three_passes = true,
};
/* What it projects with takes the user's features too, where there are any. */
static const struct codebase rechub = {
    .items = "*embedding.embed_dict.*.weight",
    .linear = "*capsule.linear.weight",
    .linear_bias = "*capsule.linear.bias",
    .per_position = "*capsule.w",
    .hidden = "*multi_interest_sa.W1",
    .heads = "*multi_interest_sa.W2",
    .projection = "*convert_user_weight",
    .projection_form = PROJECTION_LINEAR,
    .projection_takes_features = true,
    .linear_out_in = true,
    .three_passes = true,
};
static const struct codebase easyrec = {
    .items = "*embedding_weights",
    .linear = "*capsule/S",
    .towers = {"*pre_capsule_dnn/*", "*user_fea_bn/*", "*user_dnn/*", "*concat_dnn/*",
               "*item_dnn/*"},
    .norm_floor = 1e-6f,
};
static const struct codebase torcheasyrec = {
    .items = "*embedding_group.*.weight",
    .linear = "*_capsule_layer.bilinear_matrix",
    .towers = {"*user_tower.user_mlp*", "*_hist_seq_mlp*", "*_concat_mlp*", "*user_tower.output.*",
               "*item_tower.mlp*", "*item_tower.output.*"},
};
/* "LAYER/WEIGHT", as docs/models.md names them. A batch normalisation inside the attention is a
 * tower too. */
static const struct codebase deepmatch = {
    .items = "*_emb_*/embeddings",
    .linear = "capsule_layer*/S",
    .positions = "position_encoding*/lookup_table",
    .hidden = "user_dnn_attn/kernel0",
    .hidden_bias = "user_dnn_attn/bias0",
    .heads = "user_dnn_attn/kernel1",
    .heads_bias = "user_dnn_attn/bias1",
    .towers = {"user_dnn/*", "user_dnn_attn/gamma*"},
    .changing_logits = "*capsule_layer*/B|*/routing_logits", /* of Keras, of TensorFlow 2 */
};

/* ---- variants ------------------------------------------------------------------ */

/* Pairs key=value: what most codebases share, what one changes, what a variant changes. A
 * projection that is not named is the one of the checkpoint. */
#define BOTH_KINDS                                                   \
    "padding_vector=zero normalize_user=false normalize_item=false " \
    "dynamic_interests=none history_order=oldest_first truncate=last padding_by=length "
#define CAPSULES                                                                             \
    BOTH_KINDS                                                                               \
    "bilinear=shared iterations=3 softmax=interest mask=after update=add "                   \
    "mid_activation=squash squash=eps_inside squash_eps=1e-9 squash_power=1 squash_ratio=1 " \
    "logit_scale=0 init=zeros "
#define ATTENTION \
    BOTH_KINDS "attention_positions=none attention_values=items attention_activation=none "
#define PADDLEREC                           \
    CAPSULES "mask=before squash_eps=1e-8 " \
             "init=tensor:capsual_layer.routing_logits|routing_logits "
#define DATAWHALE CAPSULES "softmax=sequence projection=none normalize_user=true "
#define PYTORCH CAPSULES "softmax=sequence projection=none "
#define RECHUB \
    "padding_vector=live padding_by=id truncate=first normalize_user=true normalize_item=true "
#define ALIBABA \
    CAPSULES    \
    "projection=none truncate=first normalize_user=true normalize_item=true logit_scale=20 "
#define DEEPMATCH "projection=none padding_vector=live history_order=newest_first "

static const struct variant variants[] = {
    {"thudm-mind", MODEL_CAPSULES, &thudm, CAPSULES "init=truncated_normal:1:1",
     "interests max_history init", NULL},
    {"thudm-comirec-dr", MODEL_CAPSULES, &thudm, CAPSULES "bilinear=per_position", "", NULL},
    {"thudm-comirec-sa", MODEL_ATTENTION, &thudm, ATTENTION "attention_positions=add", "", NULL},
    {"paddlerec-mind", MODEL_CAPSULES, &paddlerec,
     PADDLEREC "softmax=sequence,sequence,interest projection=relu", "iterations",
     "since April 2023: a softmax over the history, in the last pass over the interests"},
    {"paddlerec-mind-2022", MODEL_CAPSULES, &paddlerec, PADDLEREC "projection=relu", "iterations",
     "May 2022 to April 2023: a softmax over the interests in every pass"},
    {"paddlerec-mind-2022b", MODEL_CAPSULES, &paddlerec,
     PADDLEREC "update=add_clipped projection=none", "iterations",
     "two weeks of May 2022: a softmax over the interests in every pass"},
    {"paddlerec-mind-2021", MODEL_CAPSULES, &paddlerec,
     PADDLEREC "softmax=sequence update=add_clipped projection=none", "iterations",
     "March 2021 to May 2022: a softmax over the history in every pass"},
    {"datawhale-mind", MODEL_CAPSULES, &datawhale,
     DATAWHALE "bilinear=shared_interleaved init=normal:1:1",
     "interests max_history init projection", NULL},
    {"datawhale-comirec-dr", MODEL_CAPSULES, &datawhale, DATAWHALE "bilinear=per_position",
     "projection", NULL},
    {"pytorch-comirec-mind", MODEL_CAPSULES, &pytorch_comirec, PYTORCH "init=normal:1:1",
     "interests max_history init projection", NULL},
    {"pytorch-comirec-dr", MODEL_CAPSULES, &pytorch_comirec, PYTORCH "bilinear=per_position",
     "projection", NULL},
    {"pytorch-comirec-sa", MODEL_ATTENTION, &pytorch_comirec,
     ATTENTION "attention_positions=add projection=none", "", NULL},
    {"rechub-mind", MODEL_CAPSULES, &rechub, CAPSULES RECHUB "softmax=sequence init=normal:1:1",
     "interests max_history init truncate dynamic_interests", NULL},
    {"rechub-comirec-dr", MODEL_CAPSULES, &rechub,
     CAPSULES RECHUB "softmax=sequence bilinear=per_position", "truncate", NULL},
    {"rechub-comirec-sa", MODEL_ATTENTION, &rechub, ATTENTION RECHUB, "max_history truncate", NULL},
    {"easyrec-mind", MODEL_CAPSULES, &easyrec,
     ALIBABA "init=easyrec update=replace_scaled mid_activation=l2 squash=clamp_square "
             "squash_eps=1e-8 dynamic_interests=trunc_ln",
     "interests max_history init iterations logit_scale squash_power squash_ratio "
     "dynamic_interests",
     NULL},
    {"torcheasyrec-mind", MODEL_CAPSULES, &torcheasyrec,
     ALIBABA "init=normal:1:1 update=probability_add mid_activation=none squash=clamp_length "
             "squash_eps=1e-7 dynamic_interests=ceil_log2",
     "interests max_history init iterations logit_scale squash_power dynamic_interests", NULL},
    {"deepmatch-mind", MODEL_CAPSULES, &deepmatch, CAPSULES DEEPMATCH "init=truncated_normal:1:1",
     "interests max_history init iterations dynamic_interests", NULL},
    {"deepmatch-comirec-sa", MODEL_ATTENTION, &deepmatch,
     ATTENTION DEEPMATCH "attention_positions=add_scaled attention_values=inputs "
                         "attention_activation=tanh",
     "", NULL},
};

static const struct variant *find_variant(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        if (strcmp(variants[i].name, name) == 0)
            return &variants[i];
    return NULL;
}

static void apply_pairs(struct model_options *o, const char *pairs)
{
    struct err err = ERR_INIT;
    char *copy = xstrdup(pairs), *rest = copy, *pair;

    while ((pair = strsep(&rest, " ")) != NULL) {
        char *value = strchr(pair, '=');
        int result;

        if (value == NULL) /* two blanks, or one at the end */
            continue;
        *value++ = '\0';
        result = model_options_set(o, pair, value, &err);
        assert(result == 0);
        (void)result;
    }
    free(copy);
}

static void set_all(struct model_options *o, const struct variant *v)
{
    *o =
        (struct model_options){.variant = v->name, .kind = v->kind, .projection = PROJECTION_UNSET};
    apply_pairs(o, v->options);
}

int model_options_variant(struct model_options *o, const char *variant, struct err *err)
{
    const struct variant *v = find_variant(variant);
    struct buf names = BUF_INIT;

    if (v != NULL) {
        set_all(o, v);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        buf_printf(&names, i > 0 ? " %s" : "%s", variants[i].name);
    err_set(err, ERR_USAGE, "there is no model variant \"%.60s\"; the variants are %s", variant,
            buf_cstr(&names));
    buf_clear(&names);
    return -1;
}

const struct codebase *variant_codebase(const char *variant)
{
    const struct variant *v = find_variant(variant);

    assert(v != NULL);
    return v->codebase;
}

/* ---- which variant a checkpoint is of -------------------------------------------- */

static bool name_fits(const char *name, const char *patterns)
{
    char one[128];

    for (const char *p = patterns;; p++) {
        size_t len = strcspn(p, "|");

        assert(len < sizeof one);
        memcpy(one, p, len);
        one[len] = '\0';
        if (fnmatch(one, name, 0) == 0)
            return true;
        p += len;
        if (*p == '\0')
            return false;
    }
}

const struct tensor *variant_tensor(const struct ckpt *c, const char *patterns, size_t nth)
{
    for (size_t i = 0; i < ckpt_count(c); i++)
        if (name_fits(ckpt_at(c, i)->name, patterns) && nth-- == 0)
            return ckpt_at(c, i);
    return NULL;
}

void variant_put_names(struct buf *b, const char *patterns)
{
    for (const char *p = patterns; *p != '\0'; p++)
        if (*p == '|')
            buf_puts(b, " or ");
        else
            buf_putc(b, *p);
}

static bool has(const struct ckpt *c, const char *pattern)
{
    return pattern != NULL && variant_tensor(c, pattern, 0) != NULL;
}

const char *variant_main(const struct variant *v)
{
    struct model_options o;

    set_all(&o, v);
    if (v->kind == MODEL_ATTENTION)
        return v->codebase->hidden;
    return o.bilinear == BILINEAR_PER_POSITION ? v->codebase->per_position : v->codebase->linear;
}

bool variant_fits(const struct variant *v, const struct ckpt *c)
{
    const struct codebase *names = v->codebase;
    struct model_options o;

    if (!has(c, names->items) || !has(c, variant_main(v)))
        return false;
    set_all(&o, v);
    return !names->projection_means_used || o.projection == PROJECTION_UNSET ||
           has(c, names->projection) == (o.projection != PROJECTION_NONE);
}

const struct variant *variant_row(size_t i)
{
    return i < ARRAY_LEN(variants) ? &variants[i] : NULL;
}

int variant_detect(const struct ckpt *c, const char **variant, struct err *err)
{
    struct buf names = BUF_INIT;
    int result = 0, n = 0;

    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        if (variant_fits(&variants[i], c)) {
            *variant = variants[i].name;
            buf_printf(&names, n++ > 0 ? " or %s" : "%s", variants[i].name);
        }
    if (n > 1)
        result = err_set(err, ERR_USAGE,
                         "%s: its tensors do not tell which model it is: say so with "
                         "--model.variant %s (docs/models.md)",
                         ckpt_name(c), buf_cstr(&names));
    buf_clear(&names);
    return result;
}
