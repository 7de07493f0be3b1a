/* head.c - the headers of a request that this server looks at, and whether they can be believed.
 *
 * Two programs that read one request differently, a proxy and this server, can be made to disagree
 * on where it ends; what follows is then taken for a request of somebody else. So whatever leaves
 * a doubt is refused, though libmicrohttpd would take it: two headers where one may be, a length
 * and chunks at once, a coding that is not "chunked", a name with a blank before the colon. */
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "server.h"

static const struct {
    const char *name;
    size_t len, field;
} known[] = {
#define KNOWN(name, field)                                  \
    {                                                       \
        name, sizeof name - 1, offsetof(struct head, field) \
    }
    KNOWN("Host", host),
    KNOWN("Content-Length", length),
    KNOWN("Transfer-Encoding", transfer),
    KNOWN("Content-Type", type),
    KNOWN("Content-Encoding", encoding),
    KNOWN("Authorization", authorization),
};

static void fault(struct head *h, const char *sentence)
{
    if (h->fault[0] == '\0')
        snprintf(h->fault, sizeof h->fault, "%s", sentence);
}

/* A name consists of visible characters. */
static bool is_name(const char *name)
{
    for (; *name != '\0'; name++)
        if (*name <= ' ' || *name > '~')
            return false;
    return true;
}

static enum MHD_Result take(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
    struct head *h = arg;
    size_t len = strlen(name);

    (void)kind;
    if (!is_name(name))
        fault(h, "a header's name has a blank or a control character in it");
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        const char **field = (const char **)((char *)h + known[i].field);

        if (len != known[i].len || strcasecmp(name, known[i].name) != 0)
            continue;
        if (*field != NULL && h->fault[0] == '\0')
            snprintf(h->fault, sizeof h->fault, "the header %s is there twice", known[i].name);
        *field = value == NULL ? "" : value;
    }
    return MHD_YES;
}

void head_read(struct head *h, struct MHD_Connection *mhd, const char *version)
{
    bool old = strcmp(version, "HTTP/1.0") == 0;

    memset(h, 0, sizeof *h);
    MHD_get_connection_values(mhd, MHD_HEADER_KIND, take, h);
    if (h->host == NULL && !old)
        fault(h, "the header Host is missing");
    if (h->transfer == NULL)
        return;
    if (h->length != NULL)
        fault(h, "Content-Length and Transfer-Encoding exclude each other");
    if (strcasecmp(h->transfer, "chunked") != 0)
        fault(h, "Transfer-Encoding must be chunked");
    if (old)
        fault(h, "HTTP/1.0 has no Transfer-Encoding");
}
