"""The tracker against a real MLflow server: lost answers, late ones, halves of files, its database away."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from search_spaces import UserError
from study.tracking import Tracker
from tests.servers.line import (
    Line,
    Request,
    at_half_of_an_upload,
    carrying_out_late,
    losing_every_answer_once,
)
from tests.servers.servers import SECRETS, MlflowServer, Postgres, until
from tests.unit.study.test_tracking import STUDY, report, tracker, trial

pytestmark = [pytest.mark.servers, pytest.mark.timeout(300)]

PATIENCE = 120.0


class Setting:
    """A study of its own on the server, reached over a line that can be broken."""

    def __init__(self, server: MlflowServer, folder: Path) -> None:
        self.server, self.line, self.folder = server, Line(server.port), folder
        self.study = f"study {uuid.uuid4().hex}"
        self.client: Any = mlflow.MlflowClient(tracking_uri=server.uri)

    def started(self) -> Tracker:
        target = tracker(self.folder, study=self.study, tracking_uri=self.line.uri)
        target.start(["points"])
        return target

    def runs(self, kind: str = "trial") -> list[Any]:
        experiment = self.client.get_experiment_by_name(self.study)
        found = self.client.search_runs([experiment.experiment_id])
        return [run for run in found if run.data.tags["study.kind"] == kind]

    def points(self, run: Any) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, "dice")
        return sorted((point.step, point.value) for point in history)

    def download(self, run: Any, name: str) -> bytes:
        return Path(
            self.client.download_artifacts(run.info.run_id, name, str(self.folder / "downloads"))
        ).read_bytes()


@pytest.fixture
def setting(
    mlflow_server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Setting]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    (tmp_path / "downloads").mkdir()
    one = Setting(mlflow_server, tmp_path)
    yield one
    one.line.close()


def test_every_answer_is_lost_once_and_everything_is_there_once(setting: Setting) -> None:
    (setting.folder / "samples.png").write_bytes(b"picture" * 1000)
    target = setting.started()
    fault, lost = losing_every_answer_once()
    setting.line.fail(fault)
    target.trial_started(trial(0))
    report(target, 0, 100, 200)
    target.trial_ended(trial(0, "finished"), [(setting.folder / "samples.png", "samples")])
    target.trial_ended(trial(1, "finished", arm="an arm that start did not know"))
    target.answered({"answer.md": "the answer"}, {"points": {"test_dice": 0.5}})
    target.close(PATIENCE)
    kinds = {path.rpartition("/")[2] for _, path in lost}
    assert {"create", "log-batch", "update", "samples.png", "answer.md"} <= kinds
    runs = {run.info.run_name: run for run in setting.runs()}
    assert len(runs) == len(setting.runs()) == 2
    one = runs["points · search 0"]
    assert (one.info.status, setting.points(one)) == ("FINISHED", [(100, 0.25), (200, 0.5)])
    assert setting.download(one, "samples/samples.png") == b"picture" * 1000
    arms = {run.info.run_name: run for run in setting.runs("arm")}
    assert len(arms) == len(setting.runs("arm")) == 2
    for arm in arms.values():
        assert setting.download(arm, "answer.md") == b"the answer"
        assert arm.info.status == "FINISHED"
    history = setting.client.get_metric_history(arms["points"].info.run_id, "test_dice")
    assert [(point.step, point.value) for point in history] == [(0, 0.5)]


def test_a_creation_that_is_carried_out_late_leaves_one_run(setting: Setting) -> None:
    target = setting.started()
    setting.line.fail(carrying_out_late("/runs/create", seconds=4))
    target.trial_started(trial(0))
    until(lambda: len(setting.runs()) == 2, "the late creation", 60)
    report(target, 0, 100, 200)
    target.trial_ended(trial(0, "finished"))
    target.answered({}, {})
    target.close(PATIENCE)
    (run,) = setting.runs()
    assert (run.info.status, setting.points(run)) == ("FINISHED", [(100, 0.25), (200, 0.5)])


def test_a_run_that_came_twice_to_a_dead_driver_is_one_after_the_next_start(setting: Setting) -> None:
    """Kept is the one that has the trial's end."""
    target = setting.started()
    setting.line.fail(carrying_out_late("/runs/create", seconds=4))
    target.trial_ended(trial(0, "finished"))
    target.close(PATIENCE)
    until(lambda: len(setting.runs()) == 2, "the late creation", 60)
    second = setting.started()
    second.reconcile([trial(0, "finished")])
    second.close(PATIENCE)
    (run,) = setting.runs()
    assert (run.info.status, setting.points(run)) == ("FINISHED", [(100, 0.25), (200, 0.5)])


def test_a_report_that_is_carried_out_when_its_driver_is_dead_and_the_next_is_done_is_one_point(
    setting: Setting,
) -> None:
    curve = [{"iteration": i, "dice": i / 400, "reported": 1_700_000_000.0 + i / 10} for i in (100, 200)]
    target = setting.started()
    target.trial_started(trial(0))
    until(lambda: [run for run in setting.runs() if run.data.params], "the run with its parameters", 60)
    stuck: list[Request] = []

    def keep_one(request: Request) -> bool:
        if stuck or not request.path.endswith("/log-batch"):
            return False
        stuck.append(request)
        return True

    setting.line.fail(keep_one)
    target.trial_reported("key0", 100, {name: curve[0][name] for name in ("dice", "reported")})
    until(lambda: stuck, "the report", 60)
    target.close(0.0)  # no second attempt: as if killed
    second = setting.started()
    second.reconcile([trial(0, "finished", curve=curve)])
    second.answered({}, {})
    second.close(PATIENCE)
    assert stuck[0].forward().getresponse().status == 200
    (run,) = setting.runs()
    assert (run.info.status, setting.points(run)) == ("FINISHED", [(100, 0.25), (200, 0.5)])


def test_the_server_is_killed_in_the_middle_of_an_upload(setting: Setting) -> None:
    """What came of the file is replaced by the whole file, and only then does the trial count as ended."""
    content = bytes(range(256)) * 40_000
    (setting.folder / "model.pt").write_bytes(content)
    target = setting.started()
    killed = threading.Event()

    def kill() -> None:
        setting.server.kill()
        killed.set()

    setting.line.fail(at_half_of_an_upload(kill))
    target.trial_started(trial(0))
    target.trial_ended(trial(0, "finished"), [(setting.folder / "model.pt", "model")])
    target.trial_ended(trial(1, "finished"))
    assert killed.wait(60)
    time.sleep(5)
    setting.server.start()
    target.answered({}, {})
    target.close(PATIENCE)
    first, second = sorted(setting.runs(), key=lambda run: str(run.info.run_name))
    assert setting.download(first, "model/model.pt") == content
    assert [run.info.status for run in (first, second)] == ["FINISHED", "FINISHED"]


def test_a_driver_that_died_in_the_middle_of_an_upload_leaves_it_to_the_next(setting: Setting) -> None:
    (setting.folder / "samples.png").write_bytes(b"picture" * 100_000)
    target = setting.started()
    cut = threading.Event()
    setting.line.fail(at_half_of_an_upload(cut.set))
    target.trial_ended(trial(0, "finished"), [(setting.folder / "samples.png", "samples")])
    assert cut.wait(60)
    target.close(0.0)  # no second attempt: as if killed
    second = setting.started()
    second.reconcile([trial(0, "finished")], lambda row: [(setting.folder / "samples.png", "samples")])
    second.close(PATIENCE)
    (run,) = setting.runs()
    assert run.info.status == "FINISHED"
    assert setting.download(run, "samples/samples.png") == b"picture" * 100_000


def test_its_database_is_away(setting: Setting, postgres: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    """The server answers, and says that it cannot: that is an outage, and nothing is skipped."""
    target = setting.started()
    target.trial_started(trial(0))
    postgres.stop()
    report(target, 0, 100, 200)
    target.trial_ended(trial(0, "finished"))
    until(lambda: "events are kept" in caplog.text, "the outage's being noticed", 60)
    time.sleep(3)
    postgres.start()
    target.close(PATIENCE)
    assert "skipped" not in caplog.text
    (run,) = setting.runs()
    assert (run.info.status, setting.points(run)) == ("FINISHED", [(100, 0.25), (200, 0.5)])


def test_straight_into_postgresql_without_a_server(
    postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its address with the password is MLflow's own; an outage is the same as a server's."""
    uri = postgres.create(f"mlflow_{uuid.uuid4().hex}")
    target = tracker(tmp_path, tracking_uri=uri)
    target.start(["points"])
    target.trial_started(trial(0))
    postgres.stop()
    report(target, 0, 100, 200)
    until(lambda: "events are kept" in caplog.text, "the outage's being noticed", 60)
    with pytest.raises(
        UserError, match=r"^MLflow at postgresql\+psycopg://\*\*\*@127.* cannot be used"
    ) as absent:
        tracker(tmp_path, tracking_uri=uri).start(["points"])
    postgres.start()
    target.trial_ended(trial(0, "finished"))
    target.close(PATIENCE)
    assert not any(secret in caplog.text + str(absent.value) for secret in SECRETS)
    client: Any = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(STUDY)
    found = client.search_runs([experiment.experiment_id], "tags.`study.kind` = 'trial'")
    assert [run.info.status for run in found] == ["FINISHED"]
    history = client.get_metric_history(found[0].info.run_id, "dice")
    assert sorted((point.step, point.value) for point in history) == [(100, 0.25), (200, 0.5)]


def test_the_server_refuses_a_foreign_host(mlflow_server: MlflowServer) -> None:
    request = urllib.request.Request(
        f"{mlflow_server.uri}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default",
        headers={"Host": "evil.example"},
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)
