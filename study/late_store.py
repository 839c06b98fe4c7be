"""Between the board and Optuna's database: what happens to trials is written together, once a second.

Nothing is decided from the database while a study runs, and at a start it is brought to what the ledger says,
so it may be a second late. A trial that began and ended within that second is one write instead of four.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from optuna.distributions import BaseDistribution

from study.proposals import Attempt
from study.storage import ArmStore

WRITE_EVERY = 1.0
"""Seconds between two writings, when the board is told something or Tune asks for work."""


class LateStore:
    """The trials of one arm, the newest of them perhaps not in the database yet."""

    def __init__(self, store: ArmStore) -> None:
        self.store = store
        self._new: dict[int, tuple[Mapping[str, BaseDistribution], str]] = {}
        self._changed: dict[int, Attempt] = {}
        """By number, the new ones in the order of their numbers, which the database gives out itself."""
        self._reported: set[tuple[int, int]] = set()
        self._written = -WRITE_EVERY

    def load(self, ended: Mapping[int, Attempt] | None = None) -> list[Attempt]:
        """All trials in the order of their numbers; see `ArmStore.load`."""
        self.write()
        attempts = self.store.load(ended)
        self._reported = {(attempt.number, iteration) for attempt in attempts for iteration in attempt.rungs}
        return attempts

    def add(self, attempt: Attempt, distributions: Mapping[str, BaseDistribution], key: str) -> None:
        """A proposed trial; what becomes of this object is what is written."""
        self._new[attempt.number] = (distributions, key)
        self.changed(attempt)

    def changed(self, attempt: Attempt) -> None:
        """The trial has another rung, or has ended."""
        if attempt.number not in self.store.told:
            self._changed[attempt.number] = attempt
            self.write_when_due()

    def write_when_due(self) -> None:
        """`write`, unless that was within the last second."""
        if self._changed and time.monotonic() - self._written >= WRITE_EVERY:
            self.write()

    def write(self) -> None:
        """Brings the database up to date. Raises UserError when it does not answer for a long while."""
        for number, attempt in list(self._changed.items()):
            if number in self._new:
                self.store.add(attempt, *self._new[number])
                del self._new[number]
            else:
                self._write_known(attempt)
            self._reported |= {(number, iteration) for iteration in attempt.rungs}
            del self._changed[number]
        self._written = time.monotonic()

    def _write_known(self, attempt: Attempt) -> None:
        for iteration, value in attempt.rungs.items():
            if (attempt.number, iteration) not in self._reported:
                self.store.report(attempt.number, iteration, value)
        if attempt.ended:
            self.store.tell(attempt)
