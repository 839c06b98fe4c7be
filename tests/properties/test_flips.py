"""Every file of trainables/flips/ is held to the same contract, by name, without being listed anywhere."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from search_spaces import UserError
from tests.reference.test_chebyshev import every_flip, noisy_ellipses
from tests.tiny import plain_methods
from trainables import flips
from trainables.chebyshev import size_flips
from trainables.flips import components

NAMES = flips.names()
COUNTS_PIECES = {"components"}
"""Statistics that a larger mask can lower."""

examples = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(1, 12)
densities = st.floats(0.0, 1.0)

by_name = pytest.mark.parametrize("name", NAMES)


def some_masks(seed: int, height: int, width: int, density: float, count: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((count, height, width)) < density)


def ellipses(count: int = 4, height: int = 20, width: int = 14) -> Tensor:
    return torch.from_numpy(noisy_ellipses(count, height, width, seed=0, flipped=0.03))


def assert_same(one: Any, other: Any) -> None:
    assert torch.equal(one.value_B, other.value_B)
    assert torch.equal(one.flipped_BHW, other.flipped_BHW)
    assert one.largest == other.largest


class TestByName:
    def test_unknown_name(self) -> None:
        with pytest.raises(UserError, match=r"'areas'.*Did you mean 'area'"):
            flips.load("areas")

    def test_listing_is_by_file_and_not_the_caller_s_to_change(self) -> None:
        assert {"area", "components", "size", "size_closed", "width"} <= set(NAMES)
        assert sorted(NAMES) == NAMES
        flips.names().clear()
        assert flips.names() == NAMES

    def test_listing_does_not_load_torch(self) -> None:
        code = "import sys; from trainables import flips; flips.names(); sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0


@by_name
class TestResult:
    def test_types(self, name: str) -> None:
        result = flips.load(name)(ellipses())
        assert result.value_B.shape == (4,)
        assert result.flipped_BHW.shape == (4, 20, 14)
        assert result.value_B.dtype == result.flipped_BHW.dtype == torch.int32
        assert type(result.largest) is int

    @pytest.mark.parametrize("shape", [(1, 1), (1, 13), (13, 1), (2, 9)])
    def test_thin_images(self, name: str, shape: tuple[int, int]) -> None:
        masks = some_masks(0, *shape, density=0.6, count=20)
        result = flips.load(name)(masks)
        flipped = torch.from_numpy(every_flip(masks.numpy())).flatten(0, 1)
        assert torch.equal(result.flipped_BHW.flatten(), flips.load(name)(flipped).value_B)

    def test_the_value_alone_is_that_of_the_flips(self, name: str) -> None:
        masks = torch.cat([ellipses(), torch.zeros(1, 20, 14).bool(), torch.ones(1, 20, 14).bool()])
        assert torch.equal(flips.load_value(name)(masks), flips.load(name)(masks).value_B)

    def test_any_memory_layout(self, name: str) -> None:
        masks = ellipses(height=14, width=14)
        layouts: list[Callable[[Tensor], Tensor]] = [
            lambda m: m.transpose(1, 2),
            lambda m: m[::2, 1:, 2::3],
            lambda m: m[:1].expand(5, -1, -1),
            lambda m: m.permute(1, 0, 2),
        ]
        for layout in layouts:
            assert not layout(masks).is_contiguous()
            assert_same(flips.load(name)(layout(masks)), flips.load(name)(layout(masks).contiguous()))

    def test_masks_of_a_batch_do_not_meet(self, name: str) -> None:
        masks = torch.cat([ellipses(), torch.zeros(1, 20, 14).bool(), torch.ones(1, 20, 14).bool()])
        together = flips.load(name)(masks)
        for n, mask_HW in enumerate(masks):
            alone = flips.load(name)(mask_HW.unsqueeze(0))
            assert torch.equal(alone.value_B[0], together.value_B[n])
            assert torch.equal(alone.flipped_BHW[0], together.flipped_BHW[n])

    def test_leaves_the_masks_as_they_were(self, name: str) -> None:
        masks = ellipses()
        before = masks.clone()
        flips.load(name)(masks)
        assert torch.equal(masks, before)


@by_name
class TestMathematics:
    @examples
    @given(seed=seeds, height=sides, width=sides, density=densities)
    def test_flipping_twice_changes_nothing(
        self, name: str, seed: int, height: int, width: int, density: float
    ) -> None:
        mask = some_masks(seed, height, width, density, count=1)
        flipped = torch.from_numpy(every_flip(mask.numpy())[0])
        once, back = flips.load(name)(mask), flips.load(name)(flipped)
        assert torch.equal(once.flipped_BHW.flatten(), back.value_B)
        pixels = torch.arange(height * width)
        back_again = back.flipped_BHW.flatten(1)[pixels, pixels]
        assert torch.equal(back_again, once.value_B.expand(height * width))

    @examples
    @given(seed=seeds, height=sides, width=sides, density=densities)
    def test_values_lie_between_0_and_the_largest(
        self, name: str, seed: int, height: int, width: int, density: float
    ) -> None:
        mask = some_masks(seed, height, width, density)
        value_B, flipped_BHW, largest = flips.load(name)(mask)
        for values in (value_B, flipped_BHW):
            assert values.min() >= 0
            assert values.max() <= largest

    @examples
    @given(seed=seeds, height=sides, width=sides, density=densities)
    def test_mirroring_and_turning_the_image_moves_the_flips(
        self, name: str, seed: int, height: int, width: int, density: float
    ) -> None:
        mask = some_masks(seed, height, width, density)
        result = flips.load(name)(mask)
        for move in (lambda t: t.flip(2), lambda t: t.flip(1), lambda t: t.transpose(1, 2)):
            moved = flips.load(name)(move(mask))
            assert torch.equal(moved.value_B, result.value_B)
            assert torch.equal(moved.flipped_BHW, move(result.flipped_BHW))

    @examples
    @given(seed=seeds, height=sides, width=sides, density=densities)
    def test_more_pixels_are_never_less(
        self, name: str, seed: int, height: int, width: int, density: float
    ) -> None:
        if name in COUNTS_PIECES:
            return
        mask = some_masks(seed, height, width, density)
        value_B, flipped_BHW, _ = flips.load(name)(mask)
        change_BHW = flipped_BHW - value_B.view(-1, 1, 1)
        assert (torch.where(mask, change_BHW, -change_BHW) <= 0).all()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (2, 2), (3, 2), (5, 4), (6, 6), (7, 9)])
    def test_some_mask_has_the_largest_value(self, name: str, shape: tuple[int, int]) -> None:
        rows, columns = np.indices(shape)
        apart = (rows % 2 == 0) & (columns % 2 == 0)
        value_B, _, largest = flips.load(name)(torch.from_numpy(np.stack([np.ones(shape, bool), apart])))
        assert value_B.max() == largest


class Watch(TorchDispatchMode):
    """Counts the operations, and keeps those that make the host wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        name = func.overloadpacket.__name__
        indices = args[1] if name in {"index", "index_put", "index_put_"} else ()
        by_mask = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices)
        if by_mask or name in {"_local_scalar_dense", "nonzero", "equal", "masked_select"}:
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


WITHOUT_WAITING: dict[str, Callable[[Tensor], Any]] = {
    "size": lambda masks: size_flips(masks, "open", waits=False),
    "size_closed": lambda masks: size_flips(masks, "background", waits=False),
    "components": lambda masks: components.flips(masks, waits=False),
}
"""What an accelerator runs, where it differs from what a CPU runs."""


@by_name
class TestAccelerator:
    def test_waits_for_nothing(self, name: str) -> None:
        with Watch() as watch:
            WITHOUT_WAITING.get(name, flips.load(name))(ellipses())
        assert watch.waits == []

    def test_has_no_loop_over_images_or_pixels(self, name: str) -> None:
        """Sides of 9 and 16 take the same number of doublings."""
        counts = []
        for shape in ((2, 16, 16), (7, 16, 16), (2, 9, 15)):
            with Watch() as watch:
                WITHOUT_WAITING.get(name, flips.load(name))(ellipses(*shape))
            counts.append(watch.count)
        assert counts[0] == counts[1] > 0
        assert counts[2] <= counts[0]

    def test_runs_where_there_are_shapes_but_no_values(self, name: str) -> None:
        """Meta tensors take the accelerator's way; they raise when a value is read or a CPU tensor met."""
        result = flips.load(name)(ellipses().to("meta"))
        assert result.value_B.is_meta
        assert result.flipped_BHW.is_meta

    def test_is_one_graph(self, name: str) -> None:
        masks = ellipses(2, 4, 3)
        with plain_methods():
            function = importlib.import_module("trainables.flips").load(name)
            torch.compiler.reset()
            compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
            assert_same(compiled(masks), function(masks))


def test_watch_sees_what_waits() -> None:
    values = torch.arange(6)
    waiting: list[Callable[[], Any]] = [
        lambda: values[0].item(),
        lambda: bool((values > 1).any()),
        lambda: values.nonzero(),
        lambda: values[values > 2],
        lambda: torch.equal(values, values),
    ]
    for wait in waiting:
        with Watch() as watch:
            wait()
        assert watch.waits


def test_a_cpu_stops_early_and_says_the_same() -> None:
    """Labels of many snakes: both ways of `waits`, on images whose sides are not alike."""
    for height, width in itertools.product((1, 2, 5, 11), (1, 3, 16)):
        masks = some_masks(height * width, height, width, density=0.55, count=12)
        assert_same(components.flips(masks, waits=True), components.flips(masks, waits=False))
