"""One self-contained page of a study: its sections, in order, in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import importlib
import os
import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import jinja2
from markupsafe import Markup

from dashboards import drawing, sections
from dashboards.source import Source

_PAGE = Path(__file__).with_name("page")


class Section(Protocol):
    """What a file of `dashboards/sections` defines."""

    ORDER: int
    TITLE: str

    def html(self, source: Source) -> str: ...


@dataclass(frozen=True, slots=True)
class Part:
    """A section as the template shows it."""

    name: str
    title: str
    body: Markup


def section_names() -> list[str]:
    """All sections, alphabetically. Does not import them."""
    return sorted(module.name for module in pkgutil.iter_modules(sections.__path__))


def found() -> dict[str, Section]:
    """All sections by name, in their order on the page."""
    modules = {name: importlib.import_module(f"dashboards.sections.{name}") for name in section_names()}
    known = cast(dict[str, Section], modules)
    return dict(sorted(known.items(), key=lambda item: item[1].ORDER))


def page(source: Source) -> str:
    """The whole page as text."""
    parts = [
        Part(name, section.TITLE, Markup(body))
        for name, section in found().items()
        if (body := section.html(source))
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_PAGE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    script = (_PAGE / "script.js").read_text()
    digest = hashlib.sha256(script.encode()).digest()
    return environment.get_template("page.html").render(
        spec=source.spec,
        answer=source.answer,
        parts=parts,
        day=Markup(drawing.variables(dark=False)),
        night=Markup(drawing.variables(dark=True)),
        style=Markup((_PAGE / "style.css").read_text()),
        script=Markup(script),
        script_hash=Markup(base64.b64encode(digest).decode()),  # no other script may run on the page
    )


def write(source: Source, path: Path) -> None:
    """Writes the page, atomically. Raises OSError when the folder cannot be written to."""
    replace(path, page(source))


def replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
