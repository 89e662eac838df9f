"""The highest modes of pose densities, kept apart from each other, and how much of the density lies about each."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.ball import ball_quadrature
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.geometry.wigner import degree_slices
from cryopares_core.model.density import PoseDensity
from cryopares_core.plots.errors import GOOD_DEGS

TRIES = 3  # starting points for each further mode: one on the flank of a known mode leads to nothing new
LEAST_SHARE = 1e-4  # of the highest mode's density: what is lower is no mode worth telling
NEVER = -math.inf
PORTION, BLOCK = 4096, 64  # rows


@dataclass(frozen=True)
class Modes:
    """Modes of b densities.

    Attributes
    ----------
    poses : `(b, k, 3, 3)`, the highest first
    mass : `(b, k)` the probability of poses within 5 degrees of each; 0 where there are fewer than k modes
    """

    poses: Tensor
    mass: Tensor


class ModeFinder:
    """Finds the `count` highest modes of densities, no two nearer than `separation_degs`.

    Parameters
    ----------
    density : of the network whose coefficients are looked at, on its device
    symmetry : the point group's name; poses that it makes alike are one mode
    separation_degs : None for the finest detail of a density, 180 degrees over its highest degree
    """

    def __init__(self, density: PoseDensity, symmetry: str, count: int = 1, separation_degs: float | None = None):
        self.density, self.count = density, count
        self.separation_degs = separation_degs or 180.0 / density.lmax
        self.device = density.decay.device
        self.group = point_group(symmetry).matrices.float().to(self.device)
        turns, weights = ball_quadrature(GOOD_DEGS)
        self.ball = density.wigner(turns.to(self.device)).T.contiguous()
        self.log_weights = weights.log().float().to(self.device)
        if count > 1:
            self.unit, self.matrices = self._asymmetric_unit()

    @torch.no_grad()
    def __call__(self, coefficients: Tensor) -> Modes:
        """Symmetrised coefficients `(n_coefficients, b)` -> their modes."""
        values = self.density.grid_values(coefficients)
        poses, there = self._several(coefficients, values) if self.count > 1 else self._highest(coefficients, values)
        return Modes(poses, self.mass_at(coefficients, log_mean_density(values), poses) * there)

    @torch.no_grad()
    def mass_at(self, coefficients: Tensor, log_mean: Tensor, poses: Tensor) -> Tensor:
        """The probability within 5 degrees of poses `(b, k, 3, 3)`, `(b, k)`; `log_mean` `(b,)` of the density over SO(3)."""
        each = coefficients.repeat_interleave(poses.shape[1], dim=1)
        heights = self._around(each, poses.flatten(0, 1)).unflatten(0, poses.shape[:2]) - log_mean[:, None, None]
        mass = self.density.group_order * (heights + self.log_weights).exp().sum(dim=-1)
        return mass.clamp(max=1.0)

    def _around(self, coefficients: Tensor, poses: Tensor) -> Tensor:
        """f at the points of the ball about each pose, `(b, points)`: `f(R Q) = <D(R)^T c, D(Q)>`."""
        wigner, turned = self.density.wigner(poses).to(coefficients), []
        for degree, place in enumerate(degree_slices(self.density.lmax)):
            shape = (-1, 2 * degree + 1, 2 * degree + 1)
            turned.append((wigner[:, place].view(shape).mT @ coefficients[place].T.view(shape)).flatten(1))
        return torch.cat(turned, dim=1) @ self.ball

    def _highest(self, coefficients: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """One mode: as `_several`."""
        poses = self.density.poses(coefficients, values)[:, None]
        return poses, torch.ones(poses.shape[:2], device=poses.device)

    def _several(self, coefficients: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Poses `(b, k, 3, 3)`, and which of them there are, 1 or 0, `(b, k)`."""
        floor = values.amax(dim=0) + math.log(LEAST_SHARE)
        poses = self.density.poses(coefficients, values)[:, None].repeat(1, self.count, 1, 1)
        places = torch.arange(self.count, device=self.device)
        found = torch.ones(len(poses), dtype=torch.int64, device=self.device)
        left, elsewhere = values.index_select(0, self.unit), torch.full_like(values, NEVER)
        self._strike_out(left, poses[:, 0])
        for _ in range(TRIES * (self.count - 1)):
            highest, start = _highest(left)
            wanted = (found < self.count) & (highest > floor)
            if not wanted.any():
                break
            pose = self.density.poses(coefficients, elsewhere.index_copy_(0, self.unit, left))
            distance = pose_error_degs(pose[:, None].expand_as(poses), poses, self.group)
            near = (distance < self.separation_degs) & (places < found[:, None])
            new = wanted & ~near.any(dim=1)
            rows = new.nonzero()[:, 0]
            poses[rows, found[rows]] = pose[rows]
            found += new
            # A start that led to a known mode is struck out with what is about it, or it would come again.
            self._strike_out(left, torch.where(new[:, None, None], pose, self.matrices[start].view(-1, 3, 3)))
        return poses, (places < found[:, None]).float()

    def _strike_out(self, left: Tensor, poses: Tensor) -> None:
        """No starting points any more near poses `(b, 3, 3)` and their mates; `left` `(points, b)` changes."""
        least = _trace(self.separation_degs)
        for mate in self.group:
            left.masked_fill_(self.matrices @ (poses @ mate).flatten(1).T > least, NEVER)

    def _asymmetric_unit(self) -> tuple[Tensor, Tensor]:
        """Grid points no further from no rotation than any of their mates, or by one step; and their matrices `(points, 9)`."""
        grid = self.density.grid
        matrices = euler_degs_to_matrix(grid.eulers_degs(torch.arange(len(grid)))).flatten(1).float().to(self.device)
        angles = ((matrices @ self.group.mT.flatten(1).T - 1) / 2).clamp(-1, 1).acos()
        own = (matrices[:, [0, 4, 8]].sum(dim=1, keepdim=True) - 1) / 2
        unit = own.clamp(-1, 1).acos()[:, 0] <= angles.amin(dim=1) + self.density.max_step_rad
        chosen = unit.nonzero()[:, 0]
        chosen = torch.cat((chosen, chosen[-1:].expand(-len(chosen) % BLOCK)))  # whole blocks
        return chosen, matrices[chosen]


def log_mean_density(values: Tensor) -> Tensor:
    """Log of the mean density over SO(3), `(b,)`, from f on a uniform grid, `(points, b)`."""
    return _log_sum(values) - math.log(len(values))


def _log_sum(values: Tensor) -> Tensor:
    """`(points, b)` -> `(b,)`, in portions that stay in the cache."""
    return torch.stack([portion.logsumexp(dim=0) for portion in values.split(PORTION)]).logsumexp(dim=0)


def _highest(values: Tensor) -> tuple[Tensor, Tensor]:
    """The highest value of each column of `(points, b)`, and its row. Blocks first: a processor looks for rows slowly."""
    blocks = values.unflatten(0, (-1, BLOCK))
    block = blocks.amax(dim=1).argmax(dim=0)
    height, row = blocks[block, :, torch.arange(values.shape[1], device=values.device)].max(dim=1)
    return height, block * BLOCK + row


def _trace(degs: float) -> float:
    """For rotations that far from each other, the sum of the products of their matrices' elements."""
    return 1 + 2 * math.cos(degs / DEGREES)
