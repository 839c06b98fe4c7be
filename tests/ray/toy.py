"""A trainable without a network: its value is a known function of its parameters, its steps leave a trace."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from ray import tune


class ToyTrainable(tune.Trainable):
    """Speaks the protocol of `trainables.trainable.StudyTrainable`: payload, own checkpoint, own folder.

    The environment variables TOY_SLEEP (seconds a report) and TOY_BAD ("diverged", "failed": what happens above
    statistic_weight 10) steer it, because a study's definition must not.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.begin(new_config)
        return True

    def begin(self, config: dict[str, Any]) -> None:
        self.config = config
        self.folder = Path(config["folder"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self.checkpoint = self.folder / "toy.json"
        saved = json.loads(self.checkpoint.read_text()) if self.checkpoint.exists() else {"curve": [], "state": "running"}
        self.curve: list[dict[str, float]] = saved["curve"]
        self.state = saved["state"]
        self.trace("start")

    def trace(self, word: str) -> None:
        with (self.folder / "trace").open("a") as handle:
            handle.write(f"{word} {len(self.curve)} {os.getpid()}\n")

    def step(self) -> dict[str, Any]:
        trial = self.config["trial"]
        points = _points(trial["protocol"])
        settings = {"statistic_weight": 1.0, **trial["settings"]}
        if self.state == "running":
            time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
            if os.environ.get("TOY_BAD") and settings["statistic_weight"] > 10:
                return self.result(os.environ["TOY_BAD"], reason="it was told to")
            iteration = points[len(self.curve)]
            value = toy_value(settings["statistic_weight"], trial["protocol"]["learning_rate"], iteration / points[-1])
            value += 0.001 * (trial["seed"] % 7)
            self.curve.append(
                {"iteration": iteration, "seconds": 0.01 * len(self.curve), self.config["metric"]: value, "loss_total": 1.0}
            )
            self.state = "finished" if iteration == points[-1] else "running"
            temporary = self.checkpoint.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps({"curve": self.curve, "state": self.state}))
            temporary.replace(self.checkpoint)
            self.trace("step")
        return self.result(self.state)

    def result(self, state: str, reason: str = "") -> dict[str, Any]:
        cases = _cases(self.curve[-1][self.config["metric"]]) if state == "finished" and self.config["trial"]["test"] else []
        payload = {
            "key": self.config["key"], "state": state, "seconds": 0.01 * len(self.curve), "curve": self.curve,
            "cases": cases, "host": "toy", "reason": reason, "trace": "",
        }  # fmt: skip
        return {"payload": json.dumps(payload), "done": state != "running"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: see `step`."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: see `begin`."""


def toy_value(weight: float, rate: float, progress: float) -> float:
    """Best at weight 3, rate 0.003; grows with training."""
    import math

    distance = math.log10(weight / 3) ** 2 + math.log10(rate / 0.003) ** 2
    return progress * math.exp(-distance)


def _points(protocol: dict[str, Any]) -> list[int]:
    from trainables.protocol import Protocol

    return list(Protocol(**protocol).report_points())


def _cases(value: float) -> list[dict[str, Any]]:
    return [
        {
            "case_id": f"case{i:02d}", "volume_id": f"case{i:02d}", "class_id": 1, "dice": value * (1 - i / 100),
            "iou": value / 2, "hd95": 3.0, "hd95_max": 3.0, "distance_unit": "px", "area_error": 0.1,
            "relative_area_error": 0.1, "size_error": 1.0, "missed": False, "false_alarm": False, "both_empty": False,
        }
        for i in range(8)
    ]  # fmt: skip
