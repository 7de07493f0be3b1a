/* assign.c - the hash, and which arm of each layer a request gets.
 *
 * GrowthBook's hash, version 2: FNV-1a (32 bits) over seed and unit; its value in decimal digits
 * hashed the same way; that modulo 10,000. The unit is hashed as its bytes; GrowthBook's JavaScript
 * hashes UTF-16 units instead, so units beyond ASCII get other numbers there. */
#include <stdio.h>
#include <string.h>

#include "experiment_impl.h"

/* ---- hash ---------------------------------------------------------------------- */

uint32_t experiment_fnv(uint32_t h, const void *bytes, size_t len)
{
    const unsigned char *p = bytes;

    for (size_t i = 0; i < len; i++)
        h = (h ^ p[i]) * UINT32_C(16777619);
    return h;
}

/* The rest of the hash, from where the seed has been taken in. */
static double hash_unit(uint32_t seeded, const char *unit, size_t len)
{
    uint32_t first = experiment_fnv(seeded, unit, len);
    char digits[10]; /* of 2^32 - 1 */
    size_t at = sizeof digits;

    do
        digits[--at] = (char)('0' + first % 10);
    while ((first /= 10) > 0);
    return (double)(experiment_fnv(FNV_START, digits + at, sizeof digits - at) % 10000) / 10000;
}

double experiment_hash(const char *seed, size_t seed_len, const char *unit, size_t unit_len)
{
    return hash_unit(experiment_fnv(FNV_START, seed, seed_len), unit, unit_len);
}

/* ---- when ---------------------------------------------------------------------- */

bool value_equal(const struct value *a, const struct value *b)
{
    return a->kind == b->kind &&
           (a->kind != VALUE_TEXT || (a->len == b->len && memcmp(a->text, b->text, a->len) == 0));
}

bool value_of_json(const json_t *v, char digits[24], struct value *out)
{
    if (json_is_string(v)) {
        *out = (struct value){VALUE_TEXT, (char *)(uintptr_t)json_string_value(v),
                              json_string_length(v)};
        return true;
    }
    if (json_is_integer(v)) {
        int len = snprintf(digits, 24, "%lld", (long long)json_integer_value(v));

        *out = (struct value){VALUE_TEXT, digits, (size_t)len};
        return true;
    }
    *out = (struct value){json_is_true(v) ? VALUE_TRUE : VALUE_FALSE, NULL, 0};
    return json_is_boolean(v);
}

static bool condition_holds(const struct condition *c, const struct experiment_subject *s)
{
    char digits[24];
    struct value given = {VALUE_TEXT, (char *)(uintptr_t)s->scene.p, s->scene.len};

    if (c->context == NULL) {
        if (s->scene.len == 0)
            return false;
    } else if (!value_of_json(json_object_get(s->context, c->context), digits, &given)) {
        return false;
    }
    for (size_t i = 0; i < c->n_values; i++)
        if (value_equal(&c->values[i], &given))
            return true;
    return false;
}

static bool layer_applies(const struct layer *l, const struct experiment_subject *s)
{
    for (size_t i = 0; i < l->n_when; i++)
        if (!condition_holds(&l->when[i], s))
            return false;
    return true;
}

/* ---- who ----------------------------------------------------------------------- */

/* What the layer tells requests apart by; false when the request has none of it. */
static bool unit_of(const struct layer *l, const struct experiment_subject *s, char digits[24],
                    struct str *unit)
{
    struct value v;

    switch (l->unit) {
    case UNIT_USER:
        *unit = s->user_id;
        return unit->len > 0;
    case UNIT_REQUEST:
        *unit = (struct str){s->request_id, s->request_id == NULL ? 0 : strlen(s->request_id)};
        return unit->len > 0;
    case UNIT_CONTEXT:
        if (!value_of_json(json_object_get(s->context, l->unit_member), digits, &v))
            return false;
        *unit = (struct str){v.text, v.len};
        return v.kind == VALUE_TEXT && v.len > 0;
    }
    return false;
}

struct forced *forced_place(const struct layer *l, const char *unit, size_t len)
{
    size_t at = hash_bytes(unit, len) & l->forced_mask;

    while (l->forced[at].unit != NULL &&
           (l->forced[at].len != len || memcmp(l->forced[at].unit, unit, len) != 0))
        at = (at + 1) & l->forced_mask;
    return &l->forced[at];
}

/* *forced becomes true when the file names the unit. */
static uint8_t arm_of_unit(const struct layer *l, const char *unit, size_t len, bool *forced)
{
    const struct forced *f = l->forced == NULL ? NULL : forced_place(l, unit, len);
    double n;

    if (f != NULL && f->unit != NULL) {
        *forced = true;
        return f->arm;
    }
    n = hash_unit(l->seed_hash, unit, len);
    for (int i = 0; i < l->n_arms; i++)
        if (n >= l->arms[i].start && n < l->arms[i].end)
            return (uint8_t)i;
    return EXPERIMENT_NO_ARM;
}

static uint8_t arm_of(const struct layer *l, const struct experiment_subject *s, bool *forced)
{
    char digits[24];
    struct str unit;

    if (!layer_applies(l, s) || !unit_of(l, s, digits, &unit))
        return EXPERIMENT_NO_ARM;
    return arm_of_unit(l, unit.p, unit.len, forced);
}

int experiments_arm_of(const struct experiments *e, int layer, const char *unit, size_t len)
{
    bool forced;

    return arm_of_unit(&e->layers[layer], unit, len, &forced);
}

/* ---- arms that a request asks for ---------------------------------------------- */

/* What a chosen arm sets, no other arm of the request may set: the arms of layers that exclude each
 * other by `when` could meet here. *sets is what those before it set. */
static int take_sets(const struct experiments *e, int l, struct assignment *out, uint32_t *sets,
                     struct err *err)
{
    uint32_t own = e->layers[l].arms[out->arm[l]].sets, both = own & *sets;
    size_t n;
    const struct setting *table = settings_table(&n);
    int other = 0;

    *sets |= own;
    if (both == 0)
        return 0;
    while (other == l || out->arm[other] == EXPERIMENT_NO_ARM ||
           (e->layers[other].arms[out->arm[other]].sets & both) == 0)
        other++;
    return err_set(err, ERR_USAGE, "arms.%s: sets %s, and so does the arm of layer %s",
                   e->layers[l].name, table[__builtin_ctz(both)].name, e->layers[other].name);
}

static int choose_one(const struct experiments *e, const char *layer, const json_t *arm,
                      struct assignment *out, uint32_t *sets, struct err *err)
{
    int l = experiments_layer_find(e, layer), a;

    if (l == -1)
        return err_set(err, ERR_USAGE, "arms.%.64s: there is no such layer", layer);
    if (!json_is_string(arm))
        return err_set(err, ERR_USAGE, "arms.%s: must be the name of an arm", layer);
    a = layer_arm_find(&e->layers[l], json_string_value(arm));
    if (a == -1)
        return err_set(err, ERR_USAGE, "arms.%s: the layer has no arm \"%.64s\"", layer,
                       json_string_value(arm));
    out->arm[l] = (uint8_t)a;
    return take_sets(e, l, out, sets, err);
}

/* jansson's iterators take no const, but change nothing. */
static int choose(const struct experiments *e, const json_t *forced, struct assignment *out,
                  uint32_t *sets, struct err *err)
{
    json_t *object = (json_t *)(uintptr_t)forced, *arm;
    const char *layer;

    if (json_object_size(forced) == 0)
        return 0;
    if (!e->allow_forced)
        return err_set(err, ERR_CONFLICT,
                       "arms: the experiments do not allow a request to choose "
                       "(allow_forced)");
    json_object_foreach (object, layer, arm)
        if (choose_one(e, layer, arm, out, sets, err) == -1)
            return -1;
    out->forced = true;
    return 0;
}

int experiments_assign(const struct experiments *e, const struct experiment_subject *subject,
                       struct assignment *out, struct err *err)
{
    uint32_t sets = 0; /* by the arms that the request chose */

    memset(out->arm, EXPERIMENT_NO_ARM, sizeof out->arm);
    out->code = 0;
    out->forced = false;
    if (choose(e, subject->forced, out, &sets, err) == -1)
        return -1;
    for (int i = 0; i < e->n_layers; i++) {
        const struct layer *l = &e->layers[i];

        if (out->arm[i] == EXPERIMENT_NO_ARM) {
            uint8_t arm = arm_of(l, subject, &out->forced);

            if (arm != EXPERIMENT_NO_ARM && (l->arms[arm].sets & sets) == 0)
                out->arm[i] = arm;
        }
        if (out->arm[i] != EXPERIMENT_NO_ARM)
            out->code += ((uint64_t)out->arm[i] + 1) * l->radix;
    }
    return 0;
}
