/* description.c - names and shares of the groups that items are described by. */
#include "description.h"

#include <math.h>

static void put_interest(struct buf *b, size_t i)
{
    if (i + 1 == INTERESTS)
        buf_puts(b, "none");
    else
        buf_printf(b, "%zu", i);
}

static void put_rank(struct buf *b, size_t i)
{
    int first = i == 0 ? 0 : rank_ends[i - 1];

    if (i + 1 == RANKS)
        buf_printf(b, "%d and more", first);
    else
        buf_printf(b, "%d-%d", first, rank_ends[i] - 1);
}

static void put_shown(struct buf *b, size_t i)
{
    buf_printf(b, i + 1 == SHOWN ? "%zu and more" : "%zu", i);
}

const struct description descriptions[DESCRIPTIONS] = {
    {"by interest", offsetof(struct seen_arm, interests), INTERESTS, put_interest},
    {"by place in the answer", offsetof(struct seen_arm, ranks), RANKS, put_rank},
    {"by position shown", offsetof(struct seen_arm, shown), SHOWN, put_shown},
};

const struct share *description_share(const struct description *d, const struct report_arm *a,
                                      size_t group)
{
    return (const struct share *)((const char *)a->seen + d->offset) + group;
}

bool description_has(const struct description *d, const struct report_layer *l, size_t group)
{
    for (size_t i = 0; i < l->n_arms; i++) {
        const struct share *s = description_share(d, &l->arms[i], group);

        if (s->exposed > 0 || s->hits > 0)
            return true;
    }
    return false;
}

bool description_empty(const struct description *d, const struct report_layer *l)
{
    for (size_t i = 0; i < d->n; i++)
        if (description_has(d, l, i))
            return false;
    return true;
}

double description_ctr(const struct share *s)
{
    return s->exposed > 0 ? (double)s->clicked / (double)s->exposed : NAN;
}
