/* text.c - the report as aligned tables for a terminal. */
#include "text.h"

#include "description.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- numbers ----------------------------------------------------------------------- */

void text_count(struct buf *b, double n)
{
    char digits[32];
    int len = snprintf(digits, sizeof digits, "%.0f", n);

    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0)
            buf_putc(b, ',');
        buf_putc(b, digits[i]);
    }
}

/* Four digits that say something. */
static int decimals(double v)
{
    double size = fabs(v);

    if (!(size > 0))
        return 2;
    return size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4;
}

void text_value(struct buf *b, double value, bool percent)
{
    double shown = percent ? 100 * value : value;

    if (isnan(value))
        buf_putc(b, '-');
    else
        buf_printf(b, percent ? "%.*f %%" : "%.*f", decimals(shown), shown);
}

void text_percent(struct buf *b, double share)
{
    text_value(b, share, true);
}

static void put_signed(struct buf *b, double v, int digits)
{
    buf_printf(b, "%+.*f", digits, v);
}

void text_difference(struct buf *b, double d, bool percent)
{
    double shown = percent ? 100 * d : d;

    if (isnan(d)) {
        buf_putc(b, '-');
        return;
    }
    put_signed(b, shown, decimals(shown));
    buf_puts(b, percent ? " pp" : "");
}

void text_lift(struct buf *b, double v)
{
    if (isnan(v))
        buf_putc(b, '-');
    else
        buf_printf(b, "%+.1f %%", 100 * v);
}

void text_range(struct buf *b, const struct stats_interval *i, bool percent)
{
    double scale = percent ? 100 : 1;
    int digits = decimals(scale * fmax(fabs(i->low), fabs(i->high)));

    if (isnan(i->low)) {
        buf_putc(b, '-');
        return;
    }
    put_signed(b, scale * i->low, digits);
    buf_puts(b, " .. ");
    put_signed(b, scale * i->high, digits);
}

void text_p(struct buf *b, double p)
{
    if (isnan(p))
        buf_putc(b, '-');
    else
        buf_printf(b, p >= 0.0001 || p == 0 ? "%.4f" : "%.1e", p);
}

void text_time(struct buf *b, int64_t ms)
{
    time_t seconds = (time_t)(ms / 1000);
    char text[64];
    struct tm tm;

    gmtime_r(&seconds, &tm);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M", &tm);
    buf_puts(b, text);
}

void text_duration(struct buf *b, int64_t ms)
{
    static const struct {
        int64_t ms;
        const char *name;
    } units[] = {{86400000, "d"}, {3600000, "h"}, {60000, "min"}, {1000, "s"}, {1, "ms"}};
    size_t i = 0;

    while (i + 1 < ARRAY_LEN(units) && (ms < 2 * units[i].ms || ms % units[i].ms != 0))
        i++;
    buf_printf(b, "%lld %s", (long long)(ms / units[i].ms), units[i].name);
}

/* ---- a table ------------------------------------------------------------------------- */

#define COLUMNS 32
#define ARMS_WIDE 6 /* of a description; there is no room for more */

/* Cells are written one after the other into `text`. */
struct grid {
    struct buf text;
    size_t starts[COLUMNS * 512], n; /* cells */
    size_t columns, left;            /* so many columns are flush left */
};

static struct grid *grid_new(size_t columns)
{
    struct grid *g = xcalloc(1, sizeof *g);

    g->columns = columns < COLUMNS ? columns : COLUMNS;
    g->left = 1;
    return g;
}

/* The next cell: what is written to the result. */
static struct buf *cell(struct grid *g)
{
    if (g->n < ARRAY_LEN(g->starts) - 1)
        g->starts[g->n++] = g->text.len;
    return &g->text;
}

static void head(struct grid *g, const char *title)
{
    buf_puts(cell(g), title);
}

/* Characters, not bytes. */
static size_t width_of(const char *p, size_t len)
{
    size_t n = 0;

    for (size_t i = 0; i < len; i++)
        n += ((unsigned char)p[i] & 0xc0) != 0x80;
    return n;
}

static void pad(struct buf *out, size_t n)
{
    while (n-- > 0)
        buf_putc(out, ' ');
}

static void grid_print(struct grid *take, struct buf *out)
{
    struct grid *g = take;
    size_t widths[COLUMNS] = {0};

    g->starts[g->n] = g->text.len;
    for (size_t i = 0; i < g->n; i++) {
        size_t width = width_of(g->text.p + g->starts[i], g->starts[i + 1] - g->starts[i]);

        if (width > widths[i % g->columns])
            widths[i % g->columns] = width;
    }
    for (size_t i = 0; i < g->n; i++) {
        const char *p = g->text.p + g->starts[i];
        size_t len = g->starts[i + 1] - g->starts[i], column = i % g->columns;
        size_t room = widths[column] - width_of(p, len);

        buf_puts(out, "  ");
        pad(out, column < g->left ? 0 : room);
        buf_put(out, p, len);
        pad(out, column < g->left ? room : 0);
        if (column + 1 == g->columns || i + 1 == g->n) {
            while (out->len > 0 && out->p[out->len - 1] == ' ')
                out->len--;
            buf_putc(out, '\n');
        }
    }
    buf_clear(&g->text);
    free(g);
}

/* ---- a layer --------------------------------------------------------------------------- */

static void put_ratio(struct buf *out, const struct report_layer *l)
{
    buf_puts(out, layer_mismatches(l) ? "  !! sample ratio  " : "  sample ratio  ");
    for (size_t i = 0; i < l->n_arms; i++) {
        buf_puts(out, i == 0 ? "" : " : ");
        text_count(out, l->arms[i].sums[ALL][METRIC_PER_USER].n);
    }
    if (isnan(l->shares_p)) {
        buf_puts(out, ", not checked\n");
        return;
    }
    buf_puts(out, " where ");
    for (size_t i = 0; i < l->n_arms; i++)
        buf_printf(out, "%s%.4g", i == 0 ? "" : " : ", 100 * l->arms[i].share);
    buf_printf(out, " %% are expected%s, chi-square %.2f, p = ",
               l->weights_known ? "" : " of equal weights", l->shares_statistic);
    text_p(out, l->shares_p);
    buf_puts(out, layer_mismatches(l) ? ": MISMATCH\n" : "\n");
}

static void put_aa(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    if (l->aa.n == 0)
        return;
    buf_printf(out,
               "  A/A           %d splits of the same %s: %.1f %% have p < %.3g, %.3g %% is "
               "right; p-values are uniform with p = ",
               l->aa.n, layer_units(l), 100 * l->aa.below, 1 - r->confidence,
               100 * (1 - r->confidence));
    text_p(out, l->aa.uniform_p);
    buf_printf(out, "; naive: %.1f %%\n", 100 * l->aa.naive_below);
}

/* The columns that say how an arm compares with the control. */
static void put_versus(struct grid *g, const struct report_layer *l, size_t arm, enum population p,
                       enum metric m)
{
    const struct report_arm *a = &l->arms[arm];
    const struct stats_difference *d = &a->versus[p][m];
    bool percent = metric_rows[m].percent;

    text_value(cell(g), arm_value(a, p, m), percent);
    if (arm == 0) {
        for (int i = 0; i < (l->n_arms > 2 ? 6 : 5); i++)
            cell(g);
        return;
    }
    text_difference(cell(g), d->difference.value, percent);
    text_range(cell(g), &d->difference, percent);
    text_lift(cell(g), d->lift.value);
    text_range(cell(g), &d->lift, true);
    text_p(cell(g), d->p);
    if (l->n_arms > 2)
        text_p(cell(g), a->holm[p][m]);
}

static void head_versus(struct grid *g, const struct report_layer *l, const char *figure,
                        double confidence)
{
    head(g, figure);
    head(g, "difference");
    buf_printf(cell(g), "%.4g %%", 100 * confidence);
    head(g, "lift");
    buf_printf(cell(g), "%.4g %%", 100 * confidence);
    head(g, "p");
    if (l->n_arms > 2)
        head(g, "p of all");
}

static void put_ctr(struct buf *out, const struct ctr_report *r, const struct report_layer *l,
                    enum population p)
{
    struct grid *g = grid_new(5 + (l->n_arms > 2 ? 7 : 6) + 1);

    head(g, "arm");
    head(g, layer_units(l));
    head(g, "answers");
    head(g, "exposed");
    head(g, "clicked");
    head_versus(g, l, "CTR", r->confidence);
    head(g, "naive p");
    for (size_t i = 0; i < l->n_arms; i++) {
        const struct report_arm *a = &l->arms[i];

        buf_puts(cell(g), a->seen->name);
        text_count(cell(g), a->sums[p][METRIC_PER_USER].n);
        text_count(cell(g), a->sums[p][METRIC_PER_ANSWER].y);
        text_count(cell(g), a->sums[p][METRIC_CTR].y);
        text_count(cell(g), a->sums[p][METRIC_CTR].x);
        put_versus(g, l, i, p, METRIC_CTR);
        if (i > 0)
            text_p(cell(g), a->naive_p[p]);
        else
            cell(g);
    }
    grid_print(g, out);
}

static void put_others(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    struct grid *g = grid_new(2 + (l->n_arms > 2 ? 7 : 6));

    g->left = 2;
    head(g, "figure");
    head(g, "arm");
    head_versus(g, l, "value", r->confidence);
    for (int m = METRIC_CTR + 1; m < METRICS; m++)
        for (size_t i = 0; i < l->n_arms; i++) {
            buf_puts(cell(g), i == 0 ? metric_rows[m].title : "");
            buf_puts(cell(g), l->arms[i].seen->name);
            put_versus(g, l, i, ALL, m);
        }
    grid_print(g, out);
}

static void put_apart(struct buf *out, const struct report_layer *l)
{
    struct grid *g = grid_new(1 + l->n_arms);

    head(g, "counted apart");
    for (size_t i = 0; i < l->n_arms; i++)
        head(g, l->arms[i].seen->name);
    for (int k = 0; k < APARTS; k++) {
        head(g, apart_titles[k]);
        for (size_t i = 0; i < l->n_arms; i++)
            text_count(cell(g), (double)l->arms[i].seen->apart[k]);
    }
    head(g, "degraded answers");
    for (size_t i = 0; i < l->n_arms; i++)
        text_count(cell(g), (double)l->arms[i].seen->degraded);
    grid_print(g, out);
}

/* ---- descriptions ---------------------------------------------------------------------- */

static void put_description(struct buf *out, const struct report_layer *l,
                            const struct description *d)
{
    struct grid *g;

    if (description_empty(d, l))
        return;
    buf_putc(out, '\n');
    g = grid_new(1 + 4 * (l->n_arms < ARMS_WIDE ? l->n_arms : ARMS_WIDE));
    head(g, d->title);
    for (size_t j = 0; j < l->n_arms && j < ARMS_WIDE; j++) {
        buf_printf(cell(g), "%s exposed", l->arms[j].seen->name);
        head(g, "clicked");
        head(g, "CTR");
        head(g, "hits");
    }
    for (size_t i = 0; i < d->n; i++) {
        if (!description_has(d, l, i))
            continue;
        d->name(cell(g), i);
        for (size_t j = 0; j < l->n_arms && j < ARMS_WIDE; j++) {
            const struct share *s = description_share(d, &l->arms[j], i);

            text_count(cell(g), (double)s->exposed);
            text_count(cell(g), (double)s->clicked);
            text_percent(cell(g), description_ctr(s));
            text_count(cell(g), (double)s->hits);
        }
    }
    grid_print(g, out);
}

static bool any_degraded(const struct report_layer *l)
{
    for (size_t i = 0; i < l->n_arms; i++)
        if (l->arms[i].seen->degraded > 0)
            return true;
    return false;
}

static void put_layer(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    buf_printf(out, "\nlayer %s, %zu arms, unit %s, control %s\n", l->seen->name, l->n_arms,
               layer_units(l), l->arms[0].seen->name);
    put_ratio(out, l);
    put_aa(out, r, l);
    buf_putc(out, '\n');
    put_ctr(out, r, l, ALL);
    buf_putc(out, '\n');
    put_others(out, r, l);
    if (any_degraded(l)) {
        buf_puts(out, "\n  without degraded answers (sensitivity, not the result: arms may differ "
                      "in what degrades)\n");
        put_ctr(out, r, l, UNDEGRADED);
    }
    buf_putc(out, '\n');
    put_apart(out, l);
    for (size_t i = 0; i < DESCRIPTIONS; i++)
        put_description(out, l, &descriptions[i]);
}

/* ---- the whole ------------------------------------------------------------------------- */

static void put_head(struct buf *out, const struct ctr_report *r)
{
    const struct collected *c = &r->c;

    buf_puts(out, "answers  ");
    text_count(out, (double)c->answers);
    buf_printf(out, " that count, of %llu files", (unsigned long long)c->served_files);
    if (c->answers > 0) {
        buf_puts(out, ", ");
        text_time(out, c->first_ms);
        buf_puts(out, " to ");
        text_time(out, c->last_ms);
        buf_puts(out, " UTC");
    }
    buf_puts(out, "\nevents   ");
    text_count(out, (double)c->exposures);
    buf_puts(out, " exposed, ");
    text_count(out, (double)c->clicks);
    buf_printf(out, " clicked, of %llu files; one counts if it comes within ",
               (unsigned long long)c->event_files);
    text_duration(out, r->window_ms);
    buf_puts(out, " of its answer\nerrors   by the delta method over users\n");
}

void ctr_print_text(const struct ctr_report *r, struct buf *out)
{
    put_head(out, r);
    for (size_t i = 0; i < r->n_warnings; i++)
        buf_printf(out, "%s!! %s\n", i == 0 ? "\n" : "", r->warnings[i]);
    for (size_t i = 0; i < r->n_layers; i++)
        put_layer(out, r, &r->layers[i]);
    if (r->n_layers == 0)
        buf_puts(out, "\nno answer has an arm\n");
    for (size_t i = 0; i < r->n_notes; i++)
        buf_printf(out, "%s* %s\n", i == 0 ? "\n" : "", r->notes[i]);
}
