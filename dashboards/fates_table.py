"""Trials that ended without a result, by class of failure and reason. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.grids import Cell, Grid, grid
from study.results import TrialRow

_MOST = 50
"""Rows: a study of ten thousand trials may fail for as many reasons."""


def failures_grid(trials: Sequence[TrialRow]) -> Grid | None:
    """Failed and diverged trials by class, arm and first line of the reason; None where there are none.

    The most frequent first; what goes beyond 50 rows is summed up in the last one.
    """
    groups: dict[tuple[str, str, str, str], list[TrialRow]] = {}
    for trial in trials:
        if trial.state in ("failed", "diverged"):
            reason = trial.reason.strip().partition("\n")[0]
            groups.setdefault((trial.failure or trial.state, trial.arm, trial.phase, reason), []).append(
                trial
            )
    if not groups:
        return None
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    rows = [_row(*key, found) for key, found in ordered[:_MOST]]
    rest = [trial for _, found in ordered[_MOST:] for trial in found]
    if rest:
        rows.append(_row("others", "several", "", f"{len(ordered) - _MOST} further reasons", rest))
    return grid(rows)


def _row(
    failure: str, arm: str, phase: str, reason: str, trials: Sequence[TrialRow]
) -> dict[str, Cell | str]:
    numbers = [str(trial.number) for trial in trials[:6]]
    return {
        "class": failure.replace("_", " "),
        "arm": arm,
        "phase": phase,
        "trials": Cell(str(len(trials)), len(trials)),
        "numbers": ", ".join(numbers) + (", …" if len(trials) > len(numbers) else ""),
        "reason": reason or "not stated",
    }


def tally(trials: Sequence[TrialRow]) -> str:
    """How all trials stand, in one sentence."""
    if not trials:
        return "No trial has started."
    counts: dict[str, int] = {}
    for trial in trials:
        counts[trial.state] = counts.get(trial.state, 0) + 1
    parts = ", ".join(f"{counts[state]} {state}" for state in counts)
    pruned = "; pruned trials were stopped early at a rung, which is no failure" if "pruned" in counts else ""
    return f"Of {len(trials)} trial{'' if len(trials) == 1 else 's'}: {parts}{pruned}."


def retried(trials: Sequence[TrialRow]) -> str:
    """How many trials were disturbed from outside, or short of memory, and went on; "" where none was."""
    lost = sum(bool(trial.details.get("losses")) for trial in trials)
    parts = sum(trial.details.get("micro_batches", 1) > 1 for trial in trials)
    said = []
    if lost:
        said.append(f"{lost} lost a process or a node and went on from a checkpoint")
    if parts:
        said.append(f"{parts} ran out of memory and went on in micro-batches")
    return f"{'; '.join(said)}." if said else ""
