"""Pre-trained networks that trials start from: which a study needs, where they lie, who may train one.

A network is found by the key of its training alone, so every arm, trial and study of a home that names the
same training shares it. One driver of a home at a time trains one; the others wait for its file. Homes may
share a store of networks (`--storage-path`). An object store knows no locks, so drivers of several homes may
train the same network at once: never wrongly, because what has the same key is the same training, and the
last one's file replaces an equal one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from study.plan import pretrainings
from study.results import TrialRow
from study.spec import Study
from trainables import saved
from trainables.store import Store
from trainables.trial import DataSource, Trial

log = logging.getLogger(__name__)

NETWORK = "network.pt"
RESULT = "network.json"
SET_ASIDE = "damaged.pt"
LOCK = "driver.lock"

ASK_EVERY = 2.0
"""Seconds between two questions to a service whether a network is there now."""


@dataclass(slots=True)
class Networks:
    """Pre-trained networks, one folder for each key."""

    path: Path
    """In the home: of the locks, and of the networks, too, unless they lie elsewhere."""
    elsewhere: Store | None = None
    claims: dict[str, IO[str]] = field(default_factory=dict)
    """Lock files that this driver holds; the system lets go of them when it dies."""
    sound: set[str] = field(default_factory=set)
    """Keys of the networks that this driver has checked."""
    asked: dict[str, float] = field(default_factory=dict)
    """When a service last said that a network is not there, by key."""

    def folder(self, key: str) -> Store:
        """Where a network and what its training reported lie, or will."""
        return (self.elsewhere or Store.at(self.path)).child(key)

    def result(self, key: str) -> dict[str, Any]:
        """What its training reported at the end, as its driver heard it, or died before it could."""
        return _decoded(self.folder(key).read(RESULT))

    def has(self, key: str) -> bool:
        """Is a sound network there? One that is not is set aside, so that it is trained again."""
        if key not in self.sound and self._exists(key):
            reason = self._damage(key)
            if reason is not None:
                log.warning("%s: it was set aside, and its training is repeated.", reason)
                self.folder(key).move(NETWORK, SET_ASIDE)
            else:
                self.sound.add(key)
        return key in self.sound

    def _exists(self, key: str) -> bool:
        """As of a moment ago, where a service must be asked."""
        folder, now = self.folder(key), time.monotonic()
        if not folder.is_local and now - self.asked.get(key, -ASK_EVERY) < ASK_EVERY:
            return False
        there = folder.exists(NETWORK)
        if not there:
            self.asked[key] = now
        return there

    def _damage(self, key: str) -> str | None:
        """Why this network cannot be believed."""
        folder = self.folder(key)
        reported = None
        with contextlib.suppress(OSError):
            reported = folder.read(RESULT)
        try:
            trained = _decoded(reported)["key"]
        except (ValueError, RecursionError, KeyError, TypeError):
            return f"{folder.shown(RESULT)} is missing or damaged"
        if trained != key:
            return f"{folder.shown(NETWORK)} is of another training, {trained}"
        if not saved.is_whole(folder, NETWORK, key):
            return f"{folder.shown(NETWORK)} is damaged, or is not the network of this training"
        return None

    def claim(self, key: str) -> bool:
        """Takes the right to train a network; False while another driver of this home trains it."""
        folder = self.path / key
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / LOCK).open("a")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return False
        self.claims[key] = handle
        self.asked.pop(key, None)
        return True

    def release(self, key: str) -> None:
        with contextlib.suppress(KeyError):
            self.claims.pop(key).close()
        self.asked.pop(key, None)


def _decoded(content: bytes | None) -> dict[str, Any]:
    decoded: dict[str, Any] = json.loads(content or b"")
    return decoded


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
