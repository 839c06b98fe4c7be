"""Heavy augmentation: images and labels stay together, nothing from outside is labelled, draws are frozen."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.trainables import toy_data
from tests.unit.trainables.test_batches import equal, source_of, weakly
from tests.unit.trainables.toy_data import DENSE
from trainables.annotations import Annotation
from trainables.batches import BatchSource
from trainables.data import augment, intensity, warps
from trainables.data.dataset import Dataset
from trainables.data.heavy import HeavyAugmentation
from trainables.loop import Training
from trainables.method import IGNORE

CPU = torch.device("cpu")
SHAPES = [(32, 32), (24, 40), (40, 24)]
POINTS = Annotation(pixels="points", pixel_budget=2)


def all_warps(images: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(one image or label map for each warp of the pool, those warps)."""
    grids = warps.pool(*shape)
    return images.expand(len(grids), *images.shape[1:]), grids


def disc(height: int, width: int) -> Tensor:
    """uint8 [1,H,W], an ellipse that no warp moves out of the image."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return ((row / 0.45) ** 2 + (column / 0.45) ** 2 < 1)[None].byte()


def shifted(height: int, width: int, rows: float, columns: float) -> Tensor:
    """The grid [1,H,W,2] of which each pixel shows the point that many pixels further."""
    step = torch.tensor([2 * columns / width, 2 * rows / height])
    return torch.from_numpy(warps.identity(height, width))[None] + step


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [*SHAPES, (1, 5)])
def test_the_identity_returns_the_batch(shape: tuple[int, int]) -> None:
    image = torch.rand(2, 1, *shape, generator=generator())
    labels = torch.randint(0, 256, (2, *shape), generator=generator(), dtype=torch.uint8)
    same = shifted(*shape, 0, 0).expand(2, -1, -1, -1)
    torch.testing.assert_close(
        warps.warp_images(image, same), image, rtol=0, atol=1e-5
    )  # float32 coordinates
    assert torch.equal(warps.warp_labels(labels, same), labels)
    pixels = torch.arange(math.prod(shape), dtype=torch.int32).expand(2, -1)
    assert torch.equal(warps.move_points(labels, pixels), labels)


def test_a_shift_by_hand() -> None:
    """One pixel to the left, half a pixel for the image: what comes in is 0 and not labelled."""
    labels = torch.tensor([[[0, 1, 2], [2, 0, 1]]], dtype=torch.uint8)
    moved = warps.warp_labels(labels, shifted(2, 3, 0, 1))
    assert moved.tolist() == [[[1, 2, IGNORE], [0, 1, IGNORE]]]
    half = warps.warp_images(labels[:, None].float(), shifted(2, 3, 0, 0.5))
    torch.testing.assert_close(half[0, 0], torch.tensor([[0.5, 1.5, 1.0], [1.0, 0.5, 0.5]]))


def test_the_corners_of_a_turned_image_are_not_background() -> None:
    """methods.md 7, traps 7 and 13: an all-background mask has no label where there was no image."""
    shape = (32, 32)
    labels, grids = all_warps(torch.zeros(1, *shape, dtype=torch.uint8), shape)
    outside = (grids.abs() > 1).any(-1)
    by_gathering = warps.warp_labels(labels, grids)
    assert (by_gathering[outside] == IGNORE).all()
    assert (by_gathering[(grids.abs() < 1 - 1e-4).all(-1)] == 0).all()  # on the very edge it is a tie
    assert outside.float().mean() > 0.05  # there is something to get wrong
    by_moving = warps.move_points(labels, warps.landings(*shape))
    far = (grids.abs() > 1 + 2 / 32).any(-1)  # nearer than a pixel to the edge a centre may have arrived
    assert (by_moving[far] == IGNORE).all()


def test_dense_labels_lose_their_corners_too(dataset: Dataset) -> None:
    labels = (
        source_of(weakly(dataset, DENSE, augmentation="heavy", batch_size=24), dataset).batch(0).labels_BHW
    )
    share = (labels == IGNORE).double().mean().item()
    assert 0.02 < share < 0.4
    assert set(labels.unique().tolist()) == {0, 1, 2, IGNORE}


@pytest.mark.parametrize("shape", SHAPES)
def test_image_and_labels_stay_together(shape: tuple[int, int]) -> None:
    """An image that is its mask: after any warp they differ at the outline alone."""
    mask, grids = all_warps(disc(*shape), shape)
    image = warps.warp_images(mask[:, None].float(), grids)[:, 0]
    labels = warps.warp_labels(mask, grids)
    known = labels != IGNORE
    assert ((image == 0) | (image == 1))[known].float().mean() > 0.8
    certain = known & ((image < 0.25) | (image > 0.75))
    assert torch.equal((image > 0.5)[certain], (labels == 1)[certain])
    differing = ((image > 0.5) != (labels == 1)) & known
    assert differing.double().mean() < 0.01


@pytest.mark.parametrize("shape", SHAPES)
def test_points_land_where_the_image_shows_them(shape: tuple[int, int]) -> None:
    """The point that a click's new pixel shows is the click, to about a pixel: the warp stretches by 1.7 at
    most, and half a pixel's diagonal is 0.71."""
    landings, grids = warps.landings(*shape), warps.pool(*shape)
    inside = landings < math.prod(shape)
    shown = grids.flatten(1, 2).gather(
        1, landings.long().clamp(max=math.prod(shape) - 1)[..., None].expand(-1, -1, 2)
    )
    clicked = torch.from_numpy(warps.identity(*shape)).view(-1, 2)
    pixels = ((shown - clicked) * torch.tensor(shape[::-1]) / 2).norm(dim=-1)[inside]
    assert pixels.max() < 1.3
    assert pixels.mean() < 0.45
    assert 0.7 < inside.float().mean() < 0.95  # the frame is fixed: corners leave it


def test_every_click_is_kept_and_none_is_doubled() -> None:
    """Nine clicks of four classes, apart from each other, within what stays in every image."""
    labels = torch.full((1, 40, 40), IGNORE, dtype=torch.uint8)
    clicks = torch.tensor([[1, 0, 2], [0, 3, 1], [2, 0, 1]], dtype=torch.uint8)
    labels[0, 13:28:7, 13:28:7] = clicks
    many, grids = all_warps(labels, (40, 40))
    moved = warps.move_points(many, warps.landings(40, 40))
    for k in range(4):
        assert ((moved == k).sum((1, 2)) == (clicks == k).sum()).all()
    assert ((moved != IGNORE).sum((1, 2)) == 9).all()
    # What gathering would do instead, and why the docstring warns of it: in the mean alike, but not in each.
    gathered = (warps.warp_labels(many, grids) != IGNORE).sum((1, 2)).float()
    assert gathered.mean() == pytest.approx(9, rel=0.1)
    assert (gathered != 9).float().mean() > 0.5


def test_clicks_meet_by_hand() -> None:
    """Two clicks at one pixel: the lower class. One that leaves: nowhere. Not labelled: over no label."""
    labels = torch.tensor([[[2, 1], [IGNORE, 3]]], dtype=torch.uint8)
    landing = torch.tensor([[1, 1, 1, 4]], dtype=torch.int32)
    assert warps.move_points(labels, landing).tolist() == [[[IGNORE, 1], [IGNORE, IGNORE]]]


def test_a_class_of_scribbles_keeps_its_share(dataset: Dataset) -> None:
    """Over many draws a tenth of the pixels stays a tenth of those that still show the image."""
    labels = (torch.rand(1, 32, 32, generator=generator()) > 0.1).byte() * IGNORE
    many, grids = all_warps(labels, (32, 32))
    shown = (grids.abs() <= 1).all(-1).sum()
    kept = (warps.warp_labels(many, grids) == 0).sum() / shown
    assert kept.item() == pytest.approx((labels == 0).double().mean().item(), rel=0.05)


def test_the_pool_depends_on_the_shape_alone() -> None:
    one = warps.pool(24, 40).clone()
    warps.pool.cache_clear()
    np.random.seed(3)  # noqa: NPY002  another process has another past
    torch.manual_seed(3)
    assert torch.equal(warps.pool(24, 40), one)
    assert one.shape == (warps.POOL, 24, 40, 2)
    assert warps.pool(24, 40) is warps.pool(24, 40)


@pytest.mark.parametrize("shape", [*SHAPES, (8, 48), (128, 128)])
def test_no_warp_meets_the_edge_of_the_coordinates(shape: tuple[int, int]) -> None:
    """Neighbours show neighbours: 1.45 pixels apart by scale and shear, the rest by bending. Where a fill
    or a mirror had come in they would lie a whole image apart."""
    points = warps.pool(*shape) * torch.tensor(shape[::-1]) / 2
    for dim in (1, 2):
        apart = points.diff(dim=dim).norm(dim=-1)
        assert apart.max() < 1.9
        assert apart.min() > 0.4


def test_warps_are_what_was_asked_for() -> None:
    """Angles, areas and bends of the pool, from the affine map nearest to each warp."""
    height = width = 32
    v = torch.from_numpy(warps.identity(height, width)).view(-1, 2)
    design = torch.cat([v, torch.ones(len(v), 1)], 1)
    shown = warps.pool(height, width).view(warps.POOL, -1, 2)
    affine = torch.linalg.pinv(design) @ shown
    linear = affine[:, :2].mT
    area = torch.linalg.det(linear)  # of the input that a pixel shows: less where the image grows
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1]))
    assert 0.5 < area.min() < 0.75
    assert 1.3 < area.max() < 1.7
    assert -45 < angle.min() < -22
    assert 22 < angle.max() < 45
    assert affine[:, 2].abs().max() == pytest.approx(0.2, abs=0.1)  # a tenth of the side, of 2
    bend = (shown - design @ affine).square().mean((1, 2)).sqrt()
    assert 0.3 < (bend * width / 2 > 0.1).float().mean() < 0.7
    still = (shown - v).abs().amax((1, 2)) * width / 2 < 0.05
    assert 1 <= still.sum() <= 20


def test_most_warps_are_no_symmetry() -> None:
    """A warp repeats or loses pixels, and even the nearest of the eight symmetries shows other ones."""
    numbers, grids = all_warps(torch.arange(256, dtype=torch.uint8).view(1, 16, 16), (16, 16))
    moved = warps.warp_labels(numbers, grids).flatten(1)
    tables = augment.symmetries("heavy", 16, 16)
    assert torch.equal(tables, augment.symmetries("flips_turns", 16, 16))
    agreement = (moved[:, None] == tables[None].byte()).float().mean(-1).amax(1)
    assert agreement.median() < 0.2
    repeats = torch.tensor([len(row.unique()) < 256 for row in moved])
    assert repeats.float().mean() > 0.85


@pytest.mark.parametrize("extreme", [0.0, 0.5, 1.0])
def test_intensities_stay_in_range(extreme: float) -> None:
    varied = intensity.vary(torch.full((200, 1, 4, 4), extreme), generator())
    assert 0.0 <= varied.min() <= varied.max() <= 1.0
    assert varied.isfinite().all()
    means = varied.mean((1, 2, 3))
    assert len(means.unique()) > 60  # every image its own
    assert ((varied - extreme).abs().amax((1, 2, 3)) < 1e-6).any()  # some are left as they are


def test_intensity_by_hand() -> None:
    """The formula in float64, for the numbers that the generator gives, on an image without a neighbour."""
    image = torch.rand(50, 1, 1, 1, generator=generator(1))
    drawn = torch.rand(2, 5, 50, generator=(same := generator(2))).double()
    a, b, c, _, e = torch.where(drawn[0] < 0.5, 0.0, 2 * drawn[1] - 1)
    grain = torch.randn(50, 1, 1, 1, generator=same).flatten()
    by_hand = 1.25**a * image.flatten().double() ** (1.5**b) + 0.1 * c + 0.05 * e * grain
    varied = intensity.vary(image, generator(2)).flatten()
    torch.testing.assert_close(varied.double(), by_hand.clamp(0, 1), rtol=0, atol=1e-6)  # float32


def test_blur_and_sharpening_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bright pixel keeps 1 - 0.8 d (1 - 1/9) of its height above the rest, 0.8 d in [-0.8, 0.8]."""
    for name, off in (("GAIN", 1.0), ("GAMMA", 1.0), ("OFFSET", 0.0), ("NOISE", 0.0)):
        monkeypatch.setattr(intensity, name, off)
    image = torch.full((300, 1, 5, 5), 0.4)
    image[:, :, 2, 2] += 0.1
    varied = intensity.vary(image, generator())
    kept = (varied[:, 0, 2, 2] - 0.4) / 0.1
    assert kept.min() == pytest.approx(1 - 0.8 * 8 / 9, abs=0.05)
    assert kept.max() == pytest.approx(1 + 0.8 * 8 / 9, abs=0.05)
    assert ((kept - 1).abs() < 1e-5).float().mean() == pytest.approx(0.5, abs=0.1)
    torch.testing.assert_close(varied[:, :, 2, 1] - 0.4, (1 - kept[:, None]) / 80, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["points", "fg_points", "scribble", "dense"])
@pytest.mark.parametrize("shape", ["square", "oblong"])
def test_a_batch_depends_on_trial_and_step_alone(
    kind: str, shape: str, dataset: Dataset, toy_folder: Path
) -> None:
    data = dataset if shape == "square" else toy_data.opened(toy_folder, size=(16, 12))
    annotation = Annotation(pixels=kind, pixel_budget=2 if "points" in kind else 0)
    trial = weakly(data, annotation, augmentation="heavy", batch_size=24)
    forward = source_of(trial, data)
    sequence = [forward.batch(t) for t in range(3)]
    other = source_of(dataclasses.replace(trial), data)
    torch.manual_seed(99)
    for t in (2, 0, 1, 2):
        torch.rand(5)  # the global generator plays no part
        assert equal(other.batch(t), sequence[t])
    assert not equal(sequence[0], sequence[1])
    assert not equal(source_of(dataclasses.replace(trial, seed=1), data).batch(0), sequence[0])
    for batch in sequence:
        assert batch.image_BCHW.shape == (24, 1, *data.shape)
        assert batch.labels_BHW.dtype == torch.int64
        assert 0.0 <= batch.image_BCHW.min() <= batch.image_BCHW.max() <= 1.0
        assert (batch.labels_BHW != IGNORE).any()
    assert (forward.heavy is not None and forward.heavy.landings is not None) == ("points" in kind)


def test_points_of_a_batch_are_clicks_and_no_copies(dataset: Dataset) -> None:
    """Two clicks of each class present, at most; few leave the image and next to none meet."""
    trial = weakly(dataset, POINTS, batch_size=24)
    plain = source_of(trial, dataset)
    heavy = dataclasses.replace(trial, protocol=dataclasses.replace(trial.protocol, augmentation="heavy"))
    warped = source_of(heavy, dataset)
    before = after = 0
    for t in range(20):  # the same images in the same order
        counts = [[(s.batch(t).labels_BHW == k).sum((1, 2)) for k in range(3)] for s in (plain, warped)]
        for all_of, some_of in zip(*counts, strict=True):
            assert (some_of <= all_of).all()
            before, after = before + int(all_of.sum()), after + int(some_of.sum())
    assert 0.8 < after / before < 0.99


def test_each_clicks_image_moves_with_it() -> None:
    """Discs clicked at their centres: whatever the step, each click lies on its own image's disc."""
    centres = torch.randint(8, 24, (40, 2), generator=generator(5))
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    squares = (row - centres[:, 0, None, None]) ** 2 + (column - centres[:, 1, None, None]) ** 2
    image = torch.where(squares <= 9, 0.9, 0.1)[:, None]
    labels = torch.where(squares == 0, 1, IGNORE).byte()
    heavy = HeavyAugmentation(32, 32, points=True, device=CPU)
    for seed in range(5):
        moved_image, moved = heavy(image, labels, seed=seed)
        clicked = moved == 1
        assert clicked.sum() > 30
        # Noise has a deviation of 0.05 at most, gain and offset leave 0.35 at least between disc and rest.
        typical = moved_image.flatten(1).median(1).values[:, None, None].expand(-1, 32, 32)
        assert (moved_image[:, 0] > typical + 0.15)[clicked].all()


def test_warps_are_drawn_anew_for_each_step_and_seed(dataset: Dataset) -> None:
    """Of the same images, which are turned alike."""

    def result(seed: int, step: int) -> Tensor:
        source = source_of(weakly(dataset, DENSE, augmentation="heavy", seed=seed), dataset)
        assert source.heavy is not None
        heavy = source.heavy

        def same_batch(image: Tensor, labels: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
            return heavy(torch.full_like(image, 0.5), torch.zeros_like(labels), seed=seed)

        source.heavy = same_batch  # type: ignore[assignment]
        return source.batch(step).image_BCHW

    assert torch.equal(result(0, 0), result(0, 0))
    assert not torch.equal(result(0, 0), result(0, 1))
    assert not torch.equal(result(0, 0), result(1, 0))


def test_a_continued_training_is_the_uninterrupted_one(dataset: Dataset) -> None:
    trial = weakly(dataset, POINTS, augmentation="heavy", method="partial_cross_entropy")
    whole, first, second = (Training(trial, dataset, CPU) for _ in range(3))
    whole.advance(4)
    first.advance(2)
    torch.manual_seed(12345)
    second.load_state_dict(first.state_dict())
    second.advance(4)
    for one, other in zip(whole.net.parameters(), second.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluation_shows_the_images_as_they_are(dataset: Dataset) -> None:
    plain, heavy = (source_of(weakly(dataset, DENSE, augmentation=a), dataset) for a in ("none", "heavy"))
    rows = dataset.folds[0].val
    assert torch.equal(heavy.images(rows), plain.images(rows))


def test_other_augmentations_draw_no_pool(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(height: int, width: int) -> Tensor:
        raise AssertionError((height, width))

    monkeypatch.setattr(warps, "pool", refuse)
    for augmentation in ("none", "flips", "flips_turns"):
        source_of(weakly(dataset, augmentation=augmentation), dataset).batch(0)
    with pytest.raises(AssertionError):
        source_of(weakly(dataset, DENSE, augmentation="heavy"), dataset)


def test_the_layout_is_the_devices(dataset: Dataset) -> None:
    trial = weakly(dataset, POINTS, augmentation="heavy", batch_size=3)
    batch = BatchSource(trial, dataset, CPU, torch.channels_last).batch(0)
    assert batch.image_BCHW.is_contiguous(memory_format=torch.channels_last)
    assert equal(batch, source_of(trial, dataset).batch(0))


@pytest.mark.gpu
@pytest.mark.parametrize("points", [False, True])
def test_on_a_gpu_without_waiting_for_it(points: bool) -> None:
    device = torch.device("cuda")
    heavy = HeavyAugmentation(32, 32, points=points, device=device)
    image = torch.rand(5, 1, 32, 32, device=device)
    labels = torch.randint(0, 3, (5, 32, 32), dtype=torch.uint8, device=device)
    once = heavy(image, labels, seed=3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = heavy(image, labels, seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    grids, landings = warps.pool(32, 32)[:5], warps.landings(32, 32)[:5]
    for move, where in ((warps.warp_labels, grids), (warps.move_points, landings)):
        on_gpu = move(labels, where.to(device)).cpu()
        assert (on_gpu != move(labels.cpu(), where)).float().mean() < 1e-3  # ties between two pixels
