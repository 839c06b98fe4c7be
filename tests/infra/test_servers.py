"""Ray's nodes and the servers, really started by the commands of compose.yaml, and asked what Docker,
Prometheus, Grafana and a study would ask them. Ports and folders are the test's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from search_spaces import UserError
from study import storage
from tests.infra.files import INFRA, ROOT, SECRETS, compose, interpolated, words
from tests.infra.test_grafana import OF_TRIALS, ON_GPUS, expressions, selectors

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(280)]

PROGRAMS = Path(sys.executable).parent
NOT_HERE = ON_GPUS | set(OF_TRIALS)
"""What needs a GPU, or a study that runs: `tests/ray/test_exported.py` has one."""

DRIVER = """
import os, signal, sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False)
@ray.remote(num_cpus=1)
class Trial:
    def process(self):
        return os.getpid()
group = ray.util.placement_group([{"CPU": 1}])
ray.get(group.ready())
lost = Trial.options(placement_group=group).remote()
os.kill(ray.get(lost.process.remote()), signal.SIGKILL)
trial = Trial.options(placement_group=group).remote()
ray.get(trial.process.remote())
print("at work", flush=True)
time.sleep(600)
"""


def free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def instead(command: list[str], **values: object) -> list[str]:
    """The command with other values of options that it has: what stands in the file must be there."""
    command = list(command)
    for name, value in values.items():
        command[command.index(f"--{name.replace('_', '-')}") + 1] = str(value)
    return command


def answer(url: str, **headers: str) -> tuple[int, str]:
    """(status, text); 0 when nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def wait_until(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


@contextlib.contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs it in a session of its own, and ends all of that; never by name: others use Ray here too."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "STUDY_"))}
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(PROGRAMS / command[0]), *command[1:]],
            env={**clean, **environment},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = interpolated(compose(), SECRETS)["services"][name]
    return found


def health(name: str, port: int) -> str:
    """The address that a service's health check asks, on the test's port."""
    return re.sub(r":\d+/", f":{port}/", service(name)["healthcheck"]["test"][-1])


class Node:
    """A service of compose.yaml that runs `ray start`; `changes` are other values of its options."""

    def __init__(self, name: str, folder: Path, **changes: object) -> None:
        self.metrics, self.agent = free_ports(2)
        self.log = folder / f"{name}.log"
        self.command = [
            *instead(
                words(service(name)["command"]),
                metrics_export_port=self.metrics,
                object_store_memory=100_000_000,
                **changes,
            ),
            *("--dashboard-agent-listen-port", str(self.agent)),
            *("--temp-dir", str(folder / "r")),
        ]
        self.environment: dict[str, str] = service(name)["environment"]

    def healthy(self) -> bool:
        return answer(health("worker", self.agent)) == (200, "success")

    def exported(self) -> dict[str, set[str]]:
        """The labels of every metric that Prometheus would read now."""
        found: dict[str, set[str]] = {}
        for line in answer(f"http://127.0.0.1:{self.metrics}/metrics")[1].splitlines():
            sample = re.match(r"(\w+)(?:\{(.*)\})? \S+$", line)
            if sample:
                found.setdefault(sample[1], set()).update(re.findall(r'(\w+)="', sample[2] or ""))
        return found


class Cluster:
    """The head and one worker."""

    def __init__(self, folder: Path) -> None:
        gcs, self.dashboard, client = free_ports(3)
        self.address = f"127.0.0.1:{gcs}"
        self.head = Node("head", folder, port=gcs, dashboard_host="127.0.0.1", dashboard_port=self.dashboard)
        self.head.command += ["--ray-client-server-port", str(client)]
        self.head.environment["RAY_ADDRESS"] = self.address
        self.worker = Node("worker", folder, address=self.address)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        head, worker = self.head, self.worker
        with started(head.command, head.environment, head.log):
            wait_until(lambda: answer(health("head", self.dashboard))[0] == 200, 100, head.log)
            with started(worker.command, worker.environment, worker.log):
                wait_until(lambda: head.healthy() and worker.healthy(), 100, worker.log)
                yield

    def exported(self) -> dict[str, set[str]]:
        both = self.head.exported(), self.worker.exported()
        return {name: both[0].get(name, set()) | both[1].get(name, set()) for name in {*both[0], *both[1]}}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Its folder has a short name: the paths of sockets may not be long."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        one = Cluster(Path(folder))
        with one.running():
            yield one


def test_health_checks_speak_the_truth_and_need_no_token(cluster: Cluster) -> None:
    assert answer(health("head", cluster.dashboard)) == (200, "success")
    assert cluster.worker.healthy()
    assert answer(health("head", free_ports(1)[0]))[0] == 0


def test_only_who_has_the_token_may_start_programs(cluster: Cluster) -> None:
    jobs = f"http://127.0.0.1:{cluster.dashboard}/api/jobs/"
    assert answer(jobs)[0] == 401
    assert answer(jobs, Authorization="Bearer " + "b" * 32)[0] in (401, 403)
    assert answer(jobs, Authorization=f"Bearer {SECRETS['RAY_AUTH_TOKEN']}")[0] == 200


@pytest.fixture(scope="module")
def exported(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What the nodes export while a trial is at work, and another has lost its process."""
    folder = tmp_path_factory.mktemp("driver")
    (folder / "driver.py").write_text(DRIVER)
    log = folder / "driver.log"
    with started(["python", str(folder / "driver.py"), cluster.address], cluster.head.environment, log):
        wait_until(lambda: "at work" in log.read_text(), 100, log)
        wanted = {metric for one in expressions() for metric, _ in selectors(one)} - NOT_HERE
        with contextlib.suppress(AssertionError):  # the test below names what is missing
            wait_until(lambda: wanted <= set(cluster.exported()), 45, log)
        return cluster.exported()


def test_every_query_of_the_dashboard_is_exported(exported: dict[str, set[str]]) -> None:
    asked = [(metric, labels) for one in expressions() for metric, labels in selectors(one)]
    assert {metric for metric, _ in asked} - NOT_HERE - set(exported) == set()
    for metric, labels in asked:
        if metric not in NOT_HERE:
            assert labels - {"instance"} <= exported[metric], metric  # Prometheus adds the instance


def local(url: str, port: int) -> str:
    """An address of compose.yaml's PostgreSQL, on this machine."""
    assert "@postgres:5432/" in url
    return url.replace("@postgres:5432/", f"@127.0.0.1:{port}/")


@contextlib.contextmanager
def mlflow_server(folder: Path, backend: Callable[[str], str]) -> Iterator[int]:
    """Its port. The command is the file's, with the folder and the backend of the test."""
    (port,) = free_ports(1)
    raw = interpolated(compose(), {**SECRETS, "MLFLOW_PORT": str(port)})
    command = words(raw["services"]["mlflow"]["command"])
    command = instead(
        command,
        host="127.0.0.1",
        port=port,
        workers=1,
        backend_store_uri=backend(command[command.index("--backend-store-uri") + 1]),
        artifacts_destination=folder / "artifacts",
    )
    log = folder / "log"
    with started(command, service("mlflow")["environment"], log):
        wait_until(lambda: answer(health("mlflow", port))[0] == 200, 120, log)
        yield port


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("mlflow")
    with mlflow_server(folder, lambda _: f"sqlite:///{folder / 'mlflow.db'}") as port:
        yield port


SEARCH = "api/2.0/mlflow/experiments/search?max_results=1"


def test_mlflow_answers_to_its_own_names_only(mlflow: int) -> None:
    url = f"http://127.0.0.1:{mlflow}/{SEARCH}"
    assert answer(url)[0] == 200
    assert answer(url, Host="mlflow:5000")[0] == 200
    assert answer(url, Host=f"localhost:{mlflow}")[0] == 200
    assert answer(url, Host="elsewhere.example")[0] == 403


def test_mlflow_refuses_other_origins(mlflow: int) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{mlflow}/api/2.0/mlflow/experiments/create",
        data=b'{"name": "x"}',
        headers={"Content-Type": "application/json", "Origin": "http://elsewhere.example"},
    )
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(request, timeout=10)


def test_artifacts_go_through_the_server(mlflow: int, tmp_path: Path) -> None:
    import mlflow as client_of_mlflow

    client = client_of_mlflow.MlflowClient(tracking_uri=f"http://127.0.0.1:{mlflow}")
    experiment = client.get_experiment(client.create_experiment("proxied"))
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    run = client.create_run(experiment.experiment_id)
    (tmp_path / "note.txt").write_text("here")
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["note.txt"]


@pytest.fixture
def postgresql() -> Iterator[int]:
    """Debian's server as the image of compose.yaml sets it up: one user with a password, and the SQL file."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL's server is not installed")
    programs, (port,) = found[-1].parent, free_ports(1)
    made = service("postgres")["environment"]
    other: Any = {"user": "postgres"} if os.getuid() == 0 else {}  # the server refuses to run as root
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder = Path(name)
        (folder / "password").write_text(made["POSTGRES_PASSWORD"])
        (folder / "databases.sql").write_text((INFRA / "postgres" / "databases.sql").read_text())
        if other:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "postgres")

        def call(program: str, *options: str) -> None:
            environment = {**os.environ, "PGPASSWORD": made["POSTGRES_PASSWORD"]}
            command = [str(programs / program), *options]
            subprocess.run(command, check=True, capture_output=True, cwd=folder, env=environment, **other)

        user = ["--username", made["POSTGRES_USER"]]
        call("initdb", "--pgdata=data", "--auth=scram-sha-256", "--pwfile=password", *user)
        listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        call("pg_ctl", "--pgdata=data", "--wait", "--log=log", "--options", listen, "start")
        try:
            at = ["--host=127.0.0.1", f"--port={port}", *user]
            call("psql", *at, "--dbname=postgres", f"--command=CREATE DATABASE {made['POSTGRES_DB']}")
            call("psql", *at, f"--dbname={made['POSTGRES_DB']}", "--file=databases.sql")
            yield port
        finally:
            call("pg_ctl", "--pgdata=data", "--mode=immediate", "stop")


def test_mlflow_and_optuna_keep_their_records_in_postgresql(
    postgresql: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the addresses of compose.yaml, in which no password stands: it comes from the environment."""
    pytest.importorskip("psycopg")
    with mlflow_server(tmp_path, lambda url: local(url, postgresql)) as port:
        assert answer(f"http://127.0.0.1:{port}/{SEARCH}")[0] == 200
    told: dict[str, str] = service("head")["environment"]
    url = local(told["STUDY_OPTUNA_STORAGE"], postgresql)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises(UserError, match="password"):
        storage.open_storage(tmp_path, url)
    monkeypatch.setenv("PGPASSWORD", told["PGPASSWORD"])
    assert storage.open_storage(tmp_path, url).get_all_studies() == []


def test_a_study_runs_as_in_the_head(cluster: Cluster, mlflow: int, postgresql: int, tmp_path: Path) -> None:
    """`docker compose exec head python -m study run`: the environment says where everything is."""
    pytest.importorskip("psycopg")
    told = cluster.head.environment
    environment = {
        **told,
        "STUDY_HOME": str(tmp_path / "runs"),
        "STUDY_OPTUNA_STORAGE": local(told["STUDY_OPTUNA_STORAGE"], postgresql),
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{mlflow}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "log"
    command = ["python", "-m", "study", "run", "smoke", "--set", "iterations=8"]
    with started(command, environment, log) as process:
        wait_until(lambda: process.poll() is not None, 240, log)
    assert process.returncode == 0, log.read_text()[-3000:]
    assert answer(f"http://127.0.0.1:{mlflow}/{SEARCH}&filter=name%3D%27smoke%27")[1].count('"smoke"') >= 1
    assert not (tmp_path / "runs" / "mlflow.db").exists()
    assert not list((tmp_path / "runs" / "smoke").glob("optuna.db*"))
