/* Fixed-order arithmetic: against a plain twin that spells the order out, and against double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "recalld/vec.h"

static uint64_t seed = 1;

static float any(void)
{
    seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (float)((double)(seed >> 33) / (double)(1u << 30) - 1.0);
}

/* The order of vec.h in words: sixteen lanes, then halves. Volatile forbids fusing. */
static float dot_twin(const float *a, const float *b, size_t n)
{
    volatile float lane[16] = {0};

    for (size_t i = 0; i < n; i++) {
        volatile float product = a[i] * b[i];
        lane[i % 16] = lane[i % 16] + product;
    }
    for (int width = 8; width >= 1; width /= 2)
        for (int l = 0; l < width; l++)
            lane[l] = lane[l] + lane[l + width];
    return lane[0];
}

static void dot_has_exactly_the_bits_of_the_stated_order(void **state)
{
    float a[200], b[200];

    (void)state;
    for (size_t n = 0; n < 200; n++)
        for (int round = 0; round < 20; round++) {
            for (size_t i = 0; i < n; i++) {
                a[i] = any();
                b[i] = any();
            }
            float want = dot_twin(a, b, n), got = vec_dot(a, b, n);
            assert_memory_equal(&want, &got, sizeof got);
        }
}

static void dot_does_not_depend_on_alignment(void **state)
{
    float a[100 + 8], b[100 + 8];

    (void)state;
    for (size_t i = 0; i < 108; i++) {
        a[i] = any();
        b[i] = any();
    }
    for (size_t shift = 1; shift < 8; shift++) {
        float moved[108];

        memcpy(moved + shift, a, 100 * sizeof *a);
        assert_true(vec_dot(moved + shift, b, 100) == vec_dot(a, b, 100));
    }
}

static void affine_adds_in_the_order_of_c_whatever_the_batch(void **state)
{
    enum { ROWS = 11, D = 23, M = 101 }; /* tiles of 64 and 16 columns, a tail of 5 */
    static float x[ROWS * D], w[D * M], bias[M], all[ROWS * M], one[M];

    (void)state;
    for (size_t i = 0; i < ROWS * D; i++)
        x[i] = any();
    for (size_t i = 0; i < D * M; i++)
        w[i] = any();
    for (size_t i = 0; i < M; i++)
        bias[i] = any();
    vec_affine(all, M, x, D, ROWS, w, bias, D, M);
    for (size_t r = 0; r < ROWS; r++) {
        vec_affine(one, M, x + r * D, D, 1, w, bias, D, M);
        assert_memory_equal(one, all + r * M, sizeof one);
        for (size_t j = 0; j < M; j++) {
            volatile float sum = 0;

            for (size_t c = 0; c < D; c++) {
                volatile float product = x[r * D + c] * w[c * M + j];
                sum = sum + product;
            }
            sum = sum + bias[j];
            assert_true(sum == one[j]);
        }
    }
}

static void dots_have_the_bits_of_single_ones(void **state)
{
    enum { N_ROWS = 7, AT = 3 };
    static float rows[N_ROWS][AT + 70];
    const float *pointers[N_ROWS];
    float a[70], out[N_ROWS];

    (void)state;
    for (size_t r = 0; r < N_ROWS; r++) {
        pointers[r] = rows[r];
        for (size_t i = 0; i < AT + 70; i++)
            rows[r][i] = any();
    }
    for (size_t i = 0; i < 70; i++)
        a[i] = any();
    for (size_t n = 0; n <= 70; n++) {
        vec_dots(out, a, pointers, AT, N_ROWS, n);
        for (size_t r = 0; r < N_ROWS; r++)
            assert_true(out[r] == vec_dot(a, rows[r] + AT, n));
    }
}

static void weighted_sum_adds_row_after_row(void **state)
{
    enum { N_ROWS = 7, AT = 3, N = 150 };
    static float rows[N_ROWS][AT + N];
    const float *pointers[N_ROWS];
    float w[N_ROWS], out[N];

    (void)state;
    for (size_t r = 0; r < N_ROWS; r++) {
        pointers[r] = rows[r];
        w[r] = any();
        for (size_t i = 0; i < AT + N; i++)
            rows[r][i] = any();
    }
    for (size_t n_rows = 0; n_rows <= N_ROWS; n_rows++)
        for (size_t n = 0; n <= N; n++) {
            vec_weighted_sum(out, w, pointers, AT, n_rows, n);
            for (size_t i = 0; i < n; i++) {
                volatile float want = 0;

                for (size_t r = 0; r < n_rows; r++) {
                    volatile float product = w[r] * rows[r][AT + i];
                    want = want + product;
                }
                assert_true(out[i] == want);
            }
        }
}

static void exp_is_within_two_units_in_the_last_place(void **state)
{
    (void)state;
    for (float x = -87.2f; x < 88.2f; x += 0.00071f) {
        float y = x;
        double want = exp((double)x);

        vec_exp(&y, 1);
        assert_true(fabs((double)y - want) <= 2 * want * ldexp(1, -23));
    }
}

static void exp_ends_in_zero_and_infinity_and_keeps_nan(void **state)
{
    float x[] = {-1e30f, -INFINITY, -4294967296.0f, 89.0f, INFINITY, NAN, 0.0f};

    (void)state;
    vec_exp(x, sizeof x / sizeof *x);
    assert_true(x[0] == 0 && x[1] == 0 && x[2] == 0);
    assert_true(isinf(x[3]) && isinf(x[4]));
    assert_true(isnan(x[5]));
    assert_true(x[6] == 1.0f);
}

static void softmax_sums_to_one_and_keeps_masked_entries_at_zero(void **state)
{
    float x[50];
    double sum = 0;

    (void)state;
    for (size_t i = 0; i < 50; i++)
        x[i] = i % 5 == 0 ? -4294967296.0f : 3 * any();
    vec_softmax(x, 50);
    for (size_t i = 0; i < 50; i++) {
        assert_true(i % 5 != 0 || x[i] == 0);
        sum += (double)x[i];
    }
    assert_true(fabs(sum - 1) < 1e-6);
}

static void softmax_of_masked_entries_alone_is_uniform(void **state)
{
    float x[4] = {-4294967296.0f, -4294967296.0f, -4294967296.0f, -4294967296.0f};

    (void)state;
    vec_softmax(x, 4);
    for (int i = 0; i < 4; i++)
        assert_true(x[i] == 0.25f);
}

static void normalise_divides_by_the_length_but_never_by_less_than_the_floor(void **state)
{
    float v[3] = {3, 0, 4}, zero[3] = {0, 0, 0}, out[3];

    (void)state;
    vec_normalise(out, v, 3, 1e-12f);
    assert_true(fabsf(out[0] - 0.6f) < 1e-7f && out[1] == 0 && fabsf(out[2] - 0.8f) < 1e-7f);
    vec_normalise(out, zero, 3, 1e-12f);
    assert_true(out[0] == 0 && out[1] == 0 && out[2] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dot_has_exactly_the_bits_of_the_stated_order),
        cmocka_unit_test(dot_does_not_depend_on_alignment),
        cmocka_unit_test(affine_adds_in_the_order_of_c_whatever_the_batch),
        cmocka_unit_test(dots_have_the_bits_of_single_ones),
        cmocka_unit_test(weighted_sum_adds_row_after_row),
        cmocka_unit_test(exp_is_within_two_units_in_the_last_place),
        cmocka_unit_test(exp_ends_in_zero_and_infinity_and_keeps_nan),
        cmocka_unit_test(softmax_sums_to_one_and_keeps_masked_entries_at_zero),
        cmocka_unit_test(softmax_of_masked_entries_alone_is_uniform),
        cmocka_unit_test(normalise_divides_by_the_length_but_never_by_less_than_the_floor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
