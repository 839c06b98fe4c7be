"""Figures as inline SVG that follow the page: light or dark, text as text, tooltips without a script.

A section draws inside `style()` with the colours below and hands the figure to `svg`, which puts the page's
CSS variables in the colours' places.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import re
from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

import matplotlib as mpl
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#C8500A", "#00815E", "#B5509B", "#8F6400", "#5B3FA8", "#A3243B", "#6E6E6E")
"""One for each series, at least 4.5:1 on white and apart for every kind of colour vision; never use colour
alone: MARKERS and DASHES have the same length."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":", "-", "--", "-.", ":")
INK, MUTED, GRID, PAPER = "#222223", "#5F6062", "#DCDDDF", "#FEFEFF"
"""Text and axes, secondary text, grid lines, the page behind."""

_DARK_COLOURS = ("#56B4E9", "#FF9457", "#2FC79A", "#F09AD0", "#E9B949", "#B8A4FF", "#FF8595", "#ABABAB")
_VARIABLES = {
    **{day: (f"--series-{n}", _DARK_COLOURS[n]) for n, day in enumerate(COLOURS)},
    INK: ("--ink", "#E6E6E8"),
    MUTED: ("--muted", "#A5A7AB"),
    GRID: ("--grid", "#3A3C41"),
    PAPER: ("--paper", "#17181B"),
}  # fmt: skip
_SETTINGS = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "dashboards",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
}
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"
_HOVER = "hover:"
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_FAMILY = re.compile(r"font-family: [^;]*;? ?")


def escape(text: object) -> str:
    """Text for HTML, in an element or a quoted attribute; what no page may hold is left out."""
    return html.escape(_NO_XML.sub("", str(text)))


def plain(text: str) -> str:
    """A name for matplotlib: a dollar sign in it is not the start of a formula."""
    return _NO_XML.sub("", text).replace("$", r"\$")


def short(text: str, most: int = 36) -> str:
    """A name as long as a label may be; the whole name is in its tooltip and in the tables."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The page's look for all artists that are made inside."""
    with mpl.rc_context(_SETTINGS):
        yield


def hover(artist: Artist, texts: str | Sequence[str]) -> None:
    """Gives an artist a tooltip, or each point of a scatter plot its own, in order.

    The points of a scatter plot must be finite and inside the figure: `svg` raises ValueError otherwise.
    """
    artist.set_gid(_HOVER + json.dumps(texts if isinstance(texts, str) else list(texts)))


def svg(figure: Figure, *, title: str) -> str:
    """The figure as an <svg> element for an HTML page; `title` is what a screen reader says.

    Raises ValueError when a scatter plot has not as many points as tooltips.
    """
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in (root, *root.findall(f"{{{_SVG}}}defs")):
        for child in (*parent.findall(f"{{{_SVG}}}metadata"), *parent.findall(f"{{{_SVG}}}style")):
            parent.remove(child)  # a <style> would be the whole page's
    _add_tooltips(root)
    _own_ids(root, title + buffer.getvalue().decode())
    _, _, width, _ = root.attrib["viewBox"].split()
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": _NO_XML.sub("", title),
        # From points to pixels; joins and caps are what matplotlib's own <style> says.
        "style": f"width: {4 / 3 * float(width):.0f}px; stroke-linejoin: round; stroke-linecap: butt",
    }
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", _variables(element.attrib["style"]))
    return _serialised(root)


def variables(*, dark: bool) -> str:
    """The CSS declarations of all colours."""
    return " ".join(f"{name}: {night if dark else day};" for day, (name, night) in _VARIABLES.items())


def _serialised(root: ElementTree.Element) -> str:
    for element in root.iter():  # HTML knows <svg>, and not its prefix
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if _LINK in element.attrib:
            element.attrib["href"] = element.attrib.pop(_LINK)
        element.tail = None if element.tail is not None and not element.tail.strip() else element.tail
        if element.tag not in ("text", "title", "style", "tspan") and not (element.text or "").strip():
            element.text = None
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=True)


def _variables(declarations: str) -> str:
    """Colours as variables of the page, and the page's font."""
    for colour, (name, _) in _VARIABLES.items():
        declarations = declarations.replace(colour.lower(), f"var({name}, {colour})")
    return _FAMILY.sub("", declarations)


def _add_tooltips(root: ElementTree.Element) -> None:
    for group in list(root.iter(f"{{{_SVG}}}g")):
        if not group.get("id", "").startswith(_HOVER):
            continue
        texts = json.loads(group.attrib.pop("id").removeprefix(_HOVER))
        marks = [group] if isinstance(texts, str) else list(_marks(group))
        texts = [texts] if isinstance(texts, str) else texts
        if len(marks) != len(texts):
            raise ValueError(f"{len(texts)} tooltips need as many points, but {len(marks)} were drawn.")
        for mark, text in zip(marks, texts, strict=True):
            tooltip = ElementTree.Element(f"{{{_SVG}}}title")
            tooltip.text = _NO_XML.sub("", text)
            mark.insert(0, tooltip)
            mark.set("class", "tip")


def _marks(element: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """What is drawn of a scatter plot, without the shapes that are only defined."""
    for child in element:
        if child.tag == f"{{{_SVG}}}g":
            yield from _marks(child)
        elif child.tag in (f"{{{_SVG}}}use", f"{{{_SVG}}}path"):
            yield child


def _own_ids(root: ElementTree.Element, content: str) -> None:
    """Ids that are used get a prefix of this figure's own, for a page holds many; the others go."""
    text = ElementTree.tostring(root, encoding="unicode")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", text))
    prefix = f"f{hashlib.blake2b(content.encode(), digest_size=4).hexdigest()}-"
    for element in root.iter():
        if element.get("id") in used:
            element.set("id", prefix + element.attrib["id"])
        else:
            element.attrib.pop("id", None)
        for name, value in element.attrib.items():
            if name == _LINK and value.startswith("#"):
                element.set(name, f"#{prefix}{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}"))
