"""What must hold for any scores: shifts, swaps, orders and monotone corrections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from study.stats import case_means, holm, mean_interval, paired

SCORE = st.integers(0, 1_000).map(lambda i: i / 1_000)
PAIRS = st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=12)
TOLERANCE = 1e-9  # scores have three digits; shifts of at most 10 cost float64 less than 1e-14 per value
FEW = settings(max_examples=12, deadline=None)


@FEW
@given(PAIRS, st.floats(-10, 10))
def test_shifting_both_arms_changes_nothing(pairs, shift):
    a, b = np.array(pairs).T
    plain, shifted = paired(a, b), paired(a + shift, b + shift)
    assert shifted.difference == pytest.approx(plain.difference, abs=TOLERANCE)
    assert (shifted.p, shifted.effect) == (plain.p, plain.effect)
    assert shifted.low == pytest.approx(plain.low, abs=TOLERANCE)
    assert shifted.high == pytest.approx(plain.high, abs=TOLERANCE)


@FEW
@given(PAIRS)
def test_swapping_the_arms_mirrors_the_comparison(pairs):
    a, b = np.array(pairs).T
    forward, backward = paired(a, b), paired(b, a)
    assert backward.difference == pytest.approx(-forward.difference, abs=TOLERANCE)
    assert backward.low == pytest.approx(-forward.high, abs=TOLERANCE)
    assert backward.high == pytest.approx(-forward.low, abs=TOLERANCE)
    assert backward.effect == pytest.approx(-forward.effect, abs=TOLERANCE)
    assert backward.p == forward.p


@FEW
@given(st.lists(SCORE, min_size=2, max_size=12))
def test_the_interval_lies_within_the_cases_around_the_mean(scores):
    found = mean_interval(np.array(scores))
    assert min(scores) - TOLERANCE <= found.low <= found.mean + TOLERANCE
    assert found.mean - TOLERANCE <= found.high <= max(scores) + TOLERANCE


@given(
    st.lists(st.tuples(SCORE, st.sampled_from("abc"), st.integers(0, 2)), min_size=1, max_size=30),
    st.randoms(),
)
def test_case_means_do_not_depend_on_the_order_of_rows(rows, random):
    mixed = list(rows)
    random.shuffle(mixed)
    cases, means = case_means(*zip(*rows, strict=True))
    cases_mixed, means_mixed = case_means(*zip(*mixed, strict=True))
    assert cases == cases_mixed
    assert means.tolist() == means_mixed.tolist()


@given(st.lists(st.floats(0, 1), max_size=10))
def test_holm_raises_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(before <= after <= 1 for before, after in zip(p, adjusted, strict=True))
    ranked = [adjusted[i] for i in sorted(range(len(p)), key=p.__getitem__)]
    assert ranked == sorted(ranked)
