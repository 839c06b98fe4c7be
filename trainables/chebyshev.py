"""Chebyshev distances and object sizes of binary masks, and the size after every one-pixel flip, exactly.

F is the object (True), G the pixels of the image outside it, δ the Chebyshev distance max(|Δrow|, |Δcolumn|):

    d_i = min(limit_i, min over b in G of δ(i, b)),    M = max over i of d_i,    size = 2 M.

border "open": only pixels of the image are outside and limit_i = max(H, W). That exceeds every δ inside the
image, so it is met by a mask without any outside pixel only. border "background": whatever lies beyond the
image is outside too, and limit_i is the distance to it.

Doubling. Write D_s = min(d, s), so D_1 = F. Then D_2s(i) = D_s(i) + min over δ(i,j) <= s of D_s(j):
a pixel with d(i) <= s sees an outside pixel, which adds 0. One with d(i) > s starts at s; since d is
1-Lipschitz no neighbour adds less than min(d(i) - s, s), and the one that lies s steps along the way to the
nearest outside pixel (inside the image, which is a box) adds just that. Without outside pixels: s + s.

Removing an object pixel j makes it outside: d'_i = min(d_i, δ(i, j)). As δ is a maximum over the two axes and
min and max distribute over each other, max_i d'_i is the larger of max_r min(R_r, |r - r_j|) and
max_c min(C_c, |c - c_j|), where R_r and C_c are the greatest distances in row r and in column c.

Adding an outside pixel j can raise d_i only where j is the sole pixel of G at the distance d_i; then d_i
becomes e_i = the largest k <= limit_i such that at most one pixel of G is nearer to i than k. So

    M' = max(M, max of e_i over the i whose only outside pixel nearer than e_i is j).

Only those i with e_i > M matter. They have exactly one pixel of G nearer than M + 1 (none would mean
d_i > M) and M < limit_i, which a box sum per pixel tells: G's pixels carry the code 2^40 + their index, so
that the sum over a box gives their number and, when that is 1, which one it is. e_i follows by bisection.

The size is that of Barucic and Kybic, "Learning to segment from object sizes" (2022), equations 3-5. The
limits, the proofs and the flips are ours. Exact for sides up to 16383 and up to 8 million pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Int, Int16, Int64, Integer
from torch import Tensor
from torch.nn.functional import pad

from trainables.discrete import Flips, Masks, may_wait

Border = Literal["open", "background"]

_ONE = 1 << 40
"""The code of an outside pixel is this plus its index: the count stands in the high bits of a sum."""


def distance(mask_BHW: Masks, border: Border, waits: bool | None = None) -> Int16[Tensor, "B H W"]:
    """Chebyshev distance of each object pixel to the nearest pixel outside, 0 outside, int16.

    waits: whether to stop once every distance is known, which reads values. None: where that is free
    (`may_wait`). The result does not depend on it.
    """
    waits = may_wait(mask_BHW) if waits is None else waits
    height, width = mask_BHW.shape[1:]
    distance_BHW = mask_BHW.to(torch.uint8)  # half the memory to go through, up to distance 128
    reach = 1
    while reach < max(height, width) and not (waits and distance_BHW.max() < reach):
        if reach == 128:
            distance_BHW = distance_BHW.to(torch.int16)
        rows_BHW = _least_within(distance_BHW, reach, dim=1)
        distance_BHW = distance_BHW + _least_within(rows_BHW, reach, dim=2)
        reach *= 2
    return torch.minimum(distance_BHW.to(torch.int16), _limits(mask_BHW, border))


def size(mask_BHW: Masks, border: Border) -> Int[Tensor, " B"]:
    """Twice the largest distance, in pixels, int32 [B]: 0 for an empty mask.

    With border "open" it equals `trainables.statistics.object_size`; a full mask has 2 * max(H, W).
    Source: Barucic and Kybic (2022), equations 3-5.
    """
    return 2 * distance(mask_BHW, border).flatten(1).amax(1).int()


def size_flips(mask_BHW: Masks, border: Border, waits: bool | None = None) -> Flips:
    """The `size` of each mask and of each mask with any one pixel flipped.

    Takes memory in proportion to B (H W + H^2 + W^2). waits as in `distance`: whether to pick out the few
    pixels whose distance an added pixel can raise, or to treat every pixel like them.
    """
    waits = may_wait(mask_BHW) if waits is None else waits
    height, width = mask_BHW.shape[1:]
    distance_BHW = distance(mask_BHW, border, waits)
    rows_BH, columns_BW = distance_BHW.amax(2), distance_BHW.amax(1)
    largest_B = rows_BH.amax(1).int()
    removed_BHW = torch.maximum(_capped(rows_BH).unsqueeze(2), _capped(columns_BW).unsqueeze(1))
    added_BHW = _added(mask_BHW, largest_B, _limits(mask_BHW, border), waits)
    shorter = min(height, width)
    return Flips(
        value_B=2 * largest_B,
        flipped_BHW=2 * torch.where(mask_BHW, removed_BHW.int(), added_BHW),
        largest=2 * max(height, width) if border == "open" else 2 * ((shorter + 1) // 2),
    )


def _limits(mask_BHW: Masks, border: Border) -> Int16[Tensor, "H W"]:
    """What no distance exceeds: see the head of the file."""
    height, width = mask_BHW.shape[1:]
    if border == "open":
        return torch.full((height, width), max(height, width), dtype=torch.int16, device=mask_BHW.device)
    row_H, column_W = (
        torch.arange(1, length + 1, dtype=torch.int16, device=mask_BHW.device) for length in (height, width)
    )
    row_H, column_W = torch.minimum(row_H, row_H.flip(0)), torch.minimum(column_W, column_W.flip(0))
    return torch.minimum(row_H.unsqueeze(1), column_W)


def _least_within(values: Integer[Tensor, "B H W"], reach: int, dim: int) -> Integer[Tensor, "B H W"]:
    """Least of the values up to `reach`, a power of two and no less than any of them, along an axis."""
    least = pad(values, (0, 0, reach, reach) if dim == 1 else (reach, reach), value=reach)
    window = 1
    while window <= reach:
        least = _least_pair(least, window, dim)
        window *= 2
    return _least_pair(least, 1, dim)  # from windows of 2 * reach to those of 2 * reach + 1


def _least_pair(values: Integer[Tensor, "B H W"], gap: int, dim: int) -> Integer[Tensor, "B h w"]:
    length = values.shape[dim] - gap
    return torch.minimum(values.narrow(dim, 0, length), values.narrow(dim, gap, length))


def _capped(greatest_BL: Int16[Tensor, "B L"]) -> Int16[Tensor, "B L"]:
    """For each place j of an axis the greatest, over its places i, of min(greatest_i, |i - j|)."""
    place_L = torch.arange(greatest_BL.shape[1], dtype=torch.int16, device=greatest_BL.device)
    gap_LL = (place_L.unsqueeze(1) - place_L).abs()
    return torch.minimum(greatest_BL.unsqueeze(1), gap_LL).amax(2)


def _added(
    mask_BHW: Masks, largest_B: Int[Tensor, " B"], limit_HW: Int[Tensor, "H W"], waits: bool
) -> Int[Tensor, "B H W"]:
    """M' of each outside pixel added to the object; M at object pixels."""
    batch, height, width = mask_BHW.shape
    sums = _integral(mask_BHW)
    code_BHW = _box_sums(sums, largest_B)
    # An empty mask needs no search: one pixel has distance 1.
    least_B = torch.where(largest_B > 0, largest_B, max(height, width))
    matters = (code_BHW >= _ONE) & (code_BHW < 2 * _ONE) & (limit_HW > least_B.view(-1, 1, 1))
    matters = matters.flatten()
    pixel_P = matters.nonzero().flatten() if waits else torch.arange(len(matters), device=matters.device)
    image_P = pixel_P // (height * width)
    inside_P = pixel_P % (height * width)
    row_P, column_P = inside_P // width, inside_P % width
    first_P = largest_B.long()[image_P] + 1
    corner_P = image_P * ((height + 1) * (width + 1))
    reach_P = _second_nearest(sums, corner_P, row_P, column_P, first_P, limit_HW.flatten()[inside_P])
    sole_P = code_BHW.flatten()[pixel_P] - _ONE
    # A pixel that does not matter tells the first pixel of its image nothing.
    chosen_P = matters[pixel_P]
    target_P = image_P * (height * width) + torch.where(chosen_P, sole_P, 0)
    added = largest_B.clamp(min=1).view(-1, 1).repeat(1, height * width).flatten()
    reach_P = torch.where(chosen_P, reach_P, 0).int()
    return added.scatter_reduce_(0, target_P, reach_P, "amax").view(batch, height, width)


def _integral(mask_BHW: Masks) -> Int64[Tensor, "B H1 W1"]:
    """Sums of the outside pixels' codes over the rectangles from the first pixel: [B,H+1,W+1].

    A carry out of the summed indices can only raise a count that is 2 or more already.
    """
    height, width = mask_BHW.shape[1:]
    code_HW = torch.arange(_ONE, _ONE + height * width, device=mask_BHW.device).view(height, width)
    # The leading row and column of zeros come in before the masks grow eightfold.
    codes = torch.where(pad(mask_BHW, (1, 0, 1, 0), value=True), 0, pad(code_HW, (1, 0, 1, 0)))
    return codes.cumsum_(1).cumsum_(2)


def _box_sums(sums: Int64[Tensor, "B H1 W1"], reach_B: Int[Tensor, " B"]) -> Int64[Tensor, "B H W"]:
    """Sum of the codes at distance up to each image's reach from each pixel, whole rows first."""
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    reach_B1 = reach_B.long().view(-1, 1)
    row_H = torch.arange(height, device=sums.device)
    column_W = torch.arange(width, device=sums.device)
    image_B1 = torch.arange(len(sums), device=sums.device).view(-1, 1)
    bottom_BH, top_BH = (row_H + reach_B1 + 1).clamp(max=height), (row_H - reach_B1).clamp(min=0)
    rows = sums[image_B1, bottom_BH].sub_(sums[image_B1, top_BH])
    right_BW, left_BW = (column_W + reach_B1 + 1).clamp(max=width), (column_W - reach_B1).clamp(min=0)
    right, left = (x.unsqueeze(1).expand(-1, height, -1) for x in (right_BW, left_BW))
    return rows.gather(2, right).sub_(rows.gather(2, left))


def _second_nearest(
    sums: Int64[Tensor, "B H1 W1"],
    corner_P: Int64[Tensor, " P"],
    row_P: Int64[Tensor, " P"],
    column_P: Int64[Tensor, " P"],
    first_P: Int64[Tensor, " P"],
    limit_P: Int[Tensor, " P"],
) -> Int64[Tensor, " P"]:
    """The largest k from `first` to `limit` for which at most one outside pixel is nearer than k.

    `first` is taken to be such a k. `corner` is the place of the image's first sum among all sums.
    """
    height, width = sums.shape[1] - 1, sums.shape[2] - 1
    flat = sums.flatten()
    reach_P = first_P
    for bit in reversed(range((max(height, width) - 1).bit_length())):
        further_P = reach_P + (1 << bit)
        top_P, bottom_P = (row_P - further_P + 1).clamp(min=0), (row_P + further_P).clamp(max=height)
        left_P, right_P = (column_P - further_P + 1).clamp(min=0), (column_P + further_P).clamp(max=width)
        upper_P, lower_P = corner_P + top_P * (width + 1), corner_P + bottom_P * (width + 1)
        lower_sum_P = flat[lower_P + right_P] - flat[lower_P + left_P]
        upper_sum_P = flat[upper_P + right_P] - flat[upper_P + left_P]
        holds_P = (further_P <= limit_P) & (lower_sum_P - upper_sum_P < 2 * _ONE)
        reach_P = torch.where(holds_P, further_P, reach_P)
    return reach_P
