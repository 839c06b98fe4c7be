"""The contract that every method signs, the batch that it is given, and the legend of shape letters.

Shape letters, the same in every file of this package:
N = images of a data set, B = images in a batch, C = image channels, K = classes with background at 0,
H, W = pixels, V = H * W, D = feature channels.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

IGNORE = 255
"""The label of a pixel that nobody annotated."""

IMAGES, LABELLED, UNLABELLED = "images", "labelled pixels", "unlabelled pixels"
"""What a term of a loss may be the mean over, all of the batch."""

Scalar = Float[Tensor, ""]
Terms = dict[str, Scalar]
State = nn.Module
"""What a method owns beside the network (a reconstruction head, a teacher); an empty module when nothing.
Its parameters with `requires_grad` are optimised together with the network's."""


class Output(NamedTuple):
    """What every network of `trainables.networks` returns."""

    logits_BKHW: Float[Tensor, "B K H W"]
    features_BDHW: Float[Tensor, "B D H W"]
    """Last decoder features, at full resolution: where an extra head may be put."""
    bottleneck: Float[Tensor, "B E h w"]
    """Deepest encoder features."""
    stages: tuple[Float[Tensor, "B _ _ _"], ...] = ()
    """All encoder features, each half as large as the one before, the bottleneck last; as the encoder left
    them: the first may be larger than the image by the padding at its lower and right edge."""


class Network(nn.Module):
    """A segmentation network: image [B,C,H,W] -> Output. Subclasses set the counts."""

    num_classes: int
    feature_channels: int
    bottleneck_channels: int
    stage_channels: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Images and what their annotation grants: a method cannot see more than was paid for."""

    image_BCHW: Float[Tensor, "B C H W"]
    """Intensities in [0, 1]."""
    labels_BHW: Int[Tensor, "B H W"]
    """Class index, or IGNORE where nobody annotated; the full mask only under dense annotation."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """By name (see `trainables.annotations.STATISTICS`), float32; NaN where undefined."""
    volume_B: Int[Tensor, " B"] | None = None
    """Index of each image's volume within the batch, 0 .. number of volumes - 1."""
    pixel_mm_B: Float[Tensor, " B"] | None = None
    """Side of each image's pixels in mm; there when a statistic in mm is."""


class AbstractMethod(abc.ABC):
    """A weak-supervision method: hyper-parameters in (`hp` fields), named loss terms out."""

    paper: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    """Of "pixels", "dense", "statistics": what the annotation of an arm must hold for this method."""
    learns_from_unlabelled: ClassVar[bool]
    """Whether an image without a labelled pixel teaches it anything; if not, none is drawn."""
    smallest_batch: ClassVar[int] = 1
    """Images that a batch must hold for the loss to be what its formula says."""

    @abc.abstractmethod
    def init(self, net: Network) -> State:
        """The modules that the method trains or keeps beside the network."""

    @abc.abstractmethod
    def losses(self, net: Network, batch: Batch, state: State, progress: float) -> Terms:
        """Named float32 scalars; "total" is minimised. `progress` is the trained fraction, in [0, 1]."""

    def means_over(self) -> Mapping[str, str]:
        """For every weighed term what it is the mean over: IMAGES, LABELLED or UNLABELLED.

        Then `trainables.micro_batches` may compute the loss part by part. Empty where one of them is no such
        mean: it compares images, is a ratio of sums over the batch (Dice), or draws at random.
        """
        return {}

    @abc.abstractmethod
    def after_step(self, net: Network, state: State, progress: float) -> None:
        """Runs once the optimiser has stepped (an EMA update, say)."""
