/* test_experiment.c - who gets which arm, what a file may say, what survives, what is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "recalld/experiment.h"

/* cmocka of Debian 12 compares floats only. */
static void assert_near(double a, double b, double most)
{
    if (!(a - b <= most && b - a <= most))
        fail_msg("%.17g is not %.17g", a, b);
}

/* ---- helpers --------------------------------------------------------------------------- */

#define ARMS(more) \
    "\"arms\":[{\"name\":\"a\",\"weight\":0.5},{\"name\":\"b\",\"weight\":0.5" more "}]"
#define FILE_OF(layers) \
    "{\"version\":7,\"hash\":\"growthbook-v2\",\"allow_forced\":true,\"layers\":[" layers "]}"
#define SIMPLE FILE_OF("{\"name\":\"model\"," ARMS("") "}")

static bool only_known(void *arg, const char *name)
{
    return strcmp(name, arg) == 0;
}

static const struct experiment_checks checks = {only_known, (void *)"toy@1", 1000};

static struct experiments *parsed(const char *text)
{
    struct err err = ERR_INIT;
    struct experiments *e = experiments_parse(NULL, text, strlen(text), &checks, &err);

    if (e == NULL)
        fail_msg("%s", err.text);
    return e;
}

static void refused(const char *text, const char *message)
{
    struct err err = ERR_INIT;

    assert_null(experiments_parse(NULL, text, strlen(text), &checks, &err));
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, message);
}

static struct str str_of(const char *s)
{
    return (struct str){s, s == NULL ? 0 : strlen(s)};
}

struct asked {
    const char *user, *scene, *context, *forced;
};

static int assign(const struct experiments *e, struct asked q, struct assignment *out,
                  struct err *err)
{
    json_t *context = q.context == NULL ? NULL : json_loads(q.context, 0, NULL);
    json_t *forced = q.forced == NULL ? NULL : json_loads(q.forced, 0, NULL);
    struct experiment_subject s = {str_of(q.user), str_of(q.scene), context, forced, "r-1"};
    int result = experiments_assign(e, &s, out, err);

    json_decref(context);
    json_decref(forced);
    return result;
}

/* The arm of the first layer, or "-". */
static const char *arm(const struct experiments *e, struct asked q)
{
    struct err err = ERR_INIT;
    struct assignment a;

    if (assign(e, q, &a, &err) == -1)
        fail_msg("%s", err.text);
    return a.arm[0] == EXPERIMENT_NO_ARM ? "-" : experiments_arm_name(e, 0, a.arm[0]);
}

/* ---- the hash --------------------------------------------------------------------------- */

static void the_hash_is_growthbooks_second_version(void **state)
{
    /* The first seven are published by GrowthBook; the others were computed apart from this. */
    static const struct {
        const char *seed, *unit;
        double n;
    } cases[] = {
        {"seed", "a", 0.0505},
        {"seed", "b", 0.2696},
        {"foo", "ab", 0.2575},
        {"foo", "def", 0.2019},
        {"89123klj", "8952klfjas09ujkasdf", 0.124},
        {"90850943850283058242805", "123", 0.7516},
        {"()**(%$##$%#$#", "___)((*\":&", 0.0128},
        {"recall_mind_k", "u1", 0.9298},
        {"recall_mind_k", "u2", 0.1225},
        {"recall_mind_k", "1001", 0.6779},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_near(experiment_hash(cases[i].seed, strlen(cases[i].seed), cases[i].unit,
                                    strlen(cases[i].unit)),
                    cases[i].n, 0);
}

static void a_unit_is_hashed_as_its_bytes(void **state)
{
    (void)state;
    /* "ü" in UTF-8 and in Latin-1 are different units. */
    assert_true(experiment_hash("s", 1, "\xc3\xbc", 2) != experiment_hash("s", 1, "\xfc", 1));
}

/* ---- assignment ------------------------------------------------------------------------- */

static void arms_get_their_shares(void **state)
{
    struct experiments *e = parsed(FILE_OF("{\"name\":\"l\",\"coverage\":0.5,\"arms\":["
                                           "{\"name\":\"a\",\"weight\":0.2},"
                                           "{\"name\":\"b\",\"weight\":0.8}]}"));
    int n[3] = {0, 0, 0};

    (void)state;
    for (int i = 0; i < 100000; i++) {
        char user[16];
        const char *name;

        snprintf(user, sizeof user, "u%d", i);
        name = arm(e, (struct asked){.user = user});
        n[name[0] == 'a' ? 0 : name[0] == 'b' ? 1 : 2]++;
    }
    /* Six standard deviations. */
    assert_in_range(n[0], 10000 - 600, 10000 + 600);
    assert_in_range(n[1], 40000 - 930, 40000 + 930);
    assert_in_range(n[2], 50000 - 950, 50000 + 950);
    experiments_release(e);
}

static void raising_the_coverage_moves_nobody_between_arms(void **state)
{
    static const char *const coverages[] = {"0.1", "0.11", "0.5", "0.999", "1"};
    char before[2000], text[400];

    (void)state;
    memset(before, '-', sizeof before);
    for (size_t k = 0; k < ARRAY_LEN(coverages); k++) {
        struct experiments *e;

        snprintf(
            text, sizeof text,
            FILE_OF("{\"name\":\"l\",\"coverage\":%s,\"arms\":[{\"name\":\"a\",\"weight\":0.3},"
                    "{\"name\":\"b\",\"weight\":0.3},{\"name\":\"c\",\"weight\":0.4}]}"),
            coverages[k]);
        e = parsed(text);
        for (int i = 0; i < 2000; i++) {
            char user[16];
            char now;

            snprintf(user, sizeof user, "u%d", i);
            now = arm(e, (struct asked){.user = user})[0];
            if (before[i] != '-')
                assert_int_equal(now, before[i]);
            before[i] = now;
        }
        experiments_release(e);
    }
    assert_null(memchr(before, '-', sizeof before)); /* at last everybody has an arm */
}

static void layers_assign_independently(void **state)
{
    struct experiments *e =
        parsed(FILE_OF("{\"name\":\"x\"," ARMS("") "},{\"name\":\"y\"," ARMS("") "}"));
    int n[2][2] = {{0, 0}, {0, 0}};

    (void)state;
    for (int i = 0; i < 40000; i++) {
        struct err err = ERR_INIT;
        struct assignment a;
        char user[16];

        snprintf(user, sizeof user, "u%d", i);
        assert_int_equal(assign(e, (struct asked){.user = user}, &a, &err), 0);
        n[a.arm[0]][a.arm[1]]++;
    }
    for (int i = 0; i < 4; i++)
        assert_in_range(n[i / 2][i % 2], 10000 - 520, 10000 + 520); /* six standard deviations */
    experiments_release(e);
}

static void without_its_unit_a_layer_assigns_nothing(void **state)
{
    struct experiments *e = parsed(SIMPLE);
    struct experiments *c =
        parsed(FILE_OF("{\"name\":\"l\",\"unit\":\"context.device\"," ARMS("") "}"));
    struct experiments *r =
        parsed(FILE_OF("{\"name\":\"l\",\"unit\":\"request_id\"," ARMS("") "}"));

    (void)state;
    assert_string_equal(arm(e, (struct asked){.scene = "home"}), "-");
    assert_string_equal(arm(c, (struct asked){.user = "u"}), "-");
    assert_string_equal(arm(c, (struct asked){.context = "{\"device\":true}"}), "-");
    assert_string_equal(arm(c, (struct asked){.context = "{\"device\":\"\"}"}), "-");
    assert_string_not_equal(arm(c, (struct asked){.context = "{\"device\":7}"}), "-");
    assert_string_equal(arm(c, (struct asked){.context = "{\"device\":7}"}),
                        arm(c, (struct asked){.context = "{\"device\":\"7\"}"}));
    assert_string_not_equal(arm(r, (struct asked){0}), "-");
    experiments_release(e);
    experiments_release(c);
    experiments_release(r);
}

static void when_wants_every_key_and_any_of_its_values(void **state)
{
    struct experiments *e =
        parsed(FILE_OF("{\"name\":\"l\",\"when\":{\"scene\":[\"home\",\"cart\"],"
                       "\"context.country\":[\"de\",7],\"context.app\":[true]}," ARMS("") "}"));
    static const struct {
        const char *scene, *context;
        bool applies;
    } cases[] = {
        {"home", "{\"country\":\"de\",\"app\":true}", true},
        {"cart", "{\"country\":7,\"app\":true}", true},
        {"cart", "{\"country\":\"7\",\"app\":true}", true},
        {"shop", "{\"country\":\"de\",\"app\":true}", false},
        {NULL, "{\"country\":\"de\",\"app\":true}", false},
        {"home", "{\"country\":\"fr\",\"app\":true}", false},
        {"home", "{\"country\":\"de\",\"app\":\"true\"}", false},
        {"home", "{\"country\":\"de\",\"app\":false}", false},
        {"home", "{\"country\":\"de\"}", false},
        {"home", "{\"country\":[\"de\"],\"app\":true}", false},
        {"home", NULL, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_int_equal(strcmp(arm(e, (struct asked){.user = "u",
                                                      .scene = cases[i].scene,
                                                      .context = cases[i].context}),
                                "-") != 0,
                         cases[i].applies);
    experiments_release(e);
}

static void a_forced_user_gets_that_arm_and_is_marked(void **state)
{
    struct experiments *e = parsed(FILE_OF(
        "{\"name\":\"l\",\"coverage\":0," ARMS("") ",\"force\":{\"u1\":\"b\",\"u2\":\"a\"}}"));
    struct err err = ERR_INIT;
    struct assignment a;

    (void)state;
    assert_int_equal(assign(e, (struct asked){.user = "u1"}, &a, &err), 0);
    assert_int_equal(a.arm[0], 1);
    assert_true(a.forced);
    assert_string_equal(arm(e, (struct asked){.user = "u2"}), "a");
    assert_int_equal(assign(e, (struct asked){.user = "u3"}, &a, &err), 0);
    assert_int_equal(a.arm[0], EXPERIMENT_NO_ARM);
    assert_false(a.forced);
    experiments_release(e);
}

static void a_request_may_choose_where_the_file_allows_it(void **state)
{
    struct experiments *e = parsed(FILE_OF("{\"name\":\"l\",\"coverage\":0,\"when\":{\"scene\":"
                                           "[\"home\"]}," ARMS("") "}"));
    struct experiments *no = parsed("{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":["
                                    "{\"name\":\"l\"," ARMS("") "}]}");
    struct err err = ERR_INIT;
    struct assignment a;

    (void)state;
    assert_int_equal(assign(e, (struct asked){.forced = "{\"l\":\"b\"}"}, &a, &err), 0);
    assert_int_equal(a.arm[0], 1);
    assert_true(a.forced);
    assert_int_equal(assign(e, (struct asked){.forced = "{\"l\":\"c\"}"}, &a, &err), -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, "arms.l: the layer has no arm \"c\"");
    err_clear(&err);
    assert_int_equal(assign(e, (struct asked){.forced = "{\"m\":\"b\"}"}, &a, &err), -1);
    assert_string_equal(err.text, "arms.m: there is no such layer");
    err_clear(&err);
    assert_int_equal(assign(e, (struct asked){.forced = "{\"l\":1}"}, &a, &err), -1);
    assert_string_equal(err.text, "arms.l: must be the name of an arm");
    err_clear(&err);
    assert_int_equal(assign(no, (struct asked){.forced = "{\"l\":\"b\"}"}, &a, &err), -1);
    assert_int_equal(err.code, ERR_CONFLICT);
    err_clear(&err);
    assert_int_equal(assign(no, (struct asked){.user = "u", .forced = "{}"}, &a, &err), 0);
    assert_false(a.forced);
    experiments_release(e);
    experiments_release(no);
}

#define LAYER(name, when, set) \
    "{\"name\":\"" name "\",\"when\":{" when "}," ARMS(",\"set\":{" set "}") "}"

/* Layers x and y exclude each other by `when`, and both their arms b set lambda. */
static const char excluding[] =
    FILE_OF(LAYER("x", "\"scene\":[\"home\"]", "\"lambda\":0.25") "," LAYER(
        "y", "\"scene\":[\"cart\"]", "\"lambda\":0.5") "," LAYER("z", "", "\"effort\":2"));

static void chosen_arms_never_set_one_setting_twice(void **state)
{
    struct experiments *e = parsed(excluding);
    struct err err = ERR_INIT;
    struct assignment a;

    (void)state;
    assert_int_equal(assign(e, (struct asked){.forced = "{\"x\":\"b\",\"y\":\"b\"}"}, &a, &err),
                     -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, "arms.y: sets lambda, and so does the arm of layer x");
    err_clear(&err);
    assert_int_equal(
        assign(e, (struct asked){.forced = "{\"z\":\"b\",\"y\":\"b\",\"x\":\"b\"}"}, &a, &err), -1);
    assert_string_equal(err.text, "arms.x: sets lambda, and so does the arm of layer y");
    err_clear(&err);
    /* One that sets nothing may be in both. */
    assert_int_equal(assign(e, (struct asked){.forced = "{\"x\":\"b\",\"y\":\"a\"}"}, &a, &err), 0);
    assert_true(a.arm[0] == 1 && a.arm[1] == 0);
    experiments_release(e);
}

static void a_chosen_arm_leaves_out_a_given_one_that_sets_the_same(void **state)
{
    struct experiments *e = parsed(excluding);
    struct err err = ERR_INIT;
    struct settings settings;
    struct assignment a;
    int both[2] = {0, 0};

    (void)state;
    for (int i = 0; i < 100; i++) {
        char user[16];
        struct asked q = {.user = user, .scene = "cart"};

        snprintf(user, sizeof user, "u%d", i);
        assert_int_equal(assign(e, q, &a, &err), 0);
        both[a.arm[1]]++;
        q.forced = "{\"x\":\"b\"}";
        assert_int_equal(assign(e, q, &a, &err), 0);
        assert_int_equal(a.arm[0], 1);
        assert_true(a.arm[1] == 0 || a.arm[1] == EXPERIMENT_NO_ARM);
        assert_int_not_equal(a.arm[2], EXPERIMENT_NO_ARM);
        settings_default(&settings);
        experiments_apply(e, &a, &settings);
        assert_true(settings.lambda == 0.25);
    }
    assert_true(both[0] > 20 && both[1] > 20);
    experiments_release(e);
}

static void a_code_names_the_whole_assignment(void **state)
{
    struct experiments *e = parsed(FILE_OF("{\"name\":\"x\"," ARMS(
        "") "},"
            "{\"name\":\"y\",\"coverage\":0.5," ARMS("") "},"
                                                         "{\"name\":\"z\"," ARMS("") "}"));

    (void)state;
    for (int i = 0; i < 200; i++) {
        uint8_t back[EXPERIMENT_LAYERS_MAX];
        struct err err = ERR_INIT;
        struct assignment a;
        char user[16];

        snprintf(user, sizeof user, "u%d", i);
        assert_int_equal(assign(e, (struct asked){.user = user}, &a, &err), 0);
        experiments_decode(e, a.code, back);
        assert_memory_equal(back, a.arm, sizeof back);
    }
    experiments_release(e);
}

static void arms_set_settings_and_leave_the_others(void **state)
{
    struct experiments *e = parsed(FILE_OF(
        "{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":1,\"set\":{\"bundle\":\"toy@1\","
        "\"n\":20,\"merge\":\"diverse\",\"lambda\":0.3,\"exclude_history\":false,"
        "\"effort\":2}}]},{\"name\":\"m\",\"arms\":[{\"name\":\"c\",\"weight\":1,"
        "\"set\":{\"fallback\":\"none\"}}]}"));
    struct err err = ERR_INIT;
    struct settings s, want;
    struct assignment a;

    (void)state;
    settings_default(&s);
    want = s;
    strcpy(want.bundle, "toy@1");
    want.n = 20;
    want.merge = MERGE_DIVERSE;
    want.lambda = 0.3;
    want.exclude_history = false;
    want.effort = 2;
    want.fallback = FALLBACK_NONE;
    assert_int_equal(assign(e, (struct asked){.user = "u"}, &a, &err), 0);
    experiments_apply(e, &a, &s);
    assert_memory_equal(&s, &want, sizeof s);
    experiments_release(e);
}

/* ---- what a file may say ---------------------------------------------------------------- */

/* A value that is not the default, as text and as JSON. */
static void another_value(const struct setting *s, char text[64], char json[64])
{
    double usual = strtod(s->fallback, NULL);
    const char *quote = "";

    switch (s->type) {
    case SETTING_INT:
        snprintf(text, 64, "%d", (int)(usual < s->max ? usual + 1 : usual - 1));
        break;
    case SETTING_DOUBLE:
        snprintf(text, 64, "%g", usual / 2 > s->min ? usual / 2 : (usual + s->max) / 2);
        break;
    case SETTING_BOOL:
        snprintf(text, 64, "%s", strcmp(s->fallback, "true") == 0 ? "false" : "true");
        break;
    case SETTING_ENUM:
        snprintf(text, 64, "%s", s->words[strcmp(s->fallback, s->words[0]) == 0]);
        quote = "\"";
        break;
    case SETTING_STRING:
        snprintf(text, 64, "%s", "toy@1");
        quote = "\"";
        break;
    }
    snprintf(json, 64, "%s%.60s%s", quote, text, quote);
}

static void assert_same_settings(const struct settings *a, const struct settings *b)
{
    size_t n;
    const struct setting *all = settings_table(&n);

    for (size_t i = 0; i < n; i++) {
        struct buf left = BUF_INIT, right = BUF_INIT;

        settings_get(a, &all[i], &left);
        settings_get(b, &all[i], &right);
        assert_string_equal(buf_cstr(&left), buf_cstr(&right));
        buf_clear(&left);
        buf_clear(&right);
    }
}

static void every_recall_setting_can_be_set_by_an_arm(void **state)
{
    size_t n;
    const struct setting *all = settings_table(&n);

    (void)state;
    assert_true(n >= 10);
    for (size_t i = 0; i < n; i++) {
        struct settings wanted, got;
        struct assignment a;
        struct err err = ERR_INIT;
        struct experiments *e;
        char text[64], json[64], *file;

        another_value(&all[i], text, json);
        assert_string_not_equal(text, all[i].fallback);
        settings_default(&wanted);
        settings_default(&got);
        assert_int_equal(settings_set(&wanted, &all[i], text, &err), 0);
        file = xasprintf(FILE_OF("{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":1,"
                                 "\"set\":{\"%s\":%s}}]}"),
                         all[i].name, json);
        e = parsed(file);
        assert_int_equal(assign(e, (struct asked){.user = "u"}, &a, &err), 0);
        experiments_apply(e, &a, &got);
        assert_same_settings(&got, &wanted);
        experiments_release(e);
        free(file);
    }
}

static void a_bad_file_is_refused_with_the_place(void **state)
{
    (void)state;
    refused("", "body: line 1, column 0: '[' or '{' expected near end of file");
    refused("[]", "body: must be an object");
    refused("{\"version\":1,\"hash\":\"growthbook-v2\"}", "layers: is missing");
    refused("{\"hash\":\"growthbook-v2\",\"layers\":[]}", "version: is missing");
    refused("{\"version\":1.5,\"hash\":\"growthbook-v2\",\"layers\":[]}",
            "version: must be a whole number from 0 to 2^53 - 1");
    refused("{\"version\":1,\"hash\":\"growthbook-v1\",\"layers\":[]}",
            "hash: must be \"growthbook-v2\": no other is known");
    refused("{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":[],\"layer\":[]}",
            "layer: there is no such key");
    refused("{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":[],\"a: b\":[]}",
            "body: there is no key \"a: b\"");
    refused(FILE_OF("{\"name\":\"l l\"," ARMS("") "}"),
            "layers[0].name: must be a name: 1 to 64 of A-Z a-z 0-9 . _ -");
    refused(FILE_OF("{\"name\":\"l\"}"), "layers[0].arms: is missing");
    refused(FILE_OF("{\"name\":\"l\",\"arms\":[]}"),
            "layers[0].arms: must be a list of 1 to 32 arms");
    refused(FILE_OF("{\"name\":\"l\",\"coverage\":1.01," ARMS("") "}"),
            "layers[0].coverage: must be a number from 0 to 1");
    refused(FILE_OF("{\"name\":\"l\",\"coverage\":-0.1," ARMS("") "}"),
            "layers[0].coverage: must be a number from 0 to 1");
    refused(FILE_OF("{\"name\":\"l\",\"unit\":\"device\"," ARMS("") "}"),
            "layers[0].unit: must be user_id, request_id or context.NAME");
    refused(FILE_OF("{\"name\":\"l\",\"seed\":\"\"," ARMS("") "}"),
            "layers[0].seed: must be a string of 1 to 128 bytes");
    refused(FILE_OF("{\"name\":\"l\",\"when\":{\"country\":[\"de\"]}," ARMS("") "}"),
            "layers[0].when: \"country\" is neither scene nor context.NAME");
    refused(FILE_OF("{\"name\":\"l\",\"when\":{\"context.country\":[]}," ARMS("") "}"),
            "layers[0].when.context.country: must be a list of 1 to 1000 values");
    refused(FILE_OF("{\"name\":\"l\",\"when\":{\"context.country\":[\"de\",1.5]}," ARMS("") "}"),
            "layers[0].when.context.country[1]: must be a string, an integer, true or false");
    refused(FILE_OF("{\"name\":\"l\",\"when\":{\"scene\":[true]}," ARMS("") "}"),
            "layers[0].when.scene[0]: a scene is a string");
    refused(FILE_OF("{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":0.5},"
                    "{\"name\":\"a\",\"weight\":0.5}]}"),
            "layers[0].arms[1].name: arms[0] has this name already");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"colour\":1") "}"),
            "layers[0].arms[1].colour: there is no such key");
    refused(FILE_OF("{\"name\":\"l\"," ARMS("") ",\"force\":{\"u\":\"c\"}}"),
            "layers[0].force: \"u\" must get one of this layer's arms");
    refused(FILE_OF("{\"name\":\"l\"," ARMS("") "},{\"name\":\"l\",\"seed\":\"s\"," ARMS("") "}"),
            "layers[1].name: layers[0] has this name already");
    refused(
        FILE_OF("{\"name\":\"l\"," ARMS("") "},{\"name\":\"m\",\"seed\":\"l\"," ARMS("") "}"),
        "layers[1].seed: layer l has this seed too: who gets which arm would not be independent");
    refused("{\"version\":1,\"version\":2,\"hash\":\"growthbook-v2\",\"layers\":[]}",
            "body: line 1, column 22: duplicate object key near '\"version\"'");
}

static void weights_must_sum_to_one(void **state)
{
    static const struct {
        const char *weights[3];
        bool fine;
    } cases[] = {
        {{"0.3333333", "0.3333333", "0.3333334"}, true},
        {{"0.33333", "0.33333", "0.33333"}, true},
        {{"0.3333", "0.3333", "0.3333"}, false},
        {{"0.5", "0.5", "0"}, true},
        {{"0.5", "0.5", "0.5"}, false},
        {{"1", "0", "0"}, true},
        {{"1.5", "0", "-0.5"}, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct err err = ERR_INIT;
        struct experiments *e;
        char text[400];

        snprintf(text, sizeof text,
                 FILE_OF("{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":%s},{\"name\":\"b\","
                         "\"weight\":%s},{\"name\":\"c\",\"weight\":%s}]}"),
                 cases[i].weights[0], cases[i].weights[1], cases[i].weights[2]);
        e = experiments_parse(NULL, text, strlen(text), NULL, &err);
        assert_int_equal(e != NULL, cases[i].fine);
        if (e != NULL) /* nobody falls behind the last arm */
            for (int k = 0; k < 30000; k++) {
                char user[16];

                snprintf(user, sizeof user, "u%d", k);
                assert_string_not_equal(arm(e, (struct asked){.user = user}), "-");
            }
        experiments_release(e);
    }
}

static void settings_of_arms_are_checked_like_any_other(void **state)
{
    (void)state;
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"lambdas\":1}") "}"),
            "layers[0].arms[1].set.lambdas: there is no such key");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"lambda\":11}") "}"),
            "layers[0].arms[1].set.lambda: must be from 0 to 10");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"n\":\"20\"}") "}"),
            "layers[0].arms[1].set.n: must be a whole number from 1 to 10000");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"n\":20.5}") "}"),
            "layers[0].arms[1].set.n: must be a whole number from 1 to 10000");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"n\":1001}") "}"),
            "layers[0].arms[1].set.n: must be at most recall.n_max = 1000");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"merge\":\"best\"}") "}"),
            "layers[0].arms[1].set.merge: must be one of max, quota, diverse");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"merge\":1}") "}"),
            "layers[0].arms[1].set.merge: must be a string");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"exclude_history\":\"no\"}") "}"),
            "layers[0].arms[1].set.exclude_history: must be true or false");
    refused(FILE_OF("{\"name\":\"l\"," ARMS(",\"set\":{\"bundle\":\"toy@2\"}") "}"),
            "layers[0].arms[1].set.bundle: no bundle or alias \"toy@2\" is loaded");
}

static void two_layers_set_one_setting_only_if_no_request_is_in_both(void **state)
{
#define SETTER(name, when) "{\"name\":\"" name "\"" when "," ARMS(",\"set\":{\"lambda\":1}") "}"
    static const char message[] =
        "layers[1].arms[1].set.lambda: layer x sets it too, and one request can be in both";

    (void)state;
    refused(FILE_OF(SETTER("x", "") "," SETTER("y", "")), message);
    refused(FILE_OF(SETTER("x", ",\"when\":{\"scene\":[\"a\",\"b\"]}") "," SETTER(
                "y", ",\"when\":{\"scene\":[\"b\",\"c\"]}")),
            message);
    refused(FILE_OF(SETTER("x", ",\"when\":{\"scene\":[\"a\"]}") "," SETTER(
                "y", ",\"when\":{\"context.scene\":[\"b\"]}")),
            message);
    refused(FILE_OF(SETTER("x", ",\"when\":{\"context.c\":[7]}") "," SETTER(
                "y", ",\"when\":{\"context.c\":[\"7\"]}")),
            message);
    experiments_release(parsed(FILE_OF(SETTER("x", ",\"when\":{\"scene\":[\"a\"]}") "," SETTER(
        "y", ",\"when\":{\"scene\":[\"b\"],\"context.c\":[1]}"))));
    experiments_release(parsed(FILE_OF(SETTER("x", ",\"when\":{\"context.c\":[true]}") "," SETTER(
        "y", ",\"when\":{\"context.c\":[false]}"))));
    experiments_release(
        parsed(FILE_OF(SETTER("x", "") ",{\"name\":\"y\"," ARMS(",\"set\":{\"effort\":2}") "}")));
}

static void limits_are_named(void **state)
{
    struct buf text = BUF_INIT;
    struct err err = ERR_INIT;

    (void)state;
    for (int round = 0; round < 2; round++) { /* 32 layers of two arms fit, 33 layers do not */
        struct experiments *e;

        text.len = 0;
        buf_puts(&text, "{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":[");
        for (int i = 0; i < EXPERIMENT_LAYERS_MAX + round; i++)
            buf_printf(&text, "%s{\"name\":\"l%d\"," ARMS("") "}", i > 0 ? "," : "", i);
        buf_puts(&text, "]}");
        e = experiments_parse("f", text.p, text.len, NULL, &err);
        assert_int_equal(e != NULL, round == 0);
        experiments_release(e);
    }
    assert_string_equal(err.text, "f: layers: must be a list of at most 32 layers");
    err_clear(&err);
    text.len = 0;
    buf_puts(&text, "{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":[");
    for (int i = 0; i < 11; i++) {
        buf_printf(&text, "%s{\"name\":\"l%d\",\"arms\":[", i > 0 ? "," : "", i);
        for (int k = 0; k < 32; k++)
            buf_printf(&text, "%s{\"name\":\"a%d\",\"weight\":0.03125}", k > 0 ? "," : "", k);
        buf_puts(&text, "]}");
    }
    buf_puts(&text, "]}");
    assert_null(experiments_parse("f", text.p, text.len, NULL, &err));
    assert_string_equal(err.text, "f: layers: together they have too many arms: the product of "
                                  "(arms + 1) over all layers must be below 2^52");
    buf_clear(&text);
}

/* ---- the store -------------------------------------------------------------------------- */

static const char *folder;

static int make_folder(void **state)
{
    static char name[] = "/tmp/experiment.XXXXXX";

    (void)state;
    folder = mkdtemp(name);
    return folder == NULL ? -1 : 0;
}

static int remove_folder(void **state)
{
    char *command = xasprintf("rm -rf '%s'", folder);
    int result = system(command);

    (void)state;
    free(command);
    return result;
}

static char *write_text(const char *name, const char *text)
{
    char *path = path_join(folder, name);
    struct err err = ERR_INIT;

    if (file_write(path, text, strlen(text), &err) == -1)
        fail_msg("%s", err.text);
    return path;
}

static int64_t version(struct experiment_store *s)
{
    const struct experiments *e = experiment_store_acquire(s);
    int64_t v = experiments_version(e);

    experiments_release(e);
    return v;
}

static enum experiment_put put(struct experiment_store *s, const char *text, const char *if_match,
                               struct err *err)
{
    err_clear(err);
    return experiment_store_put(s, text, strlen(text), if_match, &checks, err);
}

/* The entity tag of what is in effect, in quotes. */
static const char *tag(struct experiment_store *s)
{
    static char text[SHA256_HEX + 2];
    const struct experiments *e = experiment_store_acquire(s);

    snprintf(text, sizeof text, "\"%s\"", experiments_sha256(e));
    experiments_release(e);
    return text;
}

#define VERSION(n) "{\"version\":" #n ",\"hash\":\"growthbook-v2\",\"layers\":[]}"

static struct experiment_store *loaded(const char *dir, const char *file)
{
    struct experiment_store *s = experiment_store_new(dir, 1000);
    struct err err = ERR_INIT;

    if (experiment_store_load(s, file, &checks, &err) == -1)
        fail_msg("%s", err.text);
    return s;
}

static void what_was_put_survives_until_the_file_changes(void **state)
{
    char *file = write_text("e.json", VERSION(1)), *dir = path_join(folder, "survives");
    struct experiment_store *s = experiment_store_new(dir, 0);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(put(s, VERSION(2), "*", &err), EXPERIMENT_EARLY);
    experiment_store_free(s);
    s = loaded(dir, file);
    assert_int_equal(version(s), 1);
    assert_int_equal(put(s, VERSION(2), tag(s), &err), EXPERIMENT_PUT);
    assert_int_equal(version(s), 2);
    experiment_store_free(s);
    s = loaded(dir, file);
    assert_int_equal(version(s), 2); /* the same file, so what was put over it */
    free(write_text("e.json", VERSION(3)));
    assert_int_equal(version(s), 2);
    assert_int_equal(experiment_store_load(s, file, &checks, &err), 0);
    assert_int_equal(version(s), 3);
    experiment_store_free(s);
    free(file);
    free(dir);
}

static void a_put_needs_the_tag_of_what_it_replaces(void **state)
{
    char *dir = path_join(folder, "tags"), text[200];
    struct experiment_store *s = loaded(dir, ""), *nowhere = loaded("", "");
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(put(nowhere, VERSION(1), "*", &err), EXPERIMENT_NO_STATE);
    assert_int_equal(put(s, VERSION(1), NULL, &err), EXPERIMENT_NO_MATCH);
    assert_int_equal(put(s, VERSION(1), "\"abc\"", &err), EXPERIMENT_CHANGED);
    assert_int_equal(put(s, VERSION(1), "", &err), EXPERIMENT_CHANGED);
    snprintf(text, sizeof text, "W/%s", tag(s));
    assert_int_equal(put(s, VERSION(1), text, &err), EXPERIMENT_CHANGED);
    assert_int_equal(put(s, VERSION(1), " , ,\t", &err), EXPERIMENT_CHANGED);
    assert_int_equal(put(s, VERSION(1), "\"\", \"a,b\",W/\"\"", &err), EXPERIMENT_CHANGED);
    snprintf(text, sizeof text, "\",%.*s,\"", 64, tag(s) + 1); /* within another tag */
    assert_int_equal(put(s, VERSION(1), text, &err), EXPERIMENT_CHANGED);
    assert_int_equal(version(s), 0);
    snprintf(text, sizeof text, "\"abc\" ,\t%s", tag(s));
    assert_int_equal(put(s, VERSION(1), text, &err), EXPERIMENT_PUT);
    assert_int_equal(put(s, VERSION(2), text, &err), EXPERIMENT_CHANGED);
    assert_int_equal(put(s, VERSION(2), " *\t", &err), EXPERIMENT_PUT);
    assert_int_equal(version(s), 2);
    experiment_store_free(s);
    experiment_store_free(nowhere);
    free(dir);
}

static void a_malformed_tag_is_refused(void **state)
{
    static const char *const bad[] = {"*, \"x\"", "\"x\", *", "**",        "* *",
                                      "abc",      "\"x",      "x\"",       "\"x\" \"y\"",
                                      "\"x\"y",   "w/\"x\"",  "W/ \"x\"",  "\"x y\"",
                                      "\"\x7f\"", "W/*",      "\"x\", W/", "\"\x1f\""};
    char *dir = path_join(folder, "malformed"), text[200];
    struct experiment_store *s = loaded(dir, "");
    struct err err = ERR_INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(put(s, VERSION(1), bad[i], &err), EXPERIMENT_BAD_MATCH);
        assert_int_equal(err.code, ERR_USAGE);
        snprintf(text, sizeof text, "%s, %s", tag(s), bad[i]); /* also behind one that matches */
        assert_int_equal(put(s, VERSION(1), text, &err), EXPERIMENT_BAD_MATCH);
    }
    snprintf(text, sizeof text, "%.*s", 65, tag(s)); /* without its last quote */
    assert_int_equal(put(s, VERSION(1), text, &err), EXPERIMENT_BAD_MATCH);
    assert_int_equal(version(s), 0);
    experiment_store_free(s);
    free(dir);
}

static void a_bad_put_or_load_changes_nothing(void **state)
{
    char *file = write_text("bad.json", VERSION(1)), *dir = path_join(folder, "bad");
    struct experiment_store *s = loaded(dir, file);
    struct err err = ERR_INIT;
    char *kept, *message;

    (void)state;
    assert_int_equal(put(s, "{\"version\":2}", "*", &err), EXPERIMENT_BAD);
    assert_string_equal(err.text, "hash: is missing");
    assert_int_equal(version(s), 1);
    free(write_text("bad.json", "{\"version\":3}"));
    err_clear(&err);
    assert_int_equal(experiment_store_load(s, file, &checks, &err), -1);
    message = xasprintf("%s: hash: is missing", file);
    assert_string_equal(err.text, message);
    free(message);
    assert_int_equal(version(s), 1);
    err_clear(&err);
    assert_int_equal(experiment_store_load(s, "/nowhere/e.json", &checks, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    experiment_store_free(s);

    assert_int_equal(mkdir(dir, 0777), 0);
    kept = write_text("bad/experiments.json", "{\"replaces\":");
    s = experiment_store_new(dir, 0);
    err_clear(&err);
    assert_int_equal(experiment_store_load(s, "", &checks, &err), -1);
    assert_non_null(strstr(err.text, "bad/experiments.json: line 1"));
    experiment_store_free(s);
    free(kept);
    free(file);
    free(dir);
}

static void what_cannot_be_kept_does_not_take_effect(void **state)
{
    char *dir = write_text("a-file", ""), *in_the_way; /* no folder can be made there */
    struct experiment_store *s = experiment_store_new(dir, 0);
    struct err err = ERR_INIT;

    (void)state;
    assert_int_equal(experiment_store_load(s, "", &checks, &err), -1); /* nor read */
    experiment_store_free(s);
    free(dir);
    dir = path_join(folder, "no/such");
    s = loaded(dir, "");
    in_the_way = write_text("no", "");
    assert_int_equal(put(s, VERSION(1), "*", &err), EXPERIMENT_FAILED);
    assert_int_equal(version(s), 0);
    free(in_the_way);
    experiment_store_free(s);
    free(dir);
}

/* ---- counts ----------------------------------------------------------------------------- */

static void serve(struct experiment_store *s, const char *user, const char *forced,
                  const char *serve_id, const char *request_id)
{
    const struct experiments *e = experiment_store_acquire(s);
    struct err err = ERR_INIT;
    struct assignment a;

    if (assign(e, (struct asked){.user = user, .forced = forced}, &a, &err) == -1)
        fail_msg("%s", err.text);
    experiment_count_served(s, e, &a, serve_id, request_id);
    experiments_release(e);
}

static bool event(struct experiment_store *s, enum experiment_event kind, const char *id)
{
    return experiment_count_event(s, kind, id, strlen(id));
}

/* A figure of an arm in the report of a layer. */
static int64_t figure(struct experiment_store *s, int layer, const char *name, const char *key)
{
    struct buf text = BUF_INIT;
    json_error_t why;
    json_t *json, *one;
    int64_t value = -1;
    size_t i;

    experiment_report(s, &text);
    json = json_loadb(text.p, text.len, JSON_REJECT_DUPLICATES, &why);
    if (json == NULL)
        fail_msg("%s", why.text);
    json_array_foreach (
        json_object_get(json_array_get(json_object_get(json, "layers"), (size_t)layer), "arms"), i,
        one)
        if (strcmp(json_string_value(json_object_get(one, "arm")), name) == 0)
            value = json_integer_value(json_object_get(one, key));
    json_decref(json);
    buf_clear(&text);
    return value;
}

#define ALL_TO(arm)                                                                          \
    FILE_OF("{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":" arm "},{\"name\":\"b\"," \
            "\"weight\":1}]}")

static void events_find_the_arm_by_either_id(void **state)
{
    char *file = write_text("counts.json", ALL_TO("0"));
    struct experiment_store *s = loaded("", file);

    (void)state;
    serve(s, "u1", NULL, "serve-1", "r-1");
    serve(s, "u2", NULL, "serve-2", "r-2");
    serve(s, "u3", "{\"l\":\"a\"}", "serve-3", "r-3");
    assert_int_equal(figure(s, 0, "b", "served"), 2);
    assert_int_equal(figure(s, 0, "a", "served"), 0); /* forced */
    assert_true(event(s, EXPERIMENT_EXPOSED, "serve-1"));
    assert_true(event(s, EXPERIMENT_EXPOSED, "r-2"));
    assert_true(event(s, EXPERIMENT_CLICKED, "r-2"));
    assert_true(event(s, EXPERIMENT_OTHER, "r-2"));
    assert_false(event(s, EXPERIMENT_CLICKED, "serve-3"));
    assert_false(event(s, EXPERIMENT_CLICKED, "nobody"));
    assert_int_equal(figure(s, 0, "b", "exposed"), 2);
    assert_int_equal(figure(s, 0, "b", "clicked"), 1);
    experiment_store_free(s);
    free(file);
}

static void counts_go_on_while_a_layer_assigns_as_before(void **state)
{
    static const char other_settings[] = FILE_OF(
        "{\"name\":\"x\"," ARMS("") "},{\"name\":\"l\",\"arms\":[{\"name\":\"a\",\"weight\":0,"
                                    "\"set\":{\"lambda\":2}},{\"name\":\"b\",\"weight\":1}]}");
    static const char other_seed[] =
        FILE_OF("{\"name\":\"l\",\"seed\":\"new\",\"arms\":[{\"name\":\"a\",\"weight\":0},"
                "{\"name\":\"b\",\"weight\":1}]}");
    char *file = write_text("goes-on.json", ALL_TO("0")), *dir = path_join(folder, "goes-on");
    struct experiment_store *s = loaded(dir, file);
    struct err err = ERR_INIT;

    (void)state;
    serve(s, "u1", NULL, "serve-1", "r-1");
    assert_int_equal(put(s, other_settings, "*", &err), EXPERIMENT_PUT);
    assert_int_equal(figure(s, 1, "b", "served"), 1);
    assert_true(event(s, EXPERIMENT_CLICKED, "serve-1")); /* served before the change */
    assert_int_equal(figure(s, 1, "b", "clicked"), 1);
    assert_int_equal(figure(s, 0, "a", "clicked") + figure(s, 0, "b", "clicked"), 0);
    assert_int_equal(put(s, other_seed, "*", &err), EXPERIMENT_PUT);
    assert_int_equal(figure(s, 0, "b", "served"), 0);
    assert_true(event(s, EXPERIMENT_CLICKED, "serve-1")); /* it counts for the layer that was */
    assert_int_equal(figure(s, 0, "b", "clicked"), 0);
    experiment_store_free(s);
    free(file);
    free(dir);
}

static void the_newest_answers_are_remembered(void **state)
{
    char *file = write_text("newest.json", ALL_TO("0"));
    struct experiment_store *s = loaded("", file); /* remembers 1000 */
    int found = 0;

    (void)state;
    for (int i = 0; i < 20000; i++) {
        char id[16];

        snprintf(id, sizeof id, "s%d", i);
        serve(s, "u", NULL, id, NULL);
    }
    for (int i = 19000; i < 20000; i++) {
        char id[16];

        snprintf(id, sizeof id, "s%d", i);
        found += event(s, EXPERIMENT_EXPOSED, id);
    }
    assert_in_range(found, 950, 1000);
    assert_false(event(s, EXPERIMENT_EXPOSED, "s0"));
    experiment_store_free(s);
    free(file);
}

/* The figures of scipy.stats.chi2.sf. */
static void the_report_says_how_likely_the_shares_are(void **state)
{
    static const struct {
        int n[4], arms; /* of 100 answers */
        double chi_square, p;
    } cases[] = {
        {{50, 50}, 2, 0, 1},
        {{60, 40}, 2, 4, 0.04550026389635841},
        {{25, 35, 40}, 3, 5.0 / 3, 0.4345982085070782},
        {{30, 20, 20, 30}, 4, 4, 0.26146412994911117},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct buf text = BUF_INIT, report = BUF_INIT;
        struct experiment_store *s;
        const struct experiments *e;
        json_t *json, *ratio;
        char *file;

        buf_puts(&text, "{\"version\":1,\"hash\":\"growthbook-v2\",\"layers\":[{\"name\":\"l\","
                        "\"arms\":[");
        for (int k = 0; k < cases[i].arms; k++)
            buf_printf(&text, "%s{\"name\":\"a%d\",\"weight\":%.17g}", k > 0 ? "," : "", k,
                       cases[i].arms == 3 ? (k < 2 ? 0.3 : 0.4) : 1.0 / cases[i].arms);
        buf_puts(&text, "]}]}");
        file = write_text("ratio.json", buf_cstr(&text));
        s = loaded("", file);
        e = experiment_store_acquire(s);
        for (int k = 0; k < cases[i].arms; k++)
            for (int n = 0; n < cases[i].n[k]; n++) {
                struct assignment a = {.code = 1};

                memset(a.arm, EXPERIMENT_NO_ARM, sizeof a.arm);
                a.arm[0] = (uint8_t)k;
                experiment_count_served(s, e, &a, NULL, NULL);
            }
        experiment_report(s, &report);
        json = json_loadb(report.p, report.len, 0, NULL);
        ratio = json_object_get(json_array_get(json_object_get(json, "layers"), 0), "sample_ratio");
        assert_near(json_number_value(json_object_get(ratio, "chi_square")), cases[i].chi_square,
                    1e-9);
        assert_near(json_number_value(json_object_get(ratio, "p")), cases[i].p, 1e-9);
        json_decref(json);
        buf_clear(&text);
        buf_clear(&report);
        experiments_release(e);
        experiment_store_free(s);
        free(file);
    }
}

/* ---- threads ---------------------------------------------------------------------------- */

struct crowd {
    struct experiment_store *store;
    atomic_bool stop;
    atomic_size_t served;
};

static void *serve_on(void *arg)
{
    struct crowd *c = arg;

    for (int i = 0; !atomic_load(&c->stop); i++) {
        char id[32];

        snprintf(id, sizeof id, "%d-%d", (int)((uintptr_t)&id >> 12 & 0xffff), i);
        serve(c->store, id, NULL, id, id);
        event(c->store, EXPERIMENT_CLICKED, id);
        atomic_fetch_add(&c->served, 1);
    }
    return NULL;
}

static void requests_go_on_while_experiments_change(void **state)
{
    char *dir = path_join(folder, "crowd"), text[500];
    struct crowd c = {.store = loaded(dir, "")};
    pthread_t threads[3];
    struct err err = ERR_INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, serve_on, &c), 0);
    for (int v = 1; v <= 40; v++) {
        size_t before = atomic_load(&c.served);

        snprintf(text, sizeof text,
                 "{\"version\":%d,\"hash\":\"growthbook-v2\",\"layers\":[{\"name\":\"l\","
                 "\"seed\":\"%d\"," ARMS("") "}]}",
                 v, v / 4);
        assert_int_equal(put(c.store, text, "*", &err), EXPERIMENT_PUT);
        while (atomic_load(&c.served) == before)
            usleep(100);
    }
    atomic_store(&c.stop, true);
    for (size_t i = 0; i < ARRAY_LEN(threads); i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(version(c.store), 40);
    experiment_store_free(c.store);
    free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hash_is_growthbooks_second_version),
        cmocka_unit_test(a_unit_is_hashed_as_its_bytes),
        cmocka_unit_test(arms_get_their_shares),
        cmocka_unit_test(raising_the_coverage_moves_nobody_between_arms),
        cmocka_unit_test(layers_assign_independently),
        cmocka_unit_test(without_its_unit_a_layer_assigns_nothing),
        cmocka_unit_test(when_wants_every_key_and_any_of_its_values),
        cmocka_unit_test(a_forced_user_gets_that_arm_and_is_marked),
        cmocka_unit_test(a_request_may_choose_where_the_file_allows_it),
        cmocka_unit_test(chosen_arms_never_set_one_setting_twice),
        cmocka_unit_test(a_chosen_arm_leaves_out_a_given_one_that_sets_the_same),
        cmocka_unit_test(a_code_names_the_whole_assignment),
        cmocka_unit_test(arms_set_settings_and_leave_the_others),
        cmocka_unit_test(every_recall_setting_can_be_set_by_an_arm),
        cmocka_unit_test(a_bad_file_is_refused_with_the_place),
        cmocka_unit_test(weights_must_sum_to_one),
        cmocka_unit_test(settings_of_arms_are_checked_like_any_other),
        cmocka_unit_test(two_layers_set_one_setting_only_if_no_request_is_in_both),
        cmocka_unit_test(limits_are_named),
        cmocka_unit_test(what_was_put_survives_until_the_file_changes),
        cmocka_unit_test(a_put_needs_the_tag_of_what_it_replaces),
        cmocka_unit_test(a_malformed_tag_is_refused),
        cmocka_unit_test(a_bad_put_or_load_changes_nothing),
        cmocka_unit_test(what_cannot_be_kept_does_not_take_effect),
        cmocka_unit_test(events_find_the_arm_by_either_id),
        cmocka_unit_test(counts_go_on_while_a_layer_assigns_as_before),
        cmocka_unit_test(the_newest_answers_are_remembered),
        cmocka_unit_test(the_report_says_how_likely_the_shares_are),
        cmocka_unit_test(requests_go_on_while_experiments_change),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
