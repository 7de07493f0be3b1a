/* app.h - owns every module of the daemon: what starts after what, what stops before what, what
 * SIGHUP does.
 *
 * Start: configuration, log, registry (empty), poller, behaviour, recall with its workers, http.
 * From then on /livez answers, and a thread loads the bundles; the main thread only waits for
 * signals and for that thread. Stop: http first, which returns when nothing is in flight; the
 * behaviour threads, which push into recall's queue; recall; then what those stood on, behaviour,
 * poller and registry.
 *
 * Locks, in the order in which they may be taken. No module calls up, so what follows a lock is of
 * a lower floor.
 * - http_server.lock: connections; the behaviour stage while /readyz asks for its state
 * - recall.behaviour_lock: read while requests are handed to the behaviour stage, and while it is
 *   told to ask, which sends and may hand requests back: to the queue and to a loop's list
 * - registry: loading, change, lock (bundle/registry.h)
 * - cells and queues: nothing is called inside
 *
 * libmicrohttpd's own locks come last: its functions are called with none of ours held. */
#ifndef RECALLD_APP_H
#define RECALLD_APP_H

#include "recalld/config.h"

/* Where the configuration comes from, at start and at every SIGHUP; borrowed for the life of the
 * process. */
struct sources {
    const char *path; /* NULL = no file */
    char *const *env;
    const char *const *args;
    int n_args;
};

struct config *sources_load(const struct sources *from, struct err *err) WARN_UNUSED;

/* Runs until a signal says stop. Owns `cfg`, which was read from `from`. SIGTERM, SIGINT and SIGHUP
 * must be blocked in the calling thread. Returns the exit status. */
int app_run(const struct sources *from, struct config *cfg);
/* Everything that starting would verify, without listening; says on stdout what is fine. */
int app_check(const struct config *cfg, struct err *err) WARN_UNUSED;

#endif
