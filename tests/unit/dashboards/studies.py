"""Studies as the report reads them, made in memory: arms that score what they are told on seven cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dashboards.source import Source
from study.conclusion import build
from study.results import CaseRow, TrialRow
from study.spec import Arm, Replicates, Study
from trainables.annotations import Annotation

CASES = 7
MACHINE = {"device": "cpu", "gpus": 0.0, "threads": 2, "versions": {"torch": "9.9"}}


def an_arm(name: str, budget: int = 1) -> Arm:
    annotation = Annotation(pixels="points", pixel_budget=budget)
    return Arm(name=name, method="partial_cross_entropy", annotation=annotation)


def a_trial(arm: str, number: int = 0, **changes: Any) -> TrialRow:
    values: dict[str, Any] = {
        "key": f"{arm}-{number}", "arm": arm, "phase": "confirm", "number": number, "state": "finished",
        "value": 0.5, "seed": 1001 + number, "fold": 0, "parameters": {}, "iterations": 10, "seconds": 1800.0,
        "annotation_seconds": 120.0, "details": {"host": "here", "machine": MACHINE},
    }  # fmt: skip
    return TrialRow(**{**values, **changes})


def a_case(trial: TrialRow, number: int, dice: float, class_id: int = 1, **changes: Any) -> CaseRow:
    values: dict[str, Any] = {
        "key": trial.key, "arm": trial.arm, "phase": trial.phase, "replicate": trial.number,
        "seed": trial.seed, "fold": 0, "split": "test", "case_id": f"p{number}", "volume_id": f"p{number}",
        "class_id": class_id, "class_name": f"class {class_id}", "dice": dice, "iou": dice / 2, "hd95": 3.0,
        "hd95_max": 9.0, "distance_unit": "mm", "area_error": 0.1, "relative_area_error": 0.1,
        "size_error": 1.0, "missed": False, "false_alarm": False, "both_empty": False,
    }  # fmt: skip
    return CaseRow(**{**values, **changes})


def a_source(
    arms: Mapping[str, float],
    *,
    question: str = "Which?",
    replicates: int = 2,
    cases: int = CASES,
    classes: int = 1,
    further: Sequence[TrialRow] = (),
    budgets: Sequence[int] = (),
) -> Source:
    """Arm -> Dice of its first case; each further case is 0.01 better. An arm of -1 has no trial."""
    budgets = budgets or [1] * len(arms)
    spec = Study(
        name="toy",
        question=question,
        arms=tuple(an_arm(name, budget) for name, budget in zip(arms, budgets, strict=True)),
        replicates=Replicates(seeds=tuple(range(1001, 1001 + replicates))),
    )
    trials, scored = list(further), []
    for (name, dice), budget in zip(arms.items(), budgets, strict=True):
        for number in range(replicates if dice >= 0 else 0):
            trial = a_trial(name, number, annotation_seconds=120.0 * budget)
            trials.append(trial)
            scored += [
                a_case(trial, n, dice + n / 100 + number / 50, c + 1)
                for n in range(cases)
                for c in range(classes)
            ]
    answer = build(
        spec.name, spec.metric, [*arms], spec.compared(), spec.num_replicates, trials, scored, spec.watch
    )
    return Source(
        spec=spec, folder=Path("nowhere") / "toy", trials=tuple(trials), cases=tuple(scored), answer=answer
    )
