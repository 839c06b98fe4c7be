"""What all one-pixel flips of a batch cost, in distance transforms, and against transforming every flip."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.benchmarks.measure import Note, interleaved, peak_bytes, trainables
from tests.reference.test_chebyshev import noisy_ellipses
from trainables import flips

__all__ = ["trainables"]

SHAPES = ((16, 48, 32), (16, 256, 256))
SAMPLED = {(16, 48, 32): 96, (16, 256, 256): 4}
"""Pixels per image whose flip the naive way transforms; its time is scaled to all pixels."""

pytestmark = pytest.mark.timeout(600)


def masks_of(kind: str, shape: tuple[int, int, int]) -> np.ndarray:
    if kind == "empty":
        return np.zeros(shape, bool)
    return noisy_ellipses(*shape, seed=0, flipped=0.018 if kind == "noisy" else 0.0)


def by_scipy(masks_NHW: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.distance_transform_cdt(mask_HW, metric="chessboard") for mask_HW in masks_NHW])


def naive(masks_NHW: np.ndarray, pixels_P: np.ndarray) -> np.ndarray:
    """The size [N,P] of each mask with each of the pixels flipped, one SciPy transform at a time."""
    sizes_NP = np.zeros((len(masks_NHW), len(pixels_P)), int)
    for n, mask_HW in enumerate(masks_NHW.copy()):
        for p, pixel in enumerate(pixels_P):
            mask_HW.flat[pixel] ^= True
            sizes_NP[n, p] = 2 * ndimage.distance_transform_cdt(mask_HW, metric="chessboard").max()
            mask_HW.flat[pixel] ^= True
    return sizes_NP


def label(what: str, shape: tuple[int, int, int]) -> str:
    return f"{what} ({'x'.join(map(str, shape))}, CPU, {torch.get_num_threads()} thread)"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_distance_over_scipy(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], shape: tuple[int, int, int]
) -> None:
    chebyshev = trainables("chebyshev")
    masks_NHW = masks_of("noisy", shape)
    masks = torch.from_numpy(masks_NHW)
    assert np.array_equal(chebyshev.distance(masks, "open").numpy(), by_scipy(masks_NHW))
    ours, scipy = interleaved(
        [lambda: chebyshev.distance(masks, "open"), lambda: by_scipy(masks_NHW)], 15, "cpu"
    )
    benchmark.pedantic(chebyshev.distance, (masks, "open"), rounds=5)
    ratio(label("distance transform over SciPy's, looped", shape), ours / scipy, "<= 1")


@pytest.mark.parametrize("kind", ["noisy", "clean", "empty"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_flips_over_one_transform(
    benchmark: Any,
    ratio: Note,
    trainables: Callable[[str], ModuleType],
    shape: tuple[int, int, int],
    kind: str,
) -> None:
    """The project's own transform stops early; of empty masks it computes nothing, so that only SciPy's is a
    measure there."""
    chebyshev = trainables("chebyshev")
    masks_NHW = masks_of(kind, shape)
    masks = torch.from_numpy(masks_NHW)
    value_B = chebyshev.size_flips(masks, "open").value_B
    assert np.array_equal(value_B.numpy(), 2 * by_scipy(masks_NHW).max((1, 2)))
    functions = [
        lambda: chebyshev.size_flips(masks, "open"),
        lambda: chebyshev.distance(masks, "open"),
        lambda: by_scipy(masks_NHW),
    ]
    every, one, scipy = interleaved(functions, 15, "cpu")
    benchmark.pedantic(chebyshev.size_flips, (masks, "open"), rounds=5)
    if kind != "empty":
        ratio(label(f"all flips over one distance transform, {kind} masks", shape), every / one, "<= 8")
    ratio(label(f"all flips over one SciPy transform, {kind} masks", shape), every / scipy, "<= 5")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_naive_over_all_flips(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], shape: tuple[int, int, int]
) -> None:
    chebyshev = trainables("chebyshev")
    masks_NHW = masks_of("noisy", shape)
    masks, pixels = torch.from_numpy(masks_NHW), shape[1] * shape[2]
    sample_P = np.random.default_rng(0).choice(pixels, SAMPLED[shape], replace=False)
    flipped_NV = chebyshev.size_flips(masks, "open").flipped_BHW.flatten(1).numpy()
    assert np.array_equal(flipped_NV[:, sample_P], naive(masks_NHW, sample_P))
    functions = [lambda: naive(masks_NHW, sample_P), lambda: chebyshev.size_flips(masks, "open")]
    slow, fast = interleaved(functions, 7, "cpu")
    benchmark.pedantic(chebyshev.size_flips, (masks, "open"), rounds=5)
    scale = pixels / len(sample_P)
    what = f"naive flips by SciPy over all flips, {len(sample_P)} of {pixels} px timed and scaled"
    ratio(label(what, shape), slow * scale / fast, ">= 40")


@pytest.mark.parametrize("name", flips.names())
def test_statistic_over_one_transform(
    benchmark: Any, ratio: Note, trainables: Callable[[str], ModuleType], name: str
) -> None:
    masks = torch.from_numpy(masks_of("noisy", SHAPES[0]))
    function = trainables("flips").load(name)
    distance = trainables("chebyshev").distance
    every, one = interleaved([lambda: function(masks), lambda: distance(masks, "open")], 15, "cpu")
    benchmark.pedantic(function, (masks,), rounds=5)
    ratio(label(f"all flips of {name} over one distance transform", SHAPES[0]), every / one, "no goal")


def test_peak_memory(benchmark: Any, ratio: Note) -> None:
    shape = SHAPES[1]
    before = f"""
from tests.reference.test_chebyshev import noisy_ellipses
from trainables.chebyshev import size_flips
masks = torch.from_numpy(noisy_ellipses({", ".join(map(str, shape))}, seed=0, flipped=0.018))
size_flips(masks[:1, :8, :8], "open")
"""
    taken = benchmark.pedantic(peak_bytes, (before, 'size_flips(masks, "open")'), rounds=1)
    pixels = shape[0] * shape[1] * shape[2]
    ratio(label("peak memory of all flips over B*H*W bytes", shape), taken / pixels, "<= 64")
