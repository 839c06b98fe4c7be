r"""Contrastive variance: where a class deviates from its mean intensity shall look alike in all images.

$$L = L_{pCE} + \lambda_{cv} \operatorname{mean}_{(n,k) \in A} \ell_{n,k}
    + \mu \operatorname{mean}_{n,k} \sum_r |\nabla p_{n,k}(r)|$$
$$\ell_{n,k} = -\log \frac{e^{\cos(z_{n,k}, z_{m,k}) / \tau}}
    {e^{\cos(z_{n,k}, z_{m,k}) / \tau} + \sum_{(i,j) \in N(n,k)} e^{\cos(z_{n,k}, z_{i,j}) / \tau}}$$
$$z_{n,k}(r) = (x_n(r) - c_{n,k})^2\, p_{n,k}(r),\qquad
c_{n,k} = \frac{\sum_r x_n(r)\, p_{n,k}(r)}{\sum_r p_{n,k}(r)}$$

p is the softmax over the K classes, background among them, x the image (intensity in [0, 1]), r a pixel, n
and i images of the batch, k and j classes. An anchor (n, k) in A is a class that image n has; its positive m
is another image with class k, drawn anew for each anchor and step; its negatives N(n, k) are the other
classes j != k of the other images i != n. tau is the temperature (of a cosine, no unit), lambda_cv the
contrastive_weight in 1/nat, mu the total_variation_weight per pixel side. L_pCE and l are in nat.

z >= 0, so the cosines lie in [0, 1] and, with M negatives, l lies between log(1 + M exp(-1/tau)) and
log(1 + M exp(1/tau)). The loss does not see a linear change of an image's intensities (gain and offset of a
scanner), nor one permutation of the pixels that all images share; it does see where in the image a class
lies, so it needs images in roughly the same position. The batch is the set of what is compared: its size
changes the loss, and batches that are split to save memory are other batches.

Source: En and Guo 2022, "Annotation by Clicks: A Point-Supervised Contrastive Variance Method for Medical
Semantic Segmentation" (arXiv:2212.08774), eqs. 2 and 4-9.

What the paper leaves open is a choice:

* background: anchor and negative like every class ("both", the literal eq. 6), "negative_only", or "none";
* absent: classes that an image lacks are no negatives ("exclude"), or are ("include", the literal eq. 8);
* negatives: "published", or also those with i = n ("with_same_image"), or j = k, i != m ("with_same_class");
* detach: no gradient is stopped ("none"), or that through c ("centroid") or z_{i,j} ("negatives");
* reduction: the "mean" over labelled pixels, over A and over all (n, k), or the "sum" of eqs. 2 and 6.

With one click per class and every class in every image the three counts of the reduction are equal, and a
weight means the same in both.

Departure: a class without a labelled pixel and without a tag (the statistic "presence") counts as absent,
except the background, which every image has.
Departure: an anchor whose class no other image has is left out and not counted; a batch of one image
has none at all, and is refused.
Departure: the cosine of a map that vanished (an image of one intensity, a class without probability) is 0
and has no gradient. Images are stretched to [0, 1] first, which the cosines do not see, so that a constant
image has maps of exact zeros and the rest does not depend on the contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, State, Terms

PAPER = "arXiv:2212.08774"
WEIGHTS = f"{PAPER}: 0.3 on Synapse, 1e-3 on ACDC"

SMALLEST_MAP = 1e-12
"""Euclidean norm below which a variance map (of an image in [0, 1]) counts as zero."""

PerClass = Float[Tensor, "B K"]
Pairs = Float[Tensor, "B K B K"]


def present_classes(batch: Batch, num_classes: int) -> Bool[Tensor, "B K"]:
    """The classes that have a labelled pixel or a tag, and the background, which every image has."""
    present_BK = terms.present(batch.labels_BHW, num_classes)
    present_BK = present_BK | (torch.arange(num_classes, device=present_BK.device) == 0)
    tags_BK = batch.statistics.get("presence")
    return present_BK if tags_BK is None else present_BK | (tags_BK > 0.5)


def draw_positives(present_BK: Bool[Tensor, "B K"]) -> Int[Tensor, "B K"]:
    """For image n and class k another image that has k, each with the same chance; n where there is none."""
    b = present_BK.shape[0]
    own_BB1 = torch.eye(b, dtype=torch.bool, device=present_BK.device).unsqueeze(2)
    lots_BBK = torch.rand(b, *present_BK.shape, device=present_BK.device)
    return lots_BBK.masked_fill(~present_BK, -1.0).masked_fill(own_BB1, -0.5).argmax(1)


def stretched(image_BCHW: terms.Image) -> terms.Image:
    """Each image moved and scaled to span [0, 1], its channels by the same factor; 0 where it is constant."""
    image_BCHW = terms.full_precision(image_BCHW)
    image_BCHW = image_BCHW - image_BCHW.amin((2, 3), keepdim=True)
    span_B111 = image_BCHW.amax((1, 2, 3), keepdim=True)
    return image_BCHW / torch.where(span_B111 > 0, span_B111, 1.0)


def cosines(z_BKHW: Float[Tensor, "B K H W"], detach_columns: bool = False) -> Pairs:
    """cos(z_nk, z_ij) of all pairs of maps, from one matrix product; 0 where either map has vanished.

    The norms are the product's diagonal: nothing else passes over the pixels. `detach_columns` stops the
    gradient through z_ij, which takes a second product.
    """
    b, k = z_BKHW.shape[:2]
    z_MV = z_BKHW.flatten(2).flatten(0, 1)
    with terms.full_precision_products(z_MV):
        products_MM = z_MV @ z_MV.T
        squares_M = products_MM.diagonal()
        if detach_columns:
            products_MM = z_MV @ z_MV.detach().T
    inverse_M = squares_M.clamp(min=SMALLEST_MAP**2).rsqrt()
    inverse_M = torch.where(squares_M > SMALLEST_MAP**2, inverse_M, 0.0)
    columns_M = inverse_M.detach() if detach_columns else inverse_M
    return (inverse_M.unsqueeze(1) * products_MM * columns_M).view(b, k, b, k)


def negative_pairs(
    present_BK: Bool[Tensor, "B K"], *, background: str, absent: str, negatives: str
) -> Bool[Tensor, "B K B K"]:
    """True at [n, k, i, j] where z_ij is a negative of the anchor (n, k); the named choices of the card."""
    b, k = present_BK.shape
    image_B, class_K = (torch.arange(size, device=present_BK.device) for size in (b, k))
    other_image = image_B[:, None, None, None] != image_B[:, None]
    other_class = class_K[:, None, None] != class_K
    chosen = other_image & other_class
    if negatives == "with_same_image":
        chosen = other_class.expand(b, k, b, k)
    if negatives == "with_same_class":
        chosen = other_image.expand(b, k, b, k)
    if absent == "exclude":
        chosen = chosen & present_BK
    return chosen & (class_K > 0) if background == "none" else chosen


def contrastive_variance(
    p_BKHW: terms.Probabilities,
    image_BCHW: terms.Image,
    present_BK: Bool[Tensor, "B K"],
    positive_BK: Int[Tensor, "B K"],
    *,
    temperature: float,
    background: str = "both",
    absent: str = "exclude",
    negatives: str = "published",
    detach: str = "none",
) -> tuple[PerClass, Bool[Tensor, "B K"]]:
    """l of every anchor in nat, 0 elsewhere, and which (image, class) are anchors.

    positive_BK: the image m of each (n, k) as of `draw_positives`. The named choices: see the module.
    Source: eqs. 4, 5, 7 and 8 of the paper.
    """
    b, k = present_BK.shape
    z_BKHW = terms.variance_maps(p_BKHW, stretched(image_BCHW), detach_means=detach == "centroid")
    images_B, classes_K = (torch.arange(size, device=present_BK.device) for size in (b, k))
    is_anchor_BK = present_BK & (positive_BK != images_B.unsqueeze(1))
    if background != "both":
        is_anchor_BK = is_anchor_BK & (classes_K > 0)
    is_positive = (positive_BK[:, :, None, None] == images_B[:, None]) & torch.eye(
        k, dtype=torch.bool, device=present_BK.device
    ).unsqueeze(1)
    is_negative = negative_pairs(present_BK, background=background, absent=absent, negatives=negatives)
    similarity = cosines(z_BKHW) / temperature
    positive = torch.where(is_positive, similarity, 0.0).sum((2, 3))
    if detach == "negatives":
        similarity = torch.where(is_positive, similarity, cosines(z_BKHW, detach_columns=True) / temperature)
    contrasted = torch.where(is_positive | is_negative, similarity, -torch.inf)
    return torch.where(is_anchor_BK, contrasted.flatten(2).logsumexp(2) - positive, 0.0), is_anchor_BK


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveVariance(AbstractMethod):
    """Terms "partial_cross_entropy", "contrastive" and "total_variation", where their weights are not 0."""

    paper: ClassVar[str] = PAPER
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True
    smallest_batch: ClassVar[int] = 2

    contrastive_weight: float = hp(
        0.3, FloatRange(1e-4, 1.0, log=True), off=0.0, source=WEIGHTS, unit="1/nat"
    )
    contrastive_temperature: float = hp(0.07, FloatRange(0.02, 0.3, log=True), source=PAPER, unit="cosine")
    total_variation_weight: float = hp(
        1e-5, FloatRange(1e-7, 1e-3, log=True), off=0.0, source=PAPER, unit="1/pixel side"
    )
    background: str = hp(
        "both", Choice(("both", "negative_only", "none")), source=f"{PAPER} eq. 6", search=False
    )
    absent: str = hp(
        "exclude", Choice(("exclude", "include")), source=f"derived; {PAPER} eq. 8 includes", search=False
    )
    negatives: str = hp(
        "published",
        Choice(("published", "with_same_image", "with_same_class")),
        source=f"{PAPER} eq. 8",
        search=False,
    )
    detach: str = hp("none", Choice(("none", "centroid", "negatives")), source=f"{PAPER} eq. 6", search=False)
    reduction: str = hp("mean", Choice(("mean", "sum")), source=f"derived; {PAPER} eq. 6 sums", search=False)

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del state, progress
        logits = net(batch.image_BCHW).logits_BKHW
        p_BKHW = terms.probabilities(logits)
        count = terms.labelled(batch.labels_BHW).sum() if self.reduction == "sum" else 1
        parts: Terms = {
            "partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW) * count
        }
        if self.contrastive_weight:
            parts["contrastive"] = self._contrastive(p_BKHW, batch)
        if self.total_variation_weight:
            length_BK = terms.total_variation(p_BKHW)
            parts["total_variation"] = length_BK.mean() if self.reduction == "mean" else length_BK.sum()
        return terms.weighted_total(
            parts,
            {
                "partial_cross_entropy": 1.0,
                "contrastive": self.contrastive_weight,
                "total_variation": self.total_variation_weight,
            },
        )

    def _contrastive(self, p_BKHW: terms.Probabilities, batch: Batch) -> Float[Tensor, ""]:
        present_BK = present_classes(batch, p_BKHW.shape[1])
        nat_BK, is_anchor_BK = contrastive_variance(
            p_BKHW,
            batch.image_BCHW,
            present_BK,
            draw_positives(present_BK),
            temperature=self.contrastive_temperature,
            background=self.background,
            absent=self.absent,
            negatives=self.negatives,
            detach=self.detach,
        )
        return terms.masked_mean(nat_BK, is_anchor_BK) if self.reduction == "mean" else nat_BK.sum()

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
