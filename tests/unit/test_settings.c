/* test_settings.c - the table of recall settings. */
#include "recalld/settings.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void the_defaults_are_as_documented(void **state)
{
    struct settings s;

    (void)state;
    settings_default(&s);
    assert_string_equal(s.bundle, "");
    assert_int_equal(s.n, 200);
    assert_int_equal(s.interests, 0);
    assert_int_equal(s.candidates, 0);
    assert_true(s.effort == 1.0);
    assert_int_equal(s.merge, MERGE_MAX);
    assert_int_equal(s.min_per_interest, 10);
    assert_true(s.lambda == 0.1);
    assert_string_equal(s.diversity_attribute, "");
    assert_true(s.exclude_history);
    assert_true(s.exclude_exposed);
    assert_int_equal(s.dynamic_interests, DYNAMIC_MODEL);
    assert_true(s.similar_interests == 0.9999);
    assert_int_equal(s.fallback, FALLBACK_POPULAR);
}

static void every_default_survives_being_read_and_written(void **state)
{
    struct settings s, again;
    size_t n;
    const struct setting *table = settings_table(&n);

    (void)state;
    settings_default(&s);
    memset(&again, 0, sizeof again);
    for (size_t i = 0; i < n; i++) {
        struct err err = ERR_INIT;
        struct buf text = BUF_INIT;

        settings_get(&s, &table[i], &text);
        assert_string_equal(buf_cstr(&text), table[i].fallback);
        assert_int_equal(settings_set(&again, &table[i], buf_cstr(&text), &err), 0);
        assert_ptr_equal(settings_find(table[i].name), &table[i]);
        assert_true(strlen(table[i].help) > 0);
        buf_clear(&text);
    }
    assert_memory_equal(&s, &again, sizeof s);
    assert_null(settings_find("no_such_setting"));
    assert_null(settings_find(""));
}

static void set(struct settings *s, const char *name, const char *text)
{
    struct err err = ERR_INIT;

    if (settings_set(s, settings_find(name), text, &err) == -1)
        fail_msg("%s = %s: %s", name, text, err.text);
}

static void values_of_every_type_are_stored(void **state)
{
    struct settings s;

    (void)state;
    settings_default(&s);
    set(&s, "bundle", "demo@2");
    set(&s, "n", "10000");
    set(&s, "effort", "0.05");
    set(&s, "merge", "diverse");
    set(&s, "exclude_history", "off");
    set(&s, "dynamic_interests", "floor_log2_1p");
    set(&s, "fallback", "none");
    assert_string_equal(s.bundle, "demo@2");
    assert_int_equal(s.n, 10000);
    assert_true(s.effort == 0.05);
    assert_int_equal(s.merge, MERGE_DIVERSE);
    assert_false(s.exclude_history);
    assert_int_equal(s.dynamic_interests, DYNAMIC_FLOOR_LOG2_1P);
    assert_int_equal(s.fallback, FALLBACK_NONE);
}

static void values_that_are_not_allowed_are_refused_and_change_nothing(void **state)
{
    static const struct {
        const char *name, *text, *message;
    } rows[] = {
        {"n", "0", "must be from 1 to 10000"},
        {"n", "10001", "must be from 1 to 10000"},
        {"n", "ten", "must be a whole number from 1 to 10000"},
        {"n", "1.5", "must be a whole number from 1 to 10000"},
        {"n", "99999999999999999999", "must be a whole number from 1 to 10000"},
        {"effort", "0.04", "must be from 0.05 to 16"},
        {"effort", "nan", "must be a number from 0.05 to 16"},
        {"effort", "", "must be a number from 0.05 to 16"},
        {"similar_interests", "1.1", "must be from 0 to 1"},
        {"lambda", "-0.1", "must be from 0 to 10"},
        {"merge", "best", "must be one of max, quota, diverse"},
        {"merge", "", "must be one of max, quota, diverse"},
        {"exclude_history", "maybe", "must be true or false"},
        {"dynamic_interests", "log2",
         "must be one of model, none, floor_log2, ceil_log2, trunc_ln, floor_log2_1p"},
        {"bundle", "a\nb", "must be at most 127 bytes of printable UTF-8"},
        {"bundle", "\xff", "must be at most 127 bytes of printable UTF-8"},
    };
    struct settings s, before;

    (void)state;
    settings_default(&s);
    before = s;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct err err = ERR_INIT;

        assert_int_equal(settings_set(&s, settings_find(rows[i].name), rows[i].text, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
        assert_string_equal(err.text, rows[i].message);
    }
    assert_memory_equal(&s, &before, sizeof s);
}

static void a_string_may_fill_its_field_and_no_more(void **state)
{
    struct err err = ERR_INIT;
    struct settings s;
    char text[SETTINGS_NAME_MAX + 1];

    (void)state;
    settings_default(&s);
    memset(text, 'a', sizeof text);
    text[SETTINGS_NAME_MAX] = '\0';
    assert_int_equal(settings_set(&s, settings_find("bundle"), text, &err), -1);
    text[SETTINGS_NAME_MAX - 1] = '\0';
    set(&s, "bundle", text);
    assert_string_equal(s.bundle, text);
    set(&s, "bundle", "b");
    assert_string_equal(s.bundle, "b");
}

static void the_words_of_enums_are_in_the_order_of_the_enum(void **state)
{
    (void)state;
    assert_string_equal(settings_word("merge", MERGE_MAX), "max");
    assert_string_equal(settings_word("merge", MERGE_QUOTA), "quota");
    assert_string_equal(settings_word("merge", MERGE_DIVERSE), "diverse");
    assert_string_equal(settings_word("fallback", FALLBACK_POPULAR), "popular");
    assert_string_equal(settings_word("fallback", FALLBACK_NONE), "none");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_MODEL), "model");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_NONE), "none");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_FLOOR_LOG2), "floor_log2");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_CEIL_LOG2), "ceil_log2");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_TRUNC_LN), "trunc_ln");
    assert_string_equal(settings_word("dynamic_interests", DYNAMIC_FLOOR_LOG2_1P), "floor_log2_1p");
    assert_string_equal(settings_word("merge", 17), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_as_documented),
        cmocka_unit_test(every_default_survives_being_read_and_written),
        cmocka_unit_test(values_of_every_type_are_stored),
        cmocka_unit_test(values_that_are_not_allowed_are_refused_and_change_nothing),
        cmocka_unit_test(a_string_may_fill_its_field_and_no_more),
        cmocka_unit_test(the_words_of_enums_are_in_the_order_of_the_enum),
    };

    return cmocka_run_group_tests_name("settings", tests, NULL, NULL);
}
