"""Chebyshev distances and sizes against all pairs of pixels, SciPy, and the values of methods.md 3.32."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from trainables import chebyshev
from trainables.statistics import object_size

BORDERS = ("open", "background")
SMALL = ((1, 1), (1, 2), (2, 1), (2, 2), (1, 9), (9, 1), (2, 7), (3, 5), (5, 3), (4, 4), (5, 5), (4, 6))
DENSITIES = (0.05, 0.2, 0.5, 0.8, 0.93, 0.98)


def literal_distance(masks_NHW: np.ndarray, border: str) -> np.ndarray:
    """The definition, pixel pair by pixel pair; a mask without background capped as in methods.md."""
    count, height, width = masks_NHW.shape
    place_V2 = np.stack(np.indices((height, width)), -1).reshape(-1, 2)
    pair_VV = np.abs(place_V2[:, None] - place_V2).max(-1).astype(np.int16)
    cap_V = np.full(height * width, max(height, width), np.int16)
    if border == "background":
        beyond_V4 = np.concatenate([place_V2 + 1, (height, width) - place_V2], 1)
        cap_V = beyond_V4.min(1).astype(np.int16)
    flat_NV = masks_NHW.reshape(count, -1)
    chunk = max(1, 4_000_000 // pair_VV.size)
    nearest = [
        np.where(part_NV[:, None], np.int16(9999), pair_VV).min(-1)
        for part_NV in (flat_NV[start : start + chunk] for start in range(0, count, chunk))
    ]
    return np.minimum(np.concatenate(nearest), cap_V).reshape(masks_NHW.shape)


def literal_size(masks_NHW: np.ndarray, border: str) -> np.ndarray:
    return 2 * literal_distance(masks_NHW, border).max((1, 2))


def scipy_size(mask_HW: np.ndarray, border: str) -> int:
    return object_size(mask_HW if border == "open" else np.pad(mask_HW, 1))


def every_flip(masks_NHW: np.ndarray) -> np.ndarray:
    """[N,V,H,W]: pixel v of mask n flipped."""
    height, width = masks_NHW.shape[1:]
    one_VHW = np.eye(height * width, dtype=bool).reshape(-1, height, width)
    return masks_NHW[:, None] ^ one_VHW


def random_masks(shape: tuple[int, int], count: int, seed: int) -> np.ndarray:
    """`count` masks of each density."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.random((count, *shape)) < density for density in DENSITIES])


def hard_masks(height: int, width: int) -> dict[str, np.ndarray]:
    rows, columns = np.indices((height, width))
    empty = np.zeros((height, width), bool)
    line = rows == height // 2
    middle = line & (columns == width // 2)
    corner = (rows == 0) & (columns == 0)
    far_corner = (rows == height - 1) & (columns == width - 1)
    left, right = columns < width // 2 - 1, columns > width // 2 + 1
    return {
        "empty": empty,
        "full": ~empty,
        "one pixel": middle,
        "one pixel in a corner": corner,
        "one hole": ~middle,
        "all but a corner": ~corner,
        "all but two": ~(corner | far_corner),
        "all but two beside each other": ~(middle | np.roll(middle, 1, 1)),
        "checkerboard": (rows + columns) % 2 == 0,
        "lattice of background": (rows % 3 != 1) | (columns % 3 != 1),
        "sparse lattice of background": (rows % 5 != 2) | (columns % 5 != 2),
        "lattice of objects": (rows % 4 < 3) & (columns % 4 < 3),
        "thin line": line,
        "thin line upright": columns == width // 2,
        "cross": line | (columns == width // 2),
        "two components": left | right,
        "against the frame": (rows < height // 2) & left,
        "frame": (rows % (height - 1) == 0) | (columns % (width - 1) == 0),
        "all but the frame": (rows % (height - 1) != 0) & (columns % (width - 1) != 0),
    }


def noisy_ellipses(count: int, height: int, width: int, seed: int, flipped: float = 0.01) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    masks_NHW = np.zeros((count, height, width), bool)
    for n in range(count):
        row, column = rng.uniform(0.2, 0.8, 2) * (height, width)
        half_height, half_width = rng.uniform(0.15, 0.6, 2) * (height, width)
        masks_NHW[n] = ((rows - row) / half_height) ** 2 + ((columns - column) / half_width) ** 2 < 1
    return masks_NHW ^ (rng.random(masks_NHW.shape) < flipped)


def both_ways(masks_NHW: np.ndarray, border: str) -> tuple[np.ndarray, np.ndarray]:
    """The sizes and the sizes after each flip; the short list and the full search say the same."""
    masks = torch.from_numpy(masks_NHW)
    one, other = (chebyshev.size_flips(masks, border, waits) for waits in (True, False))
    assert torch.equal(one.value_B, other.value_B)
    assert torch.equal(one.flipped_BHW, other.flipped_BHW)
    assert one.value_B.dtype == one.flipped_BHW.dtype == torch.int32
    return one.value_B.numpy(), one.flipped_BHW.numpy()


@pytest.mark.parametrize("border", BORDERS)
class TestAgainstTheDefinition:
    @pytest.mark.parametrize("shape", SMALL)
    def test_every_flip_of_random_masks(self, shape: tuple[int, int], border: str) -> None:
        masks_NHW = random_masks(shape, count=50, seed=sum(shape))
        value_N, flipped_NHW = both_ways(masks_NHW, border)
        assert np.array_equal(value_N, literal_size(masks_NHW, border))
        expected = literal_size(every_flip(masks_NHW).reshape(-1, *shape), border)
        assert np.array_equal(flipped_NHW.ravel(), expected)

    @pytest.mark.parametrize("shape", [(7, 8), (9, 5)])
    def test_every_flip_of_hard_masks(self, shape: tuple[int, int], border: str) -> None:
        masks = hard_masks(*shape)
        _, flipped_NHW = both_ways(np.stack(list(masks.values())), border)
        for (name, mask_HW), flipped_HW in zip(masks.items(), flipped_NHW, strict=True):
            expected = literal_size(every_flip(mask_HW[None])[0], border)
            assert np.array_equal(flipped_HW.ravel(), expected), name

    @pytest.mark.parametrize("shape", [(48, 32), (17, 40), (1, 70), (70, 1), (3, 50)])
    def test_every_flip_of_noisy_ellipses(self, shape: tuple[int, int], border: str) -> None:
        masks_NHW = noisy_ellipses(3, *shape, seed=shape[0])
        value_N, flipped_NHW = both_ways(masks_NHW, border)
        for mask_HW, value, flipped_HW in zip(masks_NHW, value_N, flipped_NHW, strict=True):
            assert value == scipy_size(mask_HW, border)
            expected = [scipy_size(flip_HW, border) for flip_HW in every_flip(mask_HW[None])[0]]
            assert np.array_equal(flipped_HW.ravel(), expected)

    @pytest.mark.parametrize("waits", [True, False])
    def test_distances(self, border: str, waits: bool) -> None:
        for shape in SMALL:
            masks_NHW = random_masks(shape, count=30, seed=1)
            distance_NHW = chebyshev.distance(torch.from_numpy(masks_NHW), border, waits).numpy()
            assert np.array_equal(distance_NHW, literal_distance(masks_NHW, border)), shape

    def test_size_is_the_value(self, border: str) -> None:
        masks = torch.from_numpy(noisy_ellipses(20, 24, 31, seed=0))
        size_B = chebyshev.size(masks, border)
        assert size_B.dtype == torch.int32
        assert torch.equal(size_B, chebyshev.size_flips(masks, border).value_B)

    def test_hundreds_of_pixels_a_side(self, border: str) -> None:
        """Flips that matter and flips that do not, spot-checked."""
        mask_HW = np.zeros((500, 600), bool)
        mask_HW[:400, 50:500] = True
        mask_HW[200, 300] = False
        value_N, flipped_NHW = both_ways(mask_HW[None], border)
        for row, column in [(200, 300), (0, 50), (250, 400), (399, 499), (499, 0), (201, 300), (300, 380)]:
            flip_HW = mask_HW.copy()
            flip_HW[row, column] ^= True
            assert flipped_NHW[0, row, column] == scipy_size(flip_HW, border)
        assert flipped_NHW[0, 200, 300] > value_N[0]


def test_open_distances_are_scipy_s_chessboard_transform() -> None:
    masks_NHW = noisy_ellipses(10, 48, 32, seed=3)
    expected = np.stack([ndimage.distance_transform_cdt(mask, metric="chessboard") for mask in masks_NHW])
    assert np.array_equal(chebyshev.distance(torch.from_numpy(masks_NHW), "open").numpy(), expected)


class TestByHand:
    @pytest.mark.parametrize(("side", "expected"), zip(range(1, 8), (2, 2, 4, 4, 6, 6, 8), strict=True))
    def test_square(self, side: int, expected: int) -> None:
        mask = torch.zeros(1, 12, 11, dtype=torch.bool)
        mask[0, 2 : 2 + side, 3 : 3 + side] = True
        assert [chebyshev.size(mask, border).item() for border in BORDERS] == [expected, expected]

    @pytest.mark.parametrize("waits", [True, False])
    @pytest.mark.parametrize("length", [127, 128, 129, 130, 256, 257, 600])
    def test_distances_beyond_a_byte(self, length: int, waits: bool) -> None:
        """A row whose first pixel alone is outside: each distance is the column."""
        mask = torch.ones(1, 2, length, dtype=torch.bool)
        mask[..., 0] = False
        expected = torch.arange(length, dtype=torch.int16).expand(1, 2, -1)
        assert torch.equal(chebyshev.distance(mask, "open", waits), expected)
        flips = chebyshev.size_flips(mask[:, :1], "open", waits)
        assert flips.value_B.item() == 2 * (length - 1)
        assert flips.flipped_BHW[0, 0, 0] == 2 * length
        assert flips.flipped_BHW[0, 0, -1] == 2 * ((length - 1) // 2)  # the middle of two

    @pytest.mark.parametrize(("border", "expected"), [("open", 6), ("background", 4)])
    def test_object_against_the_frame(self, border: str, expected: int) -> None:
        mask = torch.zeros(1, 5, 7, dtype=torch.bool)
        mask[0, :, :3] = True
        assert chebyshev.size(mask, border).item() == expected

    def test_all_but_a_corner(self) -> None:
        mask = torch.ones(1, 48, 32, dtype=torch.bool)
        mask[0, 0, 0] = False
        assert chebyshev.size(mask, "open").item() == 94

    @pytest.mark.parametrize(("border", "expected"), [("open", 96), ("background", 32)])
    def test_full_mask_is_capped(self, border: str, expected: int) -> None:
        flips = chebyshev.size_flips(torch.ones(1, 48, 32, dtype=torch.bool), border)
        assert flips.value_B.item() == flips.largest == expected

    def test_each_flip_of_an_empty_mask_makes_an_object_of_size_two(self) -> None:
        for border in BORDERS:
            flips = chebyshev.size_flips(torch.zeros(2, 4, 5, dtype=torch.bool), border)
            assert flips.value_B.tolist() == [0, 0]
            assert torch.equal(flips.flipped_BHW, torch.full((2, 4, 5), 2, dtype=torch.int32))

    def test_census_of_three_by_three(self) -> None:
        masks = torch.tensor(list(itertools.product((False, True), repeat=9))).view(-1, 3, 3)
        sizes, counts = chebyshev.size(masks, "open").unique(return_counts=True)
        assert dict(zip(sizes.tolist(), counts.tolist(), strict=True)) == {0: 1, 2: 416, 4: 94, 6: 1}

    @pytest.mark.parametrize(("side", "changed"), [(20, 324), (21, 441)])
    def test_flips_of_a_clean_square_that_change_its_size(self, side: int, changed: int) -> None:
        """No single pixel makes a square larger: the plateau of methods.md 3.32."""
        mask = torch.zeros(1, 48, 32, dtype=torch.bool)
        mask[0, 14 : 14 + side, 6 : 6 + side] = True
        flips = chebyshev.size_flips(mask, "open")
        assert (flips.flipped_BHW < flips.value_B).sum().item() == changed
        assert not (flips.flipped_BHW > flips.value_B).any()
