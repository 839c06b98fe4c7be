"""Protocol: published learning rates, and reports that end with the training."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.fields import check_values
from trainables.protocol import Protocol


@pytest.mark.parametrize(("iteration", "rate"), [(0, 0.01), (30_000, 0.0053589), (59_999, 5.008e-7)])
def test_poly_as_published(iteration: int, rate: float) -> None:
    """Values of the specification (methods.md 1.4), which gives four to five digits."""
    assert Protocol().learning_rate_at(iteration) == pytest.approx(rate, rel=1e-4)


def test_cosine_and_constant() -> None:
    cosine = Protocol(schedule="cosine", iterations=100)
    assert [cosine.learning_rate_at(t) for t in (0, 50)] == pytest.approx([0.01, 0.005])
    assert cosine.learning_rate_at(25) == pytest.approx(0.01 * (2 + math.sqrt(2)) / 4)
    constant = Protocol(schedule="constant", iterations=100, learning_rate=0.03)
    assert {constant.learning_rate_at(t) for t in range(100)} == {0.03}


@given(schedule=st.sampled_from(("poly", "cosine")), iterations=st.integers(2, 10**6))
def test_the_rate_falls_and_never_reaches_zero_during_training(schedule: str, iterations: int) -> None:
    protocol = Protocol(schedule=schedule, iterations=iterations)
    first, second, last = (protocol.learning_rate_at(t) for t in (0, 1, iterations - 1))
    assert first == protocol.learning_rate
    assert first > second >= last > 0


@given(iterations=st.integers(1, 1_000_000), reports=st.integers(1, 1000))
def test_report_points(iterations: int, reports: int) -> None:
    points = Protocol(iterations=iterations, reports=reports).report_points()
    assert points[-1] == iterations
    assert points[0] >= 1
    assert all(a < b for a, b in itertools.pairwise(points))
    assert len(points) == min(reports, iterations) or reports < iterations
    assert len(points) <= reports
    # evenly: no gap is more than a rounding wider than the mean
    gaps = [b - a for a, b in itertools.pairwise((0, *points))]
    assert max(gaps) <= iterations / reports + 1


def test_report_points_by_hand() -> None:
    assert Protocol(iterations=10, reports=3).report_points() == (3, 7, 10)
    assert Protocol(iterations=3, reports=10).report_points() == (1, 2, 3)


def test_the_published_defaults_are_reachable() -> None:
    check_values(Protocol, {name: getattr(Protocol(), name) for name in Protocol.__slots__}, owner="it")
