/* effort.c - the effort controller.
 *
 * Less at once. When at every moment of a short window even the newest call that was taken had
 * waited long, there is a queue that does not go away, unlike one that a burst leaves behind. That,
 * or a kernel that withholds processor time, raises the level by one, window after window.
 *
 * More slowly. At the end of every quiet period the share of time in which workers were busy, times
 * what a call of the level below costs more, says how busy they would be there. If that leaves
 * room, the level falls by one. What a call costs is learned for each level.
 *
 * No to and fro. A restore that has to be taken back although no more requests come was wrong, for
 * a reason the forecast does not see (a quota, say): for a while, four times longer each time,
 * nothing is restored unless the load falls well below what it was then. */
#include "effort.h"

#include <math.h>
#include <stdlib.h>

#define WINDOW_NS 20000000u
#define WINDOW_CALLS 32      /* fewer say too little, unless requests are being refused */
#define PERIOD_NS 300000000u /* four steps and what drains before fit into two seconds */
#define TARGET_SHARE 5       /* of the deadline: a wait longer than a fifth of it is a queue */
#define DRAINING 0.9         /* times the window before: a queue that falls so fast needs no help */
#define ROOM 0.9             /* of the workers' time may be taken at the better level */
#define CERTAINTY 2          /* standard deviations that a period's figures may be off */
#define STEP_COST_MAX 2      /* a better level costs at most so many times as much */
#define COST_WEIGHT 8        /* a batch moves the average by an eighth of the difference */
#define COST_CALLS 512       /* that an average is made of, at most */
#define COST_JUMP 4          /* more than so many times the average is a worker that was held up */
#define SAME_LOAD 1.5        /* times the requests of before is not yet another load */
#define SOON_NS 20000000000u /* a restore that lasts so long was right */
#define BACKOFF_NS 2000000000u
#define BACKOFF_MAX_NS 128000000000u
#define BACKOFF_ROOM 0.8 /* of the load at which it went wrong */
#define THROTTLE_LOOK_NS 100000000u
#define THROTTLE_SHARE 0.05 /* of the time between two looks */

struct effort {
    _Atomic uint64_t deadline, cost_now; /* ns */
    atomic_bool refused;
    pthread_mutex_t lock; /* of all below */
    int workers;
    bool control;
    int level;
    struct level_cost {
        double ns;    /* of a worker for a call */
        size_t calls; /* that the average is made of */
    } cost[EFFORT_LEVELS];

    /* the window */
    uint64_t window;              /* since when */
    size_t taken;                 /* calls in it */
    uint64_t least, least_before; /* shortest wait in it and in the one before */

    /* the period */
    uint64_t period;
    int running;   /* batches under way */
    uint64_t seen; /* up to here, `busy` is complete */
    double busy;   /* worker ns */
    size_t calls;

    /* the last restore */
    uint64_t restored; /* when; 0 = none, or it has been judged */
    double rate;       /* calls per ns then */
    double forecast;   /* how busy it would be */
    double ceiling;    /* until then, the forecast must stay below this */
    uint64_t until, backoff;

    struct throttle *throttle;
    uint64_t looked, withheld;
};

struct effort *effort_new(int workers, bool control, struct throttle *throttle)
{
    struct effort *e = xcalloc(1, sizeof *e);

    pthread_mutex_init(&e->lock, NULL);
    e->workers = workers;
    e->control = control;
    e->least = UINT64_MAX;
    e->throttle = throttle;
    if (throttle != NULL)
        e->withheld = throttle_ns(throttle);
    return e;
}

void effort_free(struct effort *e)
{
    if (e == NULL)
        return;
    throttle_free(e->throttle);
    pthread_mutex_destroy(&e->lock);
    free(e);
}

void effort_set_deadline(struct effort *e, uint64_t ns)
{
    atomic_store_explicit(&e->deadline, ns, memory_order_relaxed);
}

uint64_t effort_cost(const struct effort *e)
{
    return atomic_load_explicit(&e->cost_now, memory_order_relaxed);
}

void effort_refused(struct effort *e)
{
    atomic_store_explicit(&e->refused, true, memory_order_relaxed);
}

/* ---- what a call costs ------------------------------------------------------------------- */

/* Two averages: one that follows at once, for admission, and one per level that holds still enough
 * to compare levels by. A batch that took far too long says that its worker was held up. */
static void learn_cost(struct effort *e, int level, double ns, size_t n)
{
    struct level_cost *c = &e->cost[level];
    double now = (double)effort_cost(e);

    if (now > 0)
        ns = fmin(ns, COST_JUMP * now);
    c->calls = c->calls + n < COST_CALLS ? c->calls + n : COST_CALLS;
    c->ns += (ns - c->ns) * (double)n / (double)c->calls;
    now += now == 0 ? ns : (ns - now) / COST_WEIGHT;
    atomic_store_explicit(&e->cost_now, (uint64_t)now, memory_order_relaxed);
}

/* What was learned of the level when it was left counts for little by now. */
static void set_level(struct effort *e, int level)
{
    struct level_cost *c = &e->cost[level];

    if (c->calls == 0)
        c->ns = e->cost[e->level].ns;
    c->calls = c->calls < COST_CALLS / 16 ? c->calls : COST_CALLS / 16;
    e->level = level;
}

/* ---- time passes --------------------------------------------------------------------------- */

/* Several threads took their times before they took the lock: a little disorder is theirs. */
static uint64_t advance(struct effort *e, uint64_t now)
{
    if (now < e->seen)
        return e->seen;
    if (e->seen != 0)
        e->busy += (double)e->running * (double)(now - e->seen);
    else
        e->window = e->period = e->looked = now;
    e->seen = now;
    return now;
}

static void begin_period(struct effort *e, uint64_t now)
{
    e->period = now;
    e->busy = 0;
    e->calls = 0;
}

/* Calls per ns since then. */
static double rate_of(size_t calls, uint64_t since, uint64_t now)
{
    return (double)calls / (double)(now - since + 1);
}

/* ---- up ------------------------------------------------------------------------------------ */

static uint64_t longer(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Was the last restore wrong? Not when it lasted, and not when more requests came after it. */
static void judge_restore(struct effort *e, uint64_t now, double rate)
{
    if (e->restored == 0)
        return;
    if (now - e->restored > longer(SOON_NS, e->backoff)) {
        e->backoff = 0;
    } else if (rate < SAME_LOAD * e->rate) {
        e->backoff = longer(BACKOFF_NS, e->backoff * 4);
        if (e->backoff > BACKOFF_MAX_NS)
            e->backoff = BACKOFF_MAX_NS;
        e->until = now + e->backoff;
        e->ceiling = BACKOFF_ROOM * e->forecast;
    }
    e->restored = 0;
}

static void raise_level(struct effort *e, uint64_t now, double rate)
{
    judge_restore(e, now, rate);
    if (e->level < EFFORT_LEVELS - 1)
        set_level(e, e->level + 1);
    begin_period(e, now);
}

static bool window_tells(struct effort *e)
{
    return atomic_exchange_explicit(&e->refused, false, memory_order_relaxed) ||
           e->taken >= WINDOW_CALLS;
}

static void end_window(struct effort *e, uint64_t now)
{
    uint64_t target = atomic_load_explicit(&e->deadline, memory_order_relaxed) / TARGET_SHARE;

    if (e->least > target && (double)e->least > DRAINING * (double)e->least_before)
        raise_level(e, now, rate_of(e->taken, e->window, now));
    e->least_before = e->least;
    e->least = UINT64_MAX;
    e->taken = 0;
    e->window = now;
}

static void watch_queue(struct effort *e, uint64_t now, uint64_t waited, size_t n)
{
    e->least = waited < e->least ? waited : e->least;
    e->taken += n;
    if (now - e->window >= WINDOW_NS && window_tells(e))
        end_window(e, now);
}

static void look_at_throttle(struct effort *e, uint64_t now)
{
    uint64_t withheld = throttle_ns(e->throttle);
    double limit = THROTTLE_SHARE * (double)(now - e->looked);

    e->looked = now;
    if (withheld < e->withheld) /* could not be read */
        return;
    if ((double)(withheld - e->withheld) > limit)
        raise_level(e, now, rate_of(e->calls, e->period, now));
    e->withheld = withheld;
}

/* ---- down ---------------------------------------------------------------------------------- */

/* What a call of the level below costs, as a multiple of what it costs here. */
static double step_cost(const struct effort *e)
{
    double ratio = e->cost[e->level - 1].ns / e->cost[e->level].ns;

    return ratio < STEP_COST_MAX ? fmax(ratio, 1) : STEP_COST_MAX;
}

/* How busy workers would be at the level below, at most: few calls say little. */
static double forecast(const struct effort *e, uint64_t now)
{
    double busy = e->busy / ((double)(now - e->period) * e->workers);

    return busy * step_cost(e) * (1 + CERTAINTY / sqrt((double)e->calls + 1));
}

/* Every whole period that passed may take a step: nothing may have happened for long. */
static void end_period(struct effort *e, uint64_t now)
{
    uint64_t steps = (now - e->period) / PERIOD_NS;
    double rate = rate_of(e->calls, e->period, now);

    for (; steps > 0 && e->level > 0; steps--) {
        double load = forecast(e, now);

        if (load >= (now < e->until ? e->ceiling : ROOM))
            break;
        e->busy *= step_cost(e);
        e->restored = now;
        e->rate = rate;
        e->forecast = load;
        set_level(e, e->level - 1);
    }
    begin_period(e, now);
}

/* ---- from outside -------------------------------------------------------------------------- */

int effort_take(struct effort *e, uint64_t now, uint64_t waited, size_t n)
{
    int level;

    pthread_mutex_lock(&e->lock);
    now = advance(e, now);
    if (e->control) {
        watch_queue(e, now, waited, n);
        if (e->throttle != NULL && now - e->looked >= THROTTLE_LOOK_NS)
            look_at_throttle(e, now);
        if (now - e->period >= PERIOD_NS)
            end_period(e, now);
    }
    e->running++;
    level = e->level;
    pthread_mutex_unlock(&e->lock);
    return level;
}

void effort_done(struct effort *e, uint64_t now, uint64_t start, int level, size_t n)
{
    pthread_mutex_lock(&e->lock);
    advance(e, now);
    e->running--;
    e->calls += n;
    if (n > 0)
        learn_cost(e, level, (double)(now - start) / (double)n, n);
    pthread_mutex_unlock(&e->lock);
}

int effort_level(struct effort *e, uint64_t now)
{
    int level;

    pthread_mutex_lock(&e->lock);
    now = advance(e, now);
    if (now - e->period >= PERIOD_NS)
        end_period(e, now);
    level = e->level;
    pthread_mutex_unlock(&e->lock);
    return level;
}
