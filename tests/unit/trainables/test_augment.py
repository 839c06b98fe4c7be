"""Augmentation: the eight symmetries by hand, nothing else accepted, every statistic stays true."""

from __future__ import annotations

import math
from collections.abc import Callable

import albumentations as A  # noqa: N812  the library's own convention
import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.data import augment
from trainables.statistics import STATISTICS, summary_statistics

BY_HAND: tuple[Callable[[np.ndarray], np.ndarray], ...] = (  # in the order of `augment.symmetries`
    lambda a: a,
    lambda a: a[:, ::-1],
    lambda a: a[::-1],
    lambda a: np.rot90(a, 2),
    lambda a: np.rot90(a, 1),
    lambda a: np.rot90(a, 3),
    lambda a: a.T,
    lambda a: np.rot90(a, 2).T,
)
SHAPES = [(8, 8), (7, 7), (2, 2), (5, 9), (12, 4), (1, 6), (6, 1), (1, 1)]


def all_moves(images: Tensor, tables: Tensor) -> Tensor:
    """[G, ...]: one image under every symmetry."""
    return augment.apply(images[None].expand(len(tables), *images.shape), tables, torch.arange(len(tables)))


def masks_and_images(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four masks of up to three classes with their images; the last mask is all background."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (4, math.ceil(height / 2), math.ceil(width / 2)))
    masks = coarse.repeat(2, 1).repeat(2, 2)[:, :height, :width].astype(np.uint8)
    masks[3] = 0
    return masks, rng.integers(0, 256, masks.shape, np.uint8)


def test_eight_symmetries_by_hand() -> None:
    image = np.arange(25, dtype=np.uint8).reshape(5, 5)
    moved = all_moves(torch.from_numpy(image), augment.symmetries("flips_turns", 5, 5))
    assert len(moved) == 8
    for by_hand, result in zip(BY_HAND, moved, strict=True):
        np.testing.assert_array_equal(result, by_hand(image))
    assert len({tuple(m.flatten().tolist()) for m in moved}) == 8


@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (4, 4)])
def test_flips_by_hand(shape: tuple[int, int]) -> None:
    image = np.arange(math.prod(shape), dtype=np.uint8).reshape(shape)
    moved = all_moves(torch.from_numpy(image), augment.symmetries("flips", *shape))
    assert len(moved) == 4
    for by_hand, result in zip(BY_HAND[:4], moved, strict=True):
        np.testing.assert_array_equal(result, by_hand(image))


def test_none_leaves_the_image_alone() -> None:
    assert torch.equal(augment.symmetries("none", 3, 4), torch.arange(12)[None])


def test_turns_only_of_square_images() -> None:
    assert torch.equal(augment.symmetries("flips_turns", 4, 6), augment.symmetries("flips", 4, 6))


@pytest.mark.parametrize(
    "transform",
    [
        A.CenterCrop(3, 3),
        A.Compose([A.CenterCrop(4, 4), A.Resize(6, 6)]),
        A.Affine(scale=(1.5, 1.5), p=1),
        A.Affine(scale=(0.5, 0.5), p=1),
        A.Affine(translate_px=(2, 2), p=1),
        A.Rotate(limit=(45, 45), p=1),
        A.Blur(blur_limit=(3, 3), p=1),
        A.ElasticTransform(alpha=50, p=1),
    ],
    ids=lambda t: type(t).__name__,
)
def test_what_loses_or_blends_pixels_is_refused(transform: A.BasicTransform) -> None:
    with pytest.raises(ValueError, match="does not permute the pixels of a 6x6 image"):
        augment.table_of(transform, 6, 6)


def test_a_turn_of_an_oblong_image_is_refused() -> None:
    with pytest.raises(ValueError, match="does not permute the pixels of a 4x6 image"):
        augment.table_of(A.Transpose(p=1), 4, 6)


def test_image_and_labels_move_alike() -> None:
    tables = augment.symmetries("flips_turns", 6, 6)
    choice = torch.tensor([3, 7, 0, 4, 4])
    labels = torch.randint(0, 256, (5, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    image = torch.stack([labels / 255, 1 - labels / 255, labels / 510], 1)
    moved_labels = augment.apply(labels, tables, choice)
    moved_image = augment.apply(image, tables, choice)
    assert moved_labels.dtype == torch.uint8
    expected = torch.stack([moved_labels / 255, 1 - moved_labels / 255, moved_labels / 510], 1)
    assert torch.equal(moved_image, expected)
    for before, after, g in zip(labels, moved_labels, choice.tolist(), strict=True):
        np.testing.assert_array_equal(after, BY_HAND[g](before.numpy()))


def test_memory_layout_does_not_matter() -> None:
    tables, choice = augment.symmetries("flips", 3, 5), torch.tensor([1, 2])
    image = torch.rand(2, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    channels_last = image.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augment.apply(channels_last, tables, choice), augment.apply(image, tables, choice))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_statistic_stays_true(shape: tuple[int, int]) -> None:
    masks, images = masks_and_images(*shape)
    tables = augment.symmetries("flips_turns", *shape)

    def statistics(masks: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
        volumes = ["a", "a", "b", "b"]
        return summary_statistics(
            STATISTICS,
            images_NHW=images,
            masks_NHW=masks,
            volume_ids=volumes,
            spacing_mm=np.ones((4, 3)),
            num_classes=3,
        )

    before = statistics(masks, images)
    centroid = torch.from_numpy(before.pop("centroid"))
    for g in range(len(tables)):
        choice = torch.full((4,), g)
        moved = [augment.apply(torch.from_numpy(a), tables, choice).numpy() for a in (masks, images)]
        after = statistics(*moved)
        moved_centroid = augment.move_centroids(centroid, tables, choice, shape[1])
        # float32, and the order of summation differs
        np.testing.assert_allclose(moved_centroid, after.pop("centroid"), atol=2e-6)
        for name in before:
            np.testing.assert_allclose(after[name], before[name], rtol=1e-6, err_msg=name)


def test_the_centroid_of_one_pixel_by_hand() -> None:
    """Row 0, column 2 of 2 x 4: flipped sideways column 1, upside down row 1."""
    tables = augment.symmetries("flips", 2, 4)
    centroid = torch.tensor([[[0.25, 0.625]]]).expand(4, 1, 2)
    moved = augment.move_centroids(centroid, tables, torch.arange(4), 4)
    expected = torch.tensor([[0.25, 0.625], [0.25, 0.375], [0.75, 0.625], [0.75, 0.375]])
    torch.testing.assert_close(moved[:, 0], expected)


def test_an_unknown_centroid_stays_unknown() -> None:
    tables = augment.symmetries("flips_turns", 4, 4)
    centroid = torch.full((8, 1, 2), math.nan)
    assert augment.move_centroids(centroid, tables, torch.arange(8), 4).isnan().all()
