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
