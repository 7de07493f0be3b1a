/* test_config.c - the option table and its three sources. Runs from the top of the source tree. */
#include "recalld/config.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct config *parse(const char *text, char *const *env, const char *const *args, int n_args)
{
    struct err err = ERR_INIT;
    struct config *c = config_parse("t.ini", text, strlen(text), env, args, n_args, &err);

    if (c == NULL)
        fail_msg("%s", err.text);
    return c;
}

static void assert_refused(const char *text, enum err_code code, const char *message)
{
    struct err err = ERR_INIT;

    assert_null(config_parse("t.ini", text, strlen(text), NULL, NULL, 0, &err));
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, code);
}

static void the_defaults_are_as_documented(void **state)
{
    struct err err = ERR_INIT;
    struct config *c = config_load(NULL, NULL, NULL, 0, &err);

    (void)state;
    assert_non_null(c);
    assert_string_equal(c->http_listen, "127.0.0.1:8080");
    assert_string_equal(c->http_port_file, "");
    assert_int_equal(c->http_loops, 0);
    assert_int_equal(c->http_max_body, 1048576);
    assert_int_equal(c->http_connections, 4096);
    assert_int_equal(c->http_drain_ms, 0);
    assert_int_equal(c->http_idle_s, 60);
    assert_int_equal(c->workers_count, 0);
    assert_int_equal(c->workers_batch, 8);
    assert_int_equal(c->workers_queue, 256);
    assert_int_equal(c->recall_deadline_ms, 50);
    assert_int_equal(c->recall_n_max, 1000);
    assert_int_equal(c->recall.n, 200);
    assert_string_equal(c->redis_address, "");
    assert_int_equal(c->redis_db, 0);
    assert_int_equal(c->redis_connections, 2);
    assert_int_equal(c->redis_connect_ms, 200);
    assert_int_equal(c->redis_timeout_ms, 15);
    assert_string_equal(c->behaviour_key, "hist:{user_id}");
    assert_int_equal(c->behaviour_type, BEHAVIOUR_LIST);
    assert_int_equal(c->behaviour_order, BEHAVIOUR_NEWEST_FIRST);
    assert_string_equal(c->behaviour_element, "id");
    assert_string_equal(c->behaviour_exposed_key, "");
    assert_int_equal(c->behaviour_read, 100);
    assert_string_equal(c->bundle_paths, "");
    assert_string_equal(c->bundle_default, "");
    assert_int_equal(c->bundle_memory_max, 0);
    assert_string_equal(c->admin_token_file, "");
    assert_string_equal(c->state_dir, "");
    assert_int_equal(c->log_level, LOG_LEVEL_INFO);
    assert_false(c->log_json);
    config_free(c);
    config_free(NULL);
}

static void a_file_sets_values_of_every_type(void **state)
{
    struct config *c = parse("# a comment\n"
                             "; another\n"
                             "\n"
                             "  [http]  \r\n"
                             "listen = [::1]:0\n"
                             "\tloops=\t64 \r\n"
                             "max_body = 2m\n"
                             "[recall]\n"
                             "merge = quota\n"
                             "effort = 2.5\n"
                             "n_max = 500\n"
                             "exclude_exposed = no\n"
                             "diversity_attribute =\n"
                             "[bundle]\n"
                             "memory_max = 9G\n"
                             "paths = /srv/a b#1, x=y ; c\n"
                             "[log]\n"
                             "level = error\n"
                             "format = json\n"
                             "[http]\n"
                             "idle_s = 5",
                             NULL, NULL, 0);

    (void)state;
    assert_string_equal(c->http_listen, "[::1]:0");
    assert_int_equal(c->http_loops, 64);
    assert_int_equal(c->http_max_body, 2097152);
    assert_int_equal(c->recall.merge, MERGE_QUOTA);
    assert_true(c->recall.effort == 2.5);
    assert_int_equal(c->recall_n_max, 500);
    assert_false(c->recall.exclude_exposed);
    assert_string_equal(c->recall.diversity_attribute, "");
    assert_true(c->bundle_memory_max == (int64_t)9 << 30);
    assert_string_equal(c->bundle_paths, "/srv/a b#1, x=y ; c");
    assert_int_equal(c->log_level, LOG_LEVEL_ERROR);
    assert_true(c->log_json);
    assert_int_equal(c->http_idle_s, 5);
    config_free(c);
}

static void the_environment_beats_the_file_and_arguments_beat_both(void **state)
{
    char *env[] = {"HOME=/nowhere",
                   "RECALLD_HTTP_LOOPS=3",
                   "RECALLD_HTTP_PORT_FILE=p=1",
                   "RECALLD_RECALL_N=7",
                   "RECALLD_BIN=x",
                   "RECALLDX=1",
                   NULL};
    const char *args[] = {"--http.loops=4", "--http.loops=5", "--recall.lambda=0"};
    struct config *c = parse("[http]\nloops = 2\nidle_s = 9\n", env, args, 3);

    (void)state;
    assert_int_equal(c->http_loops, 5);
    assert_string_equal(c->http_port_file, "p=1");
    assert_int_equal(c->recall.n, 7);
    assert_true(c->recall.lambda == 0);
    assert_int_equal(c->http_idle_s, 9);
    config_free(c);
}

static void values_out_of_bounds_are_refused_with_file_and_line(void **state)
{
    (void)state;
    assert_refused("[http]\n\nloops = 900\n", ERR_USAGE,
                   "t.ini:3: http.loops = 900: must be from 0 to 64");
    assert_refused("[http]\nloops =\n", ERR_USAGE,
                   "t.ini:2: http.loops = : must be a whole number from 0 to 64");
    assert_refused("[http]\nmax_body = 65M\n", ERR_USAGE,
                   "t.ini:2: http.max_body = 65M: must be from 1024 to 67108864");
    assert_refused("[http]\nmax_body = M\n", ERR_USAGE,
                   "t.ini:2: http.max_body = M: must be a whole number, with or without K, M or "
                   "G, from 1024 to 67108864");
    assert_refused("[bundle]\nmemory_max = 9999999999999G\n", ERR_USAGE,
                   "t.ini:2: bundle.memory_max = 9999999999999G: must be a whole number, with or "
                   "without K, M or G, from 0 to 9223372036854775807");
    assert_refused("[log]\nlevel = loud\n", ERR_USAGE,
                   "t.ini:2: log.level = loud: must be one of debug, info, warn, error");
    assert_refused("[recall]\nn = 0\n", ERR_USAGE,
                   "t.ini:2: recall.n = 0: must be from 1 to 10000");
    assert_refused("[recall]\nmerge = best\n", ERR_USAGE,
                   "t.ini:2: recall.merge = best: must be one of max, quota, diverse");
    assert_refused("[admin]\ntoken_file = a\x01\n", ERR_USAGE,
                   "t.ini:2: admin.token_file = a\x01: must not hold control characters");
}

static void unknown_names_are_refused_and_the_likely_one_is_suggested(void **state)
{
    (void)state;
    assert_refused("[http]\nloop = 3\n", ERR_USAGE,
                   "t.ini:2: unknown key http.loop; did you mean http.loops?");
    assert_refused("[redis]\ndrain_ms = 3\n", ERR_USAGE,
                   "t.ini:2: unknown key redis.drain_ms; did you mean http.drain_ms?");
    assert_refused("[recall]\nmin_per_interests = 3\n", ERR_USAGE,
                   "t.ini:2: unknown key recall.min_per_interests; did you mean "
                   "recall.min_per_interest?");
    assert_refused("[http]\nsomething_else = 3\n", ERR_USAGE,
                   "t.ini:2: unknown key http.something_else");
    assert_refused("[recall]\nbundle = x\n", ERR_USAGE, "t.ini:2: unknown key recall.bundle");
    assert_refused("[http]\n= 3\n", ERR_USAGE, "t.ini:2: unknown key http.");
    assert_refused("[htpp]\n", ERR_USAGE, "t.ini:1: unknown section [htpp]");
    assert_refused("[]\n", ERR_USAGE, "t.ini:1: unknown section []");
    assert_refused("[http.port_file]\n", ERR_USAGE, "t.ini:1: unknown section [http.port_file]");
    assert_refused("[ledger]\ndir = x\n", ERR_USAGE, "t.ini:1: unknown section [ledger]");
}

static void lines_that_are_no_ini_are_refused(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    assert_refused("loops = 3\n", ERR_FORMAT, "t.ini:1: a key before the first [section]");
    assert_refused("[http]\nloops 3\n", ERR_FORMAT, "t.ini:2: neither [section] nor key = value");
    assert_refused("[http\n", ERR_FORMAT, "t.ini:1: a section's name ends with ]");
    assert_refused("[", ERR_FORMAT, "t.ini:1: a section's name ends with ]");
    assert_null(config_parse("t.ini", "[http]\nport_file = a\0b\n", 22, NULL, NULL, 0, &err));
    assert_string_equal(err.text, "t.ini:2: a NUL byte");
}

static void a_key_given_twice_is_refused(void **state)
{
    (void)state;
    assert_refused("[http]\nloops = 3\n[log]\n[http]\nloops = 3\n", ERR_USAGE,
                   "t.ini:5: http.loops is given twice, first in line 2");
    assert_refused("[recall]\nn = 3\nn = 4\n", ERR_USAGE,
                   "t.ini:3: recall.n is given twice, first in line 2");
}

static void strings_with_a_form_must_have_it(void **state)
{
    static const struct {
        const char *section, *key, *good[4], *bad[8], *message;
    } rows[] = {
        {"http",
         "listen",
         {"0.0.0.0:0", "localhost:80", "[::]:65535"},
         {"", "8080", ":8080", "::1:80", "[]:1", "host:", "host:65536", "host:-1"},
         "must be host:port or [address]:port"},
        {"redis",
         "address",
         {"", "/run/redis.sock", "build/redis.sock", "cache:6379"},
         {"cache", "cache:0", ":6379"},
         "must be host:port or the path of a socket"},
        {"behaviour",
         "key",
         {"{user_id}", "a:{user_id}:b"},
         {"", "hist:", "{user_id}:{user_id}"},
         "must contain {user_id} exactly once"},
        {"behaviour",
         "exposed_key",
         {"", "e:{user_id}"},
         {"e:"},
         "must contain {user_id} exactly once"},
        {"behaviour",
         "element",
         {"id", "id:ts", "json:item"},
         {"", "ts", "json:", "ID"},
         "must be id, id:ts or json:FIELD"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[200], message[300];

        for (size_t j = 0; j < 4 && rows[i].good[j] != NULL; j++) {
            snprintf(text, sizeof text, "[%s]\n%s = %s\n", rows[i].section, rows[i].key,
                     rows[i].good[j]);
            config_free(parse(text, NULL, NULL, 0));
        }
        for (size_t j = 0; j < 8 && rows[i].bad[j] != NULL; j++) {
            snprintf(text, sizeof text, "[%s]\n%s = %s\n", rows[i].section, rows[i].key,
                     rows[i].bad[j]);
            snprintf(message, sizeof message, "t.ini:2: %s.%s = %s: %s", rows[i].section,
                     rows[i].key, rows[i].bad[j], rows[i].message);
            assert_refused(text, ERR_USAGE, message);
        }
    }
}

static void values_must_agree_with_each_other(void **state)
{
    (void)state;
    assert_refused("[recall]\nn = 300\nn_max = 299\n", ERR_USAGE,
                   "recall.n = 300: must not exceed recall.n_max = 299");
    config_free(parse("[recall]\nn = 300\nn_max = 300\n", NULL, NULL, 0));
}

static void assert_variable_refused(char *variable, const char *message)
{
    struct err err = ERR_INIT;
    char *env[] = {variable, NULL};

    assert_null(config_parse("t.ini", "", 0, env, NULL, 0, &err));
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, ERR_USAGE);
}

static void wrong_variables_are_refused_by_name(void **state)
{
    (void)state;
    assert_variable_refused("RECALLD_HTTP_LOOPS=-1",
                            "RECALLD_HTTP_LOOPS = -1: must be from 0 to 64");
    assert_variable_refused("RECALLD_RECALL_FALLBACK=x",
                            "RECALLD_RECALL_FALLBACK = x: must be one of popular, none");
    assert_variable_refused("RECALLD_HTTP_LOOP=1", "RECALLD_HTTP_LOOP: no key has this variable");
    assert_variable_refused("RECALLD_=1", "RECALLD_: no key has this variable");
}

static void assert_argument_refused(const char *arg, const char *message)
{
    struct err err = ERR_INIT;

    assert_null(config_parse("t.ini", "", 0, NULL, &arg, 1, &err));
    assert_string_equal(err.text, message);
    assert_int_equal(err.code, ERR_USAGE);
}

static void wrong_arguments_are_refused_as_they_were_written(void **state)
{
    (void)state;
    assert_argument_refused("--http.loops=x",
                            "--http.loops=x: must be a whole number from 0 to 64");
    assert_argument_refused("--http.loop=1",
                            "--http.loop=1: unknown key http.loop; did you mean http.loops?");
    assert_argument_refused("--http.loops", "--http.loops: not --section.key=value");
    assert_argument_refused("http.loops=3", "http.loops=3: not --section.key=value");
    assert_argument_refused("-=", "-=: not --section.key=value");
    assert_argument_refused("--=", "--=: unknown key ");
}

static void names_and_values_of_any_length_are_refused_in_a_bounded_message(void **state)
{
    char text[3000];
    struct err err = ERR_INIT;

    (void)state;
    memset(text, 'a', sizeof text);
    memcpy(text, "[http]\n", 7);
    text[2000] = '=';
    assert_null(config_parse("t.ini", text, sizeof text, NULL, NULL, 0, &err));
    assert_memory_equal(err.text, "t.ini:2: unknown key http.aaaa", 30);
    assert_true(strlen(err.text) < 150);
    memset(text, '[', sizeof text);
    text[sizeof text - 1] = ']';
    err_clear(&err);
    assert_null(config_parse("t.ini", text, sizeof text, NULL, NULL, 0, &err));
    assert_memory_equal(err.text, "t.ini:1: unknown section [[[[", 29);
}

static void a_missing_file_is_an_error(void **state)
{
    struct err err = ERR_INIT;

    (void)state;
    assert_null(config_load("no/such/recalld.ini", NULL, NULL, 0, &err));
    assert_int_equal(err.code, ERR_NOT_FOUND);
    assert_string_equal(err.text, "no/such/recalld.ini: cannot open: No such file or directory");
}

/* ---- the annotated file -------------------------------------------------------- */

static void the_committed_file_is_what_is_printed(void **state)
{
    struct err err = ERR_INIT;
    struct buf printed = BUF_INIT, committed = BUF_INIT;

    (void)state;
    config_print(&printed);
    if (file_read("conf/recalld.ini", 1 << 20, &committed, &err) == -1)
        fail_msg("%s", err.text);
    assert_string_equal(buf_cstr(&committed), buf_cstr(&printed));
    buf_clear(&printed);
    buf_clear(&committed);
}

static void the_printed_file_sets_every_default(void **state)
{
    struct err err = ERR_INIT;
    struct buf printed = BUF_INIT, changed = BUF_INIT;
    struct config *defaults = config_load(NULL, NULL, NULL, 0, &err), *c;

    (void)state;
    config_print(&printed);
    c = parse(buf_cstr(&printed), NULL, NULL, 0);
    assert_int_equal(config_frozen_changes(defaults, c, &changed), 0);
    assert_memory_equal(&c->recall, &defaults->recall, sizeof c->recall);
    assert_int_equal(c->recall_deadline_ms, defaults->recall_deadline_ms);
    config_free(c);
    config_free(defaults);
    buf_clear(&printed);
    buf_clear(&changed);
}

static void the_printed_file_explains_each_key(void **state)
{
    struct buf printed = BUF_INIT;
    const char *text;

    (void)state;
    config_print(&printed);
    text = buf_cstr(&printed);
    assert_non_null(strstr(text, "\n[http]\n\n# host:port to listen on"));
    assert_non_null(strstr(text, "\n# (from 0 to 64; a change needs a restart)\nloops = 0\n"));
    assert_non_null(
        strstr(text, "\n# (max, quota, diverse; SIGHUP takes a change)\nmerge = max\n"));
    assert_non_null(strstr(text, "\n# (SIGHUP takes a change)\ntoken_file =\n"));
    assert_non_null(strstr(text, "\n# (0 or more; a change needs a restart)\nmemory_max = 0\n"));
    buf_clear(&printed);
}

/* ---- reload -------------------------------------------------------------------- */

static void a_reload_names_the_keys_it_cannot_change(void **state)
{
    struct config *a = parse("", NULL, NULL, 0);
    struct config *b = parse("[http]\nlisten = 0.0.0.0:1\nmax_body = 2048\ndrain_ms = 5\n"
                             "[recall]\nn = 5\nn_max = 6\n[workers]\nbatch = 3\n"
                             "[log]\nformat = json\n",
                             NULL, NULL, 0);
    struct buf out = BUF_INIT;

    (void)state;
    assert_int_equal(config_frozen_changes(a, b, &out), 3);
    assert_string_equal(buf_cstr(&out), "http.listen, http.max_body, workers.batch");
    out.len = 0;
    assert_int_equal(config_frozen_changes(b, b, &out), 0);
    assert_int_equal(out.len, 0);
    config_free(a);
    config_free(b);
    buf_clear(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_defaults_are_as_documented),
        cmocka_unit_test(a_file_sets_values_of_every_type),
        cmocka_unit_test(the_environment_beats_the_file_and_arguments_beat_both),
        cmocka_unit_test(values_out_of_bounds_are_refused_with_file_and_line),
        cmocka_unit_test(unknown_names_are_refused_and_the_likely_one_is_suggested),
        cmocka_unit_test(lines_that_are_no_ini_are_refused),
        cmocka_unit_test(a_key_given_twice_is_refused),
        cmocka_unit_test(strings_with_a_form_must_have_it),
        cmocka_unit_test(values_must_agree_with_each_other),
        cmocka_unit_test(wrong_variables_are_refused_by_name),
        cmocka_unit_test(wrong_arguments_are_refused_as_they_were_written),
        cmocka_unit_test(names_and_values_of_any_length_are_refused_in_a_bounded_message),
        cmocka_unit_test(a_missing_file_is_an_error),
        cmocka_unit_test(the_committed_file_is_what_is_printed),
        cmocka_unit_test(the_printed_file_sets_every_default),
        cmocka_unit_test(the_printed_file_explains_each_key),
        cmocka_unit_test(a_reload_names_the_keys_it_cannot_change),
    };

    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
