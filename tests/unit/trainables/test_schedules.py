"""Schedules: the published points of each curve, and what happens at its ends."""

from __future__ import annotations

import pytest

from trainables.schedules import cosine, poly, sigmoid_ramp


@pytest.mark.parametrize(
    ("progress", "expected"), [(0, 0.0067379), (0.25, 0.0600547), (0.5, 0.2865048), (0.75, 0.7316156), (1, 1)]
)
def test_sigmoid_ramp_by_hand(progress: float, expected: float) -> None:  # methods.md 1.5
    assert sigmoid_ramp(progress) == pytest.approx(expected, abs=5e-8)


def test_ramp_ends_at_its_fraction_and_stays() -> None:
    assert sigmoid_ramp(0.2, 0.4) == sigmoid_ramp(0.5)
    assert sigmoid_ramp(0.4, 0.4) == sigmoid_ramp(0.9, 0.4) == 1.0


def test_ramp_of_no_length_is_one_from_the_start() -> None:
    assert sigmoid_ramp(0.0, 0.0) == 1.0


def test_poly_by_hand() -> None:
    assert (poly(0.0), poly(1.0)) == (1.0, 0.0)
    assert poly(0.75, 2.0) == 0.0625
    assert poly(0.5) == pytest.approx(0.5358867, abs=5e-8)


def test_poly_past_the_end_is_zero_and_real() -> None:
    assert poly(1.1) == 0.0


def test_cosine_by_hand() -> None:
    assert [cosine(p) for p in (0.0, 0.5, 1.0, 1.2)] == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=1e-15)
    assert cosine(1 / 3) == pytest.approx(0.75)
