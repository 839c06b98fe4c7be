"""Which class an exception belongs to, by hand; what torch raises without memory is asked of torch."""

from __future__ import annotations

import errno

import pytest
import torch

from search_spaces import UserError
from trainables import failures
from trainables.failures import DataError, NotFiniteError, TimeLimitError, classify


def caused(error: Exception, by: Exception) -> Exception:
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out_of_memory",
        ),
        (NotFiniteError("loss = nan"), "not_finite"),
        (DataError("it changed"), "data"),
        (TimeLimitError("it took 3 s"), "timeout"),
        (UserError("The file is damaged."), "data"),
        (caused(RuntimeError("while loading"), OSError("no")), "bug"),
        (caused(RuntimeError("in the step"), torch.OutOfMemoryError("CUDA out of memory")), "out_of_memory"),
        (caused(DataError("cannot be read"), OSError(5, "Input/output error")), "data"),
        (OSError(2, "No such file or directory"), "bug"),
        (ArithmeticError("of a method"), "bug"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "bug"),
        (KeyError("iteration"), "bug"),
    ],
)
def test_class_of(error: Exception, expected: str) -> None:
    assert classify(error) == expected
    assert expected in failures.CLASSES


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_failure_of_the_trial(number: int) -> None:
    """Wherever it was met: a checkpoint, or the cache of the data."""
    full = OSError(number, "No space left on device")
    assert classify(full) == classify(caused(DataError("cannot be read"), full)) == "disk_full"
    assert "disk_full" not in failures.CLASSES


def test_what_torch_raises_without_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.float64)
    assert classify(raised.value) == "out_of_memory"


def test_causes_in_a_ring_end() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one) == "bug"
