/* The body of POST /recall: what is read, and the words for what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "../../src/recall/call.h"

static struct recall_call *parse(const char *body, int *result, struct err *err)
{
    struct recall_call *c = xcalloc(1, sizeof *c);

    buf_put(&c->body, body, strlen(body));
    *result = request_parse(c, 1000, err);
    return c;
}

static void drop(struct recall_call *c)
{
    arena_clear(&c->arena);
    buf_clear(&c->body);
    free(c);
}

static void refused(const char *body, const char *field, const char *text)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c = parse(body, &result, &err);

    assert_int_equal(result, -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_string_equal(err.text, text);
    assert_string_equal(c->field, field);
    drop(c);
}

static void assert_str(struct str s, const char *want)
{
    assert_int_equal(s.len, strlen(want));
    assert_memory_equal(s.p, want, s.len);
}

static void every_field_is_read(void **state)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c =
        parse("{\"user_id\":\"u42\",\"n\":20,\"scene\":\"home\",\"request_id\":\"r-1\","
              "\"deadline_ms\":30,\"history\":[\"123\",456],\"exclude\":[\"9\"],"
              "\"filter\":{\"section\":[\"libs\",7],\"kind\":\"x\"},\"features\":{},\"arms\":{},"
              "\"explain\":true,\"vectors\":true,\"context\":{\"any\":[1,2]}}",
              &result, &err);

    (void)state;
    assert_int_equal(result, 0);
    assert_str(c->user_id, "u42");
    assert_str(c->scene, "home");
    assert_string_equal(c->request_id, "r-1");
    assert_int_equal(c->n, 20);
    assert_int_equal(c->deadline_ms, 30);
    assert_true(c->has_history && c->explain && c->vectors);
    assert_int_equal(c->n_history, 2);
    assert_str(c->history[1], "456");
    assert_int_equal(c->n_exclude, 1);
    assert_int_equal(c->n_filters, 2);
    assert_str(c->filters[0].attribute, "section");
    assert_str(c->filters[0].values[1], "7");
    assert_int_equal(c->filters[1].n_values, 1);
    drop(c);
}

static void integers_become_their_decimal_text(void **state)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c =
        parse("{\"user_id\":9007199254740993,\"history\":[-7,\"007\"]}", &result, &err);

    (void)state;
    assert_int_equal(result, 0);
    assert_str(c->user_id, "9007199254740993");
    assert_str(c->history[0], "-7");
    assert_str(c->history[1], "007");
    drop(c);
}

static void a_user_or_a_history_is_required(void **state)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c = parse("{\"history\":[]}", &result, &err);

    (void)state;
    assert_int_equal(result, 0);
    drop(c);
    refused("{}", "user_id", "user_id: user_id or history is required");
}

/* The rest of such a text is the JSON library's. */
static void refused_as_json(const char *body, const char *start)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c = parse(body, &result, &err);

    assert_int_equal(result, -1);
    assert_int_equal(err.code, ERR_USAGE);
    assert_memory_equal(err.text, start, strlen(start));
    assert_string_equal(c->field, "");
    drop(c);
}

static void what_is_not_json_is_refused_with_its_place(void **state)
{
    (void)state;
    refused_as_json("", "body: line 1, column 0: ");
    refused_as_json("{\"user_id\":", "body: line 1, column 11: ");
    refused_as_json("[1]", "body: must be a JSON object");
    refused_as_json("{\"n\":1,\"n\":2}", "body: line 1, column 10: duplicate object key");
    refused_as_json("{\"user_id\":\"\xff\"}",
                    "body: line 1, column 12: unable to decode byte 0xff");
    refused_as_json("{\"user_id\":\"\\u0000\"}", "body: line 1, column ");
}

static void bad_values_are_refused_by_field_and_reason(void **state)
{
    (void)state;
    refused("{\"usr\":1}", "usr", "usr: is not a field of this request");
    refused("{\"user_id\":\"\"}", "user_id", "user_id: must not be empty");
    refused("{\"user_id\":1.5}", "user_id", "user_id: must be a string or an integer");
    refused("{\"user_id\":\"u\",\"n\":0}", "n", "n: must be an integer from 1 to 1000");
    refused("{\"user_id\":\"u\",\"n\":1001}", "n", "n: must be an integer from 1 to 1000");
    refused("{\"user_id\":\"u\",\"n\":\"5\"}", "n", "n: must be an integer from 1 to 1000");
    refused("{\"user_id\":\"u\",\"deadline_ms\":0}", "deadline_ms",
            "deadline_ms: must be an integer from 1 to 60000");
    refused("{\"user_id\":\"u\",\"request_id\":\"a b\"}", "request_id",
            "request_id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -");
    refused("{\"history\":\"a\"}", "history", "history: must be a list of ids");
    refused("{\"history\":[\"a\",null]}", "history[1]",
            "history[1]: must be a string or an integer");
    refused("{\"history\":[],\"exclude\":[{}]}", "exclude[0]",
            "exclude[0]: must be a string or an integer");
    refused("{\"history\":[],\"filter\":[]}", "filter",
            "filter: must be an object of attribute: [values]");
    refused("{\"history\":[],\"filter\":{\"a\":[1.5]}}", "filter.a",
            "filter.a: must be a string, an integer or a list of them");
    refused("{\"history\":[],\"explain\":1}", "explain", "explain: must be true or false");
    refused("{\"history\":[],\"context\":1}", "context", "context: must be an object");
    refused("{\"history\":[],\"arms\":[\"b\"]}", "arms", "arms: must be an object of layer: arm");
    refused("{\"history\":[],\"scene\":\"\"}", "scene", "scene: must be a string of 1 to 64 bytes");
}

static void fields_of_later_versions_are_refused_by_name_unless_empty(void **state)
{
    (void)state;
    refused("{\"history\":[],\"features\":{\"age\":3}}", "features",
            "features: is not supported by this version");
}

static void an_id_may_have_256_bytes_and_no_more(void **state)
{
    char body[400], id[258];
    struct err err = ERR_INIT;
    int result;

    (void)state;
    memset(id, 'x', 257);
    id[256] = '\0';
    snprintf(body, sizeof body, "{\"history\":[\"%s\"]}", id);
    drop(parse(body, &result, &err));
    assert_int_equal(result, 0);
    id[256] = 'x';
    id[257] = '\0';
    snprintf(body, sizeof body, "{\"history\":[\"%s\"]}", id);
    refused(body, "history[0]", "history[0]: is longer than 256 bytes");
}

static void a_refusal_keeps_the_request_id_wherever_it_stands(void **state)
{
    struct err err = ERR_INIT;
    int result;
    struct recall_call *c = parse("{\"nonsense\":1,\"request_id\":\"late\"}", &result, &err);

    (void)state;
    assert_int_equal(result, -1);
    assert_string_equal(c->request_id, "late");
    drop(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_is_read),
        cmocka_unit_test(integers_become_their_decimal_text),
        cmocka_unit_test(a_user_or_a_history_is_required),
        cmocka_unit_test(what_is_not_json_is_refused_with_its_place),
        cmocka_unit_test(bad_values_are_refused_by_field_and_reason),
        cmocka_unit_test(fields_of_later_versions_are_refused_by_name_unless_empty),
        cmocka_unit_test(an_id_may_have_256_bytes_and_no_more),
        cmocka_unit_test(a_refusal_keeps_the_request_id_wherever_it_stands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
