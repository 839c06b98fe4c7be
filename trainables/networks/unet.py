"""The U-Net of the point and scribble literature: five levels of 16 to 256 channels, dropout in the encoder.

Source: Ronneberger et al. 2015 for the shape; channel counts, dropout rates, LeakyReLU and batch
normalisation as in HiLab-git/WSL4MIS at a594da8 (read for the facts).
Departure: any height and width; the image is padded to a multiple of the coarsest stride, the result cropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces import Int, hp
from trainables.method import Network, Output
from trainables.networks.decoder import convolutions

DROPOUT = (0.05, 0.1, 0.2, 0.3, 0.5, 0.5)
"""Encoder dropout by level, finest first (WSL4MIS at a594da8)."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the network `unet`."""

    width: int = hp(
        16, Int(2, 128), source="WSL4MIS a594da8", unit="channels at full resolution", search=False
    )
    levels: int = hp(5, Int(2, 6), source="WSL4MIS a594da8", unit="resolutions", search=False)

    def build(self, num_classes: int, *, image_channels: int = 1) -> Network:
        widths = [self.width * 2**level for level in range(self.levels)]
        return UNet(num_classes, widths, image_channels)


@final
class UNet(Network):
    """Image [B,C,H,W] -> Output with logits [B,K,H,W], features [B,width,H,W]."""

    def __init__(self, num_classes: int, widths: Sequence[int], image_channels: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.feature_channels = widths[0]
        self.bottleneck_channels = widths[-1]
        self.stage_channels = tuple(widths)
        inputs = [image_channels, *widths[:-1]]
        self.down = nn.ModuleList(
            convolutions(i, o, p) for i, o, p in zip(inputs, widths, DROPOUT[: len(widths)], strict=True)
        )
        coarse_to_fine = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, fine in coarse_to_fine)
        self.merge = nn.ModuleList(convolutions(2 * fine, fine, 0.0) for _, fine in coarse_to_fine)
        self.classify = nn.Conv2d(widths[0], num_classes, 3, padding=1)

    def forward(self, image_BCHW: Float[Tensor, "B C H W"]) -> Output:
        height, width = image_BCHW.shape[-2:]
        stride = 2 ** (len(self.down) - 1)
        x = F.pad(image_BCHW, (0, -width % stride, 0, -height % stride), mode="replicate")
        stages: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            stages.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(stages[:-1]), strict=True):
            x = merge(torch.cat((skip, up(x)), 1))
        x = x[..., :height, :width]
        return Output(self.classify(x), x, stages[-1], tuple(stages))
