/* server.h - what the files of http/ share: the server, its loops, a connection, a request and its
 * route.
 *
 * Whoever runs the loop owns its requests. A request that waits (for a worker, or for the
 * administrative thread) is suspended, and whoever answers it touches only what the fields say,
 * then resumes it. */
#ifndef RECALLD_HTTP_SERVER_H
#define RECALLD_HTTP_SERVER_H

#include <microhttpd.h>
#include <poll.h>

#include "listener.h"
#include "recalld/http.h"

#define STATUS_COUNT 20              /* at least as many as problem.c knows */
#define REQUEST_ID_SIZE 65           /* a client's own has at most 64 characters */
#define BODY_KEEP ((size_t)64 << 10) /* an idle connection does not keep a larger buffer */

struct request;
struct connection;
struct loop;

/* ---- headers (head.c) ---- */

/* Those this server looks at, taken in one pass over all; borrowed, NULL = absent. */
struct head {
    const char *host, *length, *transfer, *type, *encoding, *authorization;
    char fault[80]; /* why nobody can be sure where the request ends, or "" */
};
void head_read(struct head *h, struct MHD_Connection *mhd, const char *version);

/* ---- routes (routes.c) ---- */

enum {
    ROUTE_TOKEN = 1, /* asks for the token */
    ROUTE_BODY = 2,  /* a JSON body */
    ROUTE_CALL = 4,  /* the body goes into a recall_call */
};

struct route {
    const char *method, *path; /* a {segment} matches anything but '/' and becomes request.param */
    enum MHD_Result (*answer)(struct request *r); /* once the request is complete */
    unsigned flags;
    const char *codes; /* what it may answer beside what its flags imply */
};

void routes_register(void); /* the counters */
/* The row that answers; where the path or the method is wrong, or the token, or the kind of body,
 * the request is refused. */
void route_find(struct request *r, const struct head *h, const char *method, const char *path);
void route_count(const struct request *r, int status);
void route_count_malformed(int status); /* what libmicrohttpd answered by itself */
void route_allow(const struct request *r, struct buf *out); /* "GET, HEAD, POST" */

/* ---- a request (request.c) ---- */

struct request {
    struct http_server *server;
    struct connection *connection;
    struct MHD_Connection *mhd;
    const struct route *route;
    char id[REQUEST_ID_SIZE]; /* the answer's X-Request-Id; made when it is first needed */
    char *param;
    int refused; /* a status, known before the body is: the body is read and dropped */
    char refusal[128];
    size_t received; /* bytes of the body */
    size_t held;     /* of http_server.bodies */
    struct buf body;
    enum MHD_Result (*resumed)(struct request *r); /* what to do next; set while suspended */
    struct request *next;                          /* among those the loop is to resume */

    /* POST /recall */
    struct recall_call *call;
    uint64_t complete_ns;

    /* administrative routes: filled by the administrative thread */
    void (*work)(struct request *r);
    char *given; /* the string in the body, or a header */
    int status;  /* of `answer`, or of `err`; 0 = as err.code says */
    struct err err;
    char field[128];           /* that `err` is about; "" = none */
    char etag[SHA256_HEX + 2]; /* in quotes; "" = none */
    struct buf answer;
};

/* What libmicrohttpd calls, in this order. */
void request_begin(struct connection *c, struct MHD_Connection *mhd);
enum MHD_Result request_head(struct request *r, const char *method, const char *path,
                             const char *version);
enum MHD_Result request_body(struct request *r, const char *bytes, size_t len);
enum MHD_Result request_complete(struct request *r);
enum MHD_Result request_resumed(struct request *r);
void request_end(struct request *r); /* ready for the next one; the body's buffer stays */

/* For the routes. */
const char *request_id(struct request *r);
/* The first reason stands. */
void request_refuse(struct request *r, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
void request_suspend(struct request *r, enum MHD_Result (*resumed)(struct request *r));
void request_resume(struct request *r); /* any thread; the request is not the caller's any more */

/* ---- a connection (connection.c) ---- */

enum phase {
    PHASE_IDLE,      /* since the last answer no request line has arrived */
    PHASE_RECEIVING, /* from the request line to the last byte of the body */
    PHASE_AT_WORK,   /* until the answer is out */
};

/* The request's buffers outlive it and serve the next one of the connection. */
struct connection {
    struct connection *next, *previous; /* in http_server.connections */
    struct loop *loop;
    struct http_server *server;
    int fd;
    bool linger;   /* a request has begun and is not complete: the client may still be sending */
    bool hopeless; /* it sends without end */
    _Atomic enum phase phase;
    atomic_uint since; /* http_server.seconds when the phase began */
    struct request request;
};

struct connection *connection_open(struct http_server *s, struct loop *l, int fd);
/* Before libmicrohttpd closes the socket: what is in the list is open. */
void connection_close(struct connection *c);
void connection_enter(struct http_server *s, struct connection *c, enum phase phase);
/* No request is under way and none waits in a socket. */
bool connections_quiet(struct http_server *s);
/* Once a second: cuts off who is too slow, and notices who has left. */
void connections_look(struct http_server *s);
void connections_register(void);

/* ---- a loop (loop.c) ---- */

struct loop *loop_start(struct http_server *s, const struct config *cfg, struct err *err)
    WARN_UNUSED;
void loop_stop(struct loop *l); /* closes the connections; nothing may be suspended any more */
void loop_take(struct loop *l, int fd, const struct sockaddr *from, socklen_t len);
void loop_resume(struct loop *l, struct request *r);
void loop_kick(struct loop *l); /* has it look at its connections' time-outs */

/* ---- the server ---- */

struct admin;

struct http_server {
    struct http_context on; /* `behaviour` under `lock` */
    size_t max_body;
    unsigned idle_s;
    size_t connections_max;
    char *port_file; /* NULL until written */
    struct listener *listener;
    struct loop **loops;
    size_t n_loops, next_loop;
    struct cell token;
    struct admin *admin;
    atomic_bool draining, closing;
    atomic_size_t open;    /* connections accepted and not yet closed */
    atomic_size_t at_work; /* requests that are being answered, the suspended ones among them */
    atomic_size_t bodies;  /* bytes of large bodies in memory */
    atomic_uint seconds;   /* how often connections_look was called */
    pthread_mutex_t lock;  /* of the next four and on.behaviour; nothing else is locked inside */
    struct connection *connections;
    size_t n_connections;
    struct pollfd *looked_at; /* connections_look's; room for n_looked_at */
    size_t n_looked_at;
    struct log_limit log, log_slow;
};

/* ---- answers (problem.c) ---- */

/* The position of a status in the list of all that are used, or -1; and the other way round. */
int status_index(int status);
int status_at(int index); /* 0 beyond the end */
int status_of(enum err_code code);

/* Queues `response` and drops it; `request` is counted. */
enum MHD_Result respond(struct request *r, int status, struct MHD_Response *response);
enum MHD_Result respond_json(struct request *r, int status, struct buf *take);
/* application/problem+json. `field` may be NULL. */
enum MHD_Result problem(struct request *r, int status, const char *field, const char *fmt, ...)
    PRINTF_LIKE(4, 5);
/* The same with further members, ready to follow a comma. */
enum MHD_Result problem_with(struct request *r, int status, const char *members,
                             const char *detail);

/* ---- the token (token.c) ---- */

bool token_matches(struct http_token *t, const char *authorization); /* NULL allowed */

/* ---- the administrative thread (route_admin.c) ---- */

struct admin *admin_start(struct err *err) WARN_UNUSED;
void admin_stop(struct admin *a); /* NULL allowed; nothing may be suspended any more */
/* `work` fills the request's last fields in that thread. */
enum MHD_Result on_admin_thread(struct request *r, void (*work)(struct request *r));

/* ---- handlers ---- */

enum MHD_Result route_recall(struct request *r);
void recall_begin(struct request *r);
void recall_register(void);
void events_register(void);
enum MHD_Result route_live(struct request *r);
enum MHD_Result route_ready(struct request *r);
enum MHD_Result route_metrics(struct request *r);
enum MHD_Result route_version(struct request *r);
enum MHD_Result route_openapi(struct request *r);
enum MHD_Result route_events(struct request *r);
enum MHD_Result route_experiments(struct request *r);
enum MHD_Result route_replace(struct request *r);
enum MHD_Result route_report(struct request *r);
enum MHD_Result route_bundles(struct request *r);
enum MHD_Result route_load(struct request *r);
enum MHD_Result route_alias(struct request *r);
enum MHD_Result route_default(struct request *r);
enum MHD_Result route_unload(struct request *r);

#endif
