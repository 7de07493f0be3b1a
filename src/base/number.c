/* number.c - numbers to text, fast enough for every score of an answer, and text from outside to
 * numbers, strict enough for options, requests and files. */
#include "recalld/base.h"

#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers to text ----------------------------------------------------------- */

char *text_u64(char *p, uint64_t v)
{
    char digits[TEXT_U64_ROOM], *first = digits + sizeof digits;
    size_t len;

    if (v < 10) {
        *p = (char)('0' + v);
        return p + 1;
    }
    do {
        *--first = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    len = (size_t)(digits + sizeof digits - first);
    memcpy(p, first, len);
    return p + len;
}

void buf_u64(struct buf *b, uint64_t v)
{
    buf_reserve(b, TEXT_U64_ROOM);
    b->len = (size_t)(text_u64(b->p + b->len, v) - b->p);
}

/* A float lies in 1e-45 .. 1e39: it is compared with 1e-44 and up, and scaled by up to 1e53. */
#define P10_MIN (-44)
#define P10_MAX 53

static const double powers[] = {
    1e-44, 1e-43, 1e-42, 1e-41, 1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32,
    1e-31, 1e-30, 1e-29, 1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19,
    1e-18, 1e-17, 1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9,  1e-8,  1e-7,  1e-6,
    1e-5,  1e-4,  1e-3,  1e-2,  1e-1,  1e0,   1e1,   1e2,   1e3,   1e4,   1e5,   1e6,   1e7,
    1e8,   1e9,   1e10,  1e11,  1e12,  1e13,  1e14,  1e15,  1e16,  1e17,  1e18,  1e19,  1e20,
    1e21,  1e22,  1e23,  1e24,  1e25,  1e26,  1e27,  1e28,  1e29,  1e30,  1e31,  1e32,  1e33,
    1e34,  1e35,  1e36,  1e37,  1e38,  1e39,  1e40,  1e41,  1e42,  1e43,  1e44,  1e45,  1e46,
    1e47,  1e48,  1e49,  1e50,  1e51,  1e52,  1e53,
};
_Static_assert(ARRAY_LEN(powers) == P10_MAX - P10_MIN + 1, "one row per power");

static double power10(int e)
{
    return powers[e - P10_MIN];
}

/* A positive d that a float can hold as m * 10^(e - 8), 1e8 <= m < 1e9, and e. */
static uint32_t nine_digits(double d, int *e)
{
    uint64_t bits;
    double low, high;
    uint32_t m;
    int at;
    bool more;

    memcpy(&bits, &d, sizeof bits);
    at = ((int)(bits >> 52) - 1023) * 1233 >> 12; /* log10(2) = 1233/4096; rounds down */
    /* floor(log10(d)) is that or one more: both products are on their way while d is compared. */
    low = d * power10(8 - at);
    high = d * power10(7 - at);
    more = d >= power10(at + 1);
    m = (uint32_t)lrint(more ? high : low);
    *e = at + more;
    if (m >= 1000000000) { /* 9.999999999 rounded up */
        m = 100000000;
        ++*e;
    }
    return m;
}

/* Two numbers below 10,000 as bytes 0 to 9, the first digit of `high` in the lowest: halves, then
 * single digits, all at once. 10486 / 2^20 and 103 / 2^10 are 1/100 and 1/10 for numbers this
 * small, and x 2^16 - q (100 * 2^16 - 1) is q + (x - 100 q) 2^16. */
static uint64_t eight_digits(uint32_t high, uint32_t low)
{
    uint64_t x = high | (uint64_t)low << 32, q;

    q = (x * 10486 >> 20) & 0x0000007f0000007fu;
    x = (x << 16) - q * ((100 << 16) - 1);
    q = (x * 103 >> 10) & 0x000f000f000f000fu;
    return (x << 8) - q * ((10 << 8) - 1);
}

static void put_eight(char *p, uint64_t digits)
{
    digits = htole64(digits | 0x3030303030303030u);
    memcpy(p, &digits, sizeof digits);
}

/* The first digit and the eight after it, `n` of the nine without trailing zeros. What lies behind
 * the end of the text is written to as well: one length, known to the compiler, is faster than the
 * right one. */
struct digits {
    char first;
    uint64_t rest;
    int n;
};

static struct digits digits_of(uint32_t m)
{
    uint32_t five = m / 10000, first = five / 10000;
    uint64_t rest = eight_digits(five - first * 10000, m - five * 10000);

    return (struct digits){(char)('0' + first), rest,
                           rest == 0 ? 1 : 9 - __builtin_clzll(rest) / 8};
}

/* 1e-5 <= value < 1e9 */
static char *put_fixed(char *p, struct digits d, int e)
{
    if (e < 0) {
        memcpy(p, "0.000000", 8);
        p += 1 - e;
        p[0] = d.first;
        put_eight(p + 1, d.rest);
        return p + d.n;
    }
    p[0] = d.first;
    put_eight(p + 1, d.rest);
    if (d.n <= e + 1)
        return p + e + 1;
    p[e + 1] = '.';
    put_eight(p + e + 2, d.rest >> 8 * e);
    return p + d.n + 1;
}

static char *put_scientific(char *p, struct digits d, int e)
{
    int size = e < 0 ? -e : e;

    p = put_fixed(p, d, 0);
    *p++ = 'e';
    if (e < 0)
        *p++ = '-';
    *p++ = (char)('0' + size / 10);
    *p++ = (char)('0' + size % 10);
    return p;
}

static char *put_word(char *p, const char *word)
{
    size_t len = strlen(word);

    memcpy(p, word, len);
    return p + len;
}

/* Nine digits tell apart floats that are 6e-8 of their size apart; scaling in double is wrong by
 * at most 3e-16 of it, so what is printed always reads back as the same float. */
char *text_f32(char *p, float v)
{
    struct digits digits;
    int e;

    if (!isfinite(v) || v == 0)
        return put_word(p, v == 0 ? "0" : "null");
    digits = digits_of(nine_digits(fabs((double)v), &e));
    *p = '-';
    p += v < 0;
    return e >= -5 && e < 9 ? put_fixed(p, digits, e) : put_scientific(p, digits, e);
}

void buf_f32(struct buf *b, float v)
{
    buf_reserve(b, TEXT_F32_ROOM);
    b->len = (size_t)(text_f32(b->p + b->len, v) - b->p);
}

void buf_f64(struct buf *b, double v)
{
    char text[32];

    if (!isfinite(v)) {
        buf_puts(b, "null");
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    buf_puts(b, text);
}

/* ---- text to numbers ----------------------------------------------------------- */

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool parse_u64(const char *s, size_t len, uint64_t *out)
{
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++) {
        if (!is_digit(s[i]) || __builtin_mul_overflow(v, 10u, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s[i] - '0'), &v))
            return false;
    }
    if (len == 0)
        return false;
    *out = v;
    return true;
}

bool parse_i64(const char *s, size_t len, int64_t *out)
{
    bool negative = len > 0 && s[0] == '-';
    uint64_t v;

    if (!parse_u64(s + negative, len - negative, &v) || v > (uint64_t)INT64_MAX + negative)
        return false;
    *out = negative ? (int64_t)(0 - v) : (int64_t)v;
    return true;
}

/* strtod alone would take blanks, hexadecimal, "inf" and "nan". */
bool parse_f64(const char *s, size_t len, double *out)
{
    char text[128], *end;
    double v;

    if (len == 0 || len >= sizeof text)
        return false;
    for (size_t i = 0; i < len; i++)
        if (!is_digit(s[i]) && memchr("+-.eE", s[i], 5) == NULL)
            return false;
    memcpy(text, s, len);
    text[len] = '\0';
    v = strtod(text, &end);
    if (end != text + len || !isfinite(v))
        return false;
    *out = v;
    return true;
}

bool parse_bool(const char *s, size_t len, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};

    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (strlen(words[i]) == len && memcmp(words[i], s, len) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}
