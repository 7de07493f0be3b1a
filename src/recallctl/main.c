/* main.c - recallctl: bundles built and checked, checkpoints shown, the daemon's answers without a
 * daemon, behaviour written to Redis, a running daemon asked. Each subcommand is a row of the table
 * below and lives in a file of its own.
 *
 * Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 failed, 2 misused; a
 * command may have others (3 of ctr: done, but not to be believed). */
#include "recallctl.h"
#include "recalld/blas.h"
#include "recalld/http.h"

#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {
    &cmd_bundle_build,
    &cmd_bundle_verify,
    &cmd_bundle_show,
    &cmd_ckpt_show,
    &cmd_ckpt_convert,
    &cmd_interests,
    &cmd_recall,
    &cmd_eval,
    &cmd_experiments_check,
    &cmd_experiments_assign,
    &cmd_experiments_simulate,
    &cmd_ctr,
    &cmd_history_load,
    &cmd_history_show,
    &cmd_ready,
};

/* Every command whose name begins with `group` ("" = all). */
static bool list_commands(const char *group, FILE *out)
{
    bool any = false;

    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strncmp(commands[i]->name, group, strlen(group)) != 0)
            continue;
        fprintf(out, "  %-15s %s\n", commands[i]->name, commands[i]->about);
        any = true;
    }
    return any;
}

static void help(FILE *out)
{
    fputs("usage: recallctl COMMAND [--option VALUE ...]\n\n", out);
    list_commands("", out);
    fputs("\nrecallctl help COMMAND says more.\n", out);
}

/* The words of a command's name at the start of argv, or 0. */
static int matches(const char *name, char *const *argv)
{
    const char *blank = strchr(name, ' ');
    size_t first = blank == NULL ? strlen(name) : (size_t)(blank - name);

    if (argv[0] == NULL || strlen(argv[0]) != first || memcmp(argv[0], name, first) != 0)
        return 0;
    if (blank == NULL)
        return 1;
    return argv[1] != NULL && strcmp(argv[1], blank + 1) == 0 ? 2 : 0;
}

static const struct command *find(char *const *argv, int *words)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        *words = matches(commands[i]->name, argv);
        if (*words > 0)
            return commands[i];
    }
    return NULL;
}

static bool is_help(const char *word)
{
    return word != NULL &&
           (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0);
}

/* `help`, `help COMMAND`, `bundle help`, or nothing that is known. */
static int no_command(char *const *argv)
{
    const struct command *cmd;
    int words;

    if (argv[0] != NULL && is_help(argv[0]) && argv[1] != NULL) {
        cmd = find(argv + 1, &words);
        if (cmd != NULL)
            args_help(cmd, stdout);
        else if (!list_commands(argv[1], stdout))
            return no_command(argv + 1);
        return 0;
    }
    if (argv[0] == NULL || is_help(argv[0])) {
        help(argv[0] == NULL ? stderr : stdout);
        return argv[0] == NULL ? 2 : 0;
    }
    if (is_help(argv[1]) && list_commands(argv[0], stdout))
        return 0;
    fprintf(stderr, "recallctl: no command \"%s\"; these are known:\n", argv[0]);
    if (!list_commands(argv[0], stderr))
        list_commands("", stderr);
    return 2;
}

/* It quotes what files hold: what would move a terminal's cursor is shown as '?'. */
static void print_error(struct err *err)
{
    for (char *p = err->text; *p != '\0'; p++)
        if ((unsigned char)*p < ' ' || *p == 0x7f)
            *p = '?';
        else if ((unsigned char)p[0] == 0xc2 && (unsigned char)p[1] < 0xa0)
            p[0] = p[1] = '?'; /* U+0080 to U+009F */
    fprintf(stderr, "recallctl: %s\n", err->text);
}

static int run(const struct command *cmd, char *const *argv)
{
    struct err err = ERR_INIT;
    struct args a;
    int result = args_parse(&a, cmd, argv, &err);

    if (result == 0)
        result = cmd->run(&a, &err);
    progress_wipe();
    args_clear(&a);
    if (result >= 0 && fflush(stdout) != 0)
        result = err_set(&err, ERR_IO, "cannot write the result");
    if (result >= 0)
        return result;
    print_error(&err);
    if (err.code == ERR_USAGE)
        fprintf(stderr, "recallctl help %s says what it takes\n", cmd->name);
    return err.code == ERR_USAGE ? 2 : 1;
}

int main(int argc, char **argv)
{
    const struct command *cmd;
    int words;

    (void)argc;
    log_setup(LOG_LEVEL_WARN, false);
    blas_single_thread();
    if (argv[1] != NULL && strcmp(argv[1], "--version") == 0) {
        puts(recalld_version);
        return 0;
    }
    cmd = find(argv + 1, &words);
    if (cmd == NULL)
        return no_command(argv + 1);
    for (char **arg = argv + 1 + words; *arg != NULL; arg++) {
        if (strcmp(*arg, "--help") == 0 || strcmp(*arg, "-h") == 0) {
            args_help(cmd, stdout);
            return 0;
        }
    }
    return run(cmd, argv + 1 + words);
}
