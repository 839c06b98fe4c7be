r"""Partial cross-entropy: learn from the labelled pixels only. The lower bound of every study.

$$L = \frac{1}{\max(1, |M|)} \sum_{r \in M} -\log p_{y(r)}(r) \quad\text{(nat)}$$

M is the set of labelled pixels of the batch, y(r) the label of pixel r and p the softmax of the logits.
With `class_balanced` each class present in M has the same say: the mean over those classes of
each one's own mean.

Source: Tang et al. 2018, eq. 1 (arXiv:1804.01346); the idea of training on scribbles, Lin et al. 2016.

Departure: the mean over the labelled pixels; En and Guo (arXiv:2212.08774, eq. 2) write the sum.
Departure: a batch without a labelled pixel gives exactly 0 and a zero gradient, where 0/0 would be NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from search_spaces import Choice, hp
from trainables import terms
from trainables.method import LABELLED, AbstractMethod, Batch, Network, State, Terms


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PartialCrossEntropy(AbstractMethod):
    """One term: "partial_cross_entropy"."""

    paper: ClassVar[str] = "arXiv:1804.01346"
    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})
    learns_from_unlabelled: ClassVar[bool] = False

    class_balanced: bool = hp(False, Choice((False, True)), source="arXiv:1804.01346 eq. 1", search=False)

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del state, progress
        loss = terms.class_balanced_cross_entropy if self.class_balanced else terms.partial_cross_entropy
        pce = loss(net(batch.image_BCHW).logits_BKHW, batch.labels_BHW)
        return {"total": pce, "partial_cross_entropy": pce}

    def means_over(self) -> Mapping[str, str]:
        return {} if self.class_balanced else {"partial_cross_entropy": LABELLED}

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
