"""Trying poses and shifts on a grid about a start: the slow way, which cannot be led astray by the first hill.

Refinement takes it for particles that climbed out of bounds, and to find a first shift; the tests and the benchmark hold the
climbing against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES, rotvec_to_matrix
from cryopares_core.refinement.ascent import portions
from cryopares_core.refinement.fit import SMALLEST, Observed, centred
from cryopares_core.refinement.slices import SliceTable

# Of the size of detail: so far it may move at the particle's edge between neighbours on the grid, and between shifts.
TURN_SHARE, SHIFT_SHARE = 0.35, 0.2
HALVINGS = 2  # of the grid at the finest resolution


@dataclass(frozen=True)
class Grid:
    """Turns `(r, 3, 3)` and shifts `(t, 2)` in Å; all pairs are tried."""

    turns: Tensor
    shifts: Tensor


def turns_within(radius_degs: float, step_degs: float) -> Tensor:
    """Rotations by up to an angle whose rotation vectors stand on a cubic grid, `(r, 3, 3)`, with none at all among them."""
    axis = _line(radius_degs, step_degs)
    vectors = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).flatten(0, 2)
    return rotvec_to_matrix(vectors[vectors.norm(dim=1) <= radius_degs * 1.0001] / DEGREES)


def shifts_within(radius_angs: float, step_angs: float) -> Tensor:
    """Shifts in a disc on a square grid, `(t, 2)` Å, with none at all among them."""
    axis = _line(radius_angs, step_angs)
    shifts = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).flatten(0, 1)
    return shifts[shifts.norm(dim=1) <= radius_angs * 1.0001]


def _line(radius: float, step: float) -> Tensor:
    count = math.floor(radius / step + 1e-6) if step > 0 else 0
    return torch.arange(-count, count + 1) * step


def best_on_grid(slices: SliceTable, seen: Observed, poses: Tensor, shifts: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """The best of all turns after, and shifts added to, given ones.

    Parameters
    ----------
    poses, shifts : `(b, 3, 3)` and `(b, 2)` in Å

    Returns poses, shifts, and their scores `(b,)` (`Fit.score`).
    """
    turns, offsets = grid.turns.to(poses), grid.shifts.to(poses)
    angle = (2 * math.pi) * (offsets @ seen.xy)
    waves = torch.cat((angle.cos(), angle.sin()), dim=1).mT  # (2 p, t)
    score = torch.full_like(shifts[:, 0], -math.inf)
    best_poses, best_shifts = poses, shifts
    pictures = centred(seen, shifts)
    for turn in turns:
        tried = turn @ poses
        values, _ = slices(tried, seen.xy)
        model = values * seen.transfer[:, None]
        norm = model.flatten(1).norm(dim=1).clamp(min=SMALLEST)
        scores, place = ((_products(model, pictures) @ waves) / norm[:, None]).max(dim=1)
        better = scores > score
        score = torch.where(better, scores, score)
        best_poses = torch.where(better[:, None, None], tried, best_poses)
        best_shifts = torch.where(better[:, None], shifts + offsets[place], best_shifts)
    return best_poses, best_shifts, score


def _products(model: Tensor, pictures: Tensor) -> Tensor:
    """Real and imaginary part of the conjugate of one times the other, side by side: `(b, 2 p)`."""
    real = model[:, 0] * pictures[:, 0] + model[:, 1] * pictures[:, 1]
    imaginary = model[:, 0] * pictures[:, 1] - model[:, 1] * pictures[:, 0]
    return torch.cat((real, imaginary), dim=1)


def search(
    slices: SliceTable,
    seen: Observed,
    counts: dict[float, int],
    poses: Tensor,
    shifts: Tensor,
    reach_degs: float,
    reach_angs: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The best pose and shift within reach of a start, from coarse to fine; each grid lies about the best of the one before.

    Parameters
    ----------
    counts : by resolution in Å, from coarse to fine, how many of the frequencies are looked at

    Returns poses, shifts and scores at the finest resolution.
    """
    score = torch.zeros_like(shifts[:, 0])
    for resolution, grid in grids(list(counts), slices.radius_angs, reach_degs, reach_angs):
        poses, shifts = poses.clone(), shifts.clone()
        for rows, part in portions(seen, counts[resolution]):
            poses[rows], shifts[rows], score[rows] = best_on_grid(slices, part, poses[rows], shifts[rows], grid)
    return poses, shifts, score


def grids(resolutions: list[float], radius_angs: float, reach_degs: float, reach_angs: float) -> list[tuple[float, Grid]]:
    """A grid for each resolution, and some finer ones for the finest."""
    found = list[tuple[float, Grid]]()
    for resolution in resolutions + resolutions[-1:] * HALVINGS:
        halved = 0.5 ** max(0, len(found) + 1 - len(resolutions))
        step_degs = min(reach_degs, TURN_SHARE * resolution / radius_angs * DEGREES * halved)
        step_angs = min(reach_angs, SHIFT_SHARE * resolution * halved)
        found.append((resolution, Grid(turns_within(reach_degs, step_degs), shifts_within(reach_angs, step_angs))))
        reach_degs, reach_angs = step_degs, step_angs
    return found
