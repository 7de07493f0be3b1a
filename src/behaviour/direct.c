/* direct.c - behaviour without the stage, for tools: one connection, asked and written by the
 * calling thread. */
#include "format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WRITE_USERS 256     /* in one pipeline */
#define WRITE_ELEMENTS 1000 /* in one command */
#define WRITE_TIMEOUT_NS ((uint64_t)10 * 1000000000)
#define SCORE_TEXT_MAX 32

struct redis_conn *behaviour_connect(const struct config *cfg, struct err *err)
{
    struct redis_conn *c = connection_new(cfg, NULL, err);

    if (c != NULL && redis_conn_ready(c, err) == 0)
        return c;
    redis_conn_free(c);
    return NULL;
}

/* ---- reading ------------------------------------------------------------------- */

struct reading {
    const struct config *cfg;
    struct err *err;
};

static void read_done(const struct redis_command *cmd, const struct redis_result *res)
{
    const struct question *q = cmd->user;
    const struct reading *reading = q->owner;

    if (res->outcome == REDIS_TIMED_OUT)
        err_set(reading->err, ERR_TIMEOUT, "redis %s: no reply in time",
                reading->cfg->redis_address);
    else if (res->outcome == REDIS_FAILED)
        err_set(reading->err, ERR_UNAVAILABLE, "redis %s: %s", reading->cfg->redis_address,
                res->error);
    (void)job_answer(q, res);
}

int behaviour_read_one(const struct config *cfg, struct behaviour_job *job, struct err *err)
{
    struct reading reading = {cfg, err};
    struct question questions[QUESTIONS_PER_JOB];
    struct redis_command cmds[QUESTIONS_PER_JOB];
    struct redis_conn *c = NULL;
    struct format f = {0};

    job_reset(job, BEHAVIOUR_READ);
    if (cfg->redis_address[0] == '\0')
        return 0;
    job->status = BEHAVIOUR_ERROR;
    if (format_init(&f, cfg, err) == 0)
        c = behaviour_connect(cfg, err);
    if (c != NULL) {
        job->status = BEHAVIOUR_READ;
        redis_run(c, cmds, job_ask(&f, job, &reading, false, questions, cmds), read_done);
    }
    redis_conn_free(c);
    format_clear(&f);
    return job->status == BEHAVIOUR_READ ? 0 : -1;
}

/* ---- writing: checks ----------------------------------------------------------- */

/* The user for a message: an id that is not text is not printed. */
static const char *printable(struct str user_id, char out[64])
{
    size_t len = user_id.len < 63 ? user_id.len : 63;

    while (len < user_id.len && len > 0 && (user_id.p[len] & 0xc0) == 0x80)
        len--; /* not through a character */
    if (utf8_valid(user_id.p, len))
        snprintf(out, 64, "%.*s", (int)len, user_id.p);
    else
        snprintf(out, 64, "(an id that is not UTF-8)");
    return out;
}

static int check_history(const struct behaviour_history *h, struct err *err)
{
    char user[64];

    for (size_t i = 0; i < h->n; i++) {
        if (!behaviour_id_valid(h->items[i]))
            return err_set(err, ERR_USAGE, "user %s: item %zu: an id is 1 to 256 bytes of UTF-8",
                           printable(h->user_id, user), i + 1);
        if (i > 0 && h->ts_ms != NULL && h->ts_ms[i] < h->ts_ms[i - 1])
            return err_set(err, ERR_USAGE, "user %s: item %zu: older than the one before it",
                           printable(h->user_id, user), i + 1);
    }
    return 0;
}

/* ---- writing: commands --------------------------------------------------------- */

/* The commands of one pipeline; their words live in the arena. */
struct writing {
    const struct format *format;
    struct arena arena;
    struct redis_command *cmds;
    size_t n, cap;
    struct buf element;
    uint64_t deadline_ns;
    struct err *err;
};

/* Who a command is for, when it fails. */
struct written {
    struct str user_id;
    struct err *err;
};

static void add_command(struct writing *w, const struct str *argv, size_t argc,
                        struct written *user)
{
    if (w->n == w->cap) {
        w->cap = w->cap == 0 ? 1024 : 2 * w->cap;
        w->cmds = xrealloc(w->cmds, w->cap * sizeof *w->cmds);
    }
    w->cmds[w->n++] = (struct redis_command){
        .argv = argv, .argc = argc, .deadline_ns = w->deadline_ns, .user = user};
}

static struct str *words_alloc(struct writing *w, size_t n)
{
    return arena_alloc(&w->arena, n * sizeof(struct str));
}

static void add_words(struct writing *w, struct written *user, const char *verb,
                      const struct str *key)
{
    struct str *argv = words_alloc(w, 2);

    argv[0] = (struct str){verb, strlen(verb)};
    if (key != NULL)
        argv[1] = *key;
    add_command(w, argv, key != NULL ? 2 : 1, user);
}

static int64_t time_of(const struct behaviour_history *h, size_t i)
{
    return h->ts_ms != NULL ? h->ts_ms[i] : (int64_t)i;
}

static struct str element_of(struct writing *w, const struct behaviour_history *h, size_t i)
{
    char *text;

    w->element.len = 0;
    behaviour_element_encode(w->format->element, h->items[i], time_of(h, i), &w->element);
    text = arena_alloc(&w->arena, w->element.len);
    memcpy(text, w->element.p, w->element.len);
    return (struct str){text, w->element.len};
}

/* A time as a score: later ones are larger, equal ones by the least step a double can make, because
 * Redis would order equal scores by their bytes. */
static struct str score_of(struct writing *w, double *last, size_t i, int64_t ts)
{
    bool ages = w->format->order == BEHAVIOUR_NEWEST_FIRST;
    char *text = arena_alloc(&w->arena, SCORE_TEXT_MAX);
    double t = (double)ts;

    if (i > 0 && t <= *last)
        t = nextafter(*last, INFINITY);
    *last = t;
    return (struct str){text, (size_t)snprintf(text, SCORE_TEXT_MAX, "%.17g", ages ? -t : t)};
}

static void add_elements(struct writing *w, const struct behaviour_history *h, struct str key,
                         struct written *user)
{
    static const struct str push[] = {
        [BEHAVIOUR_NEWEST_FIRST] = {"LPUSH", 5},
        [BEHAVIOUR_OLDEST_FIRST] = {"RPUSH", 5},
    };
    bool zset = w->format->type == BEHAVIOUR_ZSET;
    double last = 0;

    for (size_t from = 0, n; from < h->n; from += n) {
        struct str *argv;
        size_t argc = 0;

        n = h->n - from < WRITE_ELEMENTS ? h->n - from : WRITE_ELEMENTS;
        argv = words_alloc(w, 2 + (zset ? 2 : 1) * n);
        argv[argc++] = zset ? (struct str){"ZADD", 4} : push[w->format->order];
        argv[argc++] = key;
        for (size_t i = from; i < from + n; i++) {
            if (zset)
                argv[argc++] = score_of(w, &last, i, time_of(h, i));
            argv[argc++] = element_of(w, h, i);
        }
        add_command(w, argv, argc, user);
    }
}

static void add_user(struct writing *w, const struct behaviour_history *h)
{
    struct str key = format_key(&w->format->history, h->user_id, &w->arena);
    struct written *user = arena_alloc(&w->arena, sizeof *user);

    *user = (struct written){h->user_id, w->err};
    add_words(w, user, "MULTI", NULL);
    add_words(w, user, "DEL", &key);
    add_elements(w, h, key, user);
    add_words(w, user, "EXEC", NULL);
}

/* ---- writing: the pipeline ----------------------------------------------------- */

static void write_done(const struct redis_command *cmd, const struct redis_result *res)
{
    const struct written *w = cmd->user;
    char user[64];

    if (res->outcome == REDIS_TIMED_OUT)
        err_set(w->err, ERR_TIMEOUT, "redis: user %s: no reply in time",
                printable(w->user_id, user));
    else if (res->outcome == REDIS_FAILED)
        err_set(w->err, ERR_UNAVAILABLE, "redis: user %s: %s", printable(w->user_id, user),
                res->error);
}

int behaviour_write(struct redis_conn *c, const struct config *cfg,
                    const struct behaviour_history *users, size_t n, struct err *err)
{
    struct writing w = {.arena = ARENA_INIT, .element = BUF_INIT, .err = err};
    struct format f;
    int result = -1;

    if (format_init(&f, cfg, err) == -1)
        goto out;
    w.format = &f;
    for (size_t i = 0; i < n; i++)
        if (check_history(&users[i], err) == -1)
            goto out;
    for (size_t from = 0; from < n && err->code == ERR_NONE; from += WRITE_USERS) {
        arena_reset(&w.arena);
        w.n = 0;
        w.deadline_ns = clock_ns() + WRITE_TIMEOUT_NS;
        for (size_t i = from; i < n && i < from + WRITE_USERS; i++)
            add_user(&w, &users[i]);
        redis_run(c, w.cmds, w.n, write_done);
    }
    result = err->code == ERR_NONE ? 0 : -1;
out:
    format_clear(&f);
    free(w.cmds);
    arena_clear(&w.arena);
    buf_clear(&w.element);
    return result;
}
