"""The shape of most methods for clicks and scribbles: partial cross-entropy, and weighted terms beside it."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import nn

from trainables import terms
from trainables.method import AbstractMethod, Batch, Network, State, Terms

Weighted = tuple[Terms, dict[str, float]]
"""Named terms, and the weight of each."""


class AbstractRegulariser(AbstractMethod):
    """Term "partial_cross_entropy" with weight 1, and those of `regularise`. Keeps nothing of its own."""

    needs: ClassVar[frozenset[str]] = frozenset({"pixels"})

    @abc.abstractmethod
    def regularise(self, logits_BKHW: terms.Logits, batch: Batch, progress: float) -> Weighted:
        """The further terms whose weights are not switched off, and their weights at this progress."""

    def init(self, net: Network) -> State:
        del net
        return nn.Module()

    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        del state
        logits_BKHW = net(batch.image_BCHW).logits_BKHW
        labelled = {"partial_cross_entropy": terms.partial_cross_entropy(logits_BKHW, batch.labels_BHW)}
        parts, weights = self.regularise(logits_BKHW, batch, progress)
        return terms.weighted_total(labelled | parts, {"partial_cross_entropy": 1.0, **weights})

    def after_step(self, net: Network, state: State, progress: float) -> None:
        del net, state, progress
