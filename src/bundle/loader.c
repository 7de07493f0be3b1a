/* loader.c - bundles on their way in and out: posted directories wait here, one at a time is opened
 * in a background thread, the last few failures are remembered; bundles nobody uses any more are
 * freed.
 */
#include "registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define JOBS_WAITING_MAX 16
#define JOBS_FAILED_MAX 8
#define SWEEP_NS 100000000 /* how often retired bundles are looked at */

enum job_state { JOB_WAITING, JOB_LOADING, JOB_FAILED };

/* A directory that was posted and is not ready: waiting, being opened, or refused. */
struct job {
    char *dir;
    enum job_state state;
    char name[BUNDLE_NAME_MAX]; /* "" until its manifest was read */
    char step[MANIFEST_PATH_MAX + 32];
    size_t done, total;
    char error[sizeof((struct err *)0)->text];
    struct job *next; /* newer */
};

/* ---- retired bundles ----------------------------------------------------------- */

void loader_retire(struct registry *r, const struct bundle_set *old, const struct bundle_set *next)
{
    for (size_t i = 0; i < bundle_set_count(old); i++) {
        struct bundle *b = bundle_set_at(old, i);
        struct retired *dead;

        if (set_has(next, b))
            continue;
        dead = xcalloc(1, sizeof *dead);
        dead->bundle = bundle_acquire(b);
        pthread_mutex_lock(&r->lock);
        dead->next = r->retired;
        r->retired = dead;
        pthread_cond_signal(&r->wake);
        pthread_mutex_unlock(&r->lock);
    }
}

/* A bundle's count is at its start, and 1 means it is ours alone: no set holds it any more, so
 * nobody can take another reference. */
static bool only_ours(struct bundle *b)
{
    return atomic_load_explicit(&((struct ref *)b)->count, memory_order_acquire) == 1;
}

/* Called and returns with `lock` held; lets it go while it frees. */
static void sweep_locked(struct registry *r, bool all)
{
    struct retired **at = &r->retired;

    while (*at != NULL) {
        struct retired *dead = *at;

        if (!all && !only_ours(dead->bundle)) {
            at = &dead->next;
            continue;
        }
        *at = dead->next;
        pthread_mutex_unlock(&r->lock);
        bundle_release(dead->bundle);
        free(dead);
        pthread_mutex_lock(&r->lock);
        at = &r->retired; /* the list may have changed meanwhile */
    }
}

/* ---- one job ------------------------------------------------------------------- */

struct listener {
    struct registry *r;
    struct job *job;
};

static void job_progress(void *arg, const char *step, size_t done, size_t total)
{
    const struct listener *l = arg;

    pthread_mutex_lock(&l->r->lock);
    snprintf(l->job->step, sizeof l->job->step, "%s", step);
    l->job->done = done;
    l->job->total = total;
    pthread_mutex_unlock(&l->r->lock);
}

static void set_name(struct registry *r, struct job *job, const char *dir)
{
    struct err ignored = ERR_INIT; /* opening will say it again */
    struct manifest *m = manifest_read(dir, &ignored);

    if (m == NULL)
        return;
    pthread_mutex_lock(&r->lock);
    memcpy(job->name, m->full_name, sizeof job->name);
    pthread_mutex_unlock(&r->lock);
    manifest_free(m);
}

static int load(struct registry *r, struct job *job, struct err *err)
{
    char *dir = realpath(job->dir, NULL); /* the state file outlives the working directory */
    struct bundle_set *fresh = set_new();
    struct listener l = {r, job};
    int result;

    if (dir == NULL) /* opening will say why */
        dir = xstrdup(job->dir);
    pthread_mutex_lock(&r->loading);
    set_name(r, job, dir);
    result = registry_obtain(r, dir, true, fresh, job_progress, &l, err);
    if (result == 0)
        result = registry_keep_loaded(r, fresh, err);
    pthread_mutex_unlock(&r->loading);
    bundle_set_release(fresh);
    free(dir);
    return result;
}

static void job_free(struct job *job)
{
    free(job->dir);
    free(job);
}

static void unlink_locked(struct registry *r, struct job *job)
{
    struct job **at = &r->jobs;

    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    job_free(job);
}

static size_t count_locked(const struct registry *r, enum job_state state, struct job **oldest)
{
    size_t n = 0;

    *oldest = NULL;
    for (struct job *job = r->jobs; job != NULL; job = job->next) {
        if (job->state != state)
            continue;
        if (n++ == 0)
            *oldest = job;
    }
    return n;
}

/* A message may quote bytes of a broken file; what is listed must be UTF-8. */
static void copy_text(char *to, const char *text)
{
    bool valid = utf8_valid(text, strlen(text));

    do
        *to++ = valid || (unsigned char)*text < 0x80 ? *text : '?';
    while (*text++ != '\0');
}

/* Called and returns with `lock` held. */
static void run_locked(struct registry *r, struct job *job)
{
    struct err err = ERR_INIT;
    uint64_t begin = clock_ns();
    struct job *oldest;
    int result;

    job->state = JOB_LOADING;
    pthread_mutex_unlock(&r->lock);
    result = load(r, job, &err);
    if (result == 0)
        LOG_INFO("bundle_loaded", "path=%s ms=%llu", job->dir,
                 (unsigned long long)((clock_ns() - begin) / 1000000));
    else
        LOG_WARN("bundle_refused", "path=%s error=%s", job->dir, err.text);
    pthread_mutex_lock(&r->lock);
    if (result == 0) {
        unlink_locked(r, job);
        return;
    }
    job->state = JOB_FAILED;
    copy_text(job->error, err.text);
    if (count_locked(r, JOB_FAILED, &oldest) > JOBS_FAILED_MAX)
        unlink_locked(r, oldest);
}

static void wait_locked(struct registry *r)
{
    struct timespec until;
    uint64_t at = clock_ns() + SWEEP_NS;

    if (r->retired == NULL) {
        pthread_cond_wait(&r->wake, &r->lock);
        return;
    }
    until.tv_sec = (time_t)(at / 1000000000);
    until.tv_nsec = (long)(at % 1000000000);
    pthread_cond_timedwait(&r->wake, &r->lock, &until);
}

static void *loader_main(void *arg)
{
    struct registry *r = arg;
    struct job *job;

    thread_background();
    pthread_mutex_lock(&r->lock);
    while (!r->stopping) {
        sweep_locked(r, false);
        if (count_locked(r, JOB_WAITING, &job) > 0)
            run_locked(r, job);
        else if (!r->stopping)
            wait_locked(r);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

static struct job *job_of(struct registry *r, const char *dir)
{
    for (struct job *job = r->jobs; job != NULL; job = job->next)
        if (strcmp(job->dir, dir) == 0)
            return job;
    return NULL;
}

static void append_locked(struct registry *r, const char *dir)
{
    struct job **end = &r->jobs, *job = xcalloc(1, sizeof *job);

    job->dir = xstrdup(dir);
    strcpy(job->step, "waiting");
    while (*end != NULL)
        end = &(*end)->next;
    *end = job;
    pthread_cond_signal(&r->wake);
}

int registry_load_async(struct registry *r, const char *dir, struct err *err)
{
    struct job *job, *oldest;
    int result = 0;

    if (registry_need_state(r, err) == -1)
        return -1;
    if (dir[0] == '\0' || !utf8_valid(dir, strlen(dir)))
        return err_set(err, ERR_USAGE, "the path must not be empty, and UTF-8");
    pthread_mutex_lock(&r->lock);
    job = job_of(r, dir);
    if (job != NULL && job->state == JOB_FAILED) {
        unlink_locked(r, job);
        job = NULL;
    }
    if (job == NULL && count_locked(r, JOB_WAITING, &oldest) >= JOBS_WAITING_MAX)
        result =
            err_set(err, ERR_UNAVAILABLE, "%d bundles wait to be loaded already", JOBS_WAITING_MAX);
    else if (job == NULL)
        append_locked(r, dir);
    pthread_mutex_unlock(&r->lock);
    return result;
}

/* ---- listing ------------------------------------------------------------------- */

static void put_text(struct buf *json, const char *key, const char *text)
{
    buf_printf(json, ",\"%s\":", key);
    buf_json(json, text, strlen(text));
}

static void put_job(struct buf *json, const struct job *job)
{
    buf_printf(json,
               "{\"state\":\"%s\",\"name\":", job->state == JOB_FAILED ? "failed" : "loading");
    if (job->name[0] == '\0')
        buf_puts(json, "null");
    else
        buf_json(json, job->name, strlen(job->name));
    put_text(json, "dir", job->dir);
    if (job->state == JOB_FAILED) {
        put_text(json, "error", job->error);
    } else {
        put_text(json, "step", job->step);
        buf_printf(json, ",\"done\":%zu,\"total\":%zu", job->done, job->total);
    }
    buf_puts(json, "}");
}

void loader_list_locked(const struct registry *r, struct buf *json, const char *comma)
{
    for (const struct job *job = r->jobs; job != NULL; job = job->next) {
        buf_puts(json, comma);
        put_job(json, job);
        comma = ",";
    }
}

/* ---- life ---------------------------------------------------------------------- */

void loader_start(struct registry *r)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    if (pthread_create(&r->loader, NULL, loader_main, r) != 0) {
        fputs("cannot start a thread\n", stderr);
        abort();
    }
}

void loader_stop(struct registry *r)
{
    pthread_mutex_lock(&r->lock);
    r->stopping = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->loader, NULL);
    pthread_mutex_lock(&r->lock);
    sweep_locked(r, true);
    while (r->jobs != NULL)
        unlink_locked(r, r->jobs);
    pthread_mutex_unlock(&r->lock);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
}
