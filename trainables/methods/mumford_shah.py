r"""Mumford-Shah: each class is one intensity per image and has a short outline; clicks say which is which.

$$L = L_{pCE} + \lambda_{ms} \frac{1}{B K V} \sum_{n,k,r} |x_n(r) - c_{n,k}|^2\, p_{n,k}(r)
    + \mu \frac{1}{B K} \sum_{n,k} \sum_r |\nabla p_{n,k}(r)|,\qquad
c_{n,k} = \frac{\sum_r x_n(r)\, p_{n,k}(r)}{\sum_r p_{n,k}(r)}$$

p is the softmax over the K classes, background among them, x the image (intensity in [0, 1]; its channels'
squares are added), r one of V pixels, n one of B images. L_pCE is the cross-entropy of the labelled pixels in
nat, lambda_ms the region_weight per squared intensity, mu the total_variation_weight per pixel side, with
|grad p| the absolute differences to the pixel below and to the pixel on the right.

Without the labelled pixels the first term is k-means on intensities, for any naming of its clusters. It is
least in c at the weighted mean, so no gradient passes through c. An image times a has a^2 times the first
term: lambda_ms holds for images in [0, 1].

Source: Kim and Ye 2019, "Mumford-Shah Loss Functional for Image Segmentation with Deep Learning"
(arXiv:1904.02872), with the multiphase terms as En and Guo (arXiv:2212.08774), eq. 3, write them for clicks.

Departure: means instead of the sums of eq. 3, so that a weight means the same in every batch and, in the
first term, for every image size. Where L_pCE is a sum as well (eq. 2) and every class has one click, this
lambda_ms is V times the sum's, and mu is the same.
Departure: En and Guo name mu = 1e-5 but no lambda_ms. 3.15 is the weight 1e-6 on the sum of
HiLab-git/WSL4MIS (at a594da8, beside a mean L_pCE; B = 12, K = 4, V = 256^2); HiLab-git/PyMIC has 0.05 on the
mean, 63 times less: search it.
Departure: the mean of a class without probability is taken over at least 1e-6 pixels; 0/0 would be NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from search_spaces import Float as FloatRange
from search_spaces import hp
from trainables import terms
from trainables.method import IMAGES, LABELLED, Batch, Terms
from trainables.regulariser import AbstractRegulariser, Weighted

POINTS = "arXiv:2212.08774"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class MumfordShah(AbstractRegulariser):
    """Terms "partial_cross_entropy", "region" and "total_variation", where their weights are not 0."""

    paper: ClassVar[str] = "arXiv:1904.02872"
    learns_from_unlabelled: ClassVar[bool] = True

    region_weight: float = hp(
        3.15,
        FloatRange(1e-3, 10.0, log=True),
        off=0.0,
        source="WSL4MIS a594da8: 1e-6 on the sum; PyMIC: 0.05",
        unit="1/intensity^2",
    )
    total_variation_weight: float = hp(
        1e-5, FloatRange(1e-7, 1e-3, log=True), off=0.0, source=POINTS, unit="1/pixel side"
    )

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        del progress
        p_BKHW = terms.probabilities(logits_BKHW)
        parts: Terms = {}
        if self.region_weight:
            parts["region"] = terms.variance_maps(p_BKHW, batch.image_BCHW).mean()
        if self.total_variation_weight:
            parts["total_variation"] = terms.total_variation(p_BKHW).mean()
        return parts, {"region": self.region_weight, "total_variation": self.total_variation_weight}

    def means_over(self) -> Mapping[str, str]:
        return {"partial_cross_entropy": LABELLED, "region": IMAGES, "total_variation": IMAGES}
