"""Trainables without training, in a file that imports nothing that a worker would have to wait for."""

from __future__ import annotations

import json
import time
from typing import Any

from ray import tune


class NoOp(tune.Trainable):
    """Reports one value and ends; the same for both engines."""

    def setup(self, config: dict[str, Any]) -> None:
        self.config = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        curve = [{"iteration": 1, "seconds": 0.0, "dice": 0.5, "loss_total": 1.0}]
        payload = {
            "key": "", "state": "finished", "seconds": 0.0, "curve": curve, "cases": [], "host": "",
            "reason": "", "trace": "",
        }  # fmt: skip
        return {"payload": json.dumps(payload), "dice": 0.5, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing to save."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing to load."""


class OneSecond(NoOp):
    """Takes a second, so that what lies between two trials can be told from the trials."""

    def step(self) -> dict[str, Any]:
        time.sleep(1.0)
        return super().step()
