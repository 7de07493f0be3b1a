/* variant.c - the vocabulary of model options, and what every public codebase sets them to.
 *
 * One table of keys serves parsing, printing and bounds; a variant is a line of that same text, so
 * a row can be compared with model-semantics.md section 5 word by word. */
#include "model_impl.h"

#include <assert.h>
#include <jansson.h>
#include <string.h>

/* ---- words --------------------------------------------------------------------- */

/* In the order of the enums in model.h; NULL ends a list. */
static const char *const bilinears[] = {"shared", "shared_interleaved", "per_interest",
                                        "per_position", NULL};
static const char *const axes[] = {"interest", "sequence", NULL};
static const char *const masks[] = {"before", "after", NULL};
static const char *const padding_vectors[] = {"zero", "live", NULL};
static const char *const inits[] = {"zeros",   "tensor",  "file", "normal", "truncated_normal",
                                    "uniform", "easyrec", NULL};
static const char *const updates[] = {"add", "add_clipped", "replace_scaled", "probability_add",
                                      NULL};
static const char *const activations[] = {"squash", "l2", "none", NULL};
static const char *const squashes[] = {"eps_inside", "clamp_square", "clamp_length", NULL};
static const char *const projections[] = {"none", "relu", NULL};
static const char *const dynamics[] = {"none",     "floor_log2",    "ceil_log2",
                                       "trunc_ln", "floor_log2_1p", NULL};
static const char *const orders[] = {"oldest_first", "newest_first", NULL};
static const char *const truncates[] = {"last", "first", NULL};
static const char *const padding_bys[] = {"length", "id", NULL};

#define INIT_FORMS                                                                \
    "zeros, tensor:NAME, file:PATH, normal:SEED:STD, truncated_normal:SEED:STD, " \
    "uniform:SEED:STD, easyrec"

/* ---- keys ---------------------------------------------------------------------- */

enum kind { KIND_WORD, KIND_INT, KIND_REAL, KIND_BOOL, KIND_SOFTMAX, KIND_INIT, KIND_VARIANT };

struct key {
    const char *name;
    enum kind kind;
    size_t at;                /* offset in struct model_options */
    const char *const *words; /* KIND_WORD */
    double min, max;          /* KIND_INT, KIND_REAL */
    bool is_alias;            /* read, never printed */
};

#define AT(field) offsetof(struct model_options, field)

/* squash_eps: below 1e-30 it would vanish beside the square of a float. */
static const struct key keys[] = {
    {"variant", KIND_VARIANT, 0, NULL, 0, 0, false},
    {"bilinear", KIND_WORD, AT(bilinear), bilinears, 0, 0, false},
    {"interests", KIND_INT, AT(interests), NULL, 1, MODEL_INTERESTS_MAX, false},
    {"max_history", KIND_INT, AT(max_history), NULL, 1, MODEL_HISTORY_MAX, false},
    {"item_dim", KIND_INT, AT(item_dim), NULL, 1, MODEL_DIM_MAX, false},
    {"capsule_dim", KIND_INT, AT(capsule_dim), NULL, 1, MODEL_DIM_MAX, false},
    {"iterations", KIND_INT, AT(iterations), NULL, 1, MODEL_PASSES_MAX, false},
    {"softmax", KIND_SOFTMAX, AT(softmax), axes, 0, 0, false},
    {"mask", KIND_WORD, AT(mask), masks, 0, 0, false},
    {"padding_vector", KIND_WORD, AT(padding_vector), padding_vectors, 0, 0, false},
    {"init", KIND_INIT, AT(init), inits, 0, 0, false},
    {"update", KIND_WORD, AT(update), updates, 0, 0, false},
    {"mid_activation", KIND_WORD, AT(mid_activation), activations, 0, 0, false},
    {"squash", KIND_WORD, AT(squash), squashes, 0, 0, false},
    {"squash_eps", KIND_REAL, AT(squash_eps), NULL, 1e-30, 1, false},
    {"squash_power", KIND_REAL, AT(squash_power), NULL, 0.01, 100, false},
    {"squash_ratio", KIND_REAL, AT(squash_ratio), NULL, 1e-6, 1e6, false},
    {"logit_scale", KIND_REAL, AT(logit_scale), NULL, 0, 1e6, false},
    {"projection", KIND_WORD, AT(projection), projections, 0, 0, false},
    {"relu_layer", KIND_WORD, AT(projection), projections, 0, 0, true},
    {"normalize_user", KIND_BOOL, AT(normalize_user), NULL, 0, 0, false},
    {"normalize_item", KIND_BOOL, AT(normalize_item), NULL, 0, 0, false},
    {"dynamic_interests", KIND_WORD, AT(dynamic_interests), dynamics, 0, 0, false},
    {"history_order", KIND_WORD, AT(history_order), orders, 0, 0, false},
    {"truncate", KIND_WORD, AT(truncate), truncates, 0, 0, false},
    {"padding_by", KIND_WORD, AT(padding_by), padding_bys, 0, 0, false},
};

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(keys); i++)
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    return NULL;
}

bool model_options_is_key(const char *key)
{
    return find_key(key) != NULL;
}

/* ---- values -------------------------------------------------------------------- */

static int find_word(const char *const *words, const char *s, size_t len)
{
    for (int i = 0; words[i] != NULL; i++)
        if (strlen(words[i]) == len && memcmp(words[i], s, len) == 0)
            return i;
    return -1;
}

/* "key: a value that is not one of: a, b" */
static int refuse(struct err *err, const char *key, const char *value, const char *allowed)
{
    return err_set(err, ERR_USAGE, "%s: \"%.100s\" is not %s", key, value, allowed);
}

static int refuse_word(struct err *err, const char *key, const char *value,
                       const char *const *words)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; words[i] != NULL; i++) {
        if (i > 0)
            buf_puts(&b, words[i + 1] != NULL ? ", " : " or ");
        buf_puts(&b, words[i]);
    }
    refuse(err, key, value, buf_cstr(&b));
    buf_clear(&b);
    return -1;
}

static int refuse_range(struct err *err, const struct key *k, const char *value)
{
    char range[64];

    snprintf(range, sizeof range, "%s from %g to %g",
             k->kind == KIND_INT ? "a whole number" : "a number", k->min, k->max);
    return refuse(err, k->name, value, range);
}

/* Enums are stored as the unsigned integers they are. */
static void put_word(struct model_options *o, size_t at, int word)
{
    unsigned v = (unsigned)word;

    _Static_assert(sizeof(enum model_bilinear) == sizeof v, "enums are unsigned ints");
    memcpy((char *)o + at, &v, sizeof v);
}

static int get_word(const struct model_options *o, size_t at)
{
    unsigned v;

    memcpy(&v, (const char *)o + at, sizeof v);
    return (int)v;
}

static int set_int(struct model_options *o, const struct key *k, const char *value, struct err *err)
{
    int64_t v;
    int narrow;

    if (!parse_i64(value, strlen(value), &v) || (double)v < k->min || (double)v > k->max)
        return refuse_range(err, k, value);
    narrow = (int)v;
    memcpy((char *)o + k->at, &narrow, sizeof narrow);
    return 0;
}

static int set_real(struct model_options *o, const struct key *k, const char *value,
                    struct err *err)
{
    double v;

    if (!parse_f64(value, strlen(value), &v) || v < k->min || v > k->max)
        return refuse_range(err, k, value);
    memcpy((char *)o + k->at, &v, sizeof v);
    return 0;
}

static int set_bool(struct model_options *o, const struct key *k, const char *value,
                    struct err *err)
{
    bool v;

    if (!parse_bool(value, strlen(value), &v))
        return refuse(err, k->name, value, "true or false");
    memcpy((char *)o + k->at, &v, sizeof v);
    return 0;
}

/* One word for all passes, or a list with one per pass: a,b,c or ["a","b","c"]. */
static int set_softmax(struct model_options *o, const struct key *k, const char *value,
                       struct err *err)
{
    static const char separators[] = "[]\", \t";
    enum model_axis list[MODEL_PASSES_MAX];
    int n = 0;

    for (const char *p = value + strspn(value, separators); *p != '\0';) {
        size_t len = strcspn(p, separators);
        int word = find_word(k->words, p, len);

        if (word == -1 || n == MODEL_PASSES_MAX)
            return refuse(err, k->name, value,
                          "interest, sequence or a list of at most 16 of them, one per pass");
        list[n++] = (enum model_axis)word;
        p += len;
        p += strspn(p, separators);
    }
    if (n == 0)
        return refuse(err, k->name, value, "interest, sequence or a list of them");
    o->softmax_passes = n == 1 && value[0] != '[' ? 0 : n;
    for (int i = 0; i < MODEL_PASSES_MAX; i++)
        o->softmax[i] = list[i < n ? i : n - 1];
    return 0;
}

/* SEED:STD */
static bool parse_seed_std(const char *s, struct model_options *o)
{
    size_t seed_len = strcspn(s, ":");

    return s[seed_len] == ':' && parse_u64(s, seed_len, &o->init_seed) &&
           parse_f64(s + seed_len + 1, strlen(s + seed_len + 1), &o->init_std) && o->init_std > 0 &&
           o->init_std <= 1e6;
}

static int set_init(struct model_options *o, const struct key *k, const char *value,
                    struct err *err)
{
    struct model_options next = *o;
    size_t len = strcspn(value, ":");
    const char *rest = value[len] == ':' ? value + len + 1 : NULL;
    int word = find_word(k->words, value, len);
    bool good = false;

    next.init = (enum model_init)word;
    next.init_name[0] = '\0';
    next.init_seed = 0;
    next.init_std = 0;
    switch (word) {
    case INIT_ZEROS:
    case INIT_EASYREC: /* its own fixed seed, standard deviation 1 */
        good = rest == NULL;
        break;
    case INIT_TENSOR:
    case INIT_FILE:
        good = rest != NULL && *rest != '\0' && strlen(rest) < sizeof next.init_name;
        if (good)
            strcpy(next.init_name, rest);
        break;
    case INIT_NORMAL:
    case INIT_TRUNCATED_NORMAL:
    case INIT_UNIFORM:
        good = rest != NULL && parse_seed_std(rest, &next);
        break;
    default:
        break;
    }
    if (!good)
        return refuse(err, k->name, value, "one of " INIT_FORMS);
    *o = next;
    return 0;
}

/* A JSON string is taken without its quotes; everything else as it stands. Caller frees. */
static char *plain_text(const char *value)
{
    json_t *v = value[0] == '"' ? json_loads(value, JSON_DECODE_ANY, NULL) : NULL;
    char *text = xstrdup(json_is_string(v) ? json_string_value(v) : value);

    json_decref(v);
    return text;
}

static int set_key(struct model_options *o, const struct key *k, const char *value, struct err *err)
{
    int word;

    switch (k->kind) {
    case KIND_VARIANT:
        return model_options_variant(o, value, err);
    case KIND_INT:
        return set_int(o, k, value, err);
    case KIND_REAL:
        return set_real(o, k, value, err);
    case KIND_BOOL:
        return set_bool(o, k, value, err);
    case KIND_SOFTMAX:
        return set_softmax(o, k, value, err);
    case KIND_INIT:
        return set_init(o, k, value, err);
    case KIND_WORD:
        break;
    }
    word = find_word(k->words, value, strlen(value));
    if (word == -1)
        return refuse_word(err, k->name, value, k->words);
    put_word(o, k->at, word);
    return 0;
}

int model_options_set(struct model_options *o, const char *key, const char *value, struct err *err)
{
    const struct key *k = find_key(key);
    char *text;
    int result;

    if (k == NULL)
        return err_set(err, ERR_USAGE, "%.100s: there is no such model option", key);
    text = plain_text(value);
    result = set_key(o, k, text, err);
    free(text);
    return result;
}

/* ---- variants ------------------------------------------------------------------ */

/* model-semantics.md section 2.1 */
static const struct codebase thudm = {
    .items = "mid_embedding_var",
    .linear = "capsule_network/bilinear/dense/kernel",
    .linear_bias = "capsule_network/bilinear/dense/bias",
    .per_position = "capsule_network/bilinear/weights",
    .projection = "capsule_network/proj/kernel",
    .projection_bias = "capsule_network/proj/bias",
    .three_passes = true,
};
static const struct codebase paddlerec = {
    .items = "item_emb.weight",
    .linear = "capsual_layer.bilinear_mapping_matrix", /* its own spelling */
    .projection = "capsual_layer.relu_layer.weight",
    .projection_bias = "capsual_layer.relu_layer.bias",
};
static const struct codebase datawhale = {
    .items = "item_emb.weight",
    .linear = "capsule.linear.weight",
    .linear_bias = "capsule.linear.bias",
    .per_position = "capsule.w",
    .projection = "capsule.relu.0.weight",
    .projection_bias = "capsule.relu.0.bias",
    .three_passes = true,
};
static const struct codebase pytorch_comirec = {
    .items = "embeddings.weight",
    .linear = "capsule_network.linear.weight",
    .linear_bias = "capsule_network.linear.bias",
    .per_position = "capsule_network.w",
    .projection = "capsule_network.relu.0.weight",
    .projection_bias = "capsule_network.relu.0.bias",
    .linear_out_in = true,
    .three_passes = true,
};
static const struct codebase self_attention = {.missing = "self-attention is not implemented"};
static const struct codebase user_tower = {.missing = "its user tower is not implemented"};
static const struct codebase two_towers = {.missing = "its two towers are not implemented"};

/* Pairs key=value: what most codebases share, what one changes, what a variant changes. */
#define COMMON                                                                                 \
    "bilinear=shared iterations=3 softmax=interest mask=after padding_vector=zero update=add " \
    "mid_activation=squash squash=eps_inside squash_eps=1e-9 squash_power=1 squash_ratio=1 "   \
    "logit_scale=0 projection=none normalize_user=false normalize_item=false "                 \
    "dynamic_interests=none history_order=oldest_first truncate=last padding_by=length "       \
    "init=zeros "
#define PADDLEREC COMMON "mask=before squash_eps=1e-8 init=tensor:capsual_layer.routing_logits "
#define DATAWHALE COMMON "softmax=sequence normalize_user=true "
#define PYTORCH COMMON "softmax=sequence "
#define RECHUB                                                                  \
    COMMON "softmax=sequence padding_vector=live padding_by=id truncate=first " \
           "normalize_user=true normalize_item=true "
#define ALIBABA COMMON "truncate=first normalize_user=true normalize_item=true logit_scale=20 "

static const struct variant {
    const char *name;
    const struct codebase *codebase;
    const char *options;
} variants[] = {
    {"thudm-mind", &thudm, COMMON "init=truncated_normal:1:1"},
    {"thudm-comirec-dr", &thudm, COMMON "bilinear=per_position"},
    {"thudm-comirec-sa", &self_attention, COMMON},
    {"paddlerec-mind", &paddlerec, PADDLEREC "softmax=sequence,sequence,interest projection=relu"},
    {"paddlerec-mind-2022", &paddlerec, PADDLEREC "projection=relu"},
    {"paddlerec-mind-2022b", &paddlerec, PADDLEREC "update=add_clipped"},
    {"paddlerec-mind-2021", &paddlerec, PADDLEREC "softmax=sequence update=add_clipped"},
    {"datawhale-mind", &datawhale, DATAWHALE "bilinear=shared_interleaved init=normal:1:1"},
    {"datawhale-comirec-dr", &datawhale, DATAWHALE "bilinear=per_position"},
    {"pytorch-comirec-mind", &pytorch_comirec, PYTORCH "init=normal:1:1"},
    {"pytorch-comirec-dr", &pytorch_comirec, PYTORCH "bilinear=per_position"},
    {"pytorch-comirec-sa", &self_attention, COMMON},
    {"rechub-mind", &user_tower, RECHUB "init=normal:1:1"},
    {"rechub-comirec-dr", &user_tower, RECHUB "bilinear=per_position"},
    {"rechub-comirec-sa", &self_attention, COMMON "padding_by=id truncate=first"},
    {"easyrec-mind", &two_towers,
     ALIBABA "init=easyrec update=replace_scaled mid_activation=l2 squash=clamp_square "
             "squash_eps=1e-8 dynamic_interests=trunc_ln"},
    {"torcheasyrec-mind", &two_towers,
     ALIBABA "init=normal:1:1 update=probability_add mid_activation=none squash=clamp_length "
             "squash_eps=1e-7 dynamic_interests=ceil_log2"},
    {"deepmatch-mind", &user_tower,
     COMMON "padding_vector=live init=truncated_normal:1:1 history_order=newest_first"},
    {"deepmatch-comirec-sa", &self_attention, COMMON "history_order=newest_first"},
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

int model_options_variant(struct model_options *o, const char *variant, struct err *err)
{
    const struct variant *v = find_variant(variant);
    struct buf names = BUF_INIT;

    if (v != NULL) {
        *o = (struct model_options){.variant = v->name};
        apply_pairs(o, v->options);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_LEN(variants); i++)
        buf_printf(&names, i > 0 ? " %s" : "%s", variants[i].name);
    err_set(err, ERR_USAGE, "there is no model variant \"%.60s\"; the variants are %s", variant,
            buf_cstr(&names));
    buf_clear(&names);
    return -1;
}

const struct codebase *variant_codebase(const char *variant, struct err *err)
{
    const struct variant *v = find_variant(variant);

    assert(v != NULL);
    if (v->codebase->missing != NULL) {
        err_set(err, ERR_USAGE, "models of variant %s cannot be loaded yet: %s", variant,
                v->codebase->missing);
        return NULL;
    }
    return v->codebase;
}

/* ---- all options at once ------------------------------------------------------- */

int model_options_ckpt(struct model_options *o, const struct ckpt *c, struct err *err)
{
    int found = 0;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) { /* `variant` is the first key */
        const char *value = ckpt_meta(c, keys[i].name);

        if (value == NULL)
            continue;
        if (model_options_set(o, keys[i].name, value, err) == -1)
            return err_prefix(err, "%s: metadata: ", ckpt_name(c));
        found++;
    }
    return found;
}

static void put_string(struct buf *b, const char *s)
{
    buf_json(b, s, strlen(s));
}

static void put_softmax(struct buf *b, const struct model_options *o)
{
    if (o->softmax_passes == 0) {
        put_string(b, axes[o->softmax[0]]);
        return;
    }
    for (int i = 0; i < o->softmax_passes; i++) {
        buf_putc(b, i > 0 ? ',' : '[');
        put_string(b, axes[o->softmax[i]]);
    }
    buf_putc(b, ']');
}

static void put_init(struct buf *b, const struct model_options *o)
{
    struct buf text = BUF_INIT;

    buf_puts(&text, inits[o->init]);
    if (o->init_name[0] != '\0')
        buf_printf(&text, ":%s", o->init_name);
    if (o->init_std > 0) {
        buf_printf(&text, ":%llu:", (unsigned long long)o->init_seed);
        buf_f64(&text, o->init_std);
    }
    put_string(b, buf_cstr(&text));
    buf_clear(&text);
}

/* Nothing is written for an integer that is still 0. */
static void put_value(struct buf *b, const struct model_options *o, const struct key *k)
{
    const char *field = (const char *)o + k->at;
    double real;
    int integer;
    bool truth;

    switch (k->kind) {
    case KIND_VARIANT:
        if (o->variant != NULL)
            put_string(b, o->variant);
        break;
    case KIND_WORD:
        put_string(b, k->words[get_word(o, k->at)]);
        break;
    case KIND_INT:
        memcpy(&integer, field, sizeof integer);
        if (integer > 0)
            buf_printf(b, "%d", integer);
        break;
    case KIND_REAL:
        memcpy(&real, field, sizeof real);
        buf_f64(b, real);
        break;
    case KIND_BOOL:
        memcpy(&truth, field, sizeof truth);
        buf_puts(b, truth ? "true" : "false");
        break;
    case KIND_SOFTMAX:
        put_softmax(b, o);
        break;
    case KIND_INIT:
        put_init(b, o);
        break;
    }
}

void model_options_each(const struct model_options *o,
                        void (*each)(void *arg, const char *key, const char *json), void *arg)
{
    struct buf value = BUF_INIT;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        value.len = 0;
        if (!keys[i].is_alias)
            put_value(&value, o, &keys[i]);
        if (value.len > 0)
            each(arg, keys[i].name, buf_cstr(&value));
    }
    buf_clear(&value);
}
