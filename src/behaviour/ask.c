/* ask.c - a pipeline of the stage: from jobs to questions, and from each answer back to its job.
 *
 * When the next reply is overdue, the jobs behind it are let go: they wait again, for another
 * connection. See hung.c for the one that stays. */
#include "recalld/metrics.h"
#include "stage.h"

static struct {
    int outcome[4]; /* by enum redis_outcome */
    int malformed, hung, seconds;
} metrics;

void ask_register_metrics(void)
{
    static const char *const outcomes[] = {
        [REDIS_REPLIED] = "outcome=\"replied\"",
        [REDIS_TIMED_OUT] = "outcome=\"timeout\"",
        [REDIS_FAILED] = "outcome=\"error\"",
        [REDIS_BLOCKED] = "outcome=\"blocked\"",
    };

    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
        metrics.outcome[i] = metric_counter("recalld_redis_commands_total",
                                            "Commands sent to Redis, by outcome.", outcomes[i]);
    metrics.malformed = metric_counter("recalld_behaviour_malformed_total",
                                       "Stored elements that could not be decoded.", "");
    metrics.hung = metric_counter("recalld_behaviour_hung_total",
                                  "Requests not asked of Redis because their key hangs.", "");
    metrics.seconds = metric_histogram(
        "recalld_redis_seconds", "Pipelines to Redis, until every command was answered or late.",
        "", metric_stage_bounds, METRIC_STAGE_BOUNDS_N);
}

/* ---- asking ---------------------------------------------------------------------- */

/* Adds the worker's job to the pipeline that is being made, unless its key is known to hang.
 * Returns the number of commands. */
static size_t ask(struct worker *w, struct behaviour_job *job, size_t at)
{
    struct behaviour *b = w->stage;
    enum hung_verdict v = hung_check(&b->hung, job->user_id, job->deadline_ns, w);

    if (v != HUNG_YES)
        return job_ask(&b->format, job, w, v == HUNG_TRY, &w->questions[at], &w->cmds[at]);
    metric_add(metrics.hung, 1);
    job_hand_back(job, BEHAVIOUR_TIMEOUT);
    return 0;
}

size_t ask_for(struct worker *w, struct behaviour_job *const *jobs, size_t n)
{
    struct behaviour *b = w->stage;
    bool may_ask = breaker_allows(b->breaker) && !waiting_is_closed(&b->waiting);
    size_t n_cmds = 0;

    w->asked_ns = clock_ns();
    for (size_t i = 0; i < n; i++) {
        if (!may_ask)
            job_hand_back(jobs[i], BEHAVIOUR_BREAKER);
        else if (jobs[i]->deadline_ns <= w->asked_ns)
            job_hand_back(jobs[i], BEHAVIOUR_TIMEOUT);
        else
            n_cmds += ask(w, jobs[i], n_cmds);
    }
    return n_cmds;
}

/* ---- answers --------------------------------------------------------------------- */

static void wait_again(struct behaviour *b, struct behaviour_job *job)
{
    job_reset(job, BEHAVIOUR_READ);
    if (waiting_push(&b->waiting, job, atomic_load(&b->lent) == 0))
        lend_flush(b);
    else
        job_hand_back(job, BEHAVIOUR_BREAKER);
}

void ask_answered(const struct redis_command *cmd, const struct redis_result *res)
{
    struct question *q = cmd->user;
    struct worker *w = q->owner;
    struct behaviour_job *job = q->job;

    metric_add(metrics.outcome[res->outcome], 1);
    if (res->outcome == REDIS_BLOCKED) { /* all questions of a job are, or none */
        if (q->hung)
            hung_release(&w->stage->hung, job->user_id, w);
        if (--job->awaiting == 0)
            wait_again(w->stage, job);
        return;
    }
    if (res->outcome != REDIS_REPLIED)
        w->failed = true;
    if (q->hung && res->outcome != REDIS_TIMED_OUT)
        hung_remove(&w->stage->hung, job->user_id);
    if (!job_answer(q, res))
        return;
    if (job->malformed > 0)
        metric_add(metrics.malformed, job->malformed);
    job->done(job);
}

void ask_over(const struct worker *w)
{
    metric_observe(metrics.seconds, (double)(clock_ns() - w->asked_ns) / 1e9);
}

/* ---- a reply that does not come -------------------------------------------------- */

/* Those behind are let go only when another connection can take them. A user that hung before is
 * not worth the last one. */
enum redis_overdue ask_overdue(const struct redis_command *cmd, void *arg)
{
    struct worker *w = arg;
    struct behaviour *b = w->stage;
    struct question *q = cmd == NULL ? NULL : cmd->user;

    if (q != NULL && !hung_add(&b->hung, q->job->user_id, q->job->deadline_ns, w))
        return REDIS_DROP;
    if (q != NULL)
        q->hung = true;
    worker_count_serving(w, false);
    if (atomic_load(&b->serving) > 0)
        return REDIS_ALONE;
    return cmd != NULL && cmd->doubtful ? REDIS_DROP : REDIS_WAIT;
}
