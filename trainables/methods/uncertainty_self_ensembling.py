r"""A teacher that averages the network's weights says what the unlabelled pixels are, where it is certain.

$$L = L_{pCE} + \lambda\,r(t)\,\frac{1}{\max(1, |M|)} \sum_{r \in M} \frac1K \sum_k
    \bigl(p_k(x)(r) - (T^{-1} p'_k(T x + \epsilon))(r)\bigr)^2$$
$$M = \{r : u(r) < (0.75 + 0.25\,r(t)) \ln K\},\qquad
u = T^{-1} \Bigl(-\sum_k \bar p_k \ln \bar p_k\Bigr),\qquad
\bar p = \frac1n \sum_{i=1}^{n} p'(T x + \epsilon_i)$$

p is the softmax of the network at image x, p' that of the teacher, T a turn by a random multiple of 90
degrees, one a step, and epsilon noise of standard deviation `noise` (intensity) cut at twice that. u is the
entropy, in nat, of the mean of n noisy passes, with dropout; T is undone before anything is compared, so that
no gradient runs through it. L_pCE is the mean cross-entropy over the labelled pixels of the batch in nat, the
other mean is over the certain pixels of the batch and has no unit. r is the sigmoid ramp, in the loss over
the first `ramp_fraction` of the training, in the threshold over the whole of it. The teacher's parameters
follow the network's with `teacher_rate` after each step (`trainables.ema`); it stays in training mode, so
that batches are normalised by themselves, and has no gradient. "certain_share" is |M| over all pixels.

Source: Liu et al. 2022, "Weakly supervised segmentation of COVID19 infection with scribble annotation on CT
images" (Pattern Recognition 122, 108341); the numbers as in HiLab-git/WSL4MIS at a594da8 (read for facts).

Departure: the threshold is a share of ln K, the largest entropy; the source has ln 2 for any K
(`largest_entropy = "log_2"`). The mean is over K classes; the source divides by 2 (`divisor = "two"`). For
K = 2 both are the source.
Departure: an image that is not square is turned by 180 degrees or not at all.
Departure: the ramps move with every step, the source's in the loss with every thousandth.
Departure: without a labelled, or a certain, pixel the term is exactly 0 with a zero gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.ema import RATE, Teacher
from trainables.method import AbstractMethod, Batch, Network, Scalar, State, Terms
from trainables.schedules import sigmoid_ramp

WSL4MIS = "WSL4MIS a594da8"
Probabilities = Float[Tensor, "B K H W"]
PerPixel = Float[Tensor, "B H W"]


def turns(height: int, width: int, device: torch.device) -> Int[Tensor, "G V"]:
    """Gather tables of the turns that keep the shape: by 0, 90, 180 and 270 degrees, or by 0 and 180.

    The inverse of row g is row -g.
    """
    pixels = torch.arange(height * width, device=device).view(height, width)
    quarters = range(4) if height == width else (0, 2)
    return torch.stack([pixels.rot90(q).flatten() for q in quarters])


def gathered(images: Shaped[Tensor, "B *C H W"], table: Int[Tensor, " V"]) -> Shaped[Tensor, "B *C H W"]:
    """Pixel v of the result is pixel table[v]."""
    return images.flatten(-2).index_select(-1, table).view_as(images)


def with_noise(image_BCHW: Float[Tensor, "B C H W"], scale: float) -> Float[Tensor, "B C H W"]:
    """Gaussian noise of that standard deviation, cut at twice that, is added."""
    noise = scale * torch.randn_like(image_BCHW)
    return image_BCHW + noise.clamp(-2.0 * scale, 2.0 * scale)


def predictive_entropy(p_BKHW: Probabilities) -> PerPixel:
    """-sum p ln p in nat, from 0 to ln K; 0 ln 0 is 0. p is the mean of the passes."""
    return torch.special.entr(p_BKHW).sum(1)


def certain_squared_error(
    p_BKHW: Probabilities,
    target_BKHW: Probabilities,
    uncertainty_BHW: PerPixel,
    threshold: float,
    divisor: float,
) -> Scalar:
    """The mean over pixels less uncertain than the threshold of sum_k (p - target)^2 / divisor; 0 of none."""
    error_BHW = (p_BKHW - target_BKHW).square().sum(1) / divisor
    return terms.masked_mean(error_BHW, uncertainty_BHW < threshold)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UncertaintySelfEnsembling(AbstractMethod):
    """Terms "partial_cross_entropy" and "consistency", and the figure "certain_share"."""

    paper: ClassVar[str] = "doi:10.1016/j.patcog.2021.108341"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = True

    consistency_weight: float = hp(1.0, FloatRange(1e-3, 10.0, log=True), off=0.0, source=WSL4MIS, unit="nat")
    ramp_fraction: float = hp(1.0, FloatRange(0.0, 1.0), source=WSL4MIS, unit="fraction of the training")
    teacher_rate: float = hp(
        RATE, FloatRange(1e-4, 3e-2, log=True), source=f"{WSL4MIS}: 1 - 0.99", unit="1/step"
    )
    noise: float = hp(0.1, FloatRange(0.0, 0.3), source=WSL4MIS, unit="intensity", search=False)
    passes: int = hp(8, Choice((1, 2, 4, 8, 16)), source=WSL4MIS, unit="passes of the teacher", search=False)
    largest_entropy: str = hp(
        "log_classes", Choice(("log_classes", "log_2")), source=f"ours; {WSL4MIS} has log_2", search=False
    )
    divisor: str = hp("classes", Choice(("classes", "two")), source=f"ours; {WSL4MIS} has two", search=False)

    def init(self, net: Network) -> State:
        return Teacher(net, self.teacher_rate, evaluates=False)

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        target_BKHW, uncertainty_BHW = self._teach(batch, state)
        logits = net(batch.image_BCHW).logits_BKHW
        k = logits.shape[1]
        largest = math.log(2 if self.largest_entropy == "log_2" else k)
        threshold = (0.75 + 0.25 * sigmoid_ramp(progress)) * largest
        parts = {
            "partial_cross_entropy": terms.partial_cross_entropy(logits, batch.labels_BHW),
            "consistency": certain_squared_error(
                terms.probabilities(logits),
                target_BKHW,
                uncertainty_BHW,
                threshold,
                divisor=2.0 if self.divisor == "two" else float(k),
            ),
        }
        weight = self.consistency_weight * sigmoid_ramp(progress, self.ramp_fraction)
        total = terms.weighted_total(parts, {"partial_cross_entropy": 1.0, "consistency": weight})
        return total | {"certain_share": (uncertainty_BHW < threshold).float().mean()}

    @torch.no_grad()
    def _teach(self, batch: Batch, teacher: State) -> tuple[Probabilities, PerPixel]:
        """The teacher's probabilities after one noisy pass and its uncertainty, both turned back."""
        height, width = batch.image_BCHW.shape[-2:]
        tables = turns(height, width, batch.image_BCHW.device)
        turn = torch.randint(len(tables), (1,), device=tables.device)
        image_BCHW = gathered(batch.image_BCHW, tables.index_select(0, turn)[0])
        back = tables.index_select(0, -turn % len(tables))[0]

        def noisy_pass() -> Probabilities:
            return terms.probabilities(teacher(with_noise(image_BCHW, self.noise)).logits_BKHW)

        target_BKHW, mean_BKHW = noisy_pass(), noisy_pass() / self.passes
        for _ in range(self.passes - 1):
            mean_BKHW = mean_BKHW + noisy_pass() / self.passes
        return gathered(target_BKHW, back), gathered(predictive_entropy(mean_BKHW), back)

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del progress
        assert isinstance(state, Teacher)
        state.update(net)
