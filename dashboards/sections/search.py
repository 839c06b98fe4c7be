"""What the searches tried and found: history, parallel coordinates, slices, contours, importances."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashboards import drawing, importance_tables, markup, search_figures, search_tables
from dashboards.importance_tables import FEWEST_TRIALS, MOST_REPEATED, PARTS, Importance
from dashboards.markup import Cell
from dashboards.search_tables import ArmSearch
from dashboards.source import Source
from dashboards.tables import quality_label
from search_spaces import UserError

ORDER = 700
TITLE = "Search"

MOST_ARMS = 12
"""Arms whose drawings are shown; all are in the table."""
MOST_MARKS = 5000
"""Points and lines of all drawings of this section together."""
MOST_IMPORTANCE_TRIALS = 3000
"""Of all arms together: PED-ANOVA needs no more."""
FEW_ARMS, MOST_CONTOURS = 4, 3
"""Pairs of parameters of an arm where there are few arms; where there are more, one."""
_ONLY = (
    "Only trials at full length are drawn and compared: one that was stopped early has the value of a "
    "shorter training. All values are of the validation split; the answer's are of the test split."
)


def html(source: Source) -> str:
    found = search_tables.searches(source.spec, source.trials)
    fixed = search_tables.unsearched(source.spec)
    if not found:
        return ""
    quality = f"validation {quality_label(source.answer)}"
    drawn = found[:MOST_ARMS]
    parts = [markup.paragraph(_ONLY)]
    if fixed:
        parts.append(markup.paragraph(f"Nothing was searched, so nothing is shown, of {', '.join(fixed)}."))
    parts.append(_overview(found))
    if len(drawn) < len(found):
        sentence = f"Drawn below are the first {len(drawn)} of {len(found)} searched arms; the table has all."
        parts.append(markup.paragraph(sentence, "note"))
    parts += [_arm(search, quality, len(drawn)) for search in drawn]
    return "".join(parts)


def _overview(found: Sequence[ArmSearch]) -> str:
    """One line per arm: what was counted, and the selected configuration."""
    body: list[list[Cell | str]] = []
    for search in found:
        best = search.best
        counts = (len(search.points), search.stopped, search.broken, search.repeated)
        chosen = "–" if best is None else f"trial {best.number}: {search_figures.settings(best)}"
        value = math.nan if best is None else best.value
        body.append(
            [
                search.arm,
                chosen,
                Cell("–" if best is None else f"{value:.4g}", value),
                *(Cell(str(count), count) for count in counts),
            ]
        )
    counted = ["full length", "stopped early", "diverged or failed", "repeated"]
    headers = ["arm", "best configuration", "best", *counted]
    return markup.table(
        headers,
        body,
        caption="Trials of each arm's search. A repeated configuration was not trained again.",
    )


def _arm(search: ArmSearch, quality: str, arms: int) -> str:
    heading = f"<h3>{drawing.escape(search.arm)}</h3>"
    if len(search.points) < 2:
        counted = "one trial" if search.points else "no trial"
        return heading + markup.paragraph(f"There is {counted} at full length: nothing to compare.", "note")
    shares = importance_tables.importances(search, most=MOST_IMPORTANCE_TRIALS // arms)
    contours, why_not = _contours(search, shares, MOST_CONTOURS if arms <= FEW_ARMS else 1)
    panels = 2 + len(search.space) + len(contours)
    each = max(20, MOST_MARKS // arms // panels)
    parts = [
        heading,
        markup.figure(search_figures.history(search, quality, each), _history_caption(search, each)),
        markup.figure(
            search_figures.slices(search, quality, each), "Slices: the metric over each parameter."
        ),
    ]
    if len(search.space) > 1:
        caption = "Parallel coordinates: one line per trial, the better the stronger; the best one thick."
        parts.append(markup.figure(search_figures.parallel(search, quality, each), caption))
    if contours:
        caption = "Contours: the metric, linear between the trials (dots) and left empty beyond them."
        parts.append(markup.figure(search_figures.contours(search, contours, quality, each), caption))
    if shares:
        parts.append(
            markup.figure(search_figures.importances(search, shares), _importance_caption(search, shares))
        )
    parts += [
        markup.paragraph(sentence, "note") for sentence in (why_not, _why_no_importances(search)) if sentence
    ]
    return "".join(parts)


def _contours(
    search: ArmSearch, shares: Sequence[Importance], most: int
) -> tuple[list[search_tables.Contour], str]:
    """Of the most important parameters that have an order, and why there is none."""
    names = search_tables.numeric(search.space)
    known = [row.parameter for row in shares if row.parameter in names] or names
    pairs = [(x, y) for place, x in enumerate(known) for y in known[place + 1 :]][:most]
    drawn, reason = [], ""
    for x, y in pairs:
        try:
            drawn.append(search_tables.contour(search, x, y))
        except UserError as error:
            reason = str(error)
    return drawn, "" if drawn else reason


def _history_caption(search: ArmSearch, most: int) -> str:
    count = len(search.points)
    left_out = [
        f"{number} {what}"
        for number, what in (
            (search.stopped, "stopped early"),
            (search.broken, "diverged or failed"),
            (search.repeated, "repetitions"),
        )
        if number
    ]
    shown = f"{min(most, count)} of {count}" if most < count else str(count)
    sentence = f"History: {shown} trials at full length, and the best value so far (line)."
    return sentence + (f" Left out: {', '.join(left_out)}." if left_out else "")


def _importance_caption(search: ArmSearch, shares: Sequence[Importance]) -> str:
    text = (
        "Importances: what each parameter contributed to getting among the best fifth of "
        f"{len(search.points)} trials (PED-ANOVA, Optuna)."
    )
    if shares[0].low == shares[0].low:
        return f"{text} Whiskers: the range when each {PARTS}th of the trials is left out once."
    return f"{text} Estimated from an even choice of more than {MOST_REPEATED} trials."


def _why_no_importances(search: ArmSearch) -> str:
    if len(search.space) < 2:
        return "One parameter was searched, so there is no importance to share."
    if not importance_tables.can_be_told(search):
        return (
            f"No importances: they need {FEWEST_TRIALS} trials at full length that differ, and there are "
            f"{len(search.points)}; fewer would show chance."
        )
    return ""
