/* check.c - whether layers go together, and with what surrounds them. */
#include <string.h>

#include "place.h"

/* ---- layers together ------------------------------------------------------------- */

static bool share_a_value(const struct condition *a, const struct condition *b)
{
    for (size_t i = 0; i < a->n_values; i++)
        for (size_t k = 0; k < b->n_values; k++)
            if (value_equal(&a->values[i], &b->values[k]))
                return true;
    return false;
}

static bool same_member(const struct condition *a, const struct condition *b)
{
    return a->context == NULL || b->context == NULL ? a->context == b->context
                                                    : strcmp(a->context, b->context) == 0;
}

/* Unless they ask one thing for different values, some request suits both. */
static bool both_can_match(const struct layer *a, const struct layer *b)
{
    for (size_t i = 0; i < a->n_when; i++)
        for (size_t k = 0; k < b->n_when; k++)
            if (same_member(&a->when[i], &b->when[k]) && !share_a_value(&a->when[i], &b->when[k]))
                return false;
    return true;
}

static uint32_t all_sets(const struct layer *l)
{
    uint32_t sets = 0;

    for (int i = 0; i < l->n_arms; i++)
        sets |= l->arms[i].sets;
    return sets;
}

/* The first arm of `l`, at `at`, that sets one of `both`. */
static int two_set(const struct reading *r, const struct layer *l, uint32_t both, const char *other,
                   const struct place *at)
{
    size_t n;
    const struct setting *table = settings_table(&n);
    int arm = 0, bit;

    while ((l->arms[arm].sets & both) == 0)
        arm++;
    bit = __builtin_ctz(l->arms[arm].sets & both);
    {
        struct place arms = {at, "arms", 0}, one = {&arms, NULL, (size_t)arm};
        struct place set = {&one, "set", 0}, key = {&set, table[bit].name, 0};

        return place_bad(r, &key, "layer %s sets it too, and one request can be in both", other);
    }
}

int check_layer(const struct reading *r, int j, const struct place *at)
{
    const struct layer *l = &r->e->layers[j];

    for (int i = 0; i < j; i++) {
        const struct layer *other = &r->e->layers[i];
        uint32_t both = all_sets(l) & all_sets(other);
        struct place name = {at, "name", 0}, seed = {at, "seed", 0};

        if (strcmp(l->name, other->name) == 0)
            return place_bad(r, &name, "layers[%d] has this name already", i);
        if (!both_can_match(l, other))
            continue;
        if (strcmp(l->seed, other->seed) == 0)
            return place_bad(
                r, &seed, "layer %s has this seed too: who gets which arm would not be independent",
                other->name);
        if (both != 0)
            return two_set(r, l, both, other->name, at);
    }
    return 0;
}

int check_codes(const struct reading *r, const struct place *at)
{
    uint64_t codes = 1;

    for (int i = 0; i < r->e->n_layers; i++) {
        r->e->layers[i].radix = codes;
        codes *= (uint64_t)r->e->layers[i].n_arms + 1;
        if (codes >= CODES_MAX)
            return place_bad(r, at,
                             "together they have too many arms: the product of (arms + 1) over "
                             "all layers must be below 2^52");
    }
    return 0;
}

/* ---- against what surrounds it --------------------------------------------------- */

static int check_arm(const struct reading *r, const struct arm *arm, const struct place *at)
{
    size_t n_table;
    const struct setting *table = settings_table(&n_table);
    uint32_t sets_bundle = UINT32_C(1) << (settings_find("bundle") - table);
    uint32_t sets_n = UINT32_C(1) << (settings_find("n") - table);
    struct place set = {at, "set", 0}, bundle = {&set, "bundle", 0}, n = {&set, "n", 0};
    const struct experiment_checks *c = r->checks;

    if (c == NULL)
        return 0;
    if (c->bundle_known != NULL && arm->sets & sets_bundle && arm->settings.bundle[0] != '\0' &&
        !c->bundle_known(c->arg, arm->settings.bundle))
        return place_bad(r, &bundle, "no bundle or alias \"%s\" is loaded", arm->settings.bundle);
    if (c->n_max > 0 && arm->sets & sets_n && arm->settings.n > c->n_max)
        return place_bad(r, &n, "must be at most recall.n_max = %d", c->n_max);
    return 0;
}

int check_surroundings(const struct reading *r)
{
    struct place layers = {NULL, "layers", 0};

    for (int i = 0; i < r->e->n_layers; i++)
        for (int k = 0; k < r->e->layers[i].n_arms; k++) {
            struct place layer = {&layers, NULL, (size_t)i}, arms = {&layer, "arms", 0};
            struct place arm = {&arms, NULL, (size_t)k};

            if (check_arm(r, &r->e->layers[i].arms[k], &arm) == -1)
                return -1;
        }
    return 0;
}

int experiments_check(const struct experiments *e, const struct experiment_checks *checks,
                      struct err *err)
{
    /* Only looked at. */
    struct reading r = {NULL, checks, (struct experiments *)(uintptr_t)e, err};

    return check_surroundings(&r);
}
