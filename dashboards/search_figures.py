"""The drawings of one arm's search: rows of `search_tables` in, SVG out."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from dashboards import drawing, search_tables
from dashboards.curve_tables import thinned
from dashboards.drawing import COLOURS, INK, MUTED
from dashboards.importance_tables import Importance
from dashboards.panels import decades, panels
from dashboards.search_tables import ArmSearch, Contour, Point, position
from search_spaces import Choice, Domain, Float
from search_spaces.domains import Value

_COLUMNS = 3
_BEST = COLOURS[1]
_NAMES = 1.8
"""Inches for the names of parameters beside bars."""
_LEVELS = 8
_SURFACE, _ON_SURFACE = ("#eef3f8", "#0a5c92"), "#111111"
"""The same by day and by night: what is darker is better."""


def short(value: Value) -> str:
    """A value for a label."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def settings(point: Point) -> str:
    """A configuration in words."""
    return ", ".join(f"{name} = {short(value)}" for name, value in point.parameters.items())


def history(search: ArmSearch, quality: str, most: int) -> str:
    """Value by trial number, and the best so far."""
    with drawing.style():
        figure, (axes,) = panels(1, width=6.2, height=2.1)
        steps = search_tables.best_so_far(search)
        axes.step(*zip(*steps, strict=True), where="post", color=_BEST, linewidth=1.8)
        points = search_tables.shown(search, most)
        _dots(axes, search, points, [p.number for p in points])
        axes.set_xlabel("trial of the search")
        axes.set_ylabel(_wrapped(quality))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return drawing.svg(figure, title=f"Optimisation history of {search.arm}")


def slices(search: ArmSearch, quality: str, most: int) -> str:
    """Value over each parameter."""
    names = list(search.space)
    points = search_tables.shown(search, most)
    with drawing.style():
        figure, grid = panels(len(names), columns=_COLUMNS, share_y=True)
        for axes, name in zip(grid, names, strict=True):
            _dots(axes, search, points, [_at(search.space[name], p.parameters[name]) for p in points])
            _scale(axes, search.space[name], "x")
            axes.set_xlabel(drawing.plain(name))
        for axes in grid[::_COLUMNS]:
            axes.set_ylabel(_wrapped(quality))
        return drawing.svg(figure, title=f"Slices of {search.arm}: {quality}")


def parallel(search: ArmSearch, quality: str, most: int) -> str:
    """One line per trial over all parameters and the metric; the best one thick."""
    best = search.best
    assert best is not None  # there are at least two points
    names = list(search.space)
    points = thinned([p for p in search.points if p is not best], most)
    low, high = min(p.value for p in search.points), max(p.value for p in search.points)

    def heights(point: Point) -> list[float]:
        places = [position(search.space[name], point.parameters[name]) for name in names]
        return [*places, _share(point.value, low, high)]

    with drawing.style():
        figure, (axes,) = panels(1, width=1.6 * (len(names) + 1), height=2.6)
        axes.set(xlim=(-0.35, len(names) + 0.35), ylim=(-0.09, 1.09), yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(visible=False)
        good = [
            _share(p.value, low, high) if search.greater_is_better else 1 - _share(p.value, low, high)
            for p in points
        ]
        lines = [list(enumerate(heights(point))) for point in points]
        axes.add_collection(
            LineCollection(lines, colors=COLOURS[0], linewidths=0.9, alpha=[0.12 + 0.6 * g for g in good])
        )
        (line,) = axes.plot(range(len(names) + 1), heights(best), color=_BEST, linewidth=2.4)
        drawing.hover(line, _tip(best))
        for place, name in enumerate(names):
            _axis(axes, place, *_ends(search.space[name]))
        _axis(axes, len(names), short(low), short(high))
        labels = [*(drawing.plain(name.replace("_", " ")) for name in names), quality.split(",")[0]]
        axes.set_xticks(range(len(names) + 1), labels=[_wrapped(label, 16) for label in labels])
        axes.tick_params(length=0)
        return drawing.svg(figure, title=f"Parallel coordinates of {search.arm}")


def contours(search: ArmSearch, drawn: Sequence[Contour], quality: str, most: int) -> str:
    """The metric over pairs of parameters, and the trials that it is drawn from."""
    points = search_tables.shown(search, most)
    levels = np.linspace(min(p.value for p in search.points), max(p.value for p in search.points), _LEVELS)
    with drawing.style():
        figure, grid = panels(len(drawn), width=2.2, height=2.0, across=0.85, right=1.25)
        colours = LinearSegmentedColormap.from_list("page", _SURFACE, N=_LEVELS - 1)
        colours = colours if search.greater_is_better else colours.reversed()
        for axes, contour in zip(grid, drawn, strict=True):
            x, y = search.space[contour.x], search.space[contour.y]
            surface = axes.contourf(
                contour.grid_x, contour.grid_y, contour.values, levels, cmap=colours, antialiased=True
            )
            across = [_at(x, p.parameters[contour.x]) for p in points]
            up = [_at(y, p.parameters[contour.y]) for p in points]
            axes.scatter(across, up, s=9, color=_ON_SURFACE, edgecolors="white", linewidths=0.4)
            _scale(axes, x, "x")
            _scale(axes, y, "y")
            axes.set_xlabel(drawing.plain(contour.x))
            axes.set_ylabel(drawing.plain(contour.y))
            axes.grid(visible=False)
        place = grid[-1].get_position()
        beside = figure.add_axes((place.x1 + 0.2 / figure.get_figwidth(), place.y0, 0.014, place.height))
        bar = figure.colorbar(surface, cax=beside, label=_wrapped(quality), format="%.3g")
        bar.outline.set_visible(False)
        return drawing.svg(figure, title=f"Contours of {search.arm}: {quality}")


def importances(search: ArmSearch, shares: Sequence[Importance]) -> str:
    """One bar per parameter, the most important on top."""
    with drawing.style():
        figure, (axes,) = panels(1, width=4.2, height=0.34 * len(shares), left=_NAMES)
        for line, row in enumerate(shares):
            (bar,) = axes.barh(line, row.share, height=0.6, color=COLOURS[0])
            span = "" if math.isnan(row.low) else f" ({row.low:.2f} to {row.high:.2f})"
            drawing.hover(bar, f"{row.parameter}: {row.share:.2f}{span}")
            if not math.isnan(row.low):
                axes.plot(
                    [row.low, row.high], [line, line], color=INK, linewidth=1.4, marker="|", markersize=7
                )
        axes.set_yticks(range(len(shares)), labels=[drawing.plain(row.parameter) for row in shares])
        axes.set(ylim=(len(shares) - 0.5, -0.5), xlim=(0, 1))
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("share of the importance")
        return drawing.svg(figure, title=f"Importances of the parameters of {search.arm}")


def _dots(axes: Axes, search: ArmSearch, points: Sequence[Point], places: Sequence[float]) -> None:
    """The trials, the best one marked; each tells what it was."""
    best = search.best
    dots = axes.scatter(
        places, [p.value for p in points], s=16, color=COLOURS[0], alpha=0.8, linewidths=0, zorder=3
    )
    if len(points) <= 60:
        drawing.hover(dots, [_tip(p) for p in points])
    for place, point in zip(places, points, strict=True):
        if point is best:
            axes.scatter(place, point.value, s=80, marker="*", color=_BEST, linewidths=0, zorder=4)


def _tip(point: Point) -> str:
    return f"trial {point.number}: {point.value:.4g} ({settings(point)})"


def _at(domain: Domain, value: Value) -> float:
    """Where a value stands on an axis: itself, or the place of an option."""
    if isinstance(domain, Choice):
        return position(domain, value) * (len(domain.options) - 1)
    return float(value)


def _scale(axes: Axes, domain: Domain, which: str) -> None:
    axis = axes.xaxis if which == "x" else axes.yaxis
    if isinstance(domain, Choice):
        axis.set_ticks(range(len(domain.options)), labels=[drawing.plain(str(o)) for o in domain.options])
        return
    if isinstance(domain, Float) and domain.log:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        decades(axis, domain.low, domain.high)
        low, high = math.log(domain.low), math.log(domain.high)
        ends = math.exp(low - 0.04 * (high - low)), math.exp(high + 0.04 * (high - low))
    else:
        span = 0.04 * (domain.high - domain.low)
        ends = domain.low - span, domain.high + span
    (axes.set_xlim if which == "x" else axes.set_ylim)(*ends)


def _axis(axes: Axes, place: int, low: str, high: str) -> None:
    axes.plot([place, place], [0, 1], color=MUTED, linewidth=1, zorder=1)
    for height, text, alignment in ((-0.03, low, "top"), (1.03, high, "bottom")):
        axes.text(place, height, drawing.plain(text), ha="center", va=alignment, fontsize=8.5, color=MUTED)


def _ends(domain: Domain) -> tuple[str, str]:
    if isinstance(domain, Choice):
        return str(domain.options[0]), str(domain.options[-1])
    return short(domain.low), short(domain.high)


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _wrapped(text: str, width: int = 22) -> str:
    return textwrap.fill(text, width)
