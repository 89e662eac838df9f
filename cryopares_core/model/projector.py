"""Feature maps to spherical harmonics: the picture's disc is seen as the front half of a sphere, looked at from far away."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cryopares_core.geometry.grids import healpix_directions
from cryopares_core.geometry.wigner import spherical_harmonics

TAPER_START = 0.85  # of the radius: beyond it the weights fall to zero as a cosine, so that no edge turns into high degrees


class ImageToSphere(nn.Module):
    """Orthographic projection of a feature map on the half sphere, then its spherical harmonics.

    The pixel at offset (x, y) from the picture's centre, pixel `N // 2`, stands for the direction `(x, y, sqrt(1-x^2-y^2))` in
    the view's frame, in units of half the picture. A turn of the picture is then a turn of the sphere about z, just as
    it is a factor `Rz` on the left of the pose. Features are sampled at HEALPix directions with a Gaussian kernel of
    learned width, a random fraction of them in training.
    """

    kernel_distance: Tensor
    taper: Tensor
    harmonics: Tensor
    log_width: nn.Parameter

    def __init__(self, image_size_px: int, stride: int, lmax: int, hp_order: int, rand_fraction: float):
        """`stride`: picture pixels per pixel of the feature map; feature (i, j) is centred on pixel (i, j) * stride."""
        super().__init__()
        self.rand_fraction = rand_fraction
        points = healpix_directions(hp_order)
        points = points[points[:, 2] > 1e-6].float()
        offset = (torch.arange(0, image_size_px, stride) - image_size_px // 2) * (2 / image_size_px)
        pixels = torch.stack(torch.meshgrid(offset, offset, indexing="ij")[::-1], dim=-1).view(-1, 2)
        # Squared distances in units of the map's pixels.
        distance = torch.cdist(points[:, :2], pixels).square() * (image_size_px / (2 * stride)) ** 2
        # The first row and column of an even picture have no mates on the other side: with them the sampling would not turn.
        distance = distance.masked_fill((pixels < -1 + 1e-6).any(dim=-1), 1e4)
        radius = points[:, :2].norm(dim=-1)
        fade = ((radius - TAPER_START) / (1 - TAPER_START)).clamp(0, 1)
        self.register_buffer("kernel_distance", distance, persistent=False)
        self.register_buffer("taper", 0.5 + 0.5 * torch.cos(math.pi * fade), persistent=False)
        self.register_buffer("harmonics", spherical_harmonics(lmax, points), persistent=False)
        self.log_width = nn.Parameter(torch.tensor(math.log(0.6)))

    def forward(self, features: Tensor) -> Tensor:
        """`(b, c, h, h)` -> harmonics of the sphere's features `((lmax+1)^2, b, c)`."""
        # Channels last, as the encoder leaves them: nothing is copied.
        pixels = features.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.einsum("bpc,pk->kbc", pixels, self._pixels_to_harmonics().to(pixels.dtype))

    def _pixels_to_harmonics(self) -> Tensor:
        """`(pixels, harmonics)`: sampling, taper and spherical harmonics in one matrix; only this depends on the points."""
        distance, taper, harmonics = self.kernel_distance, self.taper, self.harmonics
        if self.training and self.rand_fraction < 1:
            count = max(1, round(self.rand_fraction * len(taper)))
            chosen = torch.randperm(len(taper), device=taper.device)[:count]
            distance, taper, harmonics = distance[chosen], taper[chosen], harmonics[chosen]
        kernel = torch.softmax(-distance / (2 * torch.exp(2 * self.log_width)), dim=1)
        # 1 / sqrt(points): independent features of unit variance give coefficients of unit variance.
        return (kernel * taper[:, None]).T @ harmonics / math.sqrt(len(taper))
