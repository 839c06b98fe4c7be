"""How long the rest of a study takes: by what its trials took, and how early they were stopped. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from study.results import TrialRow
from study.spec import Arm, Study, protocol_of, search_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A trial that trains now, as its last report left it."""

    arm: str
    phase: str
    number: int
    seed: int
    iterations: int
    """Optimiser steps done, of `of`."""
    of: int
    seconds: float
    value: float | None = None
    """Validation metric."""
    host: str = ""
    memory: int = 0
    """Bytes that its process holds."""
    gpu_memory: int = 0
    """Bytes that its process holds on a GPU."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of what is left."""

    seconds: float | None
    """Of wall time; None while no trial has reported, so that nothing is known."""
    at_most: bool = False
    """No trial has ended yet by which to judge how early trials are stopped: all count in full."""


def estimate(
    study: Study,
    rows: Mapping[str, Sequence[TrialRow]],
    running: Sequence[Running],
    *,
    slots: int,
    since: float = 0.0,
    pretraining_iterations: int = 0,
) -> Estimate:
    """What is left of a study that trains `slots` trials at once.

    The search of an arm takes as long as all slots need for everything, but also as long as it needs alone,
    with `lookahead` trials at once; the replicates of an arm follow its search.

    Args:
        rows: trials that have ended, by arm; of the confirmation those that count.
        since: Unix time; the speed is that of the trials that started later, on this run's machines.
        pretraining_iterations: optimiser steps of the shared trainings that are still missing.
    """
    measured = [row for own in rows.values() for row in own if _was_trained(row) and row.started >= since]
    paces = {arm.name: _pace(measured, running, arm.name) for arm in study.arms}
    pooled = _pace(measured, running)
    if pooled is None:
        return Estimate(None)
    shares = [_steps(row) / full for arm in study.arms for row, full in _searched(study, arm, rows)]
    total, longest, at_most = pretraining_iterations * pooled, 0.0, False
    for arm in study.arms:
        own = [one for one in running if one.arm == arm.name]
        lengths = [_steps(row) for row, _ in _searched(study, arm, rows)]
        search, parallel_search = _search_left(study, arm, own, lengths, shares)
        confirm, parallel_confirm = _confirm_left(study, arm, own, rows[arm.name])
        seconds = paces[arm.name] or pooled
        total += seconds * (search + confirm)
        alone = search / max(1, min(slots, parallel_search)) + confirm / max(1, min(slots, parallel_confirm))
        longest = max(longest, seconds * alone)
        at_most = at_most or (search > 0 and not shares and bool(study.search.rungs))
    return Estimate(max(longest, total / slots), at_most)


def _was_trained(row: TrialRow) -> bool:
    return "same_as" not in row.details and row.iterations > 0  # a copy of its twin's result took no time


def _steps(row: TrialRow) -> int:
    return row.iterations if _was_trained(row) else 0


def _pace(rows: Iterable[TrialRow], running: Iterable[Running], arm: str | None = None) -> float | None:
    """Seconds per optimiser step, of one arm or of all trials."""
    known: list[TrialRow | Running] = [*rows, *running]
    mine = [(one.iterations, one.seconds) for one in known if arm is None or one.arm == arm]
    steps = sum(iterations for iterations, _ in mine)
    return sum(seconds for _, seconds in mine) / steps if steps else None


def _searched(study: Study, arm: Arm, rows: Mapping[str, Sequence[TrialRow]]) -> list[tuple[TrialRow, int]]:
    """The arm's searched trials that have ended, with the iterations of a full one."""
    full = protocol_of(study, arm).iterations
    return [(row, full) for row in rows[arm.name] if row.phase == "search"]


def _search_left(
    study: Study, arm: Arm, running: Sequence[Running], lengths: Sequence[int], shares: Sequence[float]
) -> tuple[float, int]:
    """Optimiser steps that the arm's search still takes, and how many of its trials may run at once."""
    full = protocol_of(study, arm).iterations
    typical = fmean(lengths) if lengths else full * (fmean(shares) if shares else 1.0)
    under_way = [one for one in running if one.phase == "search"]
    waiting = max(0, search_trials(study, arm) - len(lengths) - len(under_way))
    steps = waiting * typical
    for one in under_way:
        longer = [length for length in lengths if length > one.iterations]  # it has passed the same rungs
        steps += max(0.0, (fmean(longer) if longer else full) - one.iterations)
    return steps, min(study.search.lookahead, waiting + len(under_way))


def _confirm_left(
    study: Study, arm: Arm, running: Sequence[Running], rows: Sequence[TrialRow]
) -> tuple[float, int]:
    """Optimiser steps of the replicates that are missing, and how many there are; none is stopped early."""
    under_way = [one for one in running if one.phase == "confirm"]
    missing = study.num_replicates - sum(row.phase == "confirm" for row in rows)
    steps = max(0, missing) * protocol_of(study, arm).iterations - sum(one.iterations for one in under_way)
    return max(0.0, float(steps)), max(0, missing)


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
