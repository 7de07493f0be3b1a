/* parse.c - an experiments file from text to struct, checked as a whole.
 *
 * One table row per key. What is wrong is named by its place ("layers[1].arms[0].weight"), which is
 * also the `field` of a refused PUT. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "place.h"

/* Weights must sum to 1 this exactly: half of one of the hash's 10,000 steps, so that no unit falls
 * behind the last arm. */
#define WEIGHTS_TOLERANCE 0.00005
#define VALUES_MAX 1000 /* of a condition */
#define SEED_MAX 128
#define UNIT_MAX 256
#define VERSION_MAX INT64_C(9007199254740991) /* what every JSON reader reads exactly */

/* ---- objects by table ------------------------------------------------------------ */

struct key {
    const char *name;
    int (*read)(struct reading *r, void *into, json_t *v, const struct place *at);
    bool required;
};

/* Only a name that could be a key becomes part of a place. */
static int unknown_key(struct reading *r, const struct place *at, const char *key)
{
    struct place here = {at, key, 0};

    return experiment_name_valid(key) ? place_bad(r, &here, "there is no such key")
                                      : place_bad(r, at, "there is no key \"%.64s\"", key);
}

static int read_object(struct reading *r, const struct key *keys, size_t n, void *into, json_t *v,
                       const struct place *at)
{
    const char *name;
    json_t *value;

    if (!json_is_object(v))
        return place_bad(r, at, "must be an object");
    json_object_foreach (v, name, value) {
        size_t i = 0;

        while (i < n && strcmp(keys[i].name, name) != 0)
            i++;
        if (i == n)
            return unknown_key(r, at, name);
    }
    for (size_t i = 0; i < n; i++) { /* in the table's order: later keys lean on earlier ones */
        struct place here = {at, keys[i].name, 0};

        value = json_object_get(v, keys[i].name);
        if (value == NULL && keys[i].required)
            return place_bad(r, &here, "is missing");
        if (value != NULL && keys[i].read(r, into, value, &here) == -1)
            return -1;
    }
    return 0;
}

/* ---- values ---------------------------------------------------------------------- */

static int read_name(struct reading *r, char out[EXPERIMENT_NAME_MAX + 1], json_t *v,
                     const struct place *at)
{
    const char *s = json_string_value(v);

    if (s == NULL || !experiment_name_valid(s))
        return place_bad(r, at, "must be a name: 1 to %d of A-Z a-z 0-9 . _ -",
                         EXPERIMENT_NAME_MAX);
    memcpy(out, s, strlen(s) + 1);
    return 0;
}

static int read_share(struct reading *r, double *out, json_t *v, const struct place *at)
{
    double x = json_number_value(v);

    if (!json_is_number(v) || !(x >= 0 && x <= 1))
        return place_bad(r, at, "must be a number from 0 to 1");
    *out = x;
    return 0;
}

/* "context.NAME" -> NAME, or NULL. */
static const char *context_member(const char *s)
{
    bool fine = strncmp(s, "context.", 8) == 0 && experiment_name_valid(s + 8);

    return fine ? s + 8 : NULL;
}

/* ---- an arm ---------------------------------------------------------------------- */

static int arm_name(struct reading *r, void *into, json_t *v, const struct place *at)
{
    return read_name(r, ((struct arm *)into)->name, v, at);
}

static int arm_weight(struct reading *r, void *into, json_t *v, const struct place *at)
{
    return read_share(r, &((struct arm *)into)->weight, v, at);
}

/* A setting's value goes through the settings' own parser, as text. One in quotes is none of a
 * number or boolean, and its quotes stay, so that it is refused there. */
static int set_value(struct reading *r, struct arm *arm, const struct setting *which, json_t *v,
                     const struct place *at)
{
    bool textual = which->type == SETTING_STRING || which->type == SETTING_ENUM;
    struct err why = ERR_INIT;
    char *text;

    if (textual && !json_is_string(v))
        return place_bad(r, at, "must be a string");
    text = textual ? xstrdup(json_string_value(v)) : json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (text == NULL || settings_set(&arm->settings, which, text, &why) == -1)
        place_bad(r, at, "%s", text == NULL ? "cannot be read" : why.text);
    free(text);
    return r->err->code == ERR_NONE ? 0 : -1;
}

static size_t setting_size(const struct setting *which)
{
    switch (which->type) {
    case SETTING_DOUBLE:
        return sizeof(double);
    case SETTING_BOOL:
        return sizeof(bool);
    case SETTING_STRING:
        return SETTINGS_NAME_MAX;
    case SETTING_INT:
    case SETTING_ENUM:
        break;
    }
    return sizeof(int);
}

static int arm_set(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct arm *arm = into;
    const struct setting *table;
    const char *name;
    json_t *value;
    size_t n;

    table = settings_table(&n);
    if (!json_is_object(v))
        return place_bad(r, at, "must be an object");
    arm->spans = xcalloc(json_object_size(v) + 1, sizeof *arm->spans);
    json_object_foreach (v, name, value) {
        const struct setting *which = settings_find(name);
        struct place here = {at, name, 0};

        if (which == NULL)
            return unknown_key(r, at, name);
        if (set_value(r, arm, which, value, &here) == -1)
            return -1;
        arm->sets |= UINT32_C(1) << (which - table);
        arm->spans[arm->n_spans++] =
            (struct span){(uint16_t)which->offset, (uint16_t)setting_size(which)};
    }
    return 0;
}

static const struct key arm_keys[] = {
    {"name", arm_name, true},
    {"weight", arm_weight, true},
    {"set", arm_set, false},
};

/* ---- a layer --------------------------------------------------------------------- */

static int layer_name(struct reading *r, void *into, json_t *v, const struct place *at)
{
    return read_name(r, ((struct layer *)into)->name, v, at);
}

static int layer_seed(struct reading *r, void *into, json_t *v, const struct place *at)
{
    size_t len = json_string_length(v);

    if (len == 0 || len > SEED_MAX)
        return place_bad(r, at, "must be a string of 1 to %d bytes", SEED_MAX);
    ((struct layer *)into)->seed = xstrdup(json_string_value(v));
    return 0;
}

static int layer_unit(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct layer *l = into;
    const char *s = json_string_value(v);

    if (s == NULL ||
        (strcmp(s, "user_id") != 0 && strcmp(s, "request_id") != 0 && context_member(s) == NULL))
        return place_bad(r, at, "must be user_id, request_id or context.NAME");
    l->unit_text = xstrdup(s);
    return 0;
}

static int condition_values(struct reading *r, struct condition *c, json_t *v,
                            const struct place *at)
{
    size_t n = json_array_size(v);

    if (n == 0 || n > VALUES_MAX)
        return place_bad(r, at, "must be a list of 1 to %d values", VALUES_MAX);
    c->values = xcalloc(n, sizeof *c->values);
    for (size_t i = 0; i < n; i++) {
        struct place here = {at, NULL, i};
        char digits[24];
        struct value given;

        if (!value_of_json(json_array_get(v, i), digits, &given))
            return place_bad(r, &here, "must be a string, an integer, true or false");
        if (given.kind == VALUE_TEXT)
            given.text = xstrndup(given.text, given.len);
        c->values[c->n_values++] = given;
        if (c->context == NULL && given.kind != VALUE_TEXT)
            return place_bad(r, &here, "a scene is a string");
    }
    return 0;
}

static int layer_when(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct layer *l = into;
    const char *name;
    json_t *values;

    if (!json_is_object(v))
        return place_bad(r, at, "must be an object");
    l->when = xcalloc(json_object_size(v) + 1, sizeof *l->when);
    json_object_foreach (v, name, values) {
        struct condition *c = &l->when[l->n_when];
        const char *member = context_member(name);
        struct place here = {at, name, 0};

        if (member == NULL && strcmp(name, "scene") != 0)
            return place_bad(r, at, "\"%.64s\" is neither scene nor context.NAME", name);
        c->context = member == NULL ? NULL : xstrdup(member);
        l->n_when++;
        if (condition_values(r, c, values, &here) == -1)
            return -1;
    }
    return 0;
}

static int layer_coverage(struct reading *r, void *into, json_t *v, const struct place *at)
{
    return read_share(r, &((struct layer *)into)->coverage, v, at);
}

static int check_arm_name(struct reading *r, const struct layer *l, const struct place *at)
{
    const struct arm *arm = &l->arms[l->n_arms - 1];
    struct place name = {at, "name", 0};

    for (int i = 0; i < l->n_arms - 1; i++)
        if (strcmp(l->arms[i].name, arm->name) == 0)
            return place_bad(r, &name, "arms[%d] has this name already", i);
    return 0;
}

static int layer_arms(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct layer *l = into;
    size_t n = json_array_size(v);
    double sum = 0;

    if (n == 0 || n > EXPERIMENT_ARMS_MAX)
        return place_bad(r, at, "must be a list of 1 to %d arms", EXPERIMENT_ARMS_MAX);
    l->arms = xcalloc(n, sizeof *l->arms);
    for (size_t i = 0; i < n; i++) {
        struct place here = {at, NULL, i};
        struct arm *arm = &l->arms[l->n_arms++];

        if (read_object(r, arm_keys, ARRAY_LEN(arm_keys), arm, json_array_get(v, i), &here) == -1 ||
            check_arm_name(r, l, &here) == -1)
            return -1;
        arm->start = sum;
        arm->end = sum + l->coverage * arm->weight;
        sum += arm->weight;
    }
    if (fabs(sum - 1) > WEIGHTS_TOLERANCE)
        return place_bad(r, at, "the weights sum to %.6g, not to 1 (within %.5f)", sum,
                         WEIGHTS_TOLERANCE);
    return 0;
}

static int layer_force(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct layer *l = into;
    size_t places = 2;
    const char *unit;
    json_t *arm;

    if (!json_is_object(v) || json_object_size(v) > EXPERIMENT_FORCE_MAX)
        return place_bad(r, at, "must be an object of at most %d units", EXPERIMENT_FORCE_MAX);
    if (json_object_size(v) == 0)
        return 0;
    while (places < 2 * json_object_size(v))
        places *= 2;
    l->forced = xcalloc(places, sizeof *l->forced);
    l->forced_mask = places - 1;
    json_object_foreach (v, unit, arm) {
        size_t len = strlen(unit);
        int which = json_is_string(arm) ? layer_arm_find(l, json_string_value(arm)) : -1;

        if (len == 0 || len > UNIT_MAX)
            return place_bad(r, at, "a unit has 1 to %d bytes", UNIT_MAX);
        if (which == -1)
            return place_bad(r, at, "\"%.64s\" must get one of this layer's arms", unit);
        *forced_place(l, unit, len) = (struct forced){xstrdup(unit), len, (uint8_t)which};
    }
    return 0;
}

/* Arms need the coverage, `force` the arms. */
static const struct key layer_keys[] = {
    {"name", layer_name, true},    {"seed", layer_seed, false},         {"unit", layer_unit, false},
    {"when", layer_when, false},   {"coverage", layer_coverage, false}, {"arms", layer_arms, true},
    {"force", layer_force, false},
};

/* What may be left out, and what follows from the rest. */
static void complete(struct layer *l)
{
    if (l->seed == NULL)
        l->seed = xstrdup(l->name);
    if (l->unit_text == NULL)
        l->unit_text = xstrdup("user_id");
    l->unit_member = context_member(l->unit_text);
    l->unit = l->unit_member != NULL                    ? UNIT_CONTEXT
              : strcmp(l->unit_text, "request_id") == 0 ? UNIT_REQUEST
                                                        : UNIT_USER;
    l->seed_hash = experiment_fnv(FNV_START, l->seed, strlen(l->seed));
}

static void put_value(struct buf *out, const struct value *v)
{
    if (v->kind == VALUE_TEXT)
        buf_json(out, v->text, v->len);
    else
        buf_puts(out, v->kind == VALUE_TRUE ? "true" : "false");
}

/* All that decides who gets which arm. Strings are quoted: nothing runs into what follows. */
static void identify(struct layer *l)
{
    struct buf out = BUF_INIT;

    buf_json(&out, l->seed, strlen(l->seed));
    buf_printf(&out, " %s %.17g", l->unit_text, l->coverage);
    for (size_t i = 0; i < l->n_when; i++) {
        buf_printf(&out, " %s:", l->when[i].context == NULL ? "" : l->when[i].context);
        for (size_t k = 0; k < l->when[i].n_values; k++)
            put_value(&out, &l->when[i].values[k]);
    }
    for (int i = 0; i < l->n_arms; i++)
        buf_printf(&out, " %s=%.17g", l->arms[i].name, l->arms[i].weight);
    l->identity = xstrdup(buf_cstr(&out));
    buf_clear(&out);
}

/* ---- the whole ------------------------------------------------------------------- */

static int file_version(struct reading *r, void *into, json_t *v, const struct place *at)
{
    json_int_t x = json_integer_value(v);

    (void)into;
    if (!json_is_integer(v) || x < 0 || x > VERSION_MAX)
        return place_bad(r, at, "must be a whole number from 0 to 2^53 - 1");
    r->e->version = x;
    return 0;
}

static int file_hash(struct reading *r, void *into, json_t *v, const struct place *at)
{
    const char *known = experiments_hash(r->e);

    (void)into;
    if (!json_is_string(v) || strcmp(json_string_value(v), known) != 0)
        return place_bad(r, at, "must be \"%s\": no other is known", known);
    return 0;
}

static int file_allow_forced(struct reading *r, void *into, json_t *v, const struct place *at)
{
    (void)into;
    if (!json_is_boolean(v))
        return place_bad(r, at, "must be true or false");
    r->e->allow_forced = json_is_true(v);
    return 0;
}

static int file_layers(struct reading *r, void *into, json_t *v, const struct place *at)
{
    struct experiments *e = r->e;
    size_t n = json_array_size(v);

    (void)into;
    if (!json_is_array(v) || n > EXPERIMENT_LAYERS_MAX)
        return place_bad(r, at, "must be a list of at most %d layers", EXPERIMENT_LAYERS_MAX);
    e->layers = xcalloc(n + 1, sizeof *e->layers);
    for (size_t i = 0; i < n; i++) {
        struct place here = {at, NULL, i};
        struct layer *l = &e->layers[e->n_layers++];

        l->coverage = 1;
        if (read_object(r, layer_keys, ARRAY_LEN(layer_keys), l, json_array_get(v, i), &here) == -1)
            return -1;
        complete(l);
        identify(l);
        if (check_layer(r, (int)i, &here) == -1)
            return -1;
    }
    return check_codes(r, at);
}

static const struct key file_keys[] = {
    {"version", file_version, true},
    {"hash", file_hash, true},
    {"allow_forced", file_allow_forced, false},
    {"layers", file_layers, true},
};

static int read_text(struct reading *r, const char *text, size_t len)
{
    json_error_t why;
    json_t *json = json_loadb(len > 0 ? text : "", len, JSON_REJECT_DUPLICATES, &why);
    int result;

    if (json == NULL)
        return place_bad(r, NULL, "line %d, column %d: %s", why.line, why.column, why.text);
    result = read_object(r, file_keys, ARRAY_LEN(file_keys), NULL, json, NULL);
    json_decref(json);
    return result == 0 ? check_surroundings(r) : -1;
}

struct experiments *experiments_parse(const char *name, const char *text, size_t len,
                                      const struct experiment_checks *checks, struct err *err)
{
    struct reading r = {name, checks, experiments_new(), err};

    if (len > EXPERIMENT_TEXT_MAX) {
        place_bad(&r, NULL, "has more than %d bytes", EXPERIMENT_TEXT_MAX);
        experiments_release(r.e);
        return NULL;
    }
    r.e->text = xmalloc(len + 1);
    memcpy(r.e->text, len > 0 ? text : "", len);
    r.e->text[len] = '\0';
    r.e->len = len;
    sha256_hex(text, len, r.e->sha256);
    if (read_text(&r, text, len) == 0)
        return r.e;
    experiments_release(r.e);
    return NULL;
}
