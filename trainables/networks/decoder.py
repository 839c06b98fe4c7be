"""The decoder of a U-Net as a module of its own: what a method puts beside a network for a second opinion."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainables.method import Network


def convolutions(inputs: int, outputs: int, dropout: float) -> nn.Sequential:
    """Two 3x3 convolutions with batch normalisation and LeakyReLU, dropout between them."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(inplace=True),
        nn.Dropout(dropout),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(inplace=True),
    )


class AuxiliaryDecoder(nn.Module):
    """A second decoder on a network's encoder that loses whole channels of every stage while it trains.

    Output.stages, (H, W) -> logits [B,K,H,W]. Beside `unet` it has the layers of that network's own decoder;
    beside any other a U-Net's, no level narrower than the network's last decoder features.
    """

    def __init__(self, net: Network, dropout: float) -> None:
        super().__init__()
        *skips, deepest = net.stage_channels
        widths = [max(channels, net.feature_channels) for channels in skips]
        levels = list(zip([*widths[1:], deepest], skips, widths, strict=True))[::-1]  # coarse to fine
        self.drop = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, fine, 2, stride=2) for deep, _, fine in levels)
        self.merge = nn.ModuleList(convolutions(skip + fine, fine, 0.0) for _, skip, fine in levels)
        self.classify = nn.Conv2d(widths[0], net.num_classes, 3, padding=1)

    def forward(
        self, stages: tuple[Float[Tensor, "B _ _ _"], ...], size: tuple[int, int]
    ) -> Float[Tensor, "B K H W"]:
        *skips, x = (self.drop(stage) for stage in stages)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips), strict=True):
            x = merge(torch.cat((skip, up(x)), 1))
        logits: Tensor = self.classify(x[..., : size[0], : size[1]])
        return logits
