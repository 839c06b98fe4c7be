"""The gradient of a whole batch from its parts, one after the other, in less memory.

Exact up to rounding where every term of the loss is a mean over images or pixels, which a method says of
itself (`AbstractMethod.means_over`): each part's term then counts by its share of those. Not the same: what
the network itself does with a batch. Batch normalisation takes the statistics of a part instead of the whole,
and moves its running ones once a part; dropout draws anew in each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from trainables.method import IMAGES, LABELLED, UNLABELLED, Batch, Terms
from trainables.terms import labelled


def split(batch: Batch, number: int) -> list[Batch]:
    """The batch in at most `number` parts of consecutive images, none empty."""
    images = len(batch.image_BCHW)
    size = -(-images // number)
    return [_cut(batch, slice(start, start + size)) for start in range(0, images, size)]


def _cut(batch: Batch, images: slice) -> Batch:
    return dataclasses.replace(
        batch,
        image_BCHW=batch.image_BCHW[images],
        labels_BHW=batch.labels_BHW[images],
        statistics={name: values[images] for name, values in batch.statistics.items()},
        volume_B=None if batch.volume_B is None else batch.volume_B[images],
        pixel_mm_B=None if batch.pixel_mm_B is None else batch.pixel_mm_B[images],
    )


def _counts(batch: Batch) -> dict[str, Tensor]:
    """How many elements the means of a batch are over, by their kind."""
    is_labelled_BHW = labelled(batch.labels_BHW)
    return {
        IMAGES: torch.full_like(is_labelled_BHW.sum(), len(is_labelled_BHW)),
        LABELLED: is_labelled_BHW.sum(),
        UNLABELLED: (~is_labelled_BHW).sum(),
    }


def backward(
    losses: Callable[[Batch], Terms], batch: Batch, number: int, means_over: Mapping[str, str]
) -> Terms:
    """Adds the gradient of the batch's total to the parameters; returns the batch's terms, detached.

    losses: of any part. means_over: of every term that the total weighs; other figures are averaged over the
    images.
    """
    whole, summed = _counts(batch), Terms()
    for part in split(batch, number):
        terms, counts = losses(part), _counts(part)
        share = {kind: counts[kind].double() / whole[kind].clamp(min=1) for kind in whole}
        weighed = {name: terms[name] for name in means_over if name in terms}
        weights = torch.autograd.grad(
            terms["total"], list(weighed.values()), retain_graph=True, materialize_grads=True
        )
        gradients = [
            (weight * share[means_over[name]]).to(weight.dtype)
            for name, weight in zip(weighed, weights, strict=True)
        ]
        values = {name: term.detach() * share[means_over.get(name, IMAGES)] for name, term in terms.items()}
        products = [t.detach() * g for t, g in zip(weighed.values(), gradients, strict=True)]
        values["total"] = torch.stack(products).sum()
        torch.autograd.backward(list(weighed.values()), gradients)
        summed = {name: summed[name] + value if name in summed else value for name, value in values.items()}
    return {name: value.to(terms[name].dtype) for name, value in summed.items()}
