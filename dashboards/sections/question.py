"""The question and the answer in words, with intervals, and what the answer still lacks."""

from __future__ import annotations

from dashboards import markup, summary
from dashboards.source import Source
from study.answer import summary_sentences

ORDER = 100
TITLE = "Answer"

_MOST_OPEN = 20
"""Sentences about pairs that stand open; more of them open with a click, and are printed."""


def html(source: Source) -> str:
    answer = source.answer
    parts = [markup.paragraph(summary.status(answer), "" if answer.complete else "warning")]
    if answer.problems and not answer.all_failed:
        parts.append(markup.items(answer.problems))
    headline = summary.headline(answer)
    if headline:
        parts.append(markup.paragraph(headline, "headline"))
    said = summary_sentences(answer) if any(arm.cases for arm in answer.arms) else ()
    sentences, caveats = said[: len(answer.pairs)], said[len(answer.pairs) :]
    listed = markup.items(sentences)
    if len(sentences) > _MOST_OPEN:
        listed = markup.details(f"All {len(sentences)} sentences on pairs of arms", listed)
    parts += [markup.paragraph(caveat, "warning") for caveat in caveats]
    return "".join([*parts, listed, markup.paragraph(summary.measured(source.spec, answer), "note")])
