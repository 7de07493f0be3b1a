/* parts.h - inside recalld/ only: the daemon's modules in one struct, and what starting, reloading
 * and checking share. parts.c has the pieces, background.c loads and
 * reloads, app.c starts and stops. */
#ifndef RECALLD_PARTS_H
#define RECALLD_PARTS_H

#include "app.h"
#include "recalld/behaviour.h"
#include "recalld/bundle.h"
#include "recalld/experiment.h"
#include "recalld/http.h"
#include "recalld/journal.h"
#include "recalld/recall.h"

/* The experiments of `config` are read and checked when its bundles are loaded, and published with
 * them. */
struct companion {
    struct experiment_store *experiments;
    const struct config *config;
};

struct job;

struct app {
    const struct sources *from;
    struct config *config;
    struct registry *registry;
    struct companion companion;
    struct poller *poller; /* where recall's workers wait */
    struct behaviour *behaviour;
    struct journal *journal; /* NULL = off */
    struct recall *recall;
    struct http_server *http;
    char password_sha256[SHA256_HEX]; /* of the file's content, "" = none: a new password is a
                                         change too */
    int done_fd;                      /* the background thread has finished */
    struct job *job;                  /* NULL = none under way */
    bool reload_again;                /* SIGHUP came while one was under way */
    uint64_t began_ns;
};

/* ---- parts.c ---- */

/* Empty; registry and experiments know of each other from the start. */
struct registry *new_registry(const struct config *cfg, size_t remember, struct companion *c);
/* Those of bundle.paths, and the experiments with them. */
int load_bundles(struct registry *r, struct companion *c, const struct config *cfg, struct err *err)
    WARN_UNUSED;
struct behaviour *start_behaviour(const struct config *cfg, struct poller *p, struct err *err)
    WARN_UNUSED;
/* Of redis.password_file's content; "" without one. */
int hash_password(const struct config *cfg, char sha256[SHA256_HEX], struct err *err) WARN_UNUSED;
void default_name(struct registry *r, char name[BUNDLE_NAME_MAX]); /* "" = none */
long long experiments_now(const struct companion *c);              /* their version */
void tell_ready(struct app *a, const char *more); /* what systemd shows beside "active" */

/* ---- background.c ---- */

/* Begins in the background; once more after one that is under way. */
void reload_start(struct app *a);
/* The first loading. */
int loading_start(struct app *a, struct err *err) WARN_UNUSED;
/* a->done_fd is readable: takes what the background thread has made. -1 when the daemon cannot go
 * on. */
int background_finish(struct app *a);
/* False when something is under way still: it cannot be interrupted, and nothing it does needs
 * finishing. */
bool background_leave(struct app *a);
bool stages_retiring(void); /* behaviour stages that were replaced and still use the poller */

#endif
