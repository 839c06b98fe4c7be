"""The table of arms, also by structure, with what each arm cost. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dashboards.grids import Cell, Grid, grid
from dashboards.tables import metric_name
from study.answer import estimate
from study.conclusion import Answer, ArmAnswer
from study.results import TrialRow
from study.spec import PRETRAINING
from study.stats import Interval
from trainables.metrics import METRICS

HOURS = "hours"
"""Of trials whose ledger does not say where they ran: those of earlier releases."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What trainings took: hours by unit, "GPU-hours" (a shared GPU by its share), "CPU-hours" or HOURS."""

    hours: dict[str, float]

    @property
    def total(self) -> float:
        """For sorting: all units together."""
        return sum(self.hours.values())

    def __str__(self) -> str:
        return " + ".join(f"{_hours(value)} {unit}" for unit, value in self.hours.items()) or "0"


def cost_of(trials: Iterable[TrialRow]) -> Cost:
    """Seconds of training, validation and test of all trials, as hours of what they ran on."""
    hours: defaultdict[str, float] = defaultdict(float)
    for trial in trials:
        machine = trial.details.get("machine", {})
        unit, share = HOURS, 1.0
        if machine:
            on_gpu = machine["gpus"] > 0
            unit, share = ("GPU-hours", machine["gpus"]) if on_gpu else ("CPU-hours", machine["threads"])
        hours[unit] += trial.seconds * share / 3600
    return Cost(dict(hours))


def arms_grid(answer: Answer, trials: Sequence[TrialRow]) -> Grid:
    """All arms in the study's order; what no arm has is no column."""
    own: dict[str, list[TrialRow]] = {arm.name: [] for arm in answer.arms}
    for trial in trials:
        own.get(trial.arm, []).append(trial)
    costs = {name: cost_of(rows) for name, rows in own.items()}
    units = {unit for cost in costs.values() for unit in cost.hours}
    unit = units.pop() if len(units) == 1 else ""
    return _without_empty(grid([_cells(arm, answer.metric, costs[arm.name], unit) for arm in answer.arms]))


def structures_grid(answer: Answer) -> Grid | None:
    """The metric and the HD95 of each structure; None where the study has but one."""
    names = list(dict.fromkeys(s.name for arm in answer.arms for s in arm.structures))
    if len(names) < 2:
        return None
    distance = next((arm.hd95_unit for arm in answer.arms if arm.hd95_unit), "")
    unit = f" [{distance}]" if distance else ""
    rows = []
    for arm in answer.arms:
        found = {structure.name: structure for structure in arm.structures}
        cells: dict[str, Cell | str] = {"arm": arm.name}
        for name in names:
            cells[f"{name}, {metric_name(answer.metric)} [95 %]"] = _interval(
                found[name].score if name in found else None
            )
        if answer.metric != "hd95":
            for name in names:
                cells[f"{name}, HD95{unit}"] = _interval(found[name].hd95 if name in found else None)
        rows.append(cells)
    return grid(rows)


def best_by_time(answer: Answer) -> Grid:
    """For each of the annotator's times the confirmed arm with the best mean; ties keep the study's order."""
    confirmed = [a for a in answer.arms if not (math.isnan(a.mean) or math.isnan(a.annotation_seconds))]
    sign = 1 if METRICS[answer.metric] else -1
    rows: list[dict[str, Cell | str]] = []
    for seconds in sorted({arm.annotation_seconds for arm in confirmed}):
        arms = [arm for arm in confirmed if arm.annotation_seconds == seconds]
        best = max(arms, key=lambda arm: sign * arm.mean)
        rows.append(
            {
                "annotator, minutes": Cell(_minutes(seconds), seconds),
                "arms": Cell(str(len(arms)), len(arms)),
                "best mean": best.name,
                f"{metric_name(answer.metric)} [95 %]": Cell(
                    estimate(best.mean, best.low, best.high), best.mean
                ),
            }
        )
    return grid(rows)


def shared_cost(trials: Sequence[TrialRow]) -> Cost | None:
    """What the pre-trainings took that several arms start from; None where there are none."""
    rows = [trial for trial in trials if trial.arm == PRETRAINING]
    return cost_of(rows) if rows else None


def _cells(arm: ArmAnswer, metric: str, cost: Cost, unit: str) -> dict[str, Cell | str]:
    return {
        "arm": arm.name,
        f"{metric_name(metric)} [95 %]": Cell(estimate(arm.mean, arm.low, arm.high), arm.mean),
        "runs": Cell(f"{arm.replicates}/{arm.planned}", arm.replicates),
        "cases": Cell(str(arm.cases), arm.cases),
        "missed": _number(arm.missed_rate, f"{100 * arm.missed_rate:.1f} %"),
        "SD of runs": _number(arm.seed_sd, _two(arm.seed_sd)),
        "HD95": _hd95(arm),
        "area error": _number(arm.area_error, _two(arm.area_error)),
        **{name.removeprefix("loss_").replace("_", " "): _interval(v) for name, v in arm.watched.items()},
        "annotator, minutes": _number(arm.annotation_seconds, _minutes(arm.annotation_seconds)),
        f"training, {unit}" if unit else "training": Cell(
            _hours(cost.total) if unit else str(cost), cost.total
        ),
        "a step": _number(arm.step_seconds, f"{1000 * arm.step_seconds:.0f} ms"),
    }


def minutes(seconds: float) -> str:
    """Annotator's time: "0 min", "0.4 min", "92 min", "5,274 min"."""
    return f"{_minutes(seconds)} min"


def _minutes(seconds: float) -> str:
    value = seconds / 60
    return _two(value) if value < 10 else f"{value:,.0f}"


def _hours(hours: float) -> str:
    return _two(hours) if hours < 10 else f"{hours:,.0f}"


def _two(value: float) -> str:
    """Two significant digits, and zeros that are some of them: "0.10", "0.040", "12"."""
    if value == 0 or math.isnan(value):
        return f"{value:.0f}"
    return f"{value:.{max(1 - math.floor(math.log10(abs(value))), 0)}f}"


def _hd95(arm: ArmAnswer) -> Cell:
    hint = f"{arm.hd95_undefined} structures without one are not in the mean" if arm.hd95_undefined else ""
    return _number(arm.hd95, f"{arm.hd95:.1f} {arm.hd95_unit}", hint)


def _interval(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("–", math.nan)
    return _number(interval.mean, estimate(interval.mean, interval.low, interval.high))


def _number(value: float, text: str, hint: str = "") -> Cell:
    return Cell("–", value) if math.isnan(value) else Cell(text, value, hint)


def _without_empty(table: Grid) -> Grid:
    """Without the columns in which every arm has nothing."""
    kept = [n for n in range(len(table.headers)) if any(row[n].text != "–" for row in table.rows)]
    return Grid(
        headers=tuple(table.headers[n] for n in kept),
        rows=tuple(tuple(row[n] for n in kept) for row in table.rows),
    )
