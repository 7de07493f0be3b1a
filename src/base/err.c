/* err.c - a code for programs and a text for people, carried up to whoever reports it. */
#include "recalld/base.h"

#include <stdio.h>
#include <string.h>

/* snprintf cuts at a byte; a text that ends in half a UTF-8 character could not go into JSON. */
static void drop_cut_character(char *text, size_t len)
{
    size_t lead = len;

    while (lead > 0 && len - lead < 4) {
        unsigned char c = (unsigned char)text[--lead];

        if ((c & 0xc0) != 0x80) {
            if (c >= 0xc0 && !utf8_valid(text + lead, len - lead))
                text[lead] = '\0';
            return;
        }
    }
}

/* Nor could one that quotes bytes from outside, or part of such a text: what is no character
 * becomes '?'. */
static void mend(char *text)
{
    while (*text != '\0') {
        size_t left = strnlen(text, 4), len = 1;

        while (len <= left && !utf8_valid(text, len))
            len++;
        if (len > left)
            *text = '?';
        text += len > left ? 1 : len;
    }
}

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    va_list args;
    int n;

    if (err->code != ERR_NONE)
        return -1;
    err->code = code;
    va_start(args, fmt);
    n = vsnprintf(err->text, sizeof err->text, fmt, args);
    va_end(args);
    if (n >= (int)sizeof err->text)
        drop_cut_character(err->text, sizeof err->text - 1);
    mend(err->text);
    return -1;
}

int err_prefix(struct err *err, const char *fmt, ...)
{
    char text[sizeof err->text];
    va_list args;
    size_t len;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    len = strlen(text);
    if (len + strlen(err->text) < sizeof text) {
        strcpy(text + len, err->text);
    } else {
        memcpy(text + len, err->text, sizeof text - 1 - len);
        text[sizeof text - 1] = '\0';
        drop_cut_character(text, sizeof text - 1);
    }
    mend(text);
    memcpy(err->text, text, sizeof text);
    return -1;
}

void err_clear(struct err *err)
{
    err->code = ERR_NONE;
    err->text[0] = '\0';
}
