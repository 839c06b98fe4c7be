"""A method and a study as the terminal shows them, at any width."""

from __future__ import annotations

import inspect
import re
import textwrap

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from search_spaces import HyperParameter, hyper_parameters
from study import overrides
from study.schedule import independence
from study.spec import SAMPLERS, Study
from trainables import discovery
from trainables.annotations import Annotation

_SEARCHED = (
    f"Any sampler ({', '.join(SAMPLERS[1:])}) searches the same configurations and gets the same rows "
    "whatever runs at once and whichever trial ends first; `python -m study show STUDY` says how."
)
_STARTS_A_LINE = re.compile(r"\s|\$\$|[*-] |[A-Z][a-z]+: ")
"""Indented lines, formulas, items of a list and "Source: ..." keep their place; other lines are joined."""


def study(definition: Study) -> list[Text]:
    """A study's arms, and every key of `--set` with its value; a line each, to be copied."""
    lines = [Text(definition.question)]
    for arm in definition.arms:
        lines += [Text(), Text(arm.name, style="bold"), Text(f"  method      {arm.method}")]
        lines.append(Text(f"  annotation  {annotation(arm.annotation)}"))
        lines += [Text(f"  fixed       {key} = {value}") for key, value in arm.settings.items()]
        lines += [Text(f"  protocol    {key} = {value}") for key, value in arm.protocol.items()]
        if arm.longer > 1:
            lines.append(Text(f"  trains      {arm.longer} x the iterations"))
        if arm.pretraining is not None:
            stage = arm.pretraining
            lines.append(Text(f"  starts from {stage.method}, {annotation(stage.annotation)}"))
        lines += [Text(f"  searched    {key} in {domain}") for key, domain in arm.search.items()]
    if any(arm.search for arm in definition.arms):
        told = textwrap.wrap(independence(definition.search), 76)
        lines += [Text(), Text("Search:", style="bold"), *(Text(f"  {part}") for part in told)]
    lines += [Text(), Text("Settings:", style="bold")]
    known = overrides.keys(definition).items()
    return lines + [Text(f"  --set {key}={overrides.text_of(value)}") for key, value in known]


def annotation(given: Annotation) -> str:
    """What an annotator is asked for: every setting that is not the usual one."""
    default = Annotation().to_dict()
    unusual = {k: v for k, v in given.to_dict().items() if v != default[k]}
    words = (f"{k} {', '.join(v) if isinstance(v, list) else v}" for k, v in unusual.items())
    return "; ".join(words) or "none"


def method(name: str) -> Group:
    """A method: its module's text, its needs, its hyper-parameters. Raises UserError for an unknown name."""
    cls = discovery.load(name)
    text = inspect.getdoc(inspect.getmodule(cls)) or ""
    needs = ", ".join(sorted(cls.needs)) or "nothing"
    return Group(
        *map(_line, reflowed(text)),
        Text(f"\nNeeds: {needs}. Source: {cls.paper}\n"),
        _table(hyper_parameters(cls)),
        Text(f"\n{_SEARCHED}"),
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
