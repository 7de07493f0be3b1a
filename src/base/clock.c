/* clock.c - time, and identifiers made of time and chance. */
#include "recalld/base.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

uint64_t clock_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int64_t clock_wall_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

#define RANDOM_PER_ID 10
#define RANDOM_POOL (RANDOM_PER_ID * 256)

/* The thread's own pool of random bytes: one system call serves 256 ids. */
static const uint8_t *random_for_one_id(void)
{
    static _Thread_local uint8_t pool[RANDOM_POOL];
    static _Thread_local size_t left;

    if (left == 0) {
        while (left < sizeof pool) {
            ssize_t n = getrandom(pool + left, sizeof pool - left, 0);

            if (n > 0) {
                left += (size_t)n;
            } else if (errno != EINTR) {
                perror("getrandom");
                abort();
            }
        }
    }
    left -= RANDOM_PER_ID;
    return pool + left;
}

/* RFC 9562, section 5.7: 48 bits of milliseconds, then random bits around version and variant. */
void uuid7(char out[UUID_LEN + 1])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t ms = (uint64_t)clock_wall_ms();
    uint8_t id[16];

    for (int i = 0; i < 6; i++)
        id[i] = (uint8_t)(ms >> (40 - 8 * i));
    memcpy(id + 6, random_for_one_id(), RANDOM_PER_ID);
    id[6] = (uint8_t)(0x70 | (id[6] & 0x0f));
    id[8] = (uint8_t)(0x80 | (id[8] & 0x3f));
    for (int i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *out++ = '-';
        *out++ = digits[id[i] >> 4];
        *out++ = digits[id[i] & 15];
    }
    *out = '\0';
}
