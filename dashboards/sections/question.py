"""The question and the answer in words, with intervals, and what the answer still lacks."""

from __future__ import annotations

from dashboards import markup
from dashboards.source import Source
from study.answer import summary_sentences

ORDER = 100
TITLE = "Answer"


def html(source: Source) -> str:
    return markup.items(summary_sentences(source.answer))
