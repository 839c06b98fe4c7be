"""ray-cluster.yaml, read as `ray up` reads it."""

from __future__ import annotations

import copy
from typing import Any

import jsonschema
import pytest

from tests.infra.files import INFRA, ROOT, commands_in, document


@pytest.fixture
def raw() -> dict[str, Any]:
    loaded: dict[str, Any] = document(INFRA / "ray-cluster.yaml")
    return loaded


def prepared(raw: dict[str, Any]) -> dict[str, Any]:
    """Filled with Ray's defaults and checked against its schema. Raises jsonschema.ValidationError."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config: dict[str, Any] = prepare_config(copy.deepcopy(raw))
    validate_config(config)
    return config


def test_ray_takes_it(raw: dict[str, Any]) -> None:
    config = prepared(raw)
    workers = raw["provider"]["worker_ips"]
    assert config["max_workers"] == len(workers) > 0
    (kind,) = config["available_node_types"].values()
    assert (kind["min_workers"], kind["max_workers"]) == (len(workers), len(workers))
    assert config["head_start_ray_commands"] == raw["head_start_ray_commands"]


def test_ray_refuses_what_it_does_not_know(raw: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_command"):
        prepared({**raw, "head_start_ray_command": []})


def options(call: list[str]) -> dict[str, str]:
    return {one: two for one, two in zip(call, [*call[1:], ""], strict=True) if one.startswith("--")}


def test_the_nodes_find_each_other(raw: dict[str, Any]) -> None:
    *_, head = [call for line in raw["head_start_ray_commands"] for call in commands_in(line)]
    *_, worker = [call for line in raw["worker_start_ray_commands"] for call in commands_in(line)]
    assert options(worker)["--address"] == f"$RAY_HEAD_IP:{options(head)['--port']}"
    assert options(head)["--dashboard-host"] == "127.0.0.1"
    assert options(head)["--autoscaling-config"] == "~/ray_bootstrap_config.yaml"


def test_the_token_is_the_users_own_file(raw: dict[str, Any]) -> None:
    starts = [
        line
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for line in raw[key]
        if "ray start" in line
    ]
    assert len(starts) == 2
    assert all(line.startswith("RAY_AUTH_MODE=token ") for line in starts)
    assert raw["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "auth_token" not in str(raw["setup_commands"])


def test_the_repository_is_copied_without_its_runs(raw: dict[str, Any]) -> None:
    (remote,) = [there for there, here in raw["file_mounts"].items() if here == "."]
    assert any(remote.removeprefix("~/") in command for command in raw["setup_commands"])
    ignored = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().splitlines()}
    assert {".git", "runs", ".venv"} == set(raw["rsync_exclude"])
    assert {"runs", ".venv"} <= ignored
