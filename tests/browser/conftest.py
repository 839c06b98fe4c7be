"""One finished `smoke` study for the session, made by the command itself, and what shows it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.chromium import PATIENCE, Browser, absent

ROOT = Path(__file__).resolve().parents[2]
STUDY = "smoke"
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "STUDY_"))},
    "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200",
}  # fmt: skip
_PAGE = re.compile(rf"^ *(MLflow|{STUDY}|optuna-dashboard): (http://\S+)", re.MULTILINE)


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    missing = absent()
    if missing:
        pytest.skip(f"{' and '.join(missing)} not found: apt-get install chromium chromium-driver")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "study", *words]


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a finished study; STUDY_BROWSER_HOME names one that exists already, for quick repetitions."""
    given = os.environ.get("STUDY_BROWSER_HOME")
    if given:
        return Path(given)
    folder = tmp_path_factory.mktemp("home")
    subprocess.run(
        command("run", STUDY, "--home", str(folder)), cwd=ROOT, env=ENVIRONMENT, check=True, timeout=600,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return folder


def write_report(home: Path, name: str) -> Path:
    """The page that `study report` makes."""
    subprocess.run(
        command("report", name, "--home", str(home)), cwd=ROOT, env=ENVIRONMENT, check=True, timeout=300,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return home / name / "report" / "report.html"


@pytest.fixture(scope="session")
def report(home: Path) -> Path:
    return write_report(home, STUDY)


@pytest.fixture(scope="session")
def pages(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Addresses by name, as `study ui` prints them; the study's own is that of its runs in MLflow."""
    pytest.importorskip("optuna_dashboard", reason="pip install '.[ui]'")
    output = tmp_path_factory.mktemp("ui") / "output"
    with output.open("w") as stream:
        process = subprocess.Popen(
            command("ui", STUDY, "--home", str(home)), cwd=ROOT, env=ENVIRONMENT, stdout=stream,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    end = time.monotonic() + PATIENCE
    while "Ctrl-C ends it." not in output.read_text():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.2)
    yield dict(_PAGE.findall(output.read_text()))
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One for all tests, which open their page in it anew."""
    browser = Browser(tmp_path_factory.mktemp("window"))
    yield browser
    browser.close()
