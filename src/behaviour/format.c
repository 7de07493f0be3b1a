/* format.c - from configuration to the commands that ask for a user's behaviour, and from their
 * replies to items, oldest first, in the job's arena. */
#include "format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PLACE "{user_id}"
#define PASSWORD_BYTES_MAX 4096

/* ---- configuration ------------------------------------------------------------- */

static int template_init(struct key_template *t, const char *key, const char *text, struct err *err)
{
    const char *place = strstr(text, PLACE);

    if (place == NULL || strstr(place + 1, PLACE) != NULL)
        return err_set(err, ERR_USAGE, "%s: must contain " PLACE " exactly once, not \"%s\"", key,
                       text);
    t->text = xstrdup(text);
    t->before = (struct str){t->text, (size_t)(place - text)};
    t->after.p = t->text + t->before.len + strlen(PLACE);
    t->after.len = strlen(t->after.p);
    return 0;
}

int format_init(struct format *f, const struct config *cfg, struct err *err)
{
    *f = (struct format){.type = cfg->behaviour_type, .order = cfg->behaviour_order};
    if (f->type == BEHAVIOUR_LIST && f->order == BEHAVIOUR_OLDEST_FIRST) {
        snprintf(f->first, sizeof f->first, "%d", -cfg->behaviour_read);
        snprintf(f->last, sizeof f->last, "-1");
    } else {
        snprintf(f->first, sizeof f->first, "0");
        snprintf(f->last, sizeof f->last, "%d", cfg->behaviour_read - 1);
    }
    f->element = behaviour_element_new(cfg->behaviour_element, err);
    if (f->element == NULL ||
        template_init(&f->history, "behaviour.key", cfg->behaviour_key, err) == -1)
        return -1;
    if (cfg->behaviour_exposed_key[0] == '\0')
        return 0;
    return template_init(&f->exposed, "behaviour.exposed_key", cfg->behaviour_exposed_key, err);
}

void format_clear(struct format *f)
{
    behaviour_element_free(f->element);
    free(f->history.text);
    free(f->exposed.text);
    *f = (struct format){0};
}

/* The file's first line. */
static int read_password(const char *path, struct buf *out, struct err *err)
{
    size_t len;

    if (file_read(path, PASSWORD_BYTES_MAX, out, err) == -1)
        return err_prefix(err, "redis.password_file: ");
    len = strcspn(buf_cstr(out), "\r\n");
    if (len == 0)
        return err_set(err, ERR_USAGE, "redis.password_file: %s: the first line is empty", path);
    out->len = len;
    return 0;
}

struct redis_conn *connection_new(const struct config *cfg, struct breaker *b, struct err *err)
{
    struct buf password = BUF_INIT;
    struct redis_conn *c = NULL;

    if (cfg->redis_password_file[0] != '\0') {
        if (read_password(cfg->redis_password_file, &password, err) == -1)
            goto out;
    } else if (cfg->redis_user[0] != '\0') {
        err_set(err, ERR_USAGE, "redis.user: needs redis.password_file");
        goto out;
    }
    c = redis_conn_new(&(struct redis_options){.address = cfg->redis_address,
                                               .user = cfg->redis_user,
                                               .password = buf_cstr(&password),
                                               .db = cfg->redis_db,
                                               .connect_ms = cfg->redis_connect_ms,
                                               .timeout_ms = cfg->redis_timeout_ms},
                       b, err);
out:
    buf_clear(&password);
    return c;
}

/* ---- asking -------------------------------------------------------------------- */

struct str format_key(const struct key_template *t, struct str user_id, struct arena *arena)
{
    struct str key = {NULL, t->before.len + user_id.len + t->after.len};
    char *p = arena_alloc(arena, key.len);

    memcpy(p, t->before.p, t->before.len);
    memcpy(p + t->before.len, user_id.p, user_id.len);
    memcpy(p + t->before.len + user_id.len, t->after.p, t->after.len);
    key.p = p;
    return key;
}

static struct str str_of(const char *s)
{
    return (struct str){s, strlen(s)};
}

static const char *verb(const struct format *f)
{
    if (f->type == BEHAVIOUR_LIST)
        return "LRANGE";
    return f->order == BEHAVIOUR_NEWEST_FIRST ? "ZRANGE" : "ZREVRANGE";
}

static void ask(const struct format *f, struct behaviour_job *job, struct question *q,
                struct redis_command *cmd)
{
    const struct key_template *t = q->exposed ? &f->exposed : &f->history;

    q->argv[0] = str_of(verb(f));
    q->argv[1] = format_key(t, job->user_id, job->arena);
    q->argv[2] = str_of(f->first);
    q->argv[3] = str_of(f->last);
    q->format = f;
    q->job = job;
    *cmd = (struct redis_command){.argv = q->argv,
                                  .argc = ARRAY_LEN(q->argv),
                                  .deadline_ns = job->deadline_ns,
                                  .user = q,
                                  .with_previous = q->exposed,
                                  .doubtful = q->hung};
    job->awaiting++;
}

void job_reset(struct behaviour_job *job, enum behaviour_status status)
{
    job->status = status;
    job->items = job->exposed = NULL;
    job->n_items = job->n_exposed = job->malformed = 0;
    job->awaiting = 0;
}

size_t job_ask(const struct format *f, struct behaviour_job *job, void *owner, bool hung,
               struct question *q, struct redis_command *cmds)
{
    size_t n = f->exposed.text == NULL ? 1 : 2;

    for (size_t i = 0; i < n; i++) {
        q[i] = (struct question){.exposed = i == 1, .hung = hung, .owner = owner};
        ask(f, job, &q[i], &cmds[i]);
    }
    return n;
}

/* ---- understanding ------------------------------------------------------------- */

/* Moves the ids from the reply's memory into one block of the arena. */
static void keep(struct str *ids, size_t n, struct arena *arena)
{
    size_t bytes = 0;
    char *p;

    for (size_t i = 0; i < n; i++)
        bytes += ids[i].len;
    p = arena_alloc(arena, bytes);
    for (size_t i = 0; i < n; i++) {
        memcpy(p, ids[i].p, ids[i].len);
        ids[i].p = p;
        p += ids[i].len;
    }
}

/* Returns how many ids were found among the reply's elements; *ids holds them, oldest first. */
static size_t decode(const struct format *f, const struct redis_result *res, struct arena *arena,
                     struct str **ids)
{
    bool oldest_first = f->type == BEHAVIOUR_LIST && f->order == BEHAVIOUR_OLDEST_FIRST;
    size_t n = 0;

    *ids = arena_alloc(arena, res->n * sizeof **ids);
    for (size_t i = 0; i < res->n; i++) {
        size_t from = oldest_first ? i : res->n - 1 - i;

        if (behaviour_element_decode(f->element, res->strings[from], arena, &(*ids)[n]))
            n++;
    }
    keep(*ids, n, arena);
    return n;
}

bool job_answer(const struct question *q, const struct redis_result *res)
{
    static const enum behaviour_status status_of[] = {
        [REDIS_REPLIED] = BEHAVIOUR_READ,
        [REDIS_TIMED_OUT] = BEHAVIOUR_TIMEOUT,
        [REDIS_FAILED] = BEHAVIOUR_ERROR,
    };
    struct behaviour_job *job = q->job;
    struct str *ids;
    size_t n;

    if (res->outcome == REDIS_REPLIED && res->n > 0) {
        n = decode(q->format, res, job->arena, &ids);
        job->malformed += res->n - n;
        *(q->exposed ? &job->exposed : &job->items) = ids;
        *(q->exposed ? &job->n_exposed : &job->n_items) = n;
    }
    if (status_of[res->outcome] > job->status) /* the worse of two */
        job->status = status_of[res->outcome];
    return --job->awaiting == 0;
}
