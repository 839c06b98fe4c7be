"""The table of arms with intervals, missed structures, spread over runs and costs; also by structure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from dashboards import drawing, markup, tables
from dashboards.arm_tables import HOURS, arms_grid, shared_cost, structures_grid
from dashboards.source import Source
from dashboards.tables import ArmRow
from study.answer import estimate

ORDER = 200
TITLE = "Arms"


def html(source: Source) -> str:
    answer = source.answer
    made = arms_grid(answer, source.trials)
    parts = []
    rows = tables.arm_rows(answer)
    if any(row.cases for row in rows):
        title = f"{tables.metric_name(answer.metric)} of each arm with its 95 % interval"
        caption = f"{tables.quality_label(answer)}. Mean and 95 % interval over test cases."
        parts.append(markup.figure(_drawn(rows, tables.quality_label(answer), title), caption))
    parts.append(markup.grid(made, filterable=len(made.rows) > 8))
    parts += [markup.paragraph(text, "note") for text in _notes(source, made.headers)]
    by_structure = structures_grid(answer)
    if by_structure is not None:
        parts += ["<h3>By structure</h3>", markup.grid(by_structure, filterable=len(made.rows) > 8)]
    return "".join(parts)


def _notes(source: Source, headers: Sequence[str]) -> list[str]:
    training = "training: all trials of the arm, search included, with validation and test"
    if any(not trial.details.get("machine") for trial in source.trials):
        training += (
            f"; the ledger of an earlier release does not say on what, so it is in {HOURS} of one worker"
        )
    shared = shared_cost(source.trials)
    if shared is not None:
        training += f". The shared pre-trainings took {shared} more"
    notes = [
        "missed: share of the structures present in the truth of which the prediction has no pixel",
        "SD of runs: of the metric's mean over the replicates",
        "annotator: time for the training images, as the study's cost model has it",
        training,
    ]
    columns = {header.split(",")[0] for header in headers}
    return [". ".join(n[0].upper() + n[1:] for n in notes if n.split(":")[0] in columns) + "."]


def _drawn(rows: Sequence[ArmRow], quality: str, title: str) -> str:
    """One line an arm: interval and mean; an arm without a confirmed replicate keeps its line."""
    with drawing.style():
        figure = Figure(figsize=(7.6, 0.9 + 0.3 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for line, row in enumerate(rows):
            if math.isnan(row.mean):
                axes.text(0.01, line, "not confirmed", transform=axes.get_yaxis_transform(),
                          va="center", color=drawing.MUTED)  # fmt: skip
                continue
            if not math.isnan(row.low):
                axes.hlines(line, row.low, row.high, color=drawing.COLOURS[0], linewidth=2)
            point = axes.scatter([row.mean], [line], color=drawing.COLOURS[0], s=34, zorder=3)
            text = (
                f"{row.name}: {estimate(row.mean, row.low, row.high)}, n = {row.cases}, runs {row.replicates}"
            )
            drawing.hover(point, [text])
        axes.set_yticks(range(len(rows)), labels=[drawing.plain(drawing.short(row.name)) for row in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel(quality)
        axes.grid(visible=False, axis="y")
        return drawing.svg(figure, title=title)
