"""A trial whose process or node was lost: the class of the loss, and whether it is handed out again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.failures import BUG, NODE_LOST, PREEMPTED, WORKER_LOST

RETRIES = 3
"""How often in a row a trial is handed out again that got no further; it goes on from its checkpoint.

Counted here: Tune gives a trial up at the first loss that falls between two trials of a process.
"""

_NODE_IS_GONE = ("node has died", "node was terminated", "node is dead", "NodeDiedError")
_PREEMPTED = "preempted"
_RAISED = "because of an error raised in its creation task"
_AWAY = "StoreAwayError"

Id = tuple[str, str, int]
"""`study.arm_board.Job.id`."""


def class_of(message: str, note: Mapping[str, Any] | None) -> str:
    """The class of a loss; a process that an error of ours ended at its start was not lost, that is a BUG.

    message: what Ray says of the actor (2.60: a node's death and preemption are told in words);
    note: what the process left that was asked to stop (`trainables.stopping`), None without one.
    """
    if note is not None or _PREEMPTED in message.lower():
        return PREEMPTED
    if _RAISED in message and _AWAY not in message:
        return BUG
    return NODE_LOST if any(words in message for words in _NODE_IS_GONE) else WORKER_LOST


class Losses:
    """All losses of one run of a study, by job."""

    def __init__(self) -> None:
        self.history: dict[Id, list[str]] = {}
        """The class of every loss, in order."""
        self._furthest: dict[Id, int] = {}
        self._in_vain: dict[Id, int] = {}

    def note(self, job: Id, failure: str, iteration: int) -> bool:
        """Notes a loss of a trial that goes on from `iteration`; whether it is handed out again.

        A loss after new work is never counted, whatever it was: machines go. One that kills its process at
        the same place each time, or is killed there, ends after RETRIES more.
        """
        self.history.setdefault(job, []).append(failure)
        if iteration > self._furthest.get(job, 0):
            self._furthest[job], self._in_vain[job] = iteration, 0
        self._in_vain[job] = self._in_vain.get(job, 0) + 1
        return self._in_vain[job] <= RETRIES

    def reason(self, job: Id) -> str:
        """Why a trial is not handed out again."""
        kinds = {PREEMPTED: "stopped from outside", NODE_LOST: "lost with its node", WORKER_LOST: "lost"}
        how = kinds[self.history[job][-1]]
        return f"its process was {how} {self._in_vain[job]} times without getting further"
