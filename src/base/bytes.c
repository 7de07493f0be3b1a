/* bytes.c - reading bytes from outside with every step checked, and growing byte strings. */
#include "recalld/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reader -------------------------------------------------------------------- */

void reader_init(struct reader *r, const char *name, const void *bytes, size_t len)
{
    r->name = name;
    r->start = r->p = bytes;
    r->end = len > 0 ? r->start + len : r->start;
}

size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}

static bool read_le(struct reader *r, int width, uint64_t *v)
{
    uint64_t sum = 0;

    if (reader_left(r) < (size_t)width)
        return false;
    for (int i = width - 1; i >= 0; i--)
        sum = sum << 8 | r->p[i];
    r->p += width;
    *v = sum;
    return true;
}

bool reader_u32le(struct reader *r, uint32_t *v)
{
    uint64_t wide;

    if (!read_le(r, 4, &wide))
        return false;
    *v = (uint32_t)wide;
    return true;
}

bool reader_u64le(struct reader *r, uint64_t *v)
{
    return read_le(r, 8, v);
}

bool reader_line(struct reader *r, const char **line, size_t *len)
{
    size_t left = reader_left(r);
    const uint8_t *end;

    if (left == 0)
        return false;
    end = memchr(r->p, '\n', left);
    *line = (const char *)r->p;
    *len = end == NULL ? left : (size_t)(end - r->p);
    r->p = end == NULL ? r->end : end + 1;
    if (end != NULL && *len > 0 && (*line)[*len - 1] == '\r')
        --*len;
    return true;
}

/* ---- buf ----------------------------------------------------------------------- */

void buf_grow(struct buf *b, size_t more)
{
    size_t wanted, cap = b->cap < 64 ? 64 : b->cap;

    if (__builtin_add_overflow(b->len, more, &wanted) || wanted > PTRDIFF_MAX) {
        fputs("out of memory\n", stderr);
        abort();
    }
    while (cap < wanted)
        cap *= 2;
    b->p = xrealloc(b->p, cap);
    b->cap = cap;
}

void buf_puts(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_vprintf(struct buf *b, const char *fmt, va_list args)
{
    va_list again;
    int n;

    va_copy(again, args);
    buf_reserve(b, 128);
    n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, args);
    if (n > 0 && (size_t)n >= b->cap - b->len) {
        buf_reserve(b, (size_t)n + 1);
        vsnprintf(b->p + b->len, b->cap - b->len, fmt, again);
    }
    va_end(again);
    if (n > 0)
        b->len += (size_t)n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    buf_vprintf(b, fmt, args);
    va_end(args);
}

static void put_escaped(struct buf *b, char c)
{
    static const char raw[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
    const char *known = memchr(raw, c, sizeof raw - 1);

    if (known == NULL) {
        buf_printf(b, "\\u%04x", (unsigned)c);
        return;
    }
    buf_putc(b, '\\');
    buf_putc(b, letters[known - raw]);
}

static bool is_plain(unsigned char c)
{
    return c >= 0x20 && c != '"' && c != '\\';
}

/* True when none of eight bytes needs escaping: a byte below 0x20, or one that is zero after '"' or
 * '\\' is taken out of it, borrows into its highest bit. */
static bool eight_plain(const char *s)
{
    const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
    uint64_t w, quote, slash;

    memcpy(&w, s, sizeof w);
    quote = w ^ ones * '"';
    slash = w ^ ones * '\\';
    return ((((w - ones * 0x20) & ~w) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) &
            high) == 0;
}

static size_t plain_run(const char *s, size_t len)
{
    size_t run = 0;

    while (len - run >= 8 && eight_plain(s + run))
        run += 8;
    while (run < len && is_plain((unsigned char)s[run]))
        run++;
    return run;
}

bool json_plain(const char *s, size_t len)
{
    return plain_run(s, len) == len;
}

/* Runs that need no escaping, nearly always all of `s`, are copied in one piece. */
void buf_json(struct buf *b, const char *s, size_t len)
{
    size_t i = 0;

    buf_reserve(b, len + 2);
    buf_putc(b, '"');
    while (i < len) {
        size_t run = plain_run(s + i, len - i);

        buf_put(b, s + i, run);
        i += run;
        if (i < len)
            put_escaped(b, s[i++]);
    }
    buf_putc(b, '"');
}

const char *buf_cstr(struct buf *b)
{
    buf_reserve(b, 1);
    b->p[b->len] = '\0';
    return b->p;
}

void buf_clear(struct buf *b)
{
    free(b->p);
    *b = (struct buf)BUF_INIT;
}

/* ---- UTF-8 --------------------------------------------------------------------- */

static bool is_tail(unsigned char c)
{
    return (c & 0xc0) == 0x80;
}

/* The length of the character at `s`, or 0. The second byte's range excludes overlong forms,
 * surrogates and what lies above U+10FFFF (Unicode standard, table 3-7). */
static size_t utf8_char(const unsigned char *s, size_t left)
{
    unsigned char c = s[0], low = 0x80, high = 0xbf;
    size_t len = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;

    if (len <= 1 || len > left)
        return len > left ? 0 : len;
    if (c == 0xe0)
        low = 0xa0;
    else if (c == 0xed)
        high = 0x9f;
    else if (c == 0xf0)
        low = 0x90;
    else if (c == 0xf4)
        high = 0x8f;
    if (s[1] < low || s[1] > high || (len > 2 && !is_tail(s[2])) || (len > 3 && !is_tail(s[3])))
        return 0;
    return len;
}

bool utf8_valid(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    size_t i = 0;

    while (i < len) {
        uint64_t word;
        size_t n;

        if (len - i >= sizeof word) { /* eight ASCII bytes at once */
            memcpy(&word, p + i, sizeof word);
            if ((word & 0x8080808080808080u) == 0) {
                i += sizeof word;
                continue;
            }
        }
        n = utf8_char(p + i, len - i);
        if (n == 0)
            return false;
        i += n;
    }
    return true;
}
