"""Which searched parameters decided the metric, as rows: only where the trials suffice to tell. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.curve_tables import thinned
from dashboards.search_tables import ArmSearch, Point

BEST_SHARE = 0.2
"""The importance is that of getting among this share of the trials."""
FEWEST_BEST = 5
"""Optuna's advice: with fewer trials in that share the estimate is unstable."""
FEWEST_TRIALS = round(FEWEST_BEST / BEST_SHARE)
PARTS = 5
"""Each of so many parts of the trials is left out once: how far the estimate moves is its range."""
MOST_REPEATED = 100
"""Trials up to which that is done; more of them move it little."""


@dataclass(frozen=True, slots=True)
class Importance:
    """The share of one parameter; all shares of an arm add up to 1."""

    parameter: str
    share: float
    low: float
    """Least and greatest share when a part of the trials is left out; NaN beyond MOST_REPEATED trials."""
    high: float


def importances(search: ArmSearch, *, most: int) -> list[Importance]:
    """Of every searched parameter, the most important first; estimated from at most `most` of the trials.

    Empty with fewer than FEWEST_TRIALS, fewer than two parameters, or one and the same value everywhere.
    """
    if not can_be_told(search):
        return []
    points = thinned(search.points, max(most, FEWEST_TRIALS))
    shares = _shares(search, points)
    ranges = dict.fromkeys(shares, (math.nan, math.nan))
    if len(points) <= MOST_REPEATED:
        without = [
            _shares(search, [p for place, p in enumerate(points) if place % PARTS != part])
            for part in range(PARTS)
        ]
        for name, share in shares.items():
            seen = [share, *(known[name] for known in without)]
            ranges[name] = (min(seen), max(seen))
    rows = [Importance(name, share, *ranges[name]) for name, share in shares.items()]
    return sorted(rows, key=lambda row: -row.share)


def can_be_told(search: ArmSearch) -> bool:
    """Whether the trials suffice and differ."""
    enough = len(search.points) >= FEWEST_TRIALS and len(search.space) > 1
    return enough and len({point.value for point in search.points}) > 1


def _shares(search: ArmSearch, points: Sequence[Point]) -> dict[str, float]:
    from study.importances import shares  # loads Optuna

    tried = [(point.parameters, point.value) for point in points]
    return shares(search.space, tried, greater_is_better=search.greater_is_better, best_share=BEST_SHARE)
