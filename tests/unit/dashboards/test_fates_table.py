"""Failures are counted by class, arm and reason; the rest of a long list is summed up."""

from dashboards.fates_table import failures_grid, retried, tally
from tests.unit.dashboards.studies import a_trial


def failed(arm, number, reason="boom", failure="bug", state="failed"):
    return a_trial(arm, number, state=state, reason=reason, failure=failure)


def test_failures_by_class_arm_and_first_line():
    trials = [a_trial("a")]
    trials += [failed("a", n, "boom\nin line 3") for n in range(8)]
    trials += [failed("b", 1, "", "not_finite", "diverged"), failed("b", 2, "", "", "failed")]
    rows = [[cell.text for cell in row] for row in failures_grid(trials).rows]
    assert rows == [
        ["bug", "a", "confirm", "8", "0, 1, 2, 3, 4, 5, …", "boom"],
        ["not finite", "b", "confirm", "1", "1", "not stated"],
        ["failed", "b", "confirm", "1", "2", "not stated"],
    ]
    assert failures_grid([a_trial("a")]) is None


def test_ten_thousand_reasons_are_fifty_rows_and_a_sum():
    rows = failures_grid([failed("a", n, f"reason {n}") for n in range(10_000)]).rows
    assert len(rows) == 51
    assert [cell.text for cell in rows[-1]][:4] == ["others", "several", "", "9950"]


def test_tally():
    assert tally([]) == "No trial has started."
    assert tally([a_trial("a")]) == "Of 1 trial: 1 finished."
    trials = [a_trial("a"), a_trial("a", 1), a_trial("a", 2, state="pruned")]
    assert tally(trials).startswith("Of 3 trials: 2 finished, 1 pruned; pruned trials were stopped early")


def test_disturbed_trials_are_told():
    assert retried([a_trial("a")]) == ""
    lost = a_trial("a", details={"losses": ["worker_lost"]})
    assert retried([lost, a_trial("a", details={"micro_batches": 2})]) == (
        "1 lost a process or a node and went on from a checkpoint; 1 ran out of memory and went on in "
        "micro-batches."
    )
