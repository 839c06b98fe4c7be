"""The report of a study in a browser: answer, sorting, filtering, no network, no script, light and dark, small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import study
from tests.browser.chromium import Browser
from tests.browser.conftest import STUDY, Open

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

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
const texts = [...document.querySelectorAll("h1, h2, p, li, th, td, figcaption, svg text")].filter((e) => e.textContent.trim());
const of = (e) => luminance(e.namespaceURI.endsWith("svg") ? getComputedStyle(e).fill : getComputedStyle(e).color);
const ratio = (ink) => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
const worst = texts.map((e) => [ratio(of(e)), e.outerHTML.slice(0, 120)]).sort((a, b) => a[0] - b[0])[0];
return [paper, ...worst];
"""


@pytest.fixture
def page(browse: Open, report: Path) -> Browser:
    browser = browse()
    browser.open(report.as_uri())
    return browser


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


def test_rows_are_filtered_by_words(page: Browser) -> None:
    for part in page.all("details"):
        page.run("arguments[0].open = true", part)
    field = page.one("input.filter")
    rows = page.run(
        "return [...document.querySelectorAll('table.filterable')[0].tBodies[0].rows].map(r => r.textContent)"
    )
    word = re.findall(r"[a-z]{4,}", rows[-1].lower())[0]
    field.send_keys(word)
    shown = page.run(
        "return [...document.querySelectorAll('table.filterable')[0].tBodies[0].rows]"
        ".filter(r => r.getClientRects().length).map(r => r.textContent)"
    )
    assert shown == [row for row in rows if word in row.lower()]
    field.send_keys(" nothing says this")
    assert not [row for row in page.all("table.filterable tbody tr")[: len(rows)] if row.is_displayed()]


def test_asks_the_network_for_nothing_and_complains_of_nothing(page: Browser, report: Path) -> None:
    page.run("window.scrollTo(0, document.body.scrollHeight)")
    for part in page.all("summary"):
        part.click()
    assert {one for one in page.requests() if not one.startswith("data:")} == {report.as_uri()}
    assert page.complaints() == []


def test_reads_the_same_without_javascript(page: Browser, browse: Open, report: Path) -> None:
    plain = browse(javascript=False)
    plain.open(report.as_uri())
    assert plain.all("#arms table")
    assert not plain.all("input.filter, th button")
    words = [set(browser.text().replace("\u2195", "").split()) for browser in (page, plain)]
    assert words[0] == words[1]


def test_is_readable_in_light_and_dark(page: Browser) -> None:
    papers = []
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        paper, contrast, worst = page.run(_CONTRAST)
        assert contrast >= READABLE, worst
        papers.append(paper)
    assert papers[0] > 0.8
    assert papers[1] < 0.1


@pytest.mark.parametrize("width", [1400, 500])
def test_is_no_wider_than_its_window(browse: Open, report: Path, width: int) -> None:
    browser = browse(size=(width, 900))
    browser.open(report.as_uri())
    inner, whole = browser.run("return [window.innerWidth, document.scrollingElement.scrollWidth]")
    assert inner <= width
    assert whole <= inner


def test_is_small(report: Path) -> None:
    assert 10_000 < report.stat().st_size < LARGEST
