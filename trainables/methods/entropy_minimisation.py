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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import IMAGES, LABELLED, UNLABELLED, Batch
from trainables.regulariser import AbstractRegulariser, Weighted
from trainables.schedules import sigmoid_ramp

CODE = "WSL4MIS a594da8"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EntropyMinimisation(AbstractRegulariser):
    """Terms "partial_cross_entropy" and "entropy", the latter in [0, 1], before its weight and ramp."""

    paper: ClassVar[str] = "Grandvalet and Bengio 2004"
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

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        if not self.entropy_weight:
            return {}, {}
        mask_BHW = ~terms.labelled(batch.labels_BHW) if self.pixels == "unlabelled" else None
        share = terms.entropy(logits_BKHW, mask_BHW) / math.log(logits_BKHW.shape[1])
        weight = self.entropy_weight * sigmoid_ramp(progress, self.ramp_fraction)
        return {"entropy": share}, {"entropy": weight}

    def means_over(self) -> Mapping[str, str]:
        pixels = UNLABELLED if self.pixels == "unlabelled" else IMAGES
        return {"partial_cross_entropy": LABELLED, "entropy": pixels}
