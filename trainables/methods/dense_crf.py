r"""Dense CRF loss: a few pixels, and a penalty where like pixels anywhere in the image get unlike labels.

$$L = L_{pCE} + \lambda_{CRF} L_{CRF}\,[t \ge t_0],\qquad
L_{CRF} = \operatorname{mean}_b
\frac{\sum_{i \ne j} k(i, j)\bigl(1 - \sum_c p_c(i)\,p_c(j)\bigr)}{\sum_{i \ne j} k(i, j)}$$
$$k(i, j) = \exp\Bigl(-\frac{|i - j|^2}{2\sigma_{xy}^2} - \frac{(x_i - x_j)^2}{2\sigma_x^2}\Bigr)
    + w_s \exp\Bigl(-\frac{|i - j|^2}{2\sigma_s^2}\Bigr)$$

p is the softmax over the classes, x the grey image in [0, 1], the sums run over all ordered pairs of pixels
of image b (each pair twice, above and below), L_pCE is the mean cross-entropy of the labelled pixels in
nat. sum_ij k (1 - p.p) = sum_c p_c' W (1 - p_c): for hard labels it is the Potts energy of the pairs exactly.
L_CRF has no unit: the share of the kernel's mass between unlike labels, 0 where one class has every pixel and
1 - 1/K for p = 1/K. The published training has two phases, L_pCE alone and then both: t_0 is the trained
fraction (`start`) after which the second begins.

The published weight of 2e-9 belongs to the sum over the pairs of an image of 257 x 257 pixels. Of 256 x 256
pixels of ACDC and BUSI the mass sum k times 2e-9 is 0.41 to 0.57 (ours, 12 images of each): hence 0.5.
sigma_x = 15 of 255, and sigma_xy = 100 px of 513, given here as a fraction of the image's width.

Source: Tang et al. 2018, "On regularized losses for weakly-supervised CNN segmentation" (arXiv:1803.09569);
weight and widths as in the authors' code, meng-tang/rloss.

Departure: divided by the mass, so that a weight means the same for every image size and width; the published
loss is -sum_c p_c' W p_c per image, equal to the numerator up to a constant, k(i, i) = 1 included.
Departure: the full resolution, the authors halve it; and instead of a permutohedral lattice, whose error
depends on the data, the Gaussian is factorised (`trainables.bilateral`): each k is off by 3e-4 of itself.
Departure: for grey images. The published sigma of 15 is one of three channels, of which a grey image has
three equal ones: 15 / sqrt(3) = 8.7 of 255 would be the same kernel.
Departure: no mask of a region of interest; the images have no padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from search_spaces import Float, hp
from trainables import terms
from trainables.bilateral import dense_crf_loss
from trainables.method import IMAGES, LABELLED, Batch
from trainables.pairwise import Kernel
from trainables.regulariser import AbstractRegulariser, Weighted

PAPER = "arXiv:1803.09569"
CODE = "meng-tang/rloss"
DERIVED = "derived, methods.md 3.8"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DenseCrf(AbstractRegulariser):
    """Terms "partial_cross_entropy" and, where its weight is not 0, "dense_crf"."""

    paper: ClassVar[str] = PAPER
    learns_from_unlabelled: ClassVar[bool] = True

    crf_weight: float = hp(
        0.5, Float(1e-3, 1.0, log=True), off=0.0, source=f"{CODE} (2e-9 of the sum), converted"
    )
    sigma_xy: float = hp(
        100 / 513, Float(0.05, 0.5, log=True), source=CODE, unit="fraction of the image's width"
    )
    sigma_intensity: float = hp(15 / 255, Float(0.02, 0.5, log=True), source=CODE, unit="intensity")
    start: float = hp(
        0.5, Float(0.0, 0.9), source=f"{PAPER} (two phases); share {DERIVED}", unit="fraction of the training"
    )
    spatial_weight: float = hp(0.0, Float(0.0, 10.0), source=DERIVED, search=False)
    spatial_sigma: float = hp(3.0, Float(1.0, 10.0), source=DERIVED, unit="px", search=False)

    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        if not self.crf_weight:
            return {}, {}
        kernels = self._kernels(batch.image_BCHW.shape[3])
        energy = dense_crf_loss(terms.probabilities(logits_BKHW), batch.image_BCHW, kernels)
        return {"dense_crf": energy}, {"dense_crf": self.crf_weight if progress >= self.start else 0.0}

    def _kernels(self, width: int) -> tuple[Kernel, ...]:
        bilateral = Kernel(1.0, self.sigma_xy * width, self.sigma_intensity)
        spatial = Kernel(self.spatial_weight, self.spatial_sigma, math.inf)
        return (bilateral, spatial) if self.spatial_weight else (bilateral,)

    def means_over(self) -> Mapping[str, str]:
        return {"partial_cross_entropy": LABELLED, "dense_crf": IMAGES}
