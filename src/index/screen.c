/* screen.c - the inner loop of the exact engine.
 *
 * Integers are from -63 to 63. Those of a row are stored with 64 added, so that a processor can
 * multiply bytes without a sign by bytes with one: the sum of two products is then at most
 * 2 * 127 * 63 = 16,002, and two such sums still fit into 16 bits. */
#include "screen.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LARGEST 63
#define SHIFT 64
#define WORD 4              /* dimensions in a word */
#define STEP (2 * WORD)     /* dimensions of a step of the loops; the last is filled up */
#define UNIT 0x1p-24        /* the rounding error of float32 */
#define ROUND_UP (1 + 1e-5) /* more than converting to float32 and four operations lose */

static size_t steps(size_t dim)
{
    return (dim + STEP - 1) / STEP;
}

static size_t integer_bytes(size_t dim)
{
    return steps(dim) * STEP * TILE_ROWS;
}

size_t tile_bytes(size_t dim)
{
    return integer_bytes(dim) + sizeof(struct tile_rows);
}

size_t screen_words(size_t dim)
{
    return steps(dim) * (STEP / WORD) * TILE_INTERESTS;
}

const struct tile_rows *tile_rows(const unsigned char *tile, size_t dim)
{
    return (const struct tile_rows *)(tile + integer_bytes(dim));
}

/* ---- packing -------------------------------------------------------------------- */

/* A vector as integers. */
struct packed {
    float scale;
    double norm, error; /* of the vector; of what the integers miss */
    int sum;            /* of the integers */
};

static float scale_of(const float *x, size_t dim)
{
    float largest = 0;

    for (size_t d = 0; d < dim; d++)
        largest = fmaxf(largest, fabsf(x[d]));
    return largest / LARGEST;
}

static int nearest(float x, float scale)
{
    long n = scale > FLT_MIN ? lrint((double)x / (double)scale) : 0;

    return n > LARGEST ? LARGEST : n < -LARGEST ? -LARGEST : (int)n;
}

/* Integer d goes to out[(d / 4) * stride + d % 4], with `shift` added. */
static struct packed pack(const float *x, size_t dim, unsigned char *out, size_t stride, int shift)
{
    struct packed p = {scale_of(x, dim), 0, 0, 0};

    for (size_t d = 0; d < dim; d++) {
        int n = nearest(x[d], p.scale);
        double off = (double)x[d] - (double)p.scale * n;

        out[d / WORD * stride + d % WORD] = (unsigned char)(n + shift);
        p.sum += n;
        p.norm += (double)x[d] * (double)x[d];
        p.error += off * off;
    }
    p.norm = sqrt(p.norm);
    p.error = sqrt(p.error);
    return p;
}

void tile_pack(unsigned char *tile, const float *rows, size_t n, size_t dim)
{
    struct tile_rows *about = (struct tile_rows *)(tile + integer_bytes(dim));

    memset(tile, SHIFT, integer_bytes(dim));
    memset(about, 0, sizeof *about);
    for (size_t r = 0; r < n; r++) {
        struct packed p = pack(rows + r * dim, dim, tile + r * WORD, TILE_ROWS * WORD, SHIFT);

        about->scale[r] = p.scale;
        about->error[r] = (float)(p.error * ROUND_UP);
        about->size[r] = (float)((p.norm + p.error) * ROUND_UP);
    }
}

/* Of `dim` products summed in float32 in any order at most dim u / (1 - dim u) is lost; the cheap
 * score itself loses less than four roundings. */
void screen_pack(struct screen_group *g, size_t i, const float *interest, size_t dim)
{
    size_t stride = TILE_INTERESTS * WORD;
    unsigned char *out = (unsigned char *)(g->words + i);
    double lost = (double)dim * UNIT / (1 - (double)dim * UNIT) + 4 * UNIT;
    struct packed p = {0};

    for (size_t w = 0; w < screen_words(dim) / TILE_INTERESTS; w++)
        memset(out + w * stride, 0, WORD);
    if (interest != NULL)
        p = pack(interest, dim, out, stride, 0);
    g->offset[i] = -SHIFT * p.sum;
    g->scale[i] = p.scale;
    g->by_error[i] = (float)(p.norm * ROUND_UP);
    g->by_size[i] = (float)((p.error + lost * (p.norm + p.error)) * ROUND_UP);
}

/* ---- AVX2 ----------------------------------------------------------------------- */

#if defined(__x86_64__)
#define HALF (TILE_ROWS / 2)
#define AHEAD_BYTES 2048 /* pays where the tiles do not fit into the caches */

/* Eight rows of one interest: the low ends to `low`; returns which high ends reach the floor. */
__attribute__((target("avx2"))) static inline unsigned bounds_avx2(__m256i sum,
                                                                   const struct screen_group *g,
                                                                   int i,
                                                                   const struct tile_rows *about,
                                                                   int r, float floor, float *low)
{
    __m256 products = _mm256_cvtepi32_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(g->offset[i])));
    __m256 score = _mm256_mul_ps(_mm256_mul_ps(products, _mm256_set1_ps(g->scale[i])),
                                 _mm256_loadu_ps(about->scale + r));
    __m256 by_error =
        _mm256_mul_ps(_mm256_set1_ps(g->by_error[i]), _mm256_loadu_ps(about->error + r));
    __m256 by_size = _mm256_mul_ps(_mm256_set1_ps(g->by_size[i]), _mm256_loadu_ps(about->size + r));
    __m256 bound = _mm256_add_ps(by_error, by_size);

    _mm256_store_ps(low + i * TILE_ROWS + r, _mm256_sub_ps(score, bound));
    return (unsigned)_mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_add_ps(score, bound), _mm256_set1_ps(floor), _CMP_GE_OQ));
}

__attribute__((target("avx2"))) static uint64_t screen_avx2(const unsigned char *tile,
                                                            const struct screen_group *g,
                                                            size_t dim, const float *floors,
                                                            float *low)
{
    const __m256i *rows = (const __m256i *)tile, ones = _mm256_set1_epi16(1);
    const struct tile_rows *about = tile_rows(tile, dim);
    __m256i first[TILE_INTERESTS], second[TILE_INTERESTS]; /* half of the rows each */
    const int32_t *word = g->words;
    uint64_t mask = 0;

#pragma GCC unroll 4
    for (int i = 0; i < TILE_INTERESTS; i++)
        first[i] = second[i] = _mm256_setzero_si256();
    for (size_t s = steps(dim); s > 0; s--, rows += 4, word += 2 * TILE_INTERESTS) {
        __m256i a = _mm256_load_si256(rows), b = _mm256_load_si256(rows + 1);
        __m256i c = _mm256_load_si256(rows + 2), d = _mm256_load_si256(rows + 3);

        _mm_prefetch((const char *)rows + AHEAD_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)rows + AHEAD_BYTES + 64, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int i = 0; i < TILE_INTERESTS; i++) {
            __m256i p = _mm256_set1_epi32(word[i]), q = _mm256_set1_epi32(word[i + TILE_INTERESTS]);
            __m256i ac = _mm256_add_epi16(_mm256_maddubs_epi16(a, p), _mm256_maddubs_epi16(c, q));
            __m256i bd = _mm256_add_epi16(_mm256_maddubs_epi16(b, p), _mm256_maddubs_epi16(d, q));

            first[i] = _mm256_add_epi32(first[i], _mm256_madd_epi16(ac, ones));
            second[i] = _mm256_add_epi32(second[i], _mm256_madd_epi16(bd, ones));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE_INTERESTS; i++) {
        unsigned bits = bounds_avx2(first[i], g, i, about, 0, floors[i], low);

        bits |= bounds_avx2(second[i], g, i, about, HALF, floors[i], low) << HALF;
        mask |= (uint64_t)bits << (i * TILE_ROWS);
    }
    return mask;
}
#endif

/* ---- any processor -------------------------------------------------------------- */

static void sums_plain(const unsigned char *tile, const int32_t *words, size_t dim,
                       int32_t sums[TILE_ROWS])
{
    const signed char *v = (const signed char *)words;

    memset(sums, 0, TILE_ROWS * sizeof *sums);
    for (size_t w = 0; w < steps(dim) * (STEP / WORD); w++) {
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t j = 0; j < WORD; j++)
                sums[r] += tile[r * WORD + j] * v[j];
        tile += TILE_ROWS * WORD;
        v += TILE_INTERESTS * WORD;
    }
}

uint64_t screen_plain(const unsigned char *tile, const struct screen_group *g, size_t dim,
                      const float *floors, float *low)
{
    const struct tile_rows *about = tile_rows(tile, dim);
    uint64_t mask = 0;

    for (size_t i = 0; i < TILE_INTERESTS; i++) {
        int32_t sums[TILE_ROWS];

        sums_plain(tile, g->words + i, dim, sums);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            float score = (float)(sums[r] + g->offset[i]) * g->scale[i] * about->scale[r];
            float bound = screen_bound(g, i, about, r);

            low[i * TILE_ROWS + r] = score - bound;
            mask |= (uint64_t)(score + bound >= floors[i]) << (i * TILE_ROWS + r);
        }
    }
    return mask;
}

screen_fn *screen_pick(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return screen_avx2;
#endif
    return screen_plain;
}
