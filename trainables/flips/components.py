"""Number of 8-connected components of the foreground.

Adding a pixel merges the components among its 8 neighbours and itself into one: the change is 1 minus the
number of distinct ones.

Removing a pixel j changes components = Euler characteristic + holes. Take the foreground as the union of
closed unit squares, which meet at corners too: its Euler characteristic is faces - edges + corners of all
squares. j's face goes, with the edges that no 4-neighbour shares and the corners that none of the three other
squares there shares: a change of -1 + edges - corners. A hole is a 4-connected component of the background
that is not the one around the image (a ring of background frames it). j becomes background and merges the
background components among its 4 neighbours: the holes change by 1 minus the number of distinct ones.

Labels. All pixels of a horizontal run begin with the index of its first pixel, their root. In a round every
root joins the least root beside its pixels when that is smaller, then every pixel looks up its root's root
until there is none. A root that survives a round is smaller than all beside it. Either one of those joined
it, or each joined a smaller one, and then it joins one in the next round. So each survivor of two rounds has
absorbed another: 2 log2(roots) rounds end it. On a CPU they stop as soon as nothing changes, after a number
of rounds (usually a few) that depends on the data; elsewhere all are run, so that nothing is waited for.

Everything here is ours.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Int32, Int64
from torch import Tensor
from torch.nn.functional import pad

from trainables.discrete import Flips, Masks, may_wait

_BESIDE = ((0, 1), (1, 0), (0, -1), (-1, 0))
_AROUND = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""(row, column) steps to the 4 and the 8 neighbours, in turn around the pixel."""

Steps = tuple[tuple[int, int], ...]


def flips(mask_BHW: Masks, waits: bool | None = None) -> Flips:
    """The number of components of each mask and of each mask with one pixel flipped.

    waits: whether labelling stops when it is done, which reads values, or after the most rounds that it can
    take. None: where that is free (`may_wait`). The result does not depend on it.
    """
    waits = may_wait(mask_BHW) if waits is None else waits
    height, width = mask_BHW.shape[1:]
    framed_BHW = pad(mask_BHW, (1, 1, 1, 1))
    foreground = _labels(framed_BHW, _AROUND, waits)
    background = _labels(~framed_BHW, _BESIDE, waits)
    own = torch.arange(framed_BHW[0].numel(), device=mask_BHW.device).view_as(framed_BHW[0])
    value_B = (framed_BHW & (foreground == own)).sum((1, 2), dtype=torch.int32)
    added_BHW = 1 - _distinct(_neighbours(foreground, _AROUND), nothing=own.numel())
    removed_BHW = 1 - _distinct(_neighbours(background, _BESIDE), nothing=own.numel()) + _euler(framed_BHW)
    change_BHW = torch.where(mask_BHW, removed_BHW, added_BHW)
    # A 2 x 2 block holds pixels of one component only.
    largest = ((height + 1) // 2) * ((width + 1) // 2)
    return Flips(value_B, value_B.view(-1, 1, 1) + change_BHW, largest)


def _neighbours(values: Tensor, steps: Steps) -> list[Tensor]:
    """The values one step away from each pixel of the image, given those of the framed image."""
    height, width = values.shape[1] - 2, values.shape[2] - 2
    return [values[:, 1 + r : 1 + r + height, 1 + c : 1 + c + width] for r, c in steps]


def _distinct(labels: list[Tensor], nothing: int) -> Int32[Tensor, "B H W"]:
    """How many different labels there are, not counting `nothing`."""
    count_BHW = torch.zeros_like(labels[0], dtype=torch.int32)
    for place, label_BHW in enumerate(labels):
        new_BHW = label_BHW != nothing
        for earlier_BHW in labels[:place]:
            new_BHW = new_BHW & (label_BHW != earlier_BHW)
        count_BHW = count_BHW + new_BHW
    return count_BHW


def _euler(framed_BHW: Masks) -> Int32[Tensor, "B h w"]:
    """The change of the Euler characteristic when the pixel, one of the foreground, is removed."""
    free = [~neighbour for neighbour in _neighbours(framed_BHW, _AROUND)]
    edges = torch.stack(free[::2])
    corners = torch.stack([free[k] & free[k + 1] & free[(k + 2) % 8] for k in range(0, 8, 2)])
    return edges.sum(0, dtype=torch.int32) - corners.sum(0, dtype=torch.int32) - 1


def _labels(mask_BHW: Masks, steps: Steps, waits: bool) -> Int64[Tensor, "B H W"]:
    """The least index of a pixel of each pixel's component among the mask's; H * W outside the mask.

    The frame's pixels are all in the mask or all outside of it.
    """
    batch, height, width = mask_BHW.shape
    nothing, most_roots = height * width, height * ((width + 1) // 2)
    index_HW = torch.arange(nothing, device=mask_BHW.device).view(height, width)
    starts_BHW = mask_BHW & ~pad(mask_BHW[..., :-1], (1, 0))
    labels_BHW = torch.where(starts_BHW, index_HW, 0).cummax(2).values
    labels_BHW = torch.where(mask_BHW, labels_BHW, nothing)
    for _ in range(2 * (most_roots.bit_length() - 1)):
        beside_BHW = _least_beside(labels_BHW, steps, nothing)
        # Outside the mask everybody points to one more place, whose root is itself.
        roots_BV = torch.arange(nothing + 1, device=mask_BHW.device).repeat(batch, 1)
        roots_BV = roots_BV.scatter_reduce(1, labels_BHW.flatten(1), beside_BHW.flatten(1), "amin")
        roots_BV[:, nothing] = nothing
        roots_BV = _end_points(roots_BV, most_roots, waits)
        joined_BHW = roots_BV.gather(1, labels_BHW.flatten(1)).view_as(labels_BHW)
        if waits and torch.equal(joined_BHW, labels_BHW):
            break
        labels_BHW = joined_BHW
    return labels_BHW


def _least_beside(labels_BHW: Int64[Tensor, "B H W"], steps: Steps, nothing: int) -> Int64[Tensor, "B H W"]:
    """The least label among the pixel's neighbours, `nothing` where there is none."""
    framed = pad(labels_BHW, (1, 1, 1, 1), value=nothing)
    return functools.reduce(torch.minimum, _neighbours(framed, steps))


def _end_points(parents_BV: Int64[Tensor, "B V"], deepest: int, waits: bool) -> Int64[Tensor, "B V"]:
    """The root above each element of a forest, which is its own parent and at most `deepest` steps away."""
    for _ in range(deepest.bit_length()):
        above_BV = parents_BV.gather(1, parents_BV)
        if waits and torch.equal(above_BV, parents_BV):
            break
        parents_BV = above_BV
    return parents_BV
