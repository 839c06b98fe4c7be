"""Learning curves of a study's trials as a PNG, drawn from ledger rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.results import TrialRow

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
_DASHES = ("-", "--", ":", "-.")
_ENDS = {"finished": "o", "pruned": "v", "diverged": "x", "failed": "X"}
"""Marker at the end of a line, by the trial's state; none while it runs."""


def learning_curves(path: Path, rows: Sequence[TrialRow], metric: str, unit: str = "") -> None:
    """Draw one line per trial: validation metric against training iteration.

    Colour and dashes tell the arm and the phase, the marker at the end how the trial ended; trials that did
    not finish are pale. Trials without a report of the metric are left out.

    Args:
        path: of the PNG; its folder is made.
        metric: name of the metric in the rows' curves.
        unit: of the metric, shown in brackets; "" for a plain number.
    """
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    groups = list(dict.fromkeys((row.arm, row.phase) for row in rows))
    drawn = [_line(axes, row, metric, groups.index((row.arm, row.phase))) for row in rows]
    if not any(drawn):
        axes.text(0.5, 0.5, f"no reports of {metric} yet", transform=axes.transAxes, ha="center", color="0.4")
    axes.set_xlabel("training iteration")
    axes.set_ylabel(f"validation {metric}" + (f" ({unit})" if unit else ""))
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles = [_arm_handle(rows, group, index) for index, group in enumerate(groups)]
    states = [state for state in _ENDS if any(row.state == state for row in rows)]
    handles += [
        Line2D([], [], color="0.3", linestyle="none", marker=_ENDS[state], label=state) for state in states
    ]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _line(axes: Axes, row: TrialRow, metric: str, group: int) -> bool:
    """Draw one trial; whether there was anything to draw."""
    points = [(report["iteration"], report[metric]) for report in row.curve if metric in report]
    if not points:
        return False
    iterations, values = zip(*points, strict=True)
    finished = row.state == "finished"
    axes.plot(
        iterations,
        values,
        **_style(group),
        linewidth=1.4 if finished else 1.0,
        alpha=0.9 if finished else 0.45,
        marker=_ENDS.get(row.state, ""),
        markevery=[len(points) - 1],
        markersize=5,
    )
    return True


def _style(group: int) -> dict[str, Any]:
    dashes = _DASHES[group // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[group % len(_COLOURS)], "linestyle": dashes}


def _arm_handle(rows: Sequence[TrialRow], group: tuple[str, str], index: int) -> Line2D:
    number = sum((row.arm, row.phase) == group for row in rows)
    trials = "trial" if number == 1 else "trials"
    return Line2D([], [], **_style(index), label=f"{group[0]}, {group[1]} ({number} {trials})")
