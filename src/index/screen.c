/* screen.c - the inner loop of the exact engine. */
#include "screen.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define HALF (TILE_ROWS / 2)
#define SIGN 0x80000000u
#define LARGEST 0x7f7fu /* the largest finite bfloat16, without its sign */

/* ---- packing -------------------------------------------------------------------- */

static uint32_t to_bits(float v)
{
    uint32_t bits;

    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits)
{
    float v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

/* The upper half word that, with `below` as its lower half, is nearest to v as a float. */
static uint32_t upper_half(float v, uint32_t below)
{
    uint32_t size = to_bits(v) & ~SIGN, half;

    half = size + 0x8000 > below ? (size + 0x8000 - below) >> 16 : 0;
    return (half > LARGEST ? LARGEST : half) | (to_bits(v) & SIGN) >> 16;
}

double tile_pack(uint32_t *tile, const float *rows, size_t n, size_t dim)
{
    double off[TILE_ROWS] = {0}, worst = 0;

    for (size_t d = 0; d < dim; d++)
        for (size_t l = 0; l < HALF; l++) {
            float a = l < n ? rows[l * dim + d] : 0.0f;
            float b = l + HALF < n ? rows[(l + HALF) * dim + d] : 0.0f;
            uint32_t low = upper_half(a, 0), word = upper_half(b, low) << 16 | low;
            double da = (double)a - (double)from_bits(word << 16);
            double db = (double)b - (double)from_bits(word);

            tile[d * HALF + l] = word;
            off[l] += da * da;
            off[l + HALF] += db * db;
        }
    for (size_t r = 0; r < n; r++)
        worst = off[r] > worst ? off[r] : worst;
    return worst;
}

/* ---- AVX2 ----------------------------------------------------------------------- */

#if defined(__x86_64__)
#define AHEAD_BYTES 2048 /* a fifth less time where the tiles do not fit into the caches */

/* Eight sums of eight lanes: as many as keep two multiply-add units busy, in half the registers. */
__attribute__((target("avx2,fma"))) static uint64_t screen_avx2(const uint32_t *tile,
                                                                const float *interests, size_t dim,
                                                                const float *floors, float *scores)
{
    __m256 low[TILE_INTERESTS], high[TILE_INTERESTS];
    uint64_t mask = 0;

#pragma GCC unroll 4
    for (int i = 0; i < TILE_INTERESTS; i++)
        low[i] = high[i] = _mm256_setzero_ps();
    for (size_t d = 0; d < dim; d++) {
        __m256i words = _mm256_load_si256((const __m256i *)(tile + d * HALF));
        __m256 x = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
        __m256 y = _mm256_castsi256_ps(words);

        _mm_prefetch((const char *)(tile + d * HALF) + AHEAD_BYTES, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int i = 0; i < TILE_INTERESTS; i++) {
            __m256 q = _mm256_broadcast_ss(interests + d * TILE_INTERESTS + i);

            low[i] = _mm256_fmadd_ps(x, q, low[i]);
            high[i] = _mm256_fmadd_ps(y, q, high[i]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE_INTERESTS; i++) {
        __m256 floor = _mm256_broadcast_ss(floors + i);
        int below = _mm256_movemask_ps(_mm256_cmp_ps(low[i], floor, _CMP_GE_OQ));
        int above = _mm256_movemask_ps(_mm256_cmp_ps(high[i], floor, _CMP_GE_OQ));

        _mm256_store_ps(scores + i * TILE_ROWS, low[i]);
        _mm256_store_ps(scores + i * TILE_ROWS + HALF, high[i]);
        mask |= (uint64_t)(unsigned)(below | above << HALF) << (i * TILE_ROWS);
    }
    return mask;
}
#endif

/* ---- any processor -------------------------------------------------------------- */

typedef float four __attribute__((vector_size(16)));
typedef uint32_t four_words __attribute__((vector_size(16)));

uint64_t screen_plain(const uint32_t *tile, const float *interests, size_t dim, const float *floors,
                      float *scores)
{
    uint64_t mask = 0;

    /* Four rows from each half of the tile at a time, so that the sums fit in 16 registers. */
    for (int h = 0; h < HALF; h += 4) {
        four low[TILE_INTERESTS] = {{0}}, high[TILE_INTERESTS] = {{0}};

        for (size_t d = 0; d < dim; d++) {
            four_words words;
            four x, y;

            memcpy(&words, tile + d * HALF + h, sizeof words);
            x = (four)(words << 16);
            y = (four)words;
#pragma GCC unroll 4
            for (int i = 0; i < TILE_INTERESTS; i++) {
                float q = interests[d * TILE_INTERESTS + i];

                low[i] += x * q;
                high[i] += y * q;
            }
        }
        for (int i = 0; i < TILE_INTERESTS; i++) {
            memcpy(scores + i * TILE_ROWS + h, &low[i], sizeof low[i]);
            memcpy(scores + i * TILE_ROWS + HALF + h, &high[i], sizeof high[i]);
        }
    }
    for (int i = 0; i < TILE_INTERESTS * TILE_ROWS; i++)
        mask |= (uint64_t)(scores[i] >= floors[i / TILE_ROWS]) << i;
    return mask;
}

screen_fn *screen_pick(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return screen_avx2;
#endif
    return screen_plain;
}
