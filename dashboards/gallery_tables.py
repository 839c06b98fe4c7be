"""Which test cases of each arm are shown, and what they scored: rows, chosen from the ledger alone. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from study.conclusion import BACKGROUND, Answer
from study.results import CaseRow, TrialRow
from trainables import gallery
from trainables.metrics import METRICS


@dataclass(frozen=True, slots=True)
class ShownTrial:
    """The replicate of an arm whose cases are shown: the first that finished."""

    arm: str
    key: str
    number: int
    seed: int
    fold: int
    cases: int
    """Test cases that have a value."""
    undefined: int
    """Test cases that have none."""
    shown: tuple[ShownCase, ...]


@dataclass(frozen=True, slots=True)
class ShownCase:
    """One test case, and why it is shown."""

    role: str
    """Of `trainables.gallery`: best, median or worst."""
    case_id: str
    value: float
    """The study's metric, over the case's classes and volumes."""
    structures: tuple[CaseRow, ...]


def shown_trials(trials: Sequence[TrialRow], cases: Sequence[CaseRow], answer: Answer) -> list[ShownTrial]:
    """Of every arm with a finished confirmation of the configuration that the answer speaks of."""
    by_trial = defaultdict(list)
    for row in cases:
        if row.phase == "confirm" and row.split == "test" and row.class_id != BACKGROUND:
            by_trial[row.arm, row.replicate, row.key].append(row)
    found = []
    for arm in answer.arms:
        finished = [
            row
            for row in trials
            if (row.arm, row.phase, row.state) == (arm.name, "confirm", "finished")
            and row.parameters == arm.parameters
            and by_trial[row.arm, row.number, row.key]
        ]
        if finished:
            first = min(finished, key=lambda row: row.number)
            own = by_trial[first.arm, first.number, first.key]
            found.append(_shown(first, own, answer.metric))
    return found


def _shown(trial: TrialRow, rows: Sequence[CaseRow], metric: str) -> ShownTrial:
    values = gallery.case_values(rows, metric)
    chosen = gallery.choose(values, greater_is_better=METRICS[metric])
    defined = sum(not math.isnan(value) for value in values.values())
    shown = tuple(
        ShownCase(role, case_id, values[case_id], tuple(row for row in rows if row.case_id == case_id))
        for role, case_id in chosen.items()
    )
    return ShownTrial(
        trial.arm, trial.key, trial.number, trial.seed, trial.fold, defined, len(values) - defined, shown
    )


def role_name(role: str, cases: int) -> str:
    """For a caption: "best of 20 cases"."""
    return "only case" if cases == 1 else f"{role} of {cases} cases"


def structure_phrases(rows: Sequence[CaseRow]) -> list[str]:
    """What each structure of a case scored, over its volumes; a miss is said to be one.

    The distance to nothing is undefined, whatever it counts as in a mean.
    """
    by_class = defaultdict(list)
    for row in rows:
        by_class[row.class_id].append(row)
    return [f"{own[0].class_name} {_scored(own)}" for _, own in sorted(by_class.items())]


def _scored(own: Sequence[CaseRow]) -> str:
    dice = f"Dice {fmean(row.dice for row in own):.3g}"
    measured = [row for row in own if not (row.missed or row.false_alarm or math.isnan(row.hd95))]
    distance = "HD95 undefined"
    if measured:
        distance = f"HD95 {fmean(row.hd95 for row in measured):.3g} {measured[0].distance_unit}"
    notes = [
        _in_volumes(word, sum(flags), len(own))
        for word, flags in (
            ("missed", [row.missed for row in own]),
            ("absent, but predicted", [row.false_alarm for row in own]),
            ("absent, and rightly not predicted", [row.both_empty for row in own]),
        )
        if any(flags)
    ]
    return ", ".join([*notes, dice, distance])


def _in_volumes(word: str, count: int, volumes: int) -> str:
    return word if volumes == 1 else f"{word} in {count} of {volumes} volumes"
