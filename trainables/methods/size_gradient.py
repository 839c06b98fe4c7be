r"""Learning from object sizes: the expected error of a random mask's size, with sampled, unbiased gradients.

$$L = \lambda_{size}\,\operatorname{mean}_b E\Bigl[\Bigl(\frac{s_b - g(Y_b)}{g_{max}}\Bigr)^2\Bigr]
    + \lambda_{overlap} L_{pCE} + \lambda_{entropy} H + \lambda_{edge} L_{edge} + \lambda_{mass} L_{mass}$$
$$P(Y_i = 1) = \sigma(a_i / z),\qquad g(y) = 2 \max_i \min_{j: y_j = 0} \delta(i, j)$$
$$\frac{\partial E[h]}{\partial p_i} \approx \frac1n \sum_{k=1}^n
    \pm_i \bigl(h(y^k) - h(y^k \text{ with } i \text{ flipped})\bigr)$$

a_i is the logit of the foreground class against all others, z the scale of the logistic noise, delta the
Chebyshev distance, s the reported size in px (in mm with size_mm, so that an image's error then weighs as the
square of its pixels' side), g_max the greatest size of any mask of that
shape, the sign + where y_i is foreground, n the number of samples. The mean is over the images and foreground
classes with a reported size. L_pCE is the cross-entropy of the labelled pixels in nat, H the mean entropy of
a pixel in nat, L_edge the contrast-sensitive total variation and L_mass the mean foreground probability,
which have no unit. `statistic` may name any other file of `trainables.flips`: an area, a count of components,
a width.

The size alone cannot start from random weights (two thirds of the samples then have no gradient at all): it
fine-tunes a network that was pre-trained on a few masks, an arm's `pretraining`. Beside the loss, three
figures show what its gradient is worth: the squared error under noise, the drawn sizes minus those of the
thresholded masks (independent noise punches holes, so objects look smaller than they are and are trained to
grow), and the share of samples without any gradient.

Source: Barucic and Kybic 2022, "Learning to segment from object sizes" (CEUR 3226), eqs. 3-11 and 21.

Departure: all flips of a mask are computed exactly for the price of a few distance transforms
(`trainables.chebyshev`) instead of one transform a pixel.
Departure: the labelled pixels stay in every step (overlap_weight; 0 is the paper) and n = 8 (the paper uses
1): sizes alone lowered the IoU on the hippocampus, and eight samples cost a few percent of a step.
Departure: sizes are divided by g_max, so that a weight means the same for every image size; the paper adds
(s - g)^2. A mask without background has size 2 max(H, W), which the paper leaves open.
Departure: K softmax channels, each foreground class a mask of its own; for K = 2 that is the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from search_spaces import Choice, UserError, hp
from search_spaces import Float as FloatRange
from trainables import flips, terms
from trainables.discrete import Flips, Masks
from trainables.method import AbstractMethod, Batch, Network, State, Terms
from trainables.sampled_gradient import SAMPLINGS, Estimate, class_logits, expected_squared_error

SIZES = "Barucic and Kybic 2022"
TOY = "fast_losses.md 2"
OURS = "derived, methods.md 6.6"


@final
class Statistic(nn.Module):
    """The statistic and all its flips, found once: a compiled step must not look for files."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.flips, self.value = flips.load(name), flips.load_value(name)

    def forward(self, mask_MHW: Masks) -> Flips:
        return self.flips(mask_MHW)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SizeGradient(AbstractMethod):
    """Terms "size", "overlap", "entropy", "edge" and "mass", as far as their weights are not 0, and the
    figures "noisy_squared_error", "noisy_minus_mask" and "zero_gradient_share"."""

    paper: ClassVar[str] = "CEUR-WS.org/Vol-3226"
    needs: ClassVar[frozenset[str]] = frozenset({"statistics"})
    learns_from_unlabelled: ClassVar[bool] = True

    size_weight: float = hp(100.0, FloatRange(0.1, 1e4, log=True), off=0.0, source="ours")
    overlap_weight: float = hp(1.0, FloatRange(0.1, 10.0, log=True), off=0.0, source=TOY, unit="1/nat")
    samples: int = hp(8, Choice((1, 2, 4, 8)), source=f"{TOY}; {SIZES} uses 1", unit="masks")
    noise_scale: float = hp(1.0, FloatRange(0.05, 1.0, log=True), source=SIZES, unit="logits")
    statistic: str = hp("size", Choice((*flips.names(), "size_mm")), source=SIZES, search=False)
    sampling: str = hp("independent", Choice(SAMPLINGS), source=SIZES, search=False)
    pixel_share: float = hp(
        1.0,
        FloatRange(0.01, 1.0, log=True),
        source=f"{SIZES}, section 5",
        unit="share of pixels",
        search=False,
    )
    entropy_weight: float = hp(0.0, FloatRange(0.0, 1.0), source=OURS, unit="1/nat", search=False)
    edge_weight: float = hp(0.0, FloatRange(0.0, 10.0), source=OURS, search=False)
    edge_contrast: float = hp(
        0.1, FloatRange(0.01, 1.0, log=True), source=OURS, unit="intensity", search=False
    )
    mass_weight: float = hp(0.0, FloatRange(0.0, 1.0), source=OURS, search=False)

    def __post_init__(self) -> None:
        if not self._weights():
            raise UserError("size_gradient has nothing to minimise when every weight is 0; set one.")

    def _weights(self) -> dict[str, float]:
        """The terms that are computed: those that weigh more than 0."""
        names = ("size", "overlap", "entropy", "edge", "mass")
        weights = {name: float(getattr(self, f"{name}_weight")) for name in names}
        return {name: weight for name, weight in weights.items() if weight}

    def init(self, net: Network) -> State:
        del net
        return Statistic("size" if self.statistic == "size_mm" else self.statistic)

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        """Raises UserError when the statistic was not granted."""
        del progress
        logits, weights = net(batch.image_BCHW).logits_BKHW, self._weights()
        parts: Terms = {}
        figures: Terms = {}
        if "size" in weights:
            assert isinstance(state, Statistic)
            estimate = self._estimate(logits, batch, state)
            parts["size"] = estimate.loss
            figures = {
                "noisy_squared_error": estimate.squared_error,
                "noisy_minus_mask": estimate.noisy_minus_mask,
                "zero_gradient_share": estimate.zero_gradient_share,
            }
        if "overlap" in weights:
            parts["overlap"] = terms.partial_cross_entropy(logits, batch.labels_BHW)
        if "entropy" in weights:
            parts["entropy"] = terms.entropy(logits)
        if "edge" in weights:
            p_BKHW = terms.probabilities(logits)
            parts["edge"] = terms.contrast_total_variation(p_BKHW, batch.image_BCHW, self.edge_contrast)
        if "mass" in weights:
            parts["mass"] = terms.foreground_mass(terms.probabilities(logits))
        return terms.weighted_total(parts, weights) | figures

    def _estimate(self, logits: terms.Logits, batch: Batch, statistic: Statistic) -> Estimate:
        target_BJ, unit_BJ = self._target(batch)
        return expected_squared_error(
            class_logits(logits).flatten(0, 1),
            target_BJ.flatten(),
            statistic,
            samples=self.samples,
            noise_scale=self.noise_scale,
            sampling=self.sampling,
            pixel_share=self.pixel_share,
            unit_M=unit_BJ.flatten(),
            value=statistic.value,
        )

    def _target(self, batch: Batch) -> tuple[Float[Tensor, "B J"], Float[Tensor, "B J"]]:
        """What was reported of each foreground class, and what one step of the statistic is worth in that."""
        if self.statistic not in batch.statistics:
            raise UserError(
                f"size_gradient with statistic = {self.statistic!r} needs that in the annotation, but it "
                f"grants {', '.join(batch.statistics) or 'none'}; name one of them or ask for it."
            )
        target_BJ = batch.statistics[self.statistic][:, 1:]
        unit_BJ = torch.ones_like(target_BJ)
        if self.statistic == "size_mm":
            if batch.pixel_mm_B is None:
                raise ValueError("The statistic size_mm needs batch.pixel_mm_B, but it is None.")
            unit_BJ = unit_BJ * batch.pixel_mm_B[:, None]
        if self.statistic == "area":  # reported as a fraction of the image, counted in pixels
            target_BJ = (target_BJ * batch.image_BCHW[0, 0].numel()).round()
        return target_BJ, unit_BJ

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
