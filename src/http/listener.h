/* listener.h - the listening socket and the thread that accepts.
 *
 * libmicrohttpd could own the socket and share it among its daemons. Then whichever wakes first
 * takes what waits (measured: one of two got all 16 connections in two runs of three), and closing
 * the socket while it serves (MHD_quiesce_daemon) is not safe: a thread that takes it out of its
 * epoll set at the same moment ends the process. So connections are accepted here and handed out in
 * turn. */
#ifndef RECALLD_HTTP_LISTENER_H
#define RECALLD_HTTP_LISTENER_H

#include <sys/socket.h>

#include "recalld/base.h"

struct listener_hooks {
    bool (*has_room)(void *arg); /* may one more connection be taken? */
    /* Owns `fd`, which does not block and sends without delay. */
    void (*accepted)(void *arg, int fd, const struct sockaddr *from, socklen_t from_len);
    void (*look)(void *arg); /* once a second */
    void *arg;
};

struct listener;
/* Binds `address` (host:port or [v6]:port, port 0 = any free one) and listens; nothing is accepted
 * yet. ERR_IO with a sentence that says what to do. */
struct listener *listener_open(const char *address, struct err *err) WARN_UNUSED;
int listener_port(const struct listener *l);
int listener_start(struct listener *l, const struct listener_hooks *hooks, struct err *err)
    WARN_UNUSED;
void listener_room(struct listener *l); /* has_room may say something else now; any thread */
/* Owns `fd`: reads and drops what the client still sends, for a while, then closes. Closing at once
 * would reset the connection and take the answer away from a client that is still busy sending. Any
 * thread. */
void listener_linger(struct listener *l, int fd);
/* Accepts what the kernel has already connected, closes the socket, ends the thread. */
void listener_close(struct listener *l);
void listener_free(struct listener *l); /* closes first where that was not done; NULL allowed */

#endif
