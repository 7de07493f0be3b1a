/* random_fixture.h - made-up numbers, the same in every run. */
#ifndef RANDOM_FIXTURE_H
#define RANDOM_FIXTURE_H

#include <stdint.h>

static uint64_t seed = 1;

static uint32_t any(uint32_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)((seed >> 32) * below >> 32);
}

/* About normal, mean 0, deviation 1. */
static float noise(void)
{
    float sum = 0;

    for (int i = 0; i < 12; i++)
        sum += (float)any(1 << 20) / (1 << 20);
    return sum - 6;
}

#endif
