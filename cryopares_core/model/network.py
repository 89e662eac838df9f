"""The whole network: pictures to the coefficients of the pose's density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.convolutions import S2Convolution, SO3Activation, SO3Convolution
from cryopares_core.model.density import PoseDensity
from cryopares_core.model.encoder import make_encoder
from cryopares_core.model.projector import ImageToSphere


class PoseNetwork(nn.Module):
    """Encoder -> sphere -> S2 convolution -> activation -> SO(3) convolution -> density.

    Parameters
    ----------
    settings : the schema's `models.image2sphere`
    symmetry : the point group's name
    image_size_px : side of the pictures, which are square
    in_channels : 1, or 2 for raw and phase-flipped pictures together
    """

    def __init__(self, settings: Any, symmetry: str, image_size_px: int, in_channels: int = 1):
        super().__init__()
        self.in_channels = in_channels
        parts, lmax = settings.so3components, settings.lmax
        encoder = make_encoder(settings.imageencoder, in_channels, image_size_px)
        # Processors and GPUs convolve channel vectors that lie together.
        self.encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.projector = ImageToSphere(
            image_size_px,
            self.encoder.output_stride,
            lmax,
            parts.i2sprojector.hp_order,
            parts.i2sprojector.rand_fraction_points_to_project,
        )
        features, spheres = encoder.out_channels, parts.i2sprojector.sphere_fdim
        self.s2conv = S2Convolution(lmax, features, spheres, parts.s2conv.f_out, parts.s2conv.hp_order)
        self.activation = SO3Activation(lmax)
        self.so3conv = SO3Convolution(lmax, parts.s2conv.f_out)
        self.density = PoseDensity(
            lmax,
            parts.so3outputgrid.hp_order,
            point_group(symmetry),
            settings.label_sigma_degs,
            settings.label_smoothing,
        )

    def forward(self, images: Tensor) -> Tensor:
        """Masked pictures `(b, in_channels, n, n)` -> symmetrised coefficients `(n_coefficients, b)`, float32."""
        sphere = self.projector(self.encoder(images.contiguous(memory_format=torch.channels_last)))
        with torch.autocast(images.device.type, enabled=False):
            coefficients = self.so3conv(self.activation(self.s2conv(sphere.float())))
            return self.density.symmetrise(coefficients)

    def scores(self, images: Tensor, eulers_degs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients `(n_coefficients, b)`, values on the output grid `(points, b)`, and each picture's loss `(b,)`.

        `eulers_degs`: `(b, 3)` true angles in degrees.
        """
        coefficients = self(images)
        with torch.autocast(images.device.type, enabled=False):
            values = self.density.grid_values(coefficients)
            return coefficients, values, self.density.loss(coefficients, values, eulers_degs)
