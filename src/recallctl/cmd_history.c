/* cmd_history.c - recallctl history load | show: behaviour into Redis, and out again. The example
 * of a producer: what it writes is what the daemon, with the same behaviour.* keys, reads. */
#include "recallctl.h"
#include "recalld/behaviour.h"
#include "recalld/bundle.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USERS_A_CALL 256
#define ID_MAX ITEMS_ID_MAX /* bytes, of users too */

struct options {
    const char *config;
};

static const struct opt opts[] = {
    {"config", OPT_TEXT, offsetof(struct options, config), 0, 0, "FILE", "recalld.ini"},
};

/* Calls `act` with the configuration and the command's argument. */
static int with_redis(const struct args *a,
                      int (*act)(const struct config *cfg, const char *what, struct err *err),
                      struct err *err)
{
    const struct options *o = a->options;
    struct config *cfg = args_config(a, o->config, err);
    int result = -1;

    if (cfg == NULL)
        return -1;
    if (cfg->redis_address[0] == '\0')
        err_set(err, ERR_USAGE, "--redis.address is missing");
    else
        result = act(cfg, a->positional, err);
    config_free(cfg);
    return result;
}

/* ---- load ------------------------------------------------------------------------ */

struct loading {
    const struct config *cfg;
    struct redis_conn *conn;
    const char *name; /* of the file, for messages */
    size_t line;
    struct arena arena; /* of the users that wait */
    struct behaviour_history users[USERS_A_CALL];
    size_t n_users;
    uint64_t users_written, items_written;
};

static int flush_users(struct loading *l, struct err *err)
{
    if (behaviour_write(l->conn, l->cfg, l->users, l->n_users, err) == -1)
        return err_prefix(err, "%s, up to line %zu: ", l->name, l->line);
    for (size_t i = 0; i < l->n_users; i++)
        l->items_written += l->users[i].n;
    l->users_written += l->n_users;
    l->n_users = 0;
    arena_reset(&l->arena);
    return 0;
}

static int take_id(struct loading *l, const char *what, const char *id, size_t len, struct str *out,
                   struct err *err)
{
    if (len > ID_MAX || !utf8_valid(id, len))
        return err_set(err, ERR_FORMAT, "%s: line %zu: %s: an id is at most %d bytes of UTF-8",
                       l->name, l->line, what, ID_MAX);
    *out = (struct str){arena_strndup(&l->arena, id, len), len};
    return 0;
}

static bool is_blank(const char *line, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (line[i] != ' ' && line[i] != '\t')
            return false;
    return true;
}

static int take_line(struct loading *l, const char *line, size_t len, struct err *err)
{
    struct behaviour_history *u = &l->users[l->n_users];
    struct history_line h;
    struct str *items;
    const char *item;
    size_t item_len;

    if (is_blank(line, len))
        return 0;
    if (!history_line_start(&h, line, len))
        return err_set(err, ERR_FORMAT, "%s: line %zu: begins with a separator, not with a user",
                       l->name, l->line);
    *u = (struct behaviour_history){.n = 0};
    items = arena_alloc(&l->arena, (len / 2 + 1) * sizeof *items);
    if (take_id(l, "user", h.user, h.user_len, &u->user_id, err) == -1)
        return -1;
    while (history_line_next(&h, &item, &item_len)) {
        char what[32];

        snprintf(what, sizeof what, "item %zu", u->n + 1);
        if (take_id(l, what, item, item_len, &items[u->n++], err) == -1)
            return -1;
    }
    if (u->n == 0)
        return err_set(err, ERR_FORMAT, "%s: line %zu: a user without items", l->name, l->line);
    u->items = items;
    return ++l->n_users == USERS_A_CALL ? flush_users(l, err) : 0;
}

static int load_lines(struct loading *l, FILE *file, struct err *err)
{
    size_t cap = 0;
    char *line = NULL;
    ssize_t len;
    int result = 0;

    while (result == 0 && (len = getline(&line, &cap, file)) != -1) {
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        l->line++;
        result = take_line(l, line, (size_t)len, err);
        if (l->n_users == 0)
            progress_show(NULL, "users written", l->users_written, 0);
    }
    if (result == 0 && ferror(file))
        result = err_set(err, ERR_IO, "%s: cannot read: %s", l->name, strerror(errno));
    if (result == 0)
        result = flush_users(l, err);
    free(line);
    return result;
}

static void report(const struct loading *l, uint64_t begin_ns)
{
    double seconds = (double)(clock_ns() - begin_ns) / 1e9;

    progress_wipe();
    printf("%llu users, %llu items written in %.2f s (%.0f users a second)\n",
           (unsigned long long)l->users_written, (unsigned long long)l->items_written, seconds,
           (double)l->users_written / (seconds > 0 ? seconds : 1));
}

static int load_file(const struct config *cfg, const char *path, struct err *err)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "re");
    struct loading *l = xcalloc(1, sizeof *l);
    uint64_t begin = clock_ns();
    int result = -1;

    l->cfg = cfg;
    l->name = standard ? "stdin" : path;
    if (file == NULL) {
        err_set(err, ERR_IO, "%s: cannot open: %s", path, strerror(errno));
        goto out;
    }
    l->conn = behaviour_connect(cfg, err);
    if (l->conn == NULL)
        goto out;
    result = load_lines(l, file, err);
    if (result == 0)
        report(l, begin);
out:
    redis_conn_free(l->conn);
    arena_clear(&l->arena);
    free(l);
    if (file != NULL && !standard)
        fclose(file);
    return result;
}

static int load_run(const struct args *a, struct err *err)
{
    return with_redis(a, load_file, err);
}

const struct command cmd_history_load = {
    .name = "history load",
    .positional = "FILE",
    .about =
        "write users' behaviour to Redis; lines `user item item ...`, oldest first; - is stdin",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .dotted = DOTTED_CONFIG,
    .options_size = sizeof(struct options),
    .run = load_run,
};

/* ---- show ------------------------------------------------------------------------ */

static int show_user(const struct config *cfg, const char *user, struct err *err)
{
    struct arena arena = ARENA_INIT;
    struct behaviour_job job = {
        .user_id = {user, strlen(user)}, .deadline_ns = UINT64_MAX, .arena = &arena};
    int result = behaviour_read_one(cfg, &job, err);

    for (size_t i = 0; result == 0 && i < job.n_items; i++)
        printf("%.*s\n", (int)job.items[i].len, job.items[i].p);
    if (result == 0 && job.malformed > 0)
        fprintf(stderr, "%zu elements are not of the form %s\n", job.malformed,
                cfg->behaviour_element);
    arena_clear(&arena);
    return result;
}

static int show_run(const struct args *a, struct err *err)
{
    return with_redis(a, show_user, err);
}

const struct command cmd_history_show = {
    .name = "history show",
    .positional = "USER",
    .about = "a user's items as the daemon reads them, oldest first",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .dotted = DOTTED_CONFIG,
    .options_size = sizeof(struct options),
    .run = show_run,
};
