"""`study ui` as a newcomer sees it in chromium: the study, its arms by the metric, and their pictures."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from study import arms as shared
from study import notes, storage
from study.home import Home
from study.ownership import Owner
from study.results import TrialRow
from study.service import Listeners
from study.tracking import Tracker
from tests.unit.study.conftest import SEARCHED, World, a_study, discrete_arm
from trainables.store import Store

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
PATIENCE = 120
"""Seconds for a page on a machine that is busy with other things."""

EXPECTED = ("users/current", "favicon.ico")
"""What MLflow 3.17 itself asks of its server in vain."""


class WithPictures(Listeners):
    """Every trial that ends leaves a picture."""

    def artifacts(self, row: TrialRow) -> list[tuple[Path, str]]:
        return [(Path(self.own.file("samples.png")), "samples")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a study that has ended, made without Ray and networks."""
    home = Home(tmp_path_factory.mktemp("runs"))
    study = a_study(arms=[shared.statistic(SEARCHED, 5), discrete_arm()], trials=4)
    folder = home.study(study.name)
    folder.freeze(study)
    Image.new("RGB", (40, 30), "teal").save(folder.path / "samples.png")
    data = {"name": "toy", "fingerprint": "f" * 16, "path": "toy.parquet", "num_images": 1, "num_cases": 1}
    tracker = Tracker(
        home=home.path, study=study.name, question=study.question, metric="dice", greater_is_better=True,
        tracking_uri=None, spec_json=study.to_json(), dataset=data,
        owner=Owner(study=study.name, identity="mine", place=str(folder.path), begun=False, known=frozenset),
        arms={arm.name: notes.of_arm(study, arm) for arm in study.arms},
    )  # fmt: skip
    tracker.start([arm.name for arm in study.arms])
    world = World(folder.ledger)
    world.storage = storage.open_storage(folder.path, None)
    own = Store.at(folder.path)
    listener = WithPictures(tracker, own, own, folder.path)
    trial_ended = world.workers.trial_ended
    world.workers.trial_started = listener.trial_started  # type: ignore[method-assign]
    world.workers.trial_ended = lambda row: (trial_ended(row), listener.trial_ended(row))  # type: ignore
    world.run(study)
    for arm in study.arms:
        best = next(row for row in folder.ledger.trials() if row.arm == arm.name and row.state == "finished")
        tracker.arm_selected(arm.name, best, listener.artifacts(best))
    values = {SEARCHED: 0.25, study.arms[1].name: 0.75}
    tracker.answered({"answer.md": "It does."}, {arm: {"test_dice": value} for arm, value in values.items()})
    tracker.close(60)
    return home.path


@pytest.fixture(scope="module")
def addresses(home: Path) -> Iterator[dict[str, str]]:
    """What `study ui toy` prints: word before the colon -> address. It ends with exit code 0."""
    pytest.importorskip("optuna_dashboard")
    process = subprocess.Popen(
        [sys.executable, "-m", "study", "ui", "toy", "--home", str(home)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "STUDY_"))},
    )  # fmt: skip
    found: dict[str, str] = {}
    assert process.stdout is not None
    for line in process.stdout:
        name, _, rest = line.strip().partition(": ")
        found[name] = rest.split()[0] if rest.startswith("http") else rest
        if line.rstrip().endswith("Ctrl-C ends it."):
            break
    yield found
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == 0


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync",
                 "disable-background-networking", "disable-component-update", "window-size=1500,1000",
                 f"user-data-dir={tmp_path_factory.mktemp('chromium')}"):  # fmt: skip
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    yield browser
    browser.quit()


@pytest.fixture
def page(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Page]:
    one = Page(chromium, request.node.name)
    yield one
    one.screenshot("end")
    errors = [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"]
    assert [e for e in errors if not any(known in e for known in (*EXPECTED, "ResizeObserver"))] == []


class Page:
    """What a person does with a page."""

    def __init__(self, browser: Any, name: str) -> None:
        self.browser, self.name = browser, name

    def open(self, url: str) -> None:
        self.browser.get(url)

    def wait(self, condition: Any) -> Any:
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, PATIENCE, 0.5).until(condition)

    def text(self) -> str:
        return str(self.browser.execute_script("return document.body.innerText"))

    def reads(self, *words: str) -> None:
        """Waits until all of it stands on the page."""
        try:
            self.wait(lambda _: all(word in self.text() for word in words))
        except Exception as error:
            self.screenshot("missing")
            raise AssertionError((words, self.text()[:3000])) from error

    def click(self, path: str) -> None:
        """The first element of this XPath that can be clicked."""

        def clicked(_: Any) -> bool:
            return bool(self.browser.execute_script(
                "const e = document.evaluate(arguments[0], document, null, 9, null).singleNodeValue;"
                "if (e) { e.scrollIntoView(); e.click(); } return e !== null;", path,
            ))  # fmt: skip

        self.wait(clicked)

    def screenshot(self, word: str) -> None:
        """Kept where STUDY_SCREENSHOTS says, for a person to look at."""
        folder = os.environ.get("STUDY_SCREENSHOTS")
        if folder:
            self.browser.save_screenshot(str(Path(folder) / f"{self.name}-{word}.png"))


def test_a_newcomer_finds_the_study_and_its_arms_by_the_metric(page: Page, addresses: dict[str, str]) -> None:
    page.open(addresses["toy"])
    page.reads("toy", "Does the board keep its word?", SEARCHED, "two clicks")
    page.open(f"{addresses['toy']}&orderByKey=metrics.%60test_dice%60&orderByAsc=false")
    page.reads("Sort: test_dice", "two clicks")
    names = functools.partial(page.text().index)
    assert names("\ntwo clicks\n") < names(f"\n{SEARCHED}\n")


def test_an_arm_says_what_it_is(page: Page, addresses: dict[str, str]) -> None:
    """Its pictures are looked at in `test_dashboards`, of a study that trained."""
    page.open(addresses["toy"])
    page.click("//a[normalize-space()='two clicks']")
    page.reads("Method: partial_cross_entropy", "Searched: learning_rate", "study.selected.learning_rate")
    page.screenshot("arm")


def test_optuna_dashboard_shows_every_arm_and_changes_nothing(page: Page, addresses: dict[str, str]) -> None:
    page.open(addresses["optuna-dashboard"])
    page.reads(f"toy/{SEARCHED}", "toy/two clicks")
    page.open(f"{addresses['optuna-dashboard']}/dashboard/studies/1/analytics")
    page.reads("History")
    status = page.browser.execute_async_script(
        "const done = arguments[0]; fetch('/api/studies/1', {method: 'DELETE'}).then(r => done(r.status));"
    )
    assert status == 403
    page.browser.get_log("browser")  # what was refused is an error there
