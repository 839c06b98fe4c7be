"""Area in pixels: the number of foreground pixels, which a flip changes by one."""

from __future__ import annotations

import torch

from trainables.discrete import Flips, Masks


def flips(mask_BHW: Masks) -> Flips:
    """The area of each mask and of each mask with one pixel flipped, in pixels."""
    height, width = mask_BHW.shape[1:]
    value_B = mask_BHW.sum((1, 2), dtype=torch.int32)
    flipped_BHW = value_B.view(-1, 1, 1) + 1 - 2 * mask_BHW.int()
    return Flips(value_B, flipped_BHW, largest=height * width)
