"""Sentences about trials without a result, by hand."""

from __future__ import annotations

from study.fates import all_failed, fates
from study.results import TrialRow
from tests.unit.study.test_results import trial


def bad(number: int, failure: str, reason: str = "", state: str = "failed") -> TrialRow:
    return trial(number, state, failure=failure, reason=reason)


def test_counted_by_state_class_and_reason() -> None:
    rows = [bad(0, "bug", "KeyError: x"), bad(1, "bug", "KeyError: x"), bad(2, "", "no GPU"), bad(3, "data")]
    rows.append(bad(4, "not_finite", "loss = nan.\nmore", "diverged"))
    assert fates(rows) == [
        "2 failed (bug: KeyError: x)",
        "1 failed (no GPU)",
        "1 failed (data)",
        "1 diverged (not_finite: loss = nan)",
    ]


def test_nothing_is_said_while_something_may_still_come() -> None:
    assert all_failed("toy", []) == ""
    for state in ("finished", "pruned", "running"):
        assert all_failed("toy", [bad(0, "bug"), trial(1, state)]) == ""


def test_each_class_with_its_most_frequent_reason() -> None:
    rows = [bad(n, "bug", reason) for n, reason in enumerate(["KeyError: 1", "KeyError: 2", "KeyError: 2"])]
    rows += [bad(3, "out_of_memory", "CUDA out of memory"), bad(4, "not_finite", "loss = nan", "diverged")]
    assert all_failed("toy", rows) == (
        "No trial of toy could finish: of 5, 3 bug (KeyError: 2), 1 out_of_memory (CUDA out of memory), "
        "1 not_finite (loss = nan)."
    )


def test_rows_of_before_there_were_classes() -> None:
    assert (
        all_failed("toy", [bad(0, "", "no GPU")]) == "No trial of toy could finish: of 1, 1 failed (no GPU)."
    )
