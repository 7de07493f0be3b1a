/* tune.c - which engine suits a catalogue, how much search effort it needs, and whether it finds
 * enough: measured on the answers of sample users, the best of all their interests together,
 * against exact search. */
#include "build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUERIES_MAX 500
#define RECALL_K 200        /* rows wanted of each query, what a request asks for by default... */
#define RECALL_SHARE 10     /* ...but at most a tenth of the catalogue */
#define BRUTE_PRODUCTS 2e10 /* multiplications spent on checking the exact engine: some seconds */
#define BRUTE_QUERIES_MIN 20
#define EFFORT_MAX 4096          /* beyond it exact search is no slower */
#define EFFORT_GRAPH_MIN 25      /* of our own walk through a graph */
#define FACTORY_DEFAULT "HNSW32" /* the best recall for its time among the graphs measured */

/* ---- engine and shards ---------------------------------------------------------- */

static const char *choose_engine(const struct builder *b)
{
    if (strcmp(b->ask->engine, "auto") != 0)
        return b->ask->engine;
    return b->ask->factory == NULL && b->rows < BUNDLE_EXACT_ROWS ? "exact" : "faiss";
}

static void say_engine(const struct builder *b)
{
    const struct manifest *m = &b->manifest;
    char rows[32], border[32];

    build_number(rows, b->rows);
    build_number(border, BUNDLE_EXACT_ROWS);
    if (strcmp(b->ask->engine, "auto") != 0)
        build_say(b, "%s rows: engine %s as asked", rows, m->engine);
    else if (strcmp(m->engine, "exact") == 0)
        build_say(
            b,
            "%s rows: exact search (below %s rows it costs less than a graph and misses nothing)",
            rows, border);
    else if (b->ask->factory != NULL)
        build_say(b, "%s rows: %s as asked", rows, m->factory);
    else
        build_say(b, "%s rows: a graph, %s (from %s rows on it costs less than exact search)", rows,
                  m->factory, border);
}

static int split_rows(struct builder *b)
{
    struct manifest *m = &b->manifest;
    size_t n = b->ask->shards > 0 ? (size_t)b->ask->shards
                                  : ((size_t)b->rows + BUNDLE_SHARD_ROWS - 1) / BUNDLE_SHARD_ROWS;
    bool files = strcmp(m->engine, "faiss") == 0;

    if (b->ask->shards == 0 && n > INDEX_SHARDS_MAX)
        n = INDEX_SHARDS_MAX;
    if (n > INDEX_SHARDS_MAX || n > b->rows)
        return err_set(b->err, ERR_USAGE, "shards: at most %d, and no more than rows (%u)",
                       INDEX_SHARDS_MAX, (unsigned)b->rows);
    m->n_shards = n;
    m->shards = xcalloc(n, sizeof *m->shards);
    for (size_t i = 0; i < n; i++) {
        uint64_t begin = (uint64_t)b->rows * i / n, end = (uint64_t)b->rows * (i + 1) / n;

        snprintf(b->shard_names[i], sizeof b->shard_names[i], "shards/%04zu.faiss", i);
        m->shards[i].file.file = files ? b->shard_names[i] : NULL;
        m->shards[i].first_row = (int64_t)(b->first_row + begin);
        m->shards[i].rows = (int64_t)(end - begin);
    }
    return 0;
}

int tune_choose(struct builder *b)
{
    struct manifest *m = &b->manifest;

    m->engine = choose_engine(b);
    if (strcmp(m->engine, "exact") == 0 && b->ask->factory != NULL)
        return err_set(b->err, ERR_USAGE, "factory: the exact engine has none");
    if (strcmp(m->engine, "faiss") == 0)
        m->factory = b->ask->factory == NULL ? FACTORY_DEFAULT : b->ask->factory;
    say_engine(b);
    return split_rows(b);
}

/* ---- measuring ------------------------------------------------------------------ */

struct measuring {
    struct builder *b;
    struct queries queries;
    struct answers truth;
    const char *effort_name; /* NULL: there is none to choose */
    size_t k;
};

static struct index *open_index(const struct measuring *t, bool exact, int64_t effort)
{
    const struct builder *b = t->b;
    const struct manifest *m = &b->manifest;
    struct index_shard *shards = xcalloc(m->n_shards, sizeof *shards);
    struct index_spec spec = {.engine = exact ? "exact" : m->engine,
                              .factory = exact ? NULL : m->factory,
                              .effort = (int)effort,
                              .shards = shards,
                              .n_shards = m->n_shards};
    struct index *ix;

    for (size_t i = 0; i < m->n_shards; i++) {
        const char *file = exact ? NULL : m->shards[i].file.file;

        shards[i] =
            (struct index_shard){file == NULL ? NULL : path_join(b->dir, file),
                                 (uint32_t)m->shards[i].first_row, (uint32_t)m->shards[i].rows};
    }
    ix = index_open(&spec, &b->vectors, b->err);
    for (size_t i = 0; i < m->n_shards; i++)
        free((char *)shards[i].path);
    free(shards);
    return ix;
}

static int sample(struct measuring *t)
{
    const struct builder *b = t->b;

    if (b->ask->histories != NULL)
        return queries_from_histories(&t->queries, b->model, b->items, b->ask->histories,
                                      QUERIES_MAX, b->err);
    build_say(b, "no sample histories: recall is measured on made-up ones, which flatter an index; "
                 "real ones (histories) tell more");
    if (queries_from_rows(&t->queries, b->model, b->items, QUERIES_MAX, b->err) == -1)
        return -1;
    queries_thin(&t->queries, QUERIES_MAX);
    if (t->queries.n == 0)
        return err_set(b->err, ERR_FORMAT,
                       "the model gives no interest for any of %d made-up histories", QUERIES_MAX);
    return 0;
}

/* Exact search is the truth for an index; brute force is the truth for exact search. */
static int find_truth(struct measuring *t)
{
    const struct builder *b = t->b;
    bool exact = strcmp(b->manifest.engine, "exact") == 0;
    double affordable = BRUTE_PRODUCTS / ((double)b->rows * (double)b->vectors.dim);
    struct index *ix;
    int result;

    build_progress(b, "search exactly", 0, t->queries.n);
    if (exact) {
        queries_thin(&t->queries, affordable > QUERIES_MAX         ? QUERIES_MAX
                                  : affordable < BRUTE_QUERIES_MIN ? BRUTE_QUERIES_MIN
                                                                   : (size_t)affordable);
        result =
            answers_brute(&t->truth, &b->vectors, b->first_row, b->rows, &t->queries, t->k, b->err);
    } else {
        ix = open_index(t, true, 0);
        result = ix == NULL ? -1 : answers_search(&t->truth, ix, &t->queries, t->k, b->err);
        index_free(ix);
    }
    build_progress(b, "search exactly", t->queries.n, t->queries.n);
    return result;
}

/* The recall at some effort, rounded down to four digits, or -1. */
static double recall_at(const struct measuring *t, int64_t effort)
{
    struct answers a = ANSWERS_INIT;
    struct index *ix = open_index(t, false, effort);
    char step[64];
    double recall = -1;

    if (t->effort_name != NULL)
        snprintf(step, sizeof step, "measure recall at %s", t->effort_name);
    else
        snprintf(step, sizeof step, "measure recall");
    build_progress(t->b, step, (size_t)effort, 0);
    if (ix != NULL && answers_search(&a, ix, &t->queries, t->k, t->b->err) == 0)
        recall = floor(answers_recall(&a, &t->truth) * 1e4) / 1e4;
    answers_clear(&a);
    index_free(ix);
    return recall;
}

/* ---- effort --------------------------------------------------------------------- */

/* Samples vary, so the target lies above the floor: a fifth of the way to 1. */
static double target_of(const struct bundle_build *ask)
{
    return ask->recall_floor + (1 - ask->recall_floor) / 5;
}

/* Faiss, which searches graphs of codes, looks from k rows at least: less would only look cheaper.
 */
static int64_t least_effort(const struct measuring *t)
{
    const char *code = strchr(t->b->manifest.factory, ',');

    if (strcmp(t->effort_name, "efSearch") != 0)
        return 1;
    return code == NULL || strcmp(code, ",Flat") == 0 ? EFFORT_GRAPH_MIN : (int64_t)t->k;
}

/* Doubles the effort until the target is reached, then halves the last gap until
 * it is an eighth of the effort. Leaves the best there is when the target is out of reach. */
static int find_effort(struct measuring *t)
{
    struct manifest *m = &t->b->manifest;
    double target = target_of(t->b->ask);
    int64_t low = 0, high = least_effort(t);

    for (;;) {
        m->recall = recall_at(t, high);
        if (m->recall < 0 || m->recall >= target || high >= EFFORT_MAX)
            break;
        low = high;
        high = 2 * high < EFFORT_MAX ? 2 * high : EFFORT_MAX;
    }
    while (m->recall >= target && low > 0 && high - low > 1 && high - low > high / 8) {
        int64_t middle = low + (high - low) / 2;
        double recall = recall_at(t, middle);

        if (recall < 0)
            return -1;
        if (recall >= target) {
            high = middle;
            m->recall = recall;
        } else {
            low = middle;
        }
    }
    m->effort = high;
    return m->recall < 0 ? -1 : 0;
}

static int measure(struct measuring *t)
{
    struct manifest *m = &t->b->manifest;

    if (t->effort_name != NULL && t->b->ask->effort == 0)
        return find_effort(t);
    m->effort = t->effort_name == NULL ? 0 : t->b->ask->effort;
    m->recall = recall_at(t, m->effort);
    return m->recall < 0 ? -1 : 0;
}

/* ---- the verdict ---------------------------------------------------------------- */

static const char *advice(const struct measuring *t)
{
    if (strcmp(t->b->manifest.engine, "exact") == 0)
        return "exact search must find everything: this is a fault of recalld or of this machine";
    if (t->effort_name == NULL)
        return "try a factory that loses less, one whose effort can be raised, or the engine exact";
    if (t->b->ask->effort > 0)
        return "try more effort (0 measures how much is needed), another factory, or the engine "
               "exact";
    return "try another factory, the engine exact, or a lower floor";
}

static int judge(const struct measuring *t)
{
    const struct builder *b = t->b;
    const struct manifest *m = &b->manifest;
    struct buf at = BUF_INIT;
    int result = 0;

    if (t->effort_name != NULL)
        buf_printf(&at, " at %s %lld", t->effort_name, (long long)m->effort);
    if (m->recall < b->ask->recall_floor)
        result = err_set(b->err, ERR_LIMIT,
                         "recall@%zu on %s histories is %.4f%s, below the floor of %g: %s", t->k,
                         b->ask->histories == NULL ? "made-up" : "sample", m->recall, buf_cstr(&at),
                         b->ask->recall_floor, advice(t));
    else
        build_say(b, "recall@%zu on %zu interests of %zu sample users: %.4f%s (floor %g)", t->k,
                  t->queries.n, t->queries.users, m->recall, buf_cstr(&at), b->ask->recall_floor);
    buf_clear(&at);
    return result;
}

int tune_measure(struct builder *b)
{
    const struct manifest *m = &b->manifest;
    size_t share = b->rows / RECALL_SHARE;
    struct measuring t = {
        .b = b,
        .queries = QUERIES_INIT,
        .truth = ANSWERS_INIT,
        .effort_name = m->factory == NULL ? NULL : index_effort_name(m->factory),
        .k = share > RECALL_K ? RECALL_K
             : share > 0      ? share
                              : 1,
    };
    int result = -1;

    if (b->ask->effort > 0 && t.effort_name == NULL)
        err_set(b->err, ERR_USAGE, "effort: cannot be set for %s",
                m->factory == NULL ? "exact search" : m->factory);
    else if (sample(&t) == 0 && find_truth(&t) == 0 && measure(&t) == 0)
        result = judge(&t);
    answers_clear(&t.truth);
    queries_clear(&t.queries);
    return result;
}
