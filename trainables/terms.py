"""Building blocks of losses that several methods share: pure functions of tensors, no host synchronisation.

Every function computes in float32 when it is given less (autocast) and in float64 when it is given that.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainables.method import IGNORE, Scalar, Terms

Logits = Float[Tensor, "B K H W"]
Labels = Int[Tensor, "B H W"]
Probabilities = Float[Tensor, "B K H W"]
Image = Float[Tensor, "B C H W"]

SMALLEST_REGION = 1e-6
"""Pixels of soft mass below which a region has no mean any more."""


def full_precision(values: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Half precisions become float32; float32 and float64 stay as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def full_precision_products(values: Float[Tensor, "*S"]) -> AbstractContextManager[object]:
    """Within it matrix products on the device of `values` keep their precision, whatever autocast says."""
    kind = values.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def probabilities(logits: Logits) -> Float[Tensor, "B K H W"]:
    """The softmax over the classes."""
    return full_precision(logits).softmax(1)


def labelled(labels: Labels) -> Bool[Tensor, "B H W"]:
    """True where somebody annotated the pixel."""
    return labels != IGNORE


def one_hot(labels: Labels, num_classes: int) -> Bool[Tensor, "B K H W"]:
    """True at the labelled class; all False at a pixel that nobody annotated."""
    classes = torch.arange(num_classes, device=labels.device)
    return labels.unsqueeze(1) == classes.view(1, -1, 1, 1)


def present(labels: Labels, num_classes: int) -> Bool[Tensor, "B K"]:
    """Which classes have a labelled pixel in each image."""
    return one_hot(labels, num_classes).flatten(2).any(2)


def masked_mean(values: Float[Tensor, "*S"], mask: Bool[Tensor, "*S"]) -> Scalar:
    """The mean over the true elements of `mask`; exactly 0, with zero gradient, where there is none.

    A value outside the mask may be infinite or NaN: it reaches neither the mean nor, as long as the
    value itself has a finite derivative, the gradient.
    """
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp(min=1)


def cross_entropy_map(logits: Logits, labels: Labels) -> Float[Tensor, "B H W"]:
    """-log p of the labelled class in nat; 0 where the pixel is not labelled."""
    return cross_entropy(full_precision(logits), labels.long(), ignore_index=IGNORE, reduction="none")


def partial_cross_entropy(logits: Logits, labels: Labels) -> Scalar:
    """The mean cross-entropy over the labelled pixels of the batch, in nat; 0 where there is none.

    Source: Tang et al. 2018, arXiv:1804.01346, eq. 1, divided by the number of labelled pixels.
    """
    return masked_mean(cross_entropy_map(logits, labels), labelled(labels))


def class_balanced_cross_entropy(logits: Logits, labels: Labels) -> Scalar:
    """Each class's mean cross-entropy over its labelled pixels of the batch, in nat, averaged over the
    classes that have one; 0 where no pixel is labelled."""
    is_class_BKHW = one_hot(labels, logits.shape[1])
    nat_B1HW = cross_entropy_map(logits, labels).unsqueeze(1)
    count_K = is_class_BKHW.sum((0, 2, 3))
    sum_K = torch.where(is_class_BKHW, nat_B1HW, 0.0).sum((0, 2, 3))
    return masked_mean(sum_K / count_K.clamp(min=1), count_K > 0)


def certain_labels(p_BKHW: Probabilities, certainty: float) -> Labels:
    """The most probable class; IGNORE where it is less probable than `certainty`, or all p are 0."""
    most_BHW, class_BHW = p_BKHW.max(1)
    return torch.where((most_BHW > 0.0) & (most_BHW >= certainty), class_BHW, IGNORE)


def soft_cross_entropy(logits: Logits, target_BKHW: Probabilities, certainty: float) -> Scalar:
    """The mean of -sum_c t_c log p_c in nat over the pixels that `certain_labels` labels; 0 of none.

    t is the target divided by its sum over the classes.
    """
    t_BKHW = target_BKHW / target_BKHW.sum(1, keepdim=True).clamp(min=1e-30)
    nat_BHW = -(t_BKHW * full_precision(logits).log_softmax(1)).sum(1)
    return masked_mean(nat_BHW, labelled(certain_labels(t_BKHW, certainty)))


def soft_dice_loss(p_BKHW: Float[Tensor, "B K H W"], labels: Labels, smoothing: float = 1e-5) -> Scalar:
    """1 minus the mean over all classes of (2 sum pt + e) / (sum p^2 + sum t^2 + e).

    Sums run over the labelled pixels of the whole batch. Source of the squares: Milletari et al. 2016,
    arXiv:1606.04797, section 3; of e and of counting the background: HiLab-git/WSL4MIS at a594da8.
    """
    t_BKHW = one_hot(labels, p_BKHW.shape[1]).to(p_BKHW.dtype)
    return soft_dice_to(torch.where(labelled(labels).unsqueeze(1), p_BKHW, 0.0), t_BKHW, smoothing)


def soft_dice_to(
    p_BKHW: Float[Tensor, "B K H W"], t_BKHW: Float[Tensor, "B K H W"], smoothing: float = 1e-5
) -> Scalar:
    """1 minus the mean over the classes of (2 sum pt + e) / (sum p^2 + sum t^2 + e), summed over the batch.

    t may be soft: 0 exactly where p = t, hard or not. Source: as `soft_dice_loss`.
    """
    overlap_K = (p_BKHW * t_BKHW).sum((0, 2, 3))
    squares_K = p_BKHW.square().sum((0, 2, 3)) + t_BKHW.square().sum((0, 2, 3))
    return 1.0 - ((2.0 * overlap_K + smoothing) / (squares_K + smoothing)).mean()


def entropy(logits: Logits, mask_BHW: Bool[Tensor, "B H W"] | None = None) -> Scalar:
    """The mean of -sum p log p in nat, from 0 to log K, over all pixels or the true ones of the mask.

    0 log 0 is 0, and saturated logits have a finite gradient. Source: Grandvalet and Bengio 2004,
    "Semi-supervised learning by entropy minimization", there of the unlabelled pixels.
    """
    log_p = full_precision(logits).log_softmax(1)
    nat_BHW = -(log_p.exp() * log_p).sum(1)
    return nat_BHW.mean() if mask_BHW is None else masked_mean(nat_BHW, mask_BHW)


def foreground_mass(p_BKHW: Float[Tensor, "B K H W"]) -> Scalar:
    """The mean over the images and pixels of the probability of all foreground classes together, in [0, 1].

    The L1 norm of p per pixel. Source: Barucic and Kybic, "Learning to segment from object sizes" (2022),
    the discussion of terms beside the size.
    """
    return full_precision(p_BKHW)[:, 1:].sum(1).mean()


def contrast_total_variation(
    p_BKHW: Float[Tensor, "B K H W"], image_BCHW: Float[Tensor, "B C H W"], contrast: float
) -> Scalar:
    """The mean over horizontal and vertical neighbours i, j of sum_k |p_k(i) - p_k(j)| w_ij, in [0, 2].

    w_ij = exp(-|x_i - x_j|^2 / (2 contrast^2)), the square summed over the channels: changing the class is
    cheap where the image changes by more than `contrast` > 0 (an intensity). A hard mask's unlike pair costs
    2 w_ij. 0 for an image of one pixel. Source: Boykov and Jolly 2001, "Interactive graph cuts", the
    boundary term with its Potts step relaxed to |p_k(i) - p_k(j)|; neighbours are 1 pixel apart.
    """
    p_BKHW, image_BCHW = full_precision(p_BKHW), full_precision(image_BCHW)
    sums, pairs = [], 0
    for dim in (2, 3):
        squares = image_BCHW.diff(dim=dim).square().sum(1)
        weight = (squares / (-2.0 * contrast**2)).exp()
        sums.append((p_BKHW.diff(dim=dim).abs().sum(1) * weight).sum())
        pairs += weight.numel()
    return torch.stack(sums).sum() / max(pairs, 1)


def total_variation(p_BKHW: Probabilities) -> Float[Tensor, "B K"]:
    """The sum over horizontal and vertical neighbours i, j of |p_k(i) - p_k(j)|, in pixel sides.

    The length of a hard region's outline (without what lies on the image's border): 4 k for a square of side
    k, in its own class and again in the one around it. Source: Rudin, Osher and Fatemi 1992, "Nonlinear total
    variation based noise removal algorithms", here the anisotropic form, neighbours 1 pixel apart.
    """
    p_BKHW = full_precision(p_BKHW)
    return p_BKHW.diff(dim=2).abs().sum((2, 3)) + p_BKHW.diff(dim=3).abs().sum((2, 3))


def region_means(p_BKHW: Probabilities, image_BCHW: Image) -> Float[Tensor, "B K C"]:
    """c_k = sum p_k x / sum p_k, the mean intensity of each soft region; near 0 for one that has vanished.

    Source: Kim and Ye 2019, arXiv:1904.02872, the centroids of the Mumford-Shah loss.
    """
    p_BKV, image_BCV = full_precision(p_BKHW).flatten(2), full_precision(image_BCHW).flatten(2)
    with full_precision_products(p_BKV):
        mass_BKC = p_BKV @ image_BCV.to(p_BKV.dtype).mT
    return mass_BKC / p_BKV.sum(2, keepdim=True).clamp(min=SMALLEST_REGION)


def variance_maps(
    p_BKHW: Probabilities, image_BCHW: Image, *, detach_means: bool = False
) -> Float[Tensor, "B K H W"]:
    """z_k = p_k |x - c_k|^2, c_k from `region_means`: what each pixel adds to the variance of each region.

    In squared intensities, the square summed over the channels. Source: En and Guo, arXiv:2212.08774, eq. 4;
    its sum over pixels and classes is the first term of the Mumford-Shah loss.
    """
    p_BKHW, image_BCHW = full_precision(p_BKHW), full_precision(image_BCHW)
    means_BKC = region_means(p_BKHW, image_BCHW)
    if detach_means:
        means_BKC = means_BKC.detach()
    return p_BKHW * (image_BCHW.unsqueeze(1) - means_BKC[..., None, None]).square().sum(2)


def weighted_total(terms: Mapping[str, Scalar], weights: Mapping[str, float]) -> Terms:
    """The terms, and "total": the sum of each one times its weight. Both have the same keys."""
    total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
    return {"total": total, **terms}
