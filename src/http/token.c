/* token.c - the bearer token of the administrative routes: read from its file, compared in constant
 * time. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server.h"

#define TOKEN_FILE_MAX 4096

/* Only the hash is kept. Comparing hashes of equal length tells nothing about the length of the
 * token, nor how much of a guess was right. */
struct http_token {
    struct ref ref;
    char sha256[SHA256_HEX];
};

static void token_free(struct ref *r)
{
    free(r); /* the reference is the first member */
}

/* A token goes into a header: visible ASCII without blanks. */
static bool is_token(const char *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i] <= ' ' || p[i] > '~')
            return false;
    return len > 0;
}

int http_token_read(const char *path, struct http_token **out, struct err *err)
{
    struct buf text = BUF_INIT;
    int result = -1;

    *out = NULL;
    if (path[0] == '\0')
        return 0;
    if (file_read(path, TOKEN_FILE_MAX, &text, err) == -1) {
        err_prefix(err, "admin.token_file: ");
        goto out;
    }
    while (text.len > 0 && strchr("\r\n", text.p[text.len - 1]) != NULL)
        text.len--;
    if (!is_token(text.p, text.len)) {
        err_set(
            err, ERR_FORMAT,
            "admin.token_file: %s: must hold one line of visible ASCII characters without blanks",
            path);
        goto out;
    }
    *out = xcalloc(1, sizeof **out);
    ref_init(&(*out)->ref, token_free);
    sha256_hex(text.p, text.len, (*out)->sha256);
    result = 0;
out:
    buf_clear(&text);
    return result;
}

void http_token_free(struct http_token *t)
{
    if (t != NULL)
        ref_release(&t->ref);
}

void http_set_token(struct http_server *s, struct http_token *take)
{
    cell_swap(&s->token, take == NULL ? NULL : &take->ref);
}

bool token_matches(struct http_token *t, const char *authorization)
{
    static const char scheme[] = "Bearer ";
    char sha256[SHA256_HEX];
    const char *given;
    unsigned char differs = 0;

    if (authorization == NULL || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0)
        return false;
    given = authorization + sizeof scheme - 1;
    while (*given == ' ')
        given++;
    sha256_hex(given, strlen(given), sha256);
    for (size_t i = 0; i < sizeof sha256; i++)
        differs |= (unsigned char)(sha256[i] ^ t->sha256[i]);
    return differs == 0;
}
