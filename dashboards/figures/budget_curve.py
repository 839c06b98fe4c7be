"""Quality with its interval, against annotation time (`draw`) or one arm per line (`interval_plot`)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards.tables import ArmRow, BudgetRow
from study.answer import estimate

# Okabe and Ito's colours: distinct for every kind of colour vision, and in grey by their markers and dashes.
_STYLES = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#E69F00", "v", "-"),
    ("#56B4E9", "P", "--"),
)
_LEVEL = ("#222222", "*", ":")
_INK, _GRID = "#222222", "#DDDDDD"
_SETTINGS = {"font.family": "DejaVu Sans", "font.size": 11, "svg.hashsalt": "dashboards"}
_UNITS = ((7200.0, "h", 3600.0), (600.0, "min", 60.0), (0.0, "s", 1.0))  # from so many seconds on


def draw(rows: Sequence[BudgetRow], path: Path, *, quality: str, title: str) -> None:
    """Writes the curve of each family: mean and 95 % interval over the annotator's time.

    What is not counted (full masks) is a level to compare with: a star and a dotted line. `quality`
    labels the vertical axis; the suffix of `path` chooses PNG, SVG or PDF. Raises ValueError without rows.
    """
    if not rows:
        raise ValueError("a curve needs at least one row.")
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(7.6, 5.2), dpi=150, layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        counted = any(row.amount.endswith("px") for row in rows)
        note = "; px: labelled per class and image" if counted else ""
        unit = time_axis(axes, [row.seconds for row in rows], note)
        styles = iter(_STYLES * len(rows))
        named: set[tuple[float, str]] = set()
        for number, family in enumerate(dict.fromkeys(row.family for row in rows)):
            points = [row for row in rows if row.family == family]
            level = len(points) == 1 and not points[0].amount
            if level:
                axes.axhline(points[0].mean, color=_LEVEL[0], linestyle=":", linewidth=1, zorder=1)
            _series(axes, points, unit, _LEVEL if level else next(styles))
            fresh = [row for row in points if row.amount and (row.seconds, row.amount) not in named]
            _name_amounts(axes, fresh, unit, above=number % 2 == 1)
            named |= {(row.seconds, row.amount) for row in fresh}
        axes.set_ylabel(quality)
        axes.margins(y=0.08)
        _finish(axes, figure, title)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)


def _series(axes: Axes, points: Sequence[BudgetRow], unit: float, style: tuple[str, str, str]) -> None:
    """One family: a line through its intervals."""
    colour, marker, line = style
    axes.errorbar(
        [row.seconds / unit for row in points],
        [row.mean for row in points],
        yerr=_bars(points),
        color=colour,
        marker=marker,
        markersize=12 if marker == "*" else 6.5,
        linestyle=line,
        linewidth=1.8,
        elinewidth=1.2,
        capsize=3,
        label=_plain(points[0].family),
        zorder=3,
    )


def _name_amounts(axes: Axes, points: Sequence[BudgetRow], unit: float, *, above: bool) -> None:
    """Above left or below right of a point, where a rising line leaves room; once at each time."""
    side = -1 if above else 1
    for row in points:
        axes.annotate(
            row.amount,
            (row.seconds / unit, row.mean),
            xytext=(6 * side, -5 * side),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            fontsize=9,
            color="0.3",
        )


def time_axis(axes: Axes, seconds: Sequence[float], note: str) -> float:
    """Logarithmic, but straight from 0 to the smallest cost so that "no annotation" has a place.

    Returns the axis' unit in seconds.
    """
    name, unit = next((name, unit) for start, name, unit in _UNITS if max(seconds) >= start)
    costs = [s / unit for s in seconds if s > 0] or [1.0]
    first, last = min(costs), max(costs)
    axes.set_xscale("symlog", linthresh=first, linscale=0.5)
    free = min(seconds) == 0
    axes.set_xlim(-0.3 * first if free else 0.6 * first, 1.8 * last)
    decades = range(math.floor(math.log10(first)) - 1, math.ceil(math.log10(last)) + 1)
    steps = (1, 2, 5) if last < 1000 * first else (1,)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [0.0] * free + [t for t in ticks if (first if free else 0.6 * first) <= t <= 1.5 * last]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"annotator's time for the training images [{name}]{note}")
    return unit


def interval_plot(rows: Sequence[ArmRow], path: Path, *, quality: str, title: str) -> None:
    """Writes one line per arm, in order from the top: mean and 95 % interval over cases, and the numbers.

    An arm without a confirmed replicate keeps its line and says so.
    """
    with mpl.rc_context(_SETTINGS):
        size = (8.4, 1.6 + 0.45 * len(rows))
        figure = Figure(figsize=size, dpi=150, layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        for line, row in enumerate(rows):
            colour, marker, _ = _STYLES[0]
            bars = _bars([row])
            axes.errorbar(
                row.mean,
                line,
                xerr=bars,
                color=colour,
                marker=marker,
                markersize=6.5,
                elinewidth=1.8,
                capsize=4,
            )
            place = axes.get_yaxis_transform()
            axes.text(1.02, line, _numbers(row), transform=place, va="center", fontsize=10, color=_INK)
        axes.set_yticks(range(len(rows)), labels=[_plain(textwrap.fill(row.name, 30)) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(quality)
        _finish(axes, figure, title)
        figure.savefig(path)


def _numbers(row: ArmRow) -> str:
    if math.isnan(row.mean):
        return f"not confirmed ({row.replicates})"
    return f"{estimate(row.mean, row.low, row.high)}, n = {row.cases}"


def _bars(rows: Sequence[ArmRow] | Sequence[BudgetRow]) -> list[list[float]]:
    """Distances from the mean to the bounds, not below zero by rounding; NaN draws no bar."""
    return [[max(row.mean - row.low, 0.0) for row in rows], [max(row.high - row.mean, 0.0) for row in rows]]


def _finish(axes: Axes, figure: Figure, title: str) -> None:
    figure.suptitle(_plain(f"{title}: mean and 95 % interval over cases"), x=0.01, ha="left", fontsize=12)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK)


def _plain(text: str) -> str:
    """A dollar sign in a name is not the start of a formula."""
    return text.replace("$", r"\$")
