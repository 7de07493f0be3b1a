/* run.c - all users through the serving path, on all threads.
 *
 * Threads take batches of users one after the other and add up each batch by itself; the batches'
 * sums are added up in their order at the end, so the figures do not depend on the threads. */
#include "recalld/eval.h"

#include <stdlib.h>
#include <string.h>

#define HISTORY_MAX 10000 /* as many as a request may bring; the newest are asked with */

struct run {
    const struct eval_ask *ask;
    const struct config *cfg;
    struct registry *reg;
    const struct eval_data *data;
    const struct bundle *bundle;
    struct index *instead; /* or NULL */
    size_t attribute;
    size_t n_users, n_batches; /* tested */
    bundle_progress progress;
    void *arg;

    struct eval_result *sums; /* (n_batches) sums where the result has means */
    atomic_size_t next, done;
    atomic_bool failed;
    pthread_mutex_t lock; /* of *err */
    struct err *err;
};

/* One user of a batch. */
struct test {
    struct eval_user user;
    struct eval_cut cut;
    struct buf body;
};

/* One thread's. */
struct tester {
    struct run *run;
    struct recall_direct *direct;
    struct test *tests;           /* (batch) */
    struct str *bodies;           /* (batch) */
    struct recall_reply *replies; /* (batch) */
    struct arena arena;           /* of one user */
};

/* ---- asking ------------------------------------------------------------------------ */

static void write_body(struct test *t, size_t n)
{
    size_t first = t->cut.history > HISTORY_MAX ? t->cut.history - HISTORY_MAX : 0;

    t->body.len = 0;
    buf_printf(&t->body, "{\"n\":%zu,\"history\":[", n);
    for (size_t i = first; i < t->cut.history; i++) {
        if (i > first)
            buf_putc(&t->body, ',');
        buf_json(&t->body, t->user.items[i].p, t->user.items[i].len);
    }
    buf_puts(&t->body, "]}");
}

/* The users [begin, end) of those that are tested, without those that are too short. */
static size_t choose_tests(struct tester *w, size_t begin, size_t end, struct eval_result *sums)
{
    const struct eval_ask *ask = w->run->ask;
    size_t n = 0;

    for (size_t i = begin; i < end; i++) {
        struct test *t = &w->tests[n];

        t->user = eval_data_user(w->run->data, (i + 1) * (size_t)ask->every - 1);
        if (!ask->protocol->cut(&t->user, ask->seed, &t->cut)) {
            sums->too_short++;
            continue;
        }
        write_body(t, ask->n);
        w->bodies[n++] = (struct str){t->body.p, t->body.len};
    }
    return n;
}

/* ---- judging ----------------------------------------------------------------------- */

static int check_reply(const struct test *t, const struct recall_reply *r, struct err *err)
{
    if (r->status != 200)
        return err_set(err, ERR_USAGE, "user %.*s: %s", (int)t->user.id.len, t->user.id.p,
                       r->text.p);
    if (r->degraded & UINT32_C(1) << DEGRADED_SHARD_FAILED)
        return err_set(err, ERR_FORMAT, "a shard of the index cannot be searched");
    return 0;
}

static bool same(struct str a, struct str b)
{
    return a.len == b.len && memcmp(a.p, b.p, a.len) == 0;
}

/* Rows of the targets. What the bundle does not have gets a number that is no row, a repeated item
 * the same one. */
static uint32_t *target_rows(struct tester *w, const struct test *t, size_t *n, size_t *unknown)
{
    const struct items *items = bundle_items(w->run->bundle);
    const struct str *targets = t->user.items + t->cut.history;
    uint32_t *rows;

    *n = t->cut.end - t->cut.history;
    rows = arena_alloc(&w->arena, *n * sizeof *rows);
    for (size_t i = 0; i < *n; i++) {
        rows[i] = items_row(items, targets[i].p, targets[i].len);
        if (rows[i] != ITEMS_NONE)
            continue;
        ++*unknown;
        rows[i] = UINT32_MAX - (uint32_t)i;
        for (size_t j = 0; j < i; j++)
            if (same(targets[i], targets[j]))
                rows[i] = rows[j];
    }
    return rows;
}

static size_t count_unknown(const struct items *items, const struct str *ids, size_t n)
{
    size_t unknown = 0;

    for (size_t i = 0; i < n; i++)
        unknown += items_row(items, ids[i].p, ids[i].len) == ITEMS_NONE;
    return unknown;
}

static void judge(struct tester *w, const struct test *t, const struct recall_reply *r,
                  struct eval_result *sums)
{
    const struct items *items = bundle_items(w->run->bundle);
    const struct eval_ask *ask = w->run->ask;
    struct eval_score s;
    uint32_t *targets;
    size_t n_targets;

    arena_reset(&w->arena);
    targets = target_rows(w, t, &n_targets, &sums->targets_unknown);
    s = eval_score(r->rows, r->n_rows, targets, n_targets, ask->n, ask->ndcg);
    sums->users++;
    sums->hits += s.hits > 0;
    sums->short_answers += r->n_rows < ask->n;
    sums->history += t->cut.history;
    sums->history_unknown += count_unknown(items, t->user.items, t->cut.history);
    sums->targets += n_targets;
    sums->recall += s.recall;
    sums->ndcg += s.ndcg;
    if (ask->diversity)
        sums->diversity += eval_diversity(items, w->run->attribute, r->rows, r->n_rows);
}

static int run_batch(struct tester *w, size_t batch, struct err *err)
{
    struct run *run = w->run;
    struct eval_result *sums = &run->sums[batch];
    size_t begin = batch * run->ask->batch, end = begin + run->ask->batch, n;

    n = choose_tests(w, begin, end < run->n_users ? end : run->n_users, sums);
    recall_direct_answer(w->direct, w->bodies, n, w->replies);
    for (size_t i = 0; i < n; i++) {
        if (check_reply(&w->tests[i], &w->replies[i], err) == -1)
            return -1;
        judge(w, &w->tests[i], &w->replies[i], sums);
    }
    return 0;
}

/* ---- threads ----------------------------------------------------------------------- */

static void tester_init(struct tester *w, struct run *run)
{
    size_t batch = run->ask->batch;

    *w = (struct tester){.run = run, .direct = recall_direct_new(run->cfg, run->reg)};
    recall_direct_index(w->direct, run->instead);
    w->tests = xcalloc(batch, sizeof *w->tests);
    w->bodies = xcalloc(batch, sizeof *w->bodies);
    w->replies = xcalloc(batch, sizeof *w->replies);
}

static void tester_clear(struct tester *w)
{
    for (size_t i = 0; i < w->run->ask->batch; i++)
        buf_clear(&w->tests[i].body);
    free(w->tests);
    free(w->bodies);
    free(w->replies);
    recall_direct_free(w->direct);
    arena_clear(&w->arena);
}

static void run_failed(struct run *run, const struct err *why)
{
    pthread_mutex_lock(&run->lock);
    err_set(run->err, why->code, "%s", why->text);
    pthread_mutex_unlock(&run->lock);
    atomic_store(&run->failed, true);
}

static void work(struct run *run, bool tells)
{
    struct err err = ERR_INIT;
    struct tester w;
    size_t batch;

    tester_init(&w, run);
    while (!atomic_load(&run->failed) &&
           (batch = atomic_fetch_add(&run->next, 1)) < run->n_batches) {
        if (run_batch(&w, batch, &err) == -1)
            run_failed(run, &err);
        atomic_fetch_add(&run->done, 1);
        if (tells && run->progress != NULL)
            run->progress(run->arg, "users", atomic_load(&run->done), run->n_batches);
    }
    tester_clear(&w);
}

static void *work_silently(void *arg)
{
    work(arg, false);
    return NULL;
}

/* The calling thread works too, and tells how far all of them are. */
static void work_together(struct run *run)
{
    size_t most = run->ask->threads < 1 ? 1 : (size_t)run->ask->threads, started = 0;
    pthread_t *threads;

    if (most > run->n_batches)
        most = run->n_batches;
    threads = xcalloc(most, sizeof *threads);
    while (started + 1 < most && pthread_create(&threads[started], NULL, work_silently, run) == 0)
        started++; /* fewer threads than wished for are slower, no more */
    work(run, true);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    free(threads);
}

/* ---- the whole --------------------------------------------------------------------- */

static int check_protocol(const struct run *run)
{
    const struct eval_protocol *p = run->ask->protocol;

    if (p->normalised && !model_options(bundle_model(run->bundle))->normalize_user)
        return err_set(run->err, ERR_USAGE,
                       "protocol %s asks for interests of length 1, and bundle %s does not "
                       "normalise them: build it with --model.normalize_user=true",
                       p->name, bundle_name(run->bundle));
    return 0;
}

static int find_attribute(struct run *run)
{
    const struct items *items = bundle_items(run->bundle);
    const char *name = run->cfg->recall.diversity_attribute;
    int attribute = name[0] != '\0'               ? items_attribute(items, name, strlen(name))
                    : items_attributes(items) > 0 ? 0
                                                  : -1;

    if (attribute == -1)
        return err_set(run->err, ERR_USAGE, "bundle %s has no attribute%s%s to tell diversity by",
                       bundle_name(run->bundle), name[0] == '\0' ? "" : " ", name);
    run->attribute = (size_t)attribute;
    return 0;
}

static int open_exact(struct run *run)
{
    const struct items *items = bundle_items(run->bundle);
    struct index_shard all = {NULL, items_first_row(items), 0};
    struct index_spec spec = {.engine = "exact", .shards = &all, .n_shards = 1};

    all.rows = items_last_row(items) - all.first_row + 1;
    run->instead = index_open(&spec, bundle_vectors(run->bundle), run->err);
    return run->instead == NULL ? -1 : 0;
}

static int prepare(struct run *run)
{
    if (run->bundle == NULL)
        return err_set(run->err, ERR_UNAVAILABLE, "no bundle is loaded");
    if (check_protocol(run) == -1 || (run->ask->diversity && find_attribute(run) == -1) ||
        (run->ask->exact && open_exact(run) == -1))
        return -1;
    run->n_users = eval_data_users(run->data) / (size_t)run->ask->every;
    run->n_batches = (run->n_users + run->ask->batch - 1) / run->ask->batch;
    run->sums = xcalloc(run->n_batches + 1, sizeof *run->sums);
    return 0;
}

static void add(struct eval_result *to, const struct eval_result *from)
{
    to->users += from->users;
    to->too_short += from->too_short;
    to->hits += from->hits;
    to->short_answers += from->short_answers;
    to->history += from->history;
    to->history_unknown += from->history_unknown;
    to->targets += from->targets;
    to->targets_unknown += from->targets_unknown;
    to->recall += from->recall;
    to->ndcg += from->ndcg;
    to->diversity += from->diversity;
}

/* Sums become means. */
static int conclude(const struct run *run, struct eval_result *out)
{
    double users;

    for (size_t i = 0; i < run->n_batches; i++)
        add(out, &run->sums[i]);
    if (out->users == 0)
        return err_set(run->err, ERR_USAGE,
                       "protocol %s tests no user: one of %d is due, and %zu of those are too "
                       "short",
                       run->ask->protocol->name, run->ask->every, out->too_short);
    if (out->history_unknown == out->history)
        return err_set(run->err, ERR_USAGE,
                       "bundle %s has none of the items that users are asked with",
                       bundle_name(run->bundle));
    users = (double)out->users;
    out->recall /= users;
    out->hit_rate = (double)out->hits / users;
    out->ndcg /= users;
    out->diversity /= users;
    return 0;
}

int eval_run(const struct eval_ask *ask, const struct config *cfg, struct registry *reg,
             const struct eval_data *d, bundle_progress progress, void *arg,
             struct eval_result *out, struct err *err)
{
    const struct bundle_set *set = registry_acquire(reg);
    struct run run = {.ask = ask,
                      .cfg = cfg,
                      .reg = reg,
                      .data = d,
                      .bundle = bundle_set_find(set, NULL),
                      .progress = progress,
                      .arg = arg,
                      .lock = PTHREAD_MUTEX_INITIALIZER,
                      .err = err};
    int result = prepare(&run);

    *out = (struct eval_result){0};
    if (result == 0) {
        uint64_t begin = clock_ns();

        if (run.n_batches > 0)
            work_together(&run);
        out->seconds = (double)(clock_ns() - begin) * 1e-9;
        result = atomic_load(&run.failed) ? -1 : conclude(&run, out);
    }
    free(run.sums);
    index_free(run.instead);
    bundle_set_release(set);
    return result;
}
