"""How the trials learned: the validation metric and the loss over the training, one panel per arm."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from dashboards import curve_tables, drawing, markup
from dashboards.curve_tables import ArmCurves, Curve, EndRow
from dashboards.drawing import COLOURS, DASHES, INK, MUTED
from dashboards.markup import Cell
from dashboards.panels import panels
from dashboards.source import Source
from dashboards.tables import quality_label

ORDER = 600
TITLE = "Learning curves"

MOST_CURVES = 300
MOST_ARMS = 48
"""Panels of one figure."""
LOSS = "loss_total"
_ENDS = {"pruned": "v", "diverged": "x", "failed": "X"}


def html(source: Source) -> str:
    trials = curve_tables.counted(source.trials, source.answer)
    names = [arm.name for arm in source.spec.arms]
    metric = curve_tables.by_arm(curve_tables.curves(trials, source.spec.metric), names, most=MOST_CURVES)
    if not metric:
        return ""
    loss = curve_tables.by_arm(curve_tables.curves(trials, LOSS), names, most=MOST_CURVES)
    quality = f"validation {quality_label(source.answer)}"
    parts = [
        markup.figure(_draw(metric, quality), _caption(metric, quality)),
        _ends(curve_tables.end_rows(metric, greater_is_better=source.spec.greater_is_better)),
    ]
    if loss:
        drawn = markup.figure(_draw(loss, "training loss", own_scale=True), _caption(loss, "training loss"))
        parts.append(markup.details("The loss over the training", drawn))
    return "".join(parts)


def _caption(arms: Sequence[ArmCurves], what: str) -> str:
    shown = sum(len(arm.confirmations) + len(arm.searches) for arm in arms[:MOST_ARMS])
    there = sum(arm.all_confirmations + arm.all_searches for arm in arms)
    sentences = [
        f"{what[0].upper()}{what[1:]}, over the training iterations: coloured the confirmations, thin and "
        "grey the search, thick the mean of the finished confirmations. A triangle ends a trial that was "
        "stopped early, a cross one that diverged or failed."
    ]
    if shown < there:
        sentences.append(f"Drawn are {shown} of {there} curves, evenly chosen; the means are over all.")
    if len(arms) > MOST_ARMS:
        sentences.append(f"Drawn are the first {MOST_ARMS} of {len(arms)} arms.")
    if what == "training loss":
        sentences.append(
            "Losses of different methods are different quantities, so every arm has its own scale."
        )
    return " ".join(sentences)


def _draw(arms: Sequence[ArmCurves], quality: str, *, own_scale: bool = False) -> str:
    arms = arms[:MOST_ARMS]
    with drawing.style():
        figure, grid = panels(
            len(arms), top=0.35, share_x=True, share_y=not own_scale, across=0.5 if own_scale else 0.2
        )
        for axes, arm in zip(grid, arms, strict=True):
            _panel(axes, arm)
        figure.text(0.5, 0.08 / figure.get_figheight(), "training iteration", ha="center", fontsize=10)
        figure.text(0.06 / figure.get_figwidth(), 0.5, quality, rotation="vertical", va="center", fontsize=10)
        return drawing.svg(figure, title=f"Learning curves of {len(arms)} arms: {quality}")


def _panel(axes: Axes, arm: ArmCurves) -> None:
    for curve in arm.searches:
        _line(axes, curve, f"search {curve.number}", color=MUTED, linewidth=0.7, alpha=0.55)
    for place, curve in enumerate(arm.confirmations):
        name = f"confirmation {curve.number}, seed {curve.seed}"
        colour, dashes = COLOURS[place % len(COLOURS)], DASHES[place % len(DASHES)]
        _line(axes, curve, name, color=colour, linestyle=dashes, linewidth=1.1)
    if arm.finished > 1:
        iterations, values = zip(*arm.mean, strict=True)
        (line,) = axes.plot(iterations, values, color=INK, linewidth=2)
        drawing.hover(line, f"mean of {arm.finished} confirmations: {values[-1]:.4g} at the end")
    axes.set_title(drawing.plain(textwrap.fill(arm.arm, 38)), fontsize=9.5, loc="left")
    axes.tick_params(labelsize=8.5)
    axes.margins(x=0.03)


def _line(axes: Axes, curve: Curve, name: str, **style: Any) -> None:
    iterations, values = zip(*curve.points, strict=True)
    mark = _ENDS.get(curve.state, "." if len(values) == 1 else "")
    (line,) = axes.plot(iterations, values, marker=mark, markevery=[len(values) - 1], markersize=4.5, **style)
    drawing.hover(line, f"{name}, {curve.state}: {values[-1]:.4g} after {iterations[-1]} iterations")


def _ends(rows: Sequence[EndRow]) -> str:
    if not rows:
        return markup.paragraph("No confirmation has finished yet.", "note")
    body: list[list[Cell | str]] = [
        [
            row.arm,
            Cell(str(row.confirmations), row.confirmations),
            Cell(str(row.iterations), row.iterations),
            Cell(f"{row.first:.3g}", row.first),
            Cell(f"{row.last:.3g}", row.last),
            Cell("–" if row.gain != row.gain else f"{row.gain:+.2g}", row.gain),
        ]
        for row in rows
    ]
    headers = [
        "arm",
        "confirmations",
        "iterations",
        "first report",
        "last report",
        "gain since the one before",
    ]
    return markup.table(
        headers,
        body,
        caption="Mean over the finished confirmations, on the validation split. A large gain since the "
        "report before the last means that the arm was still learning when it was scored.",
    )
