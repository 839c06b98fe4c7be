"""Partial cross-entropy: the values of methods.md 3.2, its gradient, and nothing from unlabelled pixels."""

from __future__ import annotations

import pytest
import torch

from tests.reference.test_terms import random_case, slow_class_balanced, slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import terms
from trainables.method import IGNORE
from trainables.methods.partial_cross_entropy import PartialCrossEntropy

LOSSES = (terms.partial_cross_entropy, terms.class_balanced_cross_entropy)


def test_by_hand() -> None:
    # log(1 + e^-2) = 0.1269280 and log(1 + e^-1) = 0.3132617; two pixels are not labelled.
    logits = torch.tensor([[2.0, 0.0, 5.0, -3.0], [0.0, 1.0, -7.0, 4.0]], dtype=torch.float64)
    labels = torch.tensor([[[0, 1], [IGNORE, IGNORE]]])
    loss = terms.partial_cross_entropy(logits.view(1, 2, 2, 2), labels)
    assert loss.item() == pytest.approx(0.2200948, abs=5e-8)
    assert 2 * loss.item() == pytest.approx(0.4401897, abs=5e-8)


def test_gradient_is_p_minus_one_hot_over_the_count_and_zero_elsewhere() -> None:
    logits, labels = random_case(1)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(terms.partial_cross_entropy(logits, labels), logits)
    mask = terms.labelled(labels)
    expected = (logits.softmax(1) - terms.one_hot(labels, 4).double()) / mask.sum()
    torch.testing.assert_close(gradient, torch.where(mask.unsqueeze(1), expected, 0.0))
    assert (gradient.abs().sum(1)[~mask] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_of_unlabelled_pixels_do_not_matter(loss: object) -> None:
    logits, labels = random_case(2)
    changed = torch.where(terms.labelled(labels).unsqueeze(1), logits, 100.0 * logits.flip(0))
    assert callable(loss)
    assert not torch.equal(changed, logits)
    assert loss(changed, labels).item() == loss(logits, labels).item()


@pytest.mark.parametrize("class_balanced", [False, True])
def test_no_labelled_pixel_gives_zero_with_zero_gradient(class_balanced: bool) -> None:
    method, net = PartialCrossEntropy(class_balanced=class_balanced), TinyNetwork()
    batch = without_labels(a_batch())
    total = method.losses(net, batch, method.init(net), 0.0)["total"]
    total.backward()
    assert total.item() == 0.0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in net.parameters())


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_switch_selects_the_formula(num_classes: int) -> None:
    net, batch = TinyNetwork(num_classes), a_batch(num_classes)
    logits = net(batch.image_BCHW).logits_BKHW.detach().double()
    for class_balanced, slow in ((False, slow_partial_cross_entropy), (True, slow_class_balanced)):
        method = PartialCrossEntropy(class_balanced=class_balanced)
        fast = method.losses(net, batch, method.init(net), 0.0)["total"].item()
        assert fast == pytest.approx(slow(logits, batch.labels_BHW), rel=1e-5)  # float32 against float64


def test_class_balance_does_not_depend_on_how_often_a_class_was_labelled() -> None:
    logits = torch.tensor([[3.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.5]]).view(1, 2, 1, 4)
    few = terms.class_balanced_cross_entropy(logits, torch.tensor([[[0, IGNORE, IGNORE, 1]]]))
    many = terms.class_balanced_cross_entropy(logits, torch.tensor([[[0, 0, 0, 1]]]))
    torch.testing.assert_close(few, many)


def test_class_balance_compiles() -> None:
    net, batch = TinyNetwork(), a_batch()
    with plain_methods() as load:
        method = load("partial_cross_entropy")(class_balanced=True)
        compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
        graph, eager = (f(net, batch, method.init(net), 0.5)["total"] for f in (compiled, method.losses))
    torch.testing.assert_close(graph, eager)
