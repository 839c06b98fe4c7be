"""What a terminal shows while a study runs, with a clock that stands where the test puts it."""

import dataclasses
import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from study import arms as shared
from study import live, usage, view
from study.console import Screen, introduction
from study.discovery import load
from study.view import MOST_ARMS
from tests.unit.study.conftest import DISCRETE, SEARCHED, World, a_study, discrete_arm


def half_done(study, world, ended=4):
    """The first trials have ended, two run at iteration 20."""
    board = world.board(study)
    for _ in range(ended):
        train(board, world, board.suggest())
    for job in [board.suggest(), board.suggest()]:
        for _ in range(2):
            assert board.report(job, world.workers.step(job))
    return board


def train(board, world, job):
    while job.id in board.running:
        result = world.workers.step(job)
        if not board.report(job, result):
            board.end(job, result, "pruned")
        elif result["state"] != "running":
            board.end(job, result, result["state"])


def picture(board, width=80):
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(screen(board, console)._view())
    return console.export_text()


def screen(board, console=None, *, slots=2, folder="nowhere", clock=lambda: 0.0, **options):
    return Screen(console or Console(), board, lambda: slots, Path(folder), clock=clock, **options)


def test_what_an_earlier_run_did_and_what_was_copied_is_no_measurement():
    world = World()
    study = a_study(arms=[discrete_arm()], trials=9, seed=6, rungs=())
    world.run(a_study(arms=[discrete_arm()], trials=2, seed=6, rungs=()))
    board = world.board(study)
    now = time.time()
    shown = screen(board, slots=1, clock=lambda: now)
    assert view.time_left(shown.snapshot()) == "0 s so far, measuring the speed"
    while not board.finished() and (job := board.suggest()) is not None:
        train(board, world, job)
    assert board.finished()
    assert any("same_as" in row.details for row in board.arms[DISCRETE].rows.values())
    assert view.time_left(shown.snapshot()) == ""
    # a copy, with its iterations and no seconds, would make the machine look faster than it is
    board.arms[DISCRETE].confirmed.clear()
    assert view.time_left(shown.snapshot()) == "0 s so far, about 12 s left"


def test_the_time_that_passes_and_the_time_that_is_left():
    world = World()
    study = a_study(arms=[shared.statistic(SEARCHED, 5)], trials=6, rungs=())
    board = world.board(study)
    now = time.time()
    one, two = (screen(board, slots=slots, clock=lambda: now) for slots in (1, 2))
    train(board, world, board.suggest())  # 60 iterations of a tenth of a second
    job = board.suggest()
    assert board.report(job, world.workers.step(job))
    now += 100.0
    assert view.time_left(one.snapshot()) == "1 min 40 s so far, about 41 s left"
    assert view.time_left(two.snapshot()) == "1 min 40 s so far, about 20 s left"


@pytest.mark.parametrize("name", ["ablation_pixel_budget", "ablation_statistic_terms", "toy"])
def test_the_picture_fits_eighty_columns_and_no_name_is_broken(name):
    study = a_study() if name == "toy" else dataclasses.replace(load(name), metric="dice")
    text = picture(World().board(study))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for arm in study.arms:
        row = next(line for line in lines if line.startswith(arm.name))
        assert f"0/{study.num_replicates}" in row
    assert "nothing runs" in lines[-1]


def test_the_picture_by_hand():
    study = a_study(rungs=())
    text = picture(half_done(study, World()))
    rows = [line.split() for line in text.splitlines()]
    assert next(r for r in rows if r[:1] == ["statistic"])[1:] == ["2/12", "0.758", "0/2"]
    assert next(r for r in rows if r[:2] == ["always", "diverges"])[2:] == ["1/12", "1", "-", "0/2"]
    assert text.startswith("toy: 4 of 42 trials ended, 2 running")
    last = text.splitlines()[-1]
    assert last.startswith("2 running: two clicks search 1 33 % · always diverges search 1 33 %")


def test_many_running_trials_take_one_line():
    study = load("ablation_pixel_budget")
    board = World().board(study)
    for _ in range(20):
        board.suggest()
    lines = picture(board).splitlines()
    assert lines[-1].startswith("20 running: statistic only search 0 0 % · ")
    assert len(lines) <= len(study.arms) + 7


def test_names_are_taken_literally():
    arm = shared.statistic("[red]x[/red] [b]", 5)
    board = half_done(a_study(arms=[arm], lookahead=4), World(), ended=1)
    text = picture(board)
    assert text.count("[red]x[/red] [b]") == 3
    shown = screen(board, Console(record=True, file=io.StringIO()))
    shown.console.print(shown._line())
    assert "[red]x[/red] [b]" in shown.console.export_text()


def test_without_a_terminal_there_is_one_line_at_the_end(tmp_path):
    file = io.StringIO()
    with screen(half_done(a_study(rungs=()), World()), Console(file=file, width=80), folder=tmp_path):
        pass
    lines = file.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("4/42 trials · 2 running · ")
    assert " · best statistic 0.758, two clicks 0.952, always diverges - · memory " in lines[0]


def test_the_last_picture_stays_on_a_terminal(tmp_path):
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with screen(half_done(a_study(rungs=()), World()), console, folder=tmp_path):
        pass
    last = file.getvalue().split("\x1b")[-1]  # what comes after the changing picture was wiped
    assert "4 of 42 trials ended, 2 running" in last


def test_the_introduction_says_what_where_and_which_arms():
    text = introduction(a_study(), "/runs/toy", "sqlite:///x").plain
    assert text.splitlines() == [
        "Does the board keep its word?",
        "Arms: statistic, two clicks, always diverges.",
        "Results: /runs/toy · MLflow: sqlite:///x",
    ]


def test_a_line_about_many_arms_names_the_leaders():
    arms = [shared.statistic(f"arm {n}", 5) for n in range(MOST_ARMS + 1)]
    world = World()
    board = world.board(a_study(arms=arms, trials=1))
    assert "best - (0 of 7 arms have one)" in screen(board)._line().plain
    world.run(a_study(arms=arms, trials=1))
    line = screen(world.board(a_study(arms=arms, trials=1)))._line().plain
    assert line.count("arm ") == 3
    assert "(7 of 7 arms have one)" in line
    few = screen(world.board(a_study(arms=arms[:2], trials=1)))._line().plain
    assert "arm 0 0." in few
    assert "arm 1 0." in few


def test_rungs_memory_and_failures_are_shown():
    board = World().board(a_study(trials=4, lookahead=4))  # rungs at 10 and 30
    jobs = [board.suggest() for _ in range(4)]
    curve = [{"iteration": 10, "seconds": 1.0, "dice": 0.5}, {"iteration": 20, "seconds": 2.0, "dice": 0.6}]
    for job in jobs:
        result = {"curve": curve[: 1 + (job is jobs[0])], "state": "running", "host": "here"}
        board.report(job, {**result, "memory": 2 * 10**9, "gpu_memory": 10**9})
    board.end(jobs[1], {"failure": "bug", "reason": "KeyError:\n  'x'"}, "failed")
    board.end(jobs[3], {}, "pruned")
    text = picture(board, width=100)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines()}
    assert "past rungs" in text
    assert rows["statistic"][1:] == ["1/4", "1", "1/2", "-", "-", "0/2"]
    assert rows["two clicks"][2:] == ["1/4", "1", "1/1", "-", "-", "0/2"]
    assert "trials 4.0 GB and 2.0 GB of GPU memory" in text
    assert "newest failure: two clicks · search 0: bug: KeyError: 'x'" in text
    assert "two clicks: 1 bug" in text.splitlines()


def test_gpus_in_words():
    gpu = usage.Gpu(busy=81, used=40_100_000_000, total=141_000_000_000)
    used = usage.Usage(used=3_100_000_000, total=25_200_000_000, gpus=(gpu, gpu))
    assert usage.words(used) == (
        "memory 3.1 of 25.2 GB · GPU 0 81 %, 40.1 of 141.0 GB · GPU 1 81 %, 40.1 of 141.0 GB"
    )


def test_other_processes_are_told_what_the_screen_shows(tmp_path):
    world = World()
    shown = screen(half_done(a_study(rungs=()), world), folder=tmp_path, dashboard="http://127.0.0.1:8265")
    shown._tell()
    assert live.read(tmp_path) == shown.live()
    assert live.read(tmp_path).dashboard == "http://127.0.0.1:8265"
    assert [one.iterations for one in live.read(tmp_path).running] == [20, 20]
    assert [file.name for file in tmp_path.iterdir()] == [live.FILE]


def test_nothing_is_left_of_it_when_the_run_ends(tmp_path, monkeypatch):
    monkeypatch.setattr("study.console.TELL_EVERY", 0.01)
    board = half_done(a_study(rungs=()), World())
    with screen(board, Console(file=io.StringIO()), folder=tmp_path):
        end = time.monotonic() + 10
        while not (tmp_path / live.FILE).exists():
            assert time.monotonic() < end
            time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_reason_to_end_a_study(tmp_path):
    live.write(tmp_path / "gone", screen(World().board(a_study())).live())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"started": 1, "later": 2}', '{"usage": 3}'])
def test_a_file_of_another_version_says_nothing(tmp_path, text):
    (tmp_path / live.FILE).write_text(text)
    assert live.read(tmp_path) is None
    assert live.read(tmp_path / "gone") is None
