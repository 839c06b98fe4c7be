"""Shared loss terms against values by hand, the formulas written out in Python floats, and gradcheck."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainables import terms
from trainables.method import IGNORE


def random_case(seed: int, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits [2,K,3,5] in float64 and labels of which about half are IGNORE."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, num_classes, 3, 5, dtype=torch.float64, generator=g)
    labels = torch.randint(num_classes, (2, 3, 5), generator=g)
    return logits, torch.where(torch.rand(2, 3, 5, generator=g) < 0.5, labels, IGNORE)


def slow_nats(logits: Tensor, labels: Tensor) -> list[tuple[int, float]]:
    """(class, -log p of it) of every labelled pixel."""
    out = []
    for b, r, c in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
        y = int(labels[b, r, c])
        if y != IGNORE:
            a = logits[b, :, r, c].tolist()
            out.append((y, math.log(sum(math.exp(v) for v in a)) - a[y]))
    return out


def slow_partial_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    nats = [nat for _, nat in slow_nats(logits, labels)]
    return sum(nats) / max(1, len(nats))


def slow_class_balanced(logits: Tensor, labels: Tensor) -> float:
    of_class: dict[int, list[float]] = {}
    for y, nat in slow_nats(logits, labels):
        of_class.setdefault(y, []).append(nat)
    means = [sum(nats) / len(nats) for nats in of_class.values()]
    return sum(means) / max(1, len(means))


def slow_dice(p: Tensor, labels: Tensor, smoothing: float = 1e-5) -> float:
    scores = []
    for k in range(p.shape[1]):
        overlap = p_squares = t_squares = 0.0
        for b, r, c in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
            if labels[b, r, c] != IGNORE:
                value, target = float(p[b, k, r, c]), float(labels[b, r, c] == k)
                overlap += value * target
                p_squares += value**2
                t_squares += target**2
        scores.append((2 * overlap + smoothing) / (p_squares + t_squares + smoothing))
    return 1 - sum(scores) / len(scores)


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_full_precision_never_lowers(given: torch.dtype, computed: torch.dtype) -> None:
    assert terms.full_precision(torch.ones(2, dtype=given)).dtype == computed
    assert terms.probabilities(torch.ones(1, 2, 1, 1, dtype=given)).dtype == computed


def test_one_hot_and_present_by_hand() -> None:
    labels = torch.tensor([[[0, 2], [IGNORE, 2]], [[IGNORE, IGNORE], [IGNORE, IGNORE]]])
    hot = terms.one_hot(labels, 3)
    assert hot.sum(1).tolist() == [[[1, 1], [0, 1]], [[0, 0], [0, 0]]]
    assert hot[0, 2].tolist() == [[False, True], [False, True]]
    assert terms.present(labels, 3).tolist() == [[True, False, True], [False, False, False]]
    assert terms.labelled(labels).sum((1, 2)).tolist() == [3, 0]


def test_masked_mean_lets_nothing_in_from_outside_the_mask() -> None:
    values = torch.tensor([1.0, math.nan, 3.0, math.inf], requires_grad=True)
    mean = terms.masked_mean(values, torch.tensor([True, False, True, False]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.5, 0.0, 0.5, 0.0]


def test_masked_mean_of_nothing_is_exactly_zero() -> None:
    values = torch.ones(3, requires_grad=True)
    mean = terms.masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0, 0.0]


def test_class_balanced_by_hand() -> None:
    # Two background pixels with p = 1/2 and 1/4, one foreground pixel with p = 1/8: classes weigh the same.
    p = torch.tensor([0.5, 0.25, 0.875], dtype=torch.float64)
    logits = torch.stack([p, 1 - p]).log().view(1, 2, 1, 3)
    labels = torch.tensor([[[0, 0, 1]]])
    expected = ((1 + 2) / 2 + 3) / 2 * math.log(2)
    assert terms.class_balanced_cross_entropy(logits, labels).item() == pytest.approx(expected, rel=1e-12)
    assert terms.partial_cross_entropy(logits, labels).item() == pytest.approx(2 * math.log(2), rel=1e-12)


def test_dice_by_hand() -> None:
    # 1 - (2 * .8 + e) / (.8^2 + .4^2 + 1 + e) = .2 / 1.80001; the second pixel is of another class.
    # methods.md 3.1 prints 0.1111049, which has lost one of its ones.
    p = torch.tensor([0.8, 0.4], dtype=torch.float64).view(1, 1, 1, 2)
    assert terms.soft_dice_loss(p, torch.tensor([[[0, 1]]])).item() == pytest.approx(0.11111049, abs=5e-9)


def test_dice_lets_a_pixel_from_outside_the_image_in_nowhere() -> None:
    """As by hand above beside a pixel that a warp brought in: its p^2 would add 0.81 to the denominator."""
    p = torch.tensor([0.8, 0.4, 0.9], dtype=torch.float64).view(1, 1, 1, 3)
    loss = terms.soft_dice_loss(p, torch.tensor([[[0, 1, IGNORE]]]))
    assert loss.item() == pytest.approx(0.11111049, abs=5e-9)


def test_dice_pools_the_batch() -> None:
    p = torch.tensor([[0.8, 0.4], [0.1, 0.6]], dtype=torch.float64)
    labels = torch.tensor([[[0, 1]], [[1, 0]]])
    two_images = terms.soft_dice_loss(p.view(2, 1, 1, 2), labels)
    one_image = terms.soft_dice_loss(p.view(1, 1, 2, 2), labels.view(1, 2, 2))
    assert two_images.item() == one_image.item()


def test_dice_of_a_perfect_and_of_an_unlabelled_mask_is_zero() -> None:
    labels = torch.tensor([[[0, 1, 2]]])
    perfect = terms.one_hot(labels, 3).double()
    assert terms.soft_dice_loss(perfect, labels).item() == pytest.approx(0.0, abs=1e-12)
    p = torch.full((1, 3, 1, 3), 1 / 3, requires_grad=True)
    unlabelled = terms.soft_dice_loss(p, torch.full_like(labels, IGNORE))
    unlabelled.backward()
    assert unlabelled.item() == 0.0
    assert p.grad is not None
    assert p.grad.abs().max().item() == 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_classes", [2, 4])
def test_equal_the_formulas_written_out(seed: int, num_classes: int) -> None:
    logits, labels = random_case(seed, num_classes)
    p = terms.probabilities(logits)
    for fast, slow in [
        (terms.partial_cross_entropy(logits, labels), slow_partial_cross_entropy(logits, labels)),
        (terms.class_balanced_cross_entropy(logits, labels), slow_class_balanced(logits, labels)),
        (terms.soft_dice_loss(p, labels), slow_dice(p, labels)),
    ]:
        assert fast.item() == pytest.approx(slow, rel=1e-12)


def test_gradients() -> None:
    logits, labels = random_case(0)
    logits.requires_grad_()
    for loss in (
        terms.partial_cross_entropy,
        terms.class_balanced_cross_entropy,
        lambda a, y: terms.soft_dice_loss(terms.probabilities(a), y),
    ):
        assert torch.autograd.gradcheck(loss, (logits, labels))


def test_weighted_total_by_hand() -> None:
    parts = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    out = terms.weighted_total(parts, {"a": 0.5, "b": 10.0})
    assert {name: value.item() for name, value in out.items()} == {"total": 31.0, "a": 2.0, "b": 3.0}


def random_image(seed: int, channels: int = 1) -> Tensor:
    """Images [2,C,3,5] for `random_case`."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, channels, 3, 5, dtype=torch.float64, generator=g)


def beside_the_size(logits: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """The terms that a size loss may have beside it."""
    p = logits.softmax(1)
    return (
        terms.entropy(logits),
        terms.entropy(logits, mask),
        terms.foreground_mass(p),
        terms.contrast_total_variation(p, image, 0.3),
    )


class TestBesideTheSize:
    def test_gradients(self) -> None:
        logits, labels = random_case(5)
        arguments = (logits.requires_grad_(), random_image(5), labels != IGNORE)
        assert torch.autograd.gradcheck(beside_the_size, arguments)

    @pytest.mark.parametrize("scale", [1e4, 1e30])
    def test_saturated_logits_have_a_finite_value_and_gradient(self, scale: float) -> None:
        logits, labels = random_case(6)
        logits = (scale * logits.float()).requires_grad_()
        losses = beside_the_size(logits, random_image(6).float(), labels != IGNORE)
        assert all(0 <= loss.item() < 1e-30 for loss in losses[:2])
        assert all(0 < loss.item() < 2 for loss in losses[2:])
        for loss in losses:
            (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
            assert torch.isfinite(gradient).all()

    @pytest.mark.parametrize("given", [torch.bfloat16, torch.float16])
    def test_compute_in_float32(self, given: torch.dtype) -> None:
        logits, labels = random_case(7)
        mask, given_ones = labels != IGNORE, [logits.to(given), random_image(7).to(given)]
        reduced = beside_the_size(*given_ones, mask)
        full = beside_the_size(*(t.double() for t in given_ones), mask)
        for low, high in zip(reduced, full, strict=True):
            assert low.dtype == torch.float32
            # the softmax of `beside_the_size` itself is rounded to the 8 bits of bfloat16
            assert low.item() == pytest.approx(high.item(), rel=5e-3)

    def test_wait_for_no_value(self) -> None:
        """Meta tensors raise when a value is read."""
        logits, labels = random_case(8)
        losses = beside_the_size(*(t.to("meta") for t in (logits, random_image(8), labels != IGNORE)))
        assert all(loss.is_meta and loss.shape == () for loss in losses)


class TestEntropy:
    def test_by_hand(self) -> None:
        certain, mixed = [1e4, 0.0, 0.0, 0.0], [math.log(v) for v in (0.7, 0.1, 0.1, 0.1)]
        logits = torch.tensor([certain, mixed], dtype=torch.float64).T.reshape(1, 4, 1, 2)
        assert terms.entropy(logits).item() == pytest.approx(0.9404480 / 2, abs=5e-8)
        mixed_only = torch.tensor([[[False, True]]])
        assert terms.entropy(logits, mixed_only).item() == pytest.approx(0.9404480, abs=5e-8)
        assert terms.entropy(logits, mixed_only & False).item() == 0.0
        assert terms.entropy(torch.zeros(2, 4, 3, 3)).item() == pytest.approx(math.log(4))

    @pytest.mark.parametrize("num_classes", [2, 4])
    def test_equals_the_formula_written_out(self, num_classes: int) -> None:
        logits, labels = random_case(9, num_classes)
        mask = terms.labelled(labels)
        p, every, masked = logits.softmax(1), [], []
        for b, r, c in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape)).tolist():
            nat = -sum(v * math.log(v) for v in p[b, :, r, c].tolist())
            every.append(nat)
            if mask[b, r, c]:
                masked.append(nat)
        assert 0 < len(masked) < len(every)
        assert terms.entropy(logits).item() == pytest.approx(sum(every) / len(every), rel=1e-12)
        assert terms.entropy(logits, mask).item() == pytest.approx(sum(masked) / len(masked), rel=1e-12)


def test_foreground_mass_is_what_the_background_leaves_over() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], dtype=torch.float64).T.reshape(1, 3, 1, 2)
    assert terms.foreground_mass(p).item() == pytest.approx((0.3 + 0.9) / 2, abs=1e-12)
    p = random_case(10)[0].softmax(1)
    slow = [1 - v for v in p[:, 0].flatten().tolist()]
    assert terms.foreground_mass(p).item() == pytest.approx(sum(slow) / len(slow), rel=1e-12)


class TestContrastTotalVariation:
    def test_by_hand(self) -> None:
        # Four pairs; only those of the top left pixel differ, by .5 + .5, one of them across an edge of x.
        p = torch.tensor([[[[1.0, 0.5], [0.5, 0.5]], [[0.0, 0.5], [0.5, 0.5]]]], dtype=torch.float64)
        x = torch.tensor([[0.2, 0.5], [0.2, 0.2]], dtype=torch.float64).view(1, 1, 2, 2)
        expected = (1.0 + math.exp(-(0.3**2) / (2 * 0.1**2))) / 4
        assert terms.contrast_total_variation(p, x, 0.1).item() == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_equals_the_formula_written_out(self, channels: int) -> None:
        p, x, sigma = random_case(11)[0].softmax(1), random_image(11, channels), 0.3
        costs = []
        for b, r, c in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
            for r2, c2 in ((r + 1, c), (r, c + 1)):
                if r2 < 3 and c2 < 5:
                    change = sum(abs(float(v)) for v in p[b, :, r, c] - p[b, :, r2, c2])
                    square = sum(float(v) ** 2 for v in x[b, :, r, c] - x[b, :, r2, c2])
                    costs.append(change * math.exp(-square / (2 * sigma**2)))
        assert len(costs) == 2 * (2 * 5 + 3 * 4)
        loss = terms.contrast_total_variation(p, x, sigma)
        assert loss.item() == pytest.approx(sum(costs) / len(costs), rel=1e-12)

    def test_of_constant_p_is_exactly_zero_without_gradient(self) -> None:
        p = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1).repeat(2, 1, 3, 5).requires_grad_()
        loss = terms.contrast_total_variation(p, random_image(12).float(), 0.1)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == 0.0
        assert gradient.abs().max().item() == 0.0

    @pytest.mark.parametrize(("shape", "pairs"), [((3, 5), 22), ((1, 4), 3), ((4, 1), 3), ((1, 1), 0)])
    def test_of_a_constant_image_is_the_total_variation_per_pair(
        self, shape: tuple[int, int], pairs: int
    ) -> None:
        p = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)).softmax(1).requires_grad_()
        variation = p.diff(dim=2).abs().sum() + p.diff(dim=3).abs().sum()
        loss = terms.contrast_total_variation(p, torch.full((2, 1, *shape), 0.4), 0.1)
        (gradient,) = torch.autograd.grad(loss, p)
        assert loss.item() == pytest.approx(variation.item() / max(2 * pairs, 1), rel=1e-6)
        assert torch.isfinite(gradient).all()
        assert (loss.item() > 0) == (pairs > 0)

    def test_an_edge_of_the_image_makes_a_boundary_cheap(self) -> None:
        hard = terms.one_hot(torch.tensor([[[0, 0, 1, 1]]]), 2).float()
        flat, edge = torch.full((1, 1, 1, 4), 0.5), torch.tensor([0.1, 0.1, 0.9, 0.9]).view(1, 1, 1, 4)
        assert terms.contrast_total_variation(hard, flat, 0.1).item() == pytest.approx(2 / 3)
        assert terms.contrast_total_variation(hard, edge, 0.1).item() < 1e-10
