"""Data augmentation of whole batches on the device, with the pose following the picture.

All operations that move pixels are composed into one map from output to input coordinates and one resampling.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GEOMETRIC = ("inPlaneRotations90", "inPlaneRotations", "inPlaneShifts", "sizePerturbation", "randomElastic")
OPERATIONS = (*GEOMETRIC, "gaussianBlur", "erasing", "randomGaussNoise", "randomUnifNoise")


class Augmenter:
    """Draws operations for each picture of a batch and applies them.

    Parameters
    ----------
    settings : the schema's `datamanager.augmenter`
    """

    def __init__(self, settings: Any):
        self.settings, self.operations = settings, settings.operations

    def __call__(self, images: Tensor, eulers_degs: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures `(b, c, n, n)`, background 0 ± 1, and `(b, 3)` angles -> the same, augmented; inputs stay as they are."""
        chosen = self._draw(len(images), images.device)
        images, turn_degs = self._move(images, chosen)
        images = self._blur(images, chosen["gaussianBlur"])
        images = self._erase(images, chosen["erasing"])
        images = self._add_noise(images, chosen)
        turned = eulers_degs.clone()
        turned[:, 2] += turn_degs.to(eulers_degs.dtype)
        return images, turned

    def _draw(self, count: int, device: torch.device) -> dict[str, Tensor]:
        """For each operation which pictures get it, `(b,)` bool: each with its p, then cut or filled to the limits."""
        p = torch.tensor([getattr(self.operations, name).p for name in OPERATIONS], device=device)
        score = torch.rand(count, len(OPERATIONS), device=device)
        wanted = score < p
        fewest, most = self.settings.min_n_augm_per_img, self.settings.max_n_augm_per_img
        number = wanted.sum(dim=1).clamp(fewest, most)
        # Wanted ones first, in random order; those with p = 0 never.
        priority = wanted * 2.0 + torch.rand_like(score)
        rank = priority.masked_fill(p == 0, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
        any_at_all = torch.rand(count, 1, device=device) < self.settings.prob_augment_each_image
        applied = (rank < number[:, None]) & (p > 0) & any_at_all
        return dict(zip(OPERATIONS, applied.unbind(dim=1), strict=True))

    def _move(self, images: Tensor, chosen: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One resampling for turns, shifts, scale and bending; returns the turn in degrees, `(b,)`."""
        count, size, device = len(images), images.shape[-1], images.device
        quarter = torch.randint(1, 4, (count,), device=device) * 90.0 * chosen["inPlaneRotations90"]
        small = _symmetric(count, device=device) * self.operations.inPlaneRotations.max_angle_degs
        turn_degs = quarter + small * chosen["inPlaneRotations"]
        scale = 1 + _symmetric(count, device=device) * self.operations.sizePerturbation.max_change * chosen["sizePerturbation"]
        # Grid coordinates run from -1 to 1: a shift by a fraction of the box is twice that.
        shift = _symmetric(count, 2, device=device) * (2 * self.operations.inPlaneShifts.max_shift)
        affine = _turn_about_centre(turn_degs, scale, shift * chosen["inPlaneShifts"][:, None], size)
        grid = F.affine_grid(affine, [count, 1, size, size], align_corners=False)
        if bool(chosen["randomElastic"].any()):
            grid = grid + self._bend(count, size, device) * chosen["randomElastic"][:, None, None, None]
        return F.grid_sample(images, grid, mode="bilinear", align_corners=False), turn_degs

    def _bend(self, count: int, size: int, device: torch.device) -> Tensor:
        """A smooth random displacement `(b, n, n, 2)` in grid units, with a node each `smoothness` of the box."""
        settings = self.operations.randomElastic
        nodes = max(2, round(1 / settings.smoothness) + 1)
        field = _symmetric(count, 2, nodes, nodes, device=device) * (2 * settings.max_shift_px / size)
        return F.interpolate(field, (size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)

    def _blur(self, images: Tensor, chosen: Tensor) -> Tensor:
        """A Gaussian of random width, in Fourier space."""
        if not bool(chosen.any()):
            return images
        size = images.shape[-1]
        sigma = torch.rand(int(chosen.sum()), device=images.device) * self.operations.gaussianBlur.max_sigma_px
        frequency = torch.fft.fftfreq(size, device=images.device)
        square = frequency[:, None] ** 2 + torch.fft.rfftfreq(size, device=images.device) ** 2
        damping = torch.exp(-2 * math.pi**2 * sigma[:, None, None, None] ** 2 * square)
        blurred = images.clone()
        blurred[chosen] = torch.fft.irfft2(torch.fft.rfft2(images[chosen]) * damping, s=(size, size))
        return blurred

    def _erase(self, images: Tensor, chosen: Tensor) -> Tensor:
        """A rectangle set to 0, the background's mean."""
        count, size, device = len(images), images.shape[-1], images.device
        side = torch.rand(count, 2, 1, device=device) * self.operations.erasing.max_side * size
        start = torch.rand(count, 2, 1, device=device) * (size - side)
        place = torch.arange(size, device=device)
        inside = (place >= start) & (place < start + side)
        hole = inside[:, 0, :, None] & inside[:, 1, None, :] & chosen[:, None, None]
        return images.masked_fill(hole[:, None], 0.0)

    def _add_noise(self, images: Tensor, chosen: dict[str, Tensor]) -> Tensor:
        gauss = torch.rand(len(images), device=images.device) * self.operations.randomGaussNoise.max_std
        uniform = torch.rand(len(images), device=images.device) * self.operations.randomUnifNoise.max_amplitude
        gauss, uniform = gauss * chosen["randomGaussNoise"], uniform * chosen["randomUnifNoise"]
        images = images + torch.randn_like(images) * gauss[:, None, None, None]
        return images + (torch.rand_like(images) * 2 - 1) * uniform[:, None, None, None]


def _symmetric(*shape: int, device: torch.device) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(*shape, device=device) * 2 - 1


def _turn_about_centre(turn_degs: Tensor, scale: Tensor, shift: Tensor, size: int) -> Tensor:
    """Output to input coordinates `(b, 2, 3)` for a turn and scaling about pixel `N // 2` and then a shift.

    A turn by theta this way makes the projection at `psi` the one at `psi + theta`.
    """
    angle = torch.deg2rad(turn_degs)
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    matrix = torch.stack((torch.stack((cos, -sin), dim=-1), torch.stack((sin, cos), dim=-1)), dim=-2)
    # affine_grid's origin lies between pixels: pixel N // 2 has the coordinate 1 / N (even N) or 0 (odd N).
    centre = torch.full((2,), (2 * (size // 2) + 1) / size - 1, device=turn_degs.device)
    return torch.cat((matrix, (centre - matrix @ centre + shift)[..., None]), dim=-1)
