"""MLflow's UI and optuna-dashboard in a browser, as `study ui` serves them to a newcomer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import study
from tests.browser.chromium import Browser
from tests.browser.conftest import STUDY

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

NOT_OURS = {
    "/ajax-api/2.0/mlflow/users/current": "asked of every server; one without accounts answers 404",
    "ResizeObserver loop completed": "chromium's note that MLflow's table was laid out in two frames",
}
"""Complaints that MLflow 3.17 causes by itself, on any experiment, and why they are none of a study."""


@pytest.fixture
def complaints(window: Browser) -> Iterator[list[str]]:
    """What the page complained of; empty at the end of a test."""
    window.open("about:blank")
    window.complaints()
    found: list[str] = []
    yield found
    found += [one for one in window.complaints() if not any(known in one for known in NOT_OURS)]
    assert found == []


def runs(window: Browser) -> list[str]:
    """Names in MLflow's table of runs, from the top; its rows stand in any order in the document."""
    links = [link for link in window.all("[role=row] a[href*='/runs/']") if link.is_displayed()]
    return [link.text for link in sorted(links, key=lambda link: link.location["y"])]


def test_mlflow_finds_the_study_and_sorts_its_arms(
    window: Browser, pages: dict[str, str], home: Path, complaints: list[str]
) -> None:
    window.open(pages[STUDY])
    found = study.load(STUDY, home)
    window.saying("Sort: Created").click()
    assert found.question in window.text()
    window.one("input[placeholder=Search]").send_keys("test_dice")
    window.saying("test_dice").click()
    best_first = list(found.answer().sort_values("mean", ascending=False)["arm"])
    window.until(lambda: runs(window)[: len(best_first)] == best_first, f"the order is not {best_first}")


def test_mlflow_shows_an_arm_and_a_trials_picture(
    window: Browser, pages: dict[str, str], home: Path, complaints: list[str]
) -> None:
    window.open(pages[STUDY])
    (arm,) = study.load(STUDY, home).answer().tail(1).itertuples()
    window.linked(arm.arm).click()
    window.until(lambda: f"{arm.mean}"[:6] in window.text(), "the arm's page lacks its test score")
    window.linked(f"{arm.arm} · confirm").click()
    window.until(lambda: "Child runs" not in window.text() and "learning_rate" in window.text(), "no trial")
    window.saying("Artifacts").click()
    window.saying("samples").click()
    window.saying("samples.png").click()
    wide = "return Math.max(0, ...[...document.images].map(i => i.naturalWidth))"
    window.until(lambda: window.run(wide) > 200, "no picture")


def test_optuna_dashboard_lists_an_optuna_study_an_arm_and_opens_it(
    window: Browser, pages: dict[str, str], home: Path, complaints: list[str]
) -> None:
    window.open(pages["optuna-dashboard"])
    arms = [arm.name for arm in study.load(STUDY, home).spec.arms]
    for arm in arms:
        window.saying(f"{STUDY}/{arm}")
    window.saying(f"{STUDY}/{arms[0]}").click()
    window.until(lambda: "learning_rate" in window.text(), "the study's page lacks its hyper-parameters")
    assert window.all(".js-plotly-plot")
