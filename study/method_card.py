"""A method as the terminal shows it: its module's text, what it needs, its hyper-parameters with sources."""

from __future__ import annotations

import inspect
import re

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search_spaces import HyperParameter, hyper_parameters
from trainables import discovery

_STARTS_A_LINE = re.compile(r"\s|\$\$|[*-] |[A-Z][a-z]+: ")
"""Indented lines, formulas, items of a list and "Source: ..." keep their place; other lines are joined."""


def render(name: str) -> Group:
    """The card of a method, for any width. Raises UserError for an unknown name."""
    cls = discovery.load(name)
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    needs = ", ".join(sorted(cls.needs)) or "nothing"
    return Group(
        *map(_line, reflowed(text)),
        Text(f"\nNeeds: {needs}. Source: {cls.paper}\n"),
        _table(hyper_parameters(cls)),
    )


def _line(text: str) -> RenderableType:
    """What is indented, and the items of a list, stay indented where the terminal breaks them."""
    indent = 2 if text.startswith(("* ", "- ")) else len(text) - len(text.lstrip())
    return Padding(Text(text.strip()), (0, 0, 0, indent), expand=False) if indent else Text(text)


def reflowed(text: str) -> list[str]:
    """One line for each paragraph, item or formula: the terminal breaks them where it must."""
    out: list[str] = []
    in_formula = False
    for line in text.splitlines():
        joins = out and out[-1] and line and not _STARTS_A_LINE.match(line) and not out[-1].endswith("$$")
        if joins or in_formula:
            out[-1] += f" {line}"
        else:
            out.append(line)
        in_formula ^= line.count("$$") % 2 == 1
    return out


def _table(parameters: list[HyperParameter]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("hyper-parameter", no_wrap=True)
    for header in ("default", "range (* searched)", "unit", "source"):
        table.add_column(header)
    for p in parameters:
        allowed = f"{p.allowed or ''}{' *' if p.searched else ''}"
        table.add_row(*map(Text, (p.name, str(p.default), allowed, p.unit, p.source)))
    return table
