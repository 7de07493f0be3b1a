/* Pearson's test against values of arbitrary precision (mpmath) and of scipy 1.10. */
#include "recalld/base.h"

#include <math.h>
#include <setjmp.h>

#include <cmocka.h>

static void assert_close(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance * fabs(wanted)))
        fail_msg("%.17g instead of %.17g", got, wanted);
}

static void probabilities_are_those_of_arbitrary_precision(void **state)
{
    static const struct {
        double x;
        int degrees;
        double p;
    } cases[] = {
        {0.2, 1, 0.65472084601857702},
        {7.682917641388248, 1, 0.00557459668078442291},
        {800, 1, 5.39586561160790093e-176},
        {4, 2, 0.135335283236612692},
        {3, 3, 0.391625176271088955},
        {60, 5, 1.21545697771830389e-11},
        {6, 20, 0.99889751186988452},
        {30.8, 31, 0.476322885099683187},
        {260, 200, 0.00275040836730652628},
        {8.5, 62, 0.99999999999999994},
        {2500, 3969, 1}, /* exp(-x / 2) is zero here, the sum is not */
        {4000, 3969, 0.36147554130771035},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++)
        assert_close(chi_square_p(cases[i].x, cases[i].degrees), cases[i].p,
                     cases[i].degrees < 1000 ? 1e-13 : 1e-11);
}

static void the_ends_are_exact_and_nonsense_is_no_number(void **state)
{
    (void)state;
    for (int degrees = 1; degrees < 40; degrees++) {
        assert_true(chi_square_p(0, degrees) == 1);
        assert_true(chi_square_p(INFINITY, degrees) == 0);
        assert_true(chi_square_p(1e-300, degrees) <= 1);
    }
    assert_true(isnan(chi_square_p(-1, 3)) && isnan(chi_square_p(NAN, 3)));
    assert_true(isnan(chi_square_p(1, 0)) && isnan(chi_square_p(1, -1)));
}

#define ROUNDING 1e-13

static void more_is_less_likely(void **state)
{
    (void)state;
    for (int degrees = 1; degrees <= 64; degrees++) {
        double before = 1;

        for (double x = 0.5; x < 200; x += 0.5) {
            double p = chi_square_p(x, degrees);

            assert_true(p > 0 && p <= before * (1 + ROUNDING));
            assert_true(p <= chi_square_p(x, degrees + 1) * (1 + ROUNDING));
            before = p;
        }
    }
}

static void shares_are_tested_as_scipy_does(void **state)
{
    static const double two[] = {5000, 5200}, three[] = {3300, 3400, 3250},
                        lopsided[] = {900, 9100};
    static const double halves[] = {0.5, 0.5}, tenth[] = {0.1, 0.9};
    static const double thirds[] = {1.0 / 3, 1.0 / 3, 1.0 / 3};
    double statistic;
    int degrees;

    (void)state;
    assert_close(chi_square_test(two, halves, 2, &statistic, &degrees), 0.0476703806561615, 1e-12);
    assert_close(statistic, 3.9215686274509802, 1e-14);
    assert_int_equal(degrees, 1);
    assert_close(chi_square_test(three, thirds, 3, &statistic, &degrees), 0.17225248028679596,
                 1e-12);
    assert_int_equal(degrees, 2);
    assert_close(chi_square_test(lopsided, tenth, 2, &statistic, &degrees), 0.0008581206663936758,
                 1e-12);
}

static void a_share_of_zero_may_have_nobody(void **state)
{
    static const double shares[] = {0.5, 0, 0.5}, good[] = {10, 0, 12}, bad[] = {10, 1, 12};
    static const double all[] = {1}, one[] = {7}, nobody[] = {0, 0}, halves[] = {0.5, 0.5};
    double with, without, statistic;
    int degrees;

    (void)state;
    with = chi_square_test(good, shares, 3, &statistic, &degrees);
    assert_int_equal(degrees, 1);
    without = chi_square_test((double[]){10, 12}, halves, 2, &statistic, &degrees);
    assert_true(with == without);
    assert_true(chi_square_test(bad, shares, 3, &statistic, &degrees) == 0);
    assert_true(isinf(statistic));
    assert_true(chi_square_test(one, all, 1, &statistic, &degrees) == 1);
    assert_int_equal(degrees, 0);
    assert_true(chi_square_test(nobody, halves, 2, &statistic, &degrees) == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(probabilities_are_those_of_arbitrary_precision),
        cmocka_unit_test(the_ends_are_exact_and_nonsense_is_no_number),
        cmocka_unit_test(more_is_less_likely),
        cmocka_unit_test(shares_are_tested_as_scipy_does),
        cmocka_unit_test(a_share_of_zero_may_have_nobody),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
