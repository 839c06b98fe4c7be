"""Pre-trained networks that trials start from: which a study needs, where they lie, who may train one.

A network is found by the key of its training alone, so every arm, trial and study of a home that names the
same training shares it. One driver at a time trains one; the others wait for its file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from study.plan import pretrainings
from study.results import TrialRow
from study.spec import Study
from trainables import saved
from trainables.trial import DataSource, Trial

log = logging.getLogger(__name__)

NETWORK = "network.pt"
SET_ASIDE = "damaged.pt"
LOCK = "driver.lock"


@dataclass(slots=True)
class Networks:
    """The folder of a home in which pre-trained networks lie, one folder for each key."""

    path: Path
    claims: dict[str, IO[str]] = field(default_factory=dict)
    """Lock files that this driver holds; the system lets go of them when it dies."""
    sound: set[str] = field(default_factory=set)
    """Keys of the networks that this driver has checked."""

    def file(self, key: str) -> Path:
        return self.path / key / NETWORK

    def result(self, key: str) -> dict[str, Any]:
        """What its training reported at the end, as its driver heard it, or died before it could."""
        decoded: dict[str, Any] = json.loads(self.file(key).with_suffix(".json").read_text())
        return decoded

    def has(self, key: str) -> bool:
        """Is a sound network there? One that is not is set aside, so that it is trained again."""
        if key not in self.sound and self.file(key).exists():
            reason = self._damage(key)
            if reason is not None:
                log.warning("%s: it was set aside, and its training is repeated.", reason)
                self.file(key).replace(self.path / key / SET_ASIDE)
            else:
                self.sound.add(key)
        return key in self.sound

    def _damage(self, key: str) -> str | None:
        """Why this network cannot be believed."""
        file = self.file(key)
        try:
            result = self.result(key)
            trained = result["key"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return f"{file.with_suffix('.json')} is missing or damaged"
        if trained != key:
            return f"{file} is of another training, {trained}"
        if not saved.is_whole(file, key):
            return f"{file} is damaged, or is not the network of this training"
        return None

    def claim(self, key: str) -> bool:
        """Takes the right to train a network; False while another driver trains it."""
        folder = self.path / key
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self.claims[key] = handle
        return True

    def release(self, key: str) -> None:
        with contextlib.suppress(KeyError):
            self.claims.pop(key).close()


class PretrainingBoard:
    """The pre-trainings of one study: numbered in the order in which the plan names them."""

    def __init__(self, study: Study, data: DataSource, networks: Networks) -> None:
        self.networks = networks
        self.trials = pretrainings(study, data)
        self.numbers = {key: number for number, key in enumerate(self.trials)}
        self.running: set[str] = set()
        self.broken: dict[str, TrialRow] = {}
        """The rows of pre-trainings of this run that left no network, by key."""

    def missing(self) -> Iterator[tuple[str, Trial]]:
        """Those whose network is not there yet."""
        return ((key, trial) for key, trial in self.trials.items() if not self.networks.has(key))

    def start(self, key: str) -> bool:
        """Claims a pre-training that should run now; False while it runs here or elsewhere."""
        if key in self.running or not self.networks.claim(key):
            return False
        if self.networks.has(key):  # another driver left it between the look and the claim
            self.networks.release(key)
            return False
        self.running.add(key)
        return True

    def end(self, key: str) -> None:
        """It ended, well or not, or is given back."""
        self.running.discard(key)
        self.networks.release(key)
