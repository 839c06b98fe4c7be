"""The gradient of a batch computed in parts is that of the whole, for every method that says so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from search_spaces import hyper_parameters
from tests.tiny import TinyNetwork, a_batch, mapped
from trainables import discovery, micro_batches
from trainables.method import IGNORE, AbstractMethod, Batch, Terms

PROGRESS = 0.75  # every ramp is beyond its start
ROUNDING = {"rtol": 1e-9, "atol": 1e-12}  # float64; a sum in another order


def options() -> list[tuple[str, dict[str, Any]]]:
    """Every method with its defaults, and with each named option of each of its choices."""
    out: list[tuple[str, dict[str, Any]]] = []
    for name in discovery.names():
        out.append((name, {}))
        for p in hyper_parameters(discovery.load(name)):
            if p.allowed is not None and not p.searched:
                out += [(name, {p.name: option}) for option in p.allowed.corners() if option != p.default]
    return out


DIVISIBLE = [(n, s) for n, s in options() if discovery.load(n)(**s).means_over()]


def batch_of(method: AbstractMethod, *, num_images: int = 5) -> Batch:
    """Images with unlike numbers of labelled pixels, one of them with none, in float64."""
    batch = a_batch(num_images=num_images, needs=method.needs)
    batch.labels_BHW[1] = IGNORE
    batch.labels_BHW[2, :4] = IGNORE
    return mapped(batch, lambda values: values.double() if values.is_floating_point() else values)


def gradients(
    method: AbstractMethod, batch: Batch, number: int | None
) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    net = TinyNetwork().double()
    state = method.init(net).double()

    def losses(part: Batch) -> Terms:
        return method.losses(net, part, state, PROGRESS)

    if number is None:
        terms = losses(batch)
        terms["total"].backward()
    else:
        terms = micro_batches.backward(losses, batch, number, method.means_over())
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in terms.items()}, found


@pytest.mark.parametrize("number", [1, 2, 3, 5, 9])
@pytest.mark.parametrize(("name", "settings"), DIVISIBLE, ids=str)
def test_parts_give_the_gradient_and_the_terms_of_the_whole(
    name: str, settings: dict[str, Any], number: int
) -> None:
    method = discovery.load(name)(**settings)
    batch = batch_of(method)
    terms, whole = gradients(method, batch, None)
    terms_of_parts, summed = gradients(method, batch, number)
    assert terms_of_parts.keys() == terms.keys()
    for term in terms:
        torch.testing.assert_close(terms_of_parts[term], terms[term], **ROUNDING)
    assert summed.keys() == whole.keys()
    for parameter in whole:
        torch.testing.assert_close(summed[parameter], whole[parameter], **ROUNDING)
    assert any(value.abs().max() > 1e-6 for value in whole.values())


def test_who_says_so() -> None:
    """Ratios of sums over the batch, comparisons of images and random draws never do."""
    assert {name for name, _ in DIVISIBLE} == {
        "partial_cross_entropy", "full_supervision", "total_variation", "mumford_shah", "gated_crf",
        "dense_crf", "entropy_minimisation",
    }  # fmt: skip
    assert ("full_supervision", {}) not in DIVISIBLE  # its Dice is one of the whole batch
    assert ("full_supervision", {"loss": "ce"}) in DIVISIBLE
    assert ("partial_cross_entropy", {"class_balanced": True}) not in DIVISIBLE


def test_a_plain_average_of_the_parts_is_something_else() -> None:
    """Images have unlike numbers of labelled pixels: the shares above are no accident."""
    method = discovery.load("partial_cross_entropy")()
    batch = batch_of(method)
    terms, _ = gradients(method, batch, None)
    totals = [gradients(method, part, None)[0]["total"] for part in micro_batches.split(batch, 5)]
    assert abs(float(torch.stack(totals).mean() - terms["total"])) > 1e-3


def test_parts_hold_every_image_once() -> None:
    batch = a_batch(num_images=5)
    for number, sizes in ((1, [5]), (2, [3, 2]), (3, [2, 2, 1]), (5, [1] * 5), (9, [1] * 5)):
        parts = micro_batches.split(batch, number)
        assert [len(part.image_BCHW) for part in parts] == sizes
        assert torch.equal(torch.cat([part.image_BCHW for part in parts]), batch.image_BCHW)
        for name, values in batch.statistics.items():
            assert torch.equal(torch.cat([part.statistics[name] for part in parts]).isnan(), values.isnan())
