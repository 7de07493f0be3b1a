/* cmd_ctr.c - recallctl ctr: what the journal says about an experiment.
 *
 * Exit status 3: the report is there, but a sample ratio does not hold, so it cannot be believed.
 */
#include "recallctl.h"
#include "recalld/ctr.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define STATUS_MISMATCH 3

struct options {
    struct opt_texts journals, served, events, controls;
    const char *experiments, *window, *since, *until, *bucket, *html;
    double confidence;
    int version, memory, aa, seed;
    bool strict, all_items, json;
};

#define AT(field) offsetof(struct options, field)

/* clang-format off */
static const struct opt opts[] = {
    {"journal", OPT_TEXTS, AT(journals), 0, 0, "DIR", "what was served, and the events; or one by one:"},
    {"served", OPT_TEXTS, AT(served), 0, 0, "PATH", "files or folders of answers"},
    {"events", OPT_TEXTS, AT(events), 0, 0, "PATH", "files or folders of events"},
    {"experiments", OPT_TEXT, AT(experiments), 0, 0, "FILE", "weights and units of the layers; default: equal, users"},
    {"control", OPT_TEXTS, AT(controls), 0, 0, "[LAYER=]ARM", "what others are compared with; default: \"control\" or the first"},
    {"window", OPT_TEXT, AT(window), 0, 0, "TIME", "events count so long after their answer (90s 30m 24h 7d); default 24h"},
    {"since", OPT_TEXT, AT(since), 0, 0, "WHEN", "answers from then on: 2026-11-24 or 2026-11-24T13:00, UTC"},
    {"until", OPT_TEXT, AT(until), 0, 0, "WHEN", "answers before"},
    {"only-version", OPT_INT, AT(version), 0, 2147483647, "N", "answers of this version of the experiments"},
    {"all-items", OPT_FLAG, AT(all_items), 0, 0, NULL, "also events on items that the answer did not contain"},
    {"confidence", OPT_REAL, AT(confidence), 50, 99.999, "PERCENT", "of the intervals; default 95"},
    {"bucket", OPT_TEXT, AT(bucket), 0, 0, "TIME", "step of the figures over time; default: about 50 of them"},
    {"aa", OPT_INT, AT(aa), 1, 100000, "N", "also split the same users in two at random, N times: is the test honest?"},
    {"seed", OPT_INT, AT(seed), 0, 1000000000, "N", "of those splits; default 1"},
    {"memory", OPT_INT, AT(memory), 1, 1000000, "MB", "for events; more of them take several rounds; default 1024"},
    {"strict", OPT_FLAG, AT(strict), 0, 0, NULL, "a line that cannot be read is an error"},
    {"html", OPT_TEXT, AT(html), 0, 0, "FILE", "also write a page with plots"},
    {"json", OPT_FLAG, AT(json), 0, 0, NULL, "JSON, for programs"},
};
/* clang-format on */

static void defaults(void *options)
{
    *(struct options *)options = (struct options){
        .window = "24h", .confidence = 95, .version = -1, .memory = 1024, .seed = 1};
}

/* ---- options ----------------------------------------------------------------------- */

static int take_duration(const char *option, const char *text, int64_t *ms, struct err *err)
{
    static const char letters[] = "smhd";
    static const int64_t of[] = {1000, 60000, 3600000, 86400000};
    size_t len = strlen(text);
    const char *unit = len > 1 ? memchr(letters, text[len - 1], 4) : NULL;
    int64_t n;

    if (unit == NULL || !parse_i64(text, len - 1, &n) || n < 1 || n > 100000)
        return err_set(err, ERR_USAGE, "--%s: must be a time such as 90s, 30m, 24h or 7d", option);
    *ms = n * of[unit - letters];
    return 0;
}

static int take_when(const char *option, const char *text, int64_t *ms, struct err *err)
{
    static const char *const forms[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"};

    for (size_t i = 0; i < ARRAY_LEN(forms); i++) {
        struct tm tm = {0};
        const char *end = strptime(text, forms[i], &tm);

        if (end != NULL && (*end == '\0' || strcmp(end, "Z") == 0)) {
            *ms = (int64_t)timegm(&tm) * 1000;
            return 0;
        }
    }
    return err_set(err, ERR_USAGE, "--%s: must be a time such as 2026-11-24 or 2026-11-24T13:00",
                   option);
}

/* A folder of --journal is read for both kinds. */
static void take_paths(struct options *o, struct ctr_ask *ask, const char **served,
                       const char **events)
{
    for (size_t i = 0; i < o->journals.n; i++) {
        served[ask->n_served++] = o->journals.at[i];
        events[ask->n_events++] = o->journals.at[i];
    }
    for (size_t i = 0; i < o->served.n; i++)
        served[ask->n_served++] = o->served.at[i];
    for (size_t i = 0; i < o->events.n; i++)
        events[ask->n_events++] = o->events.at[i];
    ask->served = served;
    ask->events = events;
}

static int take_options(struct options *o, struct ctr_ask *ask, struct err *err)
{
    if (o->journals.n + o->served.n == 0)
        return args_need(NULL, "journal or --served", err);
    if (take_duration("window", o->window, &ask->window_ms, err) == -1 ||
        (o->bucket != NULL && take_duration("bucket", o->bucket, &ask->bucket_ms, err) == -1) ||
        (o->since != NULL && take_when("since", o->since, &ask->since_ms, err) == -1) ||
        (o->until != NULL && take_when("until", o->until, &ask->until_ms, err) == -1))
        return -1;
    if (ask->until_ms <= ask->since_ms)
        return err_set(err, ERR_USAGE, "--until: is not after --since");
    ask->controls = o->controls.at;
    ask->n_controls = o->controls.n;
    ask->version = o->version;
    ask->confidence = o->confidence / 100;
    ask->memory = (size_t)o->memory * 1000000;
    ask->strict = o->strict;
    ask->all_items = o->all_items;
    ask->aa = o->aa;
    ask->seed = (uint64_t)o->seed;
    return 0;
}

static int take_experiments(const char *path, struct ctr_ask *ask, struct err *err)
{
    struct buf text = BUF_INIT;

    if (path == NULL)
        return 0;
    if (file_read(path, EXPERIMENT_TEXT_MAX, &text, err) == 0)
        ask->experiments = experiments_parse(path, text.p, text.len, NULL, err);
    buf_clear(&text);
    return ask->experiments == NULL ? -1 : 0;
}

/* ---- the whole ----------------------------------------------------------------------- */

static int print(const struct options *o, const struct ctr_report *r, struct err *err)
{
    struct buf out = BUF_INIT;
    int result = 0;

    if (o->html != NULL) {
        ctr_print_html(r, &out);
        result = file_write(o->html, out.p, out.len, err);
        out.len = 0;
    }
    if (o->json)
        ctr_print_json(r, &out);
    else
        ctr_print_text(r, &out);
    if (result == 0)
        fwrite(out.p, 1, out.len, stdout);
    buf_clear(&out);
    return result;
}

static int run(const struct args *a, struct err *err)
{
    struct options *o = a->options;
    const char *served[2 * OPT_TEXTS_MAX], *events[2 * OPT_TEXTS_MAX];
    struct ctr_report *r = NULL;
    struct ctr_ask ask;
    int result = -1;

    ctr_ask_default(&ask);
    take_paths(o, &ask, served, events);
    if (take_options(o, &ask, err) == 0 && take_experiments(o->experiments, &ask, err) == 0)
        r = ctr_run(&ask, progress_show, NULL, err);
    experiments_release(ask.experiments);
    if (r == NULL)
        return -1;
    progress_wipe();
    result = print(o, r, err);
    if (result == 0 && ctr_mismatches(r) > 0) {
        fprintf(stderr, "recallctl: SAMPLE RATIO MISMATCH: do not believe the figures\n");
        result = STATUS_MISMATCH;
    }
    ctr_report_free(r);
    return result;
}

const struct command cmd_ctr = {
    .name = "ctr",
    .about = "click-through per arm from the journal, with intervals, p-values and checks",
    .opts = opts,
    .n_opts = ARRAY_LEN(opts),
    .options_size = sizeof(struct options),
    .defaults = defaults,
    .run = run,
};
