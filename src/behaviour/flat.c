/* flat.c - the id in a JSON object as services write it: flat, of a few fields, its strings ASCII
 * without escapes. That is read where it stands, many times faster than by jansson. What is not
 * certainly such an object is not judged here. */
#include "format.h"

#define FIELDS_MAX 8
#define DIGITS_MAX 18 /* fit 64 bits */

static bool take_string(struct json_text *s, struct str *out)
{
    const char *start;

    if (!json_take(s, '"'))
        return false;
    for (start = s->p; s->p < s->end && *s->p != '"'; s->p++)
        if (*s->p < ' ' || *s->p > '~' || *s->p == '\\')
            return false;
    *out = (struct str){start, (size_t)(s->p - start)};
    return json_take(s, '"');
}

static size_t skip_digits(struct json_text *s)
{
    const char *start = s->p;

    while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
        s->p++;
    return (size_t)(s->p - start);
}

/* Without an exponent. Its text is the integer's decimal text, unless it is none: then it is
 * NULL. */
static bool take_number(struct json_text *s, struct str *out)
{
    const char *start = s->p, *first;
    size_t n;

    if (s->p < s->end && *s->p == '-')
        s->p++;
    first = s->p;
    n = skip_digits(s);
    if (n == 0 || n > DIGITS_MAX || (*first == '0' && (n > 1 || first > start)))
        return false;
    *out = (struct str){start, (size_t)(s->p - start)};
    if (s->p == s->end || *s->p != '.')
        return true;
    s->p++;
    out->p = NULL;
    n = skip_digits(s);
    return n > 0 && n <= DIGITS_MAX;
}

static bool take_value(struct json_text *s, struct str *out)
{
    json_blanks(s);
    return s->p < s->end && *s->p == '"' ? take_string(s, out) : take_number(s, out);
}

static bool same(struct str a, struct str b)
{
    return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

/* One field, whose name is none of those before it. */
static bool take_field(struct json_text *s, struct str *names, size_t n, struct str *value)
{
    if (n == FIELDS_MAX || !take_string(s, &names[n]) || !json_take(s, ':') ||
        !take_value(s, value))
        return false;
    for (size_t i = 0; i < n; i++)
        if (same(names[i], names[n]))
            return false;
    return true;
}

bool flat_field(struct str field, struct str element, struct str *id)
{
    struct json_text s = {element.p, element.p + element.len};
    struct str names[FIELDS_MAX], value, found = {NULL, 0};
    size_t n = 0;

    if (!json_take(&s, '{'))
        return false;
    do {
        if (!take_field(&s, names, n, &value))
            return false;
        if (same(names[n++], field))
            found = value;
    } while (json_take(&s, ','));
    if (found.p == NULL || !json_take(&s, '}'))
        return false;
    json_blanks(&s);
    *id = found;
    return s.p == s.end;
}
