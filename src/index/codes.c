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

/* A float whose lower 16 bits are 0, x or the next above; x is not negative. */
static float round_up(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0xffff) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return isfinite(x) ? x : FLT_MAX;
}

static void put_scale(uint8_t *end, float scale)
{
    uint32_t bits;

    memcpy(&bits, &scale, sizeof bits);
    for (int i = 0; i < CODES_SCALE; i++)
        end[i - CODES_SCALE] = (uint8_t)((end[i - CODES_SCALE] & ~1) | (bits >> (16 + i) & 1));
}

static float get_scale(const uint8_t *end)
{
    uint32_t bits = 0;
    float scale;

    for (int i = 0; i < CODES_SCALE; i++)
        bits |= (uint32_t)(end[i - CODES_SCALE] & 1) << (16 + i);
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

void codes_pack(struct codes *c, size_t row, const float *x, size_t dim)
{
    uint8_t *out = c->bytes + row * c->stride;
    float scale = round_up(scale_of(x, dim, ROW_LARGEST)), by = inverse(scale);

    for (size_t d = 0; d < dim; d++)
        out[d] = (uint8_t)(nearest(x[d], by, ROW_LARGEST) + ROW_SHIFT);
    memset(out + dim, 0, c->stride - dim);
    put_scale(out + c->stride, scale);
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
#define ROWS 4   /* at a time */
#define PROBES 4 /* likewise */

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

__attribute__((target("avx2"))) static inline int scale_avx2(const uint8_t *end)
{
    __m128i last = _mm_loadu_si128((const __m128i *)(end - CODES_SCALE));

    return _mm_movemask_epi8(_mm_slli_epi16(last, 7)) << 16;
}

__attribute__((target("avx2"))) static inline __m128 scales_avx2(const struct codes *c,
                                                                 const uint32_t *at, size_t stride)
{
    const uint8_t *end = c->bytes + stride;

    return _mm_castsi128_ps(
        _mm_setr_epi32(scale_avx2(end + at[0] * stride), scale_avx2(end + at[1] * stride),
                       scale_avx2(end + at[2] * stride), scale_avx2(end + at[3] * stride)));
}

/* Four rows and one interest. */
__attribute__((target("avx2"))) static inline void one_avx2(const struct codes *c,
                                                            const struct probe *p,
                                                            const uint32_t *at, float *scores)
{
    size_t stride = c->stride;
    const uint8_t *const row[ROWS] = {c->bytes + at[0] * stride, c->bytes + at[1] * stride,
                                      c->bytes + at[2] * stride, c->bytes + at[3] * stride};
    __m128i sums = stride == 64 ? sums_avx2(row, p->v, 64) : sums_avx2(row, p->v, stride);

    sums = _mm_sub_epi32(sums, _mm_set1_epi32(p->shift));
    _mm_storeu_ps(scores, _mm_mul_ps(_mm_mul_ps(_mm_cvtepi32_ps(sums), _mm_set1_ps(p->scale)),
                                     scales_avx2(c, at, stride)));
}

/* Four interests that are looked for at once; the last one again where there are fewer. */
struct group {
    const int8_t *v[PROBES];
    __m128i shift;
    __m128 scale;
};

__attribute__((target("avx2"))) static inline struct group group_avx2(const struct probe *p,
                                                                      size_t n)
{
    const struct probe *a = p, *b = p + (n > 1 ? 1 : 0), *c = p + (n > 2 ? 2 : n - 1),
                       *d = p + (n > 3 ? 3 : n - 1);

    return (struct group){{a->v, b->v, c->v, d->v},
                          _mm_setr_epi32(a->shift, b->shift, c->shift, d->shift),
                          _mm_setr_ps(a->scale, b->scale, c->scale, d->scale)};
}

/* A row's scores with the interests of a group, but for the row's scale. */
__attribute__((target("avx2"))) static inline __m128 row_avx2(const uint8_t *row,
                                                              const struct group *g, size_t stride)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sum[PROBES];

#pragma GCC unroll 4
    for (int i = 0; i < PROBES; i++)
        sum[i] = _mm256_setzero_si256();
    for (size_t d = 0; d < stride; d += CODES_STEP) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(row + d));

#pragma GCC unroll 4
        for (int i = 0; i < PROBES; i++) {
            __m256i q = _mm256_loadu_si256((const __m256i *)(g->v[i] + d));

            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(_mm256_maddubs_epi16(x, q), ones));
        }
    }
    sum[0] =
        _mm256_hadd_epi32(_mm256_hadd_epi32(sum[0], sum[1]), _mm256_hadd_epi32(sum[2], sum[3]));
    return _mm_mul_ps(
        _mm_cvtepi32_ps(_mm_sub_epi32(
            _mm_add_epi32(_mm256_castsi256_si128(sum[0]), _mm256_extracti128_si256(sum[0], 1)),
            g->shift)),
        g->scale);
}

/* Four rows and n interests. */
__attribute__((target("avx2"))) static inline void best_avx2(const struct codes *c,
                                                             const struct probe *p, size_t n,
                                                             const uint32_t *at, float *scores,
                                                             size_t stride)
{
    __m128 best[ROWS], ab, cd;

#pragma GCC unroll 4
    for (int r = 0; r < ROWS; r++)
        best[r] = _mm_set1_ps(-FLT_MAX);
    for (size_t i = 0; i < n; i += PROBES) {
        struct group g = group_avx2(p + i, n - i);

#pragma GCC unroll 4
        for (int r = 0; r < ROWS; r++)
            best[r] = _mm_max_ps(best[r], row_avx2(c->bytes + at[r] * stride, &g, stride));
    }
    ab = _mm_max_ps(_mm_unpacklo_ps(best[0], best[1]), _mm_unpackhi_ps(best[0], best[1]));
    cd = _mm_max_ps(_mm_unpacklo_ps(best[2], best[3]), _mm_unpackhi_ps(best[2], best[3]));
    ab = _mm_max_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    _mm_storeu_ps(scores, _mm_mul_ps(ab, scales_avx2(c, at, stride)));
}

__attribute__((target("avx2"))) static inline void four_avx2(const struct codes *c,
                                                             const struct probe *p, size_t n,
                                                             const uint32_t *at, float *scores)
{
    if (n == 1)
        one_avx2(c, p, at, scores);
    else if (c->stride == 64)
        best_avx2(c, p, n, at, scores, 64);
    else
        best_avx2(c, p, n, at, scores, c->stride);
}

__attribute__((target("avx2"))) static void codes_avx2(const struct codes *c, const struct probe *p,
                                                       size_t n_probes, const uint32_t *rows,
                                                       size_t n, float *scores)
{
    uint32_t last[ROWS] = {0};
    size_t i = 0;

    for (; i + ROWS <= n; i += ROWS) {
        for (size_t j = i + CODES_AHEAD; j < i + CODES_AHEAD + ROWS && j < n; j++)
            codes_prefetch_row(c, rows[j]);
        four_avx2(c, p, n_probes, rows + i, scores + i);
    }
    if (i == n)
        return;
    memcpy(last, rows + i, (n - i) * sizeof *rows);
    four_avx2(c, p, n_probes, last, scores + i);
}
#endif

/* ---- any processor -------------------------------------------------------------- */

void codes_plain(const struct codes *c, const struct probe *p, size_t n_probes,
                 const uint32_t *rows, size_t n, float *scores)
{
    for (size_t i = 0; i < n; i++) {
        const uint8_t *row = c->bytes + (size_t)rows[i] * c->stride;
        float best = -FLT_MAX;

        for (size_t k = 0; k < n_probes; k++) {
            int32_t sum = -p[k].shift;

            for (size_t d = 0; d < c->stride; d++)
                sum += row[d] * p[k].v[d];
            best = fmaxf(best, (float)sum * p[k].scale);
        }
        scores[i] = best * get_scale(row + c->stride);
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
