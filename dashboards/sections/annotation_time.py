"""Quality against the annotator's time: a curve with its band for each kind of supervision."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dashboards import drawing, markup, tables
from dashboards.arm_tables import best_by_time, minutes
from dashboards.figures.budget_curve import time_axis
from dashboards.source import Source
from dashboards.tables import BudgetRow
from study.answer import estimate

ORDER = 300
TITLE = "Quality against annotation time"


def html(source: Source) -> str:
    rows = tables.budget_rows(source.answer, source.spec.arms)
    if not rows:
        return markup.paragraph("Nothing is confirmed yet, so there is no curve to draw.", "note")
    if len({row.seconds for row in rows}) < 2:
        time = minutes(rows[0].seconds)
        text = f"Every confirmed arm costs the annotator the same, {time}: there is no curve."
        return markup.paragraph(text, "note")
    best = markup.grid(
        best_by_time(source.answer), caption="The best arm for so much of the annotator's time"
    )
    if not tables.has_curve(rows):
        text = "No supervision was given in different amounts, so there is no curve."
        return markup.paragraph(text, "note") + best
    caption = (
        "Mean over test cases, with its 95 % interval as a band, or as a bar where a supervision has one "
        "amount only; dotted: the level of full masks. The time is the annotator's, for all training images."
    )
    return markup.figure(_drawn(rows, tables.quality_label(source.answer)), caption) + best


def _drawn(rows: Sequence[BudgetRow], quality: str) -> str:
    with drawing.style():
        figure = Figure(figsize=(8.4, 4.8), layout="constrained")
        axes = figure.add_subplot()
        unit = time_axis(axes, [row.seconds for row in rows], "")
        series = 0
        for family in dict.fromkeys(row.family for row in rows):
            points = [row for row in rows if row.family == family]
            level = len(points) == 1 and not points[0].amount
            _series(axes, points, unit, None if level else series % len(drawing.COLOURS))
            series += not level
        axes.set_ylabel(quality)
        axes.margins(y=0.06)
        figure.legend(loc="outside lower center", ncols=3 if len(rows) < 30 else 2)
        return drawing.svg(figure, title="Quality against the annotator's time")


def _series(axes: Axes, points: Sequence[BudgetRow], unit: float, number: int | None) -> None:
    """One supervision; a level to compare with (number None) is a star and a dotted line."""
    colour, marker, dash = (
        (drawing.INK, "*", ":")
        if number is None
        else (drawing.COLOURS[number], drawing.MARKERS[number], drawing.DASHES[number])
    )
    times, means = [row.seconds / unit for row in points], [row.mean for row in points]
    if number is None:
        axes.axhline(means[0], color=colour, linestyle=":", linewidth=1)
    if len(set(times)) > 1:
        lows, highs = [row.low for row in points], [row.high for row in points]
        axes.fill_between(times, lows, highs, color=colour, alpha=0.18, linewidth=0)
        axes.plot(times, means, color=colour, linestyle=dash, linewidth=1.8)
    else:
        axes.vlines(
            times, [row.low for row in points], [row.high for row in points], color=colour, linewidth=1.4
        )
    label = drawing.plain(drawing.short(points[0].family))
    marks = axes.scatter(
        times, means, color=colour, marker=marker, s=90 if marker == "*" else 36, label=label
    )
    marks.set_zorder(3)
    drawing.hover(marks, [_said(row) for row in points])


def _said(row: BudgetRow) -> str:
    amount = f" ({row.amount})" if row.amount else ""
    return f"{row.name}{amount}: {estimate(row.mean, row.low, row.high)} for {minutes(row.seconds)}"
