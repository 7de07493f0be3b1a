/* background.c - what takes long: bundles at start, and everything that SIGHUP changes.
 *
 * One background thread at a time does it, so that the main thread stays free for signals. A reload
 * prepares everything there and is put into effect by the main thread, with steps that cannot fail:
 * all of it or nothing. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "info.h"
#include "notify.h"
#include "parts.h"

#define BREATH_US 5000 /* between looks at a behaviour stage that is starting or ending */
#define FINISH_NS 200000000ull

/* What a background thread works on, and what came of it. */
struct job {
    pthread_t thread;
    bool reload; /* otherwise the first loading */
    int result;
    struct err err;
    /* a reload's new parts */
    struct config *config;
    struct recall_policy *policy;
    struct behaviour *behaviour; /* NULL = the old one stays */
    struct http_token *token;
    char password_sha256[SHA256_HEX];
};

/* ---- the thread ---------------------------------------------------------------------------- */

static void job_free(struct job *j)
{
    if (j == NULL)
        return;
    config_free(j->config);
    if (j->policy != NULL)
        ref_release(&j->policy->ref);
    behaviour_free(j->behaviour);
    http_token_free(j->token);
    free(j);
}

static int check_frozen(const struct config *old, const struct config *new, struct err *err)
{
    struct buf keys = BUF_INIT;
    int n = config_frozen_changes(old, new, &keys);

    if (n > 0)
        err_set(err, ERR_CONFLICT, "a restart is needed to change %s", buf_cstr(&keys));
    buf_clear(&keys);
    return n > 0 ? -1 : 0;
}

/* A file that was emptied, or half written, is no reason to stop serving. */
static int check_serves(const struct config *old, const struct config *new, struct err *err)
{
    if (new->bundle_paths[0] != '\0' || new->state_dir[0] != '\0' || old->bundle_paths[0] == '\0')
        return 0;
    return err_set(err, ERR_USAGE, "bundle.paths is empty: nothing would be served any more");
}

/* Same settings and same password: the connections can stay. */
static bool same_behaviour(const struct app *a, const struct job *j)
{
    return strcmp(a->password_sha256, j->password_sha256) == 0 &&
           config_same_section(a->config, j->config, "redis") &&
           config_same_section(a->config, j->config, "behaviour");
}

/* Lets the new stage connect before requests depend on it. Redis may be down, so not for ever. */
static void let_it_connect(struct behaviour *b, const struct config *cfg)
{
    uint64_t until = clock_ns() + (uint64_t)cfg->redis_connect_ms * 1000000;

    while (strcmp(behaviour_state(b), "connecting") == 0 && clock_ns() < until)
        usleep(BREATH_US);
}

/* Bundles come last: publishing them cannot be taken back, and nothing after it can fail. */
static int prepare_reload(struct app *a, struct job *j)
{
    j->config = sources_load(a->from, &j->err);
    if (j->config == NULL || check_frozen(a->config, j->config, &j->err) == -1 ||
        check_serves(a->config, j->config, &j->err) == -1 ||
        http_token_read(j->config->admin_token_file, &j->token, &j->err) == -1 ||
        hash_password(j->config, j->password_sha256, &j->err) == -1)
        return -1;
    if (!same_behaviour(a, j)) {
        j->behaviour = start_behaviour(j->config, a->poller, &j->err);
        if (j->behaviour == NULL)
            return -1;
        let_it_connect(j->behaviour, j->config);
    }
    j->policy = recall_policy_new(j->config);
    thread_background(); /* requests are answered meanwhile; the stage above is no background */
    return load_bundles(a->registry, &a->companion, j->config, &j->err);
}

static void *work(void *arg)
{
    struct app *a = arg;
    struct job *j = a->job;
    uint64_t one = 1;

    j->result = j->reload ? prepare_reload(a, j)
                          : load_bundles(a->registry, &a->companion, a->config, &j->err);
    if (j->result == 0)
        experiment_store_settle(a->companion.experiments);
    if (write(a->done_fd, &one, sizeof one) == -1)
        abort(); /* an eventfd that counts to one cannot refuse */
    return NULL;
}

static int start_job(struct app *a, bool reload, struct err *err)
{
    int why;

    a->job = xcalloc(1, sizeof *a->job);
    a->job->reload = reload;
    why = pthread_create(&a->job->thread, NULL, work, a);
    if (why == 0) {
        pthread_setname_np(a->job->thread, reload ? "reload" : "load");
        return 0;
    }
    job_free(a->job);
    a->job = NULL;
    return err_set(err, ERR_IO, "thread: %s", strerror(why));
}

int loading_start(struct app *a, struct err *err)
{
    return start_job(a, false, err);
}

/* ---- reload -------------------------------------------------------------------------------- */

/* Nothing new goes in any more; what waits there is asked for before the threads end. */
static void let_it_finish(struct behaviour *b)
{
    uint64_t until = clock_ns() + FINISH_NS;

    behaviour_flush(b);
    while (behaviour_depth(b) > 0 && clock_ns() < until)
        usleep(BREATH_US);
}

/* Stages whose threads have not ended: they still use the poller. */
static atomic_int retiring;

static void *retire(void *old)
{
    let_it_finish(old);
    behaviour_free(old);
    atomic_fetch_sub(&retiring, 1);
    return NULL;
}

bool stages_retiring(void)
{
    return atomic_load(&retiring) > 0;
}

/* A thread of the old stage may be waiting for a name server: nobody waits for it here. What it
 * still has is in flight, which recall_stop waits for. */
static void retire_behaviour(struct behaviour *old)
{
    pthread_t thread;

    atomic_fetch_add(&retiring, 1);
    if (pthread_create(&thread, NULL, retire, old) == 0)
        pthread_detach(thread);
    else
        retire(old);
}

static void take_behaviour(struct app *a, struct job *j)
{
    struct behaviour *old = a->behaviour;

    if (j->behaviour == NULL)
        return;
    a->behaviour = j->behaviour;
    j->behaviour = NULL;
    recall_set_behaviour(a->recall, a->behaviour);
    http_set_behaviour(a->http, a->behaviour);
    retire_behaviour(old);
    memcpy(a->password_sha256, j->password_sha256, sizeof a->password_sha256);
}

static void take_reload(struct app *a, struct job *j)
{
    struct config *old = a->config;
    char name[BUNDLE_NAME_MAX];

    log_setup(j->config->log_level, j->config->log_json);
    recall_set_policy(a->recall, j->policy);
    j->policy = NULL;
    take_behaviour(a, j);
    http_set_token(a->http, j->token);
    j->token = NULL;
    a->config = j->config;
    j->config = old;
    default_name(a->registry, name);
    LOG_INFO("reloaded", "bundle=%s experiments=%lld", name, experiments_now(&a->companion));
}

static void refuse_reload(struct app *a, const struct err *why)
{
    info_reload(false);
    LOG_ERROR("reload_failed", "nothing was changed: %s", why->text);
    tell_ready(a, "; the last reload failed");
}

void reload_start(struct app *a)
{
    struct err err = ERR_INIT;

    if (a->job != NULL) {
        a->reload_again = true;
        return;
    }
    notify_reloading();
    if (start_job(a, true, &err) == -1)
        refuse_reload(a, &err);
}

static void finish_reload(struct app *a, struct job *j)
{
    if (j->result == -1) {
        refuse_reload(a, &j->err);
        return;
    }
    info_reload(true);
    take_reload(a, j);
    tell_ready(a, "");
}

/* ---- the end of it ------------------------------------------------------------------------- */

static int finish_loading(struct app *a, const struct job *j)
{
    char name[BUNDLE_NAME_MAX];
    int ms = (int)((clock_ns() - a->began_ns) / 1000000);

    if (j->result == -1) {
        LOG_ERROR("start_failed", "%s", j->err.text);
        return -1;
    }
    default_name(a->registry, name);
    if (name[0] == '\0')
        LOG_WARN("not_ready", "ms=%d no default bundle: /recall answers 503 until there is one",
                 ms);
    else
        LOG_INFO("ready", "address=%s port=%d bundle=%s experiments=%lld redis=%s ms=%d",
                 a->config->http_listen, http_port(a->http), name, experiments_now(&a->companion),
                 behaviour_state(a->behaviour), ms);
    tell_ready(a, "");
    return 0;
}

int background_finish(struct app *a)
{
    struct job *j = a->job;
    uint64_t count;
    int result = 0;

    if (read(a->done_fd, &count, sizeof count) == -1)
        return 0;
    pthread_join(j->thread, NULL);
    a->job = NULL;
    if (j->reload)
        finish_reload(a, j);
    else
        result = finish_loading(a, j);
    job_free(j);
    if (a->reload_again && result == 0) {
        a->reload_again = false;
        reload_start(a);
    }
    return result;
}

bool background_leave(struct app *a)
{
    uint64_t count;

    if (a->job == NULL)
        return true;
    if (poll(&(struct pollfd){.fd = a->done_fd, .events = POLLIN}, 1, 0) != 1 ||
        read(a->done_fd, &count, sizeof count) != sizeof count)
        return false;
    pthread_join(a->job->thread, NULL);
    job_free(a->job);
    a->job = NULL;
    return true;
}
