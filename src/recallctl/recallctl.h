/* recallctl.h - what the subcommands share: rows of the command table, options, progress. */
#ifndef RECALLCTL_H
#define RECALLCTL_H

#include <stdio.h>

#include "recalld/base.h"
#include "recalld/config.h"

/* ---- commands -------------------------------------------------------------------- */

enum opt_type { OPT_TEXT, OPT_TEXTS, OPT_INT, OPT_REAL, OPT_FLAG };

/* An option that may be given several times. */
#define OPT_TEXTS_MAX 32
struct opt_texts {
    const char *at[OPT_TEXTS_MAX];
    size_t n;
};

/* --name VALUE or --name=VALUE; a flag has no value. */
struct opt {
    const char *name;
    enum opt_type type;
    size_t offset;   /* of a const char *, struct opt_texts, int, double or bool in the options */
    double min, max; /* numbers only */
    const char *value, *help;
};

/* Options with a dot are not listed one by one: they are keys of another table. */
enum dotted { DOTTED_NONE, DOTTED_MODEL, DOTTED_CONFIG };

struct pair {
    const char *key, *value; /* "redis.address", "127.0.0.1:6379" */
};

struct args {
    void *options;                   /* the command's struct, filled */
    const char *positional, *second; /* NULL when the command has none */
    struct pair *dotted;
    size_t n_dotted;
};

struct command {
    const char *name;                /* "bundle build" */
    const char *positional, *second; /* "FILE", "OUT", required; or NULL */
    const char *about;
    const struct opt *opts;
    size_t n_opts;
    enum dotted dotted;
    size_t options_size;
    void (*defaults)(void *options);                   /* NULL = all zero */
    int (*run)(const struct args *a, struct err *err); /* 0, an exit status, or -1 with *err set */
};

extern const struct command cmd_bundle_build, cmd_bundle_verify, cmd_bundle_show, cmd_interests,
    cmd_recall, cmd_eval, cmd_history_load, cmd_history_show, cmd_ready, cmd_ckpt_show,
    cmd_ckpt_convert, cmd_experiments_check, cmd_experiments_assign, cmd_experiments_simulate,
    cmd_ctr;

/* Fills *a (freed with args_clear). ERR_USAGE names the option. */
int args_parse(struct args *a, const struct command *cmd, char *const *argv, struct err *err)
    WARN_UNUSED;
void args_clear(struct args *a);
void args_help(const struct command *cmd, FILE *out);
/* ERR_USAGE when it was not given. */
int args_need(const char *value, const char *name, struct err *err) WARN_UNUSED;
/* The daemon's configuration: `file` (NULL = none), the environment, the dotted options. */
struct config *args_config(const struct args *a, const char *file, struct err *err) WARN_UNUSED;

/* ---- lists of ids on the command line -------------------------------------------- */

/* The next id of "a,b,c"; *rest moves on. False at the end. */
bool next_id(const char **rest, const char **id, size_t *len);

/* ---- progress -------------------------------------------------------------------- */

/* A bundle_progress: one line that is rewritten on a terminal, otherwise a line every two seconds.
 * A total of 0 is unknown: the number done is shown then. */
void progress_show(void *arg, const char *step, size_t done, size_t total);
/* Wipes the line, so that something else may be printed. */
void progress_wipe(void);

#endif
