"""The searches of a study as rows: what was tried at full length and what it gave. Pure.

Trials that were stopped early have no place here: their value is that of a shorter training. They are
counted, as are those that failed and the repetitions of a configuration, which were not trained again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dashboards.curve_tables import thinned
from search_spaces import Choice, Domain, Float, UserError
from search_spaces.domains import Value
from study.results import TrialRow
from study.spec import Study

FEWEST_FOR_CONTOURS = 10
GRID = 20
"""Points of a contour's grid along each axis."""


@dataclass(frozen=True, slots=True)
class Point:
    """One configuration at full length."""

    number: int
    parameters: Mapping[str, Value]
    """Of the searched ones alone."""
    value: float


@dataclass(frozen=True, slots=True)
class ArmSearch:
    """What one arm's search tried, in the order of its trials."""

    arm: str
    space: Mapping[str, Domain]
    points: tuple[Point, ...]
    stopped: int
    """Trials that were stopped early."""
    broken: int
    """Trials that diverged, failed or have no value."""
    repeated: int
    greater_is_better: bool

    @property
    def best(self) -> Point | None:
        """The earliest of equals, as the study selects."""
        sign = 1 if self.greater_is_better else -1
        return max(self.points, key=lambda point: (sign * point.value, -point.number), default=None)


@dataclass(frozen=True, slots=True)
class Contour:
    """The metric between the points of a search, over two of its parameters."""

    x: str
    y: str
    grid_x: np.ndarray
    """float64 [GRID], in the parameter's own unit."""
    grid_y: np.ndarray
    values: np.ndarray
    """float64 [y, x]; NaN outside of what the points enclose: nothing is guessed beyond them."""


def searches(study: Study, trials: Sequence[TrialRow]) -> list[ArmSearch]:
    """Of the arms that search something and have begun, in the study's order."""
    return [
        _search(arm.name, arm.search, own, study.greater_is_better)
        for arm in study.arms
        if arm.search
        and (own := [row for row in trials if row.arm == arm.name and row.phase == "search" and row.is_final])
    ]


def unsearched(study: Study) -> list[str]:
    """The arms whose configuration is fixed."""
    return [arm.name for arm in study.arms if not arm.search]


def _search(
    arm: str, space: Mapping[str, Domain], rows: Sequence[TrialRow], greater_is_better: bool
) -> ArmSearch:
    own = [row for row in rows if "same_as" not in row.details]
    full = [
        Point(row.number, {name: row.parameters[name] for name in space}, row.value)
        for row in own
        if row.state == "finished" and row.value is not None and space.keys() <= row.parameters.keys()
    ]
    stopped = sum(row.state == "pruned" for row in own)
    return ArmSearch(
        arm,
        space,
        tuple(sorted(full, key=lambda point: point.number)),
        stopped,
        len(own) - len(full) - stopped,
        len(rows) - len(own),
        greater_is_better,
    )


def best_so_far(search: ArmSearch) -> list[tuple[int, float]]:
    """(trial number, best value up to there): the first point, every one that is better, and the last."""
    sign = 1 if search.greater_is_better else -1
    steps: list[tuple[int, float]] = []
    for point in search.points:
        if not steps or sign * point.value > sign * steps[-1][1]:
            steps.append((point.number, point.value))
    if steps and steps[-1][0] != search.points[-1].number:
        steps.append((search.points[-1].number, steps[-1][1]))
    return steps


def shown(search: ArmSearch, most: int) -> list[Point]:
    """About `most` of the points, evenly spread, the best among them."""
    best = search.best
    kept = thinned(search.points, most)
    return kept if best is None or best in kept else [*kept, best]


def position(domain: Domain, value: Value) -> float:
    """Where a value stands in its domain, in [0, 1], as the search sees it: logarithmic where it is so."""
    if isinstance(domain, Choice):
        places = [place for place, option in enumerate(domain.options) if option == value]
        return places[0] / (len(domain.options) - 1) if places else math.nan
    low, high, at = float(domain.low), float(domain.high), float(value)
    if isinstance(domain, Float) and domain.log:
        low, high, at = math.log(low), math.log(high), math.log(at) if at > 0 else math.nan
    return min(max((at - low) / (high - low), 0.0), 1.0) if not math.isnan(at) else math.nan


def numeric(space: Mapping[str, Domain]) -> list[str]:
    """The parameters that have an order and a distance."""
    return [name for name, domain in space.items() if not isinstance(domain, Choice)]


def contour(search: ArmSearch, x: str, y: str) -> Contour:
    """Linear between the points, which are at least FEWEST_FOR_CONTOURS and not on one line.

    Raises UserError otherwise, with a sentence for the page.
    """
    from scipy.interpolate import griddata
    from scipy.spatial import QhullError

    places = np.array(
        [[position(search.space[name], point.parameters[name]) for name in (x, y)] for point in search.points]
    ).reshape(-1, 2)
    distinct = len(np.unique(places, axis=0))
    if distinct < FEWEST_FOR_CONTOURS:
        raise UserError(
            f"Contours need {FEWEST_FOR_CONTOURS} different configurations at full length, but {distinct} "
            "are there."
        )
    unit = np.linspace(0, 1, GRID)
    try:
        values = griddata(
            places, np.array([point.value for point in search.points]), tuple(np.meshgrid(unit, unit))
        )
    except QhullError as error:
        raise UserError(f"All trials lie on one line over {x} and {y}: nothing is between them.") from error
    return Contour(x, y, _own_unit(search.space[x], unit), _own_unit(search.space[y], unit), values)


def _own_unit(domain: Domain, unit: np.ndarray) -> np.ndarray:
    """The inverse of `position` for a domain with an order."""
    assert not isinstance(domain, Choice)
    low, high = float(domain.low), float(domain.high)
    if isinstance(domain, Float) and domain.log:
        own: np.ndarray = np.exp(math.log(low) + unit * (math.log(high) - math.log(low)))
        return own
    return low + unit * (high - low)
