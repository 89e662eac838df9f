"""The image encoder that the settings name."""

from __future__ import annotations

from typing import Any

from cryopares_core.model.resnet import ResNetEncoder, auto_output_stride
from cryopares_core.model.unet import UNetEncoder


def make_encoder(settings: Any, in_channels: int, image_size_px: int) -> ResNetEncoder | UNetEncoder:
    """A module from pictures to feature maps that knows its `out_channels` and `output_stride`.

    `settings`: the schema's `imageencoder`.
    """
    resnet = settings.resnet
    if resnet.resnetName is None:
        return UNetEncoder(in_channels, image_size_px, settings.unet.width)
    return ResNetEncoder(resnet.resnetName, in_channels, resnet.output_stride or auto_output_stride(image_size_px))
