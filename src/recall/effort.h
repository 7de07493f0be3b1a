/* effort.h - how hard to try: less per request while there is too much to do.
 *
 * Level 0 is full effort; 1 to 3 lower the search effort step by step, 4 also halves the interests.
 * Workers tell when they take calls and when they have answered them; from that alone come the
 * level and what a call costs, which admission uses. Any thread may call; time is whatever the
 * caller says it is, so a test can simulate minutes. */
#ifndef RECALL_EFFORT_H
#define RECALL_EFFORT_H

#include "recalld/base.h"

#define EFFORT_LEVELS 5
#define EFFORT_STEPS                                                            \
    3 /* levels that lower the search effort; the one beyond cuts interests too \
       */

struct throttle;
struct effort;

/* `workers` that may be busy at a time. Without `control` the level stays 0. Owns `throttle`, which
 * may be NULL. */
struct effort *effort_new(int workers, bool control, struct throttle *throttle);
void effort_free(struct effort *e);
/* How long a request may take; what counts as a queue follows from it. */
void effort_set_deadline(struct effort *e, uint64_t ns);

/* A worker takes `n` calls, of which the newest has waited `waited` ns: the level to serve them at.
 */
int effort_take(struct effort *e, uint64_t now, uint64_t waited, size_t n);
/* It is through with the calls it took at `start`, and has answered `n` of them with this level.
 * The others came too late, which takes no time: that must not look as if calls were cheap. */
void effort_done(struct effort *e, uint64_t now, uint64_t start, int level, size_t n);
/* A request was refused because the wait would be too long. Never waits. */
void effort_refused(struct effort *e);
/* The level now, which falls without requests as well. */
int effort_level(struct effort *e, uint64_t now);
/* A worker's time for one call as things are, in ns; 0 = nothing known yet. Never waits. */
uint64_t effort_cost(const struct effort *e);

/* ---- throttle.c: the processor time that the kernel withholds from our control group ---- */

/* Finds cpu.stat of the group that `groups` (/proc/self/cgroup) names below `root`
 * (/sys/fs/cgroup), version 1 or 2. NULL where there is none, or no quota can be set. */
struct throttle *throttle_open(const char *groups, const char *root);
void throttle_free(struct throttle *t);
/* Nanoseconds withheld so far, or 0 when they cannot be read. */
uint64_t throttle_ns(const struct throttle *t);

#endif
