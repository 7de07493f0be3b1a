/* app.c - start, signals, stop, and the check of all that starting would verify. */
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
#include "parts.h"
#include "recalld/metrics.h"

#define FINISH_MS 30000 /* a stop may take, after draining */

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
    return loading_start(a, err);
}

/* ---- the main thread ----------------------------------------------------------------------- */

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
        *failed = background_finish(a) == -1;
    return read(signal_pipe[0], &number, 1) == 1 ? number : 0;
}

/* Until SIGTERM or SIGINT; -1 when the daemon cannot go on. */
static int serve(struct app *a)
{
    bool failed = false;

    while (!failed) {
        int got = wait_for_signal(a, -1, &failed);

        if (got == SIGHUP)
            reload_start(a);
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

static void stop(struct app *a, int status)
{
    http_stop(a->http);
    behaviour_stop(a->behaviour); /* its threads push into recall's queue */
    recall_stop(a->recall);
    journal_close(a->journal); /* all of it is pushed */
    if (!background_leave(a)) {
        LOG_INFO("stopped", "while bundles were being loaded");
        _exit(status);
    }
    behaviour_free(a->behaviour);
    if (!stages_retiring())
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
