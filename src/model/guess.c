/* guess.c - what a checkpoint's tensors tell of its model, and what they do not: for people who
 * want to know what to say. Decides nothing that loading would not decide in the same way. */
#include "loading.h"

#include <stdlib.h>
#include <string.h>

struct guess {
    const struct ckpt *c;
    const char *dir;
    void (*each)(void *arg, const struct model_finding *f);
    void *arg;
    struct buf said; /* names of the options and tensors that have been told of, each in blanks */
};

static void tell(const struct guess *g, enum model_finding_kind kind, const char *name,
                 const char *value, const char *text)
{
    const struct model_finding f = {kind, name, value, text};

    g->each(g->arg, &f);
}

/* True the first time: several variants have much in common. */
static bool is_new(struct guess *g, const char *kind, const char *name)
{
    char *word = xasprintf("\n%s %s\n", kind, name);
    bool known = strstr(buf_cstr(&g->said), word) != NULL;

    if (!known)
        buf_puts(&g->said, word);
    free(word);
    return !known;
}

/* ---- why a variant fits ------------------------------------------------------------- */

static void put_shape(struct buf *b, const struct tensor *t)
{
    buf_printf(b, "%s [", t->name);
    for (int d = 0; d < t->n_dims; d++)
        buf_printf(b, d > 0 ? ",%zu" : "%zu", t->shape[d]);
    buf_putc(b, ']');
}

/* The file has the tensors that decided; where another variant differs by one alone, that too. */
static void put_reason(struct buf *b, const struct guess *g, const struct variant *v)
{
    const struct codebase *names = v->codebase;
    const struct tensor *projection =
        names->projection == NULL ? NULL : variant_tensor(g->c, names->projection, 0);

    buf_puts(b, "has ");
    put_shape(b, variant_tensor(g->c, names->items, 0));
    buf_puts(b, " and ");
    put_shape(b, variant_tensor(g->c, variant_main(v), 0));
    if (names->projection_means_used && projection != NULL) {
        buf_puts(b, " and ");
        put_shape(b, projection);
    } else if (names->projection_means_used) {
        buf_puts(b, ", not ");
        variant_put_names(b, names->projection);
    }
    if (v->about != NULL)
        buf_printf(b, "; %s", v->about);
}

/* ---- tensors ------------------------------------------------------------------------ */

static void tell_tensor(struct guess *g, const struct tensor *t, const char *role)
{
    if (t != NULL && is_new(g, "tensor", t->name))
        tell(g, FINDING_TENSOR, t->name, NULL, role);
}

static void tell_tensors(struct guess *g, const struct loading *l)
{
    tell_tensor(g, l->items, "item vectors");
    tell_tensor(g, l->map, "map of the capsules");
    tell_tensor(g, l->bias, "bias of the map");
    tell_tensor(g, l->init_ckpt == g->c ? l->init : NULL, "routing logits");
    tell_tensor(g, l->positions, "positions");
    tell_tensor(g, l->hidden, "attention, first layer");
    tell_tensor(g, l->hidden_bias, "bias of the first layer");
    tell_tensor(g, l->heads, "attention, second layer");
    tell_tensor(g, l->heads_bias, "bias of the second layer");
    tell_tensor(g, l->projection, "projection");
    tell_tensor(g, l->projection_bias, "bias of the projection");
}

/* ---- options ------------------------------------------------------------------------ */

static const struct {
    const char *key, *about;
} abouts[] = {
    {"interests", "K, the number of interests"},
    {"max_history", "S, the slots of history of its training"},
    {"init", "routing logits: its code draws them anew for every call, here they are drawn once; "
             "or tensor:NAME, file:PATH"},
    {"bilinear", "per_interest: the map has a part for each interest, [D, K*D]"},
    {"projection", "relu if it was trained with its relu layer, which is stored in any case"},
    {"iterations", "routing passes"},
    {"truncate", "which items of a longer history its training kept: last or first"},
    {"dynamic_interests", "fewer interests for a short history, or none: as its settings say"},
    {"logit_scale", "routing_logits_scale of its settings"},
    {"squash_power", "squash_pow of its settings"},
    {"squash_ratio", "scale_ratio of its settings"},
};

static const char *about(const char *key, const char *json)
{
    if (strcmp(key, "init") == 0 && json != NULL && strncmp(json, "\"easyrec", 8) == 0)
        return "its fixed table, for a routing_logits_stddev of 1; or easyrec:STD";
    for (size_t i = 0; i < ARRAY_LEN(abouts); i++)
        if (strcmp(abouts[i].key, key) == 0)
            return abouts[i].about;
    return "";
}

static bool has_word(const char *words, const char *word)
{
    size_t len = strlen(word);

    for (const char *p = words; (p = strstr(p, word)) != NULL; p += len)
        if ((p == words || p[-1] == ' ') && (p[len] == ' ' || p[len] == '\0'))
            return true;
    return false;
}

/* What the shapes have completed. */
static const char *const sizes[] = {"interests", "max_history", "item_dim", "capsule_dim"};

struct options {
    struct guess *g;
    const struct variant *v;
    bool has_projection;
};

static bool is_told(const struct options *o, const char *key)
{
    bool told = ckpt_meta(o->g->c, key) != NULL;

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        told = told || strcmp(key, sizes[i]) == 0;
    return told;
}

/* Keys that are not set are not listed. */
static void tell_option(void *arg, const char *key, const char *json)
{
    const struct options *o = arg;
    bool told = is_told(o, key);

    if ((!told && !has_word(o->v->untold, key)) || strcmp(key, "variant") == 0 ||
        (strcmp(key, "projection") == 0 && !told && !o->has_projection))
        return;
    if (is_new(o->g, "option", key))
        tell(o->g, told ? FINDING_TOLD : FINDING_UNTOLD, key, json, told ? NULL : about(key, json));
}

/* First what must be said, then what may be. */
static void tell_options(struct guess *g, const struct loading *l, const struct variant *v)
{
    const struct model_options *m = &l->m->o;
    const char *pattern = v->codebase->projection;
    struct options o = {g, v, pattern != NULL && variant_tensor(g->c, pattern, 0) != NULL};

    if (m->interests == 0 && is_new(g, "option", "interests"))
        tell(g, FINDING_UNTOLD, "interests", NULL, about("interests", NULL));
    if (m->max_history == 0 && is_new(g, "option", "max_history"))
        tell(g, FINDING_UNTOLD, "max_history", NULL, about("max_history", NULL));
    model_options_each(m, tell_option, &o);
}

/* ---- variants ------------------------------------------------------------------------ */

/* Of a name that is one. */
static const struct variant *row_of(const char *name)
{
    size_t i = 0;

    while (strcmp(variant_row(i)->name, name) != 0)
        i++;
    return variant_row(i);
}

/* A map for all interests that is K times as wide as their vectors is none: it is one of
 * Datawhale's and others' options, whose routing then starts from zeros. */
static bool is_per_interest(const struct loading *l)
{
    const struct model_options *o = &l->m->o;

    return o->kind == MODEL_CAPSULES && o->bilinear <= BILINEAR_SHARED_INTERLEAVED &&
           l->projection == NULL && o->capsule_dim > o->item_dim &&
           o->capsule_dim % o->item_dim == 0;
}

static void tell_per_interest(struct guess *g, struct model_options *o)
{
    struct err err = ERR_INIT;

    if (model_options_set(o, "bilinear", "per_interest", &err) == -1 ||
        model_options_set(o, "init", "zeros", &err) == -1)
        return;
    if (is_new(g, "option", "bilinear"))
        tell(g, FINDING_UNTOLD, "bilinear", NULL, about("bilinear", NULL));
    if (is_new(g, "option", "init"))
        tell(g, FINDING_UNTOLD, "init", NULL, "zeros, with bilinear per_interest");
}

/* The options are set: what model_open would do with them. */
static void try_to_load(struct guess *g, const struct variant *v, struct model_options *o)
{
    struct err err = ERR_INIT;
    struct model m = {.o = *o, .ckpt = g->c};
    struct loading l = {.m = &m, .err = &err};
    int result = loading_tensors(&l, g->dir);

    if (result == 0 && is_per_interest(&l)) {
        loading_clear(&l);
        tell_per_interest(g, o);
        m.o = *o;
        l = (struct loading){.m = &m, .err = &err};
        result = loading_tensors(&l, g->dir);
    }
    if (result == 0) {
        tell_tensors(g, &l);
        tell_options(g, &l, v);
    } else {
        tell(g, FINDING_REFUSAL, v->name, NULL, err.text);
    }
    loading_clear(&l);
}

static void put_needed(struct buf *b, const struct guess *g, const char *names)
{
    variant_put_names(b, names);
    if (variant_tensor(g->c, names, 0) != NULL)
        buf_puts(b, " (is there)");
}

/* Where several need the same, the first stands for all. */
static void tell_missing(struct guess *g, const struct variant *v)
{
    struct buf b = BUF_INIT;

    put_needed(&b, g, v->codebase->items);
    buf_puts(&b, ", ");
    put_needed(&b, g, variant_main(v));
    if (is_new(g, "missing", buf_cstr(&b)))
        tell(g, FINDING_MISSING, v->name, NULL, buf_cstr(&b));
    buf_clear(&b);
}

/* A file whose metadata name the variant. */
static size_t guess_told(struct guess *g)
{
    struct model_options o = {.variant = NULL};
    struct err err = ERR_INIT;

    if (model_options_ckpt(&o, g->c, &err) == -1) {
        tell(g, FINDING_REFUSAL, ckpt_meta(g->c, "variant"), NULL, err.text);
        return 0;
    }
    tell(g, FINDING_VARIANT, o.variant, NULL, "its metadata say so");
    try_to_load(g, row_of(o.variant), &o);
    return 1;
}

/* Options of the metadata count without a variant there too. */
static void guess_variant(struct guess *g, const struct variant *v)
{
    struct model_options o;
    struct err err = ERR_INIT;

    if (model_options_variant(&o, v->name, &err) == 0 &&
        model_options_metadata(&o, g->c, &err) != -1)
        try_to_load(g, v, &o);
    else
        tell(g, FINDING_REFUSAL, v->name, NULL, err.text);
}

/* fun-rec and old DeepMatch name their embeddings as they like. */
static void tell_changing_logits(const struct guess *g)
{
    const struct variant *v;

    for (size_t i = 0; (v = variant_row(i)) != NULL; i++) {
        struct err err = ERR_INIT;
        struct model m = {.ckpt = g->c};
        struct loading l = {.m = &m, .names = v->codebase, .err = &err};

        if (v->kind == MODEL_CAPSULES && capsules_refuse_changing(&l) == -1)
            tell(g, FINDING_REFUSAL, v->name, NULL, err.text);
    }
}

static size_t guess_by_tensors(struct guess *g)
{
    const struct variant *v;
    struct buf reason = BUF_INIT;
    size_t n = 0;

    for (size_t i = 0; (v = variant_row(i)) != NULL; i++) {
        if (!variant_fits(v, g->c))
            continue;
        n++;
        reason.len = 0;
        put_reason(&reason, g, v);
        tell(g, FINDING_VARIANT, v->name, NULL, buf_cstr(&reason));
    }
    for (size_t i = 0; (v = variant_row(i)) != NULL; i++) {
        if (n == 0)
            tell_missing(g, v);
        else if (variant_fits(v, g->c))
            guess_variant(g, v);
    }
    if (n == 0)
        tell_changing_logits(g);
    buf_clear(&reason);
    return n;
}

size_t model_guess(const struct ckpt *c, const char *dir,
                   void (*each)(void *arg, const struct model_finding *f), void *arg)
{
    struct guess g = {c, dir, each, arg, BUF_INIT};
    size_t n = ckpt_meta(c, "variant") != NULL ? guess_told(&g) : guess_by_tensors(&g);

    buf_clear(&g.said);
    return n;
}
