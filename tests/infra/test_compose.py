"""compose.yaml: who starts after whom, who reaches what, and that no password stands in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.infra.files import (
    INFRA,
    SECRETS,
    MissingError,
    compose,
    document,
    interpolated,
    strings,
    variables,
    words,
)

SERVICES = {"head", "worker", "worker-gpu", "postgres", "mlflow", "prometheus", "grafana"}
KEYS = {
    "build", "cap_drop", "command", "cpus", "depends_on", "deploy", "environment", "healthcheck", "image",
    "init", "mem_limit", "ports", "profiles", "restart", "security_opt", "shm_size", "stop_grace_period",
    "volumes",
}  # fmt: skip
"""What of the compose specification's services is used here; a misspelt key is none of them."""
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|KEY", re.IGNORECASE)


@pytest.fixture(scope="module")
def raw() -> dict[str, Any]:
    return compose()


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """As Docker sees them when only the passwords are set."""
    found: dict[str, Any] = interpolated(compose(), SECRETS)["services"]
    return found


def test_services_and_their_keys(raw: dict[str, Any]) -> None:
    assert set(raw["services"]) == SERVICES
    assert {key for key in raw if not key.startswith("x-")} == {"name", "services", "volumes"}
    assert set().union(*raw["services"].values()) == KEYS


def test_every_service_is_watched_and_waits_for_healthy_ones(services: dict[str, Any]) -> None:
    for name, one in services.items():
        assert set(one["healthcheck"]) == {"test", "interval", "timeout", "retries", "start_period"}, name
        assert one["healthcheck"]["test"][0] == "CMD", name
        assert one["restart"] == "unless-stopped", name
        for other, how in one.get("depends_on", {}).items():
            assert other in services
            assert how == {"condition": "service_healthy"}
    waits = {name: set(one.get("depends_on", {})) for name, one in services.items()}
    assert waits["head"] == {"postgres", "mlflow"}
    assert waits["worker"] == waits["worker-gpu"] == {"head"}
    assert waits["mlflow"] == {"postgres"}
    assert waits["grafana"] == {"prometheus"}


def test_ports_are_published_on_loopback_unless_told(raw: dict[str, Any], services: dict[str, Any]) -> None:
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {
        "head": ["127.0.0.1:8265:8265"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    told = interpolated(raw, {**SECRETS, "BIND_ADDRESS": "192.0.2.1", "MLFLOW_PORT": "5050"})["services"]
    assert told["mlflow"]["ports"] == ["192.0.2.1:5050:5000"]
    assert all(port.startswith("192.0.2.1:") for one in told.values() for port in one.get("ports", []))


def test_passwords_come_from_the_environment_only(raw: dict[str, Any]) -> None:
    needed = {name for name, kind, _ in variables(raw) if kind == "?"}
    assert needed == set(SECRETS)
    for one in raw["services"].values():
        for name, value in one.get("environment", {}).items():
            if SECRET.search(name):
                assert re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value), name
    for text in strings(raw):
        assert not re.search(r"://[^/@\s]*:[^/@\s]*@", text), text  # user:password@host


@pytest.mark.parametrize("name", SECRETS)
def test_a_missing_password_is_asked_for_in_a_sentence(raw: dict[str, Any], name: str) -> None:
    with pytest.raises(MissingError, match=rf"^Set {name}\b.*\.$"):
        interpolated(raw, {k: v for k, v in SECRETS.items() if k != name})


def test_only_the_driver_and_the_servers_know_the_databases_password(services: dict[str, Any]) -> None:
    password = SECRETS["POSTGRES_PASSWORD"]
    assert {n for n, one in services.items() if password in one.get("environment", {}).values()} == {
        "head", "mlflow", "postgres",
    }  # fmt: skip


def test_ray_nodes_share_a_token_and_the_home(services: dict[str, Any]) -> None:
    for name in ("head", "worker", "worker-gpu"):
        one = services[name]
        assert one["environment"]["RAY_AUTH_MODE"] == "token"
        assert one["environment"]["RAY_AUTH_TOKEN"] == SECRETS["RAY_AUTH_TOKEN"]
        assert "home:/home/study/runs" in one["volumes"]
        assert one["image"] == services["mlflow"]["image"] == "weak-supervision-study:cpu"
    head, worker = words(services["head"]["command"]), words(services["worker"]["command"])
    assert head[head.index("--num-cpus") + 1] == "0"
    assert worker[worker.index("--num-cpus") + 1] == services["worker"]["cpus"]
    assert worker[worker.index("--address") + 1] == f"head:{head[head.index('--port') + 1]}"


def test_the_servers_are_those_that_the_driver_is_told(services: dict[str, Any]) -> None:
    told, postgres = services["head"]["environment"], services["postgres"]
    assert told["STUDY_OPTUNA_STORAGE"] == "postgresql+psycopg://study@postgres:5432/optuna"
    made = postgres["environment"]
    assert (made["POSTGRES_USER"], made["POSTGRES_DB"]) == ("study", "optuna")
    command = words(services["mlflow"]["command"])
    assert told["MLFLOW_TRACKING_URI"] == f"http://mlflow:{command[command.index('--port') + 1]}"
    backend = command[command.index("--backend-store-uri") + 1]
    assert backend == "postgresql+psycopg://study@postgres:5432/mlflow"
    assert "CREATE DATABASE mlflow;" in (INFRA / "postgres" / "databases.sql").read_text()


def test_mlflow_checks_hosts_and_origins(raw: dict[str, Any]) -> None:
    environment = {**SECRETS, "MLFLOW_PORT": "5050", "MLFLOW_HOST": "lab.example:5050"}
    command = words(interpolated(raw, environment)["services"]["mlflow"]["command"])
    hosts = command[command.index("--allowed-hosts") + 1].split(",")
    origins = command[command.index("--cors-allowed-origins") + 1].split(",")
    assert hosts == ["mlflow:5000", "localhost:5050", "127.0.0.1:5050", "lab.example:5050"]
    assert origins == [f"http://{host}" for host in hosts[1:]]
    assert "--disable-security-middleware" not in command
    assert "--no-serve-artifacts" not in command
    assert command[command.index("--artifacts-destination") + 1] in services_volumes(raw, "mlflow")


def services_volumes(raw: dict[str, Any], name: str) -> list[str]:
    return [volume.split(":")[1] for volume in raw["services"][name]["volumes"]]


def test_volumes_exist(raw: dict[str, Any], services: dict[str, Any]) -> None:
    sources = {volume.split(":")[0] for one in services.values() for volume in one["volumes"]}
    files = {source for source in sources if source.startswith(".")}
    assert sources - files == set(raw["volumes"])
    for source in files:
        assert (INFRA / source).exists(), source
    for one in services.values():  # what lies in the repository is read, never written
        assert all(volume.endswith(":ro") for volume in one["volumes"] if volume.startswith("."))


def test_our_containers_hold_no_privileges(services: dict[str, Any]) -> None:
    for name in ("head", "worker", "worker-gpu", "mlflow"):
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["security_opt"] == ["no-new-privileges:true"]


def test_prometheus_asks_every_ray_node(services: dict[str, Any]) -> None:
    (scrape,) = document(INFRA / "prometheus.yml")["scrape_configs"]
    (names,) = scrape["dns_sd_configs"]
    nodes = {name for name, one in services.items() if "ray start" in one.get("command", "")}
    assert set(names["names"]) == nodes == {"head", "worker", "worker-gpu"}
    for name in nodes:
        command = words(services[name]["command"])
        assert command[command.index("--metrics-export-port") + 1] == str(names["port"])


def _compose_program() -> list[str] | None:
    if shutil.which("docker") is None:
        return None
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    return ["docker", "compose"] if asked.returncode == 0 else None


@pytest.mark.parametrize("profile", [[], ["--profile", "gpu"]])
def test_compose_itself_reads_it(profile: list[str]) -> None:
    program = _compose_program()
    if program is None:
        pytest.skip("`docker compose` is not installed")
    command = [*program, *profile, "--file", str(INFRA / "compose.yaml"), "config", "--quiet"]
    clean = {k: v for k, v in os.environ.items() if k not in SECRETS}
    good = subprocess.run(command, env={**clean, **SECRETS}, capture_output=True, text=True, check=False)
    assert (good.returncode, good.stderr) == (0, "")
    bad = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "Set " in bad.stderr
