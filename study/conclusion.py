"""From ledger rows to the answer of a study: arms with intervals, pairs with verdicts, what is missing.

Only confirmation trials that finished, scored on the test split, carry conclusions; the search only costs.
When a study was extended and an arm's selection changed, its confirmations of the earlier selection are left
out: the configuration confirmed last is the arm's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from study.fates import all_failed, fates
from study.results import CaseRow, TrialRow
from study.spec import Study
from study.stats import Interval, Paired, case_means, holm, mean_interval, paired, verdict
from trainables.metrics import METRICS

BACKGROUND = 0  # class id; never part of a mean


@dataclass(frozen=True, slots=True)
class StructureAnswer:
    """What one arm reached on one structure, over the test cases."""

    name: str
    score: Interval
    """Of the study's metric."""
    hd95: Interval


@dataclass(frozen=True, slots=True)
class ArmAnswer:
    """What one arm reached on the test cases; NaN where nothing was measured."""

    name: str
    mean: float
    """Of the study's metric over cases, with its 95 % interval."""
    low: float
    high: float
    replicates: int
    """Finished confirmation trials."""
    planned: int
    cases: int
    missed_rate: float
    """Share of structures present in the truth of which the prediction has no pixel."""
    seed_sd: float
    """Standard deviation of the metric over replicates; NaN below two."""
    hd95: float
    hd95_unit: str
    hd95_undefined: int
    """Structures without an HD95; they are not in its mean."""
    area_error: float
    seconds: float
    """Training time of all trials of the arm, search included."""
    annotation_seconds: float
    """Annotator's time for the training images."""
    parameters: Mapping[str, Any]
    """The configuration that was confirmed; empty before that."""
    step_seconds: float = math.nan
    """Of one training step in the confirmation, without validation and test."""
    watched: Mapping[str, Interval] = field(default_factory=dict)
    """What the study watches beside its metric, by name: metrics over the test cases, terms of the loss over
    the replicates at the end of their training."""
    structures: tuple[StructureAnswer, ...] = ()
    """In the order of their class ids; empty before anything was scored."""


@dataclass(frozen=True, slots=True)
class PairAnswer:
    """a - b over the cases that both arms scored; p is Holm-adjusted over the pairs of the study."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    effect: float
    """Matched-pairs rank-biserial correlation."""
    cases: int
    verdict: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A study's answer, provisional until `complete`."""

    study: str
    metric: str
    arms: tuple[ArmAnswer, ...]
    pairs: tuple[PairAnswer, ...]
    problems: tuple[str, ...]
    """One sentence for each arm that lacks replicates."""
    all_failed: str = ""
    """Why there is nothing to show, where every trial failed."""

    @property
    def complete(self) -> bool:
        return not self.problems


def build(
    study: str,
    metric: str,
    arms: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    replicates: int,
    trials: Sequence[TrialRow],
    cases: Sequence[CaseRow],
    watch: Sequence[str] = (),
) -> Answer:
    """The answer from all rows of a ledger, however far the study has come.

    `metric` is one of `trainables.metrics.METRICS`, `replicates` the planned number per arm, `watch` what the
    study shows beside its metric. A case's value is the mean over its classes (without background) and
    volumes within a replicate, then over replicates. A structure absent from truth and prediction counts with
    its Dice and IoU of 1 and has no HD95.
    """
    confirmed = {arm: confirmations(arm, trials) for arm in arms}
    scored = {arm: _scored(confirmed[arm], cases) for arm in arms}
    problems = (_problem(arm, replicates, confirmed[arm], scored[arm], trials) for arm in arms)
    return Answer(
        study,
        metric,
        tuple(_arm(arm, metric, replicates, confirmed[arm], scored[arm], trials, watch) for arm in arms),
        _pairs(metric, pairs, {arm: _by_case(scored[arm], metric) for arm in arms}),
        tuple(problem for problem in problems if problem),
        all_failed(study, trials),
    )


def of_study(study: Study, trials: Sequence[TrialRow], cases: Sequence[CaseRow]) -> Answer:
    """`build` with what the study says about itself."""
    return build(
        study.name,
        study.metric,
        [arm.name for arm in study.arms],
        study.compared(),
        study.num_replicates,
        trials,
        cases,
        study.watch,
    )


def confirmations(arm: str, trials: Sequence[TrialRow]) -> list[TrialRow]:
    """The last trial of each replicate, of the configuration that was confirmed last."""
    rows = sorted((t for t in trials if t.arm == arm and t.phase == "confirm"), key=lambda t: t.started)
    return list({t.number: t for t in rows if t.parameters == rows[-1].parameters}.values())


def _scored(confirmed: Sequence[TrialRow], cases: Sequence[CaseRow]) -> list[CaseRow]:
    """Test rows of the structures, of finished confirmations only."""
    trials = {(t.arm, t.number, t.key) for t in confirmed if t.state == "finished"}
    return [
        row
        for row in cases
        if row.phase == "confirm"
        and row.split == "test"
        and row.class_id != BACKGROUND
        and (row.arm, row.replicate, row.key) in trials
    ]


def case_scores(
    metric: str, arms: Sequence[str], trials: Sequence[TrialRow], cases: Sequence[CaseRow]
) -> dict[str, dict[str, float]]:
    """What each case scored in each arm: the values that intervals and verdicts of `build` are made of."""
    return {arm: _by_case(_scored(confirmations(arm, trials), cases), metric) for arm in arms}


def _by_case(rows: Sequence[CaseRow], metric: str) -> dict[str, float]:
    values = [float(getattr(row, metric)) for row in rows]
    ids, means = case_means(values, [row.case_id for row in rows], [row.replicate for row in rows])
    return dict(zip(ids, means.tolist(), strict=True))


def _arm(
    arm: str,
    metric: str,
    planned: int,
    confirmed: Sequence[TrialRow],
    rows: Sequence[CaseRow],
    trials: Sequence[TrialRow],
    watch: Sequence[str],
) -> ArmAnswer:
    own = [t for t in trials if t.arm == arm]
    interval = mean_interval(np.array(list(_by_case(rows, metric).values())))
    present = [float(row.missed) for row in rows if not (row.both_empty or row.false_alarm)]
    numbers = sorted({row.replicate for row in rows})
    means = [_mean(_by_case([r for r in rows if r.replicate == n], metric).values()) for n in numbers]
    defined = [mean for mean in means if not math.isnan(mean)]
    return ArmAnswer(
        name=arm,
        mean=interval.mean,
        low=interval.low,
        high=interval.high,
        replicates=_finished(confirmed),
        planned=planned,
        cases=interval.n,
        missed_rate=_mean(present),
        seed_sd=stdev(defined) if len(defined) > 1 else math.nan,
        hd95=_mean(_by_case(rows, "hd95").values()),
        hd95_unit="/".join(sorted({row.distance_unit for row in rows})),
        hd95_undefined=sum(math.isnan(row.hd95) for row in rows),
        area_error=_mean(_by_case(rows, "area_error").values()),
        seconds=sum(t.seconds for t in own),
        annotation_seconds=own[-1].annotation_seconds if own else math.nan,
        parameters=dict(confirmed[-1].parameters) if confirmed else {},
        step_seconds=_step_seconds(confirmed),
        watched={name: _watched(name, confirmed, rows) for name in watch},
        structures=_structures(rows, metric),
    )


def _structures(rows: Sequence[CaseRow], metric: str) -> tuple[StructureAnswer, ...]:
    names = {row.class_id: row.class_name for row in sorted(rows, key=lambda row: row.class_id)}
    found = []
    for class_id, name in names.items():
        own = [row for row in rows if row.class_id == class_id]
        score, hd95 = (mean_interval(np.array(list(_by_case(own, m).values()))) for m in (metric, "hd95"))
        found.append(StructureAnswer(name, score, hd95))
    return tuple(found)


def _step_seconds(confirmed: Sequence[TrialRow]) -> float:
    ends = [t.curve[-1] for t in confirmed if t.curve and "training_seconds" in t.curve[-1]]
    steps = sum(end["iteration"] for end in ends)
    return sum(end["training_seconds"] for end in ends) / steps if steps else math.nan


def _watched(name: str, confirmed: Sequence[TrialRow], rows: Sequence[CaseRow]) -> Interval:
    if name in METRICS:
        return mean_interval(np.array(list(_by_case(rows, name).values())))
    ends = [t.curve[-1] for t in confirmed if t.state == "finished" and t.curve]
    return mean_interval(np.array([end[name] for end in ends if name in end]))


def _mean(values: Iterable[float]) -> float:
    """Of what is not NaN; NaN for nothing."""
    defined = [value for value in values if not math.isnan(value)]
    return fmean(defined) if defined else math.nan


def _finished(confirmed: Sequence[TrialRow]) -> int:
    return sum(t.state == "finished" for t in confirmed)


def _problem(
    arm: str,
    planned: int,
    confirmed: Sequence[TrialRow],
    rows: Sequence[CaseRow],
    trials: Sequence[TrialRow],
) -> str:
    """Why the arm cannot be concluded yet, in one sentence; empty when it can."""
    finished = _finished(confirmed)
    if finished >= planned:
        return "" if rows else f"{arm}: its confirmation replicates scored no structure of a test case."
    lacking = fates(t for t in confirmed if t.state != "finished")
    if planned > len(confirmed):
        lacking.append(f"{planned - len(confirmed)} not started")
    broken = [t for t in trials if t.arm == arm and t.phase == "search" and t.state in ("failed", "diverged")]
    search = f"; in its search {', '.join(fates(broken))}" if broken and not confirmed else ""
    return (
        f"{arm}: {finished} of {planned} confirmation replicates have finished, {', '.join(lacking)}{search}."
    )


def _pairs(
    metric: str, pairs: Sequence[tuple[str, str]], scores: Mapping[str, Mapping[str, float]]
) -> tuple[PairAnswer, ...]:
    found: list[Paired] = []
    for a, b in pairs:
        shared = sorted(scores[a].keys() & scores[b].keys())
        found.append(
            paired(np.array([scores[a][c] for c in shared]), np.array([scores[b][c] for c in shared]))
        )
    adjusted = holm([comparison.p for comparison in found])
    return tuple(
        PairAnswer(
            a=a,
            b=b,
            difference=comparison.difference,
            low=comparison.low,
            high=comparison.high,
            p=p,
            effect=comparison.effect,
            cases=comparison.n,
            verdict=verdict(comparison, p, a=a, b=b, greater_is_better=METRICS[metric]),
        )
        for (a, b), comparison, p in zip(pairs, found, adjusted, strict=True)
    )
