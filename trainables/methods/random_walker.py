r"""Random walker: each pixel gets the label whose seed a random walker meets first; the network fits those.

$$L = L_{pCE} + \lambda_{pseudo}\,\frac{1}{\max(1, |Q|)} \sum_{r \in Q} -\log p_{\hat y(r)}(r),\qquad
\hat y(r) = \arg\max_c u_c(r)$$
$$\sum_{j \sim i} w_{ij}\,(u_c(i) - u_c(j)) = 0,\qquad
w_{ij} = \exp\Bigl(-\frac{\beta\,|g_i - g_j|^2}{10\,s}\Bigr)$$

p is the softmax over the classes, L_pCE the mean cross-entropy of the labelled pixels, which are the seeds:
there u is the one-hot label, elsewhere the harmonic function of the second line over the four neighbours. g
is the image rescaled to [-1, 1], s its standard deviation, u_c(i) the probability that a walker from i meets
a seed of class c first. Q are the pixels of the batch with max_c u_c of at least `certainty`; with `labels` =
"soft" the cross-entropy is that of u instead of its argmax. Both terms are means over pixels, in nat.

Labels come from the seeds and the image alone, not from the network, so that they do not change while it
learns: their errors are learned as well. Few points make poor labels. Against the true masks of 6 slices of
ACDC the labels have a foreground Dice of 0.84 from scribbles and of 0.51 from 5 points a class, of BUSI 0.36
from 5 points (ours).

`incomplete` says what to do with images in which some class has no seed. Points mark each class that is
there, so that a class without a seed is absent and the walk among the others is right: "walk". "skip" leaves
such images to L_pCE, the published rule.

Source: Grady 2006, "Random walks for image segmentation" (IEEE TPAMI 28); as pseudo labels for training Roth
et al. 2021, "Going to extremes: weakly supervised medical image segmentation"; beta = 100 and the rescaling
as in HiLab-git/WSL4MIS at a594da8.

Departure: labels are made within the step, of the augmented image, by a fixed number of preconditioned
conjugate gradients (`trainables.random_walk`) instead of a direct solver once per image. Of those images of
256 x 256 pixels 0.03 % of the pixels or less get another label than from the exact solution after 20
iterations, 0.2 % after 10; white noise with a large beta would need many more. On a CPU the 20 iterations
take 0.6 of the time of a U-Net step on resnet18 (a dense or gated CRF 0.06).
Departure: L_pCE is added; the code replaces the labels of the image by the walker's, seeds included.
Departure: a pixel that no walk has reached has no label; it must not become background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import Batch, Scalar
from trainables.random_walk import random_walk
from trainables.regulariser import AbstractRegulariser, Weighted

PAPER = "Grady 2006"
CODE = "WSL4MIS a594da8"

Walks = Float[Tensor, "B K H W"]


def usable(u_BKHW: Walks, labels: terms.Labels, incomplete: str) -> Walks:
    """u, and with "skip" 0 in the images that lack a seed of some class."""
    if incomplete == "walk":
        return u_BKHW
    complete_B = terms.present(labels, u_BKHW.shape[1]).all(1)
    return u_BKHW * complete_B.view(-1, 1, 1, 1)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomWalker(AbstractRegulariser):
    """Terms "partial_cross_entropy" and, where its weight is not 0, "pseudo"."""

    paper: ClassVar[str] = PAPER
    learns_from_unlabelled: ClassVar[bool] = False

    pseudo_weight: float = hp(
        1.0, FloatRange(0.01, 10.0, log=True), off=0.0, source=f"{CODE} (the only term)"
    )
    beta: float = hp(100.0, FloatRange(1.0, 1e4, log=True), source=CODE)
    certainty: float = hp(0.0, FloatRange(0.0, 0.95), source=f"{CODE} (all pixels)", unit="probability")
    labels: str = hp("hard", Choice(("hard", "soft")), source=CODE, search=False)
    incomplete: str = hp("walk", Choice(("walk", "skip")), source=f"ours; {CODE} skips", search=False)
    solver_iterations: int = hp(
        20, Choice((10, 20, 40)), source="ours", unit="steps of the solver", search=False
    )

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        del progress
        if not self.pseudo_weight:
            return {}, {}
        return {"pseudo": self._pseudo(logits_BKHW, batch)}, {"pseudo": self.pseudo_weight}

    def _pseudo(self, logits: terms.Logits, batch: Batch) -> Scalar:
        u_BKHW = random_walk(
            batch.image_BCHW,
            batch.labels_BHW,
            logits.shape[1],
            beta=self.beta,
            iterations=self.solver_iterations,
        )
        u_BKHW = usable(u_BKHW, batch.labels_BHW, self.incomplete)
        if self.labels == "soft":
            return terms.soft_cross_entropy(logits, u_BKHW, self.certainty)
        return terms.partial_cross_entropy(logits, terms.certain_labels(u_BKHW, self.certainty))
