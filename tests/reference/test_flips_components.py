"""Components of larger masks against SciPy's labels, and shapes that are slow to label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference.test_chebyshev import every_flip, hard_masks, noisy_ellipses
from tests.reference.test_flips_enumerated import literal_components
from trainables.flips import components


def snake(height: int, width: int) -> np.ndarray:
    """One line through every second row, joined left and right in turn."""
    mask_HW = np.zeros((height, width), bool)
    mask_HW[::2] = True
    mask_HW[1::4, -1] = True
    mask_HW[3::4, 0] = True
    return mask_HW


def spiral(side: int) -> np.ndarray:
    """One line, one pixel wide, wound around the centre with a pixel of background between its turns."""
    mask_HW = np.zeros((side, side), bool)
    row, column, step = 0, 0, (0, 1)
    for length in [side - 1, *(n for n in range(side - 1, 1, -2) for _ in range(2))]:
        for _ in range(length):
            mask_HW[row, column] = True
            row, column = row + step[0], column + step[1]
        step = (step[1], -step[0])
    return mask_HW


def comb(height: int, width: int) -> np.ndarray:
    """Teeth that meet in the last row only."""
    mask_HW = np.zeros((height, width), bool)
    mask_HW[:, ::2] = True
    mask_HW[-1] = True
    return mask_HW


def assert_equals_scipy(masks_NHW: np.ndarray) -> None:
    masks = torch.from_numpy(masks_NHW)
    one, other = (components.flips(masks, waits) for waits in (True, False))
    assert torch.equal(one.value_B, other.value_B)
    assert torch.equal(one.flipped_BHW, other.flipped_BHW)
    assert np.array_equal(one.value_B.numpy(), literal_components(masks_NHW))
    flipped = every_flip(masks_NHW).reshape(-1, *masks_NHW.shape[1:])
    assert np.array_equal(one.flipped_BHW.flatten().numpy(), literal_components(flipped))


@pytest.mark.parametrize("density", [0.2, 0.4, 0.6, 0.8])
@pytest.mark.parametrize("shape", [(13, 17), (1, 40), (40, 1), (2, 25)])
def test_random_masks(density: float, shape: tuple[int, int]) -> None:
    assert_equals_scipy(np.random.default_rng(0).random((6, *shape)) < density)


def test_noisy_ellipses() -> None:
    assert_equals_scipy(noisy_ellipses(3, 30, 24, seed=0, flipped=0.05))


def test_hard_masks() -> None:
    assert_equals_scipy(np.stack(list(hard_masks(9, 8).values())))


@pytest.mark.parametrize("turn", range(4))
def test_long_thin_shapes(turn: int) -> None:
    for mask_HW in (snake(15, 15), spiral(15), comb(15, 15)):
        turned = np.ascontiguousarray(np.rot90(mask_HW, turn))
        assert literal_components(turned[None]) == 1
        assert_equals_scipy(np.stack([turned, ~turned]))


def test_by_hand() -> None:
    """A ring of eight: its hole, a pixel of it, and a pixel apart."""
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 1:4, 1:4] = True
    mask[0, 2, 2] = False
    value_B, flipped_BHW, largest = components.flips(mask)
    assert value_B.tolist() == [1]
    assert flipped_BHW[0, 2, 2] == 1
    assert flipped_BHW[0, 1, 2] == 1
    assert flipped_BHW[0, 5, 5] == 2
    assert flipped_BHW[0, 4, 4] == 1  # touches a corner
    assert largest == 9


def test_a_chain_of_corners_is_one_component() -> None:
    mask = torch.eye(7, dtype=torch.bool).unsqueeze(0)
    value_B, flipped_BHW, _ = components.flips(mask)
    assert value_B.tolist() == [1]
    assert flipped_BHW[0].diagonal().tolist() == [1, 2, 2, 2, 2, 2, 1]
