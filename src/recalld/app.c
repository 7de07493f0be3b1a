/* app.c - start, signals, reload, stop.
 *
 * What takes long (loading bundles, at start and at SIGHUP) is done by one background thread at a
 * time, so that the main thread stays free for signals. A reload prepares everything there and is
 * put into effect by the main thread, with steps that cannot fail: all of it or nothing. */
#include "app.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "info.h"
#include "notify.h"
#include "recalld/behaviour.h"
#include "recalld/bundle.h"
#include "recalld/experiment.h"
#include "recalld/http.h"
#include "recalld/journal.h"
#include "recalld/metrics.h"
#include "recalld/recall.h"

#define PASSWORD_FILE_MAX 4096
#define BREATH_US 5000 /* between looks at a behaviour stage that is starting or ending */
#define FINISH_NS 200000000ull
#define FINISH_MS 30000 /* a stop may take, after draining */

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

/* The experiments of `config` are read and checked when its bundles are loaded, and published with
 * them. */
struct companion {
    struct experiment_store *experiments;
    const struct config *config;
};

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

/* ---- experiments beside the bundles ---------------------------------------------------------- */

static bool bundle_known(void *set, const char *name)
{
    return bundle_set_find(set, name) != NULL;
}

static int load_experiments(void *arg, const struct bundle_set *set, struct ref **beside,
                            struct err *err)
{
    const struct companion *c = arg;
    struct experiment_checks checks = {bundle_known, (void *)(uintptr_t)set,
                                       c->config->recall_n_max};

    if (experiment_store_load(c->experiments, c->config->experiments_file, &checks, err) == -1)
        return -1;
    *beside = (struct ref *)(uintptr_t)experiment_store_acquire(c->experiments);
    return 0;
}

/* A bundle that an arm names stays. */
static int keep_what_arms_name(void *arg, const struct bundle_set *next, struct err *err)
{
    const struct companion *c = arg;
    const struct experiments *e = experiment_store_acquire(c->experiments);
    struct experiment_checks checks = {bundle_known, (void *)(uintptr_t)next, 0};
    struct err why = ERR_INIT;
    int result = experiments_check(e, &checks, &why);

    experiments_release(e);
    return result == 0 ? 0
                       : err_set(err, ERR_CONFLICT, "the experiments name it: %.*s",
                                 (int)strcspn(why.text, ":"), why.text);
}

static long long experiments_now(const struct companion *c)
{
    const struct experiments *e = experiment_store_acquire(c->experiments);
    long long version = experiments_version(e);

    experiments_release(e);
    return version;
}

/* ---- parts that start, check and reload share ---------------------------------------------- */

struct config *sources_load(const struct sources *from, struct err *err)
{
    return config_load(from->path, from->env, from->args, from->n_args, err);
}

/* The directories of bundle.paths; free both the list and *storage. */
static const char **split_paths(const char *paths, char **storage, size_t *n)
{
    char *p = *storage = xstrdup(paths), *save = NULL;
    const char **list = xcalloc(strlen(paths) / 2 + 1, sizeof *list);

    *n = 0;
    for (char *one = strtok_r(p, ",", &save); one != NULL; one = strtok_r(NULL, ",", &save)) {
        size_t len;

        one += strspn(one, " \t");
        len = strlen(one);
        while (len > 0 && strchr(" \t", one[len - 1]) != NULL)
            one[--len] = '\0';
        if (len > 0)
            list[(*n)++] = one;
    }
    return list;
}

/* And the experiments with them. */
static int load_bundles(struct registry *r, struct companion *c, const struct config *cfg,
                        struct err *err)
{
    char *storage;
    size_t n;
    const char **dirs = split_paths(cfg->bundle_paths, &storage, &n);
    int result;

    c->config = cfg;
    result = registry_configure(r, dirs, n, cfg->bundle_default, err);

    free(dirs);
    free(storage);
    return result;
}

static int hash_password(const struct config *cfg, char sha256[SHA256_HEX], struct err *err)
{
    struct buf text = BUF_INIT;
    int result = 0;

    sha256[0] = '\0';
    if (cfg->redis_password_file[0] == '\0')
        return 0;
    if (file_read(cfg->redis_password_file, PASSWORD_FILE_MAX, &text, err) == -1)
        result = err_prefix(err, "redis.password_file: ");
    else
        sha256_hex(text.p, text.len, sha256);
    buf_clear(&text);
    return result;
}

static struct behaviour *start_behaviour(const struct config *cfg, struct poller *p,
                                         struct err *err)
{
    return behaviour_start(cfg, (size_t)cfg->workers_queue, p, err);
}

static void default_name(struct registry *r, char name[BUNDLE_NAME_MAX])
{
    const struct bundle_set *set = registry_acquire(r);
    struct bundle *b = bundle_set_find(set, NULL);

    snprintf(name, BUNDLE_NAME_MAX, "%s", b == NULL ? "" : bundle_name(b));
    bundle_set_release(set);
}

/* What systemd shows beside "active". */
static void tell_ready(struct app *a, const char *more)
{
    char name[BUNDLE_NAME_MAX];
    char *status;

    default_name(a->registry, name);
    status = xasprintf("%s%s%s", name[0] == '\0' ? "no default bundle" : "serving ", name, more);
    notify_ready(status);
    free(status);
}

/* ---- the background thread ----------------------------------------------------------------- */

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

static void start_reload(struct app *a)
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

/* ---- start --------------------------------------------------------------------------------- */

/* Signals as bytes, in the order they came. A signalfd would miss some: OpenBLAS has started a
 * thread before main, which blocks nothing, and the kernel may give a signal to any thread that
 * does not block it. */
static int signal_pipe[2] = {-1, -1};

static void on_signal(int number)
{
    unsigned char byte = (unsigned char)number;
    int saved = errno;

    if (write(signal_pipe[1], &byte, 1) == -1) {
        /* Full of signals nobody has read yet: one more makes no difference. */
    }
    errno = saved;
}

static int catch_signals(struct err *err)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};

    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) == -1)
        return err_set(err, ERR_IO, "pipe: %s", strerror(errno));
    sigfillset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    return 0;
}

/* Registry and experiments know of each other from the start. */
static struct registry *new_registry(const struct config *cfg, size_t remember, struct companion *c)
{
    struct registry *r = registry_new(cfg->state_dir, cfg->bundle_memory_max);

    c->experiments = experiment_store_new(cfg->state_dir, remember);
    registry_set_users(r, &(struct bundle_users){load_experiments, keep_what_arms_name, c});
    if (cfg->bundle_verify_size)
        registry_verify_by_size(r);
    return r;
}

static int start_modules(struct app *a, struct err *err)
{
    struct config *cfg = a->config;
    struct http_context context = {.config = cfg};

    a->registry = new_registry(cfg, (size_t)cfg->experiments_remember, &a->companion);
    info_register(a->registry);
    experiment_register_metrics(a->companion.experiments);
    metrics_register_process();
    if (hash_password(cfg, a->password_sha256, err) == -1)
        return -1;
    a->poller = poller_new(err);
    if (a->poller == NULL)
        return -1;
    a->behaviour = start_behaviour(cfg, a->poller, err);
    if (a->behaviour == NULL)
        return -1;
    if (journal_open(&a->journal, cfg, err) == -1)
        return -1;
    a->recall = recall_start(cfg, recall_policy_new(cfg), a->registry, a->companion.experiments,
                             a->journal, a->behaviour, a->poller, err);
    if (a->recall == NULL)
        return -1;
    context.registry = a->registry;
    context.experiments = a->companion.experiments;
    context.journal = a->journal;
    context.recall = a->recall;
    context.behaviour = a->behaviour;
    context.poller = a->poller;
    a->http = http_start(&context, err);
    return a->http == NULL ? -1 : 0;
}

static int start(struct app *a, struct err *err)
{
    a->done_fd = eventfd(0, EFD_CLOEXEC);
    if (a->done_fd == -1)
        return err_set(err, ERR_IO, "eventfd: %s", strerror(errno));
    if (catch_signals(err) == -1 || start_modules(a, err) == -1)
        return -1;
    LOG_INFO("listening", "address=%s port=%d", a->config->http_listen, http_port(a->http));
    if (a->config->bundle_paths[0] == '\0' && a->config->state_dir[0] == '\0')
        LOG_WARN("nothing_to_serve",
                 "bundle.paths is empty and state.dir is not set: name a bundle");
    return start_job(a, false, err);
}

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

/* ---- the main thread ----------------------------------------------------------------------- */

/* -1 when the daemon cannot go on. */
static int finish_job(struct app *a)
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
        start_reload(a);
    }
    return result;
}

/* The signal that came, or 0 when the time is over or the background thread has finished (*failed
 * when the daemon cannot go on). timeout_ms -1 = no limit. */
static int wait_for_signal(struct app *a, int timeout_ms, bool *failed)
{
    struct pollfd p[2] = {{.fd = signal_pipe[0], .events = POLLIN},
                          {.fd = a->done_fd, .events = POLLIN}};
    struct timespec limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000000l};
    unsigned char number;
    sigset_t none;

    sigemptyset(&none); /* here, and nowhere else, this thread takes signals */
    ppoll(p, 2, timeout_ms == -1 ? NULL : &limit, &none);
    if (p[1].revents & POLLIN)
        *failed = finish_job(a) == -1;
    return read(signal_pipe[0], &number, 1) == 1 ? number : 0;
}

/* Until SIGTERM or SIGINT; -1 when the daemon cannot go on. */
static int serve(struct app *a)
{
    bool failed = false;

    while (!failed) {
        int got = wait_for_signal(a, -1, &failed);

        if (got == SIGHUP)
            start_reload(a);
        else if (got != 0)
            return 0;
    }
    return -1;
}

/* Time for load balancers to see that /readyz says 503. A second signal ends it. */
static void drain(struct app *a)
{
    uint64_t until = clock_ns() + (uint64_t)a->config->http_drain_ms * 1000000, now;
    bool failed = false;

    http_set_draining(a->http);
    notify_stopping(a->config->http_drain_ms + FINISH_MS);
    LOG_INFO("draining", "ms=%d", a->config->http_drain_ms);
    a->reload_again = false;
    while (!failed && (now = clock_ns()) < until) {
        int got = wait_for_signal(a, (int)((until - now) / 1000000) + 1, &failed);

        if (got == SIGHUP)
            LOG_WARN("reload_failed", "nothing was changed: the service is stopping");
        else if (got != 0)
            return;
    }
}

/* The background thread cannot be interrupted; nothing it does needs finishing. */
static void leave_job_behind(struct app *a, int status)
{
    uint64_t count;

    if (a->job == NULL)
        return;
    if (poll(&(struct pollfd){.fd = a->done_fd, .events = POLLIN}, 1, 0) == 1 &&
        read(a->done_fd, &count, sizeof count) == sizeof count) {
        pthread_join(a->job->thread, NULL);
        job_free(a->job);
        a->job = NULL;
        return;
    }
    LOG_INFO("stopped", "while bundles were being loaded");
    _exit(status);
}

static void stop(struct app *a, int status)
{
    http_stop(a->http);
    behaviour_stop(a->behaviour); /* its threads push into recall's queue */
    recall_stop(a->recall);
    journal_close(a->journal); /* all of it is pushed */
    leave_job_behind(a, status);
    behaviour_free(a->behaviour);
    if (atomic_load(&retiring) == 0)
        poller_free(a->poller);
    registry_free(a->registry);
    experiment_store_free(a->companion.experiments);
    config_free(a->config);
    if (a->done_fd != -1)
        close(a->done_fd);
}

int app_run(const struct sources *from, struct config *cfg)
{
    struct app a = {.from = from, .config = cfg, .done_fd = -1};
    struct err err = ERR_INIT;
    int status = EXIT_FAILURE;

    a.began_ns = clock_ns();
    if (start(&a, &err) == -1) {
        LOG_ERROR("start_failed", "%s", err.text);
    } else if (serve(&a) == 0) {
        drain(&a);
        status = EXIT_SUCCESS;
    }
    stop(&a, status);
    if (status == EXIT_SUCCESS)
        LOG_INFO("stopped", "everything in flight was answered");
    return status;
}

/* ---- check --------------------------------------------------------------------------------- */

static void say_bundles(struct registry *r)
{
    const struct bundle_set *set = registry_acquire(r);

    for (size_t i = 0; i < bundle_set_count(set); i++) {
        struct bundle *b = bundle_set_at(set, i);

        printf("bundle %s: ok%s\n", bundle_name(b),
               b == bundle_set_find(set, NULL) ? " (default)" : "");
    }
    bundle_set_release(set);
}

static void say_experiments(struct experiment_store *store)
{
    const struct experiments *e = experiment_store_acquire(store);

    if (experiments_layers(e) > 0)
        printf("experiments version %lld: ok (layers: %d)\n", (long long)experiments_version(e),
               experiments_layers(e));
    experiments_release(e);
}

int app_check(const struct config *cfg, struct err *err)
{
    struct http_token *token = NULL;
    struct companion companion = {NULL, NULL};
    struct registry *r = NULL;
    struct behaviour *b = NULL;
    int result = -1;

    if (http_token_read(cfg->admin_token_file, &token, err) == -1 || journal_check(cfg, err) == -1)
        goto out;
    b = start_behaviour(cfg, NULL, err);
    if (b == NULL)
        goto out;
    r = new_registry(cfg, 0, &companion);
    if (load_bundles(r, &companion, cfg, err) == -1)
        goto out;
    say_bundles(r);
    say_experiments(companion.experiments);
    printf("configuration: ok\n");
    result = 0;
out:
    http_token_free(token);
    behaviour_free(b);
    registry_free(r);
    experiment_store_free(companion.experiments);
    return result;
}
