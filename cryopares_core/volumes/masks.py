"""Masks of maps: soft spheres, and masks from files."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.volumes.maps import HEADER_REMEDY, read_map

EDGE_PX = 6.0
CORNER_EDGE_PX = 3.0
TOLERANCE = 0.01  # of a mask's values, and of its pixel size


def soft_sphere(size: int, radius_px: float | None = None, edge_px: float = EDGE_PX, device: torch.device | str = "cpu") -> Tensor:
    """A ball about voxel `n // 2`, `(n, n, n)` float32: 1 up to `radius_px`, a cosine to 0 over the edge beyond it.

    By default it is the largest ball whose edge fits into the box.
    """
    radius = size / 2 - edge_px if radius_px is None else radius_px
    axis = (torch.arange(size, device=device) - size // 2).float()
    distance = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return 0.5 * (1 + torch.cos(math.pi * ((distance - radius) / edge_px).clamp(0, 1)))


def without_corners(volume: Tensor) -> Tensor:
    """A map `(n, n, n)` cut, with a soft edge, to the sphere that touches the box's faces; beyond it, the mean of what lay there.

    RELION cuts its maps alike. Few images show the corners, and their noise would weigh in whatever is done without a mask.
    """
    inside = soft_sphere(len(volume), len(volume) / 2, CORNER_EDGE_PX, volume.device)
    outside = 1 - inside
    return torch.lerp((outside * volume).sum() / outside.sum(), volume, inside)


def read_mask(path: str | Path, size: int, pixel_size_angs: float) -> Tensor:
    """A mask from an MRC file, `(n, n, n)` float32 `[z, y, x]`, for maps of `size` px.

    Raises
    ------
    UserError : no such file, another box or pixel size, or values that are not between 0 and 1
    """
    volume, pixel = read_map(path, None, "Mask", "--mask_fname", HEADER_REMEDY)
    problems = []
    if len(volume) != size:
        problems.append(f"Mask {path}: its side is {len(volume)} px and that of the pictures {size} px. Give a mask of {size} px.")
    if abs(pixel / pixel_size_angs - 1) > TOLERANCE:
        problems.append(
            f"Mask {path}: its pixels are {pixel:.4g} Å and those of the pictures {pixel_size_angs:.4g} Å. Resample it."
        )
    if volume.min() < -TOLERANCE or volume.max() > 1 + TOLERANCE:
        problems.append(
            f"Mask {path}: its values run from {volume.min():.3g} to {volume.max():.3g}; those of a mask lie between 0 and 1."
        )
    if problems:
        raise UserError(problems)
    return torch.from_numpy(volume).clamp(0, 1)
