/* experiment.c - a checked experiments file: its life, what it says of itself, what its arms set.
 */
#include <stdlib.h>
#include <string.h>

#include "experiment_impl.h"

/* ---- life ---------------------------------------------------------------------- */

static void layer_clear(struct layer *l)
{
    for (size_t i = 0; i < l->n_when; i++) {
        free(l->when[i].context);
        for (size_t k = 0; k < l->when[i].n_values; k++)
            free(l->when[i].values[k].text);
        free(l->when[i].values);
    }
    for (int i = 0; i < l->n_arms; i++)
        free(l->arms[i].spans);
    for (size_t i = 0; l->forced != NULL && i <= l->forced_mask; i++)
        free(l->forced[i].unit);
    layer_counts_release(l->counts);
    free(l->when);
    free(l->arms);
    free(l->forced);
    free(l->seed);
    free(l->unit_text);
    free(l->identity);
}

static void experiments_free(struct ref *ref)
{
    struct experiments *e = (struct experiments *)ref;

    for (int i = 0; i < e->n_layers; i++)
        layer_clear(&e->layers[i]);
    free(e->layers);
    free(e->text);
    free(e);
}

struct experiments *experiments_new(void)
{
    struct experiments *e = xcalloc(1, sizeof *e);

    ref_init(&e->ref, experiments_free);
    return e;
}

/* The count is not part of what never changes. */
const struct experiments *experiments_acquire(const struct experiments *e)
{
    if (e != NULL)
        ref_acquire((struct ref *)&e->ref);
    return e;
}

void experiments_release(const struct experiments *e)
{
    if (e != NULL)
        ref_release((struct ref *)&e->ref);
}

/* ---- names --------------------------------------------------------------------- */

bool experiment_name_valid(const char *s)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(s);

    return len >= 1 && len <= EXPERIMENT_NAME_MAX && strspn(s, allowed) == len;
}

int experiments_layer_find(const struct experiments *e, const char *name)
{
    for (int i = 0; i < e->n_layers; i++)
        if (strcmp(e->layers[i].name, name) == 0)
            return i;
    return -1;
}

int layer_arm_find(const struct layer *l, const char *name)
{
    for (int i = 0; i < l->n_arms; i++)
        if (strcmp(l->arms[i].name, name) == 0)
            return i;
    return -1;
}

/* ---- what it says -------------------------------------------------------------- */

int64_t experiments_version(const struct experiments *e)
{
    return e->version;
}

const char *experiments_hash(const struct experiments *e)
{
    (void)e;
    return "growthbook-v2"; /* the only one there is; another is refused */
}

const char *experiments_text(const struct experiments *e, size_t *len)
{
    *len = e->len;
    return e->text;
}

const char *experiments_sha256(const struct experiments *e)
{
    return e->sha256;
}

int experiments_layers(const struct experiments *e)
{
    return e->n_layers;
}

const char *experiments_layer_name(const struct experiments *e, int layer)
{
    return e->layers[layer].name;
}

const char *experiments_layer_seed(const struct experiments *e, int layer)
{
    return e->layers[layer].seed;
}

const char *experiments_layer_unit(const struct experiments *e, int layer)
{
    return e->layers[layer].unit_text;
}

double experiments_layer_coverage(const struct experiments *e, int layer)
{
    return e->layers[layer].coverage;
}

int experiments_arms(const struct experiments *e, int layer)
{
    return e->layers[layer].n_arms;
}

const char *experiments_arm_name(const struct experiments *e, int layer, int arm)
{
    return e->layers[layer].arms[arm].name;
}

double experiments_arm_weight(const struct experiments *e, int layer, int arm)
{
    return e->layers[layer].arms[arm].weight;
}

/* ---- what an assignment means -------------------------------------------------- */

void experiments_decode(const struct experiments *e, uint64_t code,
                        uint8_t arm[EXPERIMENT_LAYERS_MAX])
{
    memset(arm, EXPERIMENT_NO_ARM, EXPERIMENT_LAYERS_MAX);
    for (int i = 0; i < e->n_layers && code > 0; i++) {
        uint64_t choices = (uint64_t)e->layers[i].n_arms + 1, digit = code % choices;

        if (digit > 0)
            arm[i] = (uint8_t)(digit - 1);
        code /= choices;
    }
}

void experiments_apply(const struct experiments *e, const struct assignment *a,
                       struct settings *settings)
{
    for (int i = 0; i < e->n_layers; i++) {
        const struct arm *arm;

        if (a->arm[i] == EXPERIMENT_NO_ARM)
            continue;
        arm = &e->layers[i].arms[a->arm[i]];
        for (size_t k = 0; k < arm->n_spans; k++)
            memcpy((char *)settings + arm->spans[k].offset,
                   (const char *)&arm->settings + arm->spans[k].offset, arm->spans[k].size);
    }
}

/* Names need no escaping. */
void experiments_arms_json(const struct experiments *e, const struct assignment *a,
                           struct buf *json)
{
    const char *comma = "";

    buf_putc(json, '{');
    for (int i = 0; i < e->n_layers; i++) {
        const struct layer *l = &e->layers[i];

        if (a->arm[i] == EXPERIMENT_NO_ARM)
            continue;
        buf_puts(json, comma);
        buf_putc(json, '"');
        buf_puts(json, l->name);
        buf_puts(json, "\":\"");
        buf_puts(json, l->arms[a->arm[i]].name);
        buf_putc(json, '"');
        comma = ",";
    }
    buf_putc(json, '}');
}
