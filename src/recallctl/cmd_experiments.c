/* cmd_experiments.c - recallctl experiments check | assign | simulate: an experiments file looked
 * at without a daemon. Users are the lines of a file, or made up; where a layer's unit is something
 * else than user_id they stand for that. */
#include "recallctl.h"
#include "recalld/experiment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct options {
    const char *against, *ids;
    int users;
};

static const struct opt check_opts[] = {
    {"against", OPT_TEXT, offsetof(struct options, against), 0, 0, "OLD",
     "also print whom a change from OLD moves from arm to arm"},
    {"ids", OPT_TEXT, offsetof(struct options, ids), 0, 0, "FILE",
     "users to try it on, one a line; - = standard input"},
    {"users", OPT_INT, offsetof(struct options, users), 1, 100000000, "N",
     "without --ids: so many made-up users, u1, u2, ... (100000)"},
};

static const struct opt assign_opts[] = {
    {"ids", OPT_TEXT, offsetof(struct options, ids), 0, 0, "FILE",
     "users, one a line; - = standard input (the default)"},
};

static void defaults(void *options)
{
    ((struct options *)options)->users = 100000;
}

/* ---- parts ----------------------------------------------------------------------- */

static struct experiments *read_experiments(const char *path, struct err *err)
{
    struct buf text = BUF_INIT;
    struct experiments *e = NULL;

    if (file_read(path, EXPERIMENT_TEXT_MAX, &text, err) == 0)
        e = experiments_parse(path, text.p, text.len, NULL, err);
    buf_clear(&text);
    return e;
}

/* Calls `visit` with every user; -1 when the file cannot be read. */
static int each_user(const struct options *o,
                     void (*visit)(void *arg, const char *user, size_t len), void *arg,
                     struct err *err)
{
    FILE *in;
    char *line = NULL;
    size_t room = 0;
    ssize_t len;

    if (o->ids == NULL) {
        for (int i = 1; i <= o->users; i++) {
            char user[24];

            visit(arg, user, (size_t)snprintf(user, sizeof user, "u%d", i));
        }
        return 0;
    }
    in = strcmp(o->ids, "-") == 0 ? stdin : fopen(o->ids, "r");
    if (in == NULL)
        return err_set(err, ERR_IO, "%s: cannot be opened", o->ids);
    while ((len = getline(&line, &room, in)) != -1) {
        while (len > 0 && (line[len - 1] == '\n' || line[len - 1] == '\r'))
            len--;
        if (len > 0)
            visit(arg, line, (size_t)len);
    }
    free(line);
    if (ferror(in))
        err_set(err, ERR_IO, "%s: cannot be read", o->ids);
    if (in != stdin)
        fclose(in);
    return err->code == ERR_NONE ? 0 : -1;
}

static const char *arm_text(const struct experiments *e, int layer, int arm)
{
    return arm == EXPERIMENT_NO_ARM ? "-" : experiments_arm_name(e, layer, arm);
}

/* ---- check ----------------------------------------------------------------------- */

/* How many users went from one arm of a layer to another; -1, no arm, is the last place. */
#define SIDES (EXPERIMENT_ARMS_MAX + 1)
struct moves {
    const struct experiments *old, *new;
    int layer, old_layer; /* -1 = the file does not have it */
    uint64_t users, moved[SIDES][SIDES];
};

static int side_of(const struct experiments *e, int layer, const char *user, size_t len)
{
    int arm = layer == -1 ? EXPERIMENT_NO_ARM : experiments_arm_of(e, layer, user, len);

    return arm == EXPERIMENT_NO_ARM ? EXPERIMENT_ARMS_MAX : arm;
}

static const char *side_name(const struct experiments *e, int layer, int side)
{
    return side == EXPERIMENT_ARMS_MAX ? "-" : experiments_arm_name(e, layer, side);
}

static void compare_user(void *arg, const char *user, size_t len)
{
    struct moves *m = arg;

    m->users++;
    m->moved[side_of(m->old, m->old_layer, user, len)][side_of(m->new, m->layer, user, len)]++;
}

static void print_move(const struct moves *m, const char *layer, const char *from, const char *to,
                       uint64_t users)
{
    printf("%s\t%s\t%s\t%llu\t%.6f\n", layer, from, to, (unsigned long long)users,
           m->users > 0 ? (double)users / (double)m->users : 0);
}

/* Arms are the same when their names are. */
static void print_moves(const struct moves *m, const char *layer)
{
    uint64_t moved = 0, between = 0;

    for (int a = 0; a < SIDES; a++)
        for (int b = 0; b < SIDES; b++) {
            const char *from, *to;

            if (m->moved[a][b] == 0)
                continue;
            from = side_name(m->old, m->old_layer, a);
            to = side_name(m->new, m->layer, b);
            if (strcmp(from, to) == 0)
                continue;
            moved += m->moved[a][b];
            if (a != EXPERIMENT_ARMS_MAX && b != EXPERIMENT_ARMS_MAX)
                between += m->moved[a][b];
            print_move(m, layer, from, to, m->moved[a][b]);
        }
    print_move(m, layer, "arm", "arm", between);
    print_move(m, layer, "any", "any", moved);
}

static int compare_layer(const struct options *o, const struct experiments *old, int old_layer,
                         const struct experiments *new, int layer, const char *name,
                         struct err *err)
{
    struct moves *m = xcalloc(1, sizeof *m);
    int result;

    m->old = old;
    m->new = new;
    m->old_layer = old_layer;
    m->layer = layer;
    result = each_user(o, compare_user, m, err);
    if (result == 0)
        print_moves(m, name);
    free(m);
    return result;
}

static int compare(const struct options *o, const struct experiments *old,
                   const struct experiments *new, struct err *err)
{
    puts("layer\tfrom\tto\tusers\tshare");
    for (int i = 0; i < experiments_layers(new); i++) {
        const char *name = experiments_layer_name(new, i);

        if (compare_layer(o, old, experiments_layer_find(old, name), new, i, name, err) == -1)
            return -1;
    }
    for (int i = 0; i < experiments_layers(old); i++) {
        const char *name = experiments_layer_name(old, i);

        if (experiments_layer_find(new, name) == -1 &&
            compare_layer(o, old, i, new, -1, name, err) == -1)
            return -1;
    }
    return 0;
}

static int run_check(const struct args *a, struct err *err)
{
    const struct options *o = a->options;
    struct experiments *e, *old = NULL;
    int result = -1;

    if (o->against != NULL && o->ids != NULL && strcmp(o->ids, "-") == 0)
        return err_set(err, ERR_USAGE, "--ids: must be a file here, it is read once a layer");
    e = read_experiments(a->positional, err);
    if (e == NULL)
        return -1;
    if (o->against == NULL) {
        printf("%s: ok: version %lld, layers: %d\n", a->positional,
               (long long)experiments_version(e), experiments_layers(e));
        result = 0;
    } else if ((old = read_experiments(o->against, err)) != NULL) {
        result = compare(o, old, e, err);
    }
    experiments_release(old);
    experiments_release(e);
    return result;
}

const struct command cmd_experiments_check = {
    .name = "experiments check",
    .positional = "FILE",
    .about = "check an experiments file as the daemon would, without its bundles",
    .opts = check_opts,
    .n_opts = ARRAY_LEN(check_opts),
    .options_size = sizeof(struct options),
    .defaults = defaults,
    .run = run_check,
};

/* ---- assign ---------------------------------------------------------------------- */

static void assign_user(void *arg, const char *user, size_t len)
{
    const struct experiments *e = arg;

    for (int i = 0; i < experiments_layers(e); i++) {
        const char *seed = experiments_layer_seed(e, i);

        printf("%.*s\t%s\t%.4f\t%s\n", (int)len, user, experiments_layer_name(e, i),
               experiment_hash(seed, strlen(seed), user, len),
               arm_text(e, i, experiments_arm_of(e, i, user, len)));
    }
}

static int run_assign(const struct args *a, struct err *err)
{
    struct options o = *(struct options *)a->options;
    struct experiments *e = read_experiments(a->positional, err);
    int result = -1;

    if (e == NULL)
        return -1;
    if (o.ids == NULL)
        o.ids = "-";
    puts("user\tlayer\tnumber\tarm");
    result = each_user(&o, assign_user, e, err);
    experiments_release(e);
    return result;
}

const struct command cmd_experiments_assign = {
    .name = "experiments assign",
    .positional = "FILE",
    .about = "print each user's hash and arm in every layer, wherever its `when` suits",
    .opts = assign_opts,
    .n_opts = ARRAY_LEN(assign_opts),
    .options_size = sizeof(struct options),
    .run = run_assign,
};

/* ---- simulate -------------------------------------------------------------------- */

struct tally {
    const struct experiments *e;
    uint64_t users, arms[EXPERIMENT_LAYERS_MAX][SIDES];
};

static void tally_user(void *arg, const char *user, size_t len)
{
    struct tally *t = arg;

    t->users++;
    for (int i = 0; i < experiments_layers(t->e); i++)
        t->arms[i][side_of(t->e, i, user, len)]++;
}

static void print_share(const struct tally *t, int layer, int side, double expected)
{
    uint64_t n = t->arms[layer][side];

    printf("%s\t%s\t%.6f\t%.6f\t%llu\n", experiments_layer_name(t->e, layer),
           side_name(t->e, layer, side), expected, t->users > 0 ? (double)n / (double)t->users : 0,
           (unsigned long long)n);
}

static void print_tally(const struct tally *t)
{
    puts("layer\tarm\texpected\tobserved\tusers");
    for (int i = 0; i < experiments_layers(t->e); i++) {
        double coverage = experiments_layer_coverage(t->e, i);

        for (int k = 0; k < experiments_arms(t->e, i); k++)
            print_share(t, i, k, coverage * experiments_arm_weight(t->e, i, k));
        print_share(t, i, EXPERIMENT_ARMS_MAX, 1 - coverage);
    }
}

static int run_simulate(const struct args *a, struct err *err)
{
    struct tally *t = xcalloc(1, sizeof *t);
    struct experiments *e = read_experiments(a->positional, err);
    int result = -1;

    t->e = e;
    if (e != NULL)
        result = each_user(a->options, tally_user, t, err);
    if (result == 0)
        print_tally(t);
    experiments_release(e);
    free(t);
    return result;
}

const struct command cmd_experiments_simulate = {
    .name = "experiments simulate",
    .positional = "FILE",
    .about = "print the share of users that each arm gets, expected and observed",
    .opts = &check_opts[1],
    .n_opts = ARRAY_LEN(check_opts) - 1,
    .options_size = sizeof(struct options),
    .defaults = defaults,
    .run = run_simulate,
};
