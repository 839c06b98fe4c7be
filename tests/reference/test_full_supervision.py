"""Full supervision: cross-entropy and Dice of methods.md 3.1, alone and mixed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.reference.test_terms import slow_dice, slow_partial_cross_entropy
from tests.tiny import TinyNetwork, a_batch
from trainables import terms
from trainables.method import IGNORE
from trainables.methods.full_supervision import FullSupervision

DENSE = frozenset({"dense"})


@pytest.mark.parametrize(("label", "expected"), [(1, 0.554355), (0, 0.854355)])
def test_two_classes_are_one_logit(label: int, expected: float) -> None:
    # softplus(-a) and softplus(a) of the single logit a = 0.3 (methods.md 3.1)
    logits = torch.tensor([0.0, 0.3], dtype=torch.float64).view(1, 2, 1, 1)
    loss = terms.partial_cross_entropy(logits, torch.full((1, 1, 1), label))
    assert loss.item() == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("num_classes", [2, 4])
@pytest.mark.parametrize("dice_weight", [0.0, 0.3, 1.0])
def test_equals_the_formula_written_out(num_classes: int, dice_weight: float) -> None:
    net, batch = TinyNetwork(num_classes), a_batch(num_classes, needs=DENSE)
    out = FullSupervision(dice_weight=dice_weight).losses(net, batch, torch.nn.Module(), 0.0)
    logits = net(batch.image_BCHW).logits_BKHW.detach().double()
    ce = slow_partial_cross_entropy(logits, batch.labels_BHW)
    dice = slow_dice(logits.softmax(1), batch.labels_BHW)
    # float32 against float64
    assert out["cross_entropy"].item() == pytest.approx(ce, rel=1e-5)
    assert out["dice"].item() == pytest.approx(dice, rel=1e-5)
    assert out["total"].item() == pytest.approx((1 - dice_weight) * ce + dice_weight * dice, rel=1e-5)


def test_cross_entropy_alone_is_the_dense_cross_entropy() -> None:
    net, batch = TinyNetwork(), a_batch(needs=DENSE)
    out = FullSupervision(loss="ce").losses(net, batch, torch.nn.Module(), 0.0)
    dense = torch.nn.functional.cross_entropy(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW)
    assert set(out) == {"total", "cross_entropy"}
    torch.testing.assert_close(out["total"], dense)


@pytest.mark.parametrize("loss", ["ce", "ce_dice"])
def test_ignored_pixels_are_in_neither_term(loss: str) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.randint(3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    labels[:, 0] = IGNORE

    class Constant(TinyNetwork):
        def forward(self, image_BCHW: torch.Tensor) -> object:
            return super().forward(image_BCHW)._replace(logits_BKHW=logits)

    batch = dataclasses.replace(
        a_batch(3, num_images=2, size=4, needs=DENSE), labels_BHW=labels, image_BCHW=torch.zeros(2, 1, 4, 4)
    )
    total = FullSupervision(loss=loss).losses(Constant(3), batch, torch.nn.Module(), 0.0)["total"]
    (gradient,) = torch.autograd.grad(total, logits)
    assert (gradient[:, :, 0] == 0).all()
    assert (gradient[:, :, 1:] != 0).all()
