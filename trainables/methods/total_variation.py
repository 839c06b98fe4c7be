r"""Total variation: labelled pixels, and as little outline of the predicted regions as they allow.

$$L = L_{pCE} + \lambda_{tv}\, r(t)\, L_{tv}$$
$$L_{contour} = \operatorname{mean}_{n,k,r} \max(0,\ \operatorname{dilate}(\operatorname{erode} p_{n,k})(r)
    - \operatorname{erode} p_{n,k}(r)),\qquad
L_{anisotropic} = \frac1V \operatorname{mean}_{n,k} \sum_{r \sim q} |p_{n,k}(r) - p_{n,k}(q)|$$

p is the softmax over the K classes, V the pixels of an image, n an image, k a class, erode and dilate the
least and the greatest value of the 3 x 3 pixels around r that lie in the image, r ~ q neighbours below and
on the right. L_pCE is the cross-entropy of the labelled pixels in nat, lambda_tv the total_variation_weight,
r(t) `trainables.schedules.sigmoid_ramp` over the first ramp_fraction of the training (0: constant 1). Neither
form has a unit: the share of the pixels on a rim, and pixel sides of outline per pixel.

* form: "contour" marks the inner rim of regions that hold a 3 x 3 square, "anisotropic" adds all changes.
* classes: whose outline counts, "foreground" or "all". The background's lies where the others' do.

Regions thinner than the square have no contour. A hard square of side k has the anisotropic length 4 k.

Source: for the contour, HiLab-git/WSL4MIS at a594da8, the code of Luo et al. 2022 (arXiv:2203.02106), which
calls it TV (weight 0.01, no ramp; HiLab-git/PyMIC ramps up to 0.1); for the anisotropic form, En and Guo 2022
(arXiv:2212.08774), the second term of eq. 3, on its own.

Departure: the background is left out by class. WSL4MIS drops the first image of the batch instead, and PyMIC
pools over the classes as if they were slices.
Departure: means for both forms; eq. 3 sums, so that its mu is lambda_tv / V.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch.nn.functional import max_pool2d

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import IMAGES, LABELLED, Batch, Scalar
from trainables.regulariser import AbstractRegulariser, Weighted
from trainables.schedules import sigmoid_ramp

CODE = "WSL4MIS a594da8"


def contour(p_BKHW: terms.Probabilities) -> terms.Probabilities:
    """The opening of p minus its erosion, 3 x 3, in [0, 1]: 1 on the inner rim of a hard region.

    The image's border is no rim. Source: the module's card.
    """
    eroded_BKHW = -max_pool2d(-terms.full_precision(p_BKHW), 3, stride=1, padding=1)
    return (max_pool2d(eroded_BKHW, 3, stride=1, padding=1) - eroded_BKHW).relu()


def outline(p_BKHW: terms.Probabilities, form: str) -> Scalar:
    """L_tv over the given classes. form: "contour" or "anisotropic"."""
    if form == "contour":
        return contour(p_BKHW).mean()
    return terms.total_variation(p_BKHW).mean() / p_BKHW[0, 0].numel()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TotalVariation(AbstractRegulariser):
    """Terms "partial_cross_entropy" and "total_variation", the latter before its weight and ramp."""

    paper: ClassVar[str] = "arXiv:2203.02106"
    learns_from_unlabelled: ClassVar[bool] = True

    total_variation_weight: float = hp(0.01, FloatRange(1e-4, 1.0, log=True), off=0.0, source=CODE)
    ramp_fraction: float = hp(
        0.0, FloatRange(0.0, 1.0), source=f"{CODE}: none", unit="share of the training", search=False
    )
    form: str = hp("contour", Choice(("contour", "anisotropic")), source=CODE, search=False)
    classes: str = hp("foreground", Choice(("foreground", "all")), source="derived", search=False)

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        del batch
        if not self.total_variation_weight:
            return {}, {}
        p_BKHW = terms.probabilities(logits_BKHW)
        counted_BKHW = p_BKHW[:, 1:] if self.classes == "foreground" else p_BKHW
        weight = self.total_variation_weight * sigmoid_ramp(progress, self.ramp_fraction)
        return {"total_variation": outline(counted_BKHW, self.form)}, {"total_variation": weight}

    def means_over(self) -> Mapping[str, str]:
        return {"partial_cross_entropy": LABELLED, "total_variation": IMAGES}
