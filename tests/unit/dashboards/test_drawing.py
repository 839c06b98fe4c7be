"""A figure becomes an <svg> that follows the page: variables for colours, tooltips, ids of its own."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from dashboards import drawing
from dashboards.drawing import COLOURS, DASHES, MARKERS, escape, hover, plain, short, style, svg

HOSTILE = "<script>alert(1)</script> & \"'$x^$ \0\x1b"


def points(texts, *, at=None, title="a figure", label="points"):
    with style():
        figure = Figure(figsize=(3, 2))
        axes = figure.add_subplot()
        places = range(len(texts)) if at is None else at
        marks = axes.scatter(places, places, color=COLOURS[1], label=plain(label))
        hover(marks, texts)
        axes.set_title(plain(label))
        axes.legend()
        return svg(figure, title=title)


def titles(text):
    return [element.text for element in ElementTree.fromstring(text).iter("title")]


@pytest.mark.parametrize("texts", [["one"], ["first", "second", "third"]])
def test_each_point_has_its_tooltip_in_order(texts):
    drawn = points(texts)
    assert titles(drawn) == texts
    places = [float(u.get("x")) for u in ElementTree.fromstring(drawn).iter("use") if u.get("class") == "tip"]
    assert places == sorted(places)
    assert len(places) == len(texts)


def test_points_of_different_sizes_have_tooltips_too():
    with style():
        figure = Figure()
        marks = figure.add_subplot().scatter([1, 2], [1, 2], s=[10, 40], color=list(COLOURS[:2]))
        hover(marks, ["small", "large"])
        assert titles(svg(figure, title="")) == ["small", "large"]


def test_a_whole_artist_has_one_tooltip():
    with style():
        figure = Figure()
        hover(figure.add_subplot().plot([0, 1], [0, 1])[0], "the line")
        assert titles(svg(figure, title="")) == ["the line"]


def test_a_point_that_is_not_drawn_is_a_bug():
    with pytest.raises(ValueError, match="2 tooltips need as many points, but 1 were drawn"):
        points(["here", "nowhere"], at=[1.0, float("nan")])


def test_what_a_name_holds_is_text():
    drawn = points([HOSTILE], title=HOSTILE, label=HOSTILE)
    root = ElementTree.fromstring(drawn)
    assert "<script" not in drawn
    assert root.get("aria-label") == titles(drawn)[0] == "<script>alert(1)</script> & \"'$x^$ "
    shown = [t.text for t in root.iter("text") if "alert" in (t.text or "")]
    assert set(shown) == {"<script>alert(1)</script> & \"'$x^$ "}


def test_names_that_look_like_styles_stay_as_they_are():
    label = "font-family: x; #0072b2"
    assert label in points(["a"], label=label)


def test_colours_and_font_are_the_page_s():
    drawn = points(["a"])
    styles = " ".join(re.findall(r'style="([^"]*)"', drawn))
    assert "var(--series-1, #C8500A)" in styles
    assert "var(--ink, #222223)" in styles
    assert "font-family" not in styles
    assert set(re.findall(r"#[0-9a-fA-F]{6}", styles)) <= {*COLOURS, drawing.INK, drawing.MUTED, drawing.GRID}
    assert "<style" not in drawn  # it would be the whole page's


def test_ids_are_the_figure_s_own_and_all_of_them_are_used():
    one, other = points(["a"]), points(["b"])
    ids = [set(re.findall(r' id="([^"]+)"', drawn)) for drawn in (one, other)]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', one))
    assert ids[0] == used != set()
    assert not ids[0] & ids[1]
    assert points(["a"]) == one  # the same figure is the same text


def test_both_looks_define_every_variable():
    day, night = drawing.variables(dark=False), drawing.variables(dark=True)
    names = [re.findall(r"--[\w-]+", text) for text in (day, night)]
    assert names[0] == names[1]
    assert len(set(names[0])) == len(COLOURS) + 4
    assert len(COLOURS) == len(MARKERS) == len(DASHES)


def luminance(colour):
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_and_series_can_be_read_on_the_page(dark):
    """WCAG 2.2: 4.5:1 for text."""
    colours = dict(re.findall(r"(--[\w-]+): (#\w{6})", drawing.variables(dark=dark)))
    paper = luminance(colours.pop("--paper"))
    colours.pop("--grid")
    for name, colour in colours.items():
        low, high = sorted((luminance(colour), paper))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


def test_text_for_html_and_labels():
    assert escape(HOSTILE) == "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;&#x27;$x^$ "
    assert short("a" * 40, 10) == "a" * 9 + "…"
    assert short("as long as", 10) == "as long as"
