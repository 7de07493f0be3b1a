/* html.c - the report as one page that needs nothing else: no script, no font, no image from
 * elsewhere, light or dark as the reader's system is. */
#include "svg.h"
#include "text.h"

#include <math.h>

/* clang-format off */
static const char style[] =
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1c2126;--soft:#5d6771;--line:#d9dee3;--box:#f5f7f9;"
    "--bad:#b3261e;--badbg:#fdecea;"
    "--c0:#6b7680;--c1:#0b6bcb;--c2:#c2570c;--c3:#1a7f4b;--c4:#8b3fb8;--c5:#b08800;--c6:#c2185b;--c7:#00838f}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14181c;--fg:#e3e8ec;--soft:#9aa5af;--line:#343c44;--box:#1c2227;"
    "--bad:#ff8a80;--badbg:#3a1d1b;"
    "--c0:#9aa7b2;--c1:#5aa9f5;--c2:#f0914d;--c3:#56c48a;--c4:#c48be6;--c5:#d9b84a;--c6:#f06a9b;--c7:#4fc3cf}}\n"
    "body{margin:0 auto;padding:24px;max-width:1060px;background:var(--bg);color:var(--fg);"
    "font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:24px}h2{font-size:20px;margin-top:40px;border-top:1px solid var(--line);padding-top:20px}"
    "h3{font-size:15px;margin:28px 0 6px}\n"
    "p.soft,li.soft,summary{color:var(--soft)}summary{cursor:pointer}\n"
    ".bad{background:var(--badbg);color:var(--bad);border-left:4px solid var(--bad);padding:8px 14px;margin:8px 0}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:14px}"
    "th,td{text-align:right;padding:4px 10px;border-bottom:1px solid var(--line);white-space:nowrap}"
    "th{color:var(--soft);font-weight:500}th:first-child,td:first-child{text-align:left;padding-left:0}\n"
    "svg{max-width:100%;height:auto;display:block}svg text{fill:var(--soft);font:12px system-ui,sans-serif}"
    ".grid{stroke:var(--line)}.tick{stroke:var(--soft)}.zero,.expected{stroke:var(--fg);stroke-width:1.5}"
    ".expected{stroke-dasharray:3 2}.whisker{stroke-width:2}.curve{fill:none;stroke-width:1.8}\n"
    ".band{opacity:.15}\n"
    ".key{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}\n";
/* clang-format on */

/* A colour for what is filled, drawn, or set. */
static void put_style(struct buf *out)
{
    buf_puts(out, "<style>\n");
    buf_puts(out, style);
    for (int i = 0; i < COLOURS; i++)
        buf_printf(out,
                   "svg .a%d{fill:var(--c%d)}svg .whisker.a%d,svg .curve.a%d{stroke:var(--c%d)}"
                   ".key.a%d{background:var(--c%d)}\n",
                   i, i, i, i, i, i, i);
    buf_puts(out, "svg .curve{fill:none!important}\n</style>\n");
}

/* ---- tables ---------------------------------------------------------------------------- */

static void open_table(struct buf *out)
{
    buf_puts(out, "<div class=\"wide\"><table>\n<tr>");
}

static void close_table(struct buf *out)
{
    buf_puts(out, "</table></div>\n");
}

static void th(struct buf *out, const char *title)
{
    buf_puts(out, "<th>");
    html_text(out, title);
    buf_puts(out, "</th>");
}

static void td_arm(struct buf *out, const struct report_layer *l, size_t arm)
{
    buf_printf(out, "<td><span class=\"key a%zu\"></span>", arm % COLOURS);
    html_text(out, l->arms[arm].seen->name);
    buf_puts(out, arm == 0 ? " (control)</td>" : "</td>");
}

static void td_count(struct buf *out, double n)
{
    buf_puts(out, "<td>");
    text_count(out, n);
    buf_puts(out, "</td>");
}

static void td_p(struct buf *out, double p)
{
    buf_puts(out, "<td>");
    text_p(out, p);
    buf_puts(out, "</td>");
}

static void th_versus(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    th(out, "difference");
    buf_printf(out, "<th>%.4g %% interval</th>", 100 * r->confidence);
    th(out, "lift");
    buf_printf(out, "<th>%.4g %% interval</th>", 100 * r->confidence);
    th(out, "p");
    if (l->n_arms > 2)
        th(out, "p of all");
}

static void td_versus(struct buf *out, const struct report_layer *l, size_t arm, enum population p,
                      enum metric m)
{
    const struct report_arm *a = &l->arms[arm];
    const struct stats_difference *d = &a->versus[p][m];
    bool percent = metric_rows[m].percent;

    buf_puts(out, "<td><b>");
    text_value(out, arm_value(a, p, m), percent);
    buf_puts(out, "</b></td>");
    if (arm == 0) {
        buf_printf(out, "<td colspan=\"%d\"></td>", l->n_arms > 2 ? 6 : 5);
        return;
    }
    buf_puts(out, "<td>");
    text_difference(out, d->difference.value, percent);
    buf_puts(out, "</td><td>");
    text_range(out, &d->difference, percent);
    buf_puts(out, "</td><td>");
    text_lift(out, d->lift.value);
    buf_puts(out, "</td><td>");
    text_range(out, &d->lift, true);
    buf_puts(out, "</td>");
    td_p(out, d->p);
    if (l->n_arms > 2)
        td_p(out, a->holm[p][m]);
}

static void put_ctr(struct buf *out, const struct ctr_report *r, const struct report_layer *l,
                    enum population p)
{
    open_table(out);
    th(out, "arm");
    th(out, layer_units(l));
    th(out, "answers");
    th(out, "exposed");
    th(out, "clicked");
    th(out, "CTR");
    th_versus(out, r, l);
    th(out, "naive p");
    buf_puts(out, "</tr>\n");
    for (size_t i = 0; i < l->n_arms; i++) {
        const struct report_arm *a = &l->arms[i];

        buf_puts(out, "<tr>");
        td_arm(out, l, i);
        td_count(out, a->sums[p][METRIC_PER_USER].n);
        td_count(out, a->sums[p][METRIC_PER_ANSWER].y);
        td_count(out, a->sums[p][METRIC_CTR].y);
        td_count(out, a->sums[p][METRIC_CTR].x);
        td_versus(out, l, i, p, METRIC_CTR);
        td_p(out, i > 0 ? a->naive_p[p] : NAN);
        buf_puts(out, "</tr>\n");
    }
    close_table(out);
}

static void put_others(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    for (int m = METRIC_CTR + 1; m < METRICS; m++) {
        buf_printf(out, "<h3>%s</h3><p class=\"soft\">%s</p>\n", metric_rows[m].title,
                   metric_rows[m].about);
        open_table(out);
        th(out, "arm");
        th(out, "value");
        th_versus(out, r, l);
        buf_puts(out, "</tr>\n");
        for (size_t i = 0; i < l->n_arms; i++) {
            buf_puts(out, "<tr>");
            td_arm(out, l, i);
            td_versus(out, l, i, ALL, (enum metric)m);
            buf_puts(out, "</tr>\n");
        }
        close_table(out);
    }
}

static void put_apart(struct buf *out, const struct report_layer *l)
{
    buf_puts(out, "<h3>Counted apart</h3>\n");
    open_table(out);
    th(out, "");
    for (size_t i = 0; i < l->n_arms; i++)
        th(out, l->arms[i].seen->name);
    buf_puts(out, "</tr>\n");
    for (int k = 0; k < APARTS; k++) {
        buf_printf(out, "<tr><td>%s</td>", apart_titles[k]);
        for (size_t i = 0; i < l->n_arms; i++)
            td_count(out, (double)l->arms[i].seen->apart[k]);
        buf_puts(out, "</tr>\n");
    }
    buf_puts(out, "<tr><td>degraded answers</td>");
    for (size_t i = 0; i < l->n_arms; i++)
        td_count(out, (double)l->arms[i].seen->degraded);
    buf_puts(out, "</tr>\n");
    close_table(out);
}

/* ---- descriptions ----------------------------------------------------------------------- */

static void put_groups(struct buf *out, const struct report_layer *l, const struct description *d)
{
    open_table(out);
    th(out, "");
    for (size_t j = 0; j < l->n_arms; j++) {
        buf_puts(out, "<th>");
        html_text(out, l->arms[j].seen->name);
        buf_puts(out, " exposed</th><th>clicked</th><th>CTR</th><th>hits</th>");
    }
    buf_puts(out, "</tr>\n");
    for (size_t i = 0; i < d->n; i++) {
        if (!description_has(d, l, i))
            continue;
        buf_puts(out, "<tr><td>");
        d->name(out, i);
        buf_puts(out, "</td>");
        for (size_t j = 0; j < l->n_arms; j++) {
            const struct share *s = description_share(d, &l->arms[j], i);

            td_count(out, (double)s->exposed);
            td_count(out, (double)s->clicked);
            buf_puts(out, "<td>");
            text_percent(out, description_ctr(s));
            buf_puts(out, "</td>");
            td_count(out, (double)s->hits);
        }
        buf_puts(out, "</tr>\n");
    }
    close_table(out);
}

static void put_description(struct buf *out, const struct report_layer *l,
                            const struct description *d)
{
    if (description_empty(d, l))
        return;
    buf_printf(out, "<h3>CTR and hits %s</h3>\n", d->title);
    svg_groups(out, l, d);
    buf_puts(out, "<details><summary>Numbers: exposed, clicked, CTR, hits of each arm"
                  "</summary>\n");
    put_groups(out, l, d);
    buf_puts(out, "</details>\n");
}

/* ---- a layer --------------------------------------------------------------------------- */

static void put_ratio(struct buf *out, const struct report_layer *l)
{
    bool bad = layer_mismatches(l);

    buf_printf(out, "<h3>Sample ratio</h3><p class=\"%s\">", bad ? "bad" : "soft");
    if (isnan(l->shares_p)) {
        buf_puts(out, "not checked</p>\n");
    } else {
        buf_printf(out, "%schi-square %.2f, p = ", bad ? "MISMATCH: " : "", l->shares_statistic);
        text_p(out, l->shares_p);
        buf_puts(out, l->weights_known ? ", against the weights of the experiments</p>\n"
                                       : ", against equal weights, which are assumed</p>\n");
    }
    svg_ratio(out, l);
}

static void put_aa(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    if (l->aa.n == 0)
        return;
    buf_printf(out,
               "<p class=\"soft\">A/A: of %d random splits of the same %s %.1f %% have p &lt; %.3g "
               "(%.3g %% is right; naive test: %.1f %%); the p-values are uniform with p = ",
               l->aa.n, layer_units(l), 100 * l->aa.below, 1 - r->confidence,
               100 * (1 - r->confidence), 100 * l->aa.naive_below);
    text_p(out, l->aa.uniform_p);
    buf_puts(out, "</p>\n");
}

static void put_layer(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    buf_puts(out, "<h2>Layer ");
    html_text(out, l->seen->name);
    buf_puts(out, "</h2>\n");
    put_ratio(out, l);
    put_aa(out, r, l);
    buf_puts(out, "<h3>CTR</h3><p class=\"soft\">clicked items / exposed items</p>\n");
    put_ctr(out, r, l, ALL);
    if (l->n_arms > 1) {
        buf_puts(out, "<h3>Lift against the control</h3>\n");
        svg_forest(out, l);
    }
    if (r->n_buckets > 0) {
        buf_puts(out,
                 "<h3>CTR over time</h3><p class=\"soft\">by the time of the answer, steps of ");
        text_duration(out, r->c.bucket_ms);
        buf_puts(out, "; errors of each step's own users</p>\n");
        svg_over_time(out, r, l);
    }
    put_others(out, r, l);
    buf_puts(out,
             "<h3>CTR without degraded answers</h3><p class=\"soft\">sensitivity, not the result: "
             "arms may differ in what degrades</p>\n");
    put_ctr(out, r, l, UNDEGRADED);
    put_apart(out, l);
    for (size_t i = 0; i < DESCRIPTIONS; i++)
        put_description(out, l, &descriptions[i]);
}

/* ---- the whole ------------------------------------------------------------------------- */

static void put_head(struct buf *out, const struct ctr_report *r)
{
    buf_puts(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                  "<meta name=\"viewport\" content=\"width=device-width\">\n"
                  "<title>Experiments</title>\n");
    put_style(out);
    buf_puts(out, "</head>\n<body>\n<h1>Experiments</h1>\n<p class=\"soft\">");
    text_count(out, (double)r->c.answers);
    buf_puts(out, " answers");
    if (r->c.answers > 0) {
        buf_puts(out, " from ");
        text_time(out, r->c.first_ms);
        buf_puts(out, " to ");
        text_time(out, r->c.last_ms);
        buf_puts(out, " UTC");
    }
    buf_puts(out, ", ");
    text_count(out, (double)r->c.exposures);
    buf_puts(out, " exposures, ");
    text_count(out, (double)r->c.clicks);
    buf_puts(out, " clicks. An event counts if it comes within ");
    text_duration(out, r->window_ms);
    buf_puts(out, " of its answer. Errors are of the delta method over users.</p>\n");
}

void ctr_print_html(const struct ctr_report *r, struct buf *out)
{
    put_head(out, r);
    for (size_t i = 0; i < r->n_warnings; i++) {
        buf_puts(out, "<p class=\"bad\">");
        html_text(out, r->warnings[i]);
        buf_puts(out, "</p>\n");
    }
    for (size_t i = 0; i < r->n_layers; i++)
        put_layer(out, r, &r->layers[i]);
    buf_puts(out, "<h2>Notes</h2>\n<ul>\n");
    for (size_t i = 0; i < r->n_notes; i++) {
        buf_puts(out, "<li class=\"soft\">");
        html_text(out, r->notes[i]);
        buf_puts(out, "</li>\n");
    }
    buf_puts(out, "</ul>\n</body>\n</html>\n");
}
