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
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces import UserError
from study.board import Board, Job
from study.capacity import Capacity
from study.gauges import Gauges
from study.masking import holds_secret
from study.pretraining import NETWORK
from study.segments import CONTINUES, DiskFullError
from study.stopping import Orders, end_now, stop_on_signal
from study.trial_files import trial_folder
from trainables.failures import DISK_FULL
from trainables.metrics import METRICS
from trainables.store import Store
from trainables.titles import title

WATCH_EVERY = 2.0
"""Seconds between two looks at whether the cluster still has a node, and which of them are about to go."""

STARVED = "timed out during startup"
"""What Ray says when its own limit for a start, which is fixed, was too short."""

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
    measure_gpus: bool = False
    """Whether `study.ray_probe` settles the share of a GPU once Ray runs."""
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
        "TUNE_MAX_PENDING_TRIALS_PG": "200",  # our searcher says how many; Tune would start one at a time
        "TUNE_RESULT_BUFFER_LENGTH": "0",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }.items():
        os.environ.setdefault(name, value)


def connect(machine: Machine, witness: tuple[Store, str] | None = None) -> tuple[Machine, Capacity]:
    """Starts Ray in this process, or joins a cluster. Raises UserError.

    Every node of a cluster must see the file `witness`, for trials leave their checkpoints beside it.
    Returns the machine with its GPU share settled, and how many trials fit at once, now and later.
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
    if machine.gpus_per_trial is None:
        some = any(node["Alive"] and node["Resources"].get("GPU", 0.0) >= 1 for node in ray.nodes())
        machine = dataclasses.replace(machine, gpus_per_trial=1.0 if some else 0.0)
    return machine, Capacity(machine, None if machine.address is None else witness)


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


def run(
    board: Board, machine: Machine, slots: Capacity, folder: Path, *, place: Store, trainable: type
) -> None:
    """Runs every job of the board, until it is finished or Ctrl-C (SIGTERM) asks to stop.

    folder: of the study, in the home; place: where its trials leave their files, and all workers see them.
    """
    from ray import tune
    from ray.util.metrics import Gauge

    from study.ray_adapters import BoardScheduler, BoardSearcher

    networks = board.pretraining.networks
    scratch = folder / "ray"
    shutil.rmtree(scratch, ignore_errors=True)  # Tune's own records of an earlier run: nothing of it is read
    # Tune writes down what its trials are given: for the owner's eyes where that holds a secret.
    scratch.mkdir(mode=0o700 if holds_secret(place.uri) else 0o777, exist_ok=True)
    # A driver of another home may run a study of this name in the same store: each gives its own orders.
    ours = None if place.is_local else place.child("orders", uuid.uuid4().hex)
    orders = Orders(scratch / "orders", copied_to=ours)
    gauges = Gauges(board.study.name, board.study.metric, Gauge)

    def config_of(job: Job) -> dict[str, Any]:
        start = job.trial.pretraining
        return {
            "trial": job.trial.to_dict(),
            "key": job.row.key,
            "study": board.study.name,
            "folder": trial_folder(place, job.row.key).uri,
            "cache": str(folder.parent / "cache"),
            "metric": board.study.metric,
            "watch": [name for name in board.study.watch if name in METRICS],
            "start": None if start is None else networks.folder(start.key()).file(NETWORK),
            "network": networks.folder(job.row.key).file(NETWORK) if job.phase == "pretrain" else None,
            "threads": machine.threads,
            "gpus": machine.gpus_per_trial,
            "orders": orders.address,
            "time_limit": machine.trial_timeout,
            "job": list(job.id),
        }

    searcher = BoardSearcher(board, config_of, slots)
    resources = {"cpu": machine.cpus_per_trial, "gpu": machine.gpus_per_trial}
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=BoardScheduler(searcher),
            num_samples=-1,
            reuse_actors=True,
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
        with (
            _quiet(folder / "ray.log"),
            _while_a_node_lives(orders, slots, lambda: gauges.tell(list(board.running.values()))),
            stop_on_signal(board, orders),
        ):
            tuner.fit()
    except BoardError as carrier:
        raise carrier.error from None
    finally:
        orders.end()
    shutil.rmtree(scratch, ignore_errors=True)


def _trial_name(trial: Any) -> str:
    if "job" not in trial.config:  # Tune asks for a first name before there is a configuration
        return str(trial.trial_id)
    return title(trial.config["job"], trial.config["trial"]["seed"])


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
def _while_a_node_lives(orders: Orders, slots: Capacity, tell: Callable[[], None]) -> Iterator[None]:
    """Tune would wait for ever for a cluster that lost its last node. Raises UserError instead.

    As long as nodes live, they are counted; at every look `tell` is called.

    The workers of a node that is being drained are told to leave: `ray start --block` that gets SIGTERM, and
    autoscalers that give a machine back, do that before they end Ray's processes there (30 s, Ray 2.60).
    """
    import ray
    from ray._private.state import state  # nothing public tells it

    ended, lost, told = threading.Event(), threading.Event(), set[str]()

    def watch() -> None:
        while not ended.wait(WATCH_EVERY):
            tell()
            if not any(node["Alive"] for node in ray.nodes()):
                lost.set()
                end_now()
                return
            slots.look()
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
        raise UserError(
            "Ray's last node died, most often for want of memory: the same command continues, and "
            "--max-concurrent lets fewer trials share it."
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
