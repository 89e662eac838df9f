"""Poses from scratch: every particle against projections of a map in all directions, then local refinement."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.grids import healpix_so3_grid
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.refiner import Reference, refine_poses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.volumes.maps import resample_map
from cryopares_core.volumes.project import Projector

GRID_ORDER = 3  # 36,864 rotations, 7.5 degrees apart
COARSE_ANGS, SHIFT_STEP_ANGS, LARGEST_SHIFT_ANGS = 20.0, 8.0, 24.0
BATCH = 64


def search_from_scratch(
    table: ParticleTable, volume: np.ndarray, pixel_angs: float, resolution_angs: float
) -> tuple[Tensor, float, float]:
    """Poses `(n, 3, 3)`, and the seconds of search and of refinement. The table's poses and shifts are not used."""
    started = time.perf_counter()
    starts, shifts = _coarse(table, volume, pixel_angs)
    searched = time.perf_counter() - started
    settings = RefineSettings(resolution_angs=resolution_angs, expected_error_degs=7.5)
    reference = Reference(volume, pixel_angs)
    refined = refine_poses(table, {1: reference, 2: reference}, starts[:, None], shifts, settings)
    return torch.as_tensor(refined.poses), searched, time.perf_counter() - started - searched


def _coarse(table: ParticleTable, volume: np.ndarray, pixel_angs: float) -> tuple[Tensor, Tensor]:
    """The best grid rotation and shift of each particle at low resolution, `(n, 3, 3)` and `(n, 2)` Å."""
    box = len(volume)
    kx = torch.fft.rfftfreq(box, pixel_angs)
    ky = torch.fft.fftfreq(box, pixel_angs)
    radius = torch.sqrt(ky[:, None] ** 2 + kx**2)
    inside = (radius > 0) & (radius < 1 / COARSE_ANGS)
    poses = _grid_poses()
    projector = Projector(torch.from_numpy(resample_map(volume, box)))
    models = torch.cat([projector.project_rfft(part)[:, inside] for part in poses.split(2048)])
    moves = _shifts()
    phase = 2 * math.pi * (moves[:, :1] * kx.expand(box, -1)[inside] + moves[:, 1:] * ky[:, None].expand(-1, len(kx))[inside])
    back = torch.polar(torch.ones_like(phase), -phase)
    power = models.abs().square()
    best = [
        _best(table, part, inside, pixel_angs, models, power, back)
        for part in np.array_split(np.arange(len(table)), math.ceil(len(table) / BATCH))
    ]
    rotation, move = (torch.cat(column) for column in zip(*best, strict=True))
    return poses[rotation], moves[move].double()


def _grid_poses() -> Tensor:
    grid = healpix_so3_grid(GRID_ORDER)
    return euler_degs_to_matrix(grid.eulers_degs(torch.arange(len(grid)))).float()


def _shifts() -> Tensor:
    line = torch.arange(-LARGEST_SHIFT_ANGS, LARGEST_SHIFT_ANGS + 1, SHIFT_STEP_ANGS)
    return torch.cartesian_prod(line, line)


def _best(
    table: ParticleTable, rows: np.ndarray, inside: Tensor, pixel_angs: float, models: Tensor, power: Tensor, back: Tensor
) -> tuple[Tensor, Tensor]:
    """Indices of the best rotation and shift, `(b,)` each, by normalised correlation."""
    pictures = torch.from_numpy(read_images(table, rows))
    spectra = torch.fft.rfft2(pictures)[:, inside]
    ctf = ctf_2d(ctf_tensors(table.ctf, rows), pixel_angs, pictures.shape[-1])[:, inside]
    seen = (spectra * ctf)[:, None] * back  # (b, shifts, k)
    norm = (ctf.square() @ power.T).sqrt().clamp(min=1e-20)
    flat = torch.view_as_real(seen).flatten(2)
    products = flat.flatten(0, 1) @ torch.view_as_real(models).flatten(1).T
    scores = products.view(len(rows), len(back), -1) / norm[:, None]
    place = scores.flatten(1).argmax(dim=1)
    return place % len(models), place // len(models)
