/* screen.c - the inner loop of the exact engine.
 *
 * Integers are from -63 to 63. Those of a row are stored with 64 added, so that a processor can
 * multiply bytes without a sign by bytes with one: the sum of two products is then at most
 * 2 * 127 * 63 = 16,002 and fits into 16 bits.
 *
 * Sums of more are kept in 16 bits as well, for a span of 64 dimensions. They may overflow on the
 * way, but end where they should: they start at what takes back the 64 of the rows, and the true
 * sum of products of a span is, by Cauchy and Schwarz, at most the product of two lengths, which
 * packing keeps below 182 each. */
#include "screen.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define LARGEST 63
#define SHIFT 64
#define WORD 4          /* dimensions in a word */
#define STEP (2 * WORD) /* dimensions of a step of the loops; the last is filled up */
#define SPAN_STEPS 8
#define SPAN (SPAN_STEPS * STEP)
#define SPAN_SQUARES 32767  /* of a span's integers, summed */
#define UNIT 0x1p-24        /* the rounding error of float32 */
#define ROUND_UP (1 + 1e-5) /* more than converting to float32 and four operations lose */

/* A bound as float32, also where that is denormal. */
static float above(double x)
{
    return x > 0 ? nextafterf((float)(x * ROUND_UP), INFINITY) : 0;
}

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

static size_t spans(size_t dim)
{
    return (steps(dim) + SPAN_STEPS - 1) / SPAN_STEPS;
}

/* For each span the four interests' starts, two 16-bit sums in a word; then for each word of
 * dimensions that of the four interests. */
size_t screen_words(size_t dim)
{
    return (spans(dim) + steps(dim) * (STEP / WORD)) * TILE_INTERESTS;
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

static int nearest(float x, double by)
{
    long n = lrint((double)x * by);

    return n > LARGEST ? LARGEST : n < -LARGEST ? -LARGEST : (int)n;
}

/* The scale by which the largest component and the longest span become what they may be. */
static float scale_of(const float *x, size_t dim)
{
    float largest = 0;
    double longest = 0;

    for (size_t from = 0; from < dim; from += SPAN) {
        double squares = 0;

        for (size_t d = from; d < dim && d < from + SPAN; d++) {
            largest = fmaxf(largest, fabsf(x[d]));
            squares += (double)x[d] * (double)x[d];
        }
        longest = fmax(longest, squares);
    }
    return fmaxf(largest / LARGEST, (float)sqrt(longest / SPAN_SQUARES));
}

/* Where integers go: word d / 4 of dimensions begins `stride` bytes behind the one before, and
 * `gap` bytes come before those of a span. */
struct place {
    unsigned char *out;
    size_t stride, gap;
    int shift; /* is added */
};

/* False when a span has become too long. */
static bool pack_scaled(struct packed *p, const float *x, size_t dim, const struct place *to)
{
    double by = p->scale > FLT_MIN ? 1 / (double)p->scale : 0;
    int squares = 0;

    p->sum = 0;
    p->norm = p->error = 0;
    for (size_t d = 0; d < dim; d++) {
        int n = nearest(x[d], by);
        double off = (double)x[d] - (double)p->scale * n;

        squares = d % SPAN == 0 ? n * n : squares + n * n;
        if (squares > SPAN_SQUARES)
            return false;
        to->out[(d / SPAN + 1) * to->gap + d / WORD * to->stride + d % WORD] =
            (unsigned char)(n + to->shift);
        p->sum += n;
        p->norm += (double)x[d] * (double)x[d];
        p->error += off * off;
    }
    p->norm = sqrt(p->norm);
    p->error = sqrt(p->error);
    return true;
}

static struct packed pack(const float *x, size_t dim, const struct place *to)
{
    struct packed p = {.scale = scale_of(x, dim)};

    while (!pack_scaled(&p, x, dim, to)) /* rounding made a span too long */
        p.scale *= 1.004f;
    return p;
}

void tile_pack(unsigned char *tile, const float *rows, size_t n, size_t dim)
{
    struct tile_rows *about = (struct tile_rows *)(tile + integer_bytes(dim));

    memset(tile, SHIFT, integer_bytes(dim));
    memset(about, 0, sizeof *about);
    for (size_t r = 0; r < n; r++) {
        const struct place to = {tile + r * WORD, TILE_ROWS * WORD, 0, SHIFT};
        struct packed p = pack(rows + r * dim, dim, &to);

        about->scale[r] = p.scale;
        about->error[r] = above(p.error);
        about->size[r] = above(p.norm + p.error);
    }
}

/* What a span's two sums of interest i start at: the first over the first two dimensions of each
 * word, the second over the others. */
static void put_starts(struct screen_group *g, size_t i, size_t dim)
{
    int32_t *span = g->words + i;

    for (size_t left = steps(dim), n; left > 0; left -= n) {
        int first = 0, second = 0;

        n = left < SPAN_STEPS ? left : SPAN_STEPS;
        for (size_t w = 1; w <= n * (STEP / WORD); w++) {
            const signed char *v = (const signed char *)(span + w * TILE_INTERESTS);

            first += v[0] + v[1];
            second += v[2] + v[3];
        }
        *span = (int32_t)((uint32_t)(uint16_t)(-SHIFT * first) |
                          (uint32_t)(uint16_t)(-SHIFT * second) << 16);
        span += (n * (STEP / WORD) + 1) * TILE_INTERESTS;
    }
}

/* Of `dim` products summed in float32 in any order at most dim u / (1 - dim u) is lost; the cheap
 * score itself loses less than four roundings. */
void screen_pack(struct screen_group *g, size_t i, const float *interest, size_t dim)
{
    const size_t word = sizeof *g->words, stride = TILE_INTERESTS * word;
    const struct place to = {(unsigned char *)(g->words + i), stride, stride, 0};
    double lost = (double)dim * UNIT / (1 - (double)dim * UNIT) + 4 * UNIT;
    struct packed p = {0};

    for (size_t w = 0; w < screen_words(dim); w += TILE_INTERESTS)
        g->words[w + i] = 0;
    if (interest != NULL)
        p = pack(interest, dim, &to);
    put_starts(g, i, dim);
    g->offset[i] = -SHIFT * p.sum;
    g->scale[i] = p.scale;
    g->by_error[i] = above(p.norm);
    g->by_size[i] = above(p.error + lost * (p.norm + p.error));
}

/* ---- AVX2 ----------------------------------------------------------------------- */

#if defined(__x86_64__)
#define HALF (TILE_ROWS / 2)
#define AHEAD_BYTES 2048 /* pays where the tiles do not fit into the caches */
#define AVX2 __attribute__((target("avx2"))) static inline __attribute__((always_inline))

/* The sums of products of the tile's rows, half of them each, with the group's interests. */
struct sums {
    __m256i first[TILE_INTERESTS], second[TILE_INTERESTS];
};

/* A span of n steps, added to `sums` unless it is the first; of the group's first `used` interests,
 * a constant. */
AVX2 void add_span(struct sums *sums, bool is_first, const __m256i *rows, const int32_t *word,
                   size_t n, int used)
{
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i first[TILE_INTERESTS], second[TILE_INTERESTS];

#pragma GCC unroll 4
    for (int i = 0; i < used; i++)
        first[i] = second[i] = _mm256_set1_epi32(word[i]);
    for (word += TILE_INTERESTS; n > 0; n--, rows += 4, word += 2 * TILE_INTERESTS) {
        __m256i a = _mm256_load_si256(rows), b = _mm256_load_si256(rows + 1);
        __m256i c = _mm256_load_si256(rows + 2), d = _mm256_load_si256(rows + 3);

        _mm_prefetch((const char *)rows + AHEAD_BYTES, _MM_HINT_T0);
        _mm_prefetch((const char *)rows + AHEAD_BYTES + 64, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int i = 0; i < used; i++) {
            __m256i p = _mm256_set1_epi32(word[i]), q = _mm256_set1_epi32(word[i + TILE_INTERESTS]);

            first[i] = _mm256_add_epi16(first[i], _mm256_maddubs_epi16(a, p));
            second[i] = _mm256_add_epi16(second[i], _mm256_maddubs_epi16(b, p));
            first[i] = _mm256_add_epi16(first[i], _mm256_maddubs_epi16(c, q));
            second[i] = _mm256_add_epi16(second[i], _mm256_maddubs_epi16(d, q));
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < used; i++) {
        first[i] = _mm256_madd_epi16(first[i], ones);
        second[i] = _mm256_madd_epi16(second[i], ones);
        sums->first[i] = is_first ? first[i] : _mm256_add_epi32(sums->first[i], first[i]);
        sums->second[i] = is_first ? second[i] : _mm256_add_epi32(sums->second[i], second[i]);
    }
}

AVX2 void add_spans(struct sums *sums, const unsigned char *tile, const int32_t *word, size_t dim,
                    int used)
{
    const __m256i *rows = (const __m256i *)tile;
    size_t left = steps(dim), n = left < SPAN_STEPS ? left : SPAN_STEPS;

    add_span(sums, true, rows, word, n, used);
    while ((left -= n) > 0) {
        rows += 4 * SPAN_STEPS;
        word += (2 * SPAN_STEPS + 1) * TILE_INTERESTS;
        n = left < SPAN_STEPS ? left : SPAN_STEPS;
        add_span(sums, false, rows, word, n, used);
    }
}

/* Eight rows' low ends to `low`; returns which high ends reach the floor. `scores` lack the rows'
 * scale. */
AVX2 unsigned put_bounds(__m256 scores, const struct tile_rows *about, int r, float error,
                         float size, float floor, float *low)
{
    __m256 score = _mm256_mul_ps(scores, _mm256_loadu_ps(about->scale + r));
    __m256 by_error = _mm256_mul_ps(_mm256_set1_ps(error), _mm256_loadu_ps(about->error + r));
    __m256 by_size = _mm256_mul_ps(_mm256_set1_ps(size), _mm256_loadu_ps(about->size + r));
    __m256 bound = _mm256_add_ps(by_error, by_size);

    _mm256_store_ps(low + r, _mm256_sub_ps(score, bound));
    return (unsigned)_mm256_movemask_ps(
        _mm256_cmp_ps(_mm256_add_ps(score, bound), _mm256_set1_ps(floor), _CMP_GE_OQ));
}

AVX2 __m256 scaled(__m256i sums, float scale)
{
    return _mm256_mul_ps(_mm256_cvtepi32_ps(sums), _mm256_set1_ps(scale));
}

__attribute__((target("avx2"))) static uint64_t each_avx2(const unsigned char *tile,
                                                          const struct screen_group *g, size_t dim,
                                                          const float *floors, float *low)
{
    const struct tile_rows *about = tile_rows(tile, dim);
    struct sums sums;
    uint64_t mask = 0;

    add_spans(&sums, tile, g->words, dim, TILE_INTERESTS);
#pragma GCC unroll 4
    for (int i = 0; i < TILE_INTERESTS; i++) {
        float *of_i = low + i * TILE_ROWS;
        unsigned bits = put_bounds(scaled(sums.first[i], g->scale[i]), about, 0, g->by_error[i],
                                   g->by_size[i], floors[i], of_i);

        bits |= put_bounds(scaled(sums.second[i], g->scale[i]), about, HALF, g->by_error[i],
                           g->by_size[i], floors[i], of_i)
                << HALF;
        mask |= (uint64_t)bits << (i * TILE_ROWS);
    }
    return mask;
}

/* The best of the group's first `used` interests, half of the rows each. */
AVX2 void keep_best(const unsigned char *tile, const struct screen_group *g, size_t dim, int used,
                    __m256 *first, __m256 *second)
{
    struct sums sums;

    add_spans(&sums, tile, g->words, dim, used);
#pragma GCC unroll 4
    for (int i = 0; i < used; i++) {
        *first = _mm256_max_ps(*first, scaled(sums.first[i], g->scale[i]));
        *second = _mm256_max_ps(*second, scaled(sums.second[i], g->scale[i]));
    }
}

/* One or two interests in the last group take half the time. */
__attribute__((target("avx2"))) static uint32_t joint_avx2(const unsigned char *tile,
                                                           const struct screen_joint *j, size_t dim,
                                                           float floor, float *low)
{
    const struct tile_rows *about = tile_rows(tile, dim);
    __m256 first = _mm256_set1_ps(-INFINITY), second = first;
    size_t whole = (j->n_interests + 1) / TILE_INTERESTS; /* three count as four */
    uint32_t mask;

    for (size_t i = 0; i < whole; i++)
        keep_best(tile, &j->groups[i], dim, TILE_INTERESTS, &first, &second);
    if (whole < j->n_groups)
        keep_best(tile, &j->groups[whole], dim, TILE_INTERESTS / 2, &first, &second);
    mask = put_bounds(first, about, 0, j->by_error, j->by_size, floor, low);
    return mask | put_bounds(second, about, HALF, j->by_error, j->by_size, floor, low) << HALF;
}
#endif

/* ---- any processor -------------------------------------------------------------- */

/* The sums with interest i of a group. */
static void sums_plain(const unsigned char *tile, const struct screen_group *g, size_t i,
                       size_t dim, int32_t sums[TILE_ROWS])
{
    const int32_t *word = g->words + i;

    for (size_t r = 0; r < TILE_ROWS; r++)
        sums[r] = g->offset[i];
    for (size_t w = 0; w < steps(dim) * (STEP / WORD); w++) {
        const signed char *v;

        if (w % (SPAN / WORD) == 0)
            word += TILE_INTERESTS; /* the starts */
        v = (const signed char *)word;
        for (size_t r = 0; r < TILE_ROWS; r++)
            for (size_t j = 0; j < WORD; j++)
                sums[r] += tile[r * WORD + j] * v[j];
        tile += TILE_ROWS * WORD;
        word += TILE_INTERESTS;
    }
}

static uint64_t each_plain(const unsigned char *tile, const struct screen_group *g, size_t dim,
                           const float *floors, float *low)
{
    const struct tile_rows *about = tile_rows(tile, dim);
    uint64_t mask = 0;

    for (size_t i = 0; i < TILE_INTERESTS; i++) {
        int32_t sums[TILE_ROWS];

        sums_plain(tile, g, i, dim, sums);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            float score = (float)sums[r] * g->scale[i] * about->scale[r];
            float bound = screen_bound(g->by_error[i], g->by_size[i], about, r);

            low[i * TILE_ROWS + r] = score - bound;
            mask |= (uint64_t)(score + bound >= floors[i]) << (i * TILE_ROWS + r);
        }
    }
    return mask;
}

static uint32_t joint_plain(const unsigned char *tile, const struct screen_joint *j, size_t dim,
                            float floor, float *low)
{
    const struct tile_rows *about = tile_rows(tile, dim);
    float best[TILE_ROWS];
    uint32_t mask = 0;

    for (size_t r = 0; r < TILE_ROWS; r++)
        best[r] = -INFINITY;
    for (size_t i = 0; i < j->n_groups * TILE_INTERESTS; i++) {
        const struct screen_group *g = &j->groups[i / TILE_INTERESTS];
        int32_t sums[TILE_ROWS];

        sums_plain(tile, g, i % TILE_INTERESTS, dim, sums);
        for (size_t r = 0; r < TILE_ROWS; r++) {
            float score = (float)sums[r] * g->scale[i % TILE_INTERESTS];

            best[r] = best[r] > score ? best[r] : score;
        }
    }
    for (size_t r = 0; r < TILE_ROWS; r++) {
        float score = best[r] * about->scale[r];
        float bound = screen_bound(j->by_error, j->by_size, about, r);

        low[r] = score - bound;
        mask |= (uint32_t)(score + bound >= floor) << r;
    }
    return mask;
}

const struct screens screens_plain = {each_plain, joint_plain};

const struct screens *screens_pick(void)
{
#if defined(__x86_64__)
    static const struct screens avx2 = {each_avx2, joint_avx2};

    if (__builtin_cpu_supports("avx2"))
        return &avx2;
#endif
    return &screens_plain;
}
