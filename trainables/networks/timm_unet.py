"""A U-Net decoder on any timm encoder, through segmentation-models-pytorch; random weights unless asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from search_spaces import Int, UserError, hp, nearest
from trainables.method import Network, Output

DECODER = (256, 128, 64, 32, 16)
"""Channels of the decoder's stages, from the smallest image to the full one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of the network `timm_unet`."""

    encoder: str = hp("resnet18", source="Barucic and Kybic 2022: a ResNet encoder", unit="timm model name")
    depth: int = hp(5, Int(1, 5), source="all stages of an encoder", unit="halvings of the image")
    pretrained: bool = hp(False, source="random weights: no download, no licence of the weights' data")

    def build(self, num_classes: int, *, image_channels: int = 1) -> Network:
        import timm

        known = timm.list_models()
        if self.encoder not in known:
            raise UserError(
                f"timm has no encoder {self.encoder!r}.{nearest(self.encoder, known)} "
                "`python -c 'import timm; print(timm.list_models())'` lists them."
            )
        return TimmUNet(num_classes, self.encoder, self.depth, self.pretrained, image_channels)


@final
class TimmUNet(Network):
    """Image [B,C,H,W] -> Output with logits [B,K,H,W], features [B,16,H,W].

    Images are padded to a multiple of 2 ** depth.
    """

    def __init__(
        self, num_classes: int, encoder: str, depth: int, pretrained: bool, image_channels: int
    ) -> None:
        super().__init__()
        import segmentation_models_pytorch as smp

        self.model: Any = smp.Unet(
            encoder_name=f"tu-{encoder}",
            encoder_depth=depth,
            decoder_channels=DECODER[-depth:],
            encoder_weights="imagenet" if pretrained else None,
            in_channels=image_channels,
            classes=num_classes,
        )
        self.num_classes = num_classes
        self.stride = 2**depth
        self.feature_channels = self.model.segmentation_head[0].in_channels
        self.stage_channels = tuple(self.model.encoder.out_channels)  # the first is the image
        self.bottleneck_channels = self.stage_channels[-1]

    def forward(self, image_BCHW: Float[Tensor, "B C H W"]) -> Output:
        height, width = image_BCHW.shape[-2:]
        x = F.pad(image_BCHW, (0, -width % self.stride, 0, -height % self.stride), mode="replicate")
        stages = self.model.encoder(x)
        features = self.model.decoder(stages)
        logits = self.model.segmentation_head(features)
        return Output(logits[..., :height, :width], features[..., :height, :width], stages[-1], tuple(stages))
