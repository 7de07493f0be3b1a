/* score.c - the figures of one answer. Each is the definition written down, nothing cleverer: lists
 * are short, and it is the definitions that people get wrong. */
#include "recalld/eval.h"

#include <math.h>

const char *const eval_ndcg_words[EVAL_NDCG_COUNT] = {"master", "standard", "paper"};
const char *const eval_ndcg_about[EVAL_NDCG_COUNT] = {
    "gains 1/log2(r+2) of the hits' ranks r (from 0) / those of as many hits at the top",
    "gains 1/log2(r+2) of the hits' ranks r (from 0) / those of min(N, different targets) hits at "
    "the top",
    "gains 1/log2(p+2) of the found targets' places p (from 0) among the targets / those of as "
    "many at the top",
};
const char eval_recall_about[] = "hits / targets (a target that comes twice counts twice)";
const char eval_hit_rate_about[] = "users with at least one hit / users";
const char eval_diversity_about[] =
    "pairs of answers without a common value of the attribute / pairs of answers";

static bool contains(const uint32_t *rows, size_t n, uint32_t row)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i] == row)
            return true;
    return false;
}

static double gain(size_t rank)
{
    return 1 / log2((double)rank + 2);
}

/* Of `n` hits at ranks 0 to n - 1. */
static double best_gain(size_t n)
{
    double sum = 0;

    for (size_t rank = 0; rank < n; rank++)
        sum += gain(rank);
    return sum;
}

static size_t count_different(const uint32_t *rows, size_t n)
{
    size_t different = 0;

    for (size_t i = 0; i < n; i++)
        different += !contains(rows, i, rows[i]);
    return different;
}

/* By the answer's order. */
static double ndcg_by_rank(const uint32_t *answer, size_t n_answer, const uint32_t *targets,
                           size_t n_targets, size_t ideal_hits)
{
    double sum = 0;

    for (size_t rank = 0; rank < n_answer; rank++)
        if (contains(targets, n_targets, answer[rank]))
            sum += gain(rank);
    return sum / best_gain(ideal_hits);
}

/* By the targets' order. A target that comes twice is found twice. */
static double ndcg_by_target(const uint32_t *answer, size_t n_answer, const uint32_t *targets,
                             size_t n_targets)
{
    double sum = 0;
    size_t found = 0;

    for (size_t place = 0; place < n_targets; place++)
        if (contains(answer, n_answer, targets[place])) {
            sum += gain(place);
            found++;
        }
    return sum / best_gain(found);
}

static double ndcg(const uint32_t *answer, size_t n_answer, const uint32_t *targets,
                   size_t n_targets, size_t n, size_t hits, enum eval_ndcg kind)
{
    size_t different;

    switch (kind) {
    case EVAL_NDCG_STANDARD:
        different = count_different(targets, n_targets);
        return ndcg_by_rank(answer, n_answer, targets, n_targets, different < n ? different : n);
    case EVAL_NDCG_PAPER:
        return ndcg_by_target(answer, n_answer, targets, n_targets);
    case EVAL_NDCG_MASTER:
    case EVAL_NDCG_COUNT:
        break;
    }
    return ndcg_by_rank(answer, n_answer, targets, n_targets, hits);
}

struct eval_score eval_score(const uint32_t *answer, size_t n_answer, const uint32_t *targets,
                             size_t n_targets, size_t n, enum eval_ndcg kind)
{
    struct eval_score s = {0, 0, 0};

    for (size_t i = 0; i < n_answer; i++)
        s.hits += contains(targets, n_targets, answer[i]);
    if (s.hits == 0)
        return s;
    s.recall = (double)s.hits / (double)n_targets;
    s.ndcg = ndcg(answer, n_answer, targets, n_targets, n, s.hits, kind);
    return s;
}

static bool alike(const struct items *items, size_t attribute, uint32_t a, uint32_t b)
{
    size_t n, m;
    const uint32_t *mine = items_values(items, attribute, a, &n);
    const uint32_t *others = items_values(items, attribute, b, &m);

    for (size_t i = 0; i < n; i++)
        if (contains(others, m, mine[i]))
            return true;
    return false;
}

double eval_diversity(const struct items *items, size_t attribute, const uint32_t *rows, size_t n)
{
    size_t differ = 0;

    if (n < 2)
        return 0;
    for (size_t i = 1; i < n; i++)
        for (size_t j = 0; j < i; j++)
            differ += !alike(items, attribute, rows[i], rows[j]);
    return (double)differ / ((double)n * (double)(n - 1) / 2);
}
