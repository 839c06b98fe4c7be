"""The compared pairs with their verdicts, the ranks of the arms, and the values of single cases. Pure.

Verdicts are the answer's own: nothing is tested here a second time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from dashboards.grids import Cell, Grid, grid
from study.answer import estimate
from study.conclusion import Answer, PairAnswer
from study.stats import NOT_SEPARATED, TOO_FEW_CASES
from trainables.metrics import METRICS


@dataclass(frozen=True, slots=True)
class RankRow:
    """The place of one arm: 1 is best in every case."""

    arm: str
    rank: float
    """Mean over the cases that every ranked arm scored; arms that are equal in a case share its places."""
    cases: int


@dataclass(frozen=True, slots=True)
class PairedCase:
    """One case as two arms scored it."""

    case: str
    a: float
    b: float


def pairs_grid(answer: Answer) -> Grid | None:
    """Every pair that the study compares; None where it compares none."""
    if not answer.pairs:
        return None
    return grid(
        [
            {
                "first": pair.a,
                "second": pair.b,
                "first - second [95 %]": _difference(pair),
                "p (Holm)": _number(pair.p, "< 0.0001" if pair.p < 0.0001 else f"{pair.p:.2g}"),
                "effect": _number(pair.effect, f"{pair.effect:.2f}"),
                "cases": Cell(str(pair.cases), pair.cases),
                "verdict": pair.verdict,
            }
            for pair in answer.pairs
        ]
    )  # fmt: skip


def rank_rows(scores: Mapping[str, Mapping[str, float]], metric: str) -> list[RankRow]:
    """The arms from the best mean rank to the worst, over the cases that all of them scored.

    `scores` holds arm -> case -> value, as `study.conclusion.case_scores`. Arms without a value are left out.
    """
    arms = [arm for arm, values in scores.items() if any(not math.isnan(v) for v in values.values())]
    shared = sorted(
        case
        for case in set.intersection(*(set(scores[arm]) for arm in arms) if arms else [set()])
        if not any(math.isnan(scores[arm][case]) for arm in arms)
    )
    if not shared:
        return []
    values = np.array([[scores[arm][case] for case in shared] for arm in arms])
    # The same rounding as the paired tests: what differs by less is a tie there, too.
    ranks = rankdata(np.round(-values if METRICS[metric] else values, 10), axis=0)
    rows = [RankRow(arm, float(rank), len(shared)) for arm, rank in zip(arms, ranks.mean(1), strict=True)]
    return sorted(rows, key=lambda row: row.rank)


def not_separated(pairs: Sequence[PairAnswer], ranked: Sequence[RankRow]) -> list[tuple[str, ...]]:
    """The largest groups of arms of which every two were compared and neither came out better.

    Each group in order of rank, the groups in order of their best arm; what was not compared joins nothing.
    """
    place = {row.arm: number for number, row in enumerate(ranked)}
    joined: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.verdict in (NOT_SEPARATED, TOO_FEW_CASES) and pair.a in place and pair.b in place:
            joined.setdefault(pair.a, set()).add(pair.b)
            joined.setdefault(pair.b, set()).add(pair.a)
    groups = (tuple(sorted(g, key=place.__getitem__)) for g in _cliques(joined, set(), set(joined), set()))
    return sorted(groups, key=lambda group: [place[arm] for arm in group])


def _cliques(
    joined: Mapping[str, set[str]], group: set[str], candidates: set[str], done: set[str]
) -> Iterator[set[str]]:
    """Bron and Kerbosch 1973 with a pivot: networkx has it too, and takes longer to import than the page."""
    if not candidates and not done:
        if group:
            yield group
        return
    pivot = max(candidates | done, key=lambda arm: len(joined[arm] & candidates))
    for arm in sorted(candidates - joined[pivot]):
        yield from _cliques(joined, group | {arm}, candidates & joined[arm], done & joined[arm])
        candidates = candidates - {arm}
        done = done | {arm}


def all_compared(pairs: Sequence[PairAnswer], ranked: Sequence[RankRow]) -> bool:
    """Whether the study compares every two of these arms."""
    compared = {frozenset((pair.a, pair.b)) for pair in pairs}
    arms = [row.arm for row in ranked]
    return all(frozenset((a, b)) in compared for n, a in enumerate(arms) for b in arms[n + 1 :])


def case_rows(scores: Mapping[str, Mapping[str, float]], a: str, b: str) -> list[PairedCase]:
    """The cases that two arms scored, from the worst in `a` to the best."""
    shared = sorted(scores[a].keys() & scores[b].keys())
    rows = [PairedCase(case, scores[a][case], scores[b][case]) for case in shared]
    return sorted((row for row in rows if not math.isnan(row.a + row.b)), key=lambda row: row.a)


def thinned(rows: Sequence[PairedCase], most: int) -> list[PairedCase]:
    """At most so many cases, evenly over the order; the first and the last stay."""
    if len(rows) <= most:
        return list(rows)
    return [rows[n] for n in sorted({round(x) for x in np.linspace(0, len(rows) - 1, most)})]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Where labels of ascending `places` go, so that no two are closer than `gap` and all lie in low .. high.

    Of more labels than fit, the gap is narrower.
    """
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    found = [max(place, low) for place in places]
    for n in range(1, len(found)):
        found[n] = max(found[n], found[n - 1] + gap)
    limit = high
    for n in reversed(range(len(found))):
        found[n] = min(found[n], limit)
        limit = found[n] - gap
    return found


def _difference(pair: PairAnswer) -> Cell:
    return _number(pair.difference, estimate(pair.difference, pair.low, pair.high))


def _number(value: float, text: str) -> Cell:
    return Cell("–", value) if math.isnan(value) else Cell(text, value)
