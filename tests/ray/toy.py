"""A trainable without a network: its value is a known function of its parameters, its steps leave a trace.

Imports no torch, which takes a worker longer than a whole study of this. The real one is in `recorded`.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

from ray import tune

from trainables.left import SAMPLES
from trainables.store import Store

ORDERS = "toy.json"
CHECKPOINT = "toy.json"
HOLD = "hold"
"""While the home has a file of this name, no trial gets further: a server may take its time to start."""


class ToyTrainable(tune.Trainable):
    """Speaks the protocol of `trainables.trainable.StudyTrainable`: payload, own checkpoint, own folder.

    The file `toy.json` in the home folder steers it, because a study's definition must not. Its keys, all
    optional: "sleep" (seconds a report), "setup" ({"arm/phase/number": seconds
    that a new process takes for it}), "end" ({"arm/phase/number": state in which its second step ends}),
    "samples" (bytes of the pictures that a finished trial leaves),
    "kill" ({"arm/phase/number": how often its process kills itself in the middle of its third step}),
    "unheard" (["arm/phase/number"]: trials of which a process kills itself when its second step is saved).

    The file `trace` of a trial's folder tells what happened: "begin n" before and "step n" after the n-th
    report interval was trained, each with the process that did it.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.begin(config)
        time.sleep(self.orders.get("setup", {}).get(self.job, 0.0))

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.begin(new_config)
        return True

    def begin(self, config: dict[str, Any]) -> None:
        self.config = config
        self.job = "/".join(map(str, config["job"]))
        self.store = Store.at(config["folder"])
        self.folder = trace_folder(config)
        self.orders, self.hold = orders_of(config), Path(config["cache"]).parent / HOLD
        content = self.store.read(CHECKPOINT)
        left = {"curve": [], "state": "running"} if content is None else json.loads(content)
        self.curve: list[dict[str, float]] = left["curve"]
        self.state = left["state"]
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
        try:
            return self.interval()
        except OSError as error:
            from trainables import failures

            return self.result("failed", str(error), failure=failures.classify(error))

    def interval(self) -> dict[str, Any]:
        number = len(self.curve) + 1
        if number == 2 and self.job in self.orders.get("end", {}):
            return self.result(self.orders["end"][self.job], "it was told to", "Traceback: told to")
        self.trace("begin", number)
        time.sleep(self.orders.get("sleep", 0.0))
        while self.hold.exists():
            time.sleep(0.05)
        if number == 3:
            self.perhaps_die()
        self.learn()
        self.trace("step", number)
        if number == 2 and self.job in self.orders.get("unheard", []):
            os.kill(os.getpid(), signal.SIGKILL)
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
        measured = {"reported": time.time(), **times, metric: value, "loss_total": 1.0}
        self.curve.append({"iteration": iteration, **measured})
        self.state = "finished" if iteration == points[-1] else "running"
        if self.state == "finished":
            self.leave()
        self.store.write(CHECKPOINT, json.dumps({"curve": self.curve, "state": self.state}).encode())

    def leave(self) -> None:
        """What a finished trial leaves, before the checkpoint that calls it finished, like the real one."""
        if "samples" in self.orders:
            self.store.write(SAMPLES, picture(self.config["key"], self.orders["samples"]))
        if self.config["network"] is not None:
            from trainables import saved

            folder, name = Store.of(self.config["network"])
            reported = json.dumps({"key": self.config["key"], "curve": self.curve})
            folder.write("network.json", reported.encode())
            saved.write(folder, name, {"process": os.getpid()}, self.config["key"])

    def result(self, state: str, reason: str = "", trace: str = "", failure: str = "") -> dict[str, Any]:
        tested = state == "finished" and self.config["trial"]["test"]
        cases = _cases(self.curve[-1][self.config["metric"]]) if tested else []
        payload = {
            "key": self.config["key"], "state": state, "seconds": 0.01 * len(self.curve), "curve": self.curve,
            "cases": cases, "host": "toy", "reason": reason, "trace": trace,
            "failure": failure or {"diverged": "not_finite", "failed": "bug"}.get(state, ""),
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


def orders_of(config: dict[str, Any]) -> dict[str, Any]:
    path = Path(config["cache"]).parent / ORDERS
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


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
