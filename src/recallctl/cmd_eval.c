/* cmd_eval.c - recallctl eval: how good bundles are on users whose behaviour is known. */
#include "recallctl.h"
#include "recalld/eval.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_MAX 32
#define USERS_A_CALL 32 /* more gain little: the exact engine's blocks are full */

struct options {
    struct opt_texts bundles;
    const char *protocol, *n, *ndcg, *merge, *lambda, *diversity, *by;
    int every, seed, threads;
    bool exact, json;
};

#define AT(field) offsetof(struct options, field)

/* clang-format off */
static const struct opt opts[] = {
    {"bundle", OPT_TEXTS, AT(bundles), 0, 0, "DIR", "the bundle to evaluate; several are compared"},
    {"n", OPT_TEXT, AT(n), 0, 0, "LIST", "how many items are asked for; a run each; default 20,50"},
    {"protocol", OPT_TEXT, AT(protocol), 0, 0, "NAME", "comirec, leave-one-out, mind or seed; default comirec"},
    {"every", OPT_INT, AT(every), 1, 1000000000, "N", "test the last of every N users; default 1, with mind 20"},
    {"seed", OPT_INT, AT(seed), 0, 1000000000, "N", "mind: other random targets"},
    {"ndcg", OPT_TEXT, AT(ndcg), 0, 0, "NAME", "master, standard or paper; default master"},
    {"merge", OPT_TEXT, AT(merge), 0, 0, "NAME", "max, quota or diverse; default max"},
    {"lambda", OPT_TEXT, AT(lambda), 0, 0, "LIST", "of --merge diverse, which it implies; a run each"},
    {"diversity-attribute", OPT_TEXT, AT(diversity), 0, 0, "NAME", "prints Diversity by it; default with diverse: the first"},
    {"by", OPT_TEXT, AT(by), 0, 0, "interests", "also with the first 1, 2, 4, ... interests only"},
    {"exact", OPT_FLAG, AT(exact), 0, 0, NULL, "search every row, whatever engine the bundle has"},
    {"threads", OPT_INT, AT(threads), 1, 1024, "N", "default: all cores"},
    {"json", OPT_FLAG, AT(json), 0, 0, NULL, "JSON, for programs"},
};
/* clang-format on */

static void defaults(void *options)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    *(struct options *)options = (struct options){.protocol = "comirec",
                                                  .n = "20,50",
                                                  .ndcg = "master",
                                                  .threads = cores > 0 ? (int)cores : 1};
}

/* ---- what is asked for ----------------------------------------------------------- */

struct evaluation {
    struct eval_ask ask;
    struct config *cfg;
    struct eval_data *data;
    int n[LIST_MAX];
    double lambda[LIST_MAX];
    size_t n_n, n_lambda;
    bool by_interests;

    struct line *lines; /* of the table, as they come */
    size_t n_lines;
};

/* A run and what came of it. */
struct line {
    char bundle[BUNDLE_NAME_MAX];
    char index[64];
    int of, interests; /* the model's, those used at most */
    int n;
    double lambda;
    struct eval_result result;
};

static const struct setting *known_setting(const char *name)
{
    if (strcmp(name, "bundle") == 0 || strcmp(name, "n") == 0)
        return NULL; /* there are options for them */
    return settings_find(name);
}

static int set_setting(struct evaluation *e, const char *option, const char *name,
                       const char *value, struct err *err)
{
    const struct setting *which = known_setting(name);

    if (which == NULL)
        return err_set(err, ERR_USAGE, "--%s: is no setting of an evaluation", option);
    if (settings_set(&e->cfg->recall, which, value, err) == -1)
        return err_prefix(err, "--%s: ", option);
    return 0;
}

/* The reference's settings, then those of the command line. */
static int take_settings(struct evaluation *e, const struct args *a, struct err *err)
{
    const struct options *o = a->options;

    e->cfg = config_load(NULL, NULL, NULL, 0, err);
    if (e->cfg == NULL)
        return -1;
    eval_reference(&e->cfg->recall);
    for (size_t i = 0; i < a->n_dotted; i++) {
        const char *key = a->dotted[i].key;
        bool ours = strncmp(key, "recall.", strlen("recall.")) == 0;

        if (set_setting(e, key, ours ? key + strlen("recall.") : "", a->dotted[i].value, err) == -1)
            return -1;
    }
    if (o->lambda != NULL)
        e->cfg->recall.merge = MERGE_DIVERSE;
    if (o->merge != NULL && set_setting(e, "merge", "merge", o->merge, err) == -1)
        return -1;
    if (o->lambda != NULL && e->cfg->recall.merge != MERGE_DIVERSE)
        return err_set(err, ERR_USAGE, "--lambda belongs to --merge diverse");
    if (o->diversity != NULL &&
        set_setting(e, "diversity-attribute", "diversity_attribute", o->diversity, err) == -1)
        return -1;
    return 0;
}

static int take_ns(struct evaluation *e, const char *list, struct err *err)
{
    const char *part;
    size_t len;
    int64_t n;

    while (next_id(&list, &part, &len)) {
        if (e->n_n == LIST_MAX || !parse_i64(part, len, &n) || n < 1 || n > 10000)
            return err_set(err, ERR_USAGE,
                           "--n: must be at most %d numbers from 1 to 10000 between commas",
                           LIST_MAX);
        e->n[e->n_n++] = (int)n;
        if (e->cfg->recall_n_max < (int)n)
            e->cfg->recall_n_max = (int)n;
    }
    return e->n_n > 0 ? 0 : err_set(err, ERR_USAGE, "--n: is empty");
}

static int take_lambdas(struct evaluation *e, const char *list, struct err *err)
{
    const char *part;
    size_t len;

    if (list == NULL)
        e->lambda[e->n_lambda++] = e->cfg->recall.lambda;
    while (list != NULL && next_id(&list, &part, &len)) {
        char *text = xstrndup(part, len);
        int result = set_setting(e, "lambda", "lambda", text, err);

        free(text);
        if (result == -1)
            return -1;
        if (e->n_lambda == LIST_MAX)
            return err_set(err, ERR_USAGE, "--lambda: at most %d values", LIST_MAX);
        e->lambda[e->n_lambda++] = e->cfg->recall.lambda;
    }
    return e->n_lambda > 0 ? 0 : err_set(err, ERR_USAGE, "--lambda: is empty");
}

static int take_protocol(struct evaluation *e, const struct options *o, struct err *err)
{
    const struct eval_protocol *all;
    size_t n;

    e->ask.protocol = eval_protocol_find(o->protocol);
    if (e->ask.protocol == NULL) {
        struct buf names = BUF_INIT;

        all = eval_protocols(&n);
        for (size_t i = 0; i < n; i++)
            buf_printf(&names, "%s%s", i > 0 ? ", " : "", all[i].name);
        err_set(err, ERR_USAGE, "--protocol: must be one of %s", buf_cstr(&names));
        buf_clear(&names);
        return -1;
    }
    e->ask.every = o->every > 0 ? o->every : e->ask.protocol->every;
    e->ask.seed = (uint64_t)o->seed;
    return 0;
}

static int take_ndcg(struct evaluation *e, const char *word, struct err *err)
{
    for (int i = 0; i < EVAL_NDCG_COUNT; i++)
        if (strcmp(eval_ndcg_words[i], word) == 0) {
            e->ask.ndcg = (enum eval_ndcg)i;
            return 0;
        }
    return err_set(err, ERR_USAGE, "--ndcg: must be one of master, standard, paper");
}

static int take_options(struct evaluation *e, const struct args *a, struct err *err)
{
    const struct options *o = a->options;

    if (o->bundles.n == 0)
        return args_need(NULL, "bundle", err);
    if (o->by != NULL && strcmp(o->by, "interests") != 0)
        return err_set(err, ERR_USAGE, "--by: must be interests");
    if (take_settings(e, a, err) == -1 || take_ns(e, o->n, err) == -1 ||
        take_lambdas(e, o->lambda, err) == -1 || take_protocol(e, o, err) == -1 ||
        take_ndcg(e, o->ndcg, err) == -1)
        return -1;
    e->by_interests = o->by != NULL;
    if (e->by_interests && e->cfg->recall.interests != 0)
        return err_set(err, ERR_USAGE, "--recall.interests: --by interests sets it");
    e->ask.diversity = o->diversity != NULL || e->cfg->recall.merge == MERGE_DIVERSE;
    e->ask.exact = o->exact;
    e->ask.threads = o->threads;
    e->ask.batch = USERS_A_CALL;
    e->data = eval_data_open(a->positional, err);
    return e->data == NULL ? -1 : 0;
}

/* ---- runs ------------------------------------------------------------------------ */

static void name_index(const struct bundle_facts *f, bool exact, char *out, size_t size)
{
    if (exact || f->factory == NULL)
        snprintf(out, size, "exact");
    else if (f->effort_name == NULL)
        snprintf(out, size, "%s", f->factory);
    else
        snprintf(out, size, "%s %s %d", f->factory, f->effort_name, f->effort);
}

/* One line of the table: `interests` at most, the settings otherwise as they are. */
static int run_line(struct evaluation *e, struct registry *reg, int interests, struct err *err)
{
    const struct bundle_set *set = registry_acquire(reg);
    const struct bundle *b = bundle_set_find(set, NULL);
    struct line *line;
    struct bundle_facts facts;

    bundle_describe(b, &facts);
    e->lines = xrealloc(e->lines, (e->n_lines + 1) * sizeof *e->lines);
    line = &e->lines[e->n_lines++];
    *line = (struct line){
        .of = facts.interests,
        .interests = interests > 0 && interests < facts.interests ? interests : facts.interests,
        .n = (int)e->ask.n,
        .lambda = e->cfg->recall.lambda};
    snprintf(line->bundle, sizeof line->bundle, "%s", bundle_name(b));
    name_index(&facts, e->ask.exact, line->index, sizeof line->index);
    e->cfg->recall.interests = interests;
    bundle_set_release(set);
    return eval_run(&e->ask, e->cfg, reg, e->data, progress_show, NULL, &line->result, err);
}

static int run_lists(struct evaluation *e, struct registry *reg, int interests, struct err *err)
{
    for (size_t i = 0; i < e->n_lambda; i++)
        for (size_t j = 0; j < e->n_n; j++) {
            e->cfg->recall.lambda = e->lambda[i];
            e->ask.n = (size_t)e->n[j];
            if (run_line(e, reg, interests, err) == -1)
                return -1;
        }
    return 0;
}

static int interests_of(struct registry *reg)
{
    const struct bundle_set *set = registry_acquire(reg);
    int k = model_interest_count(bundle_model(bundle_set_find(set, NULL)));

    bundle_set_release(set);
    return k;
}

static int run_bundle(struct evaluation *e, const char *dir, int interests, struct err *err)
{
    struct registry *reg = registry_new("", 0);
    int result = registry_configure(reg, &dir, 1, "", err);

    if (result == 0 && e->by_interests)
        for (int k = 1; result == 0 && k < interests_of(reg); k *= 2)
            result = run_lists(e, reg, k, err);
    if (result == 0)
        result = run_lists(e, reg, e->by_interests ? 0 : interests, err);
    registry_free(reg);
    return result;
}

/* ---- a table for people ------------------------------------------------------------ */

static void print_number(size_t n)
{
    if (n >= 1000) {
        print_number(n / 1000);
        printf(",%03zu", n % 1000);
    } else {
        printf("%zu", n);
    }
}

/* Every setting that is not the reference's; lambda has its own column. */
static void print_settings(const struct evaluation *e)
{
    struct settings reference;
    struct buf now = BUF_INIT, then = BUF_INIT;
    const char *separator = "settings   ";
    size_t n;
    const struct setting *table = settings_table(&n);

    settings_default(&reference);
    eval_reference(&reference);
    reference.lambda = e->cfg->recall.lambda;
    for (size_t i = 0; i < n; i++) {
        now.len = then.len = 0;
        settings_get(&e->cfg->recall, &table[i], &now);
        settings_get(&reference, &table[i], &then);
        if (known_setting(table[i].name) == NULL || strcmp(buf_cstr(&now), buf_cstr(&then)) == 0)
            continue;
        printf("%s%s = %s", separator, table[i].name, now.p);
        separator = ", ";
    }
    if (separator[0] == ',')
        putchar('\n');
    buf_clear(&now);
    buf_clear(&then);
}

static void print_head(const struct evaluation *e, const char *file)
{
    const struct eval_result *r = &e->lines[0].result;

    printf("behaviour  ");
    print_number(eval_data_users(e->data));
    printf(" users of %s (%s)", file, eval_data_form(e->data));
    if (e->ask.every > 1)
        printf(", one of %d tested", e->ask.every);
    printf(": ");
    print_number(r->users);
    printf(" tested, ");
    print_number(r->too_short);
    printf(" too short\n");
    printf("protocol   %s: %s\n", e->ask.protocol->name, e->ask.protocol->about);
    print_settings(e);
    printf("Recall     %s; mean over the users\n", eval_recall_about);
    printf("HitRate    %s\n", eval_hit_rate_about);
    printf("NDCG       %s: %s; mean over the users\n", eval_ndcg_words[e->ask.ndcg],
           eval_ndcg_about[e->ask.ndcg]);
    if (e->ask.diversity)
        printf("Diversity  %s; mean over the users\n", eval_diversity_about);
}

static void print_line(const struct evaluation *e, const struct line *l, int width)
{
    char interests[24];

    if (l->interests < l->of)
        snprintf(interests, sizeof interests, "%d of %d", l->interests, l->of);
    else
        snprintf(interests, sizeof interests, "%d", l->of);
    printf("%-*s  %9s", width, l->bundle, interests);
    if (e->cfg->recall.merge == MERGE_DIVERSE)
        printf("  %6g", l->lambda);
    printf("  %5d  %.4f   %.4f  %.4f", l->n, l->result.recall, l->result.hit_rate, l->result.ndcg);
    if (e->ask.diversity)
        printf("     %.4f", l->result.diversity);
    printf("  %7.0f  %s\n", (double)l->result.users / l->result.seconds, l->index);
}

/* What a reader should know before believing the table. */
static void print_notes(const struct evaluation *e)
{
    const struct eval_result *r = &e->lines[0].result;

    if (r->history_unknown + r->targets_unknown > 0)
        printf("\nNot in %s: %.1f %% of the items asked with, %.1f %% of the targets (never hit)\n",
               e->lines[0].bundle, 100 * (double)r->history_unknown / (double)r->history,
               100 * (double)r->targets_unknown / (double)r->targets);
    for (size_t i = 0; i < e->n_lines; i++) {
        r = &e->lines[i].result;
        if (r->short_answers > 0)
            printf("\n%zu of the answers of %s with N = %d hold fewer than N items\n",
                   r->short_answers, e->lines[i].bundle, e->lines[i].n);
    }
}

static void print_table(const struct evaluation *e, const char *file)
{
    int width = (int)strlen("bundle");

    for (size_t i = 0; i < e->n_lines; i++)
        if ((int)strlen(e->lines[i].bundle) > width)
            width = (int)strlen(e->lines[i].bundle);
    print_head(e, file);
    printf("\n%-*s  interests", width, "bundle");
    if (e->cfg->recall.merge == MERGE_DIVERSE)
        printf("  lambda");
    printf("      N  Recall  HitRate    NDCG%s  users/s  index\n",
           e->ask.diversity ? "  Diversity" : "");
    for (size_t i = 0; i < e->n_lines; i++)
        print_line(e, &e->lines[i], width);
    print_notes(e);
}

/* ---- JSON ------------------------------------------------------------------------ */

static void put_text(struct buf *b, const char *key, const char *value)
{
    buf_printf(b, "\"%s\":", key);
    buf_json(b, value, strlen(value));
}

static void put_real(struct buf *b, const char *key, double value)
{
    buf_printf(b, ",\"%s\":", key);
    buf_f64(b, value);
}

static void put_count(struct buf *b, const char *key, size_t value)
{
    buf_printf(b, ",\"%s\":%zu", key, value);
}

static void put_settings(struct buf *b, const struct settings *s)
{
    size_t n;
    const struct setting *table = settings_table(&n);
    const char *separator = "";
    struct buf value = BUF_INIT;

    buf_puts(b, ",\"settings\":{");
    for (size_t i = 0; i < n; i++) {
        if (known_setting(table[i].name) == NULL)
            continue;
        value.len = 0;
        settings_get(s, &table[i], &value);
        buf_puts(b, separator);
        if (table[i].type == SETTING_ENUM || table[i].type == SETTING_STRING)
            put_text(b, table[i].name, buf_cstr(&value));
        else
            buf_printf(b, "\"%s\":%s", table[i].name, buf_cstr(&value));
        separator = ",";
    }
    buf_putc(b, '}');
    buf_clear(&value);
}

static void put_definitions(struct buf *b, const struct evaluation *e)
{
    buf_puts(b, ",\"definitions\":{");
    put_text(b, "recall", eval_recall_about);
    buf_putc(b, ',');
    put_text(b, "hit_rate", eval_hit_rate_about);
    buf_putc(b, ',');
    put_text(b, "ndcg", eval_ndcg_about[e->ask.ndcg]);
    buf_putc(b, ',');
    put_text(b, "diversity", eval_diversity_about);
    buf_putc(b, '}');
}

static void put_line(struct buf *b, const struct evaluation *e, const struct line *l)
{
    const struct eval_result *r = &l->result;
    struct settings s = e->cfg->recall;

    s.lambda = l->lambda;
    s.interests = l->interests;
    buf_putc(b, '{');
    put_text(b, "bundle", l->bundle);
    buf_putc(b, ',');
    put_text(b, "index", l->index);
    buf_printf(b, ",\"model_interests\":%d,\"n\":%d", l->of, l->n);
    put_settings(b, &s);
    put_count(b, "users", r->users);
    put_count(b, "too_short", r->too_short);
    put_count(b, "users_hit", r->hits);
    put_count(b, "short_answers", r->short_answers);
    put_count(b, "history", r->history);
    put_count(b, "history_unknown", r->history_unknown);
    put_count(b, "targets", r->targets);
    put_count(b, "targets_unknown", r->targets_unknown);
    put_real(b, "recall", r->recall);
    put_real(b, "hit_rate", r->hit_rate);
    put_real(b, "ndcg", r->ndcg);
    if (e->ask.diversity)
        put_real(b, "diversity", r->diversity);
    put_real(b, "seconds", r->seconds);
    buf_putc(b, '}');
}

static void print_json(const struct evaluation *e, const char *file)
{
    struct buf b = BUF_INIT;

    buf_putc(&b, '{');
    put_text(&b, "file", file);
    buf_putc(&b, ',');
    put_text(&b, "protocol", e->ask.protocol->name);
    buf_printf(&b, ",\"every\":%d,\"seed\":%llu,", e->ask.every, (unsigned long long)e->ask.seed);
    put_text(&b, "ndcg", eval_ndcg_words[e->ask.ndcg]);
    put_definitions(&b, e);
    buf_puts(&b, ",\"runs\":[");
    for (size_t i = 0; i < e->n_lines; i++) {
        buf_puts(&b, i > 0 ? ",\n" : "\n");
        put_line(&b, e, &e->lines[i]);
    }
    buf_puts(&b, "]}");
    puts(buf_cstr(&b));
    buf_clear(&b);
}

/* ---- the whole --------------------------------------------------------------------- */

static int run(const struct args *a, struct err *err)
{
    const struct options *o = a->options;
    struct evaluation e = {.n_n = 0};
    int interests, result = take_options(&e, a, err);

    if (result == 0) {
        interests = e.cfg->recall.interests;
        for (size_t i = 0; result == 0 && i < o->bundles.n; i++)
            result = run_bundle(&e, o->bundles.at[i], interests, err);
    }
    progress_wipe();
    if (result == 0 && o->json)
        print_json(&e, a->positional);
    else if (result == 0)
        print_table(&e, a->positional);
    free(e.lines);
    eval_data_free(e.data);
    config_free(e.cfg);
    return result;
}

const struct command cmd_eval = {
    .name = "eval",
    .positional = "FILE",
    .about =
        "how good bundles are on users whose behaviour is known: Recall, HitRate, NDCG, Diversity",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .dotted = DOTTED_CONFIG,
    .options_size = sizeof(struct options),
    .defaults = defaults,
    .run = run,
};
