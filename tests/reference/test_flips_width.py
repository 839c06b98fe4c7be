"""The longest run of a row or a column, by hand and against counting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.test_chebyshev import every_flip, hard_masks, noisy_ellipses
from tests.reference.test_flips_enumerated import literal_width
from trainables.flips import width


@pytest.mark.parametrize(
    ("row", "value", "flipped"),
    [
        ("......", 0, (1, 1, 1, 1, 1, 1)),
        ("######", 6, (5, 4, 3, 3, 4, 5)),
        ("##.##.", 2, (2, 2, 5, 2, 2, 3)),  # a tie: removing a pixel of one leaves the other
        ("###.##", 3, (2, 2, 2, 6, 3, 3)),
        ("#.....", 1, (0, 2, 1, 1, 1, 1)),
    ],
)
def test_by_hand(row: str, value: int, flipped: tuple[int, ...]) -> None:
    result = width.flips(torch.tensor([[[pixel == "#" for pixel in row]]]))
    assert result.value_B.tolist() == [value]
    assert result.flipped_BHW.flatten().tolist() == list(flipped)
    assert result.largest == 6


def test_the_longer_of_rows_and_columns_and_none_goes_round_the_corner() -> None:
    mask = torch.tensor([[[False, True], [True, False], [True, False]]])
    result = width.flips(mask)
    assert result.value_B.tolist() == [2]  # the column; reading on from (0, 1) to (1, 0) would give 3
    assert result.flipped_BHW.tolist() == [[[3, 2], [1, 2], [1, 2]]]


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (9, 14)])
def test_larger_masks(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((4, *shape)) < density for density in (0.3, 0.7, 0.95)]
    masks_NHW = np.concatenate([*masks, noisy_ellipses(4, *shape, seed=0)])
    if min(shape) > 1:
        masks_NHW = np.concatenate([masks_NHW, np.stack(list(hard_masks(*shape).values()))])
    result = width.flips(torch.from_numpy(masks_NHW))
    assert np.array_equal(result.value_B.numpy(), literal_width(masks_NHW))
    expected = literal_width(every_flip(masks_NHW).reshape(-1, *shape))
    assert np.array_equal(result.flipped_BHW.flatten().numpy(), expected)
