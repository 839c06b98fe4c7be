"""Safe HTML that the sections share: tables that sort and filter, figures with a caption, notes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dashboards.drawing import escape
from dashboards.grids import Cell, Grid

__all__ = ["Cell", "details", "figure", "grid", "items", "paragraph", "table"]


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph; `kind` is a class of the stylesheet: "note", "warning"."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def items(texts: Sequence[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def figure(svg: str, caption: str) -> str:
    """A drawing of `drawing.svg` with the sentence below it."""
    return f'<figure><div class="scroll">{svg}</div><figcaption>{escape(caption)}</figcaption></figure>'


def details(summary: str, body: str) -> str:
    """Safe HTML behind one line that opens; printed open."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[Cell | str]],
    *,
    caption: str = "",
    sortable: bool = True,
    filterable: bool = False,
) -> str:
    """A table; a click on a header sorts it, a word in the field above it filters (both need the script)."""
    kinds = [kind for kind, on in (("sortable", sortable), ("filterable", filterable)) if on]
    head = "".join(
        f'<th scope="col"{_numeric(rows, column)}>{escape(header)}</th>'
        for column, header in enumerate(headers)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table class="{" ".join(kinds)}">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def grid(made: Grid, *, caption: str = "", sortable: bool = True, filterable: bool = False) -> str:
    """A `Grid` as a table."""
    return table(made.headers, made.rows, caption=caption, sortable=sortable, filterable=filterable)


def _numeric(rows: Sequence[Sequence[Cell | str]], column: int) -> str:
    cells = (row[column] for row in rows)
    numbers = any(isinstance(cell, Cell) and cell.number is not None for cell in cells)
    return ' class="number"' if numbers else ""


def _cell(cell: Cell | str) -> str:
    cell = Cell(cell) if isinstance(cell, str) else cell
    hint = f' title="{escape(cell.hint)}"' if cell.hint else ""
    if cell.number is None:
        return f"<td{hint}>{escape(cell.text)}</td>"
    key = "" if math.isnan(cell.number) else f"{cell.number:.9g}"
    return f'<td class="number" data-sort="{key}"{hint}>{escape(cell.text)}</td>'
