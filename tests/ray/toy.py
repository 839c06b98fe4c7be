"""A trainable without a network: its value is a known function of its parameters, its steps leave a trace.

And the real one, with a trace of its steps, too.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune
from torch import OutOfMemoryError, Tensor, device

from trainables import saved
from trainables.store import Store
from trainables.trainable import SAMPLES, StudyTrainable

ORDERS = "toy.json"
CHECKPOINT = "toy.json"


class ToyTrainable(tune.Trainable):
    """Speaks the protocol of `trainables.trainable.StudyTrainable`: payload, own checkpoint, own folder.

    The file `toy.json` in the home folder steers it, because a study's definition must not. Its keys, all
    optional: "sleep" (seconds a report), "end" ({"arm/phase/number": state in which its second step ends}),
    "samples" (bytes of the pictures that a finished trial leaves),
    "kill" ({"arm/phase/number": how often its process kills itself in the middle of its third step}).

    The file `trace` of a trial's folder tells what happened: "begin n" before and "step n" after the n-th
    report interval was trained, each with the process that did it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.begin(new_config)
        return True

    def begin(self, config: dict[str, Any]) -> None:
        self.config = config
        self.job = "/".join(map(str, config["job"]))
        self.store = Store.at(config["folder"])
        self.folder = trace_folder(config)
        orders = Path(config["cache"]).parent / ORDERS
        self.orders: dict[str, Any] = json.loads(orders.read_text()) if orders.exists() else {}
        content = self.store.read(CHECKPOINT)
        saved = {"curve": [], "state": "running"} if content is None else json.loads(content)
        self.curve: list[dict[str, float]] = saved["curve"]
        self.state = saved["state"]
        self.trace("start", len(self.curve))
        if config["start"] is not None:
            folder, name = Store.of(config["start"])
            if not folder.exists(name):
                raise RuntimeError("the network to start from is not there")

    def trace(self, word: str, number: int) -> None:
        with (self.folder / "trace").open("a") as handle:
            handle.write(f"{word} {number} {os.getpid()}\n")

    def step(self) -> dict[str, Any]:
        if self.state != "running":
            return self.result(self.state)
        number = len(self.curve) + 1
        if number == 2 and self.job in self.orders.get("end", {}):
            return self.result(self.orders["end"][self.job], "it was told to", "Traceback: told to")
        self.trace("begin", number)
        time.sleep(self.orders.get("sleep", 0.0))
        if number == 3:
            self.perhaps_die()
        self.learn()
        self.trace("step", number)
        return self.result(self.state)

    def perhaps_die(self) -> None:
        deaths = (self.folder / "trace").read_text().count("dies")
        if deaths < self.orders.get("kill", {}).get(self.job, 0):
            self.trace("dies", 3)
            os.kill(os.getpid(), signal.SIGKILL)

    def learn(self) -> None:
        """One report interval, and the checkpoint after it."""
        trial, metric = self.config["trial"], self.config["metric"]
        points = _points(trial["protocol"])
        iteration = points[len(self.curve)]
        weight = trial["settings"].get("statistic_weight", 1.0)
        value = toy_value(weight, trial["protocol"]["learning_rate"], iteration / points[-1])
        value += 0.001 * (trial["seed"] % 7)
        seconds = 0.01 * len(self.curve)
        times = {"seconds": seconds, "training_seconds": seconds}
        self.curve.append({"iteration": iteration, **times, metric: value, "loss_total": 1.0})
        self.state = "finished" if iteration == points[-1] else "running"
        self.store.write(CHECKPOINT, json.dumps({"curve": self.curve, "state": self.state}).encode())
        if self.state == "finished" and "samples" in self.orders:
            self.store.write(SAMPLES, picture(self.config["key"], self.orders["samples"]))
        if self.state == "finished" and self.config["network"] is not None:
            folder, name = Store.of(self.config["network"])
            reported = json.dumps({"key": self.config["key"], "curve": self.curve})
            folder.write("network.json", reported.encode())
            saved.write(folder, name, {"process": os.getpid()}, self.config["key"])

    def result(self, state: str, reason: str = "", trace: str = "") -> dict[str, Any]:
        tested = state == "finished" and self.config["trial"]["test"]
        cases = _cases(self.curve[-1][self.config["metric"]]) if tested else []
        payload = {
            "key": self.config["key"], "state": state, "seconds": 0.01 * len(self.curve), "curve": self.curve,
            "cases": cases, "host": "toy", "reason": reason, "trace": trace,
            "failure": {"diverged": "not_finite", "failed": "bug"}.get(state, ""),
        }  # fmt: skip
        return {"payload": json.dumps(payload), "done": state != "running"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: see `step`."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `begin`."""


def trace_folder(config: dict[str, Any]) -> Path:
    """Of a trial's marks: its own folder or, where that is no path, the one of that name in the home."""
    store = Store.at(config["folder"])
    place = store.uri if store.is_local else "/".join(store.uri.partition("?")[0].split("/")[-3:])
    folder = Path(config["cache"]).parent / place
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def picture(key: str, size: int) -> bytes:
    """Bytes that tell one trial's picture from another's and its beginning from its end."""
    return (key * (size // len(key) + 1)).encode()[:size]


def toy_value(weight: float, rate: float, progress: float) -> float:
    """Best at weight 3, rate 0.003; grows with training."""
    distance = math.log10(weight / 3) ** 2 + math.log10(rate / 0.003) ** 2
    return progress * math.exp(-distance)


def _points(protocol: dict[str, Any]) -> list[int]:
    from trainables.protocol import Protocol

    return list(Protocol(**protocol).report_points())


def _cases(value: float) -> list[dict[str, Any]]:
    return [
        {
            "case_id": f"case{i:02d}", "volume_id": f"case{i:02d}", "class_id": 1,
            "dice": value * (1 - i / 100), "iou": value / 2, "hd95": 3.0, "hd95_max": 3.0,
            "distance_unit": "px", "area_error": 0.1, "relative_area_error": 0.1, "size_error": 1.0,
            "missed": False, "false_alarm": False, "both_empty": False,
        }
        for i in range(8)
    ]  # fmt: skip


class RecordedTrainable(StudyTrainable):
    """The file `steps` of a trial's folder has a line for every step that was trained: iteration, process."""

    def _open(self) -> dict[str, Any] | None:
        saved = super()._open()
        training = self.training
        assert training is not None
        step = training._step

        def recorded() -> dict[str, Tensor]:
            terms = step()
            with (trace_folder(self.settings) / "steps").open("a") as file:
                file.write(f"{training.iteration} {os.getpid()}\n")
            self.after(training.iteration)
            return terms

        training._step = recorded  # type: ignore[method-assign]
        return saved

    def after(self, iteration: int) -> None:
        """Nothing."""


class TermTrainable(RecordedTrainable):
    """Its process gets SIGTERM in the steps 5 and 200, once each."""

    def after(self, iteration: int) -> None:
        told = trace_folder(self.settings) / f"told {iteration}"
        if iteration in (5, 200) and not told.exists():
            told.touch()
            os.kill(os.getpid(), signal.SIGTERM)


class MadeUpGpu:
    """A `trainables.probe.Counter` of 1000 bytes, on which a few steps take a fifth of a second.

    peak: bytes of every trial; room: processes that find memory; alone: whether it serves one process at a
    time. The last two need a folder, through which the processes know each other.
    """

    def __init__(
        self, *, peak: int, folder: Path | None = None, room: int | None = None, alone: bool = False
    ) -> None:
        self.peak, self.folder, self.room, self.alone = peak, folder, room, alone
        self.place = 0

    @property
    def device(self) -> device:
        if self.room is not None and self.place > self.room:
            raise OutOfMemoryError("no room")
        return device("cpu")

    def restart(self) -> None:
        if self.folder is not None and not self.place:
            with (self.folder / "places").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                handle.write(".")
                self.place = handle.tell()

    def peak_bytes(self) -> int:
        return self.peak

    def outside_bytes(self) -> int:
        return 50

    def total_bytes(self) -> int:
        return 1000

    def name(self) -> str:
        return "made up"

    def busy(self) -> float | None:
        if self.alone and self.folder is not None:
            with (self.folder / "turn").open("a") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                time.sleep(0.2)
        else:
            time.sleep(0.2)
        return 0.5
