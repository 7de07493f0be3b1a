/* thread.c - how threads stand to each other. */
#include "recalld/base.h"

#include <sched.h>
#include <unistd.h>

#define NICE_ENOUGH 10

/* Niceness alone is not enough: on a core that a nice thread has, one that wakes up waits for its
 * slice to end. */
void thread_background(void)
{
    if (sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){0}) == -1)
        (void)nice(NICE_ENOUGH); /* a sandbox may know no better */
}
