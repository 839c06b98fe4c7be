"""Width in pixels: the longest run of foreground pixels in a row or in a column.

Along one axis, adding a pixel joins the run that ends before it, itself, and the run that begins behind it.
Removing one leaves those two pieces of its run, and the longest of the other runs: the second longest of all
(as long as the longest where two tie) when its own is a longest one, else the longest. The width is the
larger of the two axes' runs, before a flip and after it, so that it stays what it was when an image is turned
by 90 degrees.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from trainables.discrete import Flips, Masks


def flips(mask_BHW: Masks) -> Flips:
    """The width of each mask and of each mask with one pixel flipped, in pixels."""
    row_B, row_BHW = _along_rows(mask_BHW)
    column_B, column_BWH = _along_rows(mask_BHW.transpose(1, 2))
    return Flips(
        torch.maximum(row_B, column_B),
        torch.maximum(row_BHW, column_BWH.transpose(1, 2)),
        largest=max(mask_BHW.shape[1:]),
    )


def _along_rows(mask_BHW: Masks) -> tuple[Int[Tensor, " B"], Int[Tensor, "B H W"]]:
    """The longest horizontal run, and after every flip."""
    width = mask_BHW.shape[2]
    column_W = torch.arange(width, dtype=torch.int32, device=mask_BHW.device)
    # Background columns before and behind each pixel; -1 and W stand for those beyond the image.
    here_BHW = torch.where(mask_BHW, -1, column_W).cummax(2).values
    before_BHW = torch.nn.functional.pad(here_BHW[..., :-1], (1, 0), value=-1)
    here_BHW = torch.where(mask_BHW, width, column_W).flip(2).cummin(2).values.flip(2)
    behind_BHW = torch.nn.functional.pad(here_BHW[..., 1:], (0, 1), value=width)
    left_BHW, right_BHW = column_W - before_BHW - 1, behind_BHW - column_W - 1
    joined_BHW = left_BHW + 1 + right_BHW

    # Each run once, at its first pixel.
    run_BHW = torch.where(mask_BHW & (left_BHW == 0), joined_BHW, 0)
    value_B11 = run_BHW.amax((1, 2), keepdim=True)
    ties = (run_BHW == value_B11).sum((1, 2), keepdim=True) > 1
    shorter_B11 = torch.where(run_BHW < value_B11, run_BHW, 0).amax((1, 2), keepdim=True)
    second_B11 = torch.where(ties, value_B11, shorter_B11)

    others_BHW = torch.where(joined_BHW == value_B11, second_B11, value_B11)
    pieces_BHW = torch.maximum(left_BHW, right_BHW)
    flipped_BHW = torch.where(
        mask_BHW, torch.maximum(pieces_BHW, others_BHW), torch.maximum(joined_BHW, value_B11)
    )
    return value_B11.flatten(), flipped_BHW
