/* Statistics of experiments against values that scipy 1.10 and statsmodels 0.13 give. */
#include "../../src/ctr/stats.h"

#include "recalld/base.h"

#include <math.h>
#include <setjmp.h>
#include <stdlib.h>

#include <cmocka.h>

#define CLOSE 1e-12 /* relative */

static void assert_close(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance * fabs(wanted)))
        fail_msg("%.17g instead of %.17g", got, wanted);
}

static struct stats_sums sums_of(const double (*pairs)[2], size_t n)
{
    struct stats_sums s = {0};

    for (size_t i = 0; i < n; i++)
        stats_add(&s, pairs[i][0], pairs[i][1]);
    return s;
}

/* clicks and exposures of a few users */
static const double some[][2] = {{0, 0}, {1, 10}, {0, 4}, {3, 12}, {2, 20}, {0, 7}, {5, 9}, {1, 1}};
static const double others[][2] = {{2, 10}, {4, 11}, {0, 3}, {1, 1}, {6, 20}, {0, 0}, {3, 8}};

static void normal_quantiles_are_scipys(void **state)
{
    (void)state;
    assert_close(stats_normal_quantile(0.5), 0.6744897501960817, CLOSE);
    assert_close(stats_normal_quantile(0.8), 1.2815515655446004, CLOSE);
    assert_close(stats_normal_quantile(0.95), 1.959963984540054, CLOSE);
    assert_close(stats_normal_quantile(0.999), 3.2905267314919255, CLOSE);
}

static void a_ratio_has_the_error_of_the_delta_method(void **state)
{
    struct stats_sums s = sums_of(some, ARRAY_LEN(some));
    struct stats_ratio r = stats_ratio(&s);

    (void)state;
    assert_close(r.value, 0.19047619047619047, CLOSE);
    assert_close(r.se, 0.07281387500403505, CLOSE);
    s = sums_of(others, ARRAY_LEN(others));
    assert_close(stats_ratio(&s).se, 0.036173729855645355, CLOSE);
}

static void arms_are_compared_by_difference_and_lift(void **state)
{
    struct stats_sums a = sums_of(some, ARRAY_LEN(some)), b = sums_of(others, ARRAY_LEN(others));
    struct stats_difference d = stats_compare(&a, &b, 0.95);

    (void)state;
    assert_close(d.difference.value, 0.11141060197663971, CLOSE);
    assert_close(d.difference.low, -0.04794301745563376, CLOSE);
    assert_close(d.difference.high, 0.2707642214089132, CLOSE);
    assert_close(d.p, 0.17059620503358075, CLOSE);
    assert_close(d.lift.value, 0.5849056603773586, CLOSE);
    assert_close(d.lift.low, -0.6595413430786654, CLOSE);
    assert_close(d.lift.high, 1.8293526638333826, CLOSE);
    assert_close(stats_naive_p(&a, &b), 0.16246487334308934, CLOSE);
}

static void the_naive_test_is_statsmodels(void **state)
{
    struct stats_sums a = {.x = 120, .y = 1000}, b = {.x = 150, .y = 1010};

    (void)state;
    assert_close(stats_naive_p(&a, &b), 0.06086874662683877, CLOSE);
}

static void nothing_to_compare_is_no_number(void **state)
{
    static const double idle[][2] = {{0, 0}, {0, 0}, {0, 0}}, one[][2] = {{1, 3}};
    static const double unloved[][2] = {{0, 5}, {0, 9}};
    struct stats_sums none = sums_of(idle, 3), single = sums_of(one, 1), zero = sums_of(unloved, 2);
    struct stats_sums good = sums_of(some, ARRAY_LEN(some));

    (void)state;
    assert_true(isnan(stats_ratio(&none).value) && isnan(stats_ratio(&none).se));
    assert_close(stats_ratio(&single).value, 1.0 / 3, CLOSE);
    assert_true(isnan(stats_ratio(&single).se));
    assert_true(isnan(stats_compare(&good, &none, 0.95).p));
    assert_true(isnan(stats_compare(&good, &single, 0.95).p));
    assert_true(isnan(stats_compare(&zero, &good, 0.95).lift.value)); /* of a control of zero */
    assert_false(isnan(stats_compare(&zero, &good, 0.95).difference.value));
    assert_true(isnan(stats_compare(&zero, &zero, 0.95).p));
    assert_true(isnan(stats_naive_p(&zero, &zero)));
    assert_true(isnan(stats_naive_p(&none, &good)));
}

static void tables_are_compared_row_by_row(void **state)
{
    static const double table[] = {100, 120, 90, 200, 180, 220};
    static const double holes[] = {100, 0, 120, 90, 0, 0, 0, 0, 200, 0, 180, 220};
    static const double one[] = {3, 4, 0, 0};

    (void)state;
    assert_close(stats_homogeneity(table, 2, 3), 0.015986973601153316, 1e-11);
    assert_close(stats_homogeneity(holes, 3, 4), 0.015986973601153316, 1e-11);
    assert_true(stats_homogeneity(one, 2, 2) == 1);
}

static void the_uniform_distribution_is_tested_by_kolmogorov_smirnov(void **state)
{
    double even[] = {0.93, 0.02, 0.11, 0.23, 0.29, 0.41, 0.52, 0.58, 0.77, 0.81}, low[99], d;

    (void)state;
    assert_true(fabs(stats_uniform_p(even, 10, &d) - 0.995) < 0.005); /* exact: 0.99486 */
    assert_close(d, 0.12, CLOSE);
    for (int i = 0; i < 99; i++)
        low[i] = (i + 1) * (i + 1) / 10000.0;
    assert_close(stats_uniform_p(low, 99, &d), 3.6e-6, 0.1); /* exact: 3.64e-6 */
    assert_close(d, 0.25505151515151514, CLOSE);
}

static void holms_p_values_are_statsmodels(void **state)
{
    static const double p[] = {0.01, NAN, 0.04, 0.03, 0.5}, wanted[] = {0.04, 0, 0.09, 0.09, 0.5};
    double adjusted[5];

    (void)state;
    stats_holm(p, adjusted, 5);
    for (size_t i = 0; i < 5; i++)
        if (i == 1)
            assert_true(isnan(adjusted[i]));
        else
            assert_close(adjusted[i], wanted[i], CLOSE);
    stats_holm((double[]){0.7, 0.9}, adjusted, 2);
    assert_true(adjusted[0] == 1 && adjusted[1] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normal_quantiles_are_scipys),
        cmocka_unit_test(a_ratio_has_the_error_of_the_delta_method),
        cmocka_unit_test(arms_are_compared_by_difference_and_lift),
        cmocka_unit_test(the_naive_test_is_statsmodels),
        cmocka_unit_test(nothing_to_compare_is_no_number),
        cmocka_unit_test(tables_are_compared_row_by_row),
        cmocka_unit_test(the_uniform_distribution_is_tested_by_kolmogorov_smirnov),
        cmocka_unit_test(holms_p_values_are_statsmodels),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
