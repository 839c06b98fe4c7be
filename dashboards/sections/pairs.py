"""The compared pairs with their verdicts, and the critical-difference diagram of the arms' ranks."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dashboards import drawing, markup
from dashboards.pair_tables import RankRow, all_compared, not_separated, pairs_grid, rank_rows, spread
from dashboards.source import Source
from study.conclusion import case_scores
from study.stats import TOO_FEW_CASES

ORDER = 400
TITLE = "Pairs"


def html(source: Source) -> str:
    answer = source.answer
    made = pairs_grid(answer)
    if made is None:
        return markup.paragraph("The study has one arm, so there is no pair to compare.", "note")
    scores = case_scores(answer.metric, [arm.name for arm in answer.arms], source.trials, source.cases)
    ranked = rank_rows(scores, answer.metric)
    if not any(pair.cases for pair in answer.pairs):
        return markup.paragraph(
            "No two arms have scored the same test case yet: nothing can be compared.", "note"
        )
    return _ranks(source, ranked) + markup.grid(made, filterable=len(made.rows) > 8) + _note()


def _ranks(source: Source, ranked: Sequence[RankRow]) -> str:
    pairs = source.answer.pairs
    if len(ranked) < 3:
        return ""  # of two arms the ranks say nothing that the table does not
    groups = not_separated(pairs, ranked)
    caption = (
        f"Critical-difference diagram: mean rank over {ranked[0].cases} test cases, 1 is best. A bar joins "
        "arms of which every two were compared and neither came out better in the verdicts below"
    )
    if not all_compared(pairs, ranked):
        caption += "; the study does not compare every two arms, and where it does not, no bar means nothing"
    if all(pair.verdict == TOO_FEW_CASES for pair in pairs):
        caption += "; there are too few cases for any verdict"
    return markup.figure(_drawn(ranked, groups), f"{caption}.")


def _note() -> str:
    return markup.paragraph(
        "Effect: matched-pairs rank-biserial correlation, from -1 to 1. A verdict needs an interval without "
        "zero, a corrected p below 0.05, and ranks that point the same way.",
        "note",
    )


def _drawn(ranked: Sequence[RankRow], groups: Sequence[Sequence[str]]) -> str:
    """Ranks on a line above; the better half is named to the left, the worse half to the right."""
    rank = {row.arm: row.rank for row in ranked}
    half = (len(ranked) + 1) // 2
    top = 0.16 * len(groups) + 0.3  # inches below the line that the bars take
    lines = top + 0.25 * half
    with drawing.style():
        figure = Figure(figsize=(9.2, 0.75 + lines))
        low, high = 1.0, float(len(ranked))
        axes = figure.add_axes((0.35, 0.02, 0.3, (lines + 0.02) / (0.75 + lines)))
        axes.set_xlim(low, high)
        axes.set_ylim(lines, 0)
        _axis(axes)
        for number, group in enumerate(groups):
            ends = [rank[group[0]], rank[group[-1]]]
            margin = 0.012 * (high - low)
            line = axes.plot(
                [ends[0] - margin, ends[1] + margin], [0.2 + 0.16 * number] * 2,
                color=drawing.COLOURS[0], linewidth=3.5, solid_capstyle="round", clip_on=False,
            )[0]  # fmt: skip
            drawing.hover(line, f"not separated: {', '.join(group)}")
        for side, rows in ((0, ranked[:half]), (1, list(reversed(ranked[half:])))):
            heights = spread([top + 0.25 * n for n in range(len(rows))], 0.25, top, lines)
            for row, height in zip(rows, heights, strict=True):
                _named(axes, row, height, side)
        return drawing.svg(figure, title="Critical-difference diagram: mean ranks of the arms")


def _axis(axes: Axes) -> None:
    axes.xaxis.tick_top()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.yaxis.set_visible(False)
    axes.grid(visible=False)
    axes.set_xlabel("mean rank")
    axes.xaxis.set_label_position("top")


def _named(axes: Axes, row: RankRow, height: float, side: int) -> None:
    """A line from the rank down to the arm's name at the left (0) or right (1)."""
    edge = axes.get_xlim()[side]
    axes.plot(
        [row.rank, row.rank, edge], [0, height, height], color=drawing.MUTED, linewidth=0.9, clip_on=False
    )
    label = drawing.plain(f"{drawing.short(row.arm)}  {row.rank:.2f}" if side == 0
                          else f"{row.rank:.2f}  {drawing.short(row.arm)}")  # fmt: skip
    text = axes.annotate(
        label, (edge, height), xytext=(6 * side - 3 if side else -6, 0), textcoords="offset points",
        ha="left" if side else "right", va="center",
    )  # fmt: skip
    drawing.hover(text, f"{row.arm}: mean rank {row.rank:.3f} over {row.cases} cases")
