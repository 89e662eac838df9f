"""Data augmentation of whole batches on the device, with the pose following the picture.

All operations that move pixels are composed into one map from output to input coordinates and one resampling. Each of the
others works on the pictures that it was drawn for alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cryopares_core.particles.draws import Draws, draw


class Augmenter:
    """Draws operations for each picture of a batch and applies them.

    Parameters
    ----------
    settings : the schema's `datamanager.augmenter`
    """

    def __init__(self, settings: Any):
        self.settings = settings

    def __call__(self, images: Tensor, eulers_degs: Tensor, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """Pictures `(b, c, n, n)`, background 0 ± 1, and `(b, 3)` angles -> the same, augmented; inputs stay as they are.

        `progress` is 0 at the training's start and 1 at its end. All random numbers are torch's own: the device's generator
        gives the noise, that of the CPU everything else.
        """
        return augment(images, eulers_degs, draw(self.settings, len(images), images.shape[-1], progress))


def augment(images: Tensor, eulers_degs: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Pictures `(b, c, n, n)` and angles `(b, 3)` after all operations that were drawn. Nothing waits for the device."""
    moved = move(images, draws)
    for operation in (blur, erase, add_gaussian_noise, add_uniform_noise):
        operation(moved, draws)
    turned = eulers_degs.clone()
    turned[:, 2] += _sent(draws.turn_degs, eulers_degs)
    return moved, turned


def move(images: Tensor, draws: Draws) -> Tensor:
    """Turns, shifts, scale and bending in one bilinear resampling; what comes from outside of the picture is 0.

    A turn by theta about pixel `n // 2` makes the projection at psi the one at psi + theta.
    """
    grid = _source_px(images.shape[-1], draws, images)
    # grid_sample's coordinates run from -1 to 1, from the outer edge of the first pixel to that of the last.
    grid.add_(images.shape[-1] // 2 + 0.5).mul_(2 / images.shape[-1]).sub_(1)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


def _source_px(size: int, draws: Draws, like: Tensor) -> Tensor:
    """Where each output pixel comes from, `(b, n, n, 2)` xy, in pixels from the centre `n // 2`."""
    angle = torch.deg2rad(draws.turn_degs)
    cos, sin = torch.cos(angle) / draws.scale, torch.sin(angle) / draws.scale
    matrix = torch.stack((torch.stack((cos, -sin), dim=-1), torch.stack((sin, cos), dim=-1)), dim=-2)
    offset = -(matrix @ draws.shift_px[..., None])[:, None, :, 0]
    axis = (torch.arange(size) - size // 2)[:, None]
    columns, rows = matrix[:, None, :, 0] * axis, matrix[:, None, :, 1] * axis + offset
    # The map is a sum of what the column and what the row gives; affine_grid takes four times as long.
    source = _sent(columns, like)[:, None, :] + _sent(rows, like)[:, :, None]
    which = draws.which("randomElastic")
    if len(which):
        source[_sent(which, like)] += _bend(_sent(draws.bend_px[which], like), size)
    return source


def _bend(nodes: Tensor, size: int) -> Tensor:
    """Displacements on nodes `(k, 2, m, m)` -> for every pixel `(k, n, n, 2)`, bicubic."""
    count = nodes.shape[-1]
    one_by_one = torch.eye(count, device=nodes.device)[None, None]
    basis = F.interpolate(one_by_one, (size, count), mode="bicubic", align_corners=True)[0, 0]
    # Bicubic interpolation is one along the rows and then one along the columns: two small products.
    return (basis @ nodes @ basis.T).permute(0, 2, 3, 1)


def blur(images: Tensor, draws: Draws) -> None:
    """Gaussians of the widths drawn, in Fourier space; changes `images`."""
    which, size = draws.which("gaussianBlur"), images.shape[-1]
    if not len(which):
        return
    places, sigma = _sent(which, images), _sent(draws.blur_px[which], images)[:, None, None, None]
    rows, columns = torch.fft.fftfreq(size, device=images.device), torch.fft.rfftfreq(size, device=images.device)
    damping_rows, damping_columns = (torch.exp(-2 * (math.pi * sigma * axis) ** 2) for axis in (rows, columns))
    spectra = torch.fft.rfft2(images[places]).mul_(damping_rows.transpose(2, 3)).mul_(damping_columns)
    images[places] = torch.fft.irfft2(spectra, s=(size, size))


def erase(images: Tensor, draws: Draws) -> None:
    """Sets the rectangles drawn to 0, the background's mean; changes `images`."""
    for place in draws.which("erasing").tolist():
        (top, bottom), (left, right) = draws.hole_px[place].tolist()
        images[place, :, top:bottom, left:right] = 0.0


def add_gaussian_noise(images: Tensor, draws: Draws) -> None:
    """Adds normal noise of the deviations drawn; changes `images`."""
    which = draws.which("randomGaussNoise")
    if len(which):
        std = _sent(draws.gauss_std[which], images)[:, None, None, None]
        noise = torch.randn(len(which), *images.shape[1:], dtype=images.dtype, device=images.device)
        images[_sent(which, images)] += noise.mul_(std)


def add_uniform_noise(images: Tensor, draws: Draws) -> None:
    """Adds noise between minus and plus the amplitudes drawn; changes `images`."""
    which = draws.which("randomUnifNoise")
    if len(which):
        amplitude = _sent(draws.unif_amplitude[which], images)[:, None, None, None]
        noise = torch.rand(len(which), *images.shape[1:], dtype=images.dtype, device=images.device)
        images[_sent(which, images)] += noise.mul_(2).sub_(1).mul_(amplitude)


def _sent(values: Tensor, like: Tensor) -> Tensor:
    """Numbers of the CPU on the device of `like`, without waiting for what it still has to do."""
    return values.to(like.device, non_blocking=True)
