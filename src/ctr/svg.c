/* svg.c - plots as SVG, written by hand: axes with round numbers, lines, bands, bars. */
#include "svg.h"

#include "text.h"

#include <math.h>

#define WIDTH 760
#define LEFT 64
#define RIGHT 16

void html_text(struct buf *out, const char *s)
{
    for (; *s != '\0'; s++)
        switch (*s) {
        case '<':
            buf_puts(out, "&lt;");
            break;
        case '>':
            buf_puts(out, "&gt;");
            break;
        case '&':
            buf_puts(out, "&amp;");
            break;
        case '"':
            buf_puts(out, "&quot;");
            break;
        default:
            buf_putc(out, *s);
        }
}

/* ---- axes -------------------------------------------------------------------------- */

/* From values to pixels. */
struct axis {
    double low, high; /* values */
    double from, to;  /* pixels */
};

static double at(const struct axis *a, double v)
{
    return a->from + (v - a->low) / (a->high - a->low) * (a->to - a->from);
}

/* 1, 2 or 5 times a power of ten, so that about `n` of them make up `length`. */
static double round_step(double length, int n)
{
    double rough = length / n, power = pow(10, floor(log10(rough))), first = rough / power;

    return power * (first < 1.5 ? 1 : first < 3.5 ? 2 : first < 7.5 ? 5 : 10);
}

/* So that ticks are at its ends. Never empty. */
static double widen(struct axis *a, int n)
{
    double step;

    if (!(a->high > a->low)) {
        a->low -= 0.01;
        a->high += 0.01;
    }
    step = round_step(a->high - a->low, n);
    a->low = floor(a->low / step + 1e-9) * step;
    a->high = ceil(a->high / step - 1e-9) * step;
    return step;
}

static void line(struct buf *out, const char *class, double x1, double y1, double x2, double y2)
{
    buf_printf(out, "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n", class,
               x1, y1, x2, y2);
}

static void text_open(struct buf *out, const char *anchor, double x, double y)
{
    buf_printf(out, "<text text-anchor=\"%s\" x=\"%.1f\" y=\"%.1f\">", anchor, x, y);
}

static void open_svg(struct buf *out, int height, const char *label)
{
    buf_printf(out,
               "<svg viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" role=\"img\" "
               "aria-label=\"%s\">\n",
               WIDTH, height, WIDTH, height, label);
}

/* Percentages on the left, with a line across for each. */
static void percent_axis(struct buf *out, const struct axis *y, double step)
{
    int digits = step >= 0.01 ? 0 : step >= 0.001 ? 1 : step >= 0.0001 ? 2 : 3;

    for (double v = y->low; v <= y->high + step / 2; v += step) {
        line(out, "grid", LEFT, at(y, v), WIDTH - RIGHT, at(y, v));
        text_open(out, "end", LEFT - 8, at(y, v) + 4);
        buf_printf(out, "%.*f %%</text>\n", digits, 100 * v + 0.0);
    }
}

/* ---- over time --------------------------------------------------------------------- */

#define TIME_HEIGHT 300
#define TIME_TOP 12
#define TIME_BOTTOM 40

static struct stats_interval band_at(const struct ctr_report *r, const struct report_arm *a,
                                     size_t i)
{
    struct stats_ratio ratio = stats_ratio(&a->over_time[i]);

    return stats_interval(ratio.value, isnan(ratio.se) ? 0 : ratio.se, r->confidence);
}

/* Bands of few users would flatten all lines: the axis goes to the values, and one and a half of
 * their span beyond. */
static struct axis time_values(const struct ctr_report *r, const struct report_layer *l)
{
    struct axis y = {INFINITY, -INFINITY, TIME_HEIGHT - TIME_BOTTOM, TIME_TOP};
    double low = INFINITY, high = -INFINITY, beyond;

    for (size_t j = 0; j < l->n_arms; j++)
        for (size_t i = 0; i < r->n_buckets; i++) {
            struct stats_interval b = band_at(r, &l->arms[j], i);

            if (isnan(b.value))
                continue;
            low = fmin(low, b.value);
            high = fmax(high, b.value);
            y.low = fmin(y.low, b.low);
            y.high = fmax(y.high, b.high);
        }
    beyond = 1.5 * (high - low) + 0.2 * high;
    y.low = fmax(0, fmax(y.low, low - beyond));
    y.high = fmin(y.high, high + beyond);
    return y;
}

static double clamp(const struct axis *a, double v)
{
    return at(a, fmin(fmax(v, a->low), a->high));
}

/* The stretch of buckets without a gap that begins at i. */
static size_t run_end(const struct report_arm *a, size_t i, size_t n)
{
    while (i < n && a->over_time[i].y > 0)
        i++;
    return i;
}

static void time_band(struct buf *out, const struct ctr_report *r, const struct report_arm *a,
                      size_t colour, const struct axis *x, const struct axis *y, size_t from,
                      size_t to)
{
    buf_printf(out, "<polygon class=\"band a%zu\" points=\"", colour);
    for (size_t i = from; i < to; i++)
        buf_printf(out, "%.1f,%.1f ", at(x, (double)i), clamp(y, band_at(r, a, i).low));
    for (size_t i = to; i-- > from;)
        buf_printf(out, "%.1f,%.1f ", at(x, (double)i), clamp(y, band_at(r, a, i).high));
    buf_printf(out, "\"/>\n<polyline class=\"curve a%zu\" points=\"", colour);
    for (size_t i = from; i < to; i++)
        buf_printf(out, "%.1f,%.1f ", at(x, (double)i), at(y, band_at(r, a, i).value));
    buf_puts(out, "\"/>\n");
}

static void time_points(struct buf *out, const struct ctr_report *r, const struct report_arm *a,
                        size_t colour, const struct axis *x, const struct axis *y)
{
    for (size_t i = 0; i < r->n_buckets; i++) {
        struct stats_interval b = band_at(r, a, i);

        if (isnan(b.value))
            continue;
        buf_printf(out, "<circle class=\"a%zu\" cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\"><title>", colour,
                   at(x, (double)i), at(y, b.value));
        html_text(out, a->seen->name);
        buf_puts(out, ", ");
        text_time(out, r->first_ms + (int64_t)i * r->c.bucket_ms);
        buf_puts(out, " UTC: ");
        text_percent(out, b.value);
        buf_puts(out, ", ");
        text_range(out, &b, true);
        buf_puts(out, "; ");
        text_count(out, a->over_time[i].y);
        buf_puts(out, " exposed</title></circle>\n");
    }
}

static void time_ticks(struct buf *out, const struct ctr_report *r, const struct axis *x)
{
    size_t every = (r->n_buckets + 4) / 5;

    for (size_t i = 0; i < r->n_buckets; i += every) {
        line(out, "tick", at(x, (double)i), TIME_HEIGHT - TIME_BOTTOM, at(x, (double)i),
             TIME_HEIGHT - TIME_BOTTOM + 5);
        text_open(out, "middle", at(x, (double)i), TIME_HEIGHT - TIME_BOTTOM + 20);
        text_time(out, r->first_ms + (int64_t)i * r->c.bucket_ms);
        buf_puts(out, "</text>\n");
    }
}

void svg_over_time(struct buf *out, const struct ctr_report *r, const struct report_layer *l)
{
    struct axis x = {0, r->n_buckets > 1 ? (double)(r->n_buckets - 1) : 1, LEFT + 50,
                     WIDTH - RIGHT - 50};
    struct axis y = time_values(r, l);
    double step;

    if (r->n_buckets == 0 || !isfinite(y.high))
        return;
    step = widen(&y, 5);
    open_svg(out, TIME_HEIGHT, "CTR over time for each arm with confidence bands");
    percent_axis(out, &y, step);
    time_ticks(out, r, &x);
    for (size_t j = 0; j < l->n_arms; j++)
        for (size_t i = 0, end; i < r->n_buckets; i = end + 1) {
            end = run_end(&l->arms[j], i, r->n_buckets);
            if (end > i)
                time_band(out, r, &l->arms[j], j % COLOURS, &x, &y, i, end);
        }
    for (size_t j = 0; j < l->n_arms; j++)
        time_points(out, r, &l->arms[j], j % COLOURS, &x, &y);
    buf_puts(out, "</svg>\n");
}

/* ---- forest ------------------------------------------------------------------------ */

#define ROW 22
#define FOREST_LEFT 250
#define FOREST_RIGHT 260

/* The figures, and CTR once more without degraded answers. */
#define FOREST_FIGURES (METRICS + 1)

static const struct stats_difference *forest_of(const struct report_arm *a, int figure)
{
    return figure < METRICS ? &a->versus[ALL][figure] : &a->versus[UNDEGRADED][METRIC_CTR];
}

static void forest_row(struct buf *out, const struct report_arm *a, size_t colour, int figure,
                       const struct axis *x, double y)
{
    const struct stats_difference *d = forest_of(a, figure);

    text_open(out, "end", FOREST_LEFT - 12, y + 4);
    html_text(out, a->seen->name);
    buf_printf(out, ", %s</text>\n",
               figure < METRICS ? metric_rows[figure].title : "CTR without degraded");
    text_open(out, "start", WIDTH - FOREST_RIGHT + 12, y + 4);
    if (isnan(d->lift.low)) {
        buf_puts(out, "-</text>\n");
        return;
    }
    buf_printf(out, "%+.1f %% (", 100 * d->lift.value);
    text_range(out, &d->lift, true);
    buf_puts(out, "), p ");
    text_p(out, d->p);
    buf_puts(out, "</text>\n");
    buf_printf(out,
               "<line class=\"whisker a%zu\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\"/>\n",
               colour, at(x, d->lift.low), y, at(x, d->lift.high), y);
    buf_printf(out, "<rect class=\"a%zu\" x=\"%.1f\" y=\"%.1f\" width=\"8\" height=\"8\"/>\n",
               colour, at(x, d->lift.value) - 4, y - 4);
}

static void forest_axis(struct buf *out, const struct axis *x, double step, double bottom)
{
    int digits = step >= 0.01 ? 0 : step >= 0.001 ? 1 : 2;

    for (double v = x->low; v <= x->high + step / 2; v += step) {
        bool zero = fabs(v) < step / 2;

        line(out, zero ? "zero" : "grid", at(x, v), 8, at(x, v), bottom);
        text_open(out, "middle", at(x, v), bottom + 16);
        if (zero)
            buf_puts(out, "0 %</text>\n");
        else
            buf_printf(out, "%+.*f %%</text>\n", digits, 100 * v);
    }
}

void svg_forest(struct buf *out, const struct report_layer *l)
{
    struct axis x = {0, 0, FOREST_LEFT, WIDTH - FOREST_RIGHT};
    size_t rows = FOREST_FIGURES * (l->n_arms - 1);
    double bottom = 16 + ROW * (double)rows, step, y = 8 + ROW / 2.0;

    if (l->n_arms < 2)
        return;
    for (size_t i = 1; i < l->n_arms; i++)
        for (int f = 0; f < FOREST_FIGURES; f++) {
            const struct stats_difference *d = forest_of(&l->arms[i], f);

            if (isnan(d->lift.low))
                continue;
            x.low = fmin(x.low, d->lift.low);
            x.high = fmax(x.high, d->lift.high);
        }
    step = widen(&x, 3);
    open_svg(out, (int)bottom + 26, "lift of each arm and figure with its interval");
    forest_axis(out, &x, step, bottom);
    for (int f = 0; f < FOREST_FIGURES; f++)
        for (size_t i = 1; i < l->n_arms; i++, y += ROW)
            forest_row(out, &l->arms[i], i % COLOURS, f, &x, y);
    buf_puts(out, "</svg>\n");
}

/* ---- sample ratio -------------------------------------------------------------------- */

void svg_ratio(struct buf *out, const struct report_layer *l)
{
    double total = 0, most = 0;
    struct axis x = {0, 1, FOREST_LEFT, WIDTH - FOREST_RIGHT};

    for (size_t i = 0; i < l->n_arms; i++)
        total += l->arms[i].sums[ALL][METRIC_PER_USER].n;
    for (size_t i = 0; i < l->n_arms; i++)
        most = fmax(most, fmax(l->arms[i].sums[ALL][METRIC_PER_USER].n / fmax(total, 1),
                               isnan(l->arms[i].share) ? 0 : l->arms[i].share));
    x.high = fmax(most * 1.1, 0.01);
    open_svg(out, ROW * (int)l->n_arms + 12, "share of each arm, observed and expected");
    for (size_t i = 0; i < l->n_arms; i++) {
        const struct report_arm *a = &l->arms[i];
        double n = a->sums[ALL][METRIC_PER_USER].n, share = n / fmax(total, 1);
        double y = 6 + ROW * (double)i;

        text_open(out, "end", FOREST_LEFT - 12, y + 15);
        html_text(out, a->seen->name);
        buf_printf(out,
                   "</text>\n<rect class=\"a%zu\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" "
                   "height=\"%d\"/>\n",
                   i % COLOURS, FOREST_LEFT, y + 3, at(&x, share) - FOREST_LEFT, ROW - 6);
        if (!isnan(a->share))
            line(out, "expected", at(&x, a->share), y, at(&x, a->share), y + ROW);
        text_open(out, "start", WIDTH - FOREST_RIGHT + 12, y + 15);
        text_count(out, n);
        buf_printf(out, " = %.2f %%", 100 * share);
        if (!isnan(a->share))
            buf_printf(out, ", expected %.4g %%", 100 * a->share);
        buf_puts(out, "</text>\n");
    }
    buf_puts(out, "</svg>\n");
}

/* ---- groups ------------------------------------------------------------------------ */

#define GROUP_HEIGHT 220
#define GROUP_BOTTOM 30
#define BAR_MAX 40

static bool is_shown(const struct report_layer *l, const struct description *d, size_t i)
{
    for (size_t j = 0; j < l->n_arms; j++)
        if (description_share(d, &l->arms[j], i)->exposed > 0)
            return true;
    return false;
}

static void group_bars(struct buf *out, const struct report_layer *l, const struct description *d,
                       size_t i, double from, double width, const struct axis *y)
{
    double bar = fmin(width / (double)l->n_arms, BAR_MAX);

    from += (width - bar * (double)l->n_arms) / 2;

    for (size_t j = 0; j < l->n_arms; j++) {
        const struct share *s = description_share(d, &l->arms[j], i);
        double ctr = description_ctr(s), top = at(y, isnan(ctr) ? 0 : ctr);

        buf_printf(out,
                   "<rect class=\"a%zu\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\">"
                   "<title>",
                   j % COLOURS, from + bar * (double)j, top, fmax(bar - 1, 0.5), y->from - top);
        html_text(out, l->arms[j].seen->name);
        buf_puts(out, ": ");
        text_percent(out, ctr);
        buf_puts(out, " of ");
        text_count(out, (double)s->exposed);
        buf_puts(out, "</title></rect>\n");
    }
}

void svg_groups(struct buf *out, const struct report_layer *l, const struct description *d)
{
    struct axis y = {0, 0, GROUP_HEIGHT - GROUP_BOTTOM, 10};
    size_t shown = 0;
    double step, width, x = LEFT;

    for (size_t i = 0; i < d->n; i++) {
        shown += is_shown(l, d, i);
        for (size_t j = 0; j < l->n_arms; j++)
            y.high = fmax(y.high, description_ctr(description_share(d, &l->arms[j], i)));
    }
    if (shown == 0)
        return;
    step = widen(&y, 4);
    y.low = 0;
    width = (double)(WIDTH - LEFT - RIGHT) / (double)shown;
    open_svg(out, GROUP_HEIGHT, "CTR of each arm by group");
    percent_axis(out, &y, step);
    for (size_t i = 0; i < d->n; i++) {
        if (!is_shown(l, d, i))
            continue;
        group_bars(out, l, d, i, x + width * 0.12, width * 0.76, &y);
        text_open(out, "middle", x + width / 2, GROUP_HEIGHT - GROUP_BOTTOM + 18);
        d->name(out, i);
        buf_puts(out, "</text>\n");
        x += width;
    }
    buf_puts(out, "</svg>\n");
}
