/* codes.c - packing rows into bytes, and the inner loop of a walk through a graph. */
#include "codes.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define ROW_LARGEST 127
#define ROW_SHIFT 128
#define PROBE_LARGEST 63

size_t codes_stride(size_t dim)
{
    return (dim + CODES_STEP - 1) / CODES_STEP * CODES_STEP;
}

/* ---- packing -------------------------------------------------------------------- */

static float scale_of(const float *x, size_t dim, float largest)
{
    float most = 0;

    for (size_t d = 0; d < dim; d++)
        most = fabsf(x[d]) > most ? fabsf(x[d]) : most;
    return most / largest;
}

/* What multiplies components so that they can be rounded. */
static float inverse(float scale)
{
    return scale > 1 / FLT_MAX ? 1 / scale : 0;
}

static int nearest(float x, float by, int largest)
{
    float n = rintf(x * by);

    return n > (float)largest ? largest : n < (float)-largest ? -largest : (int)n;
}

void codes_pack(struct codes *c, size_t row, const float *x, size_t dim)
{
    uint8_t *out = c->bytes + row * c->stride;
    float scale = scale_of(x, dim, ROW_LARGEST), by = inverse(scale);

    for (size_t d = 0; d < dim; d++)
        out[d] = (uint8_t)(nearest(x[d], by, ROW_LARGEST) + ROW_SHIFT);
    memset(out + dim, 0, c->stride - dim);
    c->scale[row] = scale;
}

void probe_pack(struct probe *p, const float *interest, size_t dim)
{
    float by;
    int32_t sum = 0;

    p->scale = scale_of(interest, dim, PROBE_LARGEST);
    by = inverse(p->scale);
    memset(p->v, 0, codes_stride(dim));
    for (size_t d = 0; d < dim; d++) {
        p->v[d] = (int8_t)nearest(interest[d], by, PROBE_LARGEST);
        sum += p->v[d];
    }
    p->shift = ROW_SHIFT * sum;
}

/* ---- AVX2 ----------------------------------------------------------------------- */

#if defined(__x86_64__)
#define ROWS 4 /* at a time */

__attribute__((target("avx2"))) static inline __m128i sums_avx2(const uint8_t *const row[ROWS],
                                                                const int8_t *v, size_t stride)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[ROWS];

#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        sum[r] = _mm256_setzero_si256();
    for (size_t d = 0; d < stride; d += CODES_STEP) {
        __m256i q = _mm256_loadu_si256((const __m256i *)(v + d));

#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++) {
            __m256i x = _mm256_loadu_si256((const __m256i *)(row[r] + d));

            sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(_mm256_maddubs_epi16(x, q), ones));
        }
    }
    sum[0] =
        _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
    return _mm_add_epi32(_mm256_castsi256_si128(sum[0]), _mm256_extracti128_si256(sum[0], 1));
}

__attribute__((target("avx2"))) static inline void four_avx2(const struct codes *c,
                                                             const struct probe *p,
                                                             const uint32_t *at, float *scores)
{
    size_t stride = c->stride;
    const uint8_t *const row[ROWS] = {c->bytes + at[0] * stride, c->bytes + at[1] * stride,
                                      c->bytes + at[2] * stride, c->bytes + at[3] * stride};
    __m128i sums = stride == 64 ? sums_avx2(row, p->v, 64) : sums_avx2(row, p->v, stride);
    __m128 scale = _mm_setr_ps(c->scale[at[0]], c->scale[at[1]], c->scale[at[2]], c->scale[at[3]]);

    sums = _mm_sub_epi32(sums, _mm_set1_epi32(p->shift));
    _mm_storeu_ps(scores,
                  _mm_mul_ps(_mm_mul_ps(_mm_cvtepi32_ps(sums), scale), _mm_set1_ps(p->scale)));
}

__attribute__((target("avx2"))) static void codes_avx2(const struct codes *c, const struct probe *p,
                                                       const uint32_t *rows, size_t n,
                                                       float *scores)
{
    uint32_t last[ROWS] = {0};
    size_t i = 0;

    for (; i + ROWS <= n; i += ROWS)
        four_avx2(c, p, rows + i, scores + i);
    if (i == n)
        return;
    memcpy(last, rows + i, (n - i) * sizeof *rows);
    four_avx2(c, p, last, scores + i);
}
#endif

/* ---- any processor -------------------------------------------------------------- */

void codes_plain(const struct codes *c, const struct probe *p, const uint32_t *rows, size_t n,
                 float *scores)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = c->bytes + (size_t)rows[i] * c->stride;
        int32_t sum = -p->shift;

        for (size_t d = 0; d < c->stride; d++)
            sum += row[d] * p->v[d];
        scores[i] = (float)sum * c->scale[rows[i]] * p->scale;
    }
}

codes_fn *codes_pick(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return codes_avx2;
#endif
    return codes_plain;
}
