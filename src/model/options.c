/* options.c - the vocabulary of model options: one table of keys serves parsing, printing and
 * bounds. What the variants set them to is in variant.c. */
#include "model_impl.h"

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
static const char *const projections[] = {"none", "relu", "linear", NULL};
static const char *const positions[] = {"none", "add", "add_scaled", NULL};
static const char *const values[] = {"items", "inputs", NULL};
static const char *const attention_activations[] = {"none", "tanh", NULL};
static const char *const dynamics[] = {"none",     "floor_log2",    "ceil_log2",
                                       "trunc_ln", "floor_log2_1p", NULL};
static const char *const orders[] = {"oldest_first", "newest_first", NULL};
static const char *const truncates[] = {"last", "first", NULL};
static const char *const padding_bys[] = {"length", "id", NULL};

#define INIT_FORMS                                                                \
    "zeros, tensor:NAME, file:PATH, normal:SEED:STD, truncated_normal:SEED:STD, " \
    "uniform:SEED:STD, easyrec, easyrec:STD"

/* ---- keys ---------------------------------------------------------------------- */

enum key_type { KEY_VARIANT, KEY_WORD, KEY_INT, KEY_REAL, KEY_BOOL, KEY_SOFTMAX, KEY_INIT };
/* The kinds of model that a key is for, as bits. */
enum { CAPSULES = 1 << MODEL_CAPSULES, ATTENTION = 1 << MODEL_ATTENTION, BOTH = 3 };

struct key {
    const char *name;
    int kinds;
    enum key_type type;
    size_t at;                /* offset in struct model_options */
    const char *const *words; /* KEY_WORD */
    double min, max;          /* KEY_INT, KEY_REAL */
    bool is_alias;            /* read, never printed */
};

#define AT(field) offsetof(struct model_options, field)

/* squash_eps: below 1e-30 it would vanish beside the square of a float. */
static const struct key keys[] = {
    {"variant", BOTH, KEY_VARIANT, 0, NULL, 0, 0, false},
    {"bilinear", CAPSULES, KEY_WORD, AT(bilinear), bilinears, 0, 0, false},
    {"interests", BOTH, KEY_INT, AT(interests), NULL, 1, MODEL_INTERESTS_MAX, false},
    {"max_history", BOTH, KEY_INT, AT(max_history), NULL, 1, MODEL_HISTORY_MAX, false},
    {"item_dim", BOTH, KEY_INT, AT(item_dim), NULL, 1, MODEL_DIM_MAX, false},
    {"capsule_dim", CAPSULES, KEY_INT, AT(capsule_dim), NULL, 1, MODEL_DIM_MAX, false},
    {"iterations", CAPSULES, KEY_INT, AT(iterations), NULL, 1, MODEL_PASSES_MAX, false},
    {"softmax", CAPSULES, KEY_SOFTMAX, AT(softmax), axes, 0, 0, false},
    {"mask", CAPSULES, KEY_WORD, AT(mask), masks, 0, 0, false},
    {"padding_vector", BOTH, KEY_WORD, AT(padding_vector), padding_vectors, 0, 0, false},
    {"init", CAPSULES, KEY_INIT, AT(init), inits, 0, 0, false},
    {"update", CAPSULES, KEY_WORD, AT(update), updates, 0, 0, false},
    {"mid_activation", CAPSULES, KEY_WORD, AT(mid_activation), activations, 0, 0, false},
    {"squash", CAPSULES, KEY_WORD, AT(squash), squashes, 0, 0, false},
    {"squash_eps", CAPSULES, KEY_REAL, AT(squash_eps), NULL, 1e-30, 1, false},
    {"squash_power", CAPSULES, KEY_REAL, AT(squash_power), NULL, 0.01, 100, false},
    {"squash_ratio", CAPSULES, KEY_REAL, AT(squash_ratio), NULL, 1e-6, 1e6, false},
    {"logit_scale", CAPSULES, KEY_REAL, AT(logit_scale), NULL, 0, 1e6, false},
    {"attention_positions", ATTENTION, KEY_WORD, AT(attention_positions), positions, 0, 0, false},
    {"attention_values", ATTENTION, KEY_WORD, AT(attention_values), values, 0, 0, false},
    {"attention_activation", ATTENTION, KEY_WORD, AT(attention_activation), attention_activations,
     0, 0, false},
    {"projection", BOTH, KEY_WORD, AT(projection), projections, 0, 0, false},
    {"relu_layer", BOTH, KEY_WORD, AT(projection), projections, 0, 0, true},
    {"normalize_user", BOTH, KEY_BOOL, AT(normalize_user), NULL, 0, 0, false},
    {"normalize_item", BOTH, KEY_BOOL, AT(normalize_item), NULL, 0, 0, false},
    {"dynamic_interests", BOTH, KEY_WORD, AT(dynamic_interests), dynamics, 0, 0, false},
    {"history_order", BOTH, KEY_WORD, AT(history_order), orders, 0, 0, false},
    {"truncate", BOTH, KEY_WORD, AT(truncate), truncates, 0, 0, false},
    {"padding_by", BOTH, KEY_WORD, AT(padding_by), padding_bys, 0, 0, false},
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
             k->type == KEY_INT ? "a whole number" : "a number", k->min, k->max);
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

static bool parse_std(const char *s, struct model_options *o)
{
    return parse_f64(s, strlen(s), &o->init_std) && o->init_std > 0 && o->init_std <= 1e6;
}

/* SEED:STD */
static bool parse_seed_std(const char *s, struct model_options *o)
{
    size_t seed_len = strcspn(s, ":");

    return s[seed_len] == ':' && parse_u64(s, seed_len, &o->init_seed) &&
           parse_std(s + seed_len + 1, o);
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
        good = rest == NULL;
        break;
    case INIT_EASYREC: /* its seed is fixed */
        next.init_std = 1;
        good = rest == NULL || parse_std(rest, &next);
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

    switch (k->type) {
    case KEY_VARIANT:
        return model_options_variant(o, value, err);
    case KEY_INT:
        return set_int(o, k, value, err);
    case KEY_REAL:
        return set_real(o, k, value, err);
    case KEY_BOOL:
        return set_bool(o, k, value, err);
    case KEY_SOFTMAX:
        return set_softmax(o, k, value, err);
    case KEY_INIT:
        return set_init(o, k, value, err);
    case KEY_WORD:
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
    if ((k->kinds & 1 << o->kind) == 0)
        return err_set(err, ERR_USAGE, "%s: is for %s, variant %s has none", key,
                       k->kinds == CAPSULES ? "capsules" : "attention",
                       o->variant != NULL ? o->variant : "(not given)");
    text = plain_text(value);
    result = set_key(o, k, text, err);
    free(text);
    return result;
}

/* ---- all options at once ------------------------------------------------------- */

int model_options_metadata(struct model_options *o, const struct ckpt *c, struct err *err)
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

int model_options_ckpt(struct model_options *o, const struct ckpt *c, struct err *err)
{
    const char *told = NULL;

    if (ckpt_meta(c, "variant") == NULL) {
        if (variant_detect(c, &told, err) == -1 ||
            (told != NULL && model_options_variant(o, told, err) == -1))
            return -1;
        if (o->variant == NULL)
            return 0;
    }
    return model_options_metadata(o, c, err);
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
    if (o->init_std > 0 && o->init != INIT_EASYREC)
        buf_printf(&text, ":%llu", (unsigned long long)o->init_seed);
    if (o->init_std > 0 && (o->init != INIT_EASYREC || o->init_std != 1)) {
        buf_putc(&text, ':');
        buf_f64(&text, o->init_std);
    }
    put_string(b, buf_cstr(&text));
    buf_clear(&text);
}

/* Nothing is written for what is not set. */
static void put_value(struct buf *b, const struct model_options *o, const struct key *k)
{
    const char *field = (const char *)o + k->at;
    double real;
    int integer;
    bool truth;

    switch (k->type) {
    case KEY_VARIANT:
        if (o->variant != NULL)
            put_string(b, o->variant);
        break;
    case KEY_WORD:
        if (k->words != projections || o->projection != PROJECTION_UNSET)
            put_string(b, k->words[get_word(o, k->at)]);
        break;
    case KEY_INT:
        memcpy(&integer, field, sizeof integer);
        if (integer > 0)
            buf_printf(b, "%d", integer);
        break;
    case KEY_REAL:
        memcpy(&real, field, sizeof real);
        buf_f64(b, real);
        break;
    case KEY_BOOL:
        memcpy(&truth, field, sizeof truth);
        buf_puts(b, truth ? "true" : "false");
        break;
    case KEY_SOFTMAX:
        put_softmax(b, o);
        break;
    case KEY_INIT:
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
        if (!keys[i].is_alias && (keys[i].kinds & 1 << o->kind) != 0)
            put_value(&value, o, &keys[i]);
        if (value.len > 0)
            each(arg, keys[i].name, buf_cstr(&value));
    }
    buf_clear(&value);
}
