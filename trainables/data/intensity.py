"""Random changes of intensity, each image's own: brightness, contrast, gamma, sharpness, noise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

GAIN = 1.25
GAMMA = 1.5
OFFSET = 0.1
BLUR = 0.8
"""Share of the 3 x 3 mean that takes the place of a pixel; its negative sharpens."""
NOISE = 0.05
"""Standard deviation, in intensities."""


def vary(image_BCHW: Float[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "B C H W"]:
    """GAIN^a * x^(GAMMA^b) + OFFSET * c, blurred by d * BLUR, with noise of the deviation e * NOISE.

    a to e are drawn per image: 0 with probability 1/2, else uniform in [-1, 1]. Intensities in [0, 1] stay in
    [0, 1]. The generator lives on the image's device; nothing is read back from it.
    """
    device, count = image_BCHW.device, len(image_BCHW)
    drawn = torch.rand(2, 5, count, 1, 1, 1, generator=generator, device=device)
    gain, gamma, offset, blur, noise = torch.where(drawn[0] < 0.5, 0.0, 2 * drawn[1] - 1)
    x = GAIN**gain * image_BCHW ** (GAMMA**gamma) + OFFSET * offset
    mean = avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    x = x + BLUR * blur * (mean - x)
    grain = torch.randn(x.shape, generator=generator, device=device)
    return (x + NOISE * noise * grain).clamp(0.0, 1.0)
