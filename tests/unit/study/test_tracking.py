"""MLflow through a real SQLite database: what the runs show, also after kills, outages and repeats."""

import json
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from search_spaces import UserError
from study.mlflow_runs import _prepare_sqlite
from study.tracking import Tracker
from tests.unit.study.tracked import (
    PATIENCE,
    STUDY,
    View,
    _own_environment,
    home,
    report,
    started,
    tracker,
    trial,
)

__all__ = ["_own_environment", "home"]


def test_start_makes_experiment_and_arms(home: Path) -> None:
    started(home, arms={"points": "what it is"}).close(PATIENCE)
    view = View(home)
    assert view.arm("points").data.tags["mlflow.note.content"] == "what it is"
    assert "mlflow.note.content" not in view.arm("dense").data.tags
    assert view.experiment.tags["mlflow.experiment.primaryMetric.name"] == "dice"
    assert view.experiment.tags["mlflow.experiment.primaryMetric.greaterIsBetter"] == "True"
    assert view.experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    note = view.experiment.tags["mlflow.note.content"]
    assert note.startswith("**Are five pixels enough?**\n")
    assert "by `test_dice` compares arms, by `dice` trials" in note
    assert "(highest is best)" in note
    assert view.experiment.artifact_location == (home / "mlartifacts" / STUDY).as_uri()
    assert view.statuses() == {"points": "RUNNING", "dense": "RUNNING"}
    arm = view.arm("points")
    assert json.loads(view.text(arm, "spec.json")) == {"name": "pixels"}
    (data,) = arm.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("acdc", "f" * 36)
    assert json.loads(data.dataset.profile) == {"num_images": 1902, "num_cases": 100}


def test_a_trial_is_a_child_of_its_arm_with_parameters_curve_and_end(home: Path, tmp_path: Path) -> None:
    (tmp_path / "samples.png").write_bytes(b"picture")
    target = started(home)
    target.trial_started(trial())
    report(target, 0, 100, 200)
    target.trial_ended(trial(state="finished"), [(tmp_path / "samples.png", "samples")])
    target.close(PATIENCE)
    view = View(home)
    run = view.trial()
    assert run.info.run_name == "points · search 0"
    assert run.data.tags["mlflow.parentRunId"] == view.arm("points").info.run_id
    assert run.data.params == {
        "learning_rate": "0.001", "network.encoder": "resnet18", "channels": "[8, 16]", "a_b": "True",
    }  # fmt: skip
    assert (run.data.tags["study.key"], run.data.tags["study.seed"], run.data.tags["study.fold"]) == (
        "key0",
        "7",
        "2",
    )
    assert view.points(run) == [(100, 0.25), (200, 0.5)]
    assert run.data.metrics["seconds"] == 12.5
    assert run.data.metrics["annotation_seconds"] == 30.0
    assert (run.info.status, run.info.start_time, run.info.end_time) == (
        "FINISHED",
        1_700_000_000_000,
        1_700_000_020_000,
    )
    assert view.text(run, "samples/samples.png") == "picture"


@pytest.mark.parametrize(
    ("state", "status"),
    [("finished", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED"), ("diverged", "FINISHED")],
)
def test_the_status_tells_how_a_trial_ended(home: Path, state: str, status: str) -> None:
    target = started(home)
    target.trial_started(trial())
    target.trial_ended(trial(state=state, reason="because"))
    target.close(PATIENCE)
    run = View(home).trial()
    assert run.info.status == status
    assert run.info.end_time == 1_700_000_020_000
    assert run.data.tags["study.reason"] == "because"
    assert run.data.tags.get("study.diverged") == ("true" if state == "diverged" else None)


def test_a_confirmation_is_named_after_its_seed_and_kept_apart_from_the_search(home: Path) -> None:
    target = started(home)
    target.trial_ended(trial(0, "finished"))
    target.trial_ended(trial(0, "finished", phase="confirm", seed=101))
    target.close(PATIENCE)
    assert View(home).trial(0, "confirm").info.run_name == "points · confirm seed 101"
    assert View(home).trial(0, "search").info.run_name == "points · search 0"


def test_a_killed_driver_leaves_nothing_running_and_no_point_twice(home: Path) -> None:
    """Kill with trial 0 ended only in the ledger, 1 to be continued, 2 never to be seen again, 3 unknown."""
    killed = started(home)
    for number in (0, 1, 2):
        killed.trial_started(trial(number))
    report(killed, 0, 100)
    report(killed, 1, 100)
    killed._delivery.close(PATIENCE)  # type: ignore[union-attr]  # the queue stops here; no run was told
    assert set(View(home).statuses().values()) == {"RUNNING"}

    rows = [trial(0, "finished"), trial(1), trial(2), trial(3, "pruned")]
    resumed = started(home)
    resumed.reconcile(rows)
    resumed.trial_started(trial(1))
    report(resumed, 1, 100, 200)  # from its checkpoint at 0: step 100 comes again
    resumed.trial_ended(trial(1, "finished"))
    resumed.answered({}, {})
    resumed.close(PATIENCE)

    view = View(home)
    assert view.statuses() == {
        "points": "FINISHED",
        "dense": "FINISHED",
        "points · search 0": "FINISHED",
        "points · search 1": "FINISHED",
        "points · search 2": "KILLED",
        "points · search 3": "KILLED",
    }
    for number in (0, 1, 3):
        assert view.points(view.trial(number)) == [(100, 0.25), (200, 0.5)]
    assert view.trial(2).data.tags["study.interrupted"] == "true"
    assert view.trial(1).data.tags["study.interrupted"] == "false"
    assert view.trial(3).data.params["learning_rate"] == "0.001"


def test_reconciling_again_changes_nothing(home: Path) -> None:
    rows = [trial(0, "finished"), trial(1, "pruned"), trial(2, "failed"), trial(3, "diverged")]
    before: list[Any] = []
    for _ in range(2):
        target = started(home)
        target.reconcile(rows)
        target.close(PATIENCE)
        view = View(home)
        before.append({run.info.run_id: (run.to_dictionary(), view.points(run)) for run in view.runs})
    assert len(before[0]) == 6
    assert before[0] == before[1]


def test_a_status_that_contradicts_the_ledger_is_repaired(home: Path) -> None:
    first = started(home)
    first.trial_started(trial(0))
    first.trial_ended(trial(0, "failed", curve=[]))
    first.close(PATIENCE)
    second = started(home)
    second.reconcile([trial(0, "finished")])
    second.close(PATIENCE)
    view = View(home)
    assert view.trial().info.status == "FINISHED"
    assert view.points(view.trial()) == [(200, 0.5), (100, 0.25)][::-1]


def test_an_interrupted_study_has_nothing_running_until_it_is_resumed(home: Path) -> None:
    first = started(home)
    first.trial_started(trial(0))
    first.interrupted()
    first.close(PATIENCE)
    view = View(home)
    assert set(view.statuses().values()) == {"KILLED"}
    assert view.arm("points").data.tags["study.interrupted"] == "true"
    assert view.arm("points").info.end_time is not None

    second = started(home)
    second.trial_started(trial(0))
    second.close(PATIENCE)
    view = View(home)
    assert set(view.statuses().values()) == {"RUNNING"}
    assert len(view.runs) == 3
    assert view.arm("points").data.tags["study.interrupted"] == "false"


def test_the_selection_replaces_the_last_one(home: Path, tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"weights")
    target = started(home)
    target.arm_selected("points", trial(3, "finished", parameters={"learning_rate": 0.1, "sigma": 2}))
    target.arm_selected(
        "points", trial(4, "finished", parameters={"learning_rate": 0.2}), [(tmp_path / "best.pt", "")]
    )
    target.close(PATIENCE)
    view = View(home)
    tags = view.arm("points").data.tags
    assert {name: text for name, text in tags.items() if name.startswith("study.selected.")} == {
        "study.selected.learning_rate": "0.2",
        "study.selected.trial_number": "4",
        "study.selected.value": "0.5",
    }
    assert view.text(view.arm("points"), "best.pt") == "weights"


def test_an_answer_is_kept_with_its_history(home: Path) -> None:
    for value in (0.5, 0.5, 0.75):  # answered, resumed without news, extended
        target = started(home)
        target.answered({"answer.md": f"Dice {value}"}, {"points": {"test_dice": value}})
        target.close(PATIENCE)
    view = View(home)
    assert view.points(view.arm("points"), "test_dice") == [(0, 0.5), (1, 0.75)]
    assert view.text(view.arm("dense"), "answer.md") == "Dice 0.75"
    assert view.statuses() == {"points": "FINISHED", "dense": "FINISHED"}


def test_an_arm_that_start_did_not_know_is_added(home: Path) -> None:
    target = started(home)
    target.trial_ended(trial(0, "finished", arm="boxes"))
    target.close(PATIENCE)
    view = View(home)
    assert view.trial().data.tags["mlflow.parentRunId"] == view.arm("boxes").info.run_id


def test_undefined_values_and_odd_names_are_logged(home: Path) -> None:
    target = started(home)
    target.trial_started(trial(0, parameters={"text": "x" * 7000, "": 1, "a//../b": 2}))
    target.trial_reported("key0", 1, {"loss (λ=1)": float("nan"), "big": float("inf"), "/slash": 1.0})
    target.close(PATIENCE)
    run = View(home).trial()
    assert run.data.params == {"text": "x" * 6000, "_": "1", "a/b": "2"}
    assert set(run.data.metrics) == {"loss _λ_1_", "big", "slash"}


@pytest.fixture
def offline(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Tracker, Any]]:
    """A started tracker and a switch that cuts it off from MLflow."""
    target = started(home)
    runs = target._arms._runs

    class Line:
        def __init__(self, client: Any) -> None:
            self.client, self.cut, self.asked = client, False, 0
            self.names: list[str] = []

        def __getattr__(self, name: str) -> Any:
            self.asked += 1
            self.names.append(name)
            if self.cut:
                raise ConnectionError("connection refused")
            return getattr(self.client, name)

    line = Line(runs._client)
    monkeypatch.setattr(runs, "_client", line)
    yield target, line
    target._delivery.close(0.0)  # type: ignore[union-attr]


def test_an_outage_holds_nobody_up_and_everything_arrives_in_order(
    home: Path, offline: tuple[Tracker, Any], caplog: pytest.LogCaptureFixture
) -> None:
    target, line = offline
    target.trial_started(trial(0))
    time.sleep(0.2)
    line.cut = True
    began = time.monotonic()
    report(target, 0, 100, 200)
    target.trial_ended(trial(0, "finished"))
    assert time.monotonic() - began < 0.1
    while "does not answer" not in caplog.text:
        time.sleep(0.01)
    line.cut = False
    target.close(PATIENCE)
    view = View(home)
    assert view.points(view.trial()) == [(100, 0.25), (200, 0.5)]
    assert view.trial().info.status == "FINISHED"


def test_of_trials_that_ended_meanwhile_only_the_end_is_told(
    home: Path, offline: tuple[Tracker, Any], caplog: pytest.LogCaptureFixture
) -> None:
    target, line = offline
    line.cut = True
    target.arm_selected("points", trial(0, "finished"))  # it waits, and all behind it
    for number in range(3):
        target.trial_started(trial(number))
        report(target, number, 100, 200)
        if number < 2:
            target.trial_ended(trial(number, "finished"))
    while "does not answer" not in caplog.text:
        time.sleep(0.01)
    time.sleep(0.1)
    line.cut, line.names = False, []
    target.close(PATIENCE)
    view = View(home)
    for number in range(3):
        assert view.points(view.trial(number)) == [(100, 0.25), (200, 0.5)]
    assert [view.trial(number).info.status for number in range(3)] == ["FINISHED", "FINISHED", "RUNNING"]
    names = Counter(line.names)
    # Of an ended trial its parameters and all its points; of the third, parameters and two reports. Besides,
    # the tags of the selection.
    assert (names["create_run"], names["log_batch"]) == (3, 2 * 2 + 3 + 1)


def test_closing_during_an_outage_ends_and_says_how_much_is_left(
    offline: tuple[Tracker, Any], caplog: pytest.LogCaptureFixture
) -> None:
    target, line = offline
    line.cut = True
    report(target, 0, 100, 200)
    began = time.monotonic()
    with caplog.at_level(logging.WARNING):
        target.close(timeout=0.3)
    assert 0.3 <= time.monotonic() - began < 2
    left = int(caplog.text.split(" events did not reach MLflow")[0].split()[-1])
    assert 2 <= left <= 4  # the two descriptions of arms may have been done before


def test_an_answer_that_was_lost_on_the_way_makes_no_second_run(
    home: Path, offline: tuple[Tracker, Any]
) -> None:
    target, line = offline
    create, calls = line.client.create_run, []

    def created_but_unheard(*arguments: Any, **named: Any) -> Any:
        calls.append(named["run_name"])
        create(*arguments, **named)
        raise ConnectionError("timed out")

    line.client.create_run = created_but_unheard
    target.trial_started(trial(0))
    target.close(PATIENCE)
    assert calls == ["points · search 0"]
    assert View(home).trial().data.params["learning_rate"] == "0.001"


def test_a_trial_that_the_ledger_knows_alone_is_delivered_with_its_pictures(
    home: Path, tmp_path: Path
) -> None:
    """Its driver died while MLflow was away."""
    (tmp_path / "samples.png").write_bytes(b"picture")
    target = started(home)
    target.reconcile([trial(0, "finished")], lambda row: [(tmp_path / "samples.png", f"of {row.key}")])
    target.close(PATIENCE)
    view = View(home)
    assert view.text(view.trial(), "of key0/samples.png") == "picture"


def test_of_two_runs_of_one_trial_the_one_with_its_end_is_kept(home: Path) -> None:
    """Left by a creation that MLflow carried out after a dead driver had given it up and repeated it."""
    first = started(home)
    first.trial_ended(trial(0, "finished"))
    first.close(PATIENCE)
    view = View(home)
    tags = {name: text for name, text in view.trial().data.tags.items() if name.startswith("study.")}
    for _ in range(3):  # ids are random: kept must be the ended one wherever it sorts
        view.client.create_run(view.experiment.experiment_id, tags={**tags, "study.state": "running"})
    second = started(home)
    second.reconcile([trial(0, "finished")])
    second.close(PATIENCE)
    assert View(home).trial().info.run_id == view.trial().info.run_id


def test_what_mlflow_refuses_is_named_and_the_rest_goes_on(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = started(home)
    target.arm_selected("points", trial(0, "finished"), [(tmp_path / "absent.pt", "")])
    target.trial_ended(trial(1, "finished"))
    target.close(PATIENCE)
    assert "did not accept the selection of 'points'" in caplog.text
    assert View(home).trial(1).info.status == "FINISHED"


def test_a_server_that_is_not_there_is_one_sentence_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{closed.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(
            UserError,
            match=rf"MLflow at {uri} cannot be used \(.*Connection refused\): .*MLFLOW_TRACKING_URI",
        ):
            tracker(tmp_path, tracking_uri=uri).start(["points"])
    assert time.monotonic() - began < 5


def test_a_server_that_never_answers_is_given_up_after_the_users_own_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(UserError, match=r"\(timed out\)"):
            tracker(tmp_path).start()
    assert 1 <= time.monotonic() - began < 4


def test_a_file_that_is_no_database_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("notes, long enough to be read as a header of a database " * 20)
    with pytest.raises(UserError, match="file is not a database"):
        tracker(tmp_path).start()


def test_a_deleted_experiment_is_not_written_to(home: Path) -> None:
    started(home).close(PATIENCE)
    view = View(home)
    view.client.delete_experiment(view.experiment.experiment_id)
    with pytest.raises(UserError, match="'pixels' is deleted: restore that or rename the study"):
        started(home)


def test_the_address_is_the_argument_then_the_environment_then_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracker(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@host:5000")
    assert tracker(tmp_path).uri == "http://***@host:5000"
    assert tracker(tmp_path, tracking_uri="sqlite:///other.db").uri == "sqlite:///other.db"


def test_nothing_may_be_told_before_the_start_and_closing_then_is_no_mistake(tmp_path: Path) -> None:
    target = tracker(tmp_path)
    target.close()
    with pytest.raises(RuntimeError, match="start"):
        target.trial_started(trial())


def test_a_database_whose_making_was_cut_off_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow does not accept half of its own tables: a kill in the first seconds would have ended a study."""
    monkeypatch.chdir(tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as first_seconds:
        first_seconds.setattr("study.mlflow_runs.os.link", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker(tmp_path).start(["points"])
    assert not (tmp_path / "mlflow.db").exists()
    started(tmp_path).close(PATIENCE)
    client: Any = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert client.get_experiment_by_name(STUDY) is not None


def test_a_database_that_another_driver_just_made_is_kept(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, link = (home / "mlflow.db").read_bytes(), os.link
    target = tmp_path / "new" / "mlflow.db"

    def too_late(draft: Path, path: Path) -> None:
        path.write_bytes(theirs)
        link(draft, path)

    monkeypatch.setattr("study.mlflow_runs.os.link", too_late)
    _prepare_sqlite(target)
    assert target.read_bytes() == theirs
    assert list(target.parent.iterdir()) == [target]
