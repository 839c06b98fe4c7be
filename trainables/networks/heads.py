"""Extra modules that a method may put beside a network to reconstruct the image; no loss in here."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, interpolate


class ReconstructionHead(nn.Module):
    """Image intensities from the last decoder features: [B,D,H,W] -> [B,C,H,W], in [0, 1]."""

    def __init__(self, feature_channels: int, image_channels: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(feature_channels, image_channels, 3, padding=1)

    def forward(self, features: Float[Tensor, "B D H W"]) -> Float[Tensor, "B C H W"]:
        return torch.sigmoid(self.convolution(features))


class CoarseLayers(nn.Module):
    """One smooth image per class from the bottleneck, each only `grid` x `grid` numbers, in [0, 1].

    The low capacity is the point: a layer that could draw the image alone would make the mask irrelevant.
    """

    def __init__(
        self, bottleneck_channels: int, num_classes: int, image_channels: int = 1, grid: int = 6
    ) -> None:
        super().__init__()
        self.grid = grid
        self.num_classes = num_classes
        self.convolution = nn.Conv2d(bottleneck_channels, num_classes * image_channels, 1)

    def forward(
        self, bottleneck: Float[Tensor, "B E h w"], size: tuple[int, int]
    ) -> Float[Tensor, "B K C H W"]:
        coarse = adaptive_avg_pool2d(self.convolution(bottleneck), self.grid)
        layers = interpolate(torch.sigmoid(coarse), size=size, mode="bilinear", align_corners=False)
        return layers.unflatten(1, (self.num_classes, -1))


class RegionAutoencoders(nn.Module):
    """A narrow convolutional autoencoder per class that sees the image inside its own region only.

    p [B,K,H,W], image [B,C,H,W] -> one image per class [B,K,C,H,W], in [0, 1]; any H and W. The K
    autoencoders are the groups of grouped convolutions, so that a class can not see another's region.
    """

    def __init__(self, num_classes: int, image_channels: int = 1, width: int = 8) -> None:
        super().__init__()
        k = self.num_classes = num_classes
        self.encode = nn.Sequential(
            nn.Conv2d(k * image_channels, k * width, 3, stride=2, padding=1, groups=k), nn.LeakyReLU(),
            nn.Conv2d(k * width, k * 2 * width, 3, stride=2, padding=1, groups=k), nn.LeakyReLU(),
        )  # fmt: skip
        self.decode = nn.Conv2d(k * 2 * width, k * image_channels, 3, padding=1, groups=k)

    def forward(
        self, p_BKHW: Float[Tensor, "B K H W"], image_BCHW: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B K C H W"]:
        regions = (p_BKHW.unsqueeze(2) * image_BCHW.unsqueeze(1)).flatten(1, 2)
        coarse = self.decode(self.encode(regions))
        layers = interpolate(coarse, size=image_BCHW.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(layers).unflatten(1, (self.num_classes, -1))
