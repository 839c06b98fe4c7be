"""MLflow's process: carries out what it is told, is replaced when it is lost, and ends with its driver."""

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from search_spaces import UserError
from study import tracking_process
from study.results import TrialRow
from study.tracking import Tracker
from study.tracking_process import LOG, TrackingProcess
from tests.unit.study.tracked import View, settings, trial

pytestmark = pytest.mark.timeout(120)

Make = Callable[..., TrackingProcess]


def make_of(home: Path, **changes: Any) -> "partial[Tracker]":
    return partial(Tracker, **settings(home, **changes))


@pytest.fixture
def process(tmp_path: Path, schema: Path) -> Iterator[Make]:
    """Starts processes for one home; each is ended with the test."""
    shutil.copy(schema, tmp_path)
    made = []

    def start(rows: Callable[[], list[TrialRow]] = list, **changes: Any) -> TrackingProcess:
        made.append(TrackingProcess(make_of(tmp_path, **changes), tmp_path, rows))
        return made[-1]

    yield start
    for one in made:
        one._line.end()


def id_of(one: TrackingProcess) -> int:
    return one._line._process.pid


def kill(one: TrackingProcess) -> None:
    """And wait until its end of the line is closed, too."""
    one._line._process.kill()
    one._line._process.wait()


def gone(number: int, patience: float = 10.0) -> bool:
    """Whether the process ends within `patience` seconds; a zombie has ended."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def artifacts_of(path: Path, row: TrialRow) -> list[tuple[Path, str]]:
    return [(path, "samples")]


def test_what_it_is_told_is_in_mlflow_when_it_is_closed(process: Make, tmp_path: Path) -> None:
    picture = tmp_path / "samples.png"
    picture.write_bytes(b"drawn")
    told = process()
    told.start(["points"])
    told.reconcile([trial(1, "finished")], partial(artifacts_of, picture))
    told.trial_started(trial(0))
    told.trial_reported("key0", 100, {"dice": 0.25})
    told.trial_ended(trial(0, "finished"))
    told.arm_selected("points", trial(0, "finished"))
    told.answered({"answer.md": "yes"}, {"points": {"test_dice": 0.5}})
    told.close(60.0)
    number = id_of(told)
    told.__exit__()
    assert gone(number)
    view = View(tmp_path)
    assert view.statuses() == {
        "points": "FINISHED", "points · search 0": "FINISHED", "points · search 1": "FINISHED"
    }  # fmt: skip
    assert view.points(view.trial(0)) == view.points(view.trial(1)) == [(100, 0.25), (200, 0.5)]
    assert view.text(view.trial(1), "samples/samples.png") == "drawn"
    assert not (tmp_path / LOG).exists()  # nothing was printed


def test_a_mistake_comes_back_as_one(process: Make) -> None:
    with pytest.raises(UserError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used"):
        process(tracking_uri="http://127.0.0.1:9").start(["points"])


def test_a_lost_one_is_replaced_and_nothing_is_missing(
    process: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ledger: list[TrialRow] = []
    told = process(lambda: ledger)
    told.start(["points"])
    told.reconcile([], partial(artifacts_of, tmp_path / "none"))
    told.trial_started(trial(0))
    told.trial_started(trial(1))
    kill(told)
    ledger.append(trial(0, "finished"))
    (tmp_path / "none").write_text("a picture")
    told.trial_ended(ledger[0])
    told.trial_reported("key1", 100, {"dice": 0.1})
    kill(told)
    told.interrupted()
    told.close(60.0)
    assert caplog.messages == ["The process that tells MLflow was lost (SIGKILL); another goes on."] * 2
    view = View(tmp_path)
    assert view.points(view.trial(0)) == [(100, 0.25), (200, 0.5)]
    assert {name: status for name, status in view.statuses().items() if "·" in name} == {
        "points · search 0": "FINISHED", "points · search 1": "KILLED"
    }  # fmt: skip


def test_a_study_goes_on_without_it_when_every_successor_is_lost(
    process: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = process()
    told.start(["points"])
    monkeypatch.setattr(tracking_process, "__name__", "study.no_such_module")
    kill(told)
    told.trial_started(trial(0))
    told.trial_ended(trial(0, "finished"))
    told.close(1.0)
    lost = [text for text in caplog.messages if text.startswith("The process that tells MLflow was lost (")]
    assert len(lost) == tracking_process.SUCCESSORS
    assert re.fullmatch(
        r"MLflow is told no more \(.*\); the next run of the study completes it\.", caplog.messages[-1]
    )


def test_one_that_cannot_start_is_a_sentence(process: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_process, "__name__", "study.no_such_module")
    with pytest.raises(UserError, match=r"^The process that tells MLflow must start, .*mlflow\.log says"):
        process().start(["points"])


def test_signals_to_the_whole_group_are_the_drivers(process: Make, tmp_path: Path) -> None:
    told = process()
    told.start(["points"])
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(id_of(told), number)
    told.interrupted()
    told.close(60.0)
    assert View(tmp_path).statuses() == {"points": "KILLED"}


def test_it_ends_with_a_driver_that_is_killed(tmp_path: Path, schema: Path) -> None:
    shutil.copy(schema, tmp_path)
    code = """
        import sys, time
        from pathlib import Path
        from tests.unit.study.test_tracking_process import make_of
        from study.tracking_process import TrackingProcess
        told = TrackingProcess(make_of(Path(sys.argv[1])), Path(sys.argv[1]), list)
        told.start(["points"])
        print(told._line._process.pid, flush=True)
        time.sleep(100)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        number = int(driver.stdout.readline())
        driver.kill()
    assert gone(number)


def test_a_bug_in_it_shows_its_trace(process: Make, caplog: pytest.LogCaptureFixture) -> None:
    told = process()
    told.start(["points"])
    told._line.send("no_such_call")
    assert gone(id_of(told))
    told.close(1.0)
    assert any("AttributeError" in text and "Traceback" in text for text in caplog.messages)
