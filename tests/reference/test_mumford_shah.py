"""Mumford-Shah: the values and facts of methods.md 3.4, the sums written out, and its traps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tests.reference.test_region_terms import slow_length
from tests.tiny import TinyNetwork, a_batch, without_labels
from trainables import terms
from trainables.method import IGNORE, Batch, Network, Output, Terms
from trainables.methods.mumford_shah import MumfordShah


class Given(Network):
    """A network that answers with the given logits."""

    def __init__(self, logits_BKHW: Tensor) -> None:
        super().__init__()
        self.num_classes = logits_BKHW.shape[1]
        self.logits_BKHW = nn.Parameter(logits_BKHW)

    def forward(self, image_BCHW: Tensor) -> Output:
        return Output(self.logits_BKHW, self.logits_BKHW[:, :1], image_BCHW)


def loss_of(logits: Tensor, image: Tensor, labels: Tensor | None = None, **weights: float) -> Terms:
    if labels is None:
        labels = torch.full(image[:, 0].shape, IGNORE)
    method, net = MumfordShah(**weights), Given(logits)
    return method.losses(net, Batch(image_BCHW=image, labels_BHW=labels), method.init(net), 0.5)


def hand_example() -> tuple[Tensor, Tensor]:
    """Logits and image [1,.,2,2]; c = (0.15, 0.85), sum over pixels and classes 0.51, total variation 3.2."""
    p = torch.tensor([[0.1, 0.2], [0.8, 0.9]], dtype=torch.float64).view(1, 1, 2, 2)
    image = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]], dtype=torch.float64)
    return torch.cat([1 - p, p], 1).log(), image


def slow_region(p_BKHW: Tensor, image_BCHW: Tensor) -> float:
    """The first term of the paper's eq. 3 with lambda_ms = 1: the plain sum."""
    total = 0.0
    for p_KHW, (x_HW,) in zip(p_BKHW.tolist(), image_BCHW.tolist(), strict=True):
        x = [v for row in x_HW for v in row]
        for p_HW in p_KHW:
            p = [v for row in p_HW for v in row]
            mean = sum(a * b for a, b in zip(p, x, strict=True)) / sum(p)
            total += sum(a * (b - mean) ** 2 for a, b in zip(p, x, strict=True))
    return total


def test_by_hand() -> None:
    logits, image = hand_example()
    out = loss_of(logits, image, region_weight=2.0, total_variation_weight=1e-3)
    assert out["partial_cross_entropy"].item() == 0.0
    assert out["region"].item() == pytest.approx(0.51 / (2 * 4), abs=1e-12)
    assert out["total_variation"].item() == pytest.approx(3.2 / 2, abs=1e-12)
    assert out["total"].item() == pytest.approx(2 * 0.51 / 8 + 1e-3 * 1.6, abs=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_equals_the_sums_written_out_over_their_counts(num_classes: int) -> None:
    net, batch = TinyNetwork(num_classes), a_batch(num_classes)
    method = MumfordShah(region_weight=0.7, total_variation_weight=1e-4)
    out = method.losses(net, batch, method.init(net), 0.5)
    logits = net(batch.image_BCHW).logits_BKHW.detach().double()
    p = logits.softmax(1)
    region = slow_region(p, batch.image_BCHW.double()) / (4 * num_classes * 64)
    length = sum(slow_length(p[n, k]) for n in range(4) for k in range(num_classes)) / (4 * num_classes)
    pce = terms.partial_cross_entropy(logits, batch.labels_BHW).item()
    assert out["region"].item() == pytest.approx(region, rel=1e-5)  # float32 against float64
    assert out["total_variation"].item() == pytest.approx(length, rel=1e-5)
    assert out["total"].item() == pytest.approx(pce + 0.7 * region + 1e-4 * length, rel=1e-5)


def test_the_default_is_the_published_weight_of_the_sum() -> None:
    """1e-6 on the sum of 12 images of 256 x 256 and 4 classes, the scale that methods.md 1.7 converts."""
    assert MumfordShah().region_weight == pytest.approx(1e-6 * 12 * 4 * 256**2, rel=2e-3)
    assert MumfordShah().region_weight / 0.05 == pytest.approx(63, abs=0.1)


def test_gradients() -> None:
    logits, image = hand_example()
    labels = torch.tensor([[[0, IGNORE], [IGNORE, 1]]])
    method = MumfordShah(total_variation_weight=1e-3)

    def total(a: Tensor) -> Tensor:
        net = Given(a.detach())
        del net.logits_BKHW
        net.logits_BKHW = a  # type: ignore[assignment]
        return method.losses(net, Batch(image_BCHW=image, labels_BHW=labels), nn.Module(), 0.5)["total"]

    # neighbours that are equal have no derivative; these differ
    logits = logits + 0.1 * torch.arange(8, dtype=torch.float64).view(1, 2, 2, 2).square()
    assert torch.autograd.gradcheck(total, (logits.requires_grad_(),))


def piecewise_constant() -> tuple[Tensor, Tensor]:
    """Labels and an image that has one intensity in each of three classes."""
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 2, 2]]])
    return labels, torch.tensor([0.1, 0.6, 0.9])[labels].unsqueeze(1)


def saturated(labels: Tensor) -> Tensor:
    return 1e3 * terms.one_hot(labels, 3).float()


class TestFacts:
    def test_the_right_mask_of_a_piecewise_constant_image_has_no_region_term(self) -> None:
        labels, image = piecewise_constant()
        assert loss_of(saturated(labels), image)["region"].item() == pytest.approx(0.0, abs=1e-12)
        wrong = labels.clone()
        wrong[0, 0, 0] = 2
        assert loss_of(saturated(wrong), image)["region"].item() > 1e-3

    def test_only_the_clicks_name_the_regions(self) -> None:
        labels, image = piecewise_constant()
        renamed = torch.tensor([2, 0, 1])[labels]
        alone = [loss_of(saturated(y), image)["total"].item() for y in (labels, renamed)]
        assert alone[0] == pytest.approx(alone[1], rel=1e-6)
        clicked = torch.where(torch.arange(12).view(1, 3, 4) % 5 == 0, labels, IGNORE)
        right, wrong = (loss_of(saturated(y), image, clicked)["total"].item() for y in (labels, renamed))
        assert wrong > right + 100

    def test_gain_enters_squared_and_offset_not_at_all(self) -> None:
        logits, image = hand_example()
        changed = loss_of(logits, 0.5 * image + 0.2)["region"]
        assert changed.item() == pytest.approx(0.25 * loss_of(logits, image)["region"].item(), rel=1e-12)

    def test_a_batch_or_an_image_of_twice_the_size_has_the_same_region_term(self) -> None:
        logits, image = hand_example()
        expected = loss_of(logits, image)["region"].item()
        for repeats in ((2, 1, 1, 1), (1, 1, 1, 2)):
            twice = loss_of(logits.repeat(*repeats), image.repeat(*repeats))["region"]
            assert twice.item() == pytest.approx(expected, rel=1e-12)


class TestTraps:
    def test_a_class_without_probability_is_finite(self) -> None:
        logits, image = torch.zeros(1, 3, 4, 4), torch.rand(1, 1, 4, 4)
        logits[:, 2] = -2000.0
        logits.requires_grad_()
        p = terms.probabilities(logits)
        assert p[:, 2].max().item() == 0.0
        energy = terms.variance_maps(p, image).mean()
        (gradient,) = torch.autograd.grad(energy, logits)
        assert torch.isfinite(gradient).all()
        assert energy.item() == pytest.approx(image.var(correction=0).item() / 3, rel=1e-5)

    def test_autocast_does_not_round_the_means(self) -> None:
        net, batch = TinyNetwork(), a_batch()
        logits = net(batch.image_BCHW).logits_BKHW.detach()
        full = loss_of(logits, batch.image_BCHW, batch.labels_BHW)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = loss_of(logits, batch.image_BCHW, batch.labels_BHW)
        assert {name: v.item() for name, v in full.items()} == {name: v.item() for name, v in reduced.items()}

    def test_learns_from_images_without_labels(self) -> None:
        net, batch = TinyNetwork(), without_labels(a_batch())
        images = batch.image_BCHW.clone().requires_grad_()
        batch = dataclasses.replace(batch, image_BCHW=images)
        method = MumfordShah(total_variation_weight=0.0)
        out = method.losses(net, batch, method.init(net), 0.5)
        (gradient,) = torch.autograd.grad(out["total"], images)
        assert out["partial_cross_entropy"].item() == 0.0
        assert (gradient.abs().sum((1, 2, 3)) > 0).all()
