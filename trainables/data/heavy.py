"""Heavy augmentation of a batch: warped in space and varied in intensity, where it lies."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from trainables.data import intensity, warps


class HeavyAugmentation:
    """Warps and intensity changes drawn from the step's seed alone.

    A GPU draws other numbers than a CPU, as it does for dropout. Labels of single pixels are moved one by one
    (`warps.move_points`), all others as images of classes (`warps.warp_labels`). A loss of unlabelled pixels
    sees what lies outside an image as a part of it, near 0.
    """

    def __init__(self, height: int, width: int, *, points: bool, device: torch.device) -> None:
        self.device = device
        self.grids = warps.pool(height, width).to(device)
        self.landings = warps.landings(height, width).to(device) if points else None

    def __call__(
        self, image_BCHW: Float[Tensor, "B C H W"], labels_BHW: UInt8[Tensor, "B H W"], *, seed: int
    ) -> tuple[Float[Tensor, "B C H W"], UInt8[Tensor, "B H W"]]:
        """The batch's images and labels, each image with a warp and intensities of its own."""
        generator = torch.Generator(self.device).manual_seed(seed)
        shape = (len(image_BCHW),)
        choice = torch.randint(len(self.grids), shape, generator=generator, device=self.device)
        grid_BHW2 = self.grids[choice]
        image = intensity.vary(warps.warp_images(image_BCHW, grid_BHW2), generator)
        if self.landings is None:
            return image, warps.warp_labels(labels_BHW, grid_BHW2)
        return image, warps.move_points(labels_BHW, self.landings[choice])
