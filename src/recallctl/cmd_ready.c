/* cmd_ready.c - recallctl ready: asks a running daemon's /readyz. It finds the daemon by the
 * daemon's own configuration, so that a container's health check, or a script that waits, needs
 * neither another tool nor the address twice. */
#include "recallctl.h"

#include <errno.h>
#include <jansson.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define TRY_S 2 /* for one question and its answer, each wait on the socket */
#define AGAIN_US 100000
#define ANSWER_MAX 65536

struct ready_options {
    const char *config;
    double wait_s;
};

#define AT(field) offsetof(struct ready_options, field)

static const struct opt opts[] = {
    {"wait", OPT_REAL, AT(wait_s), 0, 86400, "SECONDS", "ask again until it is, so long at most"},
    {"config", OPT_TEXT, AT(config), 0, 0, "FILE", "recalld.ini, for http.listen"},
};

/* ---- one question ---------------------------------------------------------------- */

/* An address to listen on is one to connect to as well: 0.0.0.0 and [::] reach this machine. */
static struct addrinfo *find_addresses(const char *listen, struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(listen, ':'); /* there is one: config/ has checked the form */
    bool bracketed = listen[0] == '[';
    char *host = xstrndup(listen + bracketed, (size_t)(colon - listen) - 2u * bracketed);
    int why = getaddrinfo(host, colon + 1, &hints, &found);

    if (why != 0)
        err_set(err, ERR_UNAVAILABLE, "%s: %s", listen, gai_strerror(why));
    free(host);
    return why == 0 ? found : NULL;
}

static int open_socket(const struct addrinfo *a)
{
    struct timeval limit = {.tv_sec = TRY_S};
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol), why;

    if (fd == -1)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit); /* of connect too */
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    why = errno;
    close(fd);
    errno = why;
    return -1;
}

static int connect_any(const char *listen, struct err *err)
{
    struct addrinfo *found = find_addresses(listen, err);
    int fd = -1;

    if (found == NULL)
        return -1;
    for (const struct addrinfo *a = found; a != NULL && fd == -1; a = a->ai_next)
        fd = open_socket(a);
    if (fd == -1)
        err_set(err, ERR_UNAVAILABLE, "%s: cannot connect: %s", listen,
                errno == EINPROGRESS ? "no answer" : strerror(errno));
    freeaddrinfo(found);
    return fd;
}

/* The answer with its head, up to its end. False when it did not come in time. */
static bool exchange(int fd, struct buf *answer)
{
    static const char question[] = "GET /readyz HTTP/1.0\r\n\r\n";
    uint64_t until = clock_ns() + TRY_S * 1000000000ull;
    char part[4096];
    ssize_t n;

    if (send(fd, question, sizeof question - 1, MSG_NOSIGNAL) != sizeof question - 1)
        return false;
    while ((n = recv(fd, part, sizeof part, 0)) > 0) {
        buf_put(answer, part, (size_t)n);
        if (answer->len > ANSWER_MAX || clock_ns() > until)
            return false;
    }
    return n == 0;
}

/* 0 and the state on *body; otherwise -1 and the daemon's reason. */
static int judge(const char *listen, struct buf *answer, const char **body, struct err *err)
{
    const char *text = buf_cstr(answer), *end = strstr(text, "\r\n\r\n"), *why = NULL;
    json_t *said;

    if (strncmp(text, "HTTP/1.", 7) != 0 || end == NULL)
        return err_set(err, ERR_UNAVAILABLE, "%s: what answers there is not recalld", listen);
    *body = end + 4;
    if (strncmp(text + 8, " 200 ", 5) == 0)
        return 0;
    said = json_loads(*body, 0, NULL);
    json_unpack(said, "{s:s}", "detail", &why);
    err_set(err, ERR_UNAVAILABLE, "%s: not ready: %s", listen,
            why != NULL ? why : "it answers without a reason");
    json_decref(said);
    return -1;
}

/* Prints the state when the daemon is ready. */
static int ask(const char *listen, struct err *err)
{
    struct buf answer = BUF_INIT;
    const char *body = "";
    int fd = connect_any(listen, err), result = -1;

    if (fd == -1)
        return -1;
    if (!exchange(fd, &answer))
        err_set(err, ERR_UNAVAILABLE, "%s: connected, but no answer came", listen);
    else
        result = judge(listen, &answer, &body, err);
    if (result == 0)
        fputs(body, stdout);
    close(fd);
    buf_clear(&answer);
    return result;
}

/* ---- the command ----------------------------------------------------------------- */

static int run(const struct args *a, struct err *err)
{
    const struct ready_options *o = a->options;
    struct config *cfg = args_config(a, o->config, err);
    uint64_t until = clock_ns() + (uint64_t)(o->wait_s * 1e9);
    int result = -1;

    if (cfg == NULL)
        return -1;
    do {
        err_clear(err);
        result = ask(cfg->http_listen, err);
    } while (result == -1 && clock_ns() < until && usleep(AGAIN_US) == 0);
    config_free(cfg);
    return result;
}

const struct command cmd_ready = {
    .name = "ready",
    .about = "ask a running daemon whether it is ready",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .dotted = DOTTED_CONFIG,
    .options_size = sizeof(struct ready_options),
    .run = run,
};
