"""The answer of a study as people and programs read it: JSON, Markdown, a terminal table, sentences.

`build` and the values it returns live in `study.conclusion`; this is the face that others import.
"""

from __future__ import annotations

import json
import math
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from study.conclusion import Answer, ArmAnswer, PairAnswer, build
from study.stats import FEWEST_CASES, NOT_SEPARATED, TOO_FEW_CASES, Interval

__all__ = [
    "Answer", "ArmAnswer", "PairAnswer", "build",
    "estimate", "summary_sentences", "to_json", "to_markdown", "to_table",
]  # fmt: skip

ONCE = (
    "Every arm was trained once, so these verdicts are about these trainings, not about the methods; "
    "--replicates 3 gives each three seeds."
)

_ONLY_MARKDOWN = ("SD of runs", "HD95", "area error", "a step")  # a terminal is 80 columns wide


def to_json(answer: Answer) -> str:
    """The stable machine form, strict JSON: a value that does not exist is null."""
    arm_keys = ("name", "mean", "low", "high", "replicates", "cases", "missed_rate")
    pair_keys = ("a", "b", "difference", "low", "high", "p", "verdict")
    plain = {
        "study": answer.study,
        "metric": answer.metric,
        "arms": [{key: _or_null(getattr(arm, key)) for key in arm_keys} for arm in answer.arms],
        "pairs": [{key: _or_null(getattr(pair, key)) for key in pair_keys} for pair in answer.pairs],
    }
    return json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False)


def _or_null(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary_sentences(answer: Answer) -> tuple[str, ...]:
    """One sentence per pair, the better arm first, with the size of its advantage in the metric's unit.

    One more where every arm was trained once: cases say nothing about the luck of a seed.
    """
    sentences = tuple(_sentence(pair, answer) for pair in answer.pairs)
    once = bool(sentences) and all(arm.planned == 1 for arm in answer.arms)
    return (*sentences, ONCE) if once else sentences


def _sentence(pair: PairAnswer, answer: Answer) -> str:
    unit = _unit(answer)
    difference = f"difference {estimate(pair.difference, pair.low, pair.high)}{unit}"
    if pair.verdict == TOO_FEW_CASES:
        return (
            f"{pair.a} and {pair.b} share too few cases for a verdict ({pair.cases}, at least {FEWEST_CASES} "
            f"are needed): {difference}."
        )
    if pair.verdict == NOT_SEPARATED:
        return f"{pair.a} and {pair.b} are not separated: {difference}, {_p(pair.p)} (Holm)."
    better, worse = (pair.a, pair.b) if pair.verdict == f"{pair.a} better than {pair.b}" else (pair.b, pair.a)
    low, high = sorted((abs(pair.low), abs(pair.high)))
    advantage = f"{estimate(abs(pair.difference), low, high)}{unit}"
    return f"{better} is better than {worse} by {advantage}, {_p(pair.p)} (Holm)."


def _unit(answer: Answer) -> str:
    """With a space before it; Dice, IoU and the area error are fractions and have none."""
    distance = next((arm.hd95_unit for arm in answer.arms if arm.hd95_unit), "")
    return {"hd95": f" {distance}".rstrip(), "size_error": " px²"}.get(answer.metric, "")


def to_markdown(answer: Answer) -> str:
    """Table of the arms, verdict sentences, and what is missing, as GitHub-flavoured Markdown.

    Where every trial failed, the sentence that says why.
    """
    lines = [f"# {_plain_markdown(answer.study)}", ""]
    if answer.all_failed:
        return "\n".join([*lines, _plain_markdown(answer.all_failed)]) + "\n"
    lines += _markdown_table([_cells(arm, answer.metric) for arm in answer.arms])
    by_structure = [_structure_cells(arm, answer.metric) for arm in answer.arms if len(arm.structures) > 1]
    if by_structure:
        lines += ["", *_markdown_table(by_structure)]
    if answer.problems:
        lines += ["", "**Provisional:**", *(f"- {_plain_markdown(problem)}" for problem in answer.problems)]
    lines += ["", *(f"- {_plain_markdown(sentence)}" for sentence in summary_sentences(answer))]
    return "\n".join(lines) + "\n"


def _markdown_table(cells: list[dict[str, str]]) -> list[str]:
    rows = [list(cells[0]), ["---"] * len(cells[0]), *(list(row.values()) for row in cells)]
    return ["| " + " | ".join(row) + " |" for row in (map(_plain_markdown, row) for row in rows)]


def _structure_cells(arm: ArmAnswer, metric: str) -> dict[str, str]:
    """What the table of structures says about an arm, by header."""
    cells = {"arm": arm.name}
    for structure in arm.structures:
        cells[f"{structure.name}, {metric}"] = _watched_cell(structure.score)
    if metric != "hd95":
        for structure in arm.structures:
            cells[f"{structure.name}, HD95"] = _watched_cell(structure.hd95)
    return cells


def _plain_markdown(text: str) -> str:
    """Names are the user's: nothing in them may become a cell border, emphasis, link or tag."""
    return "".join(f"\\{c}" if c in "\\|`*_<>#[]" else c for c in text) if text != "---" else text


def to_table(answer: Answer) -> Group:
    """The same for a terminal. Names become `Text`, so no bracket in them is read as markup."""
    if answer.all_failed:
        return Group(Text(answer.all_failed, style="yellow"))
    table = Table(title=Text(answer.study), title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    rows = [_cells(arm, answer.metric) for arm in answer.arms]
    headers = [header for header in rows[0] if header not in _ONLY_MARKDOWN]
    for header in headers:
        first = header == "arm"
        table.add_column(
            Text(header), justify="left" if first else "right", no_wrap=not first, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(row[header]) for header in headers))
    problems = [Text(f"Provisional. {problem}", style="yellow") for problem in answer.problems]
    return Group(table, *problems, *map(Text, summary_sentences(answer)))


def _cells(arm: ArmAnswer, metric: str) -> dict[str, str]:
    """What a table says about an arm, by header."""
    return {
        "arm": arm.name,
        f"{metric} [95 %]": estimate(arm.mean, arm.low, arm.high),
        "runs": f"{arm.replicates}/{arm.planned}",
        "cases": str(arm.cases),
        "missed": "–" if math.isnan(arm.missed_rate) else f"{100 * arm.missed_rate:.1f} %",
        "SD of runs": "–" if math.isnan(arm.seed_sd) else f"{arm.seed_sd:.2g}",
        "HD95": "–" if math.isnan(arm.hd95) else f"{arm.hd95:.1f} {arm.hd95_unit}",
        "area error": "–" if math.isnan(arm.area_error) else f"{arm.area_error:.2g}",
        **{_watched_header(name): _watched_cell(watched) for name, watched in arm.watched.items()},
        "annotation": _duration(arm.annotation_seconds),
        "training": _duration(arm.seconds),
        "a step": "–" if math.isnan(arm.step_seconds) else f"{1000 * arm.step_seconds:.0f} ms",
    }


def _watched_header(name: str) -> str:
    return name.removeprefix("loss_").replace("_", " ")


def _watched_cell(watched: Interval) -> str:
    """Figures of the loss may be of so few runs that they have no interval, and of no arm but some."""
    if math.isnan(watched.mean):
        return "–"
    return estimate(watched.mean, watched.low, watched.high)


def estimate(mean: float, low: float, high: float) -> str:
    """Mean and bounds with two significant digits of the interval's width: "0.21 [0.15, 0.27]"."""
    if math.isnan(mean):
        return "–"
    if math.isnan(low):
        return f"{mean:.3g}"
    digits = min(max(1 - math.floor(math.log10(high - low)), 0), 4) if high > low else 3
    if low > 0 or high < 0:  # a bound near zero is not to be printed as zero
        digits = max(digits, min(math.ceil(-math.log10(min(abs(low), abs(high)))), 6))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _p(p: float) -> str:
    return "p < 0.0001" if p < 0.0001 else f"p = {p:.2g}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
