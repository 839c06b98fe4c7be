r"""Predictions averaged over the training become labels where they are confident and nobody annotated.

$$L = L_{pCE} + \lambda\,[t \ge w]\,\frac{1}{\max(1, |P|)} \sum_{r \in P} -\ln p_{z(r)}(r)$$
$$P = \{r \text{ not labelled}: \max_k q_k(r) > \tau\},\qquad z(r) = \operatorname{argmax}_k q_k(r)$$

p is the softmax of the network, q that of its average over the training so far, a constant of the step. L_pCE
is the mean cross-entropy over the labelled pixels of the batch, the other term the mean over the pixels P of
the batch that got a label, both in nat. t is the trained fraction; until the fraction w is over, the second
term has no weight. tau is `confidence_threshold`. "pseudo_label_share" is |P| over all pixels of the batch.

Source: Lee and Jeong 2020, "Scribble2Label" (arXiv:2006.12890); lambda, tau, w and the averaging as in
HiLab-git/WSL4MIS at a594da8 (read for the facts).

Departure: q is the prediction of averaged weights (`trainables.ema`), not the average of predictions. The
source keeps a map of K numbers a pixel for every training image (1.4 GB for the 1312 slices of ACDC at
256 x 256, in every checkpoint), moves it by 0.2 every hundredth step, and must augment it as the image. An
average of weights costs one network, moves with every step, and sees the augmented image itself. To first
order in the spread of the weights it is the average of the predictions; `average_rate` is the rate that
forgets in a hundred steps what the source forgets: 1 - 0.8^(1/100).
Departure: the source's maps start at 0, so that no pixel is confident before the eighth update (0.8^8 = 0.17
is then missing); here the average starts as a plain mean. Both are long over when w ends.
Departure: q is predicted in evaluation mode; the source updates its maps with dropout and with batches of one
image, which also moves the network's running statistics.
Departure: w is a fraction of the training, 6000 of 60000 steps; without a pixel in P the term is exactly 0
with a zero gradient, where 0/0 would be NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from search_spaces import Float as FloatRange
from search_spaces import hp
from trainables import terms
from trainables.ema import Teacher
from trainables.method import IGNORE, AbstractMethod, Batch, Network, State, Terms

WSL4MIS = "WSL4MIS a594da8"
AVERAGE_RATE = 1.0 - 0.8 ** (1.0 / 100.0)
"""Per step, what 0.2 is per hundred steps: 0.00223."""


@torch.no_grad()
def confident_labels(
    q_BKHW: Float[Tensor, "B K H W"], labels: terms.Labels, confidence_threshold: float
) -> terms.Labels:
    """The likeliest class where it is likelier than the threshold and no label is; IGNORE everywhere else."""
    confidence_BHW, class_BHW = q_BKHW.max(1)
    chosen_BHW = (confidence_BHW > confidence_threshold) & ~terms.labelled(labels)
    return torch.where(chosen_BHW, class_BHW, IGNORE)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScribbleToLabel(AbstractMethod):
    """Terms "partial_cross_entropy" and "pseudo_cross_entropy", and the figure "pseudo_label_share"."""

    paper: ClassVar[str] = "arXiv:2006.12890"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True

    pseudo_weight: float = hp(0.5, FloatRange(0.01, 1.0, log=True), off=0.0, source=WSL4MIS)
    confidence_threshold: float = hp(0.8, FloatRange(0.5, 0.99), source=WSL4MIS, unit="probability")
    warm_up: float = hp(
        0.1, FloatRange(0.0, 0.5), source=f"{WSL4MIS}: 6000 of 60000", unit="fraction of the training"
    )
    average_rate: float = hp(
        AVERAGE_RATE, FloatRange(1e-4, 3e-2, log=True), source=f"{WSL4MIS}: 0.2 in 100 steps", unit="1/step"
    )

    def init(self, net: Network) -> State:
        return Teacher(net, self.average_rate, evaluates=True)

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        q_BKHW = terms.probabilities(state(batch.image_BCHW).logits_BKHW)
        pseudo_BHW = confident_labels(q_BKHW, batch.labels_BHW, self.confidence_threshold)
        logits = net(batch.image_BCHW).logits_BKHW
        parts = {
            "partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW),
            "pseudo_cross_entropy": terms.partial_cross_entropy(logits, pseudo_BHW),
        }
        pseudo_weight = self.pseudo_weight if progress >= self.warm_up else 0.0
        total = terms.weighted_total(
            parts, {"partial_cross_entropy": 1.0, "pseudo_cross_entropy": pseudo_weight}
        )
        return total | {"pseudo_label_share": terms.labelled(pseudo_BHW).float().mean()}

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del progress
        assert isinstance(state, Teacher)
        state.update(net)
