/* bench_assign.c - what experiments cost a request: five layers assigned, their settings applied,
 * written into the answer, counted; beside the time of reading the clock twice.
 *
 * A figure is the best of several rounds over many users. */
#include "recalld/experiment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USERS = 20000, ROUNDS = 20 };

static const char file[] =
    "{\"version\":1,\"hash\":\"growthbook-v2\",\"allow_forced\":true,\"layers\":["
    "{\"name\":\"model\",\"when\":{\"scene\":[\"home\",\"cart\"]},\"arms\":["
    "{\"name\":\"control\",\"weight\":0.5},"
    "{\"name\":\"mind-v3\",\"weight\":0.5,\"set\":{\"bundle\":\"debian-mind@2\"}}],"
    "\"force\":{\"u1\":\"control\",\"u2\":\"mind-v3\"}},"
    "{\"name\":\"merge\",\"coverage\":0.5,\"arms\":["
    "{\"name\":\"max\",\"weight\":0.34},{\"name\":\"quota\",\"weight\":0.33,\"set\":{\"merge\":"
    "\"quota\"}},{\"name\":\"diverse\",\"weight\":0.33,\"set\":{\"merge\":\"diverse\",\"lambda\":"
    "0.2}}]},"
    "{\"name\":\"effort\",\"when\":{\"context.country\":[\"de\",\"fr\",\"nl\"]},\"arms\":["
    "{\"name\":\"one\",\"weight\":0.5},{\"name\":\"two\",\"weight\":0.5,\"set\":{\"effort\":2}}]},"
    "{\"name\":\"device\",\"unit\":\"context.device\",\"arms\":["
    "{\"name\":\"a\",\"weight\":0.5},{\"name\":\"b\",\"weight\":0.5,\"set\":{\"interests\":2}}]},"
    "{\"name\":\"request\",\"unit\":\"request_id\",\"arms\":["
    "{\"name\":\"a\",\"weight\":0.9},{\"name\":\"b\",\"weight\":0.1,\"set\":{\"fallback\":\"none\"}"
    "}]}]}";

static char users[USERS][40];
static char ids[USERS][UUID_LEN + 1];
static json_t *context;
static struct experiment_store *store;
static const struct experiments *experiments;
static struct settings defaults;
static struct buf answer;

static volatile uint64_t seen; /* so that the clock is really read */

enum step { CLOCK, ASSIGN, APPLY, WRITE, COUNT, STEPS };

static void one(int user, enum step last)
{
    struct experiment_subject s = {
        {users[user], strlen(users[user])}, {"home", 4}, context, NULL, ids[user]};
    struct settings settings;
    struct err err = ERR_INIT;
    struct assignment a;

    if (experiments_assign(experiments, &s, &a, &err) == -1)
        abort();
    if (last >= APPLY) {
        settings = defaults;
        experiments_apply(experiments, &a, &settings);
    }
    if (last >= WRITE) {
        answer.len = 0;
        experiments_arms_json(experiments, &a, &answer);
    }
    if (last >= COUNT)
        experiment_count_served(store, experiments, &a, ids[user], ids[user]);
}

static double round_ns(enum step last)
{
    uint64_t start = clock_ns();

    for (int i = 0; i < USERS; i++) {
        if (last == CLOCK)
            seen += clock_ns() + clock_ns();
        else
            one(i, last);
    }
    return (double)(clock_ns() - start) / USERS;
}

int main(void)
{
    static const char *const names[STEPS] = {"clock read twice", "five layers assigned",
                                             "and applied", "and written", "and counted"};
    char path[] = "/tmp/bench_assign.XXXXXX";
    struct err err = ERR_INIT;
    int fd = mkstemp(path);

    settings_default(&defaults);
    context = json_pack("{s:s,s:i,s:s}", "country", "fr", "device", 12345678, "app", "5.1");
    store = experiment_store_new("", 1000000);
    if (fd == -1 || file_write(path, file, sizeof file - 1, &err) == -1 ||
        experiment_store_load(store, path, NULL, &err) == -1) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    remove(path);
    experiments = experiment_store_acquire(store);
    for (int i = 0; i < USERS; i++) {
        snprintf(users[i], sizeof users[i], "user-%d@example.org", i * 7919);
        uuid7(ids[i]);
    }
    for (int step = 0; step < STEPS; step++) {
        double best = 1e9;

        for (int r = 0; r < ROUNDS; r++) {
            double ns = round_ns((enum step)step);

            best = ns < best ? ns : best;
        }
        printf("%-22s %7.0f ns\n", names[step], best);
    }
    experiments_release(experiments);
    experiment_store_free(store);
    json_decref(context);
    buf_clear(&answer);
    return 0;
}
