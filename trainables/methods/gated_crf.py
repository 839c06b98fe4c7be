r"""Gated CRF: a few pixels, and a penalty where neighbours of like intensity get unlike labels.

$$L = L_{pCE} + r(t)\,\lambda_{CRF} L_{CRF},\qquad
L_{CRF} = \frac{1}{BV} \sum_i \sum_{j \in \Omega_i} k(i, j)\Bigl(1 - \sum_c p_c(i)\,p_c(j)\Bigr)$$
$$k(i, j) = \exp\Bigl(-\frac{|i - j|^2}{2\sigma_{xy}^2} - \frac{|x_i - x_j|^2}{2\sigma_x^2}\Bigr)
    + w_s \exp\Bigl(-\frac{|i - j|^2}{2\sigma_s^2}\Bigr)$$

p is the softmax over the classes, x the image, Omega_i the pixels j != i of the image at most R rows and
columns from i, B V the number of pixels of the batch, L_pCE the mean cross-entropy of the labelled pixels in
nat. Each pair counts twice, once from each end. L_CRF has no unit; it is 0 where one class has every pixel
and (1 - 1/K) times the mean of sum_j k(i, j) for p = 1/K. r(t) rises from exp(-5) to 1 while the first
`warm_up` of the training is done. The gradient flows through both ends of a pair, -2 sum_j k(i, j) p(j)
per pixel, and not into the kernel.

The published settings are two: w_s = 0 with a constant weight (HiLab-git/WSL4MIS at a594da8, the defaults
here), and sigma_xy = 5, w_s = 1, sigma_s = 3 with a ramp (HiLab-git/PyMIC).

Source: Obukhov et al. 2019, "Gated CRF loss for weakly supervised semantic image segmentation"
(arXiv:1906.04651).

Departure: pairs end at the image's border. Unfolding zero-padded features, as the published code does, adds
neighbours of intensity 0 outside the image: a constant (`trainables.pairwise.outside_constant`) without a
gradient, so that training is the same, but the value is then not 0 for a constant labelling.
Departure: no gates. Source and destination masks are for padding or for the pixels of a region; images here
have neither.
Departure: every pixel is at its full resolution; the authors' code can pool the prediction first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import IMAGES, LABELLED, Batch
from trainables.pairwise import Kernel, gated_crf_loss
from trainables.regulariser import AbstractRegulariser, Weighted
from trainables.schedules import sigmoid_ramp

PAPER = "arXiv:1906.04651"
CODE = "WSL4MIS a594da8"
PYMIC = "HiLab-git/PyMIC"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GatedCrf(AbstractRegulariser):
    """Terms "partial_cross_entropy" and, where its weight is not 0, "gated_crf"."""

    paper: ClassVar[str] = PAPER
    learns_from_unlabelled: ClassVar[bool] = True

    crf_weight: float = hp(0.1, FloatRange(1e-3, 1.0, log=True), off=0.0, source=CODE)
    sigma_xy: float = hp(6.0, FloatRange(2.0, 10.0), source=CODE, unit="px")
    sigma_intensity: float = hp(0.1, FloatRange(0.02, 0.5, log=True), source=CODE, unit="intensity")
    radius: int = hp(5, Choice((2, 3, 5, 7)), source=CODE, unit="px")
    warm_up: float = hp(
        0.0, FloatRange(0.0, 1.0), source=f"{CODE} (constant); {PYMIC} ramps", unit="fraction of the training"
    )
    spatial_weight: float = hp(
        0.0, FloatRange(0.0, 10.0), source=f"{CODE}; {PYMIC} has 1", unit="1", search=False
    )
    spatial_sigma: float = hp(3.0, FloatRange(1.0, 10.0), source=PYMIC, unit="px", search=False)

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        if not self.crf_weight:
            return {}, {}
        p_BKHW = terms.probabilities(logits_BKHW)
        energy = gated_crf_loss(p_BKHW, batch.image_BCHW, self._kernels(), self.radius)
        return {"gated_crf": energy}, {"gated_crf": self.crf_weight * sigmoid_ramp(progress, self.warm_up)}

    def _kernels(self) -> tuple[Kernel, ...]:
        bilateral = Kernel(1.0, self.sigma_xy, self.sigma_intensity)
        spatial = Kernel(self.spatial_weight, self.spatial_sigma, math.inf)
        return (bilateral, spatial) if self.spatial_weight else (bilateral,)

    def means_over(self) -> Mapping[str, str]:
        return {"partial_cross_entropy": LABELLED, "gated_crf": IMAGES}
