"""Pairs, ranks and groups by hand; case values are those that the answer was made of."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest

from dashboards.pair_tables import (
    PairedCase,
    all_compared,
    case_rows,
    not_separated,
    pairs_grid,
    rank_rows,
    spread,
    thinned,
)
from study.conclusion import PairAnswer, case_scores
from study.stats import NOT_SEPARATED, TOO_FEW_CASES
from tests.unit.dashboards.studies import a_source

SCORES = {"a": {"x": 0.9, "y": 0.8}, "b": {"x": 0.5, "y": 0.8}, "c": {"x": 0.1, "y": 0.2, "z": 1.0}}


def pair(a, b, verdict=NOT_SEPARATED):
    return PairAnswer(a, b, 0.0, -0.1, 0.1, 0.5, 0.0, 9, verdict)


def ranked(*arms):
    return rank_rows({arm: {"x": -float(n)} for n, arm in enumerate(arms)}, "dice")


def test_pairs_are_the_answer_s_own():
    answer = a_source({"a": 0.2, "b": 0.7}).answer
    table = pairs_grid(answer)
    first = {header: cell.text for header, cell in zip(table.headers, table.rows[0], strict=True)}
    assert first["verdict"] == answer.pairs[0].verdict == "b better than a"
    assert first["p (Holm)"] == "0.016"
    assert (first["first"], first["second"], first["cases"]) == ("a", "b", "7")
    assert pairs_grid(replace(answer, pairs=())) is None


def test_ranks_over_the_cases_of_all_with_ties_shared():
    rows = rank_rows(SCORES, "dice")
    assert [(row.arm, row.rank, row.cases) for row in rows] == [("a", 1.25, 2), ("b", 1.75, 2), ("c", 3.0, 2)]
    assert [row.arm for row in rank_rows(SCORES, "hd95")] == ["c", "b", "a"]


def test_ranks_leave_out_what_has_no_value():
    scores = {**SCORES, "nothing": {}, "undefined": {"x": math.nan}}
    assert [row.arm for row in rank_rows(scores, "dice")] == ["a", "b", "c"]
    assert [
        row.cases for row in rank_rows({"a": {"x": 1.0, "y": math.nan}, "b": {"x": 0.0, "y": 1.0}}, "dice")
    ] == [1, 1]
    assert rank_rows({}, "dice") == []
    assert rank_rows({"a": {"x": 1.0}, "b": {"y": 1.0}}, "dice") == []


def test_groups_are_the_largest_in_which_no_pair_is_separated():
    pairs = [pair("a", "b"), pair("b", "c"), pair("a", "c", "a better than c"), pair("c", "d", TOO_FEW_CASES)]
    assert not_separated(pairs, ranked("a", "b", "c", "d")) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert not_separated([pair("a", "b"), pair("c", "b"), pair("a", "c")], ranked("c", "a", "b")) == [
        ("c", "a", "b")
    ]


def test_what_was_not_compared_or_not_ranked_joins_nothing():
    assert not_separated([pair("a", "b")], ranked("a", "c")) == []
    assert all_compared([pair("b", "a")], ranked("a", "b"))
    assert not all_compared([pair("a", "b")], ranked("a", "b", "c"))


def test_cases_of_two_arms():
    source = a_source({"a": 0.2, "b": 0.7})
    scores = case_scores("dice", ["a", "b"], source.trials, source.cases)
    rows = case_rows(scores, "a", "b")
    assert rows[0] == PairedCase("p0", pytest.approx(0.21), pytest.approx(0.71))  # the mean of two replicates
    assert [row.case for row in rows] == [f"p{n}" for n in range(7)]
    assert sum(row.a - row.b for row in rows) / 7 == pytest.approx(source.answer.pairs[0].difference)
    assert case_rows({"a": {"x": math.nan, "y": 1.0}, "b": {"x": 1.0}}, "a", "b") == []


def test_thinned_keeps_both_ends():
    rows = [PairedCase(str(n), n, n) for n in range(100)]
    kept = thinned(rows, 10)
    assert len(kept) == 10
    assert (kept[0], kept[-1]) == (rows[0], rows[-1])
    assert thinned(rows[:5], 10) == rows[:5]


@pytest.mark.parametrize("places", [[0.0, 0.0, 0.0], [1.0, 1.1, 9.9, 10.0], [10.0, 10.0]])
def test_labels_are_apart_and_inside(places):
    found = spread(places, 1.0, 0.0, 10.0)
    assert min(found) >= 0
    assert max(found) <= 10
    assert min(b - a for a, b in pairwise(found)) >= 1 - 1e-12


def test_more_labels_than_fit_are_closer():
    assert spread([0.0] * 5, 1.0, 0.0, 2.0) == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])
