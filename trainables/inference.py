"""From images to class ids: the one way in which training validates, tests, and exported models predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from search_spaces import UserError
from trainables import failures
from trainables.data.dataset import resize_ids, resize_intensities
from trainables.method import Network

BATCH = 64
"""Images that are predicted at once."""

LARGEST_BATCH_PIXELS = BATCH * 256 * 256
"""Fewer images at once where they are large: a network's features take some hundred times their memory."""


def reduces(precision: str, device: torch.device) -> bool:
    """Whether a network computes in bfloat16 there: the protocol's precision "auto" on a GPU that has it."""
    return precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()


def layout_for(device: torch.device) -> torch.memory_format:
    """NHWC is what tensor cores take without a transpose; on CPUs it was measured to gain nothing here."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


@torch.no_grad()
def classify(net: Network, image_BCHW: Tensor, *, edge_filter: int, reduced: bool) -> np.ndarray:
    """Class ids uint8 [B,H,W] of intensities in [0, 1]; the network is in evaluation mode already.

    edge_filter: columns of 256 at each side that are background, see `trainables.protocol`.
    """
    with torch.autocast(image_BCHW.device.type, dtype=torch.bfloat16, enabled=reduced):
        logits = net(image_BCHW).logits_BKHW
    classes: np.ndarray = logits.argmax(1).to(torch.uint8).cpu().numpy()
    columns = round(edge_filter * classes.shape[2] / 256)
    classes[:, :, :columns] = classes[:, :, classes.shape[2] - columns :] = 0
    return classes


class Predictor:
    """A trained network that takes slices as a data set stores them, of any sizes.

    Args:
        size: (height, width) that images are resized to before the network; None leaves them.
        batch: images at once; None decides by their size.
    """

    def __init__(
        self,
        net: Network,
        device: torch.device,
        *,
        size: tuple[int, int] | None = None,
        edge_filter: int = 0,
        precision: str = "auto",
        batch: int | None = None,
    ) -> None:
        self.device, self.size, self.edge_filter, self.most = device, size, edge_filter, batch
        self.layout = layout_for(device)
        self.net = net.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]
        self.net.eval()
        self.reduced = reduces(precision, device)

    def masks(self, images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Class ids uint8 [H,W] of each image (uint8 [H,W]), at its own size.

        Raises UserError when the memory of the device does not suffice.
        """
        for batch in self._batches(images):
            shape = batch[0].shape if self.size is None else self.size
            resized = np.stack([resize_intensities(image_HW, shape) for image_HW in batch])
            for ids_HW, image_HW in zip(self._classes(resized), batch, strict=True):
                yield resize_ids(ids_HW, image_HW.shape)

    def _batches(self, images: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
        """Neighbours that the network can take together."""
        batch: list[np.ndarray] = []
        for image_HW in images:
            other = batch and self.size is None and image_HW.shape != batch[0].shape
            if batch and (other or len(batch) == self._room(batch[0])):
                yield batch
                batch = []
            batch.append(image_HW)
        if batch:
            yield batch

    def _room(self, image_HW: np.ndarray) -> int:
        height, width = image_HW.shape if self.size is None else self.size
        return self.most or max(1, min(BATCH, LARGEST_BATCH_PIXELS // (height * width)))

    def _classes(self, images_NHW: np.ndarray) -> np.ndarray:
        image = (torch.from_numpy(images_NHW).to(self.device)[:, None].float() / 255).contiguous(
            memory_format=self.layout
        )
        try:
            return classify(self.net, image, edge_filter=self.edge_filter, reduced=self.reduced)
        except RuntimeError as error:
            if failures.classify(error) != failures.OUT_OF_MEMORY:
                raise
            raise UserError(
                f"The memory does not suffice for {len(images_NHW)} images of {images_NHW.shape[1]} x "
                f"{images_NHW.shape[2]} at once on {self.device}; lower --batch-size."
            ) from error
