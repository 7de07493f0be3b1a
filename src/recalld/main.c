/* main.c - the command line of the daemon. Everything that is not one of the few words below is a
 * configuration key. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app.h"
#include "recalld/http.h"

#define EXIT_USAGE 2 /* command line or configuration: trying again will not help */

static const char help[] =
    "recalld answers POST /recall: which items should the ranker look at for this user?\n"
    "\n"
    "  recalld [--config=FILE] [--section.key=value ...]\n"
    "\n"
    "  --config=FILE         read this file (conf/recalld.ini shows every key)\n"
    "  --section.key=value   set a key, stronger than the file and the environment\n"
    "                        (there the same key is RECALLD_SECTION_KEY)\n"
    "  --check               verify configuration and bundles, then end\n"
    "  --print-config        print every key with its meaning and default, then end\n"
    "  --version, --help\n"
    "\n"
    "SIGTERM and SIGINT stop without losing a request, SIGHUP reads the configuration again.\n";

enum task { TASK_RUN, TASK_CHECK, TASK_PRINT, TASK_VERSION, TASK_HELP };

struct command {
    enum task task;
    struct sources from;
};

/* Keeps what is for config/ in place, at the front of argv. */
static void read_command(struct command *c, int argc, char **argv, char **env)
{
    int kept = 0;

    *c = (struct command){.task = TASK_RUN, .from = {.env = env}};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--check") == 0)
            c->task = TASK_CHECK;
        else if (strcmp(argv[i], "--print-config") == 0)
            c->task = TASK_PRINT;
        else if (strcmp(argv[i], "--version") == 0)
            c->task = TASK_VERSION;
        else if (strcmp(argv[i], "--help") == 0)
            c->task = TASK_HELP;
        else if (strncmp(argv[i], "--config=", 9) == 0)
            c->from.path = argv[i] + 9;
        else
            argv[kept++] = argv[i];
    }
    c->from.args = (const char *const *)argv;
    c->from.n_args = kept;
}

static int print_config(void)
{
    struct buf text = BUF_INIT;

    config_print(&text);
    fwrite(text.p, 1, text.len, stdout);
    buf_clear(&text);
    return fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* Every thread inherits the mask, so signals come to the main thread alone, when it asks for them.
 */
static void block_signals(void)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static int run(const struct command *c)
{
    struct err err = ERR_INIT;
    struct config *cfg = sources_load(&c->from, &err);

    if (cfg == NULL) {
        fprintf(stderr, "recalld: %s\n", err.text);
        return EXIT_USAGE;
    }
    log_setup(cfg->log_level, cfg->log_json);
    if (c->task == TASK_RUN)
        return app_run(&c->from, cfg);
    if (app_check(cfg, &err) == -1)
        fprintf(stderr, "recalld: %s\n", err.text);
    config_free(cfg);
    return err.code == ERR_NONE ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    struct command c;

    read_command(&c, argc, argv, environ);
    switch (c.task) {
    case TASK_HELP:
        return fputs(help, stdout) == EOF;
    case TASK_VERSION:
        return printf("recalld %s\n", recalld_version) < 0;
    case TASK_PRINT:
        return print_config();
    default:
        block_signals();
        return run(&c);
    }
}
