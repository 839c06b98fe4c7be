r"""Size constraint: a few pixels, and a penalty where a class's soft area leaves given bounds.

$$L = \lambda_{overlap} L_{overlap} + r(t)\,\lambda_{size} L_{size},\qquad
L_{overlap} = \frac{1}{\max(1, |M|)} \sum_{r \in M} -\log p_{y(r)}(r)$$
$$L_{size} = \operatorname{mean}_{b,c} \frac1V \begin{cases}
(S_c - a_c)^2 & S_c < a_c \\ (S_c - b_c)^2 & S_c > b_c \\ 0 & \text{otherwise}\end{cases},
\qquad S_c = \sum_r p_c(r)$$

p is the softmax over K classes, V the pixels of an image, M the labelled pixels of the batch, S_c the soft
size of foreground class c in an image and [a_c, b_c] its bounds, all three in pixels. L_size is a mean over
the images and foreground classes that have bounds, in px (px^2 / V) with its weight in 1/px; L_overlap is in
nat. r(t) rises from exp(-5) to 1 while the first `warm_up` of the training is done; 0 is the published
constant weight. The bounds come from the granted statistic of the same name:

* area: the report's fraction s of the image, a = (1 - margin) s V and b = (1 + margin) s V;
* presence: a tag per class, and then what the organ's size is known to lie between: a = smallest_area V and
  b = largest_area V, common to all foreground classes.

A class that is reported absent has a = b = 0 either way: all of its mass is penalised. dL_size/dp is the
same at every pixel, so sizes need pixels (or another term) to say where. With a = b = s V, L_size is V times
the mean squared area error (s_hat - s)^2 of summary_statistics with statistic_form = "sq".

S - a grows with V and so does L_size at equal fractions: the published weight belongs to 256 x 256 pixels.
There a class that is 1000 px off costs 15 px, hence `warm_up`. Published beside it, and a protocol's
business: Adam at 5e-4 with betas (0.9, 0.99), 200 epochs, the rate halved on a plateau, 1 image per batch
(heart) or 4 (prostate). Published bounds in px of 256 x 256: left ventricle [60, 2000] or [97.9, 1722],
prostate [60, 9000], loose [1, 65000]; the true size +- 10 %, then with a weight of 5e-2 instead of 1e-2.

Source: Kervadec et al. 2019, "Constrained-CNN losses for weakly supervised segmentation" (arXiv:1805.04628,
first shown in 2018), section 2; weights and bounds as in the authors' code, LIVIAETS/SizeLoss_WSS at 0b10ce5.

Departure: the cross-entropy takes every labelled pixel; the paper labels foreground only, which is what an
annotation of "fg_points" grants.
Departure: bounds are fractions of the image, so that they follow a resizing; sizes are computed as fractions
too, V (s_hat - a / V)^2, because squared pixel counts overflow in half precision.
Departure: an unknown statistic (NaN) and a batch without a labelled pixel give exactly 0 and a zero gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from search_spaces import Choice, UserError, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, Scalar, State, Terms
from trainables.schedules import sigmoid_ramp

PAPER = "arXiv:1805.04628"
CODE = "SizeLoss_WSS 0b10ce5"
PUBLISHED_PIXELS = 256 * 256

PerClass = Float[Tensor, "B K"]


def area_bounds(area_BK: PerClass, margin: float) -> tuple[PerClass, PerClass]:
    """(1 - margin) and (1 + margin) times the reported fractions; NaN where the report is NaN."""
    return (1.0 - margin) * area_BK, (1.0 + margin) * area_BK


def presence_bounds(presence_BK: PerClass, smallest: float, largest: float) -> tuple[PerClass, PerClass]:
    """The common bounds (fractions) where the tag is 1, [0, 0] where it is 0, NaN where it is NaN."""
    return smallest * presence_BK, largest * presence_BK


def size_penalty(p_BKHW: Float[Tensor, "B K H W"], low_BK: PerClass, high_BK: PerClass) -> Scalar:
    """The squared distance in pixels of each soft size to its bounds, divided by V: the mean, in px.

    The bounds are fractions of the image, low <= high, for the classes that are given (leave out the
    background); a pair with a NaN has no bounds and enters neither the mean nor the gradient.
    """
    area_BK = terms.full_precision(p_BKHW).mean((2, 3))
    known_BK = ~(low_BK.isnan() | high_BK.isnan())
    below_BK = (torch.where(known_BK, low_BK, 0.0).to(area_BK.dtype) - area_BK).relu()
    above_BK = (area_BK - torch.where(known_BK, high_BK, 0.0).to(area_BK.dtype)).relu()
    pixels = p_BKHW.shape[2] * p_BKHW.shape[3]
    return pixels * terms.masked_mean((below_BK + above_BK).square(), known_BK)  # one of the two is 0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeConstraint(AbstractMethod):
    """Terms "overlap" and "size", as far as their weights are not 0."""

    paper: ClassVar[str] = PAPER
    needs: ClassVar[frozenset[str]] = frozenset({"statistics"})
    learns_from_unlabelled: ClassVar[bool] = True

    # Not searched: with Adam only the ratio of the two weights matters.
    overlap_weight: float = hp(
        1.0, FloatRange(0.1, 10.0, log=True), off=0.0, source=PAPER, unit="1/nat", search=False
    )
    size_weight: float = hp(1e-2, FloatRange(1e-4, 1.0, log=True), off=0.0, source=CODE, unit="1/px")
    warm_up: float = hp(
        0.0, FloatRange(0.0, 1.0), source="ours; 0 is the paper's constant", unit="fraction of the training"
    )
    bounds: str = hp("area", Choice(("area", "presence")), source=PAPER, search=False)
    margin: float = hp(0.1, FloatRange(0.0, 0.5), source=CODE, unit="fraction of the area (area only)")
    # Anatomy, not tuning. The ranges meet but do not overlap: no value of the one contradicts the other.
    smallest_area: float = hp(
        60 / PUBLISHED_PIXELS,
        FloatRange(1e-5, 0.02, log=True),
        source=CODE,
        unit="fraction of the image (presence only)",
        search=False,
    )
    largest_area: float = hp(
        2000 / PUBLISHED_PIXELS,
        FloatRange(0.02, 1.0, log=True),
        source=CODE,
        unit="fraction of the image (presence only)",
        search=False,
    )

    def __post_init__(self) -> None:
        if not (self.overlap_weight or self.size_weight):
            raise UserError("size_constraint has nothing to minimise when both weights are 0; set one.")

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        """Raises UserError where the annotation lacks the statistic that `bounds` names."""
        del state
        logits_BKHW = net(batch.image_BCHW).logits_BKHW
        parts: Terms = {}
        weights: dict[str, float] = {}
        if self.overlap_weight:
            weights["overlap"] = self.overlap_weight
            parts["overlap"] = terms.partial_cross_entropy(logits_BKHW, batch.labels_BHW)
        if self.size_weight:
            low_BK, high_BK = self._bounds(batch)
            p_BKHW = terms.probabilities(logits_BKHW)
            weights["size"] = self.size_weight * sigmoid_ramp(progress, self.warm_up)
            parts["size"] = size_penalty(p_BKHW[:, 1:], low_BK[:, 1:], high_BK[:, 1:])
        return terms.weighted_total(parts, weights)

    def _bounds(self, batch: Batch) -> tuple[PerClass, PerClass]:
        if self.bounds not in batch.statistics:
            raise UserError(
                f"size_constraint with bounds = {self.bounds!r} needs the statistic {self.bounds!r} in the "
                f"annotation, but it grants {', '.join(batch.statistics) or 'none'}; add it there or choose "
                f"other bounds."
            )
        statistic_BK = batch.statistics[self.bounds]
        if self.bounds == "area":
            return area_bounds(statistic_BK, self.margin)
        return presence_bounds(statistic_BK, self.smallest_area, self.largest_area)

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
