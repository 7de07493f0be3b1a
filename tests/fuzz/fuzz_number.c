/* fuzz_number.c - numbers from outside to values, and values to the text of answers.
 *
 * Where a text is taken as a number the C library reads the same; integers are refused just when
 * they are no decimal digits or do not fit. The first bytes taken as a float or a double are
 * printed as JSON that reads back as the same value. */
#include "fuzz.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>

static bool is_decimal(const char *s, bool may_be_negative)
{
    s += may_be_negative && *s == '-';
    return *s != '\0' && strspn(s, "0123456789") == strlen(s);
}

static void check_text(const char *s, size_t len)
{
    bool whole = strlen(s) == len; /* no NUL inside */
    uint64_t u;
    int64_t i;
    double d;
    char *end;

    errno = 0;
    if (parse_u64(s, len, &u))
        assert(whole && is_decimal(s, false) && u == strtoull(s, NULL, 10) && errno == 0);
    else
        assert(!whole || !is_decimal(s, false) || (strtoull(s, NULL, 10), errno == ERANGE));
    errno = 0;
    if (parse_i64(s, len, &i))
        assert(whole && is_decimal(s, true) && i == strtoll(s, NULL, 10) && errno == 0);
    else
        assert(!whole || !is_decimal(s, true) || (strtoll(s, NULL, 10), errno == ERANGE));
    if (parse_f64(s, len, &d)) {
        assert(whole && isfinite(d) && strtod(s, &end) == d && *end == '\0');
        assert(strspn(s, "0123456789.+-eE") == len);
    }
}

static void assert_json_number(struct buf *b)
{
    json_t *v = json_loadb(b->p, b->len, JSON_DECODE_ANY | JSON_DECODE_INT_AS_REAL, NULL);

    assert(json_is_number(v));
    json_decref(v);
}

static void check_values(const uint8_t bytes[8])
{
    struct buf b = BUF_INIT;
    float f;
    double d;

    memcpy(&f, bytes, sizeof f);
    memcpy(&d, bytes, sizeof d);
    buf_f32(&b, f);
    if (isfinite(f)) {
        assert_json_number(&b);
        assert(strtof(buf_cstr(&b), NULL) == f);
    } else {
        assert(strcmp(buf_cstr(&b), "null") == 0);
    }
    b.len = 0;
    buf_f64(&b, d);
    if (isfinite(d)) {
        double again;

        assert_json_number(&b);
        assert(parse_f64(b.p, b.len, &again) && again == d);
    } else {
        assert(strcmp(buf_cstr(&b), "null") == 0);
    }
    buf_clear(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    char *text = xmalloc(len + 1);

    if (len > 0)
        memcpy(text, bytes, len);
    text[len] = '\0';
    check_text(text, len);
    if (len >= sizeof(double))
        check_values(bytes);
    free(text);
    return 0;
}
