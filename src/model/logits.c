/* logits.c - the routing logits every user starts from, where no tensor or file gives them.
 *
 * Most codebases draw them anew for every call; serving that way would answer the same request
 * differently each time. Here they are drawn once from a stated seed. The generator is our own
 * (docs/models.md describes it) and uses exact or correctly rounded operations only, so that every
 * machine gets the same table. */
#include "model_impl.h"

#include <math.h>

/* ---- splitmix64 ------------------------------------------------------------------ */

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;

    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* In [0, 1): 53 bits. */
static double uniform(uint64_t *state)
{
    return (double)(splitmix64(state) >> 11) * 0x1p-53;
}

/* Marsaglia's polar method; the second value of each pair is not used. */
static double normal(uint64_t *state)
{
    double x, y, s;

    do {
        x = 2 * uniform(state) - 1;
        y = 2 * uniform(state) - 1;
        s = x * x + y * y;
    } while (s >= 1 || s == 0);
    return x * sqrt(-2 * kernel_log(s) / s);
}

/* What lies beyond two standard deviations is drawn again. */
static double truncated_normal(uint64_t *state)
{
    double v = normal(state);

    while (fabs(v) > 2)
        v = normal(state);
    return v;
}

static void draw(float *b, size_t ld, const struct model_options *o,
                 double (*next)(uint64_t *state))
{
    uint64_t state = o->init_seed;

    for (size_t k = 0; k < (size_t)o->interests; k++)
        for (size_t s = 0; s < (size_t)o->max_history; s++)
            b[k * ld + s] = (float)(next(&state) * o->init_std);
}

/* ---- EasyRec's table ------------------------------------------------------------- */

/* It is what numpy.random.seed(28); numpy.random.uniform(high=STD, size=[S, K]) gives: MT19937. */
#define EASYREC_SEED 28
#define MT_N 624
#define MT_M 397

struct mt19937 {
    uint32_t state[MT_N];
    size_t at;
};

static void mt_seed(struct mt19937 *mt, uint32_t seed)
{
    mt->state[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        mt->state[i] = 1812433253u * (mt->state[i - 1] ^ mt->state[i - 1] >> 30) + i;
    mt->at = MT_N;
}

static void mt_refill(struct mt19937 *mt)
{
    uint32_t *s = mt->state;

    for (size_t i = 0; i < MT_N; i++) {
        uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % MT_N] & 0x7fffffffu);

        s[i] = s[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
    }
    mt->at = 0;
}

static uint32_t mt_next(struct mt19937 *mt)
{
    uint32_t y;

    if (mt->at == MT_N)
        mt_refill(mt);
    y = mt->state[mt->at++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* NumPy's 53-bit uniform in [0, 1): 27 bits of one draw, 26 of the next. */
static double mt_uniform(struct mt19937 *mt)
{
    uint32_t high = mt_next(mt) >> 5, low = mt_next(mt) >> 6;

    return (high * 67108864.0 + low) / 9007199254740992.0;
}

/* Drawn slot by slot: its layout is (S, K). */
static void draw_easyrec(float *b, size_t ld, const struct model_options *o)
{
    struct mt19937 mt;

    mt_seed(&mt, EASYREC_SEED);
    for (size_t s = 0; s < (size_t)o->max_history; s++)
        for (size_t k = 0; k < (size_t)o->interests; k++)
            b[k * ld + s] = (float)(mt_uniform(&mt) * o->init_std);
}

void logits_generate(float *b, size_t ld, const struct model_options *o)
{
    switch (o->init) {
    case INIT_NORMAL:
        draw(b, ld, o, normal);
        break;
    case INIT_TRUNCATED_NORMAL:
        draw(b, ld, o, truncated_normal);
        break;
    case INIT_UNIFORM:
        draw(b, ld, o, uniform);
        break;
    case INIT_EASYREC:
        draw_easyrec(b, ld, o);
        break;
    case INIT_ZEROS:
    case INIT_TENSOR:
    case INIT_FILE:
        for (size_t k = 0; k < (size_t)o->interests; k++)
            for (size_t s = 0; s < (size_t)o->max_history; s++)
                b[k * ld + s] = 0;
        break;
    }
}
