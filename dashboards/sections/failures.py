"""Trials that ended without a result, and why, by class of failure."""

from __future__ import annotations

from dashboards import markup
from dashboards.fates_table import failures_grid, retried, tally
from dashboards.source import Source

ORDER = 900
TITLE = "Failures"


def html(source: Source) -> str:
    made = failures_grid(source.trials)
    parts = [markup.paragraph(tally(source.trials))]
    disturbed = retried(source.trials)
    if disturbed:
        parts.append(markup.paragraph(disturbed, "note"))
    if made is not None:
        parts.append(markup.grid(made, filterable=len(made.rows) > 8))
    elif source.trials:
        parts.append(markup.paragraph("No trial failed or diverged.", "note"))
    return "".join(parts)
