r"""In rounds: the network as it was says what the pixels are, a dense CRF refines that, the network fits it.

$$L = L_{pCE} + \lambda_{pseudo}\,[j > 1]\,\frac{1}{\max(1, |P|)} \sum_{i \in P} -\ln p_{\hat y(i)}(i),\qquad
\hat y(i) = \operatorname{argmax}_c Q_c(i)$$
$$Q(i) \leftarrow \operatorname{softmax}_c\Bigl(\ln p'_c(i) + \sum_{j \ne i} w(i, j)\,Q_c(j)\Bigr),\qquad
w(i, j) = \sum_m w_m n_m(i) k_m(i, j) n_m(j)$$
$$k_1 = \exp\Bigl(-\frac{|i - j|^2}{2\sigma_s^2}\Bigr),\qquad
k_2 = \exp\Bigl(-\frac{|i - j|^2}{2\sigma_{xy}^2} - \frac{(x_i - x_j)^2}{2\sigma_x^2}\Bigr),\qquad
n_m(i) = \Bigl(1 + \sum_{j \ne i} k_m(i, j)\Bigr)^{-1/2}$$

p is the softmax of the network, p' that of the network as it was when round j of `rounds` equal parts of the
training began, in evaluation mode, x the grey image in [0, 1]. Q is p' after `mean_field_iterations` such
updates of all pixels at once, at the labelled pixels the one-hot label all the while. P are the pixels of
the batch with max_c Q_c of at least `certainty`; the others get no label. With `labels` = "soft" the
cross-entropy is that of Q instead of its argmax. L_pCE is the mean cross-entropy over the labelled pixels,
both terms are in nat, and nothing but p has a gradient. In the first round there is L_pCE alone.
"pseudo_label_share" is |P| over all pixels, "refined_share" the share of pixels where the argmax of Q is not
that of p'; both are 0 in the first round.

With n_m a kernel says about its weight to a pixel, in nat, however many others are near and alike: to that
belong the weights 3 and 10. The widths belong to photographs of some 500 px. sigma_xy = 80 px is given as a
fraction of the image's width: it says how far apart like pixels of one object may be. sigma_s stays in px: it
says how large specks are. The CRF removes structures of a few pixels; labelled pixels stay. On a CPU the mean
field of 4 classes takes 0.4 of the time of a U-Net's training step, the frozen network's pass another 0.35.

Source: Can et al. 2018, "Learning to segment medical images with scribble-supervision alone"
(arXiv:1807.04668), the alternation of training and relabelling; Kraehenbuehl and Koltun 2011,
arXiv:1210.5644, the mean field; weights and widths as in the usual example of pydensecrf, methods.md 3.9.

Departure: labels are made in each step from the frozen network, of the augmented image. Up to the network's
equivariance they are what the source stores, once per round, for each training image.
Departure: a fixed number of rounds instead of going on until less than 0.5 % of the labels change; a further
round on labels that stay is the same as going on.
Departure: the first round learns from the labelled pixels alone, the source's from regions grown around them.
Departure: L_pCE is added; labelled pixels also count among P.
Departure: the Gaussians are factorised (`trainables.bilateral`), each k is off by 3e-4 of itself; the sum of
an update leaves out the pixel itself, that of the usual implementation does not.
Departure: for grey images; the published sigma_x is one of three channels, 13 / sqrt(3) = 7.5 of 255 would be
the same kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from search_spaces import Choice, Int, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.ema import Teacher
from trainables.mean_field import mean_field, normalised_message
from trainables.method import AbstractMethod, Batch, Network, Output, State, Terms
from trainables.pairwise import Kernel

STANDARD = "pydensecrf's example"
DERIVED = "derived, methods.md 3.9"
LATER = ("pseudo", "pseudo_label_share", "refined_share")
"""What the later rounds add; 0 in the first."""


def round_of(progress: float, rounds: int) -> int:
    """Which of so many equal parts of the training the step at `progress` belongs to, from 0."""
    return sum(progress >= begin / rounds for begin in range(1, rounds))


def begins_next(progress: float, steps: int, rounds: int) -> bool:
    """Whether the step after the one at `progress` = steps / iterations is the first of its round.

    These two say how many iterations there are, except in the first step, after which it may be so.
    """
    if steps == 0:
        return rounds > 1
    following = (steps + 1) / round(steps / progress)
    return round_of(following, rounds) > round_of(progress, rounds)


class Frozen(nn.Module):
    """The network as it was when its round began, in evaluation mode, and the number of steps so far."""

    def __init__(self, net: Network) -> None:
        super().__init__()
        self.copy = Teacher(net, 1.0, evaluates=True)
        self.steps = 0  # on the host, like the teacher's count

    def forward(self, image_BCHW: Tensor) -> Output:
        output: Output = self.copy(image_BCHW)
        return output

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.steps)

    def set_extra_state(self, state: Tensor) -> None:
        self.steps = int(state)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CrfRefinement(AbstractMethod):
    """Terms "partial_cross_entropy" and, where there is a second round, "pseudo", both figures with it."""

    paper: ClassVar[str] = "arXiv:1807.04668"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True

    rounds: int = hp(3, Int(1, 5), source=DERIVED, unit="rounds")
    pseudo_weight: float = hp(1.0, FloatRange(0.01, 10.0, log=True), off=0.0, source=DERIVED)
    bilateral_weight: float = hp(10.0, FloatRange(0.5, 20.0, log=True), off=0.0, source=STANDARD, unit="nat")
    sigma_xy: float = hp(
        80 / 500,
        FloatRange(0.05, 0.5, log=True),
        source=f"{STANDARD} (80 px of 500)",
        unit="fraction of the image's width",
    )
    sigma_intensity: float = hp(13 / 255, FloatRange(0.02, 0.5, log=True), source=STANDARD, unit="intensity")
    certainty: float = hp(0.0, FloatRange(0.0, 0.95), source=f"{DERIVED} (all pixels)", unit="probability")
    spatial_weight: float = hp(3.0, FloatRange(0.0, 20.0), source=STANDARD, unit="nat", search=False)
    spatial_sigma: float = hp(3.0, FloatRange(1.0, 10.0), source=STANDARD, unit="px", search=False)
    mean_field_iterations: int = hp(5, Int(1, 10), source=DERIVED, unit="updates", search=False)
    labels: str = hp("hard", Choice(("hard", "soft")), source=f"{DERIVED}; soft: ours", search=False)

    def init(self, net: Network) -> State:
        return Frozen(net)

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        logits = net(batch.image_BCHW).logits_BKHW
        parts = {"partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW)}
        if not self.pseudo_weight or self.rounds == 1:
            return terms.weighted_total(parts, {"partial_cross_entropy": 1.0})
        nothing = torch.zeros((), device=logits.device)
        first_round = round_of(progress, self.rounds) == 0
        later = dict.fromkeys(LATER, nothing) if first_round else self._pseudo(logits, batch, state)
        weights = {"partial_cross_entropy": 1.0, "pseudo": self.pseudo_weight}
        return terms.weighted_total(parts | {"pseudo": later["pseudo"]}, weights) | later

    def _pseudo(self, logits: terms.Logits, batch: Batch, state: State) -> Terms:
        frozen_BKHW = terms.full_precision(state(batch.image_BCHW).logits_BKHW)
        q_BKHW = self._refined(frozen_BKHW, batch)
        labels_BHW = terms.certain_labels(q_BKHW, self.certainty)
        if self.labels == "soft":
            pseudo = terms.soft_cross_entropy(logits, q_BKHW, self.certainty)
        else:
            pseudo = terms.partial_cross_entropy(logits, labels_BHW)
        labelled_share = terms.labelled(labels_BHW).float().mean()
        refined_share = (q_BKHW.argmax(1) != frozen_BKHW.argmax(1)).float().mean()
        return dict(zip(LATER, (pseudo, labelled_share, refined_share), strict=True))

    def _refined(self, logits: terms.Logits, batch: Batch) -> terms.Probabilities:
        bilateral = Kernel(self.bilateral_weight, self.sigma_xy * logits.shape[3], self.sigma_intensity)
        spatial = Kernel(self.spatial_weight, self.spatial_sigma, math.inf)
        message = normalised_message(batch.image_BCHW, (bilateral, spatial))
        unary_BKHW = -logits.log_softmax(1)
        return mean_field(unary_BKHW, batch.labels_BHW, message, self.mean_field_iterations)

    def after_step(self, net: Network, state: State, progress: float) -> None:
        assert isinstance(state, Frozen)
        if begins_next(progress, state.steps, self.rounds):
            state.copy.update(net)
        state.steps += 1
