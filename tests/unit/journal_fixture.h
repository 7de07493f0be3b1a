/* journal_fixture.h - a journal in a folder of its own for each test. */
#ifndef JOURNAL_FIXTURE_H
#define JOURNAL_FIXTURE_H

#include "../../src/journal/journal_impl.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

struct place {
    char root[64], dir[96];
    struct config *cfg;
    struct journal *journal;
};

static inline void set(struct place *p, const char *key_value)
{
    struct err err = ERR_INIT;
    char *old = xstrdup(p->cfg->journal_dir);
    char *dir = xasprintf("--journal.dir=%s", old);
    const char *args[] = {dir, "--journal.fsync_ms=10", "--journal.compress=none", key_value};

    config_free(p->cfg);
    p->cfg = config_parse("test", "", 0, NULL, args, key_value == NULL ? 3 : 4, &err);
    if (p->cfg == NULL)
        fail_msg("%s", err.text);
    free(dir);
    free(old);
}

static inline int begin(void **state)
{
    struct place *p = xcalloc(1, sizeof *p);
    struct err err = ERR_INIT;

    strcpy(p->root, "/tmp/test_journal.XXXXXX");
    if (mkdtemp(p->root) == NULL)
        return -1;
    snprintf(p->dir, sizeof p->dir, "%s/journal", p->root);
    p->cfg = config_parse("test", "", 0, NULL, NULL, 0, &err);
    free(p->cfg->journal_dir);
    p->cfg->journal_dir = xstrdup(p->dir);
    set(p, NULL);
    *state = p;
    return 0;
}

static inline int finish(void **state)
{
    struct place *p = *state;
    char *command = xasprintf("rm -rf %s", p->root);
    int result;

    journal_close(p->journal);
    config_free(p->cfg);
    result = system(command);
    free(command);
    free(p);
    return result;
}

static inline void open_it(struct place *p)
{
    struct err err = ERR_INIT;

    if (journal_open(&p->journal, p->cfg, &err) == -1)
        fail_msg("%s", err.text);
}

static inline void close_it(struct place *p)
{
    journal_close(p->journal);
    p->journal = NULL;
}

static inline void nap(void)
{
    nanosleep(&(struct timespec){0, 2000000}, NULL);
}

/* Waits until the condition holds; half a minute is for ever. */
#define WAIT_FOR(condition)                                    \
    do {                                                       \
        uint64_t until = clock_ns() + 30000000000ull;          \
        while (!(condition)) {                                 \
            if (clock_ns() > until)                            \
                fail_msg("waited in vain for %s", #condition); \
            nap();                                             \
        }                                                      \
    } while (0)

static inline size_t files(const char *dir, const char *with)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    size_t n = 0;

    while (d != NULL && (e = readdir(d)) != NULL)
        n += strstr(e->d_name, with) != NULL;
    if (d != NULL)
        closedir(d);
    return n;
}

static inline bool push_number(struct journal_ring *r, int n)
{
    char line[64];
    int len = snprintf(line, sizeof line, "{\"n\":%d}\n", n);

    return journal_push(r, line, (size_t)len);
}

#define IN_PLACE(test) cmocka_unit_test_setup_teardown(test, begin, finish)

#endif
