"""Intervals, paired tests, Holm and verdicts: by hand, at the edges, and by simulation under the truth."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from study.stats import (
    NOT_SEPARATED,
    TOO_FEW_CASES,
    Interval,
    Paired,
    case_means,
    holm,
    mean_interval,
    paired,
    verdict,
)  # fmt: skip


def test_case_means_average_rows_then_replicates():
    # a: replicate 0 has rows 0.2, 0.4 (mean 0.3), replicate 1 one row 0.9 -> 0.6, not the row mean 0.5
    cases, means = case_means([0.2, 0.4, 0.9, 1.0], ["a", "a", "a", "b"], [0, 0, 1, 0])
    assert cases == ("a", "b")
    np.testing.assert_allclose(means, [0.6, 1.0], rtol=1e-15)


def test_case_means_leave_nan_rows_out():
    cases, means = case_means([math.nan, 4.0, math.nan], ["b", "b", "a"], [0, 0, 0])
    assert cases == ("a", "b")
    assert math.isnan(means[0])
    assert means[1] == 4.0


def test_case_means_refuse_ragged_columns():
    with pytest.raises(ValueError, match="zip"):
        case_means([1.0, 2.0], ["a"], [0, 0])


def test_interval_is_reproducible_and_holds_the_mean():
    values = np.random.default_rng(1).uniform(size=30)
    first = mean_interval(values)
    assert first == mean_interval(values)
    assert first != mean_interval(values, seed=1)
    assert first.low < values.mean() < first.high
    assert first.n == 30
    # Close to the t interval for 30 well-behaved cases; a tenth of its width is far above
    # the resampling noise.
    t = scipy_stats.t.interval(0.95, 29, values.mean(), scipy_stats.sem(values))
    assert first.low == pytest.approx(t[0], abs=0.1 * (t[1] - t[0]))
    assert first.high == pytest.approx(t[1], abs=0.1 * (t[1] - t[0]))


def test_interval_grows_with_confidence():
    values = np.random.default_rng(2).uniform(size=20)
    narrow, wide = mean_interval(values, 0.8), mean_interval(values, 0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_of_a_skewed_sample_leans_to_the_tail():
    values = np.random.default_rng(3).lognormal(sigma=1.2, size=40)
    found = mean_interval(values)
    assert found.high - found.mean > found.mean - found.low  # BCa corrects for skew, a normal interval cannot


def test_interval_without_or_with_one_case_has_no_bounds():
    nothing, one = mean_interval(np.array([])), mean_interval(np.array([0.7, math.nan]))
    assert nothing.n == 0
    assert math.isnan(nothing.mean)
    assert (one.mean, one.n) == (0.7, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_interval_of_equal_cases_is_the_point():
    assert mean_interval(np.full(8, 0.25)) == Interval(0.25, 0.25, 0.25, 8)


@pytest.mark.parametrize("values", [[0.1, 0.9], [0.0, 0.0, 1.0], [0.2, 0.2, 0.2, 0.9]])
def test_interval_of_a_handful_is_finite(values):
    found = mean_interval(np.array(values))
    assert min(values) <= found.low <= found.mean <= found.high <= max(values)
    assert found.low < found.high


def test_coverage_of_the_interval():
    # BCa over 20 normal cases covers a little less than nominal: 0.922 measured over 4,000 runs. At that
    # coverage fewer than 161 of 200 hits have probability 4e-8 and all 200 have 0.922^200 = 9e-8.
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(200):
        found = mean_interval(rng.normal(0.5, 0.2, size=20))
        hits += found.low <= 0.5 <= found.high
    assert 161 <= hits < 200


def test_paired_by_hand():
    # differences +1, +2, +3, -4: ranks 1..4, W+ = 6, W- = 4; (6 - 4) / 10 = 0.2.
    # Of the 16 sign patterns 7 have W <= 4 (sums of subsets of {1,2,3,4} up to 4), so p = 14 / 16.
    found = paired(np.array([2.0, 3.0, 4.0, 0.0]), np.array([1.0, 1.0, 1.0, 4.0]))
    assert found.difference == 0.5
    assert found.effect == pytest.approx(0.2, rel=1e-12)
    assert found.p == pytest.approx(14 / 16, rel=1e-12)
    assert found.n == 4


def test_six_equal_signs_reach_the_smallest_p():
    found = paired(np.arange(1.0, 7.0), np.zeros(6))
    assert found.p == pytest.approx(2 / 2**6, rel=1e-12)
    assert found.effect == 1.0


def test_zero_differences_are_discarded_from_test_and_effect():
    with_zeros = paired(np.array([1.0, 2.0, 3.0, -4.0, 0.0, 0.0]), np.zeros(6))
    without = paired(np.array([1.0, 2.0, 3.0, -4.0]), np.zeros(4))
    assert (with_zeros.p, with_zeros.effect) == (without.p, without.effect)
    assert with_zeros.n == 6  # the interval still counts them


def test_equal_arms():
    scores = np.linspace(0, 1, 9)
    assert paired(scores, scores) == Paired(0.0, 0.0, 0.0, 1.0, 0.0, 9)


def test_rounding_noise_is_a_tie():
    b = np.linspace(0.1, 0.9, 9)
    assert paired(b + 1e-14, b).p == 1.0


def test_pairs_with_nan_are_left_out():
    found = paired(np.array([1.0, math.nan, 2.0]), np.array([0.0, 5.0, math.nan]))
    assert (found.difference, found.n) == (1.0, 1)
    nothing = paired(np.array([math.nan]), np.array([1.0]))
    assert nothing.n == 0
    assert math.isnan(nothing.p)
    assert math.isnan(nothing.effect)


def test_paired_refuses_different_lengths():
    with pytest.raises(ValueError, match="one shape"):
        paired(np.zeros(3), np.zeros(4))


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.04: times 3, 2, 1 -> 0.03, 0.04, 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04], rel=1e-12)
    # 0.03 * 2 = 0.06 and then 0.04, which may not be smaller than the one before it
    assert holm([0.03, 0.04]) == pytest.approx([0.06, 0.06], rel=1e-12)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_keeps_nan_and_does_not_count_it():
    found = holm([0.02, math.nan, 0.03])
    assert found[0] == pytest.approx(0.04, rel=1e-12)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04, rel=1e-12)


BETTER = Paired(0.2, 0.1, 0.3, 0.001, 0.9, 20)


@pytest.mark.parametrize(
    ("comparison", "p", "greater", "expected"),
    [
        (BETTER, 0.003, True, "A better than B"),
        (BETTER, 0.003, False, "B better than A"),
        (Paired(-0.2, -0.3, -0.1, 0.001, -0.9, 20), 0.003, True, "B better than A"),
        (Paired(-0.2, -0.3, -0.1, 0.001, -0.9, 20), 0.003, False, "A better than B"),
        (BETTER, 0.05, True, NOT_SEPARATED),  # the adjusted p decides, and 0.05 is not below 0.05
        (BETTER, math.nan, True, NOT_SEPARATED),
        (Paired(0.2, -0.01, 0.3, 0.001, 0.9, 20), 0.003, True, NOT_SEPARATED),
        (Paired(0.2, 0.0, 0.3, 0.001, 0.9, 20), 0.003, True, NOT_SEPARATED),
        (Paired(0.2, 0.1, 0.3, 0.001, -0.9, 20), 0.003, True, NOT_SEPARATED),  # mean and ranks disagree
        (Paired(0.2, 0.1, 0.3, 0.001, 0.9, 5), 0.003, True, TOO_FEW_CASES),
        (Paired(math.nan, math.nan, math.nan, math.nan, math.nan, 0), math.nan, True, TOO_FEW_CASES),
    ],
)
def test_verdict(comparison, p, greater, expected):
    assert verdict(comparison, p, greater_is_better=greater) == expected


def test_verdict_names_the_arms():
    assert verdict(BETTER, 0.01, a="5 pixels", b="full") == "5 pixels better than full"


def test_equal_arms_are_rarely_called_different():
    # 200 studies of 12 cases whose arms differ by noise only. The signed-rank test alone allows 5 % (and the
    # interval only takes away); P(Binomial(200, 0.05) > 27) is below 1e-6.
    rng = np.random.default_rng(5)
    false_alarms = 0
    for _ in range(200):
        found = paired(rng.normal(size=12), rng.normal(size=12))
        false_alarms += verdict(found, found.p) != NOT_SEPARATED
    assert false_alarms <= 27


def test_a_large_difference_is_found():
    rng = np.random.default_rng(6)
    base = rng.uniform(0.3, 0.6, size=12)
    found = paired(base + rng.normal(0.2, 0.05, size=12), base)
    assert verdict(found, found.p) == "A better than B"
    assert found.low < 0.2 < found.high
