"""Studies through Ray whose trials train nothing: lost workers, bad trials, signals, kills, what is shown."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest

from search_spaces import UserError
from study import engine, targets
from study.engine import Machine
from study.home import Home
from study.losses import RETRIES
from study.results import Ledger, TrialRow
from study.segments import DiskFullError
from study.spec import Replicates, Stage
from study.storage import open_storage
from tests.chaos import harness
from tests.chaos.harness import Driver, essence
from tests.ray import driver
from tests.ray.conftest import Runner
from tests.ray.toy import ORDERS
from trainables.annotations import Annotation

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

STOPPED = "Stopped. Everything finished is kept; the same command continues.\n"
Start = Callable[..., Driver]


@pytest.fixture
def start(home: Path, dataset: Path) -> Iterator[Start]:
    """Starts drivers of `home`; none of their processes outlives the test."""
    started: list[Driver] = []

    def begin(*arguments: str) -> Driver:
        started.append(Driver(home, dataset, *arguments))
        return started[-1]

    yield begin
    for one in started:
        one.finish()


def tracked(home: Path, kind: str = "trial") -> list[Any]:
    client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(driver.NAME)
    runs = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=1000)
    return [run for run in runs if run.data.tags["study.kind"] == kind]


def run_of(run: Any) -> str:
    tags = run.data.tags
    return f"{tags['study.arm']}/{tags['study.phase']}/{tags['study.trial_number']}"


def words(runner: Runner, row: TrialRow) -> list[str]:
    """What was trained of a trial. Without its set-ups: Tune also sets up actors it then does not use."""
    return [f"{word} {number}" for word, number, _ in runner.trace(row) if word != "start"]


def free_what_tune_held() -> None:
    """Gives back the CPUs of a run that was broken off, as leaving Ray would have done."""
    import ray
    from ray.util import placement_group_table, remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for identity, group in placement_group_table().items():
        if group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(identity))))


# -- many small studies on one Ray ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, schema: Path, dataset: Path, one_ray: None
) -> tuple[Runner, list[tuple[Any, ...]]]:
    """A study that nothing happens to, and what every other one must equal."""
    home = tmp_path_factory.mktemp("undisturbed")
    shutil.copy(schema, home / "mlflow.db")
    runner = Runner(home, dataset)
    answer = runner.run(runner.study())
    assert answer.complete
    return runner, essence(list(runner.rows().values()))


def test_reaches_its_answer_and_stops_bad_trials_early(
    undisturbed: tuple[Runner, list[tuple[Any, ...]]],
) -> None:
    runner, rows = undisturbed
    assert len(rows) == 2 * (5 + 2)
    pruned = [row for row in runner.rows().values() if row.state == "pruned"]
    assert {row.iterations for row in pruned} == {4}  # the rung at 1/3 of 12 iterations
    assert 2 <= len(pruned) <= 6  # at the rung a third goes on, the first of an arm always
    assert all(row.reason == "stopped at iteration 4" for row in pruned)
    assert all(words(runner, row) == ["begin 1", "step 1", "begin 2", "step 2"] for row in pruned)
    harness.assert_optuna_agrees(Home(runner.home).study(driver.NAME), list(runner.rows().values()))
    harness.assert_mlflow_agrees(runner.home, list(runner.rows().values()))


def test_all_slots_train_although_a_process_takes_long_to_start(runner: Runner) -> None:
    """Tune gave its trial the next one that came free and killed its own: short trials never had a second."""
    runner.orders(setup={"statistic/search/0": 1.0}, sleep=0.05)
    assert runner.run(runner.study()).complete
    marks = [mark for row in runner.rows().values() for mark in runner.trace(row)]
    assert len({process for word, _, process in marks if word == "step"}) == min(engine.available_cores(), 2)


def test_leaves_no_records_of_tune(undisturbed: tuple[Runner, list[tuple[Any, ...]]]) -> None:
    runner, _ = undisturbed
    folder = Home(runner.home).study(driver.NAME).path
    assert not (folder / "ray").exists()
    assert (folder / "ray.log").exists()


def test_bad_trials_do_not_end_the_study(runner: Runner) -> None:
    """Diverged: told the worst value. Failed: its trace kept. Both shown, neither tried again."""
    jobs = {"statistic/search/1": "diverged", "statistic/search/2": "failed"}
    classes = {"diverged": "not_finite", "failed": "bug"}
    runner.orders(end=jobs, kill={"full supervision/search/0": 1})
    answer = runner.run(runner.study())
    rows = runner.rows()
    assert answer.complete
    for job, state in jobs.items():
        assert (rows[job].state, rows[job].reason) == (state, "it was told to")
        assert rows[job].failure == classes[state]
        assert rows[job].details["trace"] == "Traceback: told to"
        assert words(runner, rows[job]) == ["begin 1", "step 1"]
    assert rows["statistic/search/1"].value is None
    assert "statistic_weight" in rows["statistic/search/1"].parameters
    storage = open_storage(Home(runner.home).study(driver.NAME).path, None)
    trials = optuna.load_study(study_name="toy/statistic", storage=storage).get_trials()
    assert (trials[1].state.name, trials[1].value) == ("COMPLETE", 0.0)
    assert (trials[2].state.name, trials[2].value) == ("FAIL", None)
    runs = {run_of(run): run for run in tracked(runner.home)}
    assert runs["statistic/search/1"].data.tags["study.diverged"] == "true"
    assert runs["statistic/search/2"].info.status == "FAILED"
    lost = rows["full supervision/search/0"]
    assert (lost.state, lost.failure, lost.details["losses"]) == ("finished", "", ["worker_lost"])
    assert words(runner, lost) == [
        "begin 1", "step 1", "begin 2", "step 2", "begin 3", "dies 3",  # and from there, nothing twice:
        "begin 3", "step 3", "begin 4", "step 4", "begin 5", "step 5", "begin 6", "step 6",
    ]  # fmt: skip
    assert len({process for word, _, process in runner.trace(lost) if word == "begin"}) == 2


def test_a_trial_whose_process_died_before_its_rung_was_heard_of_ends_there_everywhere(
    undisturbed: tuple[Runner, list[tuple[Any, ...]]], runner: Runner
) -> None:
    calm, expected = undisturbed
    pruned = [job for job, row in calm.rows().items() if row.state == "pruned"]
    runner.orders(unheard=pruned)
    runner.run(runner.study())
    rows = runner.rows()
    assert essence(list(rows.values())) == expected
    assert all("step 3" in words(runner, rows[job]) for job in pruned)  # trained on, as nobody stopped it
    harness.assert_mlflow_agrees(runner.home, list(rows.values()))


def test_an_arm_without_replicates_cannot_answer_until_they_succeed(runner: Runner) -> None:
    """A confirmation that fails leaves the study open; the same command tries it again and only it."""
    job = "full supervision/confirm/0"
    runner.orders(end={job: "failed"})
    study = dataclasses.replace(runner.study(trials=1), replicates=Replicates(seeds=(1001, 1002)))
    answer = runner.run(study)
    assert not answer.complete
    assert "full supervision" in " ".join(answer.problems)
    first = runner.rows()
    runner.orders()
    assert runner.run(study).complete
    second = runner.rows()
    assert second[job].state == "finished"
    assert {k: v for k, v in second.items() if k != job} == {k: v for k, v in first.items() if k != job}


def test_a_trial_that_kills_every_worker_is_given_up(runner: Runner) -> None:
    runner.orders(kill={"full supervision/search/0": 99})
    answer = runner.run(runner.study(trials=1))
    row = runner.rows()["full supervision/search/0"]
    assert (row.state, row.failure) == ("failed", "worker_lost")
    assert row.reason == "its process was lost 4 times without getting further"
    assert row.details["losses"] == ["worker_lost"] * 4
    assert row.iterations == 4  # of its two reports, which the first process made
    harness.assert_mlflow_agrees(runner.home, list(runner.rows().values()))
    assert "worker process has died" in row.details["trace"]  # what Ray says of it
    assert words(runner, row).count("dies 3") == 1 + RETRIES
    tags = next(run.data.tags for run in tracked(runner.home) if run_of(run) == "full supervision/search/0")
    assert (tags["study.failure"], tags["study.losses"]) == ("worker_lost", ", ".join(["worker_lost"] * 4))
    assert "1 failed (worker_lost: its process was lost 4 times" in " ".join(answer.problems)
    assert [arm.replicates for arm in answer.arms] == [2, 0]
    assert not answer.complete


def test_an_error_of_the_board_ends_the_run_and_is_told_as_it_is(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tune would take it for the trial's error, try that again, or wrap the sentence in a trace."""
    append, written = Ledger.append, []

    def full(self: Ledger, trial: TrialRow, cases: Any = ()) -> None:
        written.append(trial)
        if len([row for row in written if row.is_final]) == 2:
            raise DiskFullError("No space is left.")
        append(self, trial, cases)

    monkeypatch.setattr(Ledger, "append", full)
    with pytest.raises(DiskFullError, match=r"^No space is left\.$"):
        runner.run(runner.study(trials=2))
    monkeypatch.undo()
    free_what_tune_held()
    assert "RUNNING" not in {
        run.info.status for kind in ("arm", "trial") for run in tracked(runner.home, kind)
    }
    assert runner.run(runner.study(trials=2)).complete  # space was freed


def test_again_and_extended(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command answers the same without Ray; larger targets train what is missing, and only that."""
    study = runner.study(trials=2)
    first, before = runner.run(study), runner.rows()
    with monkeypatch.context() as patch:
        patch.setattr(engine, "connect", lambda machine: pytest.fail("Ray is not needed"))
        started = time.monotonic()
        assert runner.run(study) == first
        assert time.monotonic() - started < 10  # 0.5 s on a quiet machine
    assert runner.rows() == before

    answer = runner.run(targets.asked_for(study, trials=4, replicates=3))
    after = runner.rows()
    assert [arm.replicates for arm in answer.arms] == [3, 3]
    assert len([job for job in after if "/search/" in job]) == 2 * 4
    assert {job: after[job] for job in before if "/search/" in job} == {
        job: row for job, row in before.items() if "/search/" in job
    }
    harness.assert_mlflow_agrees(runner.home, list(after.values()))


def test_more_than_the_machine_has_is_refused_in_one_sentence(runner: Runner) -> None:
    with pytest.raises(UserError, match=r"^A trial asks for 1 CPUs and 4 GPUs, .*; lower .*\.$"):
        runner.run(runner.study(), Machine(gpus_per_trial=4))
    assert runner.rows() == {}


def test_never_joins_a_cluster_that_it_was_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ray start` leaves its address where ray.init() finds it, and then num_cpus is an error."""
    import ray

    seen: dict[str, Any] = {}

    def refuse(**options: Any) -> None:
        seen.update(options)
        raise ConnectionError("no")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(UserError, match="no"):
        engine.connect(Machine())
    assert seen["address"] == "local"


# -- whole commands, each with a Ray of its own -----------------------------------------------------------


def test_signals_and_a_second_driver(start: Start, home: Path) -> None:
    """Ctrl-C and SIGTERM: stopped within seconds, a sentence, nothing RUNNING; the same command continues."""
    (home / ORDERS).write_text(json.dumps({"sleep": 2.0}))
    folder = Home(home).study(driver.NAME)
    one = start("run", driver.NAME, "--trials", "2")
    harness.wait_for(lambda: harness.trace_lines(folder) > 4, 150, "progress")
    other = start("run", driver.NAME, "--trials", "2")
    assert other.wait() == 2
    assert other.errors() == (
        f"Study 'toy' is being run by process {one.process.pid}; wait for it, stop it, "
        "or use another --home.\n"
    )
    assert_stops(one, signal.SIGINT, home)

    before = harness.trace_lines(folder)
    two = start("run", driver.NAME, "--trials", "2")
    harness.wait_for(lambda: harness.trace_lines(folder) > before + 3, 150, "progress")
    assert_stops(two, signal.SIGTERM, home)

    harness.assert_few_repeats(folder, harness.Counter({"driver": 2}))


def assert_stops(one: Driver, how: signal.Signals, home: Path) -> None:
    asked = time.monotonic()
    one.process.send_signal(how)
    assert (one.wait(), one.errors()) == (1, STOPPED)
    assert time.monotonic() - asked < 30  # 3 s on a quiet machine
    assert one.family() == []
    runs = tracked(home) + tracked(home, "arm")
    assert "KILLED" in {run.info.status for run in runs}
    assert "RUNNING" not in {run.info.status for run in runs}
    rows = Home(home).study(driver.NAME).ledger.trials()
    assert {row.state for row in rows} <= {
        "running",
        "finished",
        "pruned",
    }  # some end while it waits for them
    assert sum(row.is_final for row in rows) < 2 * (2 + 2)


def test_a_network_that_arms_start_from_is_trained_once(runner: Runner) -> None:
    """Two arms and three seeds, one stage: three pre-trainings, also when a worker dies in one of them."""
    stage = Stage(method="full_supervision", annotation=Annotation(pixels="dense", labelled_images=2))
    plain = runner.study()
    arms = tuple(dataclasses.replace(arm, pretraining=stage) for arm in plain.arms)
    study = dataclasses.replace(plain, arms=arms, pretraining=plain.protocol)
    runner.orders(kill={"pre-training/pretrain/1": 1})
    assert runner.run(study).complete
    rows = [row for row in runner.rows().values() if row.phase == "pretrain"]
    assert sorted(row.number for row in rows) == [0, 1, 2]
    assert {row.state for row in rows} == {"finished"}
    for row in rows:
        assert words(runner, row).count("step 6") == 1
        assert ("dies 3" in words(runner, row)) == (row.number == 1)
    assert {run.info.status for run in tracked(runner.home)} == {"FINISHED", "KILLED"}
    arm_runs = [run.data.tags["study.arm"] for run in tracked(runner.home, "arm")]
    assert sorted(arm_runs) == sorted(["pre-training", *(arm.name for arm in arms)])
    networks = Home(runner.home).networks
    assert len(list(networks.glob("*/network.pt"))) == 3
