r"""Full supervision: cross-entropy and soft Dice on dense masks. The upper bound of every study.

$$L = (1-w)\,\frac1{|M|}\sum_{r \in M} -\log p_{y(r)}(r)
    + w\Bigl(1 - \frac1K \sum_c \frac{2\sum_r p_c t_c + e}{\sum_r p_c^2 + \sum_r t_c^2 + e}\Bigr)$$

w is `dice_weight`, M the labelled pixels of the batch, t the one-hot label, p the softmax of the
logits, e a small constant (`terms.soft_dice_loss`). The sums of Dice run over M, so that the batch is one
sample; its mean is over all K classes, background included. The cross-entropy is in nat, Dice has no unit.

Source: Dice with squares, Milletari et al. 2016, section 3; its sum with cross-entropy,
HiLab-git/WSL4MIS at a594da8; cross-entropy alone, the upper bound of En and Guo (arXiv:2212.08774).

Departure: a pixel labelled IGNORE (a corner that a rotation filled, say) enters neither term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from search_spaces import Choice, hp
from search_spaces import Float as FloatRange
from trainables import terms
from trainables.method import LABELLED, AbstractMethod, Batch, Network, State, Terms


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class FullSupervision(AbstractMethod):
    """Terms "cross_entropy" and, in the `ce_dice` form, "dice"."""

    paper: ClassVar[str] = "arXiv:1606.04797"
    needs: ClassVar[frozenset[str]] = frozenset({"dense"})
    learns_from_unlabelled: ClassVar[bool] = False

    loss: str = hp("ce_dice", Choice(("ce", "ce_dice")), source="WSL4MIS a594da8", search=False)
    dice_weight: float = hp(0.5, FloatRange(0.0, 1.0), source="WSL4MIS a594da8", unit="1 (ce_dice only)")

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del state, progress
        logits = net(batch.image_BCHW).logits_BKHW
        ce = terms.partial_cross_entropy(logits, batch.labels_BHW)
        if self.loss == "ce":
            return {"total": ce, "cross_entropy": ce}
        dice = terms.soft_dice_loss(terms.probabilities(logits), batch.labels_BHW)
        weights = {"cross_entropy": 1.0 - self.dice_weight, "dice": self.dice_weight}
        return terms.weighted_total({"cross_entropy": ce, "dice": dice}, weights)

    def means_over(self) -> Mapping[str, str]:
        return {"cross_entropy": LABELLED} if self.loss == "ce" else {}

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
