"""What is known of a discrete statistic of masks once every pixel has been flipped, one at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Masks = Bool[Tensor, "B H W"]


class Flips(NamedTuple):
    """Integers, int32, on the device of the masks; H and W are those of the masks."""

    value_B: Int[Tensor, " B"]
    """The statistic of each mask."""
    flipped_BHW: Int[Tensor, "B H W"]
    """The statistic of the mask with that one pixel flipped."""
    largest: int
    """The greatest value of any mask of this shape: what a squared error is normalised by."""


def may_wait(tensor: Tensor) -> bool:
    """Whether a value may be read to decide what to compute next: eagerly on a CPU, where nothing is waited
    for. Elsewhere (an accelerator, a graph being captured, a meta tensor) the work must follow from the
    shape alone."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()
