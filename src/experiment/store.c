/* store.c - which experiments are in effect: from a file, or put by a client over it.
 *
 * What a client put is kept in the state file with the SHA-256 of the file it replaced. As long as
 * the file is that one, what was put holds; another file wins, so that files stay the truth, and
 * the state file goes once that one serves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "experiment_impl.h"
#include "recalld/metrics.h"

#define STATE_MAX                                                                   \
    (8 * EXPERIMENT_TEXT_MAX) /* the text as a JSON string may be six times as long \
                               */

static const char nothing[] = "{\"version\":0,\"hash\":\"growthbook-v2\",\"layers\":[]}\n";

struct experiment_store {
    struct cell current;
    struct counts *counts;
    pthread_mutex_t change; /* the state file and what is in effect move together */
    bool loaded;
    bool superseded;              /* the state file replaced another file than that */
    char file_sha256[SHA256_HEX]; /* of the file as it was read last */
    char *state_dir, *state_path; /* state_path NULL = nothing can be put */
};

/* ---- life ---------------------------------------------------------------------- */

const struct experiments *experiment_store_acquire(struct experiment_store *s)
{
    return (const struct experiments *)cell_acquire(&s->current);
}

/* Owns `take`. */
static void put_into_effect(struct experiment_store *s, struct experiments *take)
{
    const struct experiments *old = experiment_store_acquire(s);

    counts_adopt(s->counts, take, old);
    cell_swap(&s->current, &take->ref);
    experiments_release(old);
}

struct experiment_store *experiment_store_new(const char *state_dir, size_t remember)
{
    struct experiment_store *s = xcalloc(1, sizeof *s);
    struct err err = ERR_INIT;

    s->counts = counts_new(remember);
    s->state_dir = xstrdup(state_dir);
    s->state_path = state_dir[0] == '\0' ? NULL : path_join(state_dir, "experiments.json");
    pthread_mutex_init(&s->change, NULL);
    cell_init(&s->current, NULL);
    put_into_effect(s, experiments_parse(NULL, nothing, sizeof nothing - 1, NULL, &err));
    return s;
}

void experiment_store_free(struct experiment_store *s)
{
    if (s == NULL)
        return;
    cell_clear(&s->current);
    counts_free(s->counts);
    pthread_mutex_destroy(&s->change);
    free(s->state_path);
    free(s->state_dir);
    free(s);
}

/* ---- the state file: {"replaces": sha256, "text": "..."} -------------------------- */

/* 1 and *text (borrowed from *json) when there is one that replaces the file of this sum, 0 when
 * there is none, or for another file (*other). */
static int read_state(const struct experiment_store *s, const char *sha256, json_t **json,
                      const char **text, bool *other, struct err *err)
{
    struct err why = ERR_INIT;
    struct buf bytes = BUF_INIT;
    const char *replaces;
    json_error_t where;
    int result = -1;

    if (s->state_path == NULL)
        return 0;
    if (file_read(s->state_path, STATE_MAX, &bytes, &why) == -1) {
        result = why.code == ERR_NOT_FOUND ? 0 : err_set(err, why.code, "%s", why.text);
        goto out;
    }
    *json = json_loadb(bytes.len > 0 ? bytes.p : "", bytes.len, JSON_REJECT_DUPLICATES, &where);
    replaces = json_string_value(json_object_get(*json, "replaces"));
    *text = json_string_value(json_object_get(*json, "text"));
    if (*json == NULL)
        err_set(err, ERR_FORMAT, "%s: line %d, column %d: %s", s->state_path, where.line,
                where.column, where.text);
    else if (replaces == NULL || *text == NULL)
        err_set(err, ERR_FORMAT, "%s: must hold \"replaces\" and \"text\"", s->state_path);
    else
        result = strcmp(replaces, sha256) == 0;
    *other = result == 0;
out:
    buf_clear(&bytes);
    return result;
}

static int write_state(const struct experiment_store *s, const char *text, size_t len,
                       struct err *err)
{
    struct err why = ERR_INIT;
    struct buf out = BUF_INIT;
    int result;

    buf_printf(&out, "{\"replaces\": \"%s\",\n \"text\": ", s->file_sha256);
    buf_json(&out, text, len);
    buf_puts(&out, "}\n");
    result = file_mkdirs(s->state_dir, &why);
    if (result == 0)
        result = file_write(s->state_path, out.p, out.len, &why);
    buf_clear(&out);
    return result == 0 ? 0 : err_set(err, ERR_IO, "the change cannot be kept: %s", why.text);
}

/* ---- from the file --------------------------------------------------------------- */

static int read_file(const char *file, struct buf *text, struct err *err)
{
    if (file[0] == '\0') {
        buf_puts(text, nothing);
        return 0;
    }
    if (file_read(file, EXPERIMENT_TEXT_MAX, text, err) == -1)
        return err_prefix(err, "experiments.file: ");
    return 0;
}

/* Under `change`. */
static struct experiments *choose(const struct experiment_store *s, bool *other, const char *file,
                                  const struct buf *text, const char *sha256,
                                  const struct experiment_checks *checks, struct err *err)
{
    struct experiments *e = NULL;
    json_t *json = NULL;
    const char *put = NULL;
    int kept = read_state(s, sha256, &json, &put, other, err);

    if (*other)
        LOG_WARN("experiments_file_wins",
                 "file=%s it is another one than what %s replaced: that is no longer in effect",
                 file, s->state_path);
    if (kept == 1)
        e = experiments_parse(s->state_path, put, strlen(put), checks, err);
    else if (kept == 0)
        e = experiments_parse(file[0] == '\0' ? "experiments" : file, text->p, text->len, checks,
                              err);
    json_decref(json);
    return e;
}

void experiment_store_settle(struct experiment_store *s)
{
    pthread_mutex_lock(&s->change);
    if (s->superseded && unlink(s->state_path) == -1 && errno != ENOENT)
        LOG_WARN("experiments_state", "%s cannot be deleted: %s", s->state_path, strerror(errno));
    s->superseded = false;
    pthread_mutex_unlock(&s->change);
}

int experiment_store_load(struct experiment_store *s, const char *file,
                          const struct experiment_checks *checks, struct err *err)
{
    struct buf text = BUF_INIT;
    char sha256[SHA256_HEX];
    struct experiments *e = NULL;
    bool other = false;

    pthread_mutex_lock(&s->change);
    if (read_file(file, &text, err) == 0) {
        sha256_hex(text.p, text.len, sha256);
        e = choose(s, &other, file, &text, sha256, checks, err);
    }
    if (e != NULL) {
        memcpy(s->file_sha256, sha256, sizeof s->file_sha256);
        s->loaded = true;
        s->superseded = other;
        put_into_effect(s, e);
    }
    pthread_mutex_unlock(&s->change);
    buf_clear(&text);
    return e == NULL ? -1 : 0;
}

/* ---- from a client --------------------------------------------------------------- */

/* An entity tag of a list; *opaque is what stands between its quotes. Behind it, or NULL. */
static const char *read_tag(const char *p, bool *weak, struct str *opaque)
{
    *weak = strncmp(p, "W/", 2) == 0;
    p += *weak ? 2 : 0;
    if (*p != '"')
        return NULL;
    opaque->p = ++p;
    while (*p != '"') /* 0x7f and what is not printed cannot be part of a tag */
        if ((unsigned char)*p <= ' ' || *p++ == 0x7f)
            return NULL;
    opaque->len = (size_t)(p - opaque->p);
    return p + 1;
}

/* Does the header name this version? -1 when it is malformed. A weak tag matches nothing; elements
 * of a list may be empty. */
static int tag_matches(const char *if_match, const char *sha256)
{
    static const char blanks[] = " \t";
    const char *p = if_match + strspn(if_match, blanks);
    bool weak, found = false;
    struct str tag;

    if (*p == '*')
        return p[1 + strspn(p + 1, blanks)] == '\0' ? 1 : -1;
    for (;;) {
        p += strspn(p, ", \t");
        if (*p == '\0')
            return found;
        p = read_tag(p, &weak, &tag);
        if (p == NULL)
            return -1;
        found =
            found || (!weak && tag.len == SHA256_HEX - 1 && memcmp(tag.p, sha256, tag.len) == 0);
        p += strspn(p, blanks);
        if (*p != ',' && *p != '\0')
            return -1;
    }
}

/* Under `change`. */
static enum experiment_put put(struct experiment_store *s, const char *text, size_t len,
                               const char *if_match, const struct experiment_checks *checks,
                               struct err *err)
{
    const struct experiments *old = experiment_store_acquire(s);
    int matches = tag_matches(if_match, old->sha256);
    struct experiments *e;

    experiments_release(old);
    if (matches == -1) {
        err_set(err, ERR_USAGE,
                "the header If-Match must be a list of entity tags in quotes, or * alone");
        return EXPERIMENT_BAD_MATCH;
    }
    if (matches == 0) {
        err_set(err, ERR_CONFLICT, "the experiments have changed: read them again");
        return EXPERIMENT_CHANGED;
    }
    e = experiments_parse(NULL, text, len, checks, err);
    if (e == NULL)
        return EXPERIMENT_BAD;
    if (write_state(s, text, len, err) == -1) {
        experiments_release(e);
        return EXPERIMENT_FAILED;
    }
    s->superseded = false;
    put_into_effect(s, e);
    LOG_INFO("experiments_put", "version=%lld sha256=%s", (long long)e->version, e->sha256);
    return EXPERIMENT_PUT;
}

enum experiment_put experiment_store_put(struct experiment_store *s, const char *text, size_t len,
                                         const char *if_match,
                                         const struct experiment_checks *checks, struct err *err)
{
    enum experiment_put result = EXPERIMENT_EARLY;

    if (s->state_path == NULL) {
        err_set(err, ERR_CONFLICT, "state.dir is not set, so the change could not be kept");
        return EXPERIMENT_NO_STATE;
    }
    if (if_match == NULL) {
        err_set(err, ERR_USAGE, "the header If-Match must name the version that is replaced");
        return EXPERIMENT_NO_MATCH;
    }
    pthread_mutex_lock(&s->change);
    if (s->loaded)
        result = put(s, text, len, if_match, checks, err);
    else
        err_set(err, ERR_UNAVAILABLE, "the experiments have not been read yet");
    pthread_mutex_unlock(&s->change);
    return result;
}

/* ---- counts ---------------------------------------------------------------------- */

void experiment_count_served(struct experiment_store *s, const struct experiments *e,
                             const struct assignment *a, const char *serve_id,
                             const char *request_id)
{
    counts_served(s->counts, e, a, serve_id, request_id);
}

bool experiment_count_event(struct experiment_store *s, enum experiment_event kind, const char *id,
                            size_t len)
{
    return counts_event(s->counts, kind, id, len);
}

void experiment_report(struct experiment_store *s, struct buf *json)
{
    const struct experiments *e = experiment_store_acquire(s);

    counts_report(e, json);
    experiments_release(e);
}

static void put_samples(struct experiment_store *s, int which, struct buf *out)
{
    const struct experiments *e = experiment_store_acquire(s);

    counts_samples(e, which, out);
    experiments_release(e);
}

static void put_served(struct buf *out, void *arg)
{
    put_samples(arg, 0, out);
}

static void put_exposed(struct buf *out, void *arg)
{
    put_samples(arg, 1, out);
}

static void put_clicked(struct buf *out, void *arg)
{
    put_samples(arg, 2, out);
}

static void put_info(struct buf *out, void *arg)
{
    const struct experiments *e = experiment_store_acquire(arg);

    buf_printf(out, "recalld_experiments_info{version=\"%lld\",sha256=\"%s\"} 1\n",
               (long long)e->version, e->sha256);
    experiments_release(e);
}

void experiment_register_metrics(struct experiment_store *s)
{
    metric_family("recalld_experiments_info", "The experiments that are in effect.", put_info, s);
    metric_counter_family("recalld_experiment_served_total",
                          "Answers by layer and arm, without forced ones.", put_served, s);
    metric_counter_family("recalld_experiment_exposed_total",
                          "Exposures of those answers that /events reported.", put_exposed, s);
    metric_counter_family("recalld_experiment_clicked_total",
                          "Clicks on those answers that /events reported.", put_clicked, s);
}
