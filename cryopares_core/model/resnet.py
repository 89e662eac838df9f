"""Residual image encoders (He et al. 2015, arXiv:1512.03385), named and laid out as torchvision's, so that weights fit.

Only the head is missing, the stem takes any number of channels, and the last strides can be left out (`output_stride`): a
picture of 64 pixels would otherwise end as a map of 2 x 2, too coarse to tell directions apart.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

MIN_MAP_PX = 8  # a narrower map is too coarse to tell directions apart
_BLOCKS_PER_STAGE = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}


def auto_output_stride(image_size_px: int) -> int:
    """The largest of 32, 16, 8 and 4 that leaves a feature map at least 8 pixels wide."""
    return next((stride for stride in (32, 16, 8) if image_size_px // stride >= MIN_MAP_PX), 4)


def initialise_convolutions(encoder: nn.Module) -> None:
    """Normal weights by the number of outputs, for rectifiers (He et al. 2015, arXiv:1502.01852)."""
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, or with `bottleneck` 1x1, 3x3, 1x1 with four times the channels."""

    def __init__(self, in_channels: int, channels: int, stride: int, bottleneck: bool):
        super().__init__()
        out_channels = channels * 4 if bottleneck else channels
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        widths = (in_channels, *[channels] * (len(kernels) - 1), out_channels)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        self.depth = len(kernels)
        for i, (kernel, step) in enumerate(zip(kernels, strides, strict=True), start=1):
            conv = nn.Conv2d(widths[i - 1], widths[i], kernel, step, kernel // 2, bias=False)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", nn.BatchNorm2d(widths[i]))
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        for i in range(1, self.depth + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i < self.depth:
                x = torch.relu(x)
        return torch.relu(x + shortcut)


class ResNetEncoder(nn.Module):
    """Pictures `(b, in_channels, h, w)` to feature maps `(b, out_channels, h / output_stride, w / output_stride)`.

    Feature (i, j) is centred on pixel (i, j) * output_stride.
    """

    def __init__(self, name: str, in_channels: int = 1, output_stride: int = 32):
        super().__init__()
        bottleneck = name not in ("resnet18", "resnet34")
        self.output_stride = output_stride
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        width, total_stride = 64, 4
        for stage, count in enumerate(_BLOCKS_PER_STAGE[name]):
            stride = 2 if stage > 0 and total_stride < output_stride else 1
            total_stride *= stride
            channels = 64 * 2**stage
            blocks: list[nn.Module] = []
            for i in range(count):
                blocks.append(ResidualBlock(width, channels, stride if i == 0 else 1, bottleneck))
                width = channels * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.out_channels = width
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        return x
