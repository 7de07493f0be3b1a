/* fuzz_model.c - a model from options and tensors that are well-formed and perhaps make no sense.
 *
 * The input is a recipe, a line each: `key=value` sets an option, as a manifest does; `NAME size
 * size ... [zero]` adds a tensor of that shape, its values small and made up. What model_open
 * accepts keeps the limits of model.h, reads nothing outside its tensors, and gives a batch what it
 * gives each user alone, to the bit. */
#include "recalld/model.h"

#include "fuzz.h"

#include <stdlib.h>

#define FLOATS_MAX 4096 /* of all tensors */
#define TENSORS_MAX 16
#define HISTORY_MAX 40
#define USERS 4

struct recipe {
    struct ckpt_writer_tensor tensors[TENSORS_MAX];
    size_t n, floats;
    struct model_options options;
};

/* ---- from lines to tensors and options ----------------------------------------------- */

static float *make_values(size_t count, bool zero)
{
    float *v = xcalloc(count, sizeof *v);

    for (size_t i = 0; i < count && !zero; i++)
        v[i] = (float)((int)((i * i * 31 + i * 17 + count) % 127) - 63) / 64;
    return v;
}

static bool name_is_new(const struct recipe *r, const char *name)
{
    for (size_t i = 0; i < r->n; i++)
        if (strcmp(r->tensors[i].name, name) == 0)
            return false;
    return true;
}

/* Cuts the line into words. False when the recipe asks for what no checkpoint holds, or too much.
 */
static bool add_tensor(struct recipe *r, char *line)
{
    struct ckpt_writer_tensor t = {.name = strsep(&line, " ")};
    size_t count = 1;
    bool zero = false;
    char *word;

    if (r->n == TENSORS_MAX || !utf8_valid(t.name, strlen(t.name)) || !name_is_new(r, t.name))
        return false;
    while ((word = strsep(&line, " ")) != NULL) {
        uint64_t size;

        zero = strcmp(word, "zero") == 0;
        if (zero)
            continue;
        if (!parse_u64(word, strlen(word), &size) || size > FLOATS_MAX || t.n_dims == CKPT_MAX_DIMS)
            return false;
        t.shape[t.n_dims++] = (size_t)size;
        count *= (size_t)size;
        if (count > FLOATS_MAX)
            return false;
    }
    r->floats += count;
    if (r->floats > FLOATS_MAX)
        return false;
    t.data = make_values(count, zero);
    r->tensors[r->n++] = t;
    return true;
}

static bool set_option(struct recipe *r, char *line)
{
    char *key = strsep(&line, "=");
    struct err err = ERR_INIT;

    if (strcmp(key, "variant") != 0 && r->options.variant == NULL)
        return false;
    if (model_options_set(&r->options, key, line, &err) == 0)
        return true;
    assert(err.code == ERR_USAGE);
    assert_refusal(&err, "");
    return false;
}

static bool read_recipe(struct recipe *r, char *text)
{
    char *line;

    while ((line = strsep(&text, "\n")) != NULL) {
        if (line[0] == '\0')
            continue;
        if (strchr(line, '=') != NULL ? !set_option(r, line) : !add_tensor(r, line))
            return false;
    }
    return true;
}

/* ---- users ---------------------------------------------------------------------------- */

struct users {
    uint32_t rows[USERS][HISTORY_MAX + 3];
    struct model_input in[USERS];
};

/* Of no item, of one, of some, and of more than the model reads. */
static void make_users(struct users *u, const struct model *m)
{
    size_t most = (size_t)model_options(m)->max_history, floats;
    const size_t lengths[USERS] = {0, 1, most / 2 + 1, most + 3};

    for (size_t i = 0; i < USERS; i++) {
        floats = (size_t)model_interest_count(m) * (size_t)model_dim(m);
        for (size_t j = 0; j < lengths[i]; j++)
            u->rows[i][j] = (uint32_t)((i + j * 7) % model_rows(m));
        u->in[i] = (struct model_input){
            .rows = u->rows[i],
            .n_rows = lengths[i],
            .dynamic = -1,
            .interests = xcalloc(floats, sizeof(float)),
            .weights = xcalloc((size_t)model_interest_count(m) * most, sizeof(float))};
    }
}

static void free_users(struct users *u)
{
    for (size_t i = 0; i < USERS; i++) {
        free(u->in[i].interests);
        free(u->in[i].weights);
    }
}

static void assert_same(const struct model_input *a, const struct model_input *b,
                        const struct model *m)
{
    size_t interests = (size_t)model_interest_count(m), dim = (size_t)model_dim(m);

    assert(a->live == b->live && a->used == b->used && a->first_used == b->first_used);
    assert(a->live >= 1 && (size_t)a->live <= interests);
    assert(a->first_used + a->used <= a->n_rows);
    assert(memcmp(a->interests, b->interests, interests * dim * sizeof(float)) == 0);
    assert(memcmp(a->weights, b->weights, interests * a->used * sizeof(float)) == 0);
    for (size_t i = (size_t)a->live * dim; i < interests * dim; i++)
        assert(a->interests[i] == 0);
}

static void use(const struct model *m)
{
    struct model_scratch *s = model_scratch_new();
    struct users together, alone;

    make_users(&together, m);
    make_users(&alone, m);
    model_interests(m, s, together.in, USERS);
    for (size_t i = 0; i < USERS; i++) {
        model_interests(m, s, &alone.in[i], 1);
        assert_same(&together.in[i], &alone.in[i], m);
    }
    free_users(&together);
    free_users(&alone);
    model_scratch_free(s);
}

static void assert_limits(const struct model *m)
{
    const struct model_options *o = model_options(m);

    assert(model_interest_count(m) == o->interests);
    assert(o->interests >= 1 && o->interests <= MODEL_INTERESTS_MAX);
    assert(o->max_history >= 1 && o->max_history <= MODEL_HISTORY_MAX);
    assert(model_dim(m) >= 1 && model_dim(m) <= MODEL_DIM_MAX && model_rows(m) >= 1);
}

/* ---- the target -------------------------------------------------------------------------- */

static void assert_finding(void *arg, const struct model_finding *f)
{
    assert(f->name != NULL && (f->text != NULL || f->kind == FINDING_TOLD));
    assert(f->kind != FINDING_TOLD || f->value != NULL);
    ++*(size_t *)arg;
}

static void cook(const struct recipe *r)
{
    struct buf file = BUF_INIT;
    struct err err = ERR_INIT;
    struct model *m = NULL;
    struct ckpt *c;
    size_t n = 0;

    ckpt_encode(&file, r->tensors, r->n, NULL);
    c = ckpt_open_mem("fuzz", file.p, file.len, &err);
    if (c != NULL) {
        model_guess(c, NULL, assert_finding, &n);
        assert(n > 0);
    }
    if (c != NULL)
        m = model_open(c, &r->options, NULL, &err);
    if (m == NULL) {
        assert_refusal(&err, "");
    } else {
        assert_limits(m);
        if (model_options(m)->max_history <= HISTORY_MAX)
            use(m);
    }
    model_free(m);
    ckpt_free(c);
    buf_clear(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct recipe *r = xcalloc(1, sizeof *r);
    char *text = xstrndup(len > 0 ? (const char *)bytes : "", len);

    log_setup(LOG_LEVEL_ERROR, false);
    if (read_recipe(r, text) && r->options.init != INIT_FILE)
        cook(r);
    for (size_t i = 0; i < r->n; i++)
        free((float *)(uintptr_t)r->tensors[i].data);
    free(text);
    free(r);
    return 0;
}
