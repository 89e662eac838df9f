"""A U-Net encoder (Ronneberger et al. 2015, arXiv:1505.04597) made for poses: small strides, and the whole picture in view.

A pose needs both: where small things are, and what the picture shows as a whole. The way down halves the map until it is a few
pixels wide, the way up brings what was found there back to a map fine enough for the sphere. Channels double as pixels
become a quarter, so that every level costs about the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cryopares_core.model.resnet import ResidualBlock, initialise_convolutions

SMALLEST_MAP_PX = 4  # the way down ends before a map gets narrower
OUTPUT_MAP_PX = 16  # the output's map is at least this wide, if that leaves a stride of 4 or more
MOST_CHANNELS = 512


class UNetEncoder(nn.Module):
    """Pictures `(b, in_channels, n, n)` to feature maps `(b, out_channels, h, h)`, `h = ceil(n / output_stride)`.

    Feature (i, j) is centred on pixel (i, j) * output_stride.

    Parameters
    ----------
    image_size_px : side n of the pictures, which sets the depth
    width : channels at half the picture's resolution
    """

    def __init__(self, in_channels: int, image_size_px: int, width: int):
        super().__init__()
        sizes = _map_sizes(image_size_px)
        widths = [min(width * 2**level, MOST_CHANNELS) for level in range(len(sizes))]
        self.top = max((level for level in range(1, len(sizes)) if sizes[level] >= OUTPUT_MAP_PX), default=1)
        self.output_stride = 2 ** (self.top + 1)
        self.stem = nn.Conv2d(in_channels, width, 5, 2, 2, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.down = nn.ModuleList()
        for level, channels in enumerate(widths):
            before = widths[max(0, level - 1)]
            blocks = [ResidualBlock(before, channels, 2 if level else 1, bottleneck=False)]
            if level:
                blocks.append(ResidualBlock(channels, channels, 1, bottleneck=False))
            self.down.append(nn.Sequential(*blocks))
        self.up = nn.ModuleList(_Up(widths[level + 1], widths[level]) for level in range(len(widths) - 2, self.top - 1, -1))
        self.out_channels = widths[self.top]
        initialise_convolutions(self)
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                nn.init.zeros_(module.get_submodule("bn2").weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        maps = []
        for blocks in self.down:
            x = blocks(x)
            maps.append(x)
        for level, up in zip(range(len(maps) - 2, -1, -1), self.up, strict=False):
            x = up(x, maps[level])
        return x


class _Up(nn.Module):
    """A coarse map brought to the next finer one and joined with what the way down found there."""

    def __init__(self, coarse_channels: int, channels: int):
        super().__init__()
        self.coarse = nn.Conv2d(coarse_channels, channels, 1, bias=False)
        self.fine = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.block = ResidualBlock(channels, channels, 1, bottleneck=False)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        joined = _finer(self.coarse(coarse), fine.shape[-1]) + self.fine(fine)
        return self.block(torch.relu(self.norm(joined)))


def _finer(x: Tensor, size: int) -> Tensor:
    """A map with twice the sampling, `size` wide: pixel 2i is pixel i, those between are means, the last may be a copy."""
    for axis in (-2, -1):
        count = x.shape[axis]
        following = torch.cat((x.narrow(axis, 1, count - 1), x.narrow(axis, count - 1, 1)), dim=axis)
        x = torch.stack((x, (x + following) / 2), dim=axis).flatten(axis - 1, axis)
        x = x.narrow(axis, 0, size)
    return x


def _map_sizes(image_size_px: int) -> list[int]:
    """Sides of the maps on the way down: half the picture, and so on."""
    sizes = [-(-image_size_px // 2)]
    while -(-sizes[-1] // 2) >= SMALLEST_MAP_PX or len(sizes) < 3:
        sizes.append(-(-sizes[-1] // 2))
    return sizes
