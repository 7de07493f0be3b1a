/* cmd_recall.c - recallctl recall: the daemon's answer without a daemon. */
#include "recallctl.h"
#include "recalld/recall.h"

#include <stdio.h>
#include <string.h>

#define REQUEST_MAX (16 * 1024 * 1024) /* bytes read from stdin */

struct recall_options {
    const char *bundle, *config, *request, *history, *user;
    int n;
    bool explain;
};

#define AT(field) offsetof(struct recall_options, field)

static const struct opt opts[] = {
    {"bundle", OPT_TEXT, AT(bundle), 0, 0, "DIR", "the bundle to answer from"},
    {"request", OPT_TEXT, AT(request), 0, 0, "JSON", "the body of POST /recall; - reads stdin"},
    {"history", OPT_TEXT, AT(history), 0, 0, "A,B,C", "item ids, oldest first"},
    {"user", OPT_TEXT, AT(user), 0, 0, "ID", "whose behaviour to read from redis.address"},
    {"n", OPT_INT, AT(n), 1, 1000000, "N", "how many items"},
    {"explain", OPT_FLAG, AT(explain), 0, 0, NULL, "say where every item comes from"},
    {"config", OPT_TEXT, AT(config), 0, 0, "FILE", "recalld.ini"},
};

static void put_history(struct buf *body, const char *history)
{
    const char *id;
    size_t len;

    buf_puts(body, ",\"history\":[");
    for (bool first = true; next_id(&history, &id, &len); first = false) {
        if (!first)
            buf_putc(body, ',');
        buf_json(body, id, len);
    }
    buf_putc(body, ']');
}

static int check_text(const char *text, const char *name, struct err *err)
{
    return text == NULL || utf8_valid(text, strlen(text))
               ? 0
               : err_set(err, ERR_USAGE, "--%s: must be UTF-8", name);
}

/* {"explain":...,"user_id":...,"history":[...],"n":...} */
static int compose(const struct recall_options *o, struct buf *body, struct err *err)
{
    if (o->history == NULL && o->user == NULL)
        return err_set(err, ERR_USAGE, "--history, --user or --request is missing");
    if (check_text(o->history, "history", err) == -1 || check_text(o->user, "user", err) == -1)
        return -1;
    buf_printf(body, "{\"explain\":%s", o->explain ? "true" : "false");
    if (o->user != NULL) {
        buf_puts(body, ",\"user_id\":");
        buf_json(body, o->user, strlen(o->user));
    }
    if (o->history != NULL)
        put_history(body, o->history);
    if (o->n > 0)
        buf_printf(body, ",\"n\":%d", o->n);
    buf_putc(body, '}');
    return 0;
}

static int read_request(const struct recall_options *o, struct buf *body, struct err *err)
{
    if (o->request == NULL)
        return compose(o, body, err);
    if (o->history != NULL || o->user != NULL || o->n != 0 || o->explain)
        return err_set(err, ERR_USAGE, "--request is the whole request: no other part beside it");
    if (strcmp(o->request, "-") == 0)
        return file_read("/dev/stdin", REQUEST_MAX, body, err);
    buf_puts(body, o->request);
    return 0;
}

static int answer(const struct config *cfg, const char *dir, const struct buf *body,
                  struct err *err)
{
    struct registry *reg = registry_new("", 0);
    struct recall_direct *direct;
    struct recall_reply reply;
    int result = registry_configure(reg, &dir, 1, "", err);

    if (result == 0) {
        direct = recall_direct_new(cfg, reg);
        recall_direct_answer(direct, &(struct str){body->p, body->len}, 1, &reply);
        if (reply.status == 200)
            puts(reply.text.p);
        else
            result =
                err_set(err, reply.status == 400 ? ERR_USAGE : ERR_UNAVAILABLE, "%s", reply.text.p);
        recall_direct_free(direct);
    }
    registry_free(reg);
    return result;
}

static int run(const struct args *a, struct err *err)
{
    const struct recall_options *o = a->options;
    struct buf body = BUF_INIT;
    struct config *cfg;
    int result = -1;

    if (args_need(o->bundle, "bundle", err) == -1)
        return -1;
    cfg = args_config(a, o->config, err);
    if (cfg != NULL && read_request(o, &body, err) == 0) {
        memset(cfg->recall.bundle, 0, sizeof cfg->recall.bundle); /* the one given here answers */
        result = answer(cfg, o->bundle, &body, err);
    }
    buf_clear(&body);
    config_free(cfg);
    return result;
}

const struct command cmd_recall = {
    .name = "recall",
    .about = "answer one request as the daemon would",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .dotted = DOTTED_CONFIG,
    .options_size = sizeof(struct recall_options),
    .run = run,
};
