"""How far a study is, counted from ledger rows by hand."""

import io
import json
import subprocess
import sys

import pytest
from rich.console import Console

from study import discovery, status
from study.home import Home
from tests.unit.study.conftest import DIVERGING, SEARCHED, World, a_study


@pytest.fixture
def folder(tmp_path):
    folder = Home(tmp_path).study("toy")
    folder.freeze(a_study())
    return folder


@pytest.fixture
def begun(folder):
    """Six trials ended in five ways, and three run."""
    board = World(folder.ledger).board(a_study())
    jobs = [board.suggest() for _ in range(9)]
    for job, state in zip(
        jobs, ("finished", "pruned", "diverged", "failed", "finished", "finished"), strict=False
    ):
        curve = [{"iteration": 10, "seconds": 1.0, "dice": 0.1 * job.number + 0.25}]
        board.report(job, {"curve": curve, "state": "running"})
        board.end(job, {}, state)
    return folder


def test_the_json_form_is_exactly_this(begun):
    counted = json.loads(status.to_json(a_study(), begun))
    assert counted == {
        "study": "toy", "planned": 3 * (12 + 2), "finished": 4, "pruned": 1, "failed": 1, "running": 0
    }  # fmt: skip
    assert list(counted) == ["study", "planned", "finished", "pruned", "failed", "running"]


def test_trials_run_only_while_a_driver_lives(begun):
    with begun.locked():
        assert status.counts(a_study(), begun)["running"] == 3
    assert status.counts(a_study(), begun)["running"] == 0


def test_an_empty_study_has_done_nothing(folder):
    assert status.counts(a_study(), folder) == {
        "study": "toy", "planned": 42, "finished": 0, "pruned": 0, "failed": 0, "running": 0
    }  # fmt: skip
    assert status.to_markdown(a_study(), folder).splitlines()[2] == "| statistic |  |  |  |  | - | 0/2 |"


def test_the_markdown_table(begun):
    lines = status.to_markdown(a_study(), begun).splitlines()
    assert lines[0] == "| arm | finished | pruned | diverged | failed | best dice (val) | confirmed |"
    assert lines[1].count("---") == 7
    assert lines[2] == "| statistic | 1 |  |  | 1 | 0.250 | 0/2 |"
    assert lines[3] == "| two clicks | 1 | 1 |  |  | 0.350 | 0/2 |"
    assert lines[4] == "| always diverges | 1 |  | 1 |  | 0.350 | 0/2 |"


def test_a_bar_in_a_name_does_not_break_the_markdown_table(folder):
    arm = next(a for a in a_study().arms if a.name == DIVERGING)
    study = a_study(arms=[type(arm)(**{**{f: getattr(arm, f) for f in arm.__slots__}, "name": "a|b"})])
    assert status.to_markdown(study, folder).splitlines()[2].startswith(r"| a\|b |")


def test_the_table_fits_and_takes_names_literally(begun):
    console = Console(record=True, width=80)
    console.print(status.to_table(a_study(), begun))
    text = console.export_text()
    assert "toy: 6 of 42 trials ended, no driver runs" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "always diverges" in text
    with begun.locked():
        console.print(status.to_table(a_study(), begun))
    assert "6 of 42 trials ended, 3 running" in console.export_text()


@pytest.mark.parametrize("name", discovery.names())
def test_no_name_of_a_shipped_study_is_broken_at_eighty_columns(folder, name):
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(status.to_table(discovery.load(name), folder))
    lines = console.export_text().splitlines()
    assert all(any(line.startswith(f"{arm.name} ") for line in lines) for arm in discovery.load(name).arms)


def test_replicates_of_an_earlier_choice_do_not_count():
    """Their rows stay in the ledger; `test_board` has the same two studies."""
    world = World()
    arms = [a for a in a_study().arms if a.name == SEARCHED]
    small, large = (a_study(arms=arms, trials=n, seed=2) for n in (2, 12))
    world.run(small)
    world.run(large)
    assert len(world.ledger.trials()) == 12 + 2 + 2

    class Folder:
        ledger = world.ledger

        def is_running(self):
            return False

    counted = status.counts(large, Folder())
    assert counted["planned"] == 14
    assert counted["finished"] + counted["pruned"] + counted["failed"] == 14
    assert status.to_markdown(large, Folder()).rstrip().endswith("| 2/2 |")


def test_the_classes_of_failures_stand_below_the_table(folder):
    board = World(folder.ledger).board(a_study())
    classes = {
        "statistic": ["bug", "data"],
        "two clicks": ["out_of_memory"],
        "always diverges": ["not_finite"],
    }
    for job in [board.suggest() for _ in range(6)]:
        if classes[job.arm]:
            failure = classes[job.arm].pop(0)
            board.end(job, {"failure": failure}, "diverged" if failure == "not_finite" else "failed")
    expected = ["statistic: 1 bug, 1 data", "two clicks: 1 out_of_memory", "always diverges: 1 not_finite"]
    assert status.to_markdown(a_study(), folder).splitlines()[-3:] == [f"- {line}" for line in expected]
    console = Console(record=True, width=80)
    console.print(status.to_table(a_study(), folder))
    assert [line.strip() for line in console.export_text().splitlines()[-3:]] == expected


@pytest.mark.parametrize("module", ["study.status", "study.watch", "study.cards", "study.roof"])
def test_who_looks_waits_for_neither_torch_nor_optuna(module):
    code = f"import sys, {module}; sys.exit(len({{'ray', 'mlflow', 'optuna', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
