"""Grids of panels with fixed margins: matplotlib's layout engines draw everything twice to find theirs."""

from __future__ import annotations

import math

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

LEFT, RIGHT, TOP, BOTTOM = 0.95, 0.15, 0.12, 0.5
"""Margins around the grid, in inches: room for ticks and labels."""


def panels(
    count: int,
    *,
    columns: int = 3,
    width: float = 2.85,
    height: float = 1.9,
    across: float = 0.2,
    down: float = 0.55,
    top: float = TOP,
    right: float = RIGHT,
    left: float = LEFT,
    share_x: bool = False,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, line by line. All lengths are inches; across and down lie between panels.

    Shared axes have their numbers at the left and the lower edge of the grid only.
    """
    columns = min(columns, count)
    lines = -(-count // columns)
    inner = columns * width + (columns - 1) * across, lines * height + (lines - 1) * down
    whole = left + inner[0] + right, top + inner[1] + BOTTOM
    figure = Figure(figsize=whole)
    grid = {
        "left": left / whole[0],
        "right": 1 - right / whole[0],
        "bottom": BOTTOM / whole[1],
        "top": 1 - top / whole[1],
        "wspace": across / width,
        "hspace": down / height,
    }
    axes = figure.subplots(
        lines, columns, squeeze=False, sharex=share_x, sharey=share_y, gridspec_kw=grid
    ).ravel()
    for unused, above in zip(axes[count:], axes[count - columns :], strict=False):
        unused.remove()
        above.tick_params(labelbottom=True)
    return figure, list(axes[:count])


def decades(axis: Axis, low: float, high: float) -> None:
    """The ticks of a logarithmic axis as plain numbers: formulas take a second a page."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = max(1, -(-(last - first) // 4))
    ticks = [10.0**exponent for exponent in range(first, last + 1, step)]
    if len(ticks) < 2:
        ticks = [low, math.sqrt(low * high), high]
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:.3g}")
