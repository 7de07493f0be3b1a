/* bare.c - a bare libmicrohttpd server, to see what is left of its speed once recalld does its
 * work:
 *
 *     bare THREADS BYTES
 *
 * Prints the port it listens on, then answers every request, once its body is read, with the same
 * BYTES bytes. Nothing else: no route, no call back but the one a server cannot do without, one
 * response made at the start. Each of THREADS event threads is a daemon
 * of its own, without a listening socket, and one thread that accepts and deals connections
 * out in turn. It does not suspend requests, so libmicrohttpd need not be ready for that. */
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define THREADS_MAX 64
#define CONNECTIONS_MAX 4096

static struct MHD_Response *answer;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *mhd, const char *path,
                                  const char *method, const char *version, const char *bytes,
                                  size_t *len, void **state)
{
    static int begun;

    (void)arg, (void)path, (void)method, (void)version, (void)bytes;
    if (*state == NULL) {
        *state = &begun;
        return MHD_YES;
    }
    if (*len > 0) {
        *len = 0;
        return MHD_YES;
    }
    return MHD_queue_response(mhd, MHD_HTTP_OK, answer);
}

static struct MHD_Daemon *loop_start(void)
{
    struct MHD_Daemon *loop = MHD_start_daemon(
        MHD_USE_AUTO_INTERNAL_THREAD | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, NULL,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX, MHD_OPTION_END);

    if (loop == NULL)
        fail("MHD_start_daemon");
    return loop;
}

static struct MHD_Response *make_answer(size_t size)
{
    char *bytes = malloc(size);
    struct MHD_Response *r;

    if (bytes == NULL)
        fail("malloc");
    memset(bytes, ' ', size);
    r = MHD_create_response_from_buffer(size, bytes, MHD_RESPMEM_MUST_FREE);
    if (r == NULL || MHD_add_response_header(r, "Content-Type", "application/json") == MHD_NO)
        fail("MHD_create_response_from_buffer");
    return r;
}

static int listening_socket(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    if (fd == -1 || setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == -1 ||
        bind(fd, (struct sockaddr *)&at, len) == -1 || listen(fd, SOMAXCONN) == -1 ||
        getsockname(fd, (struct sockaddr *)&at, &len) == -1)
        fail("socket");
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    return fd;
}

int main(int argc, char **argv)
{
    struct MHD_Daemon *loops[THREADS_MAX];
    int n = argc == 3 ? atoi(argv[1]) : 0, bytes = argc == 3 ? atoi(argv[2]) : 0, fd;

    if (n < 1 || n > THREADS_MAX || bytes < 1) {
        fputs("usage: bare THREADS BYTES\n", stderr);
        return 2;
    }
    answer = make_answer((size_t)bytes);
    for (int i = 0; i < n; i++)
        loops[i] = loop_start();
    fd = listening_socket();
    for (int turn = 0;; turn = (turn + 1) % n) {
        struct sockaddr_storage from;
        socklen_t len = sizeof from;
        int one = accept4(fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (one == -1)
            fail("accept");
        MHD_add_connection(loops[turn], one, (struct sockaddr *)&from, len);
    }
}
