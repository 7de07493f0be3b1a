/* test_bytes.c - the checked reader, growing byte strings, JSON strings, UTF-8. */
#include "recalld/base.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- reader -------------------------------------------------------------------- */

static void integers_are_read_little_end_first(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3, 0xff, 8, 7, 6, 5, 4, 3, 2, 0x81};
    struct reader r;
    uint32_t small;
    uint64_t large;

    (void)state;
    reader_init(&r, "x", bytes, sizeof bytes);
    assert_true(reader_u32le(&r, &small));
    assert_int_equal(small, 0xff030201u);
    assert_true(reader_u64le(&r, &large));
    assert_true(large == 0x8102030405060708u);
    assert_int_equal(reader_left(&r), 0);
}

static void a_read_past_the_end_moves_nothing(void **state)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7};
    struct reader r;
    uint32_t small = 9;
    uint64_t large = 9;

    (void)state;
    reader_init(&r, "x", bytes, sizeof bytes);
    assert_false(reader_u64le(&r, &large));
    assert_int_equal(reader_left(&r), 7);
    assert_true(reader_u32le(&r, &small));
    assert_false(reader_u32le(&r, &small));
    assert_int_equal(reader_left(&r), 3);
    assert_int_equal(small, 0x04030201u);
    assert_int_equal(large, 9);
}

static void lines_end_at_newlines_with_or_without_carriage_return(void **state)
{
    static const char text[] = "one\ntwo\r\n\n\r\nlast\r";
    static const char *const wanted[] = {"one", "two", "", "", "last\r"};
    struct reader r;
    const char *line;
    size_t len;

    (void)state;
    reader_init(&r, "x", text, sizeof text - 1);
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        assert_true(reader_line(&r, &line, &len));
        assert_int_equal(len, strlen(wanted[i]));
        assert_memory_equal(line, wanted[i], len);
    }
    assert_false(reader_line(&r, &line, &len));
}

static void nothing_has_no_lines(void **state)
{
    struct reader r;
    const char *line;
    size_t len;

    (void)state;
    reader_init(&r, "x", NULL, 0);
    assert_int_equal(reader_left(&r), 0);
    assert_false(reader_line(&r, &line, &len));
}

/* ---- buf ----------------------------------------------------------------------- */

static void a_buffer_grows_with_what_is_put_in(void **state)
{
    struct buf b = BUF_INIT;
    char long_text[1000];

    (void)state;
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    for (int i = 0; i < 1000; i++)
        buf_putc(&b, (char)('a' + i % 26));
    buf_put(&b, NULL, 0);
    buf_puts(&b, "end");
    buf_printf(&b, "%d-%s", 5, long_text);
    assert_int_equal(b.len, 1000 + 3 + 2 + 999);
    assert_int_equal(b.p[999], 'a' + 999 % 26);
    assert_memory_equal(b.p + 1000, "end5-xxx", 8);
    assert_string_equal(buf_cstr(&b) + 1003 + 2, long_text);
    assert_int_equal(b.len, 1000 + 3 + 2 + 999);
    buf_clear(&b);
    assert_null(b.p);
    assert_string_equal(buf_cstr(&b), "");
    buf_clear(&b);
}

/* A text that ends exactly where the room ends needs one more byte for printf's NUL. */
static void printed_text_of_every_length_arrives_whole(void **state)
{
    char text[400];

    (void)state;
    for (size_t n = 0; n < sizeof text; n++) {
        struct buf b = BUF_INIT;

        memset(text, 'y', n);
        text[n] = '\0';
        buf_printf(&b, "%s", text);
        assert_int_equal(b.len, n);
        assert_string_equal(buf_cstr(&b), text);
        buf_clear(&b);
    }
}

static void assert_json(const char *s, size_t len, const char *wanted)
{
    struct buf b = BUF_INIT;

    buf_json(&b, s, len);
    assert_string_equal(buf_cstr(&b), wanted);
    buf_clear(&b);
}

static void a_json_string_escapes_what_json_says(void **state)
{
    (void)state;
    assert_json("", 0, "\"\"");
    assert_json("plain id 42", 11, "\"plain id 42\"");
    assert_json("a\"b\\c", 5, "\"a\\\"b\\\\c\"");
    assert_json("\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\"");
    assert_json("a\0\x1f\x7f", 4, "\"a\\u0000\\u001f\x7f\"");
    assert_json("\xe2\x82\xac/", 4, "\"\xe2\x82\xac/\"");
    assert_json("\"\"", 2, "\"\\\"\\\"\"");
}

/* One byte of each kind at each place of words of every length. */
static void a_string_is_plain_when_json_adds_nothing_but_quotes(void **state)
{
    char s[20];

    (void)state;
    assert_true(json_plain(NULL, 0));
    for (size_t len = 1; len <= sizeof s; len++)
        for (size_t at = 0; at < len; at++)
            for (int c = 0; c < 128; c++) {
                struct buf b = BUF_INIT;

                memset(s, 'x', sizeof s);
                s[at] = (char)c;
                buf_json(&b, s, len);
                if (json_plain(s, len) != (b.len == len + 2 && memcmp(b.p + 1, s, len) == 0))
                    fail_msg("%d at %zu of %zu", c, at, len);
                buf_clear(&b);
            }
}

/* ---- UTF-8 --------------------------------------------------------------------- */

#define VALID(text) assert_true(utf8_valid(text, sizeof text - 1))
#define INVALID(text) assert_false(utf8_valid(text, sizeof text - 1))

static void well_formed_utf8_is_accepted(void **state)
{
    (void)state;
    VALID("");
    VALID("ascii only, longer than eight bytes");
    VALID("nul \0 inside");
    VALID("\x7f");
    VALID("\xc2\x80\xdf\xbf");
    VALID("\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf");
    VALID("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    VALID("12345678\xe2\x82\xac"
          "12345678");
}

static void malformed_utf8_is_refused(void **state)
{
    (void)state;
    INVALID("\x80");             /* a tail without a head */
    INVALID("\xc0\xaf");         /* overlong '/' */
    INVALID("\xc1\xbf");         /* overlong */
    INVALID("\xe0\x9f\xbf");     /* overlong */
    INVALID("\xf0\x8f\xbf\xbf"); /* overlong */
    INVALID("\xed\xa0\x80");     /* a surrogate */
    INVALID("\xed\xbf\xbf");     /* a surrogate */
    INVALID("\xf4\x90\x80\x80"); /* above U+10FFFF */
    INVALID("\xf5\x80\x80\x80");
    INVALID("\xff");
    INVALID("\xc2");         /* cut short */
    INVALID("\xe2\x82");     /* cut short */
    INVALID("\xf0\x9f\x98"); /* cut short */
    INVALID("\xe2\x28\xa1");
    INVALID("\xe2\x82\x28");
    INVALID("\xf0\x9f\x98\x41");
    INVALID("12345678abc\x80"
            "12345678");
}

/* Every sequence of up to three bytes, against a decoder written the other way round: from the
 * number of the character to its bytes. */
static void utf8_agrees_with_an_encoder_on_all_short_sequences(void **state)
{
    static bool two[65536], three[1 << 24];
    char s[3];

    (void)state;
    for (uint32_t c = 0x80; c < 0x800; c++)
        two[(0xc0 | c >> 6) << 8 | (0x80 | (c & 63))] = true;
    for (uint32_t c = 0x800; c < 0x10000; c++)
        if (c < 0xd800 || c > 0xdfff)
            three[(0xe0 | c >> 12) << 16 | (0x80 | (c >> 6 & 63)) << 8 | (0x80 | (c & 63))] = true;
    for (uint32_t i = 0; i < 65536; i++) {
        s[0] = (char)(i >> 8);
        s[1] = (char)i;
        if (utf8_valid(s, 2) != (two[i] || (i < 0x8000 && (i & 0x80) == 0)))
            fail_msg("%04x", i);
    }
    for (uint32_t i = 0xc00000; i < 1 << 24; i++) { /* heads of several bytes */
        bool split = two[i >> 8] && (i & 0x80) == 0;

        s[0] = (char)(i >> 16);
        s[1] = (char)(i >> 8);
        s[2] = (char)i;
        if (utf8_valid(s, 3) != (three[i] || split))
            fail_msg("%06x", i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(integers_are_read_little_end_first),
        cmocka_unit_test(a_read_past_the_end_moves_nothing),
        cmocka_unit_test(lines_end_at_newlines_with_or_without_carriage_return),
        cmocka_unit_test(nothing_has_no_lines),
        cmocka_unit_test(a_buffer_grows_with_what_is_put_in),
        cmocka_unit_test(printed_text_of_every_length_arrives_whole),
        cmocka_unit_test(a_json_string_escapes_what_json_says),
        cmocka_unit_test(a_string_is_plain_when_json_adds_nothing_but_quotes),
        cmocka_unit_test(well_formed_utf8_is_accepted),
        cmocka_unit_test(malformed_utf8_is_refused),
        cmocka_unit_test(utf8_agrees_with_an_encoder_on_all_short_sequences),
    };

    return cmocka_run_group_tests_name("bytes", tests, NULL, NULL);
}
