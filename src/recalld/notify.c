/* notify.c - systemd's readiness protocol: lines of KEY=VALUE in one datagram to the socket that
 * NOTIFY_SOCKET names, a path or, after an @, an abstract name. A manager that cannot be reached is
 * no reason to stop serving; it is logged, because the manager will not wait for ever. */
#include "notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int send_to(const char *name, const char *text)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t len = strlen(name);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    ssize_t sent;
    int fd;

    if ((name[0] != '/' && name[0] != '@') || len >= sizeof to.sun_path) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    memcpy(to.sun_path, name, len);
    if (name[0] == '@')
        to.sun_path[0] = '\0';
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return -1;
    do
        sent = sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to, size);
    while (sent == -1 && errno == EINTR);
    close(fd);
    return sent == -1 ? -1 : 0;
}

static void notify(const char *text)
{
    const char *name = getenv("NOTIFY_SOCKET");

    if (name != NULL && name[0] != '\0' && send_to(name, text) == -1)
        LOG_WARN("notify_failed", "socket=%s error=\"%s\"", name, strerror(errno));
}

void notify_ready(const char *status)
{
    char *text = xasprintf("READY=1\nSTATUS=%s", status);

    notify(text);
    free(text);
}

void notify_reloading(void)
{
    char *text =
        xasprintf("RELOADING=1\nSTATUS=reading the configuration again\nMONOTONIC_USEC=%llu",
                  (unsigned long long)(clock_ns() / 1000));

    notify(text);
    free(text);
}

void notify_stopping(int ms)
{
    char *text = xasprintf("STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%lld", ms * 1000ll);

    notify(text);
    free(text);
}
