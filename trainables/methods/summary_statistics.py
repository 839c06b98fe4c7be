r"""Summary statistics, a few pixels and the image itself: learn from reported areas instead of outlines.

$$L = \lambda_{rec} L_{rec} + \lambda_{stat} L_{stat} + \lambda_{weak} L_{weak} + \lambda_{conf} L_{conf}$$
$$L_{stat} = \operatorname{mean}\frac{|\hat s - s|}{s + 10^{-3}},\qquad \hat s_{area} = \frac1V\sum_r p(r)$$
$$L_{weak} = \operatorname{mean}_b \operatorname{mean}_{r \in W_b} -\log p_{y(r)}(r),\qquad
L_{conf} = \frac{K}{K-1}\operatorname{mean}_r\Bigl(1 - \sum_k p_k(r)^2\Bigr)$$
$$L_{rec} = \operatorname{mean}\,(\hat x - x)^2,\qquad \hat x = \sum_k p_k\,x_k$$

p is the softmax over K classes, V the pixels of an image, s the reported statistic of a foreground class.
L_stat is summed over the granted statistics, each a mean over the images and foreground classes that have it:
area and volume_area (fraction of the image, of the volume's slices), perimeter (neighbour pairs / V),
mean_intensity (of [0, 1]), centroid (fraction of height and width). Others that were granted (presence,
size) have no gradient and are not used. W_b are the labelled pixels of image b; L_weak is in nat and a mean
over the images that have one. No other term has a unit. The layers x_k of class k are

* parallel: none; a head on the decoder's features draws the image without looking at p;
* composite: smooth images of a few numbers each, from the bottleneck;
* gated: an autoencoder per class that is shown p_k x only, so that a wrong mask costs reconstruction;
* chan_vese: constants c_k = sum p_k x / sum p_k. Squares then reward soft masks:
  mean (x - sum p_k c_k)^2 = mean sum p_k (x - c_k)^2 - mean of the variance of c under p;
* none: no reconstruction at all.

dL_stat/dp is the same at every pixel: an area carries no location. p = s everywhere has L_stat = 0 and an
empty hard mask, which is what L_conf is for.

Source: Kulkarni, Raff and Oates 2026, "Learning to Segment using Summary Statistics and Weak Supervision"
(arXiv:2605.03059) for the terms reconstruction, statistic and overlap with the weak pixels. Everything
else (relative error, L_conf, layers, weights) is derived: the full text could not be found.

Departure: K softmax channels with background at 0 instead of one logit; for K = 2 the two are equal, with
the logit a_1 - a_0, and L_conf is then 4 p (1 - p).
Departure: a class that the report calls absent (s = 0) is charged the absolute error; dividing by the 1e-3
alone would let absent classes outweigh all others. A centroid is a position: its relative form is the
absolute one.
Departure: unknown statistics (NaN) and images without a labelled pixel give exactly 0 and a zero gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from search_spaces import Choice, UserError, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, Output, Scalar, State, Terms
from trainables.networks.heads import CoarseLayers, ReconstructionHead, RegionAutoencoders
from trainables.terms import Image, Probabilities

PAPER = "arXiv:2605.03059"
DERIVED = "derived, methods.md 3.30"

PerClass = Float[Tensor, "B K"]

USABLE = ("area", "volume_area", "mean_intensity", "perimeter", "centroid")
"""The statistics that have a gradient here; definitions in `trainables.statistics`."""

SMALLEST_AREA = 1e-6
"""Fraction of the image below which a soft region has no mean any more: 1/15 px of 256 x 256."""


def soft_area(p_BKHW: Probabilities) -> PerClass:
    """Mean of p over the pixels: the fraction of the image that each class takes."""
    return p_BKHW.mean((2, 3))


def soft_volume_area(p_BKHW: Probabilities, volume_B: Int[Tensor, " B"]) -> PerClass:
    """Mean of `soft_area` over the slices of each image's volume, given to each of these slices."""
    area_BK = soft_area(p_BKHW)
    sums_VK = torch.zeros_like(area_BK).index_add(0, volume_B, area_BK)  # at most B volumes
    slices_V = torch.zeros_like(area_BK[:, 0]).index_add(0, volume_B, torch.ones_like(area_BK[:, 0]))
    return (sums_VK / slices_V.clamp(min=1.0).unsqueeze(1))[volume_B]


def soft_mean_intensity(p_BKHW: Probabilities, image_BCHW: Image) -> PerClass:
    """sum p x / sum p, the mean over the channels of x."""
    mass_BK = (p_BKHW * image_BCHW.mean(1, keepdim=True)).mean((2, 3))
    return mass_BK / soft_area(p_BKHW).clamp(min=SMALLEST_AREA)


def soft_perimeter(p_BKHW: Probabilities) -> PerClass:
    """Anisotropic total variation of p over V; of a hard mask, its unlike neighbour pairs over V."""
    return terms.total_variation(p_BKHW) / p_BKHW[0, 0].numel()


def soft_centroid(p_BKHW: Probabilities) -> Float[Tensor, "B K 2"]:
    """Centre of mass (row, column) of p, pixel centres at +0.5, as a fraction of (H, W)."""
    h, w = p_BKHW.shape[2:]
    row_H = (torch.arange(h, device=p_BKHW.device, dtype=p_BKHW.dtype) + 0.5) / h
    column_W = (torch.arange(w, device=p_BKHW.device, dtype=p_BKHW.dtype) + 0.5) / w
    moment_BK2 = torch.stack([(p_BKHW.mean(3) * row_H).mean(2), (p_BKHW.mean(2) * column_W).mean(2)], dim=2)
    return moment_BK2 / soft_area(p_BKHW).clamp(min=SMALLEST_AREA).unsqueeze(2)


def discrepancy(estimate: Float[Tensor, "*S"], target: Float[Tensor, "*S"], form: str) -> Scalar:
    """The mean error over the elements with a known (not NaN) target; 0, with zero gradient, without any.

    form: "abs" |e - s|; "sq" (e - s)^2; "rel" |e - s| / (s + 1e-3), but |e - s| where s = 0.
    """
    known = ~target.isnan()
    target = torch.where(known, target, 0.0).to(estimate.dtype)
    error = (estimate - target).abs()
    if form == "sq":
        error = error.square()
    if form == "rel":
        error = error / torch.where(target == 0.0, 1.0, target + 1e-3)
    return terms.masked_mean(error, known)


def overlap_loss(logits_BKHW: terms.Logits, labels_BHW: terms.Labels, form: str) -> Scalar:
    """Per image the mean over its labelled pixels, then the mean over the images that have one, else 0.

    form: "ce" -log p of the label (nat); "recall" 1 - p of the label.
    """
    loss_BHW = terms.cross_entropy_map(logits_BKHW, labels_BHW)
    if form == "recall":
        loss_BHW = -torch.expm1(-loss_BHW)  # 1 - p; 0 at an unlabelled pixel as before
    count_B = terms.labelled(labels_BHW).sum((1, 2))
    return terms.masked_mean(loss_BHW.sum((1, 2)) / count_B.clamp(min=1), count_B > 0)


def confidence_loss(logits_BKHW: terms.Logits, form: str) -> Scalar:
    """Mean uncertainty of the pixels, from 0 (one class everywhere) to 1 (uniform).

    form: "gini" K/(K-1) (1 - sum p^2); "entropy" -sum p log p / log K.
    """
    k = logits_BKHW.shape[1]
    if form == "entropy":
        return terms.entropy(logits_BKHW) / math.log(k)
    log_p = terms.full_precision(logits_BKHW).log_softmax(1)
    return k / (k - 1) * (1.0 - log_p.exp().square().sum(1)).mean()


def region_means(p_BKHW: Probabilities, image_BCHW: Image) -> Float[Tensor, "B K C 1 1"]:
    """The constants c_k = sum p_k x / sum p_k of each image; 0 for an empty region."""
    mass = (p_BKHW.unsqueeze(2) * image_BCHW.unsqueeze(1)).mean((3, 4), keepdim=True)
    return mass / p_BKHW.mean((2, 3), keepdim=True).clamp(min=SMALLEST_AREA).unsqueeze(2)


def compose(p_BKHW: Probabilities, layers_BKCHW: Float[Tensor, "B K C #H #W"]) -> Image:
    """sum over k of p_k times layer k."""
    return (p_BKHW.unsqueeze(2) * layers_BKCHW).sum(1)


def structural_similarity(x_BCHW: Image, y_BCHW: Image, window: int = 7) -> Scalar:
    """Mean SSIM of two images in [0, 1] over all windows that lie inside; 1 for equal images.

    Source: Wang et al. 2004, doi:10.1109/TIP.2003.819861, eq. 13 and its constants. Departure: a uniform
    window instead of a Gaussian one. Raises RuntimeError for an image smaller than the window.
    """
    x_mean, y_mean, xx, yy, xy = (
        avg_pool2d(v, window, stride=1)
        for v in (x_BCHW, y_BCHW, x_BCHW.square(), y_BCHW.square(), x_BCHW * y_BCHW)
    )
    luminance = (2 * x_mean * y_mean + 0.01**2) / (x_mean.square() + y_mean.square() + 0.01**2)
    variances = (xx - x_mean.square()) + (yy - y_mean.square())
    return (luminance * (2 * (xy - x_mean * y_mean) + 0.03**2) / (variances + 0.03**2)).mean()


def reconstruction_loss(drawn_BCHW: Image, image_BCHW: Image, error: str) -> Scalar:
    """error: "squared" or "absolute", the mean over pixels and channels; "ssim" 1 - mean SSIM."""
    if error == "ssim":
        return 1.0 - structural_similarity(drawn_BCHW, image_BCHW)
    difference = drawn_BCHW - image_BCHW
    return difference.square().mean() if error == "squared" else difference.abs().mean()


def statistic_loss(p_BKHW: Probabilities, batch: Batch, form: str) -> Scalar:
    """The sum over the granted and usable statistics of each one's `discrepancy` over foreground classes.

    Raises UserError when none is usable, ValueError when volume_area comes without `batch.volume_B`.
    """
    granted = [name for name in USABLE if name in batch.statistics]
    if not granted:
        raise UserError(
            f"summary_statistics with a statistic_weight needs one of {', '.join(USABLE)} in the annotation, "
            f"but it grants {', '.join(batch.statistics) or 'none'}; set statistic_weight to 0 to go without."
        )
    errors = []
    for name in granted:
        estimate, target = _estimate(name, p_BKHW, batch), batch.statistics[name]
        form_of = "abs" if (name, form) == ("centroid", "rel") else form
        errors.append(discrepancy(estimate[:, 1:], target[:, 1:], form_of))
    return torch.stack(errors).sum()


def _estimate(name: str, p_BKHW: Probabilities, batch: Batch) -> Float[Tensor, "B K *D"]:
    if name == "area":
        return soft_area(p_BKHW)
    if name == "mean_intensity":
        return soft_mean_intensity(p_BKHW, batch.image_BCHW)
    if name == "perimeter":
        return soft_perimeter(p_BKHW)
    if name == "centroid":
        return soft_centroid(p_BKHW)
    if batch.volume_B is None:
        raise ValueError("The statistic volume_area needs whole volumes, but batch.volume_B is None.")
    return soft_volume_area(p_BKHW, batch.volume_B)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryStatistics(AbstractMethod):
    """Terms "reconstruction", "statistic", "overlap" and "confidence", as far as their weights are not 0."""

    paper: ClassVar[str] = PAPER
    needs: ClassVar[frozenset[str]] = frozenset({"statistics"})
    learns_from_unlabelled: ClassVar[bool] = True

    reconstruction_weight: float = hp(1.0, FloatRange(0.01, 10.0, log=True), off=0.0, source=DERIVED)
    statistic_weight: float = hp(1.0, FloatRange(0.1, 100.0, log=True), off=0.0, source=DERIVED)
    overlap_weight: float = hp(1.0, FloatRange(0.1, 10.0, log=True), off=0.0, source=DERIVED, unit="1/nat")
    confidence_weight: float = hp(0.1, FloatRange(1e-3, 1.0, log=True), off=0.0, source=DERIVED)
    reconstruction: str = hp(
        "parallel",
        Choice(("none", "parallel", "composite", "gated", "chan_vese")),
        source=DERIVED,
        search=False,
    )
    reconstruction_error: str = hp(
        "squared", Choice(("squared", "absolute", "ssim")), source=DERIVED, search=False
    )
    statistic_form: str = hp("rel", Choice(("rel", "abs", "sq")), source=DERIVED, search=False)
    overlap: str = hp("ce", Choice(("ce", "recall")), source=DERIVED, search=False)
    confidence: str = hp("gini", Choice(("gini", "entropy")), source=DERIVED, search=False)

    def __post_init__(self) -> None:
        if not self._weights():
            raise UserError("summary_statistics has nothing to minimise when every weight is 0; set one.")

    def _weights(self) -> dict[str, float]:
        """The terms that are computed: those that weigh more than 0."""
        weights = {
            "reconstruction": 0.0 if self.reconstruction == "none" else self.reconstruction_weight,
            "statistic": self.statistic_weight,
            "overlap": self.overlap_weight,
            "confidence": self.confidence_weight,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def init(self, net: Network) -> State:
        """The layers' network; empty where the reconstruction has no parameters. For one image channel."""
        if self.reconstruction_weight:
            if self.reconstruction == "parallel":
                return ReconstructionHead(net.feature_channels)
            if self.reconstruction == "composite":
                return CoarseLayers(net.bottleneck_channels, net.num_classes)
            if self.reconstruction == "gated":
                return RegionAutoencoders(net.num_classes)
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del progress
        out, weights = net(batch.image_BCHW), self._weights()
        p_BKHW = terms.probabilities(out.logits_BKHW)
        parts: Terms = {}
        if "reconstruction" in weights:
            drawn_BCHW = self._draw(out, p_BKHW, batch.image_BCHW, state)
            parts["reconstruction"] = reconstruction_loss(
                drawn_BCHW, batch.image_BCHW, self.reconstruction_error
            )
        if "statistic" in weights:
            parts["statistic"] = statistic_loss(p_BKHW, batch, self.statistic_form)
        if "overlap" in weights:
            parts["overlap"] = overlap_loss(out.logits_BKHW, batch.labels_BHW, self.overlap)
        if "confidence" in weights:
            parts["confidence"] = confidence_loss(out.logits_BKHW, self.confidence)
        return terms.weighted_total(parts, weights)

    def _draw(self, out: Output, p_BKHW: Probabilities, image_BCHW: Image, state: State) -> Image:
        """The reconstructed image, in float32."""
        if self.reconstruction == "parallel":
            return terms.full_precision(state(out.features_BDHW))
        if self.reconstruction == "composite":
            layers = state(out.bottleneck, tuple(image_BCHW.shape[-2:]))
        elif self.reconstruction == "gated":
            layers = state(p_BKHW, image_BCHW)
        else:
            layers = region_means(p_BKHW, image_BCHW)
        return compose(p_BKHW, terms.full_precision(layers))

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
