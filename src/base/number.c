/* number.c - numbers to text, fast enough for every score of an answer, and text from outside to
 * numbers, strict enough for options, requests and files. */
#include "recalld/base.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "00" to "99" */
static const char pairs[] = "0001020304050607080910111213141516171819"
                            "2021222324252627282930313233343536373839"
                            "4041424344454647484950515253545556575859"
                            "6061626364656667686970717273747576777879"
                            "8081828384858687888990919293949596979899";

/* ---- numbers to text ----------------------------------------------------------- */

void buf_u64(struct buf *b, uint64_t v)
{
    char digits[20], *p = digits + sizeof digits;

    do {
        *--p = (char)('0' + v % 10);
        v /= 10;
    } while (v > 0);
    buf_put(b, p, (size_t)(digits + sizeof digits - p));
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

/* floor(log10(d)) for a positive d that a float can hold. */
static int exponent10(double d)
{
    uint64_t bits;
    int e;

    memcpy(&bits, &d, sizeof bits);
    e = ((int)(bits >> 52) - 1023) * 1233 >> 12; /* log10(2) = 1233/4096; rounds down */
    if (d >= power10(e + 1))
        e++;
    return e;
}

#define DIGITS_ROOM 18 /* nine, and nine more that `copy` may touch */

/* The nine digits of `m` < 1e9; returns how many are left without trailing zeros. */
static int put_digits(char digits[DIGITS_ROOM], uint32_t m)
{
    int n = 9;

    for (int i = 7; i >= 1; i -= 2) {
        memcpy(digits + i, pairs + 2 * (m % 100), 2);
        m /= 100;
    }
    digits[0] = (char)('0' + m);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    return n;
}

/* Copies nine bytes, of which n <= 9 are wanted: one length, known to the compiler, is faster than
 * the right one. There must be room. */
static char *copy(char *out, const char *bytes, int n)
{
    memcpy(out, bytes, 9);
    return out + n;
}

/* 1e-5 <= value < 1e9. `digits` are padded with zeros to nine. */
static char *put_fixed(char *p, const char *digits, int n, int e)
{
    if (e < 0) {
        p = copy(p, "0.000000", 1 - e);
        return copy(p, digits, n);
    }
    p = copy(p, digits, e + 1);
    if (n > e + 1) {
        *p++ = '.';
        p = copy(p, digits + e + 1, n - e - 1);
    }
    return p;
}

static char *put_scientific(char *p, const char *digits, int n, int e)
{
    *p++ = digits[0];
    if (n > 1) {
        *p++ = '.';
        p = copy(p, digits + 1, n - 1);
    }
    *p++ = 'e';
    if (e < 0)
        *p++ = '-';
    memcpy(p, pairs + 2 * (e < 0 ? -e : e), 2);
    return p + 2;
}

/* Nine digits tell apart floats that are 6e-8 of their size apart; scaling in double is wrong by
 * at most 3e-16 of it, so what is printed always reads back as the same float. */
void buf_f32(struct buf *b, float v)
{
    double d = fabs((double)v);
    char digits[DIGITS_ROOM] = {0}, *p;
    uint32_t m;
    int e, n;

    if (!isfinite(v) || d == 0) {
        buf_puts(b, d == 0 ? "0" : "null");
        return;
    }
    e = exponent10(d);
    m = (uint32_t)lrint(d * power10(8 - e)); /* 1e8 .. 1e9 */
    if (m >= 1000000000) {                   /* 9.999999999 rounded up */
        m = 100000000;
        e++;
    }
    n = put_digits(digits, m);
    buf_reserve(b, 32);
    p = b->p + b->len;
    if (v < 0)
        *p++ = '-';
    p = e >= -5 && e < 9 ? put_fixed(p, digits, n, e) : put_scientific(p, digits, n, e);
    b->len = (size_t)(p - b->p);
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
