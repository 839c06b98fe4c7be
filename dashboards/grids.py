"""Tables as data: cells with the numbers that they are sorted by, written as Markdown and as LaTeX. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_MARKDOWN = "\\|`*_<>#[]"
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}", "–": "--",
    "²": r"\textsuperscript{2}",
    # After the end of a row they would be read as its options.
    "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table: what is shown, and the number that it is sorted by."""

    text: str
    number: float | None = None
    """None: sorted as text, and set to the left. NaN: a number that does not exist, sorted last."""
    hint: str = ""
    """Shown on hover; a hint is no place for what must be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table: as many cells in every row as there are headers."""

    headers: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and so is set to the right."""
        return any(row[column].number is not None for row in self.rows)


def grid(rows: Sequence[dict[str, Cell | str]]) -> Grid:
    """A table of rows that all have the same headers, in the same order. Raises ValueError without rows."""
    if not rows:
        raise ValueError("a table needs at least one row.")
    cells = (tuple(cell if isinstance(cell, Cell) else Cell(cell) for cell in row.values()) for row in rows)
    return Grid(headers=tuple(rows[0]), rows=tuple(cells))


def to_markdown(table: Grid) -> str:
    """GitHub-flavoured; numbers to the right."""
    rules = ["---:" if table.numeric(column) else "---" for column in range(len(table.headers))]
    rows = [[markdown_text(cell.text) for cell in row] for row in table.rows]
    lines = [[markdown_text(header) for header in table.headers], rules, *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown_text(text: str) -> str:
    """Names are the user's: nothing in them may become a cell border, emphasis, link or tag."""
    return "".join(f"\\{c}" if c in _MARKDOWN else c for c in text).replace("\n", " ")


def to_latex(table: Grid) -> str:
    """A booktabs tabular; the document needs \\usepackage{booktabs} and, for Greek letters, LuaLaTeX."""
    columns = "".join("r" if table.numeric(column) else "l" for column in range(len(table.headers)))
    head = " & ".join(map(latex_text, table.headers))
    rows = (" & ".join(latex_text(cell.text) for cell in row) for row in table.rows)
    body = "".join(f"{row} \\\\\n" for row in rows)
    return (
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\\bottomrule\n"
        "\\end{tabular}\n"
    )


def latex_text(text: str) -> str:
    """A name that is only text to LaTeX."""
    return "".join(_LATEX.get(c, c) for c in text).replace("\n", " ")
