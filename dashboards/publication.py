"""What `study report` leaves in a folder: the page, and its tables as Markdown and LaTeX for a paper."""

from __future__ import annotations

from pathlib import Path

from dashboards import report, reproduction, summary
from dashboards.arm_tables import arms_grid, structures_grid
from dashboards.fates_table import failures_grid, tally
from dashboards.grids import Grid, markdown_text, to_latex, to_markdown
from dashboards.pair_tables import pairs_grid
from dashboards.source import Source
from search_spaces import UserError
from study.answer import summary_sentences

PAGE = "report.html"


def publish(source: Source, folder: Path) -> Path:
    """Writes report.html, report.md, arms.tex and pairs.tex, each atomically; the path of the page.

    A study without a pair has no pairs.tex. Raises UserError when the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _texts(source).items():
            report.replace(folder / name, text)
        report.write(source, folder / PAGE)
    except OSError as error:
        raise UserError(
            f"The report must be written to {folder}, but: {error.strerror}; name another with --output."
        ) from error
    return folder / PAGE


def _texts(source: Source) -> dict[str, str]:
    pairs = pairs_grid(source.answer)
    texts = {"report.md": markdown(source), "arms.tex": to_latex(arms_grid(source.answer, source.trials))}
    return texts if pairs is None else {**texts, "pairs.tex": to_latex(pairs)}


def markdown(source: Source) -> str:
    """The report without its drawings."""
    answer, spec = source.answer, source.spec
    said = summary_sentences(answer) if any(arm.cases for arm in answer.arms) else ()
    blocks = [
        f"# {markdown_text(spec.name)}\n",
        f"{markdown_text(spec.question)}\n",
        f"{markdown_text(summary.status(answer))}\n",
        "".join(f"- {markdown_text(problem)}\n" for problem in answer.problems),
        f"{markdown_text(summary.headline(answer))}\n",
        "".join(f"- {markdown_text(sentence)}\n" for sentence in said),
        f"{markdown_text(summary.measured(spec, answer))}\n",
        *_table("Arms", arms_grid(answer, source.trials)),
        *_table("By structure", structures_grid(answer)),
        *_table("Pairs", pairs_grid(answer)),
        f"## Failures\n\n{markdown_text(tally(source.trials))}\n",
        *_table("", failures_grid(source.trials)),
        *_table("How to reproduce", reproduction.facts(spec, source.trials)),
    ]
    command = reproduction.command(spec)
    if command is not None:
        blocks.append(f"    {command}\n")  # indented: a fence could be closed by what a name holds
    return "\n".join(block for block in blocks if block.strip())


def _table(title: str, table: Grid | None) -> list[str]:
    if table is None:
        return []
    return [f"## {title}\n" if title else "", to_markdown(table)]
