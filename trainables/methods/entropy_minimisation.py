r"""Entropy minimisation: labelled pixels, and a sure prediction wherever nobody labelled anything.

$$L = L_{pCE} + \lambda\, r(t)\, \frac{1}{\max(1, |U|)} \sum_{r \in U} \frac{H(p(r))}{\log K},\qquad
H(p) = -\sum_k p_k \log p_k$$

p is the softmax over the K classes, U the unlabelled pixels of the batch, L_pCE the cross-entropy of the
labelled ones in nat, lambda the entropy_weight. H / log K has no unit and lies between 0 (one class) and 1
(all alike), whatever K. r(t) is `trainables.schedules.sigmoid_ramp`, over the first ramp_fraction of the
training: a net that is made sure before it has learnt anything stays with its first errors.

* pixels: "unlabelled", as the sources have it, or "all", as HiLab-git/WSL4MIS does.

Source: Grandvalet and Bengio 2004, "Semi-supervised learning by entropy minimization" (NeurIPS 17), for the
sum over unlabelled samples; weight, log K and mean from HiLab-git/WSL4MIS at a594da8.

Departure: WSL4MIS adds 1e-6 inside the logarithm; here the logarithm is that of the softmax, exact and finite
for any logits.
Departure: a ramp over half of the training; WSL4MIS has none, HiLab-git/PyMIC one over a tenth to three
quarters of 20,000 steps, to the same weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, State, Terms
from trainables.schedules import sigmoid_ramp

CODE = "WSL4MIS a594da8"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyMinimisation(AbstractMethod):
    """Terms "partial_cross_entropy" and "entropy", the latter in [0, 1], before its weight and ramp."""

    paper: ClassVar[str] = "Grandvalet and Bengio 2004"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True

    entropy_weight: float = hp(0.1, FloatRange(1e-4, 1.0, log=True), off=0.0, source=CODE)
    ramp_fraction: float = hp(
        0.5, FloatRange(0.0, 1.0), source=f"derived; {CODE}: none", unit="share of the training"
    )
    pixels: str = hp(
        "unlabelled",
        Choice(("unlabelled", "all")),
        source=f"Grandvalet and Bengio 2004; {CODE}: all",
        search=False,
    )

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del state
        logits = net(batch.image_BCHW).logits_BKHW
        parts: Terms = {"partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW)}
        weight = self.entropy_weight * sigmoid_ramp(progress, self.ramp_fraction)
        if self.entropy_weight:
            mask_BHW = ~terms.labelled(batch.labels_BHW) if self.pixels == "unlabelled" else None
            parts["entropy"] = terms.entropy(logits, mask_BHW) / math.log(logits.shape[1])
        return terms.weighted_total(parts, {"partial_cross_entropy": 1.0, "entropy": weight})

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
