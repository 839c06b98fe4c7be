"""`hp` fields: refused at class creation, listed in order, checked in one sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from search_spaces import Choice, Float, Int, UserError, hp, hyper_parameters, nearest, space_of
from search_spaces.fields import check_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    weight: float = hp(1.0, Float(0.1, 10.0, log=True), off=0.0, source="eq. 1", unit="1/nat")
    count: int = hp(2, Int(1, 4), source="eq. 2")
    form: str = hp("ce", Choice(("ce", "recall")), source="eq. 3", search=False)
    low: float = hp(97.9, source="table 1", unit="px")
    steps: int = hp(10, source="table 1")
    tied: bool = hp(True, source="table 1")


def test_lists_every_field_in_order_with_its_line() -> None:
    weight, *others = hyper_parameters(Example)
    assert (weight.name, weight.default, weight.unit, weight.source) == ("weight", 1.0, "1/nat", "eq. 1")
    assert (weight.allowed, weight.searched, weight.off) == (Float(0.1, 10.0, log=True), True, 0.0)
    assert [p.name for p in others] == ["count", "form", "low", "steps", "tied"]
    assert [p.searched for p in others] == [True, False, False, False, False]
    assert [p.off for p in others] == [None] * 5


def test_a_search_varies_only_what_has_a_range_and_is_searched() -> None:
    assert space_of(Example) == {"weight": Float(0.1, 10.0, log=True), "count": Int(1, 4)}
    assert list(space_of(Example)) == ["weight", "count"]


def test_a_plain_field_is_a_bug() -> None:
    @dataclass
    class Forgotten:
        weight: float = field(default=1.0)

    with pytest.raises(TypeError, match=r"Forgotten\.weight must be declared with `hp"):
        hyper_parameters(Forgotten)


def test_an_unreachable_default_is_refused_at_class_creation() -> None:
    with pytest.raises(ValueError, match=r"published default 0 is not reachable in 1 \.\. 3"):
        hp(0, Int(1, 3), source="eq. 1")


@pytest.mark.parametrize(("allowed", "off"), [(Float(0.0, 1.0), 0.0), (Float(0.1, 1.0), 0.5), (None, 0.0)])
def test_off_must_extend_a_range(allowed: Float | None, off: float) -> None:
    with pytest.raises(ValueError, match="must lie outside the range it extends"):
        hp(1.0, allowed, source="eq. 1", off=off)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"weight": 0.1, "count": 4, "form": "recall"},
        {"weight": 0.0},
        {"weight": 0},
        {"low": 3, "steps": 1, "tied": False},
    ],
)
def test_accepts(values: dict[str, Any]) -> None:
    check_values(Example, values, owner="example")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"weight": 0.01},
            r"example: weight must lie in 0.1 .. 10 \(log\) or be 0 \(off\), but got 0.01; its",
        ),
        ({"weight": False}, "weight must lie in .* but got False"),
        ({"weight": math.nan}, "weight must lie in .* but got nan"),
        ({"weight": "0"}, "weight must lie in .* but got '0'"),
        ({"weight": None}, "weight must lie in .* but got None"),
        ({"count": 0}, "count must lie in 1 .. 4, but got 0; its default is 2"),
        ({"form": "dice"}, r"form must lie in ce \| recall, but got 'dice'; its default is 'ce'"),
        ({"low": "3"}, "low must be like its default 97.9, but got '3'"),
        ({"low": True}, "low must be like its default 97.9, but got True"),
        ({"steps": 1.5}, "steps must be like its default 10, but got 1.5"),
        ({"tied": 1}, "tied must be like its default True, but got 1"),
        ({"wieght": 1.0}, r"example has no setting 'wieght'. Did you mean 'weight'\? It has: weight, count"),
    ],
)
def test_refuses_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_values(Example, values, owner="example")


@pytest.mark.parametrize(("value", "accepted"), [(math.nan, False), (math.inf, False), (1e300, True)])
def test_a_number_without_a_range_is_still_finite(value: float, accepted: bool) -> None:
    low = hyper_parameters(Example)[3]
    assert low.name == "low"
    assert low.accepts(value) is accepted


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("gated_crv", ["gated_crf", "entmin"]) == " Did you mean 'gated_crf'?"
    assert nearest("zzz", ["gated_crf", "entmin"]) == ""
