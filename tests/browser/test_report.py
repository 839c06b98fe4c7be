"""The report in a browser: answer, sorting, filtering, no network, no script, light and dark, small."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import study
from study.arms import pixels_only
from tests.browser.chromium import Browser
from tests.browser.conftest import STUDY, write_report
from tests.finished import finish
from tests.unit.study.conftest import a_study

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

HOSTILE = "<img src=x onerror=window.hit=1>"
FILTERED = "#arms table.filterable"
LARGEST = 5_000_000
"""Bytes that the page may have."""

READABLE = 4.5
"""Contrast of small text to its background, by WCAG 2.1, level AA."""

_CONTRAST = """
const luminance = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = luminance(getComputedStyle(document.body).backgroundColor);
const texts = [...document.querySelectorAll("h1, h2, p, li, th, td, figcaption, svg text")]
  .filter((e) => e.textContent.trim());
const of = (e) => luminance(getComputedStyle(e)[e.namespaceURI.endsWith("svg") ? "fill" : "color"]);
const ratio = (ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
const worst = texts.map((e) => [ratio(of(e)), e.outerHTML.slice(0, 120)]).sort((a, b) => a[0] - b[0])[0];
return [paper, ...worst];
"""


@pytest.fixture
def page(window: Browser, report: Path) -> Browser:
    window.prefer("light")
    return opened(window, report)


def opened(window: Browser, report: Path) -> Browser:
    """The page as it is when it was opened just now, with what came before forgotten."""
    window.open("about:blank")
    window.requests()
    window.complaints()
    window.open(report.as_uri())
    return window


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with many arms, one of which is called like a script."""
    home = tmp_path_factory.mktemp("hostile")
    made = [dataclasses.replace(pixels_only(budget), name=f"{budget} clicks") for budget in range(1, 12)]
    arms = (*made, dataclasses.replace(pixels_only(12), name=HOSTILE))
    finish(home, a_study(arms=arms, trials=1))
    return write_report(home, "toy")


def column(browser: Browser, table: str, header: str) -> list[str]:
    """The text of a column's cells, as they stand below each other."""
    heads = [head.text for head in browser.all(f"{table} thead th")]
    number = next(n for n, head in enumerate(heads, 1) if head.startswith(header))
    return [cell.text for cell in browser.all(f"{table} tbody tr td:nth-child({number})")]


def test_the_answer_stands_there_in_words(page: Browser, home: Path) -> None:
    found, text = study.load(STUDY, home), page.text()
    assert found.question in text
    assert found.sentences
    for sentence in found.sentences:
        assert sentence in text
    for arm in found.answer()["arm"]:
        assert arm in column(page, "#arms table", "arm")


def test_arms_are_sorted_by_a_click_on_a_column(page: Browser, home: Path) -> None:
    better = list(study.load(STUDY, home).answer().sort_values("mean")["arm"])
    header = next(one for one in page.all("#arms table th button") if one.text.lower().startswith("dice"))
    header.click()
    assert column(page, "#arms table", "arm") == better
    header.click()
    assert column(page, "#arms table", "arm") == better[::-1]
    assert page.all("#arms table th[aria-sort=descending]")[0].text.lower().startswith("dice")


def shown_rows(browser: Browser) -> list[str]:
    script = "return [...document.querySelector(arguments[0]).tBodies[0].rows]"
    rows = browser.run(f"{script}.filter(r => r.getClientRects().length).map(r => r.textContent)", FILTERED)
    assert isinstance(rows, list)
    return rows


def test_rows_of_a_long_table_are_filtered_by_words(window: Browser, hostile: Path) -> None:
    opened(window, hostile)
    rows = shown_rows(window)
    assert len(rows) == 12
    field = window.one("#arms input.filter")
    field.send_keys("1 CLICKS")
    assert shown_rows(window) == [row for row in rows if row.startswith(("1 clicks", "11 clicks"))]
    field.send_keys(" nothing says this")
    assert shown_rows(window) == []


def test_a_name_like_a_script_is_only_text(window: Browser, hostile: Path) -> None:
    opened(window, hostile)
    assert HOSTILE in column(window, "#arms table", "arm")
    assert not window.run("return 'hit' in window")
    assert [one.get_attribute("src") for one in window.all("img[src=x]")] == []
    assert window.complaints() == []


def test_asks_the_network_for_nothing_and_complains_of_nothing(page: Browser, report: Path) -> None:
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    for part in page.all("summary"):
        part.click()
    assert {one for one in page.requests() if not one.startswith("data:")} == {report.as_uri()}
    assert page.complaints() == []


def test_reads_the_same_without_javascript(page: Browser, report: Path, tmp_path: Path) -> None:
    plain = Browser(tmp_path, javascript=False)
    try:
        plain.open(report.as_uri())
        assert plain.all("#arms table")
        assert not plain.all("input.filter, th button")
        assert plain.text().split() == page.text().split()
    finally:
        plain.close()


def test_is_readable_in_light_and_dark(page: Browser) -> None:
    papers = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        paper, contrast, worst = page.run(_CONTRAST)
        assert contrast >= READABLE, worst
        papers.append(paper)
    assert papers[0] > 0.8
    assert papers[1] < 0.1


@pytest.mark.parametrize("width", [1400, 390])
def test_is_no_wider_than_its_window(page: Browser, width: int) -> None:
    page.resize(width)
    try:
        assert page.run("return window.innerWidth") == width
        assert page.run("return document.scrollingElement.scrollWidth") <= width
    finally:
        page.resize(None)


def test_is_small(report: Path) -> None:
    assert 10_000 < report.stat().st_size < LARGEST
