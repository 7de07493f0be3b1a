/* fuzz_experiments.c - an experiments file, from the disk or put by a client.
 *
 * Of what is accepted, the arms of a layer share out the units without overlap and as the weights
 * say, every assignment has a code of its own and comes back from it, settings keep their bounds,
 * and read again it assigns the same. A refusal begins with the place. */
#include "fuzz.h"
#include "recalld/experiment.h"

#include <math.h>
#include <stdio.h>

static const char *const users[] = {"u1", "u2", "\xc3\xbc", "1001", "a b"};

static void assert_layer(const struct experiments *e, int layer)
{
    double sum = 0;

    assert(experiments_arms(e, layer) >= 1 && experiments_arms(e, layer) <= EXPERIMENT_ARMS_MAX);
    assert(experiments_layer_find(e, experiments_layer_name(e, layer)) == layer);
    for (int i = 0; i < experiments_arms(e, layer); i++) {
        assert(experiments_arm_weight(e, layer, i) >= 0);
        sum += experiments_arm_weight(e, layer, i);
    }
    assert(fabs(sum - 1) < 0.0001);
    assert(experiments_layer_coverage(e, layer) >= 0 && experiments_layer_coverage(e, layer) <= 1);
}

static void assert_settings(const struct settings *s)
{
    size_t n;
    const struct setting *table = settings_table(&n);

    for (size_t i = 0; i < n; i++) {
        struct settings copy = *s;
        struct buf text = BUF_INIT;
        struct err err = ERR_INIT;
        int fine;

        settings_get(s, &table[i], &text);
        fine = settings_set(&copy, &table[i], buf_cstr(&text), &err);
        assert(fine == 0 && memcmp(&copy, s, sizeof copy) == 0);
        buf_clear(&text);
    }
}

static struct assignment assign(const struct experiments *e, const char *user)
{
    struct experiment_subject s = {{user, strlen(user)}, {"home", 4}, NULL, NULL, "r"};
    struct err err = ERR_INIT;
    struct assignment a;
    int fine = experiments_assign(e, &s, &a, &err);

    assert(fine == 0);
    return a;
}

static void assert_assignment(const struct experiments *e, const struct experiments *again,
                              const char *user)
{
    struct assignment a = assign(e, user), b = assign(again, user);
    uint8_t back[EXPERIMENT_LAYERS_MAX];
    struct settings settings;

    for (int i = 0; i < EXPERIMENT_LAYERS_MAX; i++)
        assert(a.arm[i] == EXPERIMENT_NO_ARM ||
               (i < experiments_layers(e) && a.arm[i] < experiments_arms(e, i)));
    experiments_decode(e, a.code, back);
    assert(memcmp(back, a.arm, sizeof back) == 0);
    assert(memcmp(b.arm, a.arm, sizeof b.arm) == 0 && a.code == b.code && a.forced == b.forced);
    settings_default(&settings);
    experiments_apply(e, &a, &settings);
    assert_settings(&settings);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    struct experiment_checks checks = {NULL, NULL, 1000};
    struct err err = ERR_INIT;
    struct experiments *e = experiments_parse("fuzz", (const char *)bytes, len, &checks, &err);
    struct experiments *again;
    const char *text;

    if (e == NULL) {
        assert(err.code == ERR_USAGE);
        assert_refusal(&err, "fuzz: ");
        return 0;
    }
    text = experiments_text(e, &len);
    again = experiments_parse("again", text, len, &checks, &err);
    assert(again != NULL);
    assert(strcmp(experiments_sha256(e), experiments_sha256(again)) == 0);
    assert(experiments_layers(e) <= EXPERIMENT_LAYERS_MAX);
    for (int i = 0; i < experiments_layers(e); i++)
        assert_layer(e, i);
    for (size_t i = 0; i < ARRAY_LEN(users); i++)
        assert_assignment(e, again, users[i]);
    experiments_release(e);
    experiments_release(again);
    return 0;
}
