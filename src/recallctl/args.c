/* args.c - the command line of a subcommand: options from its table, dotted options, one argument;
 * and the progress line. */
#include "recallctl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- options --------------------------------------------------------------------- */

static const struct opt *find_opt(const struct command *cmd, const char *name, size_t len)
{
    for (size_t i = 0; i < cmd->n_opts; i++)
        if (strlen(cmd->opts[i].name) == len && memcmp(cmd->opts[i].name, name, len) == 0)
            return &cmd->opts[i];
    return NULL;
}

static int set_opt(void *options, const struct opt *o, const char *text, struct err *err)
{
    void *field = (char *)options + o->offset;
    struct opt_texts *texts = field;
    int64_t whole;
    double real;

    switch (o->type) {
    case OPT_TEXT:
        *(const char **)field = text;
        return 0;
    case OPT_TEXTS:
        if (texts->n == OPT_TEXTS_MAX)
            return err_set(err, ERR_USAGE, "--%s: at most %d times", o->name, OPT_TEXTS_MAX);
        texts->at[texts->n++] = text;
        return 0;
    case OPT_FLAG:
        *(bool *)field = true;
        return 0;
    case OPT_INT:
        if (!parse_i64(text, strlen(text), &whole) || (double)whole < o->min ||
            (double)whole > o->max)
            return err_set(err, ERR_USAGE, "--%s: must be a whole number from %.0f to %.0f",
                           o->name, o->min, o->max);
        *(int *)field = (int)whole;
        return 0;
    case OPT_REAL:
        if (!parse_f64(text, strlen(text), &real) || real < o->min || real > o->max)
            return err_set(err, ERR_USAGE, "--%s: must be a number from %g to %g", o->name, o->min,
                           o->max);
        *(double *)field = real;
        return 0;
    }
    return -1;
}

/* "--model.variant=x" for a command that takes model options, "--redis.address=x" for one that
 * takes the configuration. */
static bool takes_dotted(const struct command *cmd, const char *name, size_t len)
{
    if (cmd->dotted == DOTTED_MODEL)
        return len > 6 && memcmp(name, "model.", 6) == 0;
    return cmd->dotted == DOTTED_CONFIG && memchr(name, '.', len) != NULL;
}

static void add_dotted(struct args *a, const char *name, size_t len, const char *value)
{
    a->dotted = xrealloc(a->dotted, (a->n_dotted + 1) * sizeof *a->dotted);
    a->dotted[a->n_dotted++] = (struct pair){xstrndup(name, len), value};
}

/* One option at *argv, without its dashes; returns how many words it took, or -1. */
static int take_option(struct args *a, const struct command *cmd, const char *name,
                       const char *next, struct err *err)
{
    size_t len = strcspn(name, "=");
    const char *value = name[len] == '=' ? name + len + 1 : NULL;
    const struct opt *o = find_opt(cmd, name, len);
    bool flag = o != NULL && o->type == OPT_FLAG;
    int words = value == NULL && !flag ? 2 : 1;

    if (o == NULL && !takes_dotted(cmd, name, len))
        return err_set(err, ERR_USAGE, "--%.*s: unknown option", (int)len, name);
    if (flag && value != NULL)
        return err_set(err, ERR_USAGE, "--%s: takes no value", o->name);
    if (words == 2 && next == NULL)
        return err_set(err, ERR_USAGE, "--%.*s: needs a value", (int)len, name);
    if (words == 2)
        value = next;
    if (o == NULL)
        add_dotted(a, name, len, value);
    else if (set_opt(a->options, o, value, err) == -1)
        return -1;
    return words;
}

int args_parse(struct args *a, const struct command *cmd, char *const *argv, struct err *err)
{
    *a = (struct args){.options = xcalloc(1, cmd->options_size + 1)};
    if (cmd->defaults != NULL)
        cmd->defaults(a->options);
    while (*argv != NULL) {
        int words = 1;

        if (strncmp(*argv, "--", 2) == 0 && (*argv)[2] != '\0')
            words = take_option(a, cmd, *argv + 2, argv[1], err);
        else if (cmd->positional != NULL && a->positional == NULL)
            a->positional = *argv;
        else if (cmd->second != NULL && a->second == NULL)
            a->second = *argv;
        else
            words = err_set(err, ERR_USAGE, "\"%s\": one argument too many", *argv);
        if (words == -1)
            return -1;
        argv += words;
    }
    if (cmd->positional != NULL && a->positional == NULL)
        return err_set(err, ERR_USAGE, "%s: %s is missing", cmd->name, cmd->positional);
    if (cmd->second != NULL && a->second == NULL)
        return err_set(err, ERR_USAGE, "%s: %s is missing", cmd->name, cmd->second);
    return 0;
}

void args_clear(struct args *a)
{
    for (size_t i = 0; i < a->n_dotted; i++)
        free((char *)a->dotted[i].key);
    free(a->dotted);
    free(a->options);
}

int args_need(const char *value, const char *name, struct err *err)
{
    return value != NULL ? 0 : err_set(err, ERR_USAGE, "--%s is missing", name);
}

/* A request must not wait for a slow Redis; a tool may. */
#define TOOL_TIMEOUT_MS 5000

static void be_patient(struct config *cfg)
{
    if (cfg->redis_connect_ms < TOOL_TIMEOUT_MS)
        cfg->redis_connect_ms = TOOL_TIMEOUT_MS;
    if (cfg->redis_timeout_ms < TOOL_TIMEOUT_MS)
        cfg->redis_timeout_ms = TOOL_TIMEOUT_MS;
}

struct config *args_config(const struct args *a, const char *file, struct err *err)
{
    char **words = xcalloc(a->n_dotted + 1, sizeof *words);
    struct config *cfg;

    for (size_t i = 0; i < a->n_dotted; i++)
        words[i] = xasprintf("--%s=%s", a->dotted[i].key, a->dotted[i].value);
    cfg = config_load(file, environ, (const char *const *)words, (int)a->n_dotted, err);
    if (cfg != NULL)
        be_patient(cfg);
    for (size_t i = 0; i < a->n_dotted; i++)
        free(words[i]);
    free(words);
    return cfg;
}

void args_help(const struct command *cmd, FILE *out)
{
    fprintf(out, "usage: recallctl %s", cmd->name);
    if (cmd->positional != NULL)
        fprintf(out, " %s", cmd->positional);
    if (cmd->second != NULL)
        fprintf(out, " %s", cmd->second);
    fprintf(out, " [options]\n\n  %s\n\n", cmd->about);
    for (size_t i = 0; i < cmd->n_opts; i++) {
        const struct opt *o = &cmd->opts[i];
        char *left = xasprintf("--%s %s", o->name, o->value == NULL ? "" : o->value);

        fprintf(out, "  %-24s %s\n", left, o->help);
        free(left);
    }
    if (cmd->dotted == DOTTED_MODEL)
        fprintf(out, "  %-24s %s\n", "--model.KEY VALUE",
                "a model option, over what the checkpoint says; variant starts over");
    if (cmd->dotted == DOTTED_CONFIG)
        fprintf(out, "  %-24s %s\n", "--SECTION.KEY VALUE", "as in recalld.ini");
}

bool next_id(const char **rest, const char **id, size_t *len)
{
    *id = *rest;
    *len = strcspn(*id, ",");
    if (**id == '\0')
        return false;
    *rest += *len + ((*id)[*len] == ',');
    return true;
}

/* ---- progress -------------------------------------------------------------------- */

#define TERMINAL_NS 100000000u /* between two rewritings of the line */
#define LINES_NS 2000000000u   /* between two lines in a log */

static bool line_shown;

void progress_wipe(void)
{
    if (line_shown)
        fputs("\r\033[K", stderr);
    line_shown = false;
}

/* What is quick says nothing: the first line comes after one interval. */
void progress_show(void *arg, const char *step, size_t done, size_t total)
{
    static uint64_t next_ns;
    bool terminal = isatty(STDERR_FILENO) == 1;
    uint64_t now = clock_ns(), interval = terminal ? TERMINAL_NS : LINES_NS;
    char far[32];

    (void)arg;
    if (next_ns == 0)
        next_ns = now + interval;
    if (now < next_ns)
        return;
    next_ns = now + interval;
    if (total > 0)
        snprintf(far, sizeof far, "%.0f%%", (double)done / (double)total * 100);
    else
        snprintf(far, sizeof far, "%zu", done);
    fprintf(stderr, terminal ? "\r\033[K%s: %s" : "%s: %s\n", step, far);
    line_shown = terminal;
}
