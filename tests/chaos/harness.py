"""Starts the toy study's driver, knows its processes, and what must come of a study whatever was killed.

Every process of a driver belongs to the session that its start opened, and only those are ever killed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import optuna

from study.home import StudyFolder
from study.results import TrialRow
from study.run_format import STATUS, identity_of
from study.storage import open_storage
from tests.ray import driver

ROOT = Path(__file__).resolve().parents[2]
SLOTS = 2
"""Trials at once: a kill of everything can cost so many report intervals."""

COSTS = {
    "worker": 1, "driver": SLOTS, "raylet": SLOTS, "node": 1, "all": SLOTS,
    "database": 0, "tracking": 0, "teller": 0, "disk": SLOTS,
}  # fmt: skip
"""Report intervals that each kind of kill may cost; those of `tests.chaos.kinds`."""

PATIENCE = 300.0
"""Seconds that one driver may take on a busy machine before it counts as hanging."""


@dataclass(frozen=True)
class Process:
    pid: int
    name: str

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def processes_of(session: int) -> list[Process]:
    """The living processes of a session, zombies not among them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text(errors="replace")  # names are cut after 15 bytes
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, _, its_session = text.rpartition(") ")[2].split()[:4]
        if int(its_session) == session and state != "Z":
            found.append(Process(int(folder.name), command.strip()))
    return found


def workers_among(processes: Iterable[Process]) -> list[Process]:
    """Those that train a trial right now, or could; the real trainable names its process like its trial."""
    names = ((p, p.name.replace("\N{NO-BREAK SPACE}", " ")) for p in processes)
    return [p for p, name in names if re.match(r"ray::((Toy|Resource)|.* · seed )", name)]


class Driver:
    """One run of a command, over the toy study unless another module is named, in a session of its own."""

    def __init__(
        self,
        home: Path,
        dataset: Path,
        *arguments: str,
        module: str = "tests.ray.driver",
        environment: Mapping[str, str] | None = None,
        logs: Path | None = None,
    ) -> None:
        """logs: folder for what it prints, the home unless that has a small disk."""
        logs = logs or home
        number = len(list(logs.glob("driver*.out")))
        self.output, self.error_output = logs / f"driver{number}.out", logs / f"driver{number}.err"
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            driver.DATASET: str(dataset),
            "STUDY_HOME": str(home),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "100",
            **(environment or {}),
        }
        with self.output.open("w") as output, self.error_output.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT, env=variables, stdout=output, stderr=errors, start_new_session=True,
            )  # fmt: skip

    @property
    def session(self) -> int:
        return self.process.pid

    def family(self) -> list[Process]:
        return processes_of(self.session)

    def workers(self) -> list[Process]:
        """Ray's processes that train a trial right now, or could."""
        return workers_among(self.family())

    def lasting(self) -> list[Process]:
        """Without Ray's two agents, which need a minute to see that a killed cluster is gone (Ray 2.60)."""
        return [p for p in self.family() if p.name not in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")]

    def wait(self, patience: float = PATIENCE) -> int:
        return self.process.wait(patience)

    def finish(self) -> None:
        """Kills what is left; for the end of a test, however it ends."""
        for process in self.family():
            process.kill()
        self.process.wait(10)

    def errors(self) -> str:
        return self.error_output.read_text()


def sigterm_as_ctrl_c() -> None:
    """For tests that leave more than processes of their own group: `timeout` ends them by SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def wait_for(condition: Any, patience: float, what: str) -> None:
    """Polls until the condition holds. Raises TimeoutError."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {patience:g} s")
        time.sleep(0.02)


def trace_lines(folder: StudyFolder) -> int:
    """How many lines all trials have left so far: the study's pulse."""
    traces = (folder.path / "trials").glob("*/trace")
    return sum(path.read_bytes().count(b"\n") for path in traces)


def undisturbed_words(folder: StudyFolder) -> str:
    """All that a run says on stderr when nothing unusual happens: where its page lies."""
    return f"Report: {folder.path / 'report' / 'report.html'}\n"


def essence(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    """What must not depend on kills."""
    return sorted((r.arm, r.phase, r.number, r.key, r.state, r.value, r.iterations) for r in rows)


def assert_ended_once(folder: StudyFolder) -> None:
    """The ledger was never told twice how a trial ended."""
    columns = ["arm", "phase", "number", "key", "state"]
    written = Counter(
        tuple(row[c] for c in columns[:-1])
        for row in folder.ledger._trials.read(columns).to_pylist()
        if row["state"] != "running"
    )
    assert set(written.values()) == {1}
    assert len(written) == len(folder.ledger.trials())


def assert_few_repeats(folder: StudyFolder, kills: Counter[str]) -> None:
    """A kill costs each trial that was running at most the report interval it was in."""
    allowed = sum(COSTS[kind] * times for kind, times in kills.items())
    repeated = 0
    for path in (folder.path / "trials").glob("*/trace"):
        words = Counter(tuple(line.split()[:2]) for line in path.read_text().splitlines())
        steps = {key: count for key, count in words.items() if key[0] == "step"}
        assert set(steps.values()) <= {1}, f"{path}: an interval that had been saved was trained again"
        repeated += sum(count - 1 for (word, _), count in words.items() if word == "begin")
    assert repeated <= allowed, f"{repeated} intervals were repeated, {allowed} may be after {dict(kills)}"


def assert_optuna_agrees(folder: StudyFolder, rows: list[TrialRow], url: str | None = None) -> None:
    """Numbers, states and values, in the study's own file or in the database at `url`."""
    states = {"finished": "COMPLETE", "diverged": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}
    expected = {
        (r.arm, r.number): (states[r.state], r.value if r.state == "finished" else None)
        for r in rows
        if r.phase == "search"
    }
    storage = open_storage(folder.path, url)
    told = {}
    for study in optuna.get_all_study_names(storage):
        if study.partition("/")[0] != folder.path.name:
            continue
        for trial in optuna.load_study(study_name=study, storage=storage).get_trials():
            value = trial.value if trial.user_attrs.get("state") == "finished" else None
            told[study.partition("/")[2], trial.number] = (trial.state.name, value)
    assert told == expected


def assert_mlflow_agrees(
    home: Path, rows: list[TrialRow], uri: str | None = None, study: str = driver.NAME
) -> None:
    """One run a trial with the ledger's status and curve, each point once; nothing is RUNNING."""
    client: Any = mlflow.MlflowClient(tracking_uri=uri or f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(study).experiment_id
    runs = client.search_runs([experiment], max_results=10_000)
    assert {run.info.status for run in runs if run.data.tags["study.kind"] == "arm"} == {"FINISHED"}
    trials = [run for run in runs if run.data.tags["study.kind"] == "trial"]
    by_identity = {identity_of(run.data.tags): run for run in trials}
    assert len(by_identity) == len(trials), "one trial, two runs"
    statuses = {identity: run.info.status for identity, run in by_identity.items()}
    assert statuses == {row.identity: STATUS[row.state] for row in rows}
    for row in rows:
        run = by_identity[row.identity]
        points = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        steps = {name: sorted(point.step for point in history) for name, history in points.items()}
        wanted = [int(point["iteration"]) for point in row.curve]
        assert steps.get("dice", []) == wanted, (row.identity, points)
        assert all(len(set(found)) == len(found) for found in steps.values()), (row.identity, points)


def repeated_work(folder: StudyFolder) -> int:
    """Report intervals that were begun more than once, for reports of what kills cost."""
    traces = [path.read_text() for path in (folder.path / "trials").glob("*/trace")]
    begun = [Counter(re.findall(r"begin \d+", text)) for text in traces]
    return sum(count - 1 for one in begun for count in one.values())
