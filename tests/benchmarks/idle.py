"""Trainables without training, in a file that imports nothing that a worker would have to wait for."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
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


DIED, AGAIN, FIRST = "died", "again", "first"
"""Files made at the moments that they name: in the folder of the trial that dies, and beside all folders."""


class Mortal(OneSecond):
    """The fourth trial's process kills itself, once."""

    def step(self) -> dict[str, Any]:
        folder = Path(self.config["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder.parent / FIRST).exists():
            (folder.parent / FIRST).touch()
        if self.config["job"][2] == 3 and self.config["job"][0] == "a":
            if not (folder / DIED).exists():
                (folder / DIED).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / AGAIN).touch()
        return super().step()
