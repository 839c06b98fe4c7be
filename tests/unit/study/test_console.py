"""What a terminal shows while a study runs, with a clock that stands where the test puts it."""

import dataclasses
import io

import pytest
from rich.console import Console

from study import arms as shared
from study.console import MOST_ARMS, Progress, Screen, duration, introduction
from study.discovery import load
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
    console.print(Screen(console, board, slots=lambda: 2)._view())
    return console.export_text()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3599.7, "1 h 00 min"),
     (7500, "2 h 05 min"), (100 * 3600, "100 h 00 min")],
)  # fmt: skip
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


def test_progress_counts_ended_and_planned_trials():
    world = World()
    study = a_study(arms=[shared.statistic(SEARCHED, 5)], trials=6, rungs=())
    progress = Progress(half_done(study, world, ended=2))
    assert progress.trials() == (2, 6 + 2)
    world.run(study)
    assert Progress(world.board(study)).trials() == (8, 8)


def test_time_left_is_what_the_remaining_iterations_take_at_the_measured_speed():
    world = World()
    study = a_study(arms=[shared.statistic(SEARCHED, 5)], trials=6, rungs=())
    board = world.board(study)
    now = 1000.0
    progress = Progress(board, clock=lambda: now)
    assert progress.eta(2) == "0 s so far, measuring the speed"
    assert progress.remaining_iterations() == 8 * 60
    train(board, world, board.suggest())  # 60 iterations of a tenth of a second
    job = board.suggest()
    assert board.report(job, world.workers.step(job))
    now = 1100.0
    assert progress.remaining_iterations() == 7 * 60 - 10
    assert progress.eta(1) == "1 min 40 s so far, about 41 s left"
    assert progress.eta(2) == "1 min 40 s so far, about 20 s left"


def test_trials_that_are_stopped_early_make_the_rest_shorter():
    world = World()
    study = a_study(arms=[shared.statistic(SEARCHED, 5)], trials=4, rungs=())
    board = world.board(study)
    progress = Progress(board)
    job = board.suggest()
    board.report(job, world.workers.step(job))
    board.end(job, {}, "pruned")
    assert progress.remaining_iterations() == 3 * 10 + 2 * 60


def test_what_an_earlier_run_did_and_what_was_copied_is_no_measurement():
    world = World()
    study = a_study(arms=[discrete_arm()], trials=9, seed=6)
    world.run(a_study(arms=[discrete_arm()], trials=2, seed=6))
    board = world.board(study)
    progress = Progress(board, clock=lambda: 0.0)
    assert progress.eta(1) == "0 s so far, measuring the speed"
    while not board.finished() and (job := board.suggest()) is not None:
        train(board, world, job)
    assert board.finished()
    measured = [r for r in progress._rows() if r.seconds and r not in progress.at_start]
    assert {r.seconds / r.iterations for r in measured} == {0.1}
    assert progress.eta(1) == "0 s so far, about 0 s left"
    copies = [r for r in board.arms[DISCRETE].rows.values() if "same_as" in r.details]
    assert copies
    # a copy, with its iterations and no seconds, would make the machine look faster than it is
    board.arms[DISCRETE].confirmed.clear()
    assert progress.eta(1) == "0 s so far, about 12 s left"


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
    assert "4 of 42 trials done · " in text
    last = text.splitlines()[-1]
    assert last.startswith("2 running: two clicks search 1 33 % · always diverges search 1 33 %")


def test_many_running_trials_take_one_line():
    study = load("ablation_pixel_budget")
    board = World().board(study)
    for _ in range(20):
        board.suggest()
    lines = picture(board).splitlines()
    assert lines[-1].startswith("20 running: statistic only search 0 0 % · ")
    assert len(lines) <= len(study.arms) + 5


def test_names_are_taken_literally():
    arm = shared.statistic("[red]x[/red] [b]", 5)
    board = half_done(a_study(arms=[arm], lookahead=4), World(), ended=1)
    text = picture(board)
    assert text.count("[red]x[/red] [b]") == 3
    screen = Screen(Console(record=True, file=io.StringIO()), board, lambda: 1)
    screen.console.print(screen._line())
    assert "[red]x[/red] [b]" in screen.console.export_text()


def test_without_a_terminal_there_is_one_line_at_the_end():
    file = io.StringIO()
    with Screen(Console(file=file, width=80), half_done(a_study(rungs=()), World()), lambda: 2):
        pass
    lines = file.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("4/42 trials · ")
    assert lines[0].endswith("best statistic 0.758, two clicks 0.952, always diverges -")


def test_the_last_picture_stays_on_a_terminal():
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, color_system=None)
    with Screen(console, half_done(a_study(rungs=()), World()), lambda: 2):
        pass
    assert "4 of 42 trials done" in file.getvalue().splitlines()[-2]


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
    assert "best - (0 of 7 arms have one)" in Screen(Console(), board, slots=lambda: 2)._line().plain
    world.run(a_study(arms=arms, trials=1))
    line = Screen(Console(), world.board(a_study(arms=arms, trials=1)), slots=lambda: 2)._line().plain
    assert line.count("arm ") == 3
    assert line.endswith("(7 of 7 arms have one)")
    few = Screen(Console(), world.board(a_study(arms=arms[:2], trials=1)), slots=lambda: 2)._line().plain
    assert "arm 0 0." in few
    assert "arm 1 0." in few
