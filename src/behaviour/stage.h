/* stage.h - inside behaviour/ only: what the stage is made of. behaviour.c starts it, and its
 * threads look after the connections; ask.c makes and takes apart pipelines; lend.c has the
 * poller's threads do that while all goes well. */
#ifndef RECALLD_BEHAVIOUR_STAGE_H
#define RECALLD_BEHAVIOUR_STAGE_H

#include "format.h"
#include "hung.h"
#include "waiting.h"

#define BATCH_MAX 64
#define IDLE_NS ((uint64_t)100000000) /* how often an idle connection is looked at */

/* A connection and its thread. Whoever holds it, the thread or, while it is lent, the one that is
 * inside its source, has all that is not atomic to himself. */
struct worker {
    struct behaviour *stage;
    struct redis_conn *conn;
    pthread_t thread;
    bool started;
    bool up, serving; /* as counted in the stage */
    bool failed;      /* something did since it was logged */
    struct redis_connects counted;
    uint64_t asked_ns; /* when the pipeline was made */

    struct poll_source *source; /* NULL = never lent */
    uint64_t watched;           /* which of its connections the source watches */
    sem_t called;               /* wakes the thread while the connection is lent */
    atomic_bool lent;
    atomic_bool wanted;       /* the thread would have it back */
    atomic_bool busy;         /* a pipeline is on its way */
    atomic_bool used;         /* one was, since the thread looked */
    _Atomic uint64_t late_ns; /* when the thread must finish that pipeline, UINT64_MAX = never */
    _Atomic uint64_t look_ns; /* when it looks at late_ns */

    struct question questions[BATCH_MAX * QUESTIONS_PER_JOB];
    struct redis_command cmds[BATCH_MAX * QUESTIONS_PER_JOB];
};

struct behaviour {
    struct format format;
    char *address;
    struct breaker *breaker;
    struct waiting waiting;
    struct hung hung;
    struct worker *workers;
    size_t n_workers;
    uint64_t timeout_ns;
    pthread_t timekeeper;
    bool keeps_time;
    atomic_int up;               /* connections */
    atomic_int serving;          /* of these, not waiting for an overdue reply */
    atomic_int lent;             /* of these, those that the poller's threads serve */
    _Atomic uint64_t opened;     /* of the breaker's openings, those counted */
    _Atomic uint64_t down_cause; /* as logged, the hash of its text; 0 = not down */
    _Atomic uint64_t last_cause; /* the same, of the last time it was down */
};

static inline void job_hand_back(struct behaviour_job *job, enum behaviour_status status)
{
    job->status = status;
    job->done(job);
}

/* behaviour.c */
void worker_log_state(struct worker *w);
void worker_count_serving(struct worker *w, bool serving);

/* ask.c */
void ask_register_metrics(void);
/* Makes one pipeline for the jobs in w->cmds and returns its length; hands back those that are not
 * to be asked. */
size_t ask_for(struct worker *w, struct behaviour_job *const *jobs, size_t n);
void ask_answered(const struct redis_command *cmd, const struct redis_result *res);
enum redis_overdue ask_overdue(const struct redis_command *cmd, void *arg);
void ask_over(const struct worker *w); /* the pipeline is */

/* lend.c */
/* Lends the worker's connection to the poller's threads until something is not well, it was idle
 * for a while or the stage is closed, and does what is then left of its pipeline. False, at once,
 * when it cannot be lent. */
bool lend(struct worker *w);
void lend_call(struct worker *w); /* the stage is closed: the thread shall look */
/* Has free connections that are lent take all that waits. */
void lend_flush(struct behaviour *b);
void lend_init(struct worker *w, struct poller *p);
void lend_clear(struct worker *w); /* no thread of the poller is inside afterwards */

#endif
