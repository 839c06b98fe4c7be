"""Object size in pixels, image border closed: whatever lies beyond the image is outside the object.

Twice the largest Chebyshev distance to the outside; definition and proofs in `trainables.chebyshev`.
Source: Barucic and Kybic, "Learning to segment from object sizes" (2022), equations 3-5.
"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from trainables import chebyshev
from trainables.discrete import Flips, Masks


def flips(mask_BHW: Masks) -> Flips:
    """The size of each mask and of each mask with one pixel flipped, even numbers of pixels."""
    return chebyshev.size_flips(mask_BHW, border="background")


def value(mask_BHW: Masks) -> Int[Tensor, " B"]:
    """The size of each mask alone, for the price of one distance transform."""
    return chebyshev.size(mask_BHW, border="background")
