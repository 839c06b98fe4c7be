"""Domains: what lies inside, what is refused, and how a range prints."""

from __future__ import annotations

import math

import pytest

from search_spaces import Choice, Domain, Float, Int


@pytest.mark.parametrize(
    ("domain", "inside"),
    [
        (Float(0.1, 10.0, log=True), (0.1, 1, 10.0)),
        (Float(-1.0, 1.0), (-1.0, 0, 1.0)),
        (Int(2, 8, step=3), (2, 5, 8)),
        (Choice(("a", "b")), ("a", "b")),
        (Choice((1, 2)), (1, 2)),
        (Choice((False, True)), (False, True)),
    ],
)
def test_holds_its_values(domain: Domain, inside: tuple[object, ...]) -> None:
    assert all(value in domain for value in inside)


@pytest.mark.parametrize(
    ("domain", "outside"),
    [
        (Float(0.1, 10.0), (0.0999, 10.001, math.nan, math.inf, -math.inf, True, "1", None)),
        (Int(2, 8, step=3), (1, 3, 9, 11, 2.0, True, "2", None)),
        (Int(0, 5), (True, False)),
        (Choice(("a", "b")), ("c", "", None, 0, ["a"])),
        (Choice((1, 2)), (True, 1.0, "1")),
        (Choice((False, True)), (0, 1, "True")),
    ],
)
def test_refuses_everything_else(domain: Domain, outside: tuple[object, ...]) -> None:
    assert not any(value in domain for value in outside)


@pytest.mark.parametrize(
    "bounds", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0)]
)
def test_float_needs_finite_bounds_in_order(bounds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="`low < high` must hold"):
        Float(*bounds)


@pytest.mark.parametrize("low", [0.0, -1.0])
def test_logarithm_needs_positive_bounds(low: float) -> None:
    with pytest.raises(ValueError, match=r"`low > 0` must hold for `log=True`"):
        Float(low, 1.0, log=True)


@pytest.mark.parametrize(("low", "high", "step"), [(0, 5, 2), (3, 3, 1), (4, 3, 1), (0, 4, 0), (0, 4, -1)])
def test_int_ends_on_a_multiple_of_a_positive_step(low: int, high: int, step: int) -> None:
    with pytest.raises(ValueError, match="multiple of a positive `step`"):
        Int(low, high, step)


@pytest.mark.parametrize("options", [(), ("a",), ("a", "a"), (1, True)])
def test_choice_needs_two_distinct_options(options: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="two or more distinct options"):
        Choice(options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("domain", "corners", "text"),
    [
        (Float(1e-3, 10.0, log=True), (1e-3, 10.0), "0.001 .. 10 (log)"),
        (Float(0.0, 1.0), (0.0, 1.0), "0 .. 1"),
        (Int(2, 8, step=3), (2, 8), "2 .. 8 step 3"),
        (Int(2, 8), (2, 8), "2 .. 8"),
        (Choice(("ce", "recall")), ("ce", "recall"), "ce | recall"),
    ],
)
def test_corners_lie_inside_and_the_range_prints(
    domain: Domain, corners: tuple[object, ...], text: str
) -> None:
    assert domain.corners() == corners
    assert all(corner in domain for corner in corners)
    assert str(domain) == text


def test_domains_are_values() -> None:
    assert Float(0.0, 1.0) == Float(0.0, 1.0) != Float(0.0, 1.0 + 1e-9)
    assert len({Int(0, 1), Int(0, 1), Choice((0, 1))}) == 2
