"""Each test case as two arms scored it: one point a case, for the pairs that the study compares."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from dashboards import drawing, markup, tables
from dashboards.pair_tables import PairedCase, case_rows, thinned
from dashboards.source import Source
from study.conclusion import case_scores

ORDER = 500
TITLE = "Case by case"

_MOST_PAIRS = 30
_MOST_POINTS = 5_000
"""On all panels together; a point with its name is about 150 bytes of the page."""


def html(source: Source) -> str:
    answer = source.answer
    scores = case_scores(answer.metric, [arm.name for arm in answer.arms], source.trials, source.cases)
    panels = [(pair, rows) for pair in answer.pairs if (rows := case_rows(scores, pair.a, pair.b))]
    if not panels:
        return ""
    shown = panels[:_MOST_PAIRS]
    most = _MOST_POINTS // len(shown)
    drawn = "".join(_drawn(pair.a, pair.b, thinned(rows, most), len(rows)) for pair, rows in shown)
    notes = [
        f"{tables.quality_label(answer)}. A point is a test case, averaged over its structures and over the "
        "replicates; on the line both arms scored the same. Point at one to see the name of its case."
    ]
    if any(len(rows) > most for _, rows in shown):
        notes.append(f"Of each pair {most} cases are drawn, evenly from the worst to the best.")
    if len(panels) > len(shown):
        notes.append(f"{len(panels) - len(shown)} more pairs are in the table above and not drawn.")
    return markup.paragraph(" ".join(notes), "note") + f'<div class="panels">{drawn}</div>'


def _drawn(a: str, b: str, rows: Sequence[PairedCase], cases: int) -> str:
    colour = drawing.COLOURS[0]
    with drawing.style():
        figure = Figure(figsize=(2.9, 2.9))
        axes = figure.add_axes((0.245, 0.165, 0.735, 0.735))
        values = [value for row in rows for value in (row.a, row.b)]
        low, high = min(values), max(values)
        margin = 0.06 * (high - low) or 0.05
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(low - margin, high + margin)
        axes.axline((low, low), slope=1, color=drawing.MUTED, linewidth=1)
        xs, ys = [row.a for row in rows], [row.b for row in rows]
        marks = axes.scatter(xs, ys, s=16, color=colour, alpha=0.6, linewidths=0)
        drawing.hover(marks, [f"{row.case}: {row.a:.3g} and {row.b:.3g}" for row in rows])
        axes.set_xlabel(drawing.plain(drawing.short(a, 34)))
        axes.set_ylabel(drawing.plain(drawing.short(b, 34)))
        return drawing.svg(figure, title=f"{b} against {a} in {cases} cases")
