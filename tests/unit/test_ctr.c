/* Reading the journal for figures: lines, the table of events, what of them an answer takes, rows
 * that are found by a key. */
#include "../../src/ctr/events.h"
#include "../../src/ctr/keyed.h"
#include "../../src/ctr/reactions.h"

#include "recalld/journal.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

/* ---- answers ----------------------------------------------------------------------------- */

static struct str text(const char *s)
{
    return (struct str){s, strlen(s)};
}

static void assert_raw(struct raw r, const char *expected)
{
    struct buf b = BUF_INIT;

    raw_text(r, &b);
    assert_string_equal(buf_cstr(&b), expected);
    buf_clear(&b);
}

static struct scan_served answer(const char *line)
{
    struct scan_served s;
    struct err err = ERR_INIT;

    if (scan_served(line, strlen(line), &s, &err) == -1)
        fail_msg("%s", err.text);
    return s;
}

static void assert_bad_answer(const char *line, const char *why)
{
    struct scan_served s;
    struct err err = ERR_INIT;

    assert_int_equal(scan_served(line, strlen(line), &s, &err), -1);
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.text, why);
}

static void assert_bad_lists(const char *line, const char *why)
{
    struct scan_served s = answer(line);
    struct err err = ERR_INIT;

    assert_int_equal(scan_served_lists(&s, &err), -1);
    assert_string_equal(err.text, why);
}

static void assert_lists(struct scan_served *s, const char *items, const char *by)
{
    struct err err = ERR_INIT;
    struct buf b = BUF_INIT;
    struct raw item;
    int64_t number;

    assert_int_equal(scan_served_lists(s, &err), 0);
    for (struct str at = s->items; scan_item(&at, &item);) {
        raw_text(item, &b);
        buf_putc(&b, ' ');
    }
    assert_string_equal(buf_cstr(&b), items);
    b.len = 0;
    for (struct str at = s->by; s->by.p != NULL && scan_number(&at, &number);)
        buf_printf(&b, "%lld ", (long long)number);
    assert_string_equal(buf_cstr(&b), by);
    buf_clear(&b);
}

static void an_answer_of_the_journal_is_read(void **state)
{
    const struct str degraded[] = {text("effort_1")}, items[] = {text("a"), text("b\"c")};
    const struct journal_pair arms[] = {{text("model"), text("v2")}, {text("merge"), text("max")}};
    const float scores[] = {0.5f, 0.25f};
    const int by[] = {2, 0};
    struct journal_served record = {
        .ts_ms = 1780000000123,
        .serve_id = text("s-1"),
        .request_id = text("r-1"),
        .user_id = text("u\xc3\xbc"),
        .arms = arms,
        .n_arms = 2,
        .experiments = 7,
        .degraded = degraded,
        .n_degraded = 1,
        .sample = 0.25,
        .items = items,
        .n_items = 2,
        .scores = scores,
        .by = by,
        .n_scores = 2,
    };
    struct buf line = BUF_INIT;
    struct scan_served s;
    struct str at;
    struct raw layer, arm;

    (void)state;
    journal_served_encode(&line, &record);
    line.p[line.len - 1] = '\0'; /* its '\n' */
    s = answer(line.p);
    assert_true(s.ts_ms == 1780000000123 && s.experiments == 7 && s.sample == 0.25);
    assert_true(s.degraded && !s.forced);
    assert_raw(s.serve_id, "s-1");
    assert_raw(s.request_id, "r-1");
    assert_raw(s.user_id, "u\xc3\xbc");
    at = s.arms;
    assert_true(scan_arm(&at, &layer, &arm));
    assert_raw(layer, "model");
    assert_raw(arm, "v2");
    assert_true(scan_arm(&at, &layer, &arm));
    assert_raw(layer, "merge");
    assert_false(scan_arm(&at, &layer, &arm));
    assert_lists(&s, "a b\"c ", "2 0 ");
    buf_clear(&line);
}

#define HEAD \
    "{\"ts_ms\":5,\"serve_id\":\"s\",\"arms\":{\"l\":\"a\"},\"forced\":true,\"degraded\":[]"

static void fields_may_come_in_any_order_and_with_blanks(void **state)
{
    struct scan_served s =
        answer(" { \"items\" : [ \"x\" , \"y\" ] , \"by\":[ ],\"nested\":{\"a\":[1,"
               "{\"items\":[\"]}\"]}]}, \"degraded\": [ ], \"forced\" : false ,"
               "\"arms\":{ }, \"request_id\":\"r\",\"ts_ms\": 9 } ");

    (void)state;
    assert_true(s.ts_ms == 9 && !s.forced && !s.degraded && s.user_id.p == NULL);
    assert_lists(&s, "x y ", "");
    s = answer(HEAD ",\"items\":[]}");
    assert_true(s.forced && s.sample == 1);
    assert_lists(&s, "", "");
}

static void an_answer_that_is_not_whole_is_refused(void **state)
{
    (void)state;
    assert_bad_answer("", "is not a JSON object");
    assert_bad_answer("[]", "is not a JSON object");
    assert_bad_answer(HEAD ",\"items\":[\"a", "the JSON object is cut off");
    assert_bad_answer(HEAD " \"items\":[]}", "is not a whole JSON object");
    assert_bad_answer("{}", "ts_ms: is missing");
    assert_bad_answer("{\"ts_ms\":5,\"items\":[]}", "arms: is missing");
    assert_bad_answer("{\"ts_ms\":5,\"arms\":{},\"forced\":true,\"degraded\":[]}",
                      "serve_id or request_id: is missing");
    assert_bad_answer("{\"ts_ms\":5}x}", "is not a whole JSON object");
}

static void a_field_of_a_wrong_type_is_named(void **state)
{
    (void)state;
    assert_bad_answer("{\"ts_ms\":\"5\"}", "ts_ms: is not what it must be");
    assert_bad_answer("{\"ts_ms\":-5}", "ts_ms: is not what it must be");
    assert_bad_answer("{\"ts_ms\":999999999999999}", "ts_ms: is not what it must be");
    assert_bad_answer("{\"forced\":1}", "forced: is not what it must be");
    assert_bad_answer("{\"forced\":truex}", "forced: is not what it must be");
    assert_bad_answer("{\"degraded\":{}}", "degraded: is not what it must be");
    assert_bad_answer("{\"arms\":{\"l\":1}}", "arms: is not what it must be");
    assert_bad_answer("{\"arms\":[\"l\",\"a\"]}", "arms: is not what it must be");
    assert_bad_answer("{\"user_id\":5}", "user_id: is not what it must be");
    assert_bad_answer("{\"sample\":1.5}", "sample: is not what it must be");
    assert_bad_answer("{\"v\":2}", "v: is not what it must be");
    assert_bad_answer("{\"\xff\":}", "a field has a value of a wrong type");
    assert_bad_lists(HEAD ",\"items\":[1]}", "items: is not what it must be");
    assert_bad_lists(HEAD ",\"items\":[\"a\"],\"by\":[1.5]}", "by: is not what it must be");
    assert_bad_lists(HEAD ",\"items\":[\"a\",]}", "items: is not what it must be");
    assert_bad_lists(HEAD ",\"items\":[\"a\"],\"scores\":3}", "scores: is not what it must be");
    assert_bad_lists(HEAD ",\"scores\":[]}", "items: is missing");
    assert_bad_lists(HEAD "}", "items: is missing");
}

/* ---- strings ----------------------------------------------------------------------------- */

static struct raw string(const char *p)
{
    return (struct raw){p, strlen(p), strchr(p, '\\') != NULL};
}

static void an_id_is_the_same_with_escapes_and_without(void **state)
{
    (void)state;
    assert_true(raw_hash(string("caf\xc3\xa9/\"\n")) ==
                raw_hash(string("c\\u0061f\\u00E9\\/\\\"\\n")));
    assert_true(raw_hash(string("\xf0\x9f\x98\x80")) == raw_hash(string("\\ud83d\\ude00")));
    assert_true(raw_hash(string("a")) != raw_hash(string("b")));
    assert_true(raw_hash((struct raw){NULL, 0, false}) == 0);
    assert_true(raw_hash(string("")) != 0);
    assert_raw(string("\\b\\f\\n\\r\\t\\\\"), "\b\f\n\r\t\\");
    assert_raw(string("\\ud800x\\uZ"), "\xef\xbf\xbdx\xef\xbf\xbdZ");
}

/* ---- events ------------------------------------------------------------------------------ */

static void an_event_of_the_journal_is_read(void **state)
{
    struct journal_event record = {
        .ts_ms = 7,
        .received_ms = 9,
        .event = text("clicked"),
        .request_id = text("r"),
        .item_id = text("i"),
        .position = 3,
        .event_id = text("e"),
    };
    struct buf line = BUF_INIT;
    struct scan_event e;
    struct err err = ERR_INIT;

    (void)state;
    journal_event_encode(&line, &record);
    assert_int_equal(scan_event(line.p, line.len - 1, &e, &err), 0);
    assert_true(e.ts_ms == 7 && e.received_ms == 9 && e.position == 3 && e.kind == SCAN_CLICKED);
    assert_true(e.serve_id.p == NULL);
    assert_raw(e.request_id, "r");
    assert_raw(e.item_id, "i");
    assert_raw(e.event_id, "e");
    buf_clear(&line);
}

static void assert_bad_event(const char *line, const char *why)
{
    struct scan_event e;
    struct err err = ERR_INIT;

    assert_int_equal(scan_event(line, strlen(line), &e, &err), -1);
    assert_string_equal(err.text, why);
}

static void an_event_without_what_it_needs_is_refused(void **state)
{
    (void)state;
    assert_bad_event("{\"ts_ms\":1,\"serve_id\":\"s\",\"item_id\":\"i\"}", "event: is missing");
    assert_bad_event("{\"ts_ms\":1,\"event\":\"x\",\"item_id\":\"i\"}",
                     "serve_id or request_id: is missing");
    assert_bad_event("{\"ts_ms\":1,\"event\":\"x\",\"serve_id\":\"s\"}", "item_id: is missing");
    assert_bad_event("{\"event\":\"x\",\"serve_id\":\"s\",\"item_id\":\"i\"}", "ts_ms: is missing");
    assert_bad_event("{\"event\":3}", "event: is not what it must be");
    assert_bad_event("{\"position\":\"3\"}", "position: is not what it must be");
    assert_bad_event("{\"event\":\"x\"", "is not a whole JSON object");
    assert_bad_event("x", "is not a JSON object");
}

/* ---- the table of events ----------------------------------------------------------------- */

static void add(struct events *e, uint64_t answer, uint64_t item, int kind, uint64_t id, int64_t ts)
{
    struct event_row row = {answer, item, id, ts, -1, (uint8_t)kind, false};
    struct err err = ERR_INIT;

    assert_int_equal(events_add(e, &row, &err), 1);
}

static void events_are_found_by_their_answer_however_many(void **state)
{
    struct events e;
    struct event_row *first;
    struct err err = ERR_INIT;
    uint64_t x = 1;
    size_t sum = 0;

    (void)state;
    events_init(&e, (size_t)1 << 24);
    for (uint64_t i = 0; i < 50000; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        add(&e, hash_bytes(&i, sizeof i), i % 3, SCAN_EXPOSED, x, (int64_t)(x >> 40));
        if (i % 7 == 0)
            add(&e, hash_bytes(&i, sizeof i), 9, SCAN_CLICKED, 0, 5);
    }
    for (uint64_t i = 0; i < 100; i++)
        add(&e, 42, i, SCAN_EXPOSED, 0,
            1); /* one answer with more rows than are sorted by insertion */
    assert_int_equal(events_sort(&e, &err), 0);
    for (uint64_t i = 0; i < 60000; i++) {
        size_t n = events_find(&e, hash_bytes(&i, sizeof i), &first);

        assert_int_equal(n, i >= 50000 ? 0 : i % 7 == 0 ? 2 : 1);
        sum += n;
    }
    assert_int_equal(events_find(&e, 42, &first), 100);
    for (uint64_t i = 0; i < 100; i++)
        assert_int_equal(first[i].item, i);
    assert_int_equal(sum + 100, e.n);
    assert_int_equal(events_find(&e, 0, &first) + events_find(&e, UINT64_MAX, &first), 0);
    events_clear(&e);
}

static void what_is_there_twice_is_counted_and_stands_together(void **state)
{
    struct events e;
    struct event_row *first;
    struct err err = ERR_INIT;

    (void)state;
    events_init(&e, (size_t)1 << 20);
    add(&e, 1, 5, SCAN_CLICKED, 77, 30);
    add(&e, 1, 5, SCAN_CLICKED, 77, 30); /* sent again */
    add(&e, 1, 5, SCAN_CLICKED, 88, 20); /* clicked again, or rather before */
    add(&e, 1, 5, SCAN_CLICKED, 0, 40);
    add(&e, 1, 5, SCAN_EXPOSED, 77, 10); /* of another kind */
    add(&e, 2, 5, SCAN_CLICKED, 77, 10); /* of another answer */
    assert_int_equal(events_sort(&e, &err), 0);
    assert_int_equal(e.same_id, 1);
    assert_int_equal(e.again, 2);
    assert_int_equal(events_find(&e, 1, &first), 5);
    assert_int_equal(events_groups(first, 5), 2);
    assert_int_equal(first[0].kind, SCAN_EXPOSED);
    assert_int_equal(events_group(first, 5), 1);
    assert_int_equal(events_group(first + 1, 4), 4);
    assert_int_equal(events_find(&e, 2, &first), 1);
    events_clear(&e);
}

static void a_full_table_says_so_and_none_finds_nothing(void **state)
{
    struct events e;
    struct event_row row = {.answer = 1}, *first;
    struct err err = ERR_INIT;
    size_t n = 0;
    int added;

    (void)state;
    events_init(&e, 1);
    while ((added = events_add(&e, &row, &err)) == 1)
        n++;
    assert_int_equal(added, 0);
    assert_int_equal(n, e.max);
    events_reset(&e);
    assert_int_equal(events_sort(&e, &err), 0);
    assert_int_equal(events_find(&e, 1, &first), 0);
    events_reset(&e);
    mem_test_fail_at(1);
    assert_int_equal(events_sort(&e, &err), -1);
    assert_int_equal(err.code, ERR_NOMEM);
    events_clear(&e);
}

/* ---- the events of an answer --------------------------------------------------------------- */

#define ANSWERED 10000000
#define WINDOW 5000

static void of_repeats_the_first_that_is_in_time_counts(void **state)
{
    static const struct {
        int64_t ts[3];
        bool exposed;
        uint32_t late, early;
        int position; /* whose row counts */
    } cases[] = {
        {{ANSWERED + 3, ANSWERED + 2, ANSWERED + 1}, true, 0, 0, 2},
        {{ANSWERED - 60001, ANSWERED + 2, ANSWERED + 1}, true, 0, 0, 2}, /* early, then good */
        {{ANSWERED - 60001, ANSWERED + 5001, ANSWERED + 5000}, true, 0, 0, 2},
        {{ANSWERED + 5001, ANSWERED - 60000, ANSWERED + 9}, true, 0, 0, 1},
        {{ANSWERED - 60001, ANSWERED + 5001, ANSWERED - 70000}, false, 0, 1, 0},
        {{ANSWERED + 5001, ANSWERED + 5002, ANSWERED + 5003}, false, 1, 0, 0},
    };
    struct reactions r = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct event_row rows[3];

        for (int k = 0; k < 3; k++)
            rows[k] = (struct event_row){1, 5, 77, cases[i].ts[k], k, SCAN_EXPOSED, false};
        reactions_reset(&r);
        reactions_add(&r, rows, 3, ANSWERED, WINDOW);
        assert_int_equal(r.n, cases[i].exposed);
        assert_true(r.late == cases[i].late && r.early == cases[i].early);
        if (cases[i].exposed)
            assert_true(r.of[0].exposed && r.of[0].position == cases[i].position);
    }
    reactions_clear(&r);
}

static void an_item_is_found_in_the_answer_with_its_interest(void **state)
{
    const struct raw names[] = {string("c"), string("x"), string("a")};
    struct event_row rows[4] = {0};
    struct events e;
    struct event_row *first;
    struct err err = ERR_INIT;
    struct reactions r = {0};
    size_t n;

    (void)state;
    events_init(&e, (size_t)1 << 20);
    for (size_t i = 0; i < 4; i++) {
        rows[i] = (struct event_row){
            1, raw_hash(names[i % 3]), i + 1, ANSWERED, -1, i < 3 ? SCAN_EXPOSED : SCAN_CLICKED, 0};
        assert_int_equal(events_add(&e, &rows[i], &err), 1);
    }
    assert_int_equal(events_sort(&e, &err), 0);
    n = events_find(&e, 1, &first);
    reactions_add(&r, first, n, ANSWERED, WINDOW);
    reactions_add(&r, first, n, ANSWERED, WINDOW); /* the same under the answer's other name */
    reactions_place(&r, text("[\"a\",\"b\",\"c\",\"d\"]"), text("[3,1,2,0]"));
    assert_int_equal(r.n, 3);
    for (size_t i = 0; i < 3; i++) {
        bool a = r.of[i].item == raw_hash(names[2]), c = r.of[i].item == raw_hash(names[0]);

        assert_int_equal(r.of[i].rank, a ? 0 : c ? 2 : -1);
        assert_int_equal(r.of[i].interest, a ? 3 : c ? 2 : INTERESTS - 1);
        assert_true(r.of[i].exposed && r.of[i].clicked == c);
    }
    reactions_clear(&r);
    events_clear(&e);
}

/* ---- rows by key ------------------------------------------------------------------------- */

struct pair {
    uint64_t key;
    int value;
};

static void rows_are_found_by_their_key_and_keep_their_number(void **state)
{
    struct keyed k;

    (void)state;
    keyed_init(&k, sizeof(struct pair), sizeof(uint64_t));
    for (uint64_t i = 0; i < 5000; i++) {
        uint64_t key = i * i;

        assert_int_equal(keyed_get(&k, &key), i);
        assert_int_equal(((struct pair *)keyed_row(&k, i))->value, 0);
        ((struct pair *)keyed_row(&k, i))->value = (int)i;
    }
    for (uint64_t i = 5000; i-- > 0;) {
        uint64_t key = i * i;

        assert_int_equal(keyed_get(&k, &key), i);
        assert_int_equal(((struct pair *)keyed_row(&k, i))->value, i);
    }
    assert_int_equal(k.n, 5000);
    keyed_clear(&k);
}

static void without_memory_there_is_no_row_and_nothing_is_lost(void **state)
{
    struct keyed k;
    uint64_t key = 1;

    (void)state;
    keyed_init(&k, sizeof(struct pair), sizeof(uint64_t));
    for (unsigned fail = 1; fail <= 2; fail++) {
        mem_test_fail_at(fail);
        assert_true(keyed_get(&k, &key) == SIZE_MAX);
    }
    mem_test_fail_at(0);
    assert_int_equal(keyed_get(&k, &key), 0);
    keyed_clear(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_of_the_journal_is_read),
        cmocka_unit_test(fields_may_come_in_any_order_and_with_blanks),
        cmocka_unit_test(an_answer_that_is_not_whole_is_refused),
        cmocka_unit_test(a_field_of_a_wrong_type_is_named),
        cmocka_unit_test(an_id_is_the_same_with_escapes_and_without),
        cmocka_unit_test(an_event_of_the_journal_is_read),
        cmocka_unit_test(an_event_without_what_it_needs_is_refused),
        cmocka_unit_test(events_are_found_by_their_answer_however_many),
        cmocka_unit_test(what_is_there_twice_is_counted_and_stands_together),
        cmocka_unit_test(of_repeats_the_first_that_is_in_time_counts),
        cmocka_unit_test(an_item_is_found_in_the_answer_with_its_interest),
        cmocka_unit_test(a_full_table_says_so_and_none_finds_nothing),
        cmocka_unit_test(rows_are_found_by_their_key_and_keep_their_number),
        cmocka_unit_test(without_memory_there_is_no_row_and_nothing_is_lost),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
