/* test_number.c - numbers to text and back. */
#include "recalld/base.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- numbers to text ----------------------------------------------------------- */

static void assert_f32(float v, const char *wanted)
{
    struct buf b = BUF_INIT;

    buf_f32(&b, v);
    assert_string_equal(buf_cstr(&b), wanted);
    buf_clear(&b);
}

static void floats_are_written_short_and_as_json(void **state)
{
    (void)state;
    assert_f32(0, "0");
    assert_f32(-0.0f, "0");
    assert_f32(1, "1");
    assert_f32(-1, "-1");
    assert_f32(0.5f, "0.5");
    assert_f32(0.1f, "0.100000001");
    assert_f32(100, "100");
    assert_f32(1200.25f, "1200.25");
    assert_f32(-123456.789f, "-123456.789");
    assert_f32(0.8123f, "0.812300026");
    assert_f32(999999936, "999999936");
    assert_f32(1e9f, "1e09");
    assert_f32(-1.5e20f, "-1.50000003e20");
    assert_f32(1e-5f, "9.99999975e-06"); /* this float lies just below 1e-5 */
    assert_f32(2e-5f, "0.0000199999995");
    assert_f32(1e-7f, "1.00000001e-07");
    assert_f32(FLT_MAX, "3.40282347e38");
    assert_f32(-FLT_MIN, "-1.17549435e-38");
    assert_f32(FLT_TRUE_MIN, "1.40129846e-45");
    assert_f32(NAN, "null");
    assert_f32(INFINITY, "null");
    assert_f32(-INFINITY, "null");
}

/* The grammar of a JSON number, RFC 8259 section 6. */
static bool is_json_number(const char *s)
{
    s += *s == '-';
    if (*s == '0')
        s++;
    else if (*s >= '1' && *s <= '9')
        s += strspn(s, "0123456789");
    else
        return false;
    if (*s == '.') {
        size_t n = strspn(s + 1, "0123456789");

        if (n == 0)
            return false;
        s += 1 + n;
    }
    if (*s == 'e' || *s == 'E') {
        size_t n;

        s++;
        s += *s == '-' || *s == '+';
        n = strspn(s, "0123456789");
        if (n == 0)
            return false;
        s += n;
    }
    return *s == '\0';
}

static void assert_reads_back(struct buf *b, uint32_t bits)
{
    float v, back;

    memcpy(&v, &bits, sizeof v);
    if (!isfinite(v) || v == 0)
        return;
    b->len = 0;
    buf_f32(b, v);
    back = strtof(buf_cstr(b), NULL);
    if (memcmp(&v, &back, sizeof v) != 0 || !is_json_number(b->p))
        fail_msg("%a became %s", (double)v, b->p);
}

static void every_float_reads_back_to_the_same_bits(void **state)
{
    struct buf b = BUF_INIT;
    uint64_t x = 88172645463325252u; /* xorshift64 */

    (void)state;
    for (int i = 0; i < 2000000; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        assert_reads_back(&b, (uint32_t)(x >> 20));
    }
    for (uint32_t bits = 0; bits < 50000; bits++)
        assert_reads_back(&b, bits); /* the smallest subnormals */
    buf_clear(&b);
}

/* Where the exponent is estimated and where rounding carries: around the powers of 2 and 10. */
static void floats_around_powers_read_back_to_the_same_bits(void **state)
{
    struct buf b = BUF_INIT;

    (void)state;
    for (int e = -45; e <= 38; e++) {
        float v = strtof((char[]){'1', 'e', e < 0 ? '-' : '+', (char)('0' + abs(e) / 10),
                                  (char)('0' + abs(e) % 10), '\0'},
                         NULL);
        uint32_t bits;

        memcpy(&bits, &v, sizeof bits);
        for (uint32_t d = 0; d < 200; d++) {
            assert_reads_back(&b, bits + d);
            assert_reads_back(&b, bits - d);
        }
    }
    for (uint32_t exponent = 1; exponent < 255; exponent++)
        for (uint32_t d = 0; d < 50; d++) {
            assert_reads_back(&b, (exponent << 23) + d);
            assert_reads_back(&b, (exponent << 23) - d);
        }
    buf_clear(&b);
}

static double power10(int e)
{
    char text[16];

    snprintf(text, sizeof text, "1e%d", e);
    return strtod(text, NULL);
}

/* What buf_f32 is to write, by the definition and one step after the other: nine digits of the
 * product in double, without trailing zeros, the point moved up to e = -5 and 8. */
static void plain_f32(char out[64], float v)
{
    char digits[32];
    double d = fabs((double)v);
    int e = -46;
    size_t n;

    while (d >= power10(e + 1))
        e++;
    snprintf(digits, sizeof digits, "%.0f", rint(d * power10(8 - e)));
    if (strlen(digits) > 9)
        e++;
    for (n = 9; n > 1 && digits[n - 1] == '0'; n--)
        ;
    out += sprintf(out, "%s", v < 0 ? "-" : "");
    if (e < -5 || e >= 9)
        sprintf(out, "%c%s%.*se%s%02d", digits[0], n > 1 ? "." : "", (int)n - 1, digits + 1,
                e < 0 ? "-" : "", abs(e));
    else if (e < 0)
        sprintf(out, "0.%.*s%.*s", -e - 1, "0000", (int)n, digits);
    else
        sprintf(out, "%.*s%s%s", e + 1, digits, (int)n > e + 1 ? "." : "",
                (int)n > e + 1 ? (digits[n] = '\0', digits + e + 1) : "");
}

static void the_text_of_a_float_is_what_the_definition_says(void **state)
{
    struct buf b = BUF_INIT;
    uint64_t x = 88172645463325252u; /* xorshift64 */
    char wanted[64];

    (void)state;
    for (int i = 0; i < 100000; i++) {
        uint32_t bits;
        float v;

        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bits = (uint32_t)(x >> 20);
        if (i % 2 == 0) /* of the size that scores have, some with few digits */
            bits = (bits & 0x83ffffff) | 0x3c000000;
        if (i % 10 == 0)
            bits &= 0xffff0000;
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v) || v == 0)
            continue;
        b.len = 0;
        buf_f32(&b, v);
        plain_f32(wanted, v);
        assert_string_equal(buf_cstr(&b), wanted);
    }
    buf_clear(&b);
}

/* Whoever writes to a place of their own gives it the room, and no more is touched. */
static void a_number_stays_within_its_room(void **state)
{
    static const float floats[] = {-1.17549435e-38f, -0.0000199999995f, -12345678.9f, -123456789.0f,
                                   -99999999.0f,     -1.40129846e-45f,  -1,           0.1f};
    static const uint64_t whole[] = {0, 9, 10, 99, 100, UINT64_MAX};
    char room[TEXT_F32_ROOM + TEXT_U64_ROOM], *end;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(floats); i++) {
        memset(room, '#', sizeof room);
        end = text_f32(room, floats[i]);
        assert_true(end > room && end <= room + TEXT_F32_ROOM && end[-1] != '#');
        for (size_t at = TEXT_F32_ROOM; at < sizeof room; at++)
            assert_int_equal(room[at], '#');
    }
    for (size_t i = 0; i < ARRAY_LEN(whole); i++) {
        memset(room, '#', sizeof room);
        end = text_u64(room, whole[i]);
        assert_true(end > room && end <= room + TEXT_U64_ROOM && end[-1] != '#');
        for (size_t at = TEXT_U64_ROOM; at < sizeof room; at++)
            assert_int_equal(room[at], '#');
    }
}

static void doubles_are_written_as_short_as_they_read_back(void **state)
{
    static const struct {
        double v;
        const char *text;
    } rows[] = {{0, "0"},           {1, "1"},       {0.1, "0.1"},
                {0.9999, "0.9999"}, {-2.5, "-2.5"}, {1e300, "1e+300"},
                {20e-6, "2e-05"},   {NAN, "null"},  {1.0 / 3, "0.3333333333333333"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf b = BUF_INIT;

        buf_f64(&b, rows[i].v);
        assert_string_equal(buf_cstr(&b), rows[i].text);
        buf_clear(&b);
    }
}

static void unsigned_integers_are_written_in_full(void **state)
{
    struct buf b = BUF_INIT;

    (void)state;
    buf_u64(&b, 0);
    buf_putc(&b, ' ');
    for (uint64_t v = 9; v < 200; v += 90) {
        buf_u64(&b, v);
        buf_u64(&b, v + 1);
        buf_putc(&b, ' ');
    }
    buf_u64(&b, 1234567890);
    buf_putc(&b, ' ');
    buf_u64(&b, UINT64_MAX);
    assert_string_equal(buf_cstr(&b), "0 910 99100 189190 1234567890 18446744073709551615");
    buf_clear(&b);
}

/* ---- text to numbers ----------------------------------------------------------- */

static void integers_from_outside_must_be_whole_and_fit(void **state)
{
    static const char *const junk[] = {"",
                                       "-",
                                       "+1",
                                       " 1",
                                       "1 ",
                                       "1.0",
                                       "0x1",
                                       "1e3",
                                       "--1",
                                       "9223372036854775808",
                                       "-9223372036854775809",
                                       "99999999999999999999"};
    int64_t v = 5;
    uint64_t u = 5;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(junk); i++)
        if (parse_i64(junk[i], strlen(junk[i]), &v))
            fail_msg("'%s' was accepted", junk[i]);
    assert_int_equal(v, 5);
    assert_true(parse_i64("9223372036854775807", 19, &v) && v == INT64_MAX);
    assert_true(parse_i64("-9223372036854775808", 20, &v) && v == INT64_MIN);
    assert_true(parse_i64("-0", 2, &v) && v == 0);
    assert_true(parse_i64("12345", 2, &v) && v == 12);
    assert_false(parse_u64("-1", 2, &u));
    assert_false(parse_u64("18446744073709551616", 20, &u));
    assert_int_equal(u, 5);
    assert_true(parse_u64("18446744073709551615", 20, &u) && u == UINT64_MAX);
}

static void numbers_from_outside_must_be_finite(void **state)
{
    static const char *const junk[] = {"",   "nan", "inf",   "-inf",   "infinity", "0x1p3", " 1",
                                       "1 ", "1,5", "1e400", "-1e400", "1.5.2",    "e5",    "."};
    char longest[200];
    double v = 5;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(junk); i++)
        if (parse_f64(junk[i], strlen(junk[i]), &v))
            fail_msg("'%s' was accepted", junk[i]);
    memset(longest, '1', sizeof longest);
    assert_false(parse_f64(longest, sizeof longest, &v));
    assert_true(v == 5);
    assert_true(parse_f64("0.9999", 6, &v) && v == 0.9999);
    assert_true(parse_f64("-1.5e-3", 7, &v) && v == -1.5e-3);
    assert_true(parse_f64("1e-400", 6, &v) && v == 0);
    assert_true(parse_f64("2.55", 3, &v) && v == 2.5);
}

static void truth_has_four_spellings(void **state)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    bool v;

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        v = false;
        assert_true(parse_bool(yes[i], strlen(yes[i]), &v) && v);
        assert_true(parse_bool(no[i], strlen(no[i]), &v) && !v);
    }
    assert_false(parse_bool("True", 4, &v));
    assert_false(parse_bool("", 0, &v));
    assert_false(parse_bool("tru", 3, &v));
    assert_false(parse_bool("2", 1, &v));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_are_written_short_and_as_json),
        cmocka_unit_test(every_float_reads_back_to_the_same_bits),
        cmocka_unit_test(floats_around_powers_read_back_to_the_same_bits),
        cmocka_unit_test(the_text_of_a_float_is_what_the_definition_says),
        cmocka_unit_test(a_number_stays_within_its_room),
        cmocka_unit_test(doubles_are_written_as_short_as_they_read_back),
        cmocka_unit_test(unsigned_integers_are_written_in_full),
        cmocka_unit_test(integers_from_outside_must_be_whole_and_fit),
        cmocka_unit_test(numbers_from_outside_must_be_finite),
        cmocka_unit_test(truth_has_four_spellings),
    };

    return cmocka_run_group_tests_name("number", tests, NULL, NULL);
}
