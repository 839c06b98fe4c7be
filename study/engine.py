"""Lets Ray Tune run what the board decides.

Ray Tune places the trials, shares the machine and restarts lost workers. What is tried, stopped, continued
and remembered is the board's: Tune's own searcher state, checkpoints and restore are not used, because
they lose or repeat trials (measured with Ray 2.60).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import UserError
from study.board import Board, Job
from study.segments import CONTINUES, DiskFullError
from study.stopping import Orders, end_now, stop_on_signal
from trainables.failures import DISK_FULL
from trainables.metrics import METRICS

WATCH_EVERY = 2.0
"""Seconds between two looks at whether the cluster still has a node, and which of them are about to go."""

STARVED = "timed out during startup"
"""What Ray says when its own limit for a start, which is fixed, was too short."""

SEEN_WITHIN = 10.0
"""Seconds that a file may take to show on another node of a cluster."""

ANSWER_WITHIN = 5.0
"""Seconds that the head node of a cluster has to accept a connection."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a trial takes, and where it runs."""

    address: str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    """None: a whole one where the machine, or the cluster, has any."""
    max_concurrent: int | None = None
    dashboard: bool = False
    trial_timeout: float | None = None
    """Seconds of training, validation and test that one trial may take in all."""

    @property
    def threads(self) -> int:
        return max(1, int(self.cpus_per_trial))


def _environment() -> None:
    """Before Ray is imported: quiet, no snapshots, no per-trial log files, no telemetry."""
    for name, value in {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_AIR_NEW_OUTPUT": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
        "TUNE_WARN_THRESHOLD_S": "1000",
        "TUNE_RESULT_BUFFER_LENGTH": "0",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }.items():
        os.environ.setdefault(name, value)


def connect(machine: Machine, witness: Path | None = None) -> tuple[Machine, int]:
    """Starts Ray in this process, or joins a cluster. Raises UserError.

    Every node of a cluster must see the file `witness`, for trials leave their checkpoints beside it.
    Returns the machine with its GPU share settled, and how many trials fit at once.
    """
    _environment()
    if machine.address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # on loopback; its default writes a token file
    import ray

    from study.ray_network import on_loopback

    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if machine.address is None:
        options |= {
            "address": "local",  # without it Ray joins whatever `ray start` left on this machine
            "num_cpus": available_cores(),
            "include_dashboard": machine.dashboard,
            "object_store_memory": 200 * 1024**2,
        }
    else:
        _require_answer(machine.address)
        options["address"] = machine.address
    try:
        with on_loopback() if machine.address is None else contextlib.nullcontext():
            ray.init(**options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"A Ray cluster must answer at {machine.address!r}, but: {reason}; check --address (RAY_ADDRESS) "
            "and that RAY_AUTH_MODE is the same on every node."
        ) from error
    except Exception as error:  # Ray 2.60 has no class of its own for it
        if STARVED not in str(error):
            raise
        raise UserError(
            "Ray must start within 30 seconds, but did not, for other work takes this machine; give the same "
            "command again when it has less to do."
        ) from error
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    if machine.gpus_per_trial is None:
        some = any(resources.get("GPU", 0.0) >= 1 for resources in nodes.values())
        machine = dataclasses.replace(machine, gpus_per_trial=1.0 if some else 0.0)
    slots = _slots(list(nodes.values()), machine)
    if machine.address is not None and witness is not None:
        _require_sight(witness, [name for name, resources in nodes.items() if _fits(resources, machine)])
    return machine, slots


def _require_sight(witness: Path, nodes: Sequence[str]) -> None:
    """Raises UserError when a node has another file there, or none: its trials would be lost with it."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def trouble(path: Path, content: bytes, patience: float) -> str:
        """Sent as it is, so that a node without this package can tell."""
        import importlib.util
        import time

        if importlib.util.find_spec("trainables") is None:
            return "does not have this package installed"
        end = time.monotonic() + patience  # a network file system may show a new file late
        while not path.exists() or path.read_bytes() != content:
            if time.monotonic() > end:
                return f"does not see {path.parent}"
            time.sleep(0.2)
        return ""

    task, content = ray.remote(num_cpus=0, max_retries=0)(trouble), witness.read_bytes()
    told = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            witness, content, SEEN_WITHIN
        )
        for node in nodes
    ]
    names = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes()}
    for node, reference in zip(nodes, told, strict=True):
        with contextlib.suppress(ray.exceptions.RayError):  # it died meanwhile, and will run no trial
            reason = ray.get(reference)
            if reason:
                raise UserError(
                    f"Every node of the cluster must have this package and share the home folder, but "
                    f"{names[node]} {reason}; install it there, or name another --home (STUDY_HOME)."
                )


def _require_answer(address: str) -> None:
    """Raises UserError when nothing listens at host:port, which Ray itself would try for many minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not (separator and port.isdigit()):
        return  # "auto" and the like, which Ray looks up on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN).close()
    except OSError as error:
        raise UserError(
            f"A Ray cluster must answer at {address!r}, but: {error.strerror or error}; start its head "
            "node or check --address (RAY_ADDRESS)."
        ) from error


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0))


def _slots(nodes: Sequence[Mapping[str, float]], machine: Machine) -> int:
    """Trials that fit at once. Raises UserError when not even one does: Ray would wait for ever."""
    slots = sum(_fits(resources, machine) for resources in nodes)
    if slots < 1:
        largest = [max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")]
        where = "the machine has" if len(nodes) == 1 else "no node of the cluster has more than"
        raise UserError(
            f"A trial asks for {machine.cpus_per_trial:g} CPUs and {machine.gpus_per_trial or 0:g} GPUs, but "
            f"{where} {largest[0]:g} and {largest[1]:g}; lower --cpus-per-trial or --gpus-per-trial."
        )
    return min(slots, machine.max_concurrent or slots)


def _fits(resources: Mapping[str, float], machine: Machine) -> int:
    """Trials that fit on one node: a trial never spans two, nor its share of a GPU two GPUs."""
    fits = [int(resources.get("CPU", 0.0) / machine.cpus_per_trial + 1e-9)]
    if share := machine.gpus_per_trial:
        gpus = resources.get("GPU", 0.0)
        fits.append(int(gpus) * int(1 / share + 1e-9) if share < 1 else int(gpus / share + 1e-9))
    return min(fits)


def run(board: Board, machine: Machine, slots: int, folder: Path, *, trainable: type) -> None:
    """Runs every job of the board, until it is finished or Ctrl-C (SIGTERM) asks to stop."""
    from ray import tune

    from study.ray_adapters import BoardScheduler, BoardSearcher

    networks = board.pretraining.networks
    scratch = folder / "ray"
    shutil.rmtree(scratch, ignore_errors=True)  # Tune's own records of an earlier run: nothing of it is read
    orders = Orders(scratch / "orders")

    def config_of(job: Job) -> dict[str, Any]:
        start = job.trial.pretraining
        return {
            "trial": job.trial.to_dict(),
            "key": job.row.key,
            "folder": str(trial_folder(folder, job.row.key)),
            "cache": str(folder.parent / "cache"),
            "metric": board.study.metric,
            "watch": [name for name in board.study.watch if name in METRICS],
            "start": None if start is None else str(networks.file(start.key())),
            "network": str(networks.file(job.row.key)) if job.phase == "pretrain" else None,
            "threads": machine.threads,
            "gpus": machine.gpus_per_trial,
            "orders": str(orders.path),
            "time_limit": machine.trial_timeout,
            "job": list(job.id),
        }

    searcher = BoardSearcher(board, config_of)
    resources = {"cpu": machine.cpus_per_trial, "gpu": machine.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=BoardScheduler(searcher),
            num_samples=-1,
            reuse_actors=True,
            max_concurrent_trials=slots,
            trial_name_creator=_trial_name,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            storage_path=str(scratch),
            name="tune",
            verbose=0,
        ),
    )
    try:
        # The signals again: Ray put its own handlers in their place when it started.
        with _quiet(folder / "ray.log"), _while_a_node_lives(orders), stop_on_signal(board, orders):
            tuner.fit()
    except BoardError as carrier:
        raise carrier.error from None
    shutil.rmtree(scratch, ignore_errors=True)


def trial_folder(folder: Path, key: str) -> Path:
    """Where a trial's checkpoint and pictures lie."""
    return folder / "trials" / key


def _trial_name(trial: Any) -> str:
    arm, phase, number = trial.config.get("job", ("trial", "", trial.trial_id))
    return f"{arm} · {phase} {number}"


@contextlib.contextmanager
def _quiet(path: Path) -> Iterator[None]:
    """Ray's chatter goes to a file: the terminal shows the study."""
    with (
        path.open("a", buffering=1) as sink,
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
    ):
        handler = logging.StreamHandler(sink)
        loggers = [logging.getLogger(name) for name in ("ray", "ray.tune", "ray.data", "ray.train")]
        before = [(one.handlers, one.propagate) for one in loggers]
        for one in loggers:
            one.handlers, one.propagate = [handler], False
        try:
            yield
        finally:
            for one, (handlers, propagate) in zip(loggers, before, strict=True):
                one.handlers, one.propagate = handlers, propagate


class BoardError(BaseException):
    """Carries an error of the board through Tune, which would take an Exception for a trial's and go on."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def _while_a_node_lives(orders: Orders) -> Iterator[None]:
    """Tune would wait for ever for a cluster that lost its last node. Raises RuntimeError instead.

    The workers of a node that is being drained are told to leave: `ray start --block` that gets SIGTERM, and
    autoscalers that give a machine back, do that before they end Ray's processes there (30 s, Ray 2.60).
    """
    import ray
    from ray._private.state import state  # nothing public tells it

    ended, lost, told = threading.Event(), threading.Event(), set[str]()

    def watch() -> None:
        while not ended.wait(WATCH_EVERY):
            if not any(node["Alive"] for node in ray.nodes()):
                lost.set()
                end_now()
                return
            for node in state.get_draining_nodes().keys() - told:
                with contextlib.suppress(OSError):  # the disk is full: next time perhaps
                    orders.give(node)
                    told.add(node)

    thread = threading.Thread(target=watch, name="watch over Ray", daemon=True)
    thread.start()
    try:
        yield
    except KeyboardInterrupt:
        if not lost.is_set():
            raise
        raise RuntimeError(
            "Ray's last node died, most often for want of memory; the same command continues."
        ) from None
    finally:
        ended.set()
        thread.join()


def disconnect() -> None:
    """Ends Ray in this process and everything it started."""
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        ray.shutdown()


def payload_of(result: dict[str, Any]) -> dict[str, Any]:
    """What `trainables.trainable` packed into a result of Tune.

    Raises DiskFullError when the trial could not write: nothing is wrong with it, and it goes on from its
    last checkpoint.
    """
    decoded: dict[str, Any] = json.loads(result["payload"])
    if decoded.get("failure") == DISK_FULL:
        raise DiskFullError(f"A trial could not be written ({decoded['reason']}): {CONTINUES}")
    return decoded
