"""`status --watch` of a study that another process runs, with a sleep that the test decides."""

import contextlib
import io
import subprocess
import sys

import pytest
from rich.console import Console

from search_spaces import UserError
from study import live, status, usage, watch
from study.eta import Running
from study.home import Home
from study.live import Live
from tests.unit.study.conftest import World, a_study


@pytest.fixture
def folder(tmp_path):
    """A study of which one trial has ended and two run."""
    folder = Home(tmp_path).study("toy")
    folder.freeze(a_study(rungs=()))
    board = World(folder.ledger).board(a_study(rungs=()))
    jobs = [board.suggest() for _ in range(3)]
    board.report(jobs[0], {"curve": [{"iteration": 60, "seconds": 6.0, "dice": 0.5}], "state": "finished"})
    board.end(jobs[0], {}, "finished")
    return folder


def told():
    running = Running(
        arm="two clicks", phase="search", number=0, seed=0, iterations=30, of=60, seconds=3.0, memory=10**9
    )
    machine = usage.Usage(used=10**9, total=4 * 10**9)
    return Live(started=0.0, slots=2, running=(running,), usage=machine)


def lines(folder, interval=1.0, sleep=lambda seconds: None, **options):
    file = io.StringIO()
    watch.watch(folder, Console(file=file, width=80, **options), interval, sleep)
    return file.getvalue()


def test_a_study_without_a_driver_is_shown_once(folder):
    (line,) = lines(folder).splitlines()
    assert line.startswith("1/42 trials · no driver runs · about 4 min 06 s of training left, one trial at")
    assert " · best statistic 0.500, two clicks -, always diverges -" in line


def test_it_ends_with_the_driver(folder):
    with contextlib.ExitStack() as driver:
        driver.enter_context(folder.locked())
        live.write(folder.path, told())
        slept = []

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 3:
                driver.close()

        text = lines(folder, 7.0, sleep)
    assert slept == [7.0] * 3
    states = [line.split(" · ")[1] for line in text.splitlines()]
    assert states == ["1 running"] * 3 + ["no driver runs"]


def test_while_the_driver_runs_every_line_says_how_far_it_is(folder):
    seen = []

    def sleep(seconds):
        seen.append(file.getvalue())
        if len(seen) == 2:
            raise KeyboardInterrupt

    file = io.StringIO()
    with folder.locked():
        live.write(folder.path, told())
        watch.watch(folder, Console(file=file, width=80), 1.0, sleep)  # Ctrl-C ends it quietly
    first, second = file.getvalue().splitlines()
    assert first.startswith("1/42 trials · 1 running · ")
    assert " left · best statistic 0.500" in first
    assert first.endswith("memory 1.0 of 4.0 GB · trials 1.0 GB")
    assert second.startswith("1/42 trials · 1 running · ")


def test_on_a_terminal_the_last_picture_stays(folder):
    def sleep(seconds):
        raise KeyboardInterrupt

    with folder.locked():
        live.write(folder.path, told())
        text = lines(folder, sleep=sleep, force_terminal=True, color_system=None)
    last = text.split("\x1b")[-1]
    assert "toy: 1 of 42 trials ended, 1 running" in last
    assert "1 running: two clicks search 0 50 %" in last


def test_what_a_killed_driver_told_last_is_not_believed(folder):
    live.write(folder.path, told())
    shot = status.snapshot(a_study(rungs=()), folder)
    assert (shot.live, list(shot.running), shot.alive) == (None, [], False)


def test_of_a_driver_that_has_told_nothing_yet_the_ledger_speaks(folder):
    with folder.locked():
        shot = status.snapshot(a_study(rungs=()), folder)
    assert [(one.arm, one.iterations) for one in shot.running] == [("two clicks", 0), ("always diverges", 0)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [((True, None, "json"), "--watch draws a table, but got --format json"),
     ((False, 2.0, "table"), "--interval is of --watch, but got 2 without it"),
     ((True, 0.0, "table"), "--interval must be 0.1 seconds or more, but got 0."),
     ((True, float("nan"), "table"), "--interval must be 0.1 seconds or more, but got nan."),
     ((True, -1.0, "table"), "but got -1.")],
)  # fmt: skip
def test_options_that_make_no_sense(arguments, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.").replace("--", "--")):
        watch.check(*arguments)


def test_the_usual_interval_is_longer_where_lines_are_written():
    assert watch.every(None, Console(force_terminal=True)) == watch.EVERY
    assert watch.every(None, Console(file=io.StringIO())) == watch.LINE_EVERY
    assert watch.every(0.5, Console(force_terminal=True)) == 0.5


def test_another_process_sees_a_running_study(folder):
    """Ends with the driver, which is this process; the exit code is 0."""
    command = [sys.executable, "-m", "study", "status", "toy", "--home", str(folder.path.parent)]
    with folder.locked():
        live.write(folder.path, told())
        process = subprocess.Popen(
            [*command, "--watch", "--interval", "0.2"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout.readline().startswith("1/42 trials · 1 running · ")
        assert process.poll() is None
    rest = process.communicate(timeout=30)[0].splitlines()
    assert rest[-1].startswith("1/42 trials · no driver runs")
    assert process.returncode == 0
