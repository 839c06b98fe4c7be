"""How rows of the ledger read as MLflow runs: names, tags, parameters, points and status. Pure."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from study.results import TrialRow

STATUS = {"finished": "FINISHED", "diverged": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
"""MLflow's status of a trial's final state; a diverged one carries the tag study.diverged too."""

LONGEST_NAME, LONGEST_PARAMETER, LONGEST_TAG, LONGEST_DIGEST = 250, 6000, 8000, 36
"""MLflow's limits, in characters."""

NOTE = "mlflow.note.content"
"""The tag that MLflow's UI shows as a description."""

REPORTED = "reported"
"""In a report of a curve: the Unix time in seconds at which it was made."""

Identity = tuple[str, str, int, str]
"""`TrialRow.identity`."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of one metric."""

    metric: str
    value: float
    step: int
    milliseconds: int
    """Unix time. MLflow takes a point with another time for another point: whoever sends one, whenever, and
    even if an earlier request with it is carried out only then, gives it the time that it has by itself."""


def now() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)


def clean(name: str) -> str:
    """A name that MLflow accepts for metrics, parameters, tags: other characters become underscores."""
    parts = [part for part in re.sub(r"[^\w/.\- ]", "_", name).split("/") if part.strip(".")]
    return "/".join(parts)[:LONGEST_NAME] or "_"


def run_name(row: TrialRow) -> str:
    """What the run table shows: "points · search 3", "points · confirm seed 101"."""
    which = str(row.number) if row.phase == "search" else f"seed {row.seed}"
    return f"{row.arm} · {row.phase} {which}"


def trial_tags(row: TrialRow) -> dict[str, str]:
    """What a trial is, and how it stands."""
    return {
        "study.kind": "trial",
        "study.key": row.key,
        "study.arm": row.arm,
        "study.phase": row.phase,
        "study.trial_number": str(row.number),
        "study.seed": str(row.seed),
        "study.fold": str(row.fold),
        **state_tags(row),
    }


def state_tags(row: TrialRow) -> dict[str, str]:
    """How a trial stands."""
    tags = {"study.state": row.state}
    if row.reason:
        tags["study.reason"] = row.reason
    if row.failure:
        tags["study.failure"] = row.failure
    if "micro_batches" in row.details:
        tags["study.micro_batches"] = str(row.details["micro_batches"])
    if row.details.get("losses"):
        tags["study.losses"] = ", ".join(row.details["losses"])
    if row.state == "diverged":
        tags["study.diverged"] = "true"
    return tags


def identity_of(tags: Mapping[str, str]) -> Identity:
    """The inverse of `trial_tags`."""
    return tags["study.arm"], tags["study.phase"], int(tags["study.trial_number"]), tags["study.key"]


def all_parameters(row: TrialRow) -> dict[str, str]:
    """What was searched under its own name, and the whole definition of the trial as trial.*."""
    return flat({**row.parameters, "trial": row.details.get("trial", {})})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as "group.name" -> text, within MLflow's limits."""
    result: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            result |= flat(value, f"{key}.")
        else:
            text = json.dumps(value) if isinstance(value, list | tuple) else str(value)
            result[clean(key)] = text[:LONGEST_PARAMETER]
    return result


def points_of(row: TrialRow, metric: str) -> list[Point]:
    """The curve and, at the last iteration, the value and the costs of a trial that has ended.

    Reports of earlier versions, which do not say when they were made, are spread evenly over its time.
    """
    span = row.finished - row.started
    points: list[Point] = []
    for report in row.curve:
        step = int(report["iteration"])
        moment = int(1000 * (row.started + span * min(step / max(row.iterations, 1), 1.0)))
        points += points_of_report(report, step, moment)
    ended = {"seconds": row.seconds, "annotation_seconds": row.annotation_seconds}
    if row.value is not None:
        ended[metric] = row.value
    moment = int(1000 * row.finished)
    return points + [
        Point(clean(name), float(value), row.iterations, moment) for name, value in ended.items()
    ]


def points_of_report(report: Mapping[str, float], step: int, otherwise: int) -> list[Point]:
    """What one report measured, at the time that it names, or else at `otherwise` (milliseconds)."""
    moment = int(1000 * report[REPORTED]) if REPORTED in report else otherwise
    return [
        Point(clean(name), float(value), step, moment)
        for name, value in report.items()
        if name not in ("iteration", REPORTED)
    ]


def first_of_each(points: list[Point], logged: set[tuple[str, int]]) -> list[Point]:
    """Without the points whose (metric, step) is logged already or comes twice."""
    fresh: dict[tuple[str, int], Point] = {}
    for point in points:
        at = (point.metric, point.step)
        if at not in logged:
            fresh.setdefault(at, point)
    return list(fresh.values())


def chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive parts of at most `size` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
