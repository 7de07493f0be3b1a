/* Items: ids to rows and back, attributes and their postings, and every way in which items.tsv can
 * be wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "recalld/items.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct items *load(const char *text, size_t rows)
{
    struct err err = ERR_INIT;
    struct items *it = items_load("items.tsv", text, strlen(text), rows, &err);

    assert_string_equal(err.text, "");
    assert_non_null(it);
    return it;
}

static uint32_t row_of(const struct items *it, const char *id)
{
    return items_row(it, id, strlen(id));
}

static void assert_id(const struct items *it, uint32_t row, const char *id)
{
    size_t len;
    const char *p = items_id(it, row, &len);

    assert_non_null(p);
    assert_int_equal(len, strlen(id));
    assert_memory_equal(p, id, len);
}

static void assert_plain(const char *text, bool plain)
{
    struct items *it = load(text, 9);

    assert_int_equal(items_plain(it), plain);
    items_free(it);
}

static void ids_are_plain_unless_one_needs_escaping_in_json(void **state)
{
    (void)state;
    assert_plain("row\tid\n1\tapple\n2\tb'c\n3\t\xe2\x82\xac/\n", true);
    assert_plain("row\tid\n1\tapple\n2\ta\"b\n3\tpear\n", false);
    assert_plain("row\tid\n1\tapple\n2\tpear\n3\tback\\slash\n", false);
    assert_plain("row\tid\tsize\n1\tapple\t7\"\n", true); /* the attribute is no id */
}

/* ---- what a file says -------------------------------------------------------------- */

static void ids_and_rows_find_each_other(void **state)
{
    struct items *it = load("row\tid\n1\tapple\n2\t007\n4\t7\n", 6);
    size_t len;

    (void)state;
    assert_int_equal(items_count(it), 3);
    assert_int_equal(items_first_row(it), 1);
    assert_int_equal(items_last_row(it), 4);
    assert_int_equal(row_of(it, "apple"), 1);
    assert_int_equal(row_of(it, "007"), 2);
    assert_int_equal(row_of(it, "7"), 4);
    assert_int_equal(row_of(it, "07"), ITEMS_NONE);
    assert_int_equal(row_of(it, "appl"), ITEMS_NONE);
    assert_int_equal(row_of(it, ""), ITEMS_NONE);
    assert_id(it, 1, "apple");
    assert_id(it, 4, "7");
    assert_null(items_id(it, 0, &len));
    assert_null(items_id(it, 3, &len));
    assert_null(items_id(it, 5, &len));
    assert_null(items_id(it, UINT32_MAX, &len));
    assert_int_equal(items_attributes(it), 0);
    items_free(it);
    items_free(NULL);
}

static void carriage_returns_and_a_missing_last_newline_are_accepted(void **state)
{
    struct items *it = load("row\tid\ta\r\n0\tx\tv\r\n1\ty\t\r\n2\tz\tw\r", 3);
    uint32_t w = items_value(it, 0, "w", 1);
    size_t n;

    (void)state;
    assert_string_equal(items_attribute_name(it, 0), "a");
    assert_int_equal(row_of(it, "z"), 2);
    assert_int_equal(items_postings(it, 0, w, &n)[0], 2);
    assert_int_equal(n, 1);
    items_values(it, 0, 1, &n);
    assert_int_equal(n, 0);
    items_free(it);
}

static void attributes_are_found_both_ways(void **state)
{
    struct items *it = load("row\tid\tsection\ttag\n"
                            "1\ta\tlibs\tx|y|x\n"
                            "2\tb\tpython\t\n"
                            "5\tc\tlibs|python\ty\n",
                            10);
    uint32_t libs = items_value(it, 0, "libs", 4), python = items_value(it, 0, "python", 6);
    uint32_t y = items_value(it, 1, "y", 1);
    const uint32_t *p;
    const char *text;
    size_t n;

    (void)state;
    assert_int_equal(items_attributes(it), 2);
    assert_int_equal(items_attribute(it, "tag", 3), 1);
    assert_int_equal(items_attribute(it, "ta", 2), -1);
    assert_int_equal(items_value_count(it, 0), 2);
    assert_int_equal(items_value(it, 0, "lib", 3), ITEMS_NONE);
    assert_int_equal(items_value(it, 0, "", 0), ITEMS_NONE);
    text = items_value_text(it, 0, python, &n);
    assert_int_equal(n, 6);
    assert_memory_equal(text, "python", 6);
    assert_null(items_value_text(it, 0, 2, &n));

    p = items_values(it, 0, 5, &n);
    assert_int_equal(n, 2);
    assert_true(p[0] == libs && p[1] == python);
    p = items_values(it, 1, 1, &n); /* a repeated value counts once */
    assert_int_equal(n, 2);
    assert_int_equal(p[1], y);
    for (uint32_t row = 0; row < 12; row += row == 0 ? 3 : 1)
        if (row != 5) {
            items_values(it, 0, row, &n);
            assert_int_equal(n, 0);
        }

    p = items_postings(it, 0, libs, &n);
    assert_int_equal(n, 2);
    assert_true(p[0] == 1 && p[1] == 5);
    p = items_postings(it, 0, python, &n);
    assert_int_equal(n, 2);
    assert_true(p[0] == 2 && p[1] == 5);
    p = items_postings(it, 1, y, &n);
    assert_int_equal(n, 2);
    assert_true(p[0] == 1 && p[1] == 5);
    items_postings(it, 1, 99, &n);
    assert_int_equal(n, 0);
    items_free(it);
}

/* ---- what it may not say ------------------------------------------------------------ */

#define LONG16 "0123456789abcdef"
#define LONG128 LONG16 LONG16 LONG16 LONG16 LONG16 LONG16 LONG16 LONG16
#define LONG256 LONG128 LONG128

static const struct {
    const char *text;
    enum err_code code;
    const char *message;
} wrong[] = {
    {"", ERR_FORMAT, "items.tsv: the file is empty"},
    {"row\n", ERR_FORMAT, "items.tsv: line 1: the header must begin with the columns row and id"},
    {"id\trow\n", ERR_FORMAT,
     "items.tsv: line 1: the header must begin with the columns row and id"},
    {"rows\tid\n", ERR_FORMAT,
     "items.tsv: line 1: the header must begin with the columns row and id"},
    {"1\tx\n", ERR_FORMAT, "items.tsv: line 1: the header must begin with the columns row and id"},
    {"row\tid\ta\tb\ta\n", ERR_FORMAT, "items.tsv: line 1: two columns are named a"},
    {"row\tid\tid\n", ERR_FORMAT, "items.tsv: line 1: two columns are named id"},
    {"row\tid\t\n", ERR_FORMAT, "items.tsv: line 1: the name of column 3 is empty"},
    {"row\tid\ta\t\xff\n", ERR_FORMAT,
     "items.tsv: line 1: the name of column 4 is not valid UTF-8"},
    {"row\tid\n", ERR_FORMAT, "items.tsv: no items"},
    {"row\tid\nx\ta\n", ERR_FORMAT, "items.tsv: line 2: the row is not a number"},
    {"row\tid\n-1\ta\n", ERR_FORMAT, "items.tsv: line 2: the row is not a number"},
    {"row\tid\n 1\ta\n", ERR_FORMAT, "items.tsv: line 2: the row is not a number"},
    {"row\tid\n1.0\ta\n", ERR_FORMAT, "items.tsv: line 2: the row is not a number"},
    {"row\tid\n\ta\n", ERR_FORMAT, "items.tsv: line 2: the row is not a number"},
    {"row\tid\n99999999999999999999\ta\n", ERR_FORMAT,
     "items.tsv: line 2: the row is not a number"},
    {"row\tid\n10\ta\n", ERR_FORMAT,
     "items.tsv: line 2: row 10 is out of range, the model has 10 rows"},
    {"row\tid\n4294967295\ta\n", ERR_FORMAT,
     "items.tsv: line 2: row 4294967295 is out of range, the model has 10 rows"},
    {"row\tid\n3\ta\n2\tb\n", ERR_FORMAT,
     "items.tsv: line 3: row 2 follows row 3, rows must ascend"},
    {"row\tid\n3\ta\n3\tb\n", ERR_FORMAT,
     "items.tsv: line 3: row 3 follows row 3, rows must ascend"},
    {"row\tid\n1\ta\n3\tb\n7\tc\n8\tb\n", ERR_FORMAT,
     "items.tsv: line 5: id b is already on line 3"},
    {"row\tid\n1\t\n", ERR_FORMAT, "items.tsv: line 2: the id is empty"},
    {"row\tid\n1\t" LONG256 "x\n", ERR_LIMIT, "items.tsv: line 2: the id is longer than 256 bytes"},
    {"row\tid\n1\tab\xc3\n", ERR_FORMAT, "items.tsv: line 2: the id is not valid UTF-8"},
    {"row\tid\n1\ta\x01z\n", ERR_FORMAT, "items.tsv: line 2: the id holds a control character"},
    {"row\tid\n1\ta\x7f\n", ERR_FORMAT, "items.tsv: line 2: the id holds a control character"},
    {"row\tid\n1\ta\r\r\n", ERR_FORMAT, "items.tsv: line 2: the id holds a control character"},
    {"row\tid\n1\ta\tb\n", ERR_FORMAT, "items.tsv: line 2: 3 fields where the header has 2"},
    {"row\tid\ta\n1\tx\n", ERR_FORMAT, "items.tsv: line 2: 2 fields where the header has 3"},
    {"row\tid\n1\ta\n\n", ERR_FORMAT, "items.tsv: line 3: 1 fields where the header has 2"},
    {"row\tid\ta\n1\tx\tu||v\n", ERR_FORMAT, "items.tsv: line 2: a: a value is empty"},
    {"row\tid\ta\n1\tx\tu|\n", ERR_FORMAT, "items.tsv: line 2: a: a value is empty"},
    {"row\tid\ta\n1\tx\t\x1f\n", ERR_FORMAT,
     "items.tsv: line 2: a: a value holds a control character"},
};

static void a_wrong_file_is_refused_with_line_and_reason(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        struct err err = ERR_INIT;

        assert_null(items_load("items.tsv", wrong[i].text, strlen(wrong[i].text), 10, &err));
        assert_string_equal(err.text, wrong[i].message);
        assert_int_equal(err.code, wrong[i].code);
    }
}

static void limits_hold(void **state)
{
    struct buf b = BUF_INIT;
    struct err err = ERR_INIT;
    struct items *it = load("row\tid\n0\t" LONG256 "\n", 1);

    (void)state;
    assert_int_equal(row_of(it, LONG256), 0);
    items_free(it);

    buf_puts(&b, "row\tid");
    for (int i = 0; i <= ITEMS_ATTRIBUTES_MAX; i++)
        buf_printf(&b, "\tattribute%d", i);
    assert_null(items_load("x", b.p, b.len, 1, &err));
    assert_string_equal(err.text, "x: line 1: more than 32 attributes");
    b.len = 0;
    err_clear(&err);
    buf_puts(&b, "row\tid\ta\n0\tx\tv0");
    for (int i = 1; i <= 1024; i++)
        buf_printf(&b, "|v%d", i);
    assert_null(items_load("x", b.p, b.len, 1, &err));
    assert_string_equal(err.text, "x: line 2: a: more than 1024 values");
    assert_int_equal(err.code, ERR_LIMIT);
    buf_clear(&b);
}

static void lack_of_memory_anywhere_is_an_error(void **state)
{
    struct buf b = BUF_INIT;
    struct items *it = NULL;
    unsigned n;

    (void)state;
    buf_puts(&b, "row\tid\ta\tb\n");
    for (int i = 0; i < 300; i++)
        buf_printf(&b, "%d\titem%d\tv%d\tx|y|z%d\n", i * 2, i, i, i % 7);
    for (n = 1; it == NULL && n < 1000; n++) {
        struct err err = ERR_INIT;

        mem_test_fail_at(n);
        it = items_load("x", b.p, b.len, 1000, &err);
        mem_test_fail_at(0);
        assert_int_equal(err.code, it == NULL ? ERR_NOMEM : ERR_NONE);
        assert_true(it != NULL || strncmp(err.text, "x: ", 3) == 0);
    }
    assert_true(n > 20);
    assert_int_equal(items_count(it), 300);
    items_free(it);
    buf_clear(&b);
}

/* ---- many ---------------------------------------------------------------------------- */

#define MANY 200000

/* Many at once give what one by one gives: known ones, some twice, unknown ones, an empty one. */
static void assert_many_agree(const struct items *it)
{
    static char text[1000][16];
    static struct str ids[1000], back[1000];
    static uint32_t rows[1000], known[1000];
    size_t n_known = 0;

    for (uint32_t i = 0; i < 1000; i++) {
        snprintf(text[i], sizeof text[i], "B%08u", i * 37 % 911 * 2654435761u % 100000000u);
        text[i][i % 10 == 3 ? 5 : 9] = '\0'; /* the start of one is none */
        ids[i] = (struct str){text[i], i == 77 ? 0 : strlen(text[i])};
    }
    for (size_t n = 0; n <= 1000; n = n < 70 ? n + 1 : n + 310) {
        memset(rows, 0, sizeof rows);
        items_rows(it, ids, n, rows);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(rows[i], items_row(it, ids[i].p, ids[i].len));
    }
    for (size_t i = 0; i < 1000; i++)
        if (rows[i] != ITEMS_NONE)
            known[n_known++] = rows[i];
    assert_int_equal(n_known, 899);
    for (size_t n = 1; n <= n_known; n += n < 70 ? 1 : 207) {
        memset(back, 0, sizeof back);
        items_ids(it, known, sizeof *known, n, back);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(items_row(it, back[i].p, back[i].len), known[i]);
    }
}

static void many_items_are_all_found_in_little_memory(void **state)
{
    struct buf b = BUF_INIT;
    struct err err = ERR_INIT;
    struct items *it;
    char id[32];

    (void)state;
    buf_puts(&b, "row\tid\tcolour\n");
    for (uint32_t i = 0; i < MANY; i++)
        buf_printf(&b, "%u\tB%08u\tc%u\n", i + 1, i * 2654435761u % 100000000u, i % 100);
    it = items_load("many", b.p, b.len, MANY + 1, &err);
    assert_string_equal(err.text, "");
    for (uint32_t i = 0; i < MANY; i += 7) {
        snprintf(id, sizeof id, "B%08u", i * 2654435761u % 100000000u);
        assert_int_equal(row_of(it, id), i + 1);
        assert_id(it, i + 1, id);
    }
    assert_int_equal(row_of(it, "B"), ITEMS_NONE);
    assert_many_agree(it);
    /* id text 9 bytes, its start 4, table 6; the column 4 + 4, postings 4 */
    assert_true(items_memory(it) < MANY * 32);
    assert_true(items_memory(it) > MANY * 30);
    items_free(it);
    buf_clear(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_rows_find_each_other),
        cmocka_unit_test(ids_are_plain_unless_one_needs_escaping_in_json),
        cmocka_unit_test(carriage_returns_and_a_missing_last_newline_are_accepted),
        cmocka_unit_test(attributes_are_found_both_ways),
        cmocka_unit_test(a_wrong_file_is_refused_with_line_and_reason),
        cmocka_unit_test(limits_hold),
        cmocka_unit_test(lack_of_memory_anywhere_is_an_error),
        cmocka_unit_test(many_items_are_all_found_in_little_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
