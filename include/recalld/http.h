/* http.h - libmicrohttpd: the listener, the route table and the answers of every route.
 *
 * Whoever waits in the poller reads, parses and admits; POST /recall is suspended and resumed when
 * a worker has answered.
 */
#ifndef RECALLD_HTTP_H
#define RECALLD_HTTP_H

#include "recalld/base.h"
#include "recalld/behaviour.h"
#include "recalld/bundle.h"
#include "recalld/config.h"
#include "recalld/experiment.h"
#include "recalld/journal.h"
#include "recalld/recall.h"

/* What the routes work on; all borrowed. `config` is read during http_start only. */
struct http_context {
    const struct config *config;
    struct registry *registry;
    struct experiment_store *experiments;
    struct journal *journal; /* NULL = off */
    struct recall *recall;
    struct behaviour *behaviour;
    struct poller *poller; /* its threads serve until http_stop has returned */
};

struct http_server;
/* Binds first (a taken port is one clear sentence), serves /livez at once; /readyz is 503 until a
 * default bundle is there. Writes http.port_file by rename once bound. Reads admin.token_file. */
struct http_server *http_start(const struct http_context *ctx, struct err *err) WARN_UNUSED;
int http_port(const struct http_server *s);
/* /readyz answers 503 from now on, and every answer asks its client to close the connection. */
void http_set_draining(struct http_server *s);
/* Closes the listener, waits until every request that has arrived is answered, closes the
 * connections. The context must still be at work. NULL allowed. */
void http_stop(struct http_server *s);

/* What SIGHUP may change, made ready first and then set, which cannot fail. */
struct http_token;
/* The token in the file at `path`; *out = NULL when `path` is empty: then the administrative routes
 * answer 403. ERR text names the file. */
int http_token_read(const char *path, struct http_token **out, struct err *err) WARN_UNUSED;
void http_token_free(struct http_token *t); /* NULL allowed */
void http_set_token(struct http_server *s, struct http_token *take);
/* Once this returns nothing asks the old stage any more. */
void http_set_behaviour(struct http_server *s, struct behaviour *beh);

extern const char recalld_version[];

#endif
