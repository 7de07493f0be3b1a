/* json.c - the report for programs: every figure at full precision; null where there is none. */
#include "report.h"

#include <math.h>

/* ---- pieces -------------------------------------------------------------------------- */

static void name(struct buf *b, const char *key)
{
    char last = b->len == 0 ? '\0' : b->p[b->len - 1];

    if (last != '{' && last != '[' && last != '\0')
        buf_putc(b, ',');
    buf_json(b, key, strlen(key));
    buf_putc(b, ':');
}

static void put_text(struct buf *b, const char *key, const char *value)
{
    name(b, key);
    buf_json(b, value, strlen(value));
}

static void put_real(struct buf *b, const char *key, double value)
{
    name(b, key);
    buf_f64(b, value);
}

static void put_int(struct buf *b, const char *key, int64_t value)
{
    name(b, key);
    buf_printf(b, "%lld", (long long)value);
}

static void put_bool(struct buf *b, const char *key, bool value)
{
    name(b, key);
    buf_puts(b, value ? "true" : "false");
}

static void put_interval(struct buf *b, const char *key, const struct stats_interval *i)
{
    name(b, key);
    buf_putc(b, '{');
    put_real(b, "value", i->value);
    put_real(b, "low", i->low);
    put_real(b, "high", i->high);
    buf_putc(b, '}');
}

static void comma(struct buf *b)
{
    if (b->p[b->len - 1] != '[')
        buf_putc(b, ',');
}

/* ---- an arm -------------------------------------------------------------------------- */

static void put_figure(struct buf *b, const struct ctr_report *r, const struct report_arm *a,
                       enum population p, enum metric m, bool control)
{
    struct stats_ratio ratio = stats_ratio(&a->sums[p][m]);
    struct stats_interval i = stats_interval(ratio.value, ratio.se, r->confidence);

    name(b, metric_rows[m].key);
    buf_putc(b, '{');
    put_real(b, "value", ratio.value);
    put_real(b, "se", ratio.se);
    put_real(b, "low", i.low);
    put_real(b, "high", i.high);
    if (!control) {
        put_interval(b, "difference", &a->versus[p][m].difference);
        put_interval(b, "lift", &a->versus[p][m].lift);
        put_real(b, "p", a->versus[p][m].p);
        put_real(b, "p_of_all", a->holm[p][m]);
        if (m == METRIC_CTR)
            put_real(b, "naive_p", a->naive_p[p]);
    }
    buf_putc(b, '}');
}

static void put_population(struct buf *b, const struct ctr_report *r, const struct report_arm *a,
                           enum population p, bool control)
{
    put_int(b, "units", (int64_t)a->sums[p][METRIC_PER_USER].n);
    put_int(b, "answers", (int64_t)a->sums[p][METRIC_PER_ANSWER].y);
    put_int(b, "exposed", (int64_t)a->sums[p][METRIC_CTR].y);
    put_int(b, "clicked", (int64_t)a->sums[p][METRIC_CTR].x);
    put_int(b, "clicks", (int64_t)a->sums[p][METRIC_HIT_RATE].y);
    put_int(b, "hits", (int64_t)a->sums[p][METRIC_HIT_RATE].x);
    name(b, "figures");
    buf_putc(b, '{');
    for (int m = 0; m < METRICS; m++)
        put_figure(b, r, a, p, (enum metric)m, control);
    buf_putc(b, '}');
}

static void put_shares(struct buf *b, const char *key, const struct share *s, size_t n)
{
    name(b, key);
    buf_putc(b, '[');
    while (n > 0 && s[n - 1].exposed == 0 && s[n - 1].hits == 0)
        n--;
    for (size_t i = 0; i < n; i++) {
        comma(b);
        buf_printf(b, "{\"exposed\":%llu,\"clicked\":%llu,\"hits\":%llu}",
                   (unsigned long long)s[i].exposed, (unsigned long long)s[i].clicked,
                   (unsigned long long)s[i].hits);
    }
    buf_putc(b, ']');
}

static void put_over_time(struct buf *b, const struct ctr_report *r, const struct report_arm *a)
{
    name(b, "over_time");
    buf_putc(b, '[');
    for (size_t i = 0; i < r->n_buckets; i++) {
        struct stats_ratio ratio = stats_ratio(&a->over_time[i]);
        struct stats_interval band = stats_interval(ratio.value, ratio.se, r->confidence);

        comma(b);
        buf_putc(b, '{');
        put_int(b, "from_ms", r->first_ms + (int64_t)i * r->c.bucket_ms);
        put_int(b, "exposed", (int64_t)a->over_time[i].y);
        put_int(b, "clicked", (int64_t)a->over_time[i].x);
        put_real(b, "ctr", ratio.value);
        put_real(b, "low", band.low);
        put_real(b, "high", band.high);
        buf_putc(b, '}');
    }
    buf_putc(b, ']');
}

static void put_arm(struct buf *b, const struct ctr_report *r, const struct report_arm *a,
                    bool control)
{
    const struct seen_arm *seen = a->seen;

    comma(b);
    buf_puts(b, "\n{");
    put_text(b, "name", seen->name);
    put_real(b, "expected_share", a->share);
    put_population(b, r, a, ALL, control);
    put_int(b, "degraded_answers", (int64_t)seen->degraded);
    name(b, "apart");
    buf_putc(b, '{');
    for (int i = 0; i < APARTS; i++)
        put_int(b, apart_keys[i], (int64_t)seen->apart[i]);
    buf_putc(b, '}');
    name(b, "without_degraded");
    buf_putc(b, '{');
    put_population(b, r, a, UNDEGRADED, control);
    buf_putc(b, '}');
    put_shares(b, "by_interest", seen->interests, INTERESTS - 1);
    put_shares(b, "by_no_interest", &seen->interests[INTERESTS - 1], 1);
    put_shares(b, "by_rank", seen->ranks, RANKS);
    put_shares(b, "by_position", seen->shown, SHOWN);
    put_over_time(b, r, a);
    buf_putc(b, '}');
}

/* ---- a layer --------------------------------------------------------------------------- */

static void put_ratio(struct buf *b, const struct report_layer *l)
{
    name(b, "sample_ratio");
    buf_putc(b, '{');
    put_real(b, "p", l->shares_p);
    put_real(b, "chi_square", l->shares_statistic);
    put_text(b, "expected_from", l->weights_known ? "experiments" : "equal weights");
    put_bool(b, "mismatch", layer_mismatches(l));
    buf_putc(b, '}');
}

static void put_versions(struct buf *b, const struct ctr_report *r, const struct report_layer *l)
{
    put_real(b, "versions_p", l->versions_p);
    name(b, "versions");
    buf_putc(b, '[');
    for (size_t v = 0; v < r->c.n_versions; v++) {
        uint64_t answers = 0;

        for (size_t i = 0; i < l->n_arms; i++)
            answers += l->arms[i].seen->versions[v];
        if (answers == 0)
            continue;
        comma(b);
        buf_printf(b, "{\"version\":%lld,\"answers\":%llu}", (long long)r->c.versions[v],
                   (unsigned long long)answers);
    }
    buf_putc(b, ']');
}

static void put_reals(struct buf *b, const char *key, const double *values, int n)
{
    name(b, key);
    buf_putc(b, '[');
    for (int i = 0; i < n; i++) {
        comma(b);
        buf_f64(b, values[i]);
    }
    buf_putc(b, ']');
}

static void put_aa(struct buf *b, const struct ctr_report *r, const struct aa *aa)
{
    if (aa->n == 0)
        return;
    name(b, "aa");
    buf_putc(b, '{');
    put_int(b, "splits", aa->n);
    put_int(b, "seed", (int64_t)r->seed);
    put_real(b, "share_significant", aa->below);
    put_real(b, "naive_share_significant", aa->naive_below);
    put_real(b, "uniform_d", aa->d);
    put_real(b, "uniform_p", aa->uniform_p);
    put_reals(b, "p", aa->p, aa->n);
    put_reals(b, "naive_p", aa->naive_p, aa->n);
    buf_putc(b, '}');
}

static void put_layer(struct buf *b, const struct ctr_report *r, const struct report_layer *l)
{
    comma(b);
    buf_puts(b, "\n{");
    put_text(b, "name", l->seen->name);
    put_text(b, "units", layer_units(l));
    put_text(b, "control", l->arms[0].seen->name);
    put_ratio(b, l);
    put_int(b, "in_several_arms", (int64_t)l->crossed);
    put_versions(b, r, l);
    put_aa(b, r, &l->aa);
    name(b, "arms");
    buf_putc(b, '[');
    for (size_t i = 0; i < l->n_arms; i++)
        put_arm(b, r, &l->arms[i], i == 0);
    buf_puts(b, "]}");
}

/* ---- the whole ------------------------------------------------------------------------- */

static void put_read(struct buf *b, const struct collected *c)
{
    name(b, "served");
    buf_putc(b, '{');
    put_int(b, "files", (int64_t)c->served_files);
    put_int(b, "text_bytes", (int64_t)c->text_bytes);
    put_int(b, "lines", (int64_t)(c->bad_served.good + c->bad_served.n));
    put_int(b, "bad_lines", (int64_t)c->bad_served.n);
    put_int(b, "rounds", c->rounds);
    put_int(b, "counted", (int64_t)c->answers);
    put_int(b, "forced", (int64_t)c->forced);
    put_int(b, "outside", (int64_t)c->outside);
    put_int(b, "other_version", (int64_t)c->other_version);
    put_int(b, "unassigned", (int64_t)c->unassigned);
    put_int(b, "twice", (int64_t)c->twice);
    put_int(b, "first_ms", c->first_ms);
    put_int(b, "last_ms", c->last_ms);
    put_real(b, "sample", c->sample_max);
    buf_putc(b, '}');
    name(b, "events");
    buf_putc(b, '{');
    put_int(b, "files", (int64_t)c->event_files);
    put_int(b, "lines", (int64_t)(c->bad_events.good + c->bad_events.n));
    put_int(b, "bad_lines", (int64_t)c->bad_events.n);
    put_int(b, "exposed", (int64_t)c->exposures);
    put_int(b, "clicked", (int64_t)c->clicks);
    put_int(b, "others", (int64_t)c->others);
    put_int(b, "duplicates", (int64_t)c->same_id);
    put_int(b, "repeated", (int64_t)c->again);
    put_int(b, "without_answer", (int64_t)c->unmatched);
    put_int(b, "request_id_reused", (int64_t)c->reused);
    buf_putc(b, '}');
}

static void put_sentences(struct buf *b, const char *key, char *const *list, size_t n)
{
    name(b, key);
    buf_putc(b, '[');
    for (size_t i = 0; i < n; i++) {
        comma(b);
        if (utf8_valid(list[i], strlen(list[i])))
            buf_json(b, list[i], strlen(list[i]));
        else
            buf_puts(b, "\"?\"");
    }
    buf_putc(b, ']');
}

void ctr_print_json(const struct ctr_report *r, struct buf *b)
{
    buf_putc(b, '{');
    put_read(b, &r->c);
    put_int(b, "files_gone", (int64_t)r->c.gone);
    put_int(b, "window_ms", r->window_ms);
    put_real(b, "confidence", r->confidence);
    put_int(b, "bucket_ms", r->c.bucket_ms);
    put_bool(b, "all_items", r->all_items);
    put_bool(b, "mismatch", ctr_mismatches(r) > 0);
    put_sentences(b, "warnings", r->warnings, r->n_warnings);
    put_sentences(b, "notes", r->notes, r->n_notes);
    name(b, "layers");
    buf_putc(b, '[');
    for (size_t i = 0; i < r->n_layers; i++)
        put_layer(b, r, &r->layers[i]);
    buf_puts(b, "]}\n");
}
