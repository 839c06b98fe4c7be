r"""Two decoders on one encoder learn from the scribbles and from a random mixture of what both predict.

$$L = \tfrac12\bigl(L_{pCE}(p^1) + L_{pCE}(p^2)\bigr)
    + \lambda\,r(t)\,\tfrac12\bigl(D(p^1, q) + D(p^2, q)\bigr)$$
$$q = \operatorname{one\ hot}\operatorname{argmax}_k\bigl(\beta p^1_k + (1 - \beta) p^2_k\bigr),\qquad
\beta \sim U(0, 1)$$
$$D(p, q) = 1 - \frac1K \sum_k \frac{2 \sum_r p_k(r) q_k(r) + e}{\sum_r p_k(r)^2 + \sum_r q_k(r)^2 + e}$$

p^1 is the softmax of the network, p^2 that of an auxiliary decoder, which sees the features of every encoder
stage with whole channels dropped. L_pCE is the mean cross-entropy over the labelled pixels of the batch in
nat, so lambda is in nat; D has no unit. Its sums run over all pixels of the batch, e = 1e-5, the background
counts as a class. beta is one number a step, q a constant: no gradient passes through it. r is the sigmoid
ramp over the first `ramp_fraction` of the training; 0 is a constant 1, as published. The network alone
predicts; the auxiliary decoder stays behind.

Source: Luo et al. 2022, arXiv:2203.02106, eqs. 1-4; D, dropout and weights as in HiLab-git/WSL4MIS at a594da8
(read for the facts).

Departure: `pseudo_labels = "soft"` takes the mixture itself for q, in the same D. D is 0 exactly at p = q.
Departure: dropout ends in evaluation mode (the source's goes on there, unused).
Departure: beside `unet` the auxiliary decoder has the layers of the network's own; beside `timm_unet` it is
a U-Net decoder that ends on the image itself.
Departure: without a labelled pixel L_pCE is exactly 0 with a zero gradient.
A class that q lacks in the whole batch costs 1 - e / (sum p^2 + e) of D, almost 1 / K whatever its small p:
it is pushed out everywhere, as in the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, Scalar, State, Terms
from trainables.networks.decoder import AuxiliaryDecoder
from trainables.schedules import sigmoid_ramp
from trainables.terms import Probabilities

WSL4MIS = "WSL4MIS a594da8"


@torch.no_grad()
def mixed_pseudo_labels(p1: Probabilities, p2: Probabilities, beta: Scalar, form: str) -> Probabilities:
    """beta p1 + (1 - beta) p2 without gradient; form: "hard" its one-hot argmax, "soft" as it is."""
    mixture = beta * p1 + (1.0 - beta) * p2
    if form == "soft":
        return mixture
    return terms.one_hot(mixture.argmax(1), p1.shape[1]).to(p1.dtype)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DualBranchPseudoLabels(AbstractMethod):
    """Terms "partial_cross_entropy" and "pseudo_dice", each the mean of both branches."""

    paper: ClassVar[str] = "arXiv:2203.02106"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True

    pseudo_weight: float = hp(0.5, FloatRange(0.01, 2.0, log=True), off=0.0, source=WSL4MIS, unit="nat")
    channel_dropout: float = hp(0.5, FloatRange(0.1, 0.7), source=WSL4MIS, unit="share of channels")
    pseudo_labels: str = hp(
        "hard", Choice(("hard", "soft")), source=f"{WSL4MIS}; soft: derived, methods.md 3.10", search=False
    )
    ramp_fraction: float = hp(
        0.0,
        FloatRange(0.0, 1.0),
        source=f"{WSL4MIS}: no ramp",
        unit="fraction of the training",
        search=False,
    )

    def init(self, net: Network) -> State:
        return AuxiliaryDecoder(net, self.channel_dropout)

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        out = net(batch.image_BCHW)
        branches = (out.logits_BKHW, state(out.stages, tuple(batch.image_BCHW.shape[-2:])))
        p1, p2 = (terms.probabilities(logits) for logits in branches)
        beta = torch.rand((), device=p1.device)
        target = mixed_pseudo_labels(p1, p2, beta, self.pseudo_labels)
        one, two = (terms.partial_cross_entropy(logits, batch.labels_BHW) for logits in branches)
        parts = {
            "partial_cross_entropy": (one + two) / 2,
            "pseudo_dice": (terms.soft_dice_to(p1, target) + terms.soft_dice_to(p2, target)) / 2,
        }
        pseudo_weight = self.pseudo_weight * sigmoid_ramp(progress, self.ramp_fraction)
        return terms.weighted_total(parts, {"partial_cross_entropy": 1.0, "pseudo_dice": pseudo_weight})

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
