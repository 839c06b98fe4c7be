"""Learning curves as rows: who reported what at which iteration, and which of many curves are shown. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from study.conclusion import Answer
from study.results import TrialRow

CONFIRM, SEARCH = "confirm", "search"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Curve:
    """What one trial reported of one quantity."""

    arm: str
    phase: str
    number: int
    seed: int
    state: str
    points: tuple[tuple[int, float], ...]
    """(iteration, value), finite ones only."""


@dataclass(frozen=True, slots=True)
class ArmCurves:
    """The curves of one arm, and how many of all its curves are among them."""

    arm: str
    confirmations: tuple[Curve, ...]
    searches: tuple[Curve, ...]
    all_confirmations: int
    all_searches: int
    finished: int
    """Confirmations that the mean is over."""
    mean: tuple[tuple[int, float], ...]
    """Of the finished confirmations, at the iterations that every one of them reported."""


@dataclass(frozen=True, slots=True)
class EndRow:
    """How an arm's confirmations ended, on the validation split."""

    arm: str
    confirmations: int
    iterations: int
    first: float
    """Mean at the first report that all made."""
    last: float
    """Mean at the last report that all made."""
    gain: float
    """What the time since the report before brought, towards the better."""


def counted(trials: Sequence[TrialRow], answer: Answer) -> list[TrialRow]:
    """Without the confirmations of a configuration that is no longer an arm's: the answer leaves them out."""
    confirmed = {arm.name: arm.parameters for arm in answer.arms}
    return [row for row in trials if row.phase != CONFIRM or row.parameters == confirmed.get(row.arm)]


def curves(trials: Sequence[TrialRow], name: str) -> list[Curve]:
    """Of every trial of an arm that reported `name`, in the ledger's order; a repeated configuration once."""
    found = []
    for row in trials:
        if row.phase not in (CONFIRM, SEARCH) or "same_as" in row.details:
            continue
        points = tuple(
            (int(report["iteration"]), float(report[name])) for report in row.curve if name in report
        )
        points = tuple(point for point in points if math.isfinite(point[1]))
        if points:
            found.append(Curve(row.arm, row.phase, row.number, row.seed, row.state, points))
    return found


def by_arm(found: Sequence[Curve], arms: Sequence[str], *, most: int) -> list[ArmCurves]:
    """The arms that have a curve, in order; of all curves together at most about `most` are kept.

    Each arm keeps its confirmations before its searches, and of too many those that are evenly spread over
    its trials. The mean is always that of all.
    """
    groups: dict[str, list[Curve]] = {arm: [] for arm in arms}
    for curve in found:
        if curve.arm in groups:
            groups[curve.arm].append(curve)
    groups = {arm: own for arm, own in groups.items() if own}
    share = max(2, most // max(1, len(groups)))
    return [_arm(arm, own, share) for arm, own in groups.items()]


def _arm(arm: str, own: Sequence[Curve], share: int) -> ArmCurves:
    confirmations = [curve for curve in own if curve.phase == CONFIRM]
    searches = [curve for curve in own if curve.phase == SEARCH]
    kept = thinned(confirmations, share)
    finished = [curve for curve in confirmations if curve.state == "finished"]
    return ArmCurves(
        arm,
        tuple(kept),
        tuple(thinned(searches, share - len(kept))),
        len(confirmations),
        len(searches),
        len(finished),
        mean_curve(finished),
    )


def thinned(things: Sequence[T], most: int) -> list[T]:
    """At most `most` of them, evenly spread, the first and the last among them; none for 0."""
    if len(things) <= most:
        return list(things)
    if most < 2:
        return list(things[:most])
    return [things[round(place * (len(things) - 1) / (most - 1))] for place in range(most)]


def mean_curve(own: Sequence[Curve]) -> tuple[tuple[int, float], ...]:
    """The mean over curves at the iterations that all of them have."""
    if not own:
        return ()
    values = [dict(curve.points) for curve in own]
    shared = set(values[0]).intersection(*values[1:])
    return tuple((iteration, fmean(known[iteration] for known in values)) for iteration in sorted(shared))


def end_rows(arms: Sequence[ArmCurves], *, greater_is_better: bool) -> list[EndRow]:
    """Of each arm with a finished confirmation; whether it was still learning when it ended."""
    sign = 1 if greater_is_better else -1
    rows = []
    for arm in arms:
        if arm.mean:
            (until, last), before = arm.mean[-1], arm.mean[-2:-1]
            gain = sign * (last - before[0][1]) if before else math.nan
            rows.append(EndRow(arm.arm, arm.finished, until, arm.mean[0][1], last, gain))
    return rows
