"""Scribble2Label with averaged weights: who gets a label, what it costs, and the traps of methods.md 3.12."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.reference.test_terms import random_case, slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, without_labels
from trainables import networks, terms
from trainables.ema import Teacher
from trainables.method import IGNORE, Batch, Network
from trainables.methods.scribble_to_label import AVERAGE_RATE, ScribbleToLabel, confident_labels


def sharp(num_classes: int = 4, seed: int = 0) -> TinyNetwork:
    """A network that is certain at some pixels and not at others."""
    net = TinyNetwork(num_classes, seed)
    with torch.no_grad():
        net.classifier.weight.mul_(8.0)
    return net


def set_up(num_classes: int = 4, **settings: Any) -> tuple[ScribbleToLabel, Network, Teacher, Batch]:
    """The average has other weights than the network."""
    method, net = ScribbleToLabel(**settings), sharp(num_classes)
    state = method.init(sharp(num_classes, seed=1))
    assert isinstance(state, Teacher)
    return method, net, state, a_batch(num_classes)


def slow_labels(q: Tensor, labels: Tensor, threshold: float) -> Tensor:
    out = torch.full_like(labels, IGNORE)
    for b, r, c in np.ndindex(*labels.shape):
        row = q[b, :, r, c].tolist()
        if labels[b, r, c] == IGNORE and max(row) > threshold:
            out[b, r, c] = row.index(max(row))
    return out


class TestConfidentLabels:
    def test_by_hand(self) -> None:
        q = torch.tensor([[0.95, 0.05], [0.4, 0.6], [0.15, 0.85], [0.01, 0.99], [0.2, 0.8]])
        labels = torch.tensor([[[IGNORE, IGNORE, IGNORE, 0, IGNORE]]])
        pseudo = confident_labels(q.T.view(1, 2, 1, 5), labels, 0.8)
        # Too unsure; annotated already; exactly the threshold is not above it.
        assert pseudo.flatten().tolist() == [0, IGNORE, 1, IGNORE, IGNORE]

    @pytest.mark.parametrize("seed", range(3))
    def test_equal_the_loop(self, seed: int) -> None:
        logits, labels = random_case(seed)
        q = (2 * logits).softmax(1)
        pseudo = confident_labels(q, labels, 0.6)
        assert torch.equal(pseudo, slow_labels(q, labels, 0.6))
        assert (pseudo != IGNORE).any()
        assert not ((pseudo != IGNORE) & (labels != IGNORE)).any()

    def test_what_is_rejected_is_ignored_and_not_background(self) -> None:
        q = torch.full((1, 4, 3, 3), 0.25)
        assert (confident_labels(q, torch.full((1, 3, 3), IGNORE), 0.5) == IGNORE).all()

    def test_have_no_gradient(self) -> None:
        logits, labels = random_case(0)
        pseudo = confident_labels(logits.requires_grad_().softmax(1), labels, 0.5)
        assert not pseudo.requires_grad


class TestMethod:
    @pytest.mark.parametrize("num_classes", [2, 4])
    @pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.0999, 0.0), (0.1, 0.7), (1.0, 0.7)])
    def test_equals_the_formula_written_out(self, num_classes: int, progress: float, weight: float) -> None:
        method, net, state, batch = set_up(num_classes, pseudo_weight=0.7, confidence_threshold=0.6)
        fast = method.losses(net, batch, state, progress)
        logits = net(batch.image_BCHW).logits_BKHW.detach().double()
        q = state(batch.image_BCHW).logits_BKHW.softmax(1)
        pseudo = slow_labels(q, batch.labels_BHW, 0.6)
        share = (pseudo != IGNORE).double().mean().item()
        assert 0 < share < 0.8  # a fifth of the pixels is labelled
        pce = slow_partial_cross_entropy(logits, batch.labels_BHW)
        own = slow_partial_cross_entropy(logits, pseudo)
        # float32 against float64
        assert fast["partial_cross_entropy"].item() == pytest.approx(pce, rel=1e-5)
        assert fast["pseudo_cross_entropy"].item() == pytest.approx(own, rel=1e-5)
        assert fast["pseudo_label_share"].item() == pytest.approx(share, abs=1e-6)
        assert fast["total"].item() == pytest.approx(pce + weight * own, rel=1e-5)

    def test_gradient_of_the_logits(self) -> None:
        """gradcheck of the loss with labels held, and no gradient at rejected pixels."""
        logits, labels = random_case(4)
        pseudo = confident_labels((2 * random_case(5)[0]).softmax(1), labels, 0.6)

        def loss(a: Tensor) -> Tensor:
            return terms.partial_cross_entropy(a, labels) + 0.5 * terms.partial_cross_entropy(a, pseudo)

        logits.requires_grad_()
        assert torch.autograd.gradcheck(loss, (logits,))
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        used = (labels != IGNORE) | (pseudo != IGNORE)
        assert torch.equal(gradient.abs().sum(1) > 0, used)
        assert not used.all()

    def test_no_confident_pixel_costs_nothing(self) -> None:
        method, batch = ScribbleToLabel(confidence_threshold=0.99), without_labels(a_batch())
        net = TinyNetwork()  # near uniform
        t = method.losses(net, batch, method.init(net), 1.0)
        t["total"].backward()
        assert t["pseudo_label_share"].item() == 0.0
        assert t["total"].item() == 0.0
        assert all(p.grad is None or (p.grad == 0).all() for p in net.parameters())

    def test_confident_pixels_teach_without_any_label(self) -> None:
        method, net, state, batch = set_up(confidence_threshold=0.6)
        t = method.losses(net, without_labels(batch), state, 1.0)
        t["total"].backward()
        assert t["partial_cross_entropy"].item() == 0.0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
        assert all(p.grad is None for p in state.parameters())

    def test_labels_move_with_the_image(self) -> None:
        """An augmented batch gets the augmented pseudo labels, here of a network that flips commute with."""
        torch.manual_seed(0)
        net = networks.build("unet", {"width": 2, "levels": 2}, 3).eval()
        with torch.no_grad():
            for p in net.parameters():  # mirror-symmetric filters
                p.copy_((p + p.flip(-1)) / 2 if p.ndim == 4 else p)
            net.classify.weight.mul_(1e3)  # type: ignore[union-attr, operator]
        state = ScribbleToLabel().init(net)
        batch = a_batch(3)
        labels = [
            confident_labels(terms.probabilities(state(x).logits_BKHW), y, 0.6)
            for x, y in (
                (batch.image_BCHW, batch.labels_BHW),
                (batch.image_BCHW.flip(-1), batch.labels_BHW.flip(-1)),
            )
        ]
        assert (labels[0] != IGNORE).double().mean() > 0.2
        # Where both orders of summation agree on a side of the threshold; float32 may differ at it.
        assert (labels[0].flip(-1) == labels[1]).double().mean() > 0.99

    def test_the_average_is_evaluated_and_the_network_s_statistics_stay(self) -> None:
        torch.manual_seed(0)
        net = networks.build("unet", {"width": 2, "levels": 2}, 4).train()
        state = ScribbleToLabel().init(net)
        state.train()
        before = [b.clone() for b in net.buffers()]
        image = a_batch().image_BCHW
        first, second = (state(image).logits_BKHW for _ in range(2))
        assert torch.equal(first, second)  # no dropout
        one = state(image[:1]).logits_BKHW
        torch.testing.assert_close(one, first[:1])  # not normalised by its batch
        assert all(torch.equal(a, b) for a, b in zip(before, net.buffers(), strict=True))

    def test_the_average_moves_after_the_step_only(self) -> None:
        method, net, state, batch = set_up()
        before = [p.clone() for p in state.parameters()]
        method.losses(net, batch, state, 0.5)
        assert all(torch.equal(a, b) for a, b in zip(before, state.parameters(), strict=True))
        method.after_step(net, state, 0.5)
        assert all(torch.equal(a, b) for a, b in zip(state.parameters(), net.parameters(), strict=True))


class TestAverage:
    def test_a_hundred_steps_forget_what_one_update_of_the_source_forgets(self) -> None:
        forgotten = 1 - (1 - AVERAGE_RATE) ** 100
        assert forgotten == pytest.approx(0.2, rel=1e-12)
        assert ScribbleToLabel().average_rate == AVERAGE_RATE

    def test_near_each_other_averaged_weights_predict_the_averaged_prediction(self) -> None:
        """The departure, in numbers: a tenth of the weights' spread is a hundredth of the difference."""
        x, differences = a_batch().image_BCHW.double(), []
        generator = torch.Generator().manual_seed(0)
        noises = [
            [torch.randn(p.shape, generator=generator) for p in TinyNetwork().parameters()] for _ in "12345"
        ]
        for spread in (0.1, 0.01):
            teacher = Teacher(TinyNetwork().double(), 0.01, evaluates=True)
            mean = torch.zeros(4, 4, 8, 8, dtype=torch.float64)
            for noise in noises:
                net = TinyNetwork().double()
                with torch.no_grad():
                    for p, n in zip(net.parameters(), noise, strict=True):
                        p.add_(spread * n)
                    mean += net(x).logits_BKHW.softmax(1) / len(noises)
                teacher.update(net)
            differences.append((teacher(x).logits_BKHW.softmax(1) - mean).abs().max().item())
        assert math.log10(differences[0] / differences[1]) == pytest.approx(2.0, abs=0.3)  # second order
