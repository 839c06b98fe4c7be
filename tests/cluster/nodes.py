"""A Ray cluster on loopback: a head without CPUs and nodes of one CPU, each in a session that can be killed.

Every node is what a lab types: `ray start --head ...`, `ray start --address ...`, with ports of its own
because here they share one machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.harness import ROOT, Process, processes_of, wait_for
from tests.ray import driver

LOOPBACK = "127.0.0.1"
PATIENCE = 240.0
"""Seconds that a node may take to join or to be found dead, on a busy machine."""

STARTS = 30
"""How often a node is started that does not come up in Ray's own time (30 s, fixed) or in PATIENCE."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


class Node:
    """One `ray start --block` and all that it starts."""

    def __init__(self, log: Path, environment: Mapping[str, str], *arguments: str) -> None:
        self.log = log
        command = [
            str(Path(sys.executable).with_name("ray")), "start", *arguments,
            "--node-ip-address", LOOPBACK, "--object-store-memory", "80000000",
            "--min-worker-port", "0", "--max-worker-port", "0",
            "--dashboard-agent-listen-port", str(free_port()),
            "--disable-usage-stats", "--block",
        ]  # fmt: skip
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command, cwd=log.parent, env=dict(environment), stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def processes(self) -> list[Process]:
        return processes_of(self.process.pid)

    def pids(self) -> set[int]:
        return {one.pid for one in self.processes()}

    def kill(self) -> None:
        """SIGKILL to everything on the node at once, as when it loses power."""
        for one in self.processes():
            one.kill()
        self.process.wait(10)


def _python(folder: Path) -> Path:
    """A folder whose `python` is this one, for which the toy study is one of the project's."""
    program = folder / "bin" / "python"
    program.parent.mkdir()
    toy = f'shift 2; set -- -m {driver.__name__} run "$@"'
    program.write_text(
        f'#!/bin/sh\nif [ "$2 $3" = "study.run {driver.NAME}" ]; then {toy}; fi\nexec {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return program.parent


class Cluster:
    """A head and the nodes that were added; `close` ends what is left of them."""

    def __init__(self, **environment: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # short: a socket's path has 107 characters
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PATH": f"{_python(self.folder)}{os.pathsep}{os.environ['PATH']}",
            **environment,
        }
        self.port, self.dashboard_port = free_port(), free_port()
        self.nodes: list[Node] = []
        self._started = 0
        self.head = self._start_head()

    def _start_head(self) -> Node:
        return self._start(
            "--head", "--port", str(self.port), "--num-cpus", "0",
            "--ray-client-server-port", "0",  # none: unused, and a taken port would end the head
            "--dashboard-host", LOOPBACK, "--dashboard-port", str(self.dashboard_port),
            "--temp-dir", str(self.folder / "t"),
        )  # fmt: skip

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def dashboard(self) -> str:
        return f"http://{LOOPBACK}:{self.dashboard_port}"

    def _start(self, *arguments: str) -> Node:
        """Returns when the cluster counts the node. Ray gives a start up after 30 s: it is tried again."""
        before = len(self._states())
        for _ in range(STARTS):
            self._started += 1
            node = Node(self.folder / f"node{self._started}.log", self.environment, *arguments)
            known = lambda node=node: len(self._states()) > before or node.process.poll() is not None  # noqa: E731
            with contextlib.suppress(TimeoutError):
                wait_for(known, PATIENCE, "its start")
                if node.process.poll() is None:
                    return node
            node.kill()
        raise RuntimeError(f"Ray did not start: {node.log.read_text()[-2000:]}")

    def add(self, *, cpus: int = 1) -> Node:
        """One more node."""
        wait_for(self._states, PATIENCE, "the dashboard's answer")
        self.nodes.append(self._start("--address", self.address, "--num-cpus", str(cpus)))
        return self.nodes[-1]

    def processes(self) -> list[Process]:
        """Of every node, the head among them."""
        return [one for node in [self.head, *self.nodes] for one in node.processes()]

    def restart(self) -> None:
        """A new cluster at the same address with as many nodes, of which the old one is forgotten."""
        for node in [*self.nodes, self.head]:
            node.kill()
        self.head = self._start_head()
        lost, self.nodes = self.nodes, []
        for _ in lost:
            self.add()

    def remove(self, node: Node) -> None:
        self.nodes.remove(node)
        node.kill()

    def alive(self) -> int:
        """Nodes that the cluster believes in, the head among them."""
        return self._states().count("ALIVE")

    def _states(self) -> list[str]:
        """Of all nodes that the cluster ever had."""
        try:
            with urllib.request.urlopen(f"{self.dashboard}/api/v0/nodes", timeout=5) as answer:
                listed: dict[str, Any] = json.load(answer)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return []
        nodes = listed["data"]["result"]["result"]
        return [node["state"] for node in nodes]

    def close(self) -> None:
        for node in [*self.nodes, self.head]:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
