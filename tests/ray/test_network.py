"""Who can reach the Ray that a study starts: every port that its processes listen on is on loopback."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import psutil
import pytest

from study import engine, ray_network
from study.engine import Machine

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def line() -> Iterator[str]:
    """A local Ray with a dashboard, and what the start of a run says about it."""
    machine, _ = engine.connect(Machine(dashboard=True))
    yield ray_network.reach(machine.address, dashboard=True)
    engine.disconnect()


def listening() -> dict[str, str]:
    """Address -> program, of everything that this process and its children listen on."""
    me = psutil.Process()
    family = {process.pid: process.name() for process in [me, *me.children(recursive=True)]}
    found = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in family]
    return {f"{c.laddr.ip} port {c.laddr.port}": family[c.pid] for c in found}


def test_every_port_is_on_loopback(line: str) -> None:
    found = listening()
    assert "gcs_server" in found.values()
    assert "raylet" in found.values()
    reachable = {
        where: program
        for where, program in found.items()
        if not ipaddress.ip_address(where.split()[0].removeprefix("::ffff:")).is_loopback
    }
    assert reachable == {}


def test_the_start_line_says_so(line: str) -> None:
    assert line.startswith("Workers: on this machine only (127.0.0.1); dashboard: http://127.0.0.1:")
    assert "http" not in ray_network.reach(None, dashboard=False)


def test_a_ray_that_others_reach_is_not_called_local(
    line: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ray.nodes", lambda: [{"NodeManagerAddress": "192.0.2.7"}])
    said = ray_network.reach(None, dashboard=True)
    assert said == "Workers: listening on 192.0.2.7, not on this machine alone."
    assert "whoever reaches this machine can run code as you" in caplog.text


def test_a_cluster_is_named(line: str) -> None:
    assert "the cluster at head:6379; whoever reaches" in ray_network.reach("head:6379", dashboard=False)
