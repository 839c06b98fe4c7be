"""Whole toy studies with Optuna in PostgreSQL and MLflow behind HTTP: undisturbed, and through outages."""

from __future__ import annotations

import functools
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from study.home import Home, StudyFolder
from study.results import TrialRow
from study.run_format import identity_of
from tests.chaos import harness
from tests.chaos.harness import Driver, essence, trace_lines, wait_for
from tests.ray import driver
from tests.ray.toy import ORDERS, picture
from tests.servers.servers import MlflowServer, Postgres

pytestmark = [pytest.mark.servers, pytest.mark.ray, pytest.mark.timeout(600)]

Start = Callable[..., Driver]
SAMPLES_BYTES = 300_000


class Servers:
    """One study on both servers, and what must be true of it at its end."""

    def __init__(self, home: Path, start: Start, optuna_url: str, mlflow_server: MlflowServer) -> None:
        self.home, self.optuna_url, self.mlflow = home, optuna_url, mlflow_server
        self.begin = start
        client: Any = mlflow.MlflowClient(tracking_uri=mlflow_server.uri)
        self.client = client
        mlflow_server.set_aside()

    def orders(self, **orders: Any) -> None:
        (self.home / ORDERS).write_text(json.dumps({"samples": SAMPLES_BYTES, **orders}))

    def start(self, *arguments: str) -> Driver:
        return self.begin(
            "run", driver.NAME, *arguments,
            MLFLOW_TRACKING_URI=self.mlflow.uri, STUDY_OPTUNA_STORAGE=self.optuna_url,
        )  # fmt: skip

    def folder(self, study: str = driver.NAME) -> StudyFolder:
        return Home(self.home).study(study)

    def check(self, study: str = driver.NAME) -> list[TrialRow]:
        """Ledger, Optuna and MLflow tell the same story, each thing once, with every picture whole."""
        folder = self.folder(study)
        rows = folder.ledger.trials()
        harness.assert_ended_once(folder)
        harness.assert_optuna_agrees(folder, rows, self.optuna_url)
        harness.assert_mlflow_agrees(self.home, rows, self.mlflow.uri, study)
        self.check_artifacts(study, rows)
        return rows

    def check_artifacts(self, study: str, rows: list[TrialRow]) -> None:
        experiment = self.client.get_experiment_by_name(study)
        assert experiment.artifact_location.startswith("mlflow-artifacts:")
        runs = self.client.search_runs([experiment.experiment_id], max_results=1000)
        by_identity = {
            identity_of(run.data.tags): run for run in runs if run.data.tags["study.kind"] == "trial"
        }
        for row in rows:
            if row.state == "finished":
                path = self._download(by_identity[row.identity], "samples/samples.png")
                assert path.read_bytes() == picture(row.key, SAMPLES_BYTES)
        answer = (self.folder(study).path / "report" / "answer.json").read_text()
        for run in runs:
            if run.data.tags["study.kind"] == "arm":
                assert self._download(run, "answer.json").read_text() == answer

    def _download(self, run: Any, name: str) -> Path:
        folder = self.home / "downloads" / run.info.run_id
        folder.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run.info.run_id, name, str(folder)))


@pytest.fixture
def servers(
    home: Path, start: Start, optuna_url: str, mlflow_server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Servers:
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    return Servers(home, start, optuna_url, mlflow_server)


def ended(one: Driver) -> str:
    """Waits for a driver that must succeed; what it said on stderr."""
    code = one.wait(300)
    assert code == 0, one.errors()
    return one.errors()


def pulse(servers: Servers, lines: int) -> None:
    """Waits for so many more lines of work."""
    goal = trace_lines(servers.folder()) + lines
    wait_for(lambda: trace_lines(servers.folder()) >= goal, 150, "progress")


def test_two_studies_at_once_on_servers_equal_those_on_files(
    servers: Servers, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Bit for bit; on an empty database that both fill with tables at once."""
    servers.orders()
    first, second = servers.start(), servers.start("--fork", "other")
    assert "answer" not in ended(first)
    ended(second)
    assert essence(servers.check()) == undisturbed
    assert len(servers.check("other")) == len(undisturbed)
    assert not list(servers.home.rglob("*.db"))


def test_postgresql_is_away_for_20_seconds(
    servers: Servers, postgres: Postgres, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Which holds up Optuna and the server of MLflow alike: both are waited for, and told about once."""
    servers.orders(sleep=0.3)
    one = servers.start()
    pulse(servers, 20)
    postgres.stop()
    time.sleep(20)
    assert one.process.poll() is None
    postgres.start()
    said = ended(one)
    assert said.count("Optuna's database postgresql+psycopg://***@") == 2, said
    assert said.count("does not answer (") <= 2, said
    assert said.count("the study waits for it") == 1, said
    assert "answers again after" in said
    assert essence(servers.check()) == undisturbed


def test_postgresql_crashes_again_and_again(
    servers: Servers, postgres: Postgres, undisturbed: list[tuple[Any, ...]]
) -> None:
    servers.orders(sleep=0.2)
    one = servers.start()
    for _ in range(4):
        pulse(servers, 12)
        postgres.stop(signal.SIGKILL)
        postgres.start()
    ended(one)
    assert essence(servers.check()) == undisturbed


def test_the_driver_dies_while_postgresql_is_away(
    servers: Servers, postgres: Postgres, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Meanwhile its command says so in one sentence; afterwards it delivers the rest from the ledger."""
    servers.orders(sleep=0.3)
    one = servers.start()
    pulse(servers, 20)
    postgres.stop()
    wait_for(lambda: "the study waits for it" in one.errors(), 60, "the outage's being noticed")
    one.finish()
    early = servers.begin(
        "run", driver.NAME, "--optuna-storage", servers.optuna_url,
        MLFLOW_TRACKING_URI=f"sqlite:///{servers.home / 'elsewhere.db'}",
    )  # fmt: skip
    assert early.wait() == 2
    assert early.errors().count("\n") == 1
    assert "Optuna's database postgresql+psycopg://***@127.0.0.1" in early.errors()
    postgres.start()
    ended(servers.start())
    assert essence(servers.check()) == undisturbed


def test_the_mlflow_server_is_killed_and_comes_back(
    servers: Servers, undisturbed: list[tuple[Any, ...]]
) -> None:
    """Training goes on meanwhile, and everything arrives."""
    servers.orders(sleep=0.5)
    one = servers.start()
    pulse(servers, 10)
    servers.mlflow.kill()
    pulse(servers, 10)
    servers.mlflow.start()
    said = ended(one)
    assert said.count("events are kept and sent later") == said.count("answers again") == 1, said
    assert "skipped" not in said
    assert essence(servers.check()) == undisturbed


def test_the_study_ends_without_the_mlflow_server_and_the_same_command_delivers(
    servers: Servers, undisturbed: list[tuple[Any, ...]]
) -> None:
    servers.orders()
    one = servers.start()
    pulse(servers, 5)
    servers.mlflow.kill()
    assert "events did not reach MLflow" in ended(one)
    assert essence(servers.folder().ledger.trials()) == undisturbed
    servers.mlflow.start()
    ended(servers.start())
    assert essence(servers.check()) == undisturbed


def test_a_wrong_password_is_one_sentence_without_it(servers: Servers) -> None:
    wrong = servers.optuna_url.replace("geheim", "falsch-geheim")
    one = servers.begin(
        "run", driver.NAME, MLFLOW_TRACKING_URI=servers.mlflow.uri, STUDY_OPTUNA_STORAGE=wrong
    )
    assert one.wait() == 2
    assert "password authentication failed" in one.errors()
    assert "falsch" not in one.errors()
    assert servers.client.get_experiment_by_name(driver.NAME) is None  # nothing was begun anywhere


def test_the_same_study_from_two_homes_does_not_mix(
    servers: Servers, dataset: Path, tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """The second is refused while the first runs and after; moved to another place the first goes on."""
    servers.orders(sleep=0.3)
    one = servers.start()
    pulse(servers, 10)
    other = tmp_path / "another lab"
    other.mkdir()
    for url, service in (
        (servers.optuna_url, "Optuna's database postgresql+psycopg://***@"),
        (f"sqlite:///{tmp_path / 'own.db'}", "MLflow at http://"),
    ):
        refused = _begin_in(
            other, dataset, "run", driver.NAME,
            MLFLOW_TRACKING_URI=servers.mlflow.uri, STUDY_OPTUNA_STORAGE=url,
        )  # fmt: skip
        assert refused.wait() == 2, refused.errors()
        assert refused.errors().startswith(f"Study 'toy' in {service}")
        assert "was begun in" in refused.errors()
        assert refused.errors().count("\n") == 1
    assert Home(other).studies() == []
    one.finish()
    servers.home.rename(tmp_path / "moved")
    servers.home = tmp_path / "moved"
    servers.begin = functools.partial(_begin_in, servers.home, dataset)
    servers.orders()
    ended(servers.start())
    assert essence(servers.check()) == undisturbed


def _begin_in(home: Path, dataset: Path, *arguments: str, **environment: str) -> Driver:
    """As the fixture `start`, in another home."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return Driver(home, dataset, *arguments)
