/* sentences.c - what a reader must know before believing a figure, and what is good to know. */
#include "sentences.h"

#include <math.h>
#include <stdlib.h>

static void say(char ***list, size_t *n, char *take)
{
    *list = xrealloc(*list, (*n + 1) * sizeof **list);
    (*list)[(*n)++] = take;
}

#define WARNING(r, ...) say(&(r)->warnings, &(r)->n_warnings, xasprintf(__VA_ARGS__))
#define NOTE(r, ...) say(&(r)->notes, &(r)->n_notes, xasprintf(__VA_ARGS__))

typedef unsigned long long ull;

static void say_bad(struct ctr_report *r, const struct bad_lines *bad, const char *what)
{
    if (bad->n == 0)
        return;
    WARNING(r, "%llu of %llu lines of %s could not be read and count for nothing", (ull)bad->n,
            (ull)(bad->n + bad->good), what);
    for (size_t i = 0; i < BAD_SHOWN && bad->first[i] != NULL; i++)
        WARNING(r, "  %s", bad->first[i]);
}

static uint64_t units_of(const struct report_layer *l)
{
    double n = 0;

    for (size_t i = 0; i < l->n_arms; i++)
        n += l->arms[i].sums[ALL][METRIC_PER_USER].n;
    return (uint64_t)n;
}

static void say_layer(struct ctr_report *r, const struct report_layer *l)
{
    const char *name = l->seen->name;

    if (layer_mismatches(l))
        WARNING(r,
                "SAMPLE RATIO MISMATCH in layer %s (p = %.2g): its arms do not have the %s they "
                "should%s. Something loses or adds %s in one arm; no figure of this layer can be "
                "believed until that is found",
                name, l->shares_p, layer_units(l),
                l->weights_known ? "" : ", if they have equal weights (--experiments says)",
                layer_units(l));
    if (l->missing_share > 0)
        WARNING(r, "layer %s: arms with %.3g %% of the %s have none in the journal", name,
                100 * l->missing_share, layer_units(l));
    if (isnan(l->shares_p) && l->n_arms > 1)
        WARNING(r,
                "layer %s: the sample ratio is not checked: the experiments file does not know "
                "all its arms",
                name);
    if (l->seen->by_context)
        WARNING(r,
                "layer %s: its unit is not in the journal, users are taken instead: where a unit "
                "has several users, intervals are too narrow",
                name);
    if (l->crossed > 0)
        WARNING(r, "layer %s: %llu %s (%.2g %%) were in several arms and count for none of them%s",
                name, (ull)l->crossed, layer_units(l),
                100 * (double)l->crossed / (double)(l->crossed + units_of(l)),
                l->n_versions > 1 ? "; a change of the experiments moves users: see --only-version"
                                  : "; is user_id the unit of this layer?");
    if (l->versions_p < MISMATCH_P)
        WARNING(r,
                "layer %s: its assignment changed: versions of the experiments have other shares "
                "(p = %.2g). Arms then differ in when they were served, too: use --only-version",
                name, l->versions_p);
}

static void say_samples(struct ctr_report *r)
{
    if (r->c.answers > 0 && r->c.sample_min < r->c.sample_max)
        WARNING(r,
                "the journal has different shares of the users over time, from %g to %g: counts "
                "are of what it has",
                r->c.sample_min, r->c.sample_max);
    else if (r->c.answers > 0 && r->c.sample_max < 1)
        NOTE(r, "the journal has %g %% of the users, each of them whole: counts are of those",
             100 * r->c.sample_max);
}

static void say_events(struct ctr_report *r)
{
    const struct collected *c = &r->c;
    uint64_t all = c->exposures + c->clicks;

    if (!r->has_events)
        NOTE(r, "no --events were given: only the sample ratio can be checked");
    else if (c->exposures == 0)
        WARNING(r, "there are no \"exposed\" events, so no CTR: compare clicks per answer or user");
    if (c->unmatched > 0 && c->unmatched > all / 20 && c->sample_max >= 1)
        WARNING(r, "%llu of %llu events name an answer that is not in the journal",
                (ull)c->unmatched, (ull)all);
    else if (c->unmatched > 0)
        NOTE(r, "%llu of %llu events name an answer that is not in the journal", (ull)c->unmatched,
             (ull)all);
    if (c->same_id + c->again > 0)
        NOTE(r,
             "%llu events were there before (same event_id), %llu were a further exposure or click "
             "of the same item of the same answer: each counts once",
             (ull)c->same_id, (ull)c->again);
    if (c->reused > 0)
        WARNING(r,
                "%llu events name a request_id that several answers have: the first answer "
                "took them",
                (ull)c->reused);
    if (c->others > 0)
        NOTE(r, "%llu events are neither \"exposed\" nor \"clicked\" and are not looked at",
             (ull)c->others);
}

static void say_over_time(struct ctr_report *r)
{
    if (r->n_buckets == 0 && r->c.stretches.n > 0)
        NOTE(r, "no figures over time: more than %d stretches of %lld s; see --bucket", BUCKETS_MAX,
             (long long)r->c.bucket_ms / 1000);
}

static void say_left_out(struct ctr_report *r)
{
    const struct collected *c = &r->c;

    if (c->forced > 0)
        NOTE(r, "%llu answers with a forced arm are left out", (ull)c->forced);
    if (c->outside > 0)
        NOTE(r, "%llu answers outside --since and --until are left out", (ull)c->outside);
    if (c->other_version > 0)
        NOTE(r, "%llu answers of other versions of the experiments are left out",
             (ull)c->other_version);
    if (c->unassigned > 0)
        NOTE(r, "%llu answers have no arm in any layer", (ull)c->unassigned);
    if (c->twice > 0)
        WARNING(r,
                "%llu answers with events are in the journal twice and count once: other "
                "answers may be, too",
                (ull)c->twice);
    if (c->gone > 0)
        WARNING(r,
                "%llu files of the journal were deleted before they were read: what they held "
                "counts for nothing",
                (ull)c->gone);
    if (c->torn > 0)
        NOTE(r, "%llu files end in the middle of a line, which is left out", (ull)c->torn);
}

/* Weights, units and the order of arms come from the file, whatever it was when the answers were
 * given. */
static void say_versions(struct ctr_report *r, const struct experiments *e)
{
    struct buf others = BUF_INIT;

    for (size_t i = 0; e != NULL && i < r->c.n_versions; i++)
        if (r->c.versions[i] != experiments_version(e))
            buf_printf(&others, "%s%lld", others.len == 0 ? "" : ", ", (long long)r->c.versions[i]);
    if (others.len > 0)
        WARNING(r,
                "the experiments file is version %lld, but answers of version %s are compared: "
                "weights and units are those of the file",
                (long long)experiments_version(e), buf_cstr(&others));
    buf_clear(&others);
}

/* Layers of the experiments file that the journal lacks. */
static void say_absent(struct ctr_report *r, const struct experiments *e)
{
    for (int i = 0; e != NULL && i < experiments_layers(e); i++) {
        const char *name = experiments_layer_name(e, i);
        size_t at = 0;

        while (at < r->n_layers && strcmp(r->layers[at].seen->name, name) != 0)
            at++;
        if (at == r->n_layers)
            NOTE(r, "layer %s of the experiments is in no answer", name);
    }
}

void sentences_add(struct ctr_report *r, const struct experiments *e)
{
    for (size_t i = 0; i < r->n_layers; i++)
        say_layer(r, &r->layers[i]);
    say_versions(r, e);
    say_absent(r, e);
    say_bad(r, &r->c.bad_served, "answers");
    say_bad(r, &r->c.bad_events, "events");
    say_samples(r);
    say_events(r);
    say_over_time(r);
    say_left_out(r);
    for (size_t i = 0; i < r->n_layers; i++)
        if (r->layers[i].n_arms > 2) {
            NOTE(r, "intervals and p are of one comparison each; \"p of all\" holds for all "
                    "comparisons of a layer together (Holm)");
            break;
        }
}
