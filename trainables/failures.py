"""Why a trial ended without a result: the classes of failure, and the one of an exception. Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from search_spaces import UserError

OUT_OF_MEMORY = "out_of_memory"
NOT_FINITE = "not_finite"
DATA = "data"
WORKER_LOST = "worker_lost"
NODE_LOST = "node_lost"
PREEMPTED = "preempted"
TIMEOUT = "timeout"
BUG = "bug"

CLASSES = (OUT_OF_MEMORY, NOT_FINITE, DATA, WORKER_LOST, NODE_LOST, PREEMPTED, TIMEOUT, BUG)

DISK_FULL = "disk_full"
"""Ends no trial but the run, which the same command continues once there is space."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CPU_ALLOCATOR = "can't allocate memory"
"""What torch's allocator of host memory says in a plain RuntimeError (torch 2.15: DefaultCPUAllocator)."""


class NotFiniteError(ArithmeticError):
    """The loss became NaN or infinite: the trial diverged. A result of its parameters, not a bug."""


class DataError(Exception):
    """The data set cannot be read, or is no longer the one that the study was planned on."""


class TimeLimitError(Exception):
    """The trial took longer than it was given."""


def classify(error: BaseException) -> str:
    """The class of what ended a trial inside its process: that of the first cause that has one, else "bug".

    A lost process, a lost node and a preemption are no exceptions of the trial's. A full disk is no class.
    """
    if any(is_full(cause) for cause in _causes(error)):
        return DISK_FULL
    return next((found for found in map(_class_of, _causes(error)) if found is not None), BUG)


def is_full(error: BaseException) -> bool:
    """Whether the system said that no space is left."""
    return isinstance(error, OSError) and error.errno in _FULL


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__


def _class_of(error: BaseException) -> str | None:
    import torch  # here: the ledger needs this file, and whoever looks at a study waits for it

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and _CPU_ALLOCATOR in str(error):
        return OUT_OF_MEMORY
    if isinstance(error, NotFiniteError):
        return NOT_FINITE
    if isinstance(error, DataError | UserError):
        return DATA
    return TIMEOUT if isinstance(error, TimeLimitError) else None
