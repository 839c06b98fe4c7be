"""Studies that are submitted: their driver runs on the cluster, and the command line follows and stops it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search_spaces import UserError
from study import jobs
from study.home import Home
from tests.chaos.harness import ROOT, trace_lines, undisturbed_words, wait_for
from tests.cluster.nodes import Cluster, free_port
from tests.cluster.test_nodes import check
from tests.ray import driver
from tests.ray.toy import ORDERS

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.timeout(600)]


def study(home: Path, *words: str, module: str = "study") -> subprocess.CompletedProcess[str]:
    """`python -m study WORDS --home HOME`."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-m", module, *words, "--home", str(home)],
        cwd=ROOT, env=variables, text=True, capture_output=True, timeout=150,
    )  # fmt: skip


@pytest.fixture
def submit(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m study submit toy`, with the toy study among the studies."""
    monkeypatch.setenv(driver.DATASET, str(dataset))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

    def submitted(home: Path, address: str, *words: str) -> subprocess.CompletedProcess[str]:
        module = driver.__name__
        return study(home, "submit", driver.NAME, "--address", address, *words, module=module)

    return submitted


Submit = Callable[..., subprocess.CompletedProcess[str]]


def test_submitted_followed_stopped_and_submitted_again(
    cluster: Cluster, submit: Submit, home: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """`stop` is a SIGTERM with time; then the same submit continues and gives what one machine gives."""
    (home / ORDERS).write_text(json.dumps({"sleep": 4.0}))
    folder = Home(home).study(driver.NAME)
    begun = submit(home, cluster.dashboard)
    assert (begun.returncode, begun.stderr) == (0, "")
    assert begun.stdout == (
        f"Job 'toy' at {cluster.dashboard} runs; follow it with `python -m study logs toy -f`.\n"
    )
    wait_for(lambda: trace_lines(folder) > 3, 150, "progress")

    with pytest.raises(UserError, match=f"^Study 'toy' runs already on the cluster at {cluster.dashboard}"):
        jobs.submit(folder, cluster.dashboard, ["toy"])

    stopped = study(home, "stop", driver.NAME)
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert not folder.is_running()
    printed = study(home, "logs", driver.NAME).stdout
    assert printed.endswith("Stopped. Everything finished is kept; the same command continues.\n")
    told = json.loads(study(home, "status", driver.NAME, "--format", "json").stdout)
    assert (told["running"], told["job"]) == (0, f"Job 'toy' at {cluster.dashboard} has stopped.")
    assert study(home, "stop", driver.NAME).returncode == 2

    (home / ORDERS).unlink()
    assert submit(home, cluster.dashboard).returncode == 0
    followed = study(home, "logs", driver.NAME, "--follow")
    assert (followed.returncode, followed.stderr) == (0, "")
    *_, verdict, said = followed.stdout.splitlines(keepends=True)
    assert verdict.startswith("statistic is better than full supervision by")
    assert said == undisturbed_words(folder)
    wait_for(lambda: "has answered" in study(home, "status", driver.NAME).stdout, 30, "the end of the job")
    check(home, undisturbed, Counter(driver=1))


def test_mistakes_are_told_in_one_sentence(cluster: Cluster, submit: Submit, home: Path) -> None:
    """Before anything starts, and without a folder of the study being made."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    mistakes = {
        ("submit", "smoke", "--address", nowhere): f"must answer at {nowhere}, but: Connection refused",
        ("submit", "smoke", "--address", cluster.address): "must be that of the dashboard",
        ("submit", "smok", "--address", cluster.dashboard): "Did you mean 'smoke'?",
        ("submit", "smoke", "--address", cluster.dashboard, "--optuna-storage", "postgresql://me:word@host/o"):
            "must hold no password",
        ("stop", "smoke"): "must have been submitted",
        ("logs", "smoke"): "must have been submitted",
    }  # fmt: skip
    for words, part in mistakes.items():
        done = study(home, *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert part in done.stderr
        assert ":word@" not in done.stderr
    assert not Home(home).study("smoke").path.exists()


def test_a_home_that_the_head_node_does_not_see(cluster: Cluster, submit: Submit, home: Path) -> None:
    """As if the head node had another disk in this place: the driver would make an empty home there."""
    grep = cluster.folder / "bin" / "grep"  # the first on the head node's PATH
    grep.write_text("#!/bin/sh\nexit 2\n")
    grep.chmod(0o755)
    try:
        done = submit(home, cluster.dashboard, "--fork", "blind")
    finally:
        grep.unlink()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"A home must be seen by the whole cluster, but the head node does not see the folder {home}; name "
        "one on a file system that the cluster's machines share with --home (STUDY_HOME).\n"
    )


def test_a_job_that_the_cluster_forgot(cluster: Cluster, home: Path) -> None:
    """A cluster that was started anew at the same address."""
    folder = Home(home).study("smoke")
    folder.path.mkdir()
    (folder.path / "submitted.json").write_text(json.dumps({"address": cluster.dashboard, "token": "0"}))
    for command in ("logs", "stop", "status"):
        done = study(home, command, "smoke")
        assert (done.returncode, done.stdout) == (2, "")
        assert "must know a job 'smoke'" in done.stderr
        assert "`python -m study submit smoke` continues the study" in done.stderr
