"""Entropy minimisation: the values of methods.md 3.3, the formula written out, and its traps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from tests.reference.test_terms import random_case, slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch, plain_methods, without_labels
from trainables import terms
from trainables.method import IGNORE, Batch, Network, Output, Terms
from trainables.methods.entropy_minimisation import EntropyMinimisation


class Given(Network):
    """A network that answers with the given logits."""

    def __init__(self, logits_BKHW: Tensor) -> None:
        super().__init__()
        self.num_classes, self.logits_BKHW = logits_BKHW.shape[1], logits_BKHW

    def forward(self, image_BCHW: Tensor) -> Output:
        return Output(self.logits_BKHW, self.logits_BKHW, image_BCHW)


def loss_of(logits: Tensor, labels: Tensor, progress: float = 1.0, **settings: object) -> Terms:
    batch = Batch(image_BCHW=torch.zeros(labels.shape).unsqueeze(1), labels_BHW=labels)
    return EntropyMinimisation(**settings).losses(Given(logits), batch, nn.Module(), progress)  # type: ignore[arg-type]


def pixels(*p: tuple[float, ...]) -> Tensor:
    """Logits [1,K,1,number of pixels] of the given probabilities."""
    return torch.tensor(p, dtype=torch.float64).T.log().reshape(1, len(p[0]), 1, len(p))


def slow_entropy(logits: Tensor, labels: Tensor, every_pixel: bool) -> float:
    values = []
    for b, r, c in torch.cartesian_prod(*(torch.arange(n) for n in labels.shape)).tolist():
        if every_pixel or int(labels[b, r, c]) == IGNORE:
            p = logits[b, :, r, c].softmax(0).tolist()
            values.append(-sum(v * math.log(v) for v in p) / math.log(len(p)))
    return sum(values) / max(1, len(values))


class TestByHand:
    @pytest.mark.parametrize(
        ("p", "expected"),
        [((0.25,) * 4, 1.0), ((0.7, 0.1, 0.1, 0.1), 0.6783898), ((0.5, 0.5), 1.0), ((1.0, 0.0), 0.0)],
    )
    def test_one_unlabelled_pixel(self, p: tuple[float, ...], expected: float) -> None:
        logits = pixels(p).clamp(min=-800.0)
        entropy = loss_of(logits, torch.tensor([[[IGNORE]]]))["entropy"]
        assert entropy.item() == pytest.approx(expected, abs=5e-8)

    def test_labelled_pixels_are_left_to_the_cross_entropy_unless_all_count(self) -> None:
        logits, labels = pixels((0.5, 0.5), (0.9, 0.1)), torch.tensor([[[0, IGNORE]]])
        sure = -(0.9 * math.log2(0.9) + 0.1 * math.log2(0.1))
        out = loss_of(logits, labels)
        assert out["entropy"].item() == pytest.approx(sure, rel=1e-12)
        assert out["total"].item() == pytest.approx(math.log(2) + 0.1 * sure, rel=1e-12)
        assert loss_of(logits, labels, pixels="all")["entropy"].item() == pytest.approx((1 + sure) / 2)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("choice", ["unlabelled", "all"])
def test_equals_the_formula_written_out(num_classes: int, choice: str) -> None:
    logits, labels = random_case(num_classes, num_classes)
    out = loss_of(logits, labels, 0.25, pixels=choice, entropy_weight=0.7)
    expected = slow_entropy(logits, labels, choice == "all")
    assert out["entropy"].item() == pytest.approx(expected, rel=1e-12)
    total = slow_partial_cross_entropy(logits, labels) + 0.7 * math.exp(-1.25) * expected
    assert out["total"].item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("choice", ["unlabelled", "all"])
def test_gradients(choice: str) -> None:
    logits, labels = random_case(3)
    assert torch.autograd.gradcheck(
        lambda a: loss_of(a, labels, pixels=choice)["total"], (logits.requires_grad_(),)
    )


class TestFacts:
    def test_the_names_of_the_classes_do_not_matter(self) -> None:
        logits, labels = random_case(4)
        renamed = loss_of(logits[:, [2, 0, 3, 1]], labels)["entropy"]
        assert renamed.item() == pytest.approx(loss_of(logits, labels)["entropy"].item(), rel=1e-12)

    def test_a_labelled_pixel_has_the_gradient_of_its_label_alone(self) -> None:
        logits, labels = random_case(5)
        logits.requires_grad_()
        mask = terms.labelled(labels).unsqueeze(1).expand_as(logits)
        (whole,) = torch.autograd.grad(loss_of(logits, labels)["total"], logits)
        (labelled,) = torch.autograd.grad(terms.partial_cross_entropy(logits, labels), logits)
        assert torch.equal(whole[mask], labelled[mask])
        assert (whole[~mask] != 0).any()

    def test_minimising_makes_the_likely_class_likelier(self) -> None:
        logits = pixels((0.6, 0.3, 0.1)).requires_grad_()
        (gradient,) = torch.autograd.grad(loss_of(logits, torch.tensor([[[IGNORE]]]))["total"], logits)
        assert gradient[0, 0, 0, 0] < 0 < gradient[0, 2, 0, 0]


class TestTraps:
    def test_saturated_logits_have_a_finite_value_and_gradient(self) -> None:
        """The logarithm of a softmax is NaN times 0 here, in the value and in the gradient."""
        logits = torch.tensor([800.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
        entropy = loss_of(logits, torch.tensor([[[IGNORE]]]))["entropy"]
        (gradient,) = torch.autograd.grad(entropy, logits)
        assert entropy.item() == 0.0
        assert gradient.flatten().tolist() == [0.0, 0.0]

    def test_nothing_unlabelled_is_exactly_zero(self) -> None:
        logits, labels = random_case(6)
        logits.requires_grad_()
        entropy = loss_of(logits, labels.clamp(max=3))["entropy"]
        (gradient,) = torch.autograd.grad(entropy, logits)
        assert entropy.item() == gradient.abs().max().item() == 0.0

    def test_the_ramp_is_a_fraction_of_the_training(self) -> None:
        logits, labels = random_case(7)
        pce = terms.partial_cross_entropy(logits, labels).item()

        def weight(progress: float, **settings: float) -> float:
            out = loss_of(logits, labels, progress, **settings)
            return (out["total"].item() - pce) / out["entropy"].item()

        weights = [weight(t, ramp_fraction=0.5) for t in (0.0, 0.125, 0.25, 0.375, 0.5, 1.0)]
        ramp = [0.0067379, 0.0600547, 0.2865048, 0.7316156, 1.0, 1.0]
        assert weights == pytest.approx([0.1 * r for r in ramp], rel=1e-5)
        assert weight(0.0, ramp_fraction=0.0) == pytest.approx(0.1)

    def test_learns_from_images_without_labels(self) -> None:
        net, batch = TinyNetwork(), without_labels(a_batch())
        method = EntropyMinimisation()
        out = method.losses(net, batch, method.init(net), 1.0)
        out["total"].backward()
        assert out["partial_cross_entropy"].item() == 0.0
        assert net.classifier.weight.grad is not None
        assert net.classifier.weight.grad.abs().sum() > 0

    def test_a_compiled_loss_follows_the_ramp(self) -> None:
        net, batch = TinyNetwork(), a_batch()
        with plain_methods() as load:
            method = load("entropy_minimisation")(pixels="all")
            torch.compiler.reset()
            compiled = torch.compile(method.losses, fullgraph=True, backend="aot_eager")
            for progress in (0.1, 0.2, 0.3, 0.9):
                graph, eager = (
                    f(net, batch, method.init(net), progress)["total"] for f in (compiled, method.losses)
                )
                torch.testing.assert_close(graph, eager)
