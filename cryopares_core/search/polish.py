"""Peaks of the grid polished off the grid: Gauss-Newton steps on pose and shift, and how sharp the posterior is there."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES
from cryopares_core.refinement.ascent import climb, levels, portions
from cryopares_core.refinement.fit import SMALLEST, Fit, M, Observed, X
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.slices import SliceTable

GRID_ERROR_SHARE = 0.6  # of the grid's spacing: how far a peak is from the pose
SO3_VOLUME = 8 * math.pi**2  # in cubic radians of small rotations
MAX_SPREAD_RAD = 0.5
MIN_INFORMATION = 1e-12  # of an empty image
N_TURNS = 3


@dataclass(frozen=True)
class Polished:
    """Poses off the grid, one for each row.

    Attributes
    ----------
    poses, shifts : `(r, 3, 3)`, and `(r, 2)` in Å
    log_likelihood : `(r,)` f squared, 0 where f is negative
    correlation : `(r,)` with the map
    covariance : `(r, 3, 3)` of the rotation vector in the view's axes, rad^2: Laplace's approximation with the shift eliminated
    """

    poses: Tensor
    shifts: Tensor
    log_likelihood: Tensor
    correlation: Tensor
    covariance: Tensor

    def dispersed(self, dispersion: float) -> Polished:
        """The same with the log-likelihood divided, and the covariance multiplied, by a dispersion (McCullagh 1983,
        doi:10.1214/aos/1176346056): maps and images differ by more than the noise.
        """
        return replace(self, log_likelihood=self.log_likelihood / dispersion, covariance=self.covariance * dispersion)

    @property
    def log_volume(self) -> Tensor:
        """`(r,)` log of the share of SO(3) that the peak fills: the integral of its Gaussian."""
        return 1.5 * math.log(2 * math.pi) + 0.5 * torch.logdet(self.covariance) - math.log(SO3_VOLUME)

    @property
    def spread_rad(self) -> Tensor:
        """`(r,)` standard deviation of the rotation vector about an axis, the root mean square over the three axes."""
        return (self.covariance.diagonal(dim1=1, dim2=2).mean(dim=1)).clamp(min=1e-12).sqrt()

    def mass_within(self, radius_degs: float) -> Tensor:
        """`(r,)` the probability that the true pose is within an angle, if it belongs to this peak.

        The squared length of a Gaussian vector is a sum of chi-squared variables, here replaced by a gamma variable of the same
        mean and variance (Satterthwaite 1946).
        """
        trace = self.covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
        squared = self.covariance.square().sum(dim=(1, 2))
        shape, scale = trace.square() / (2 * squared), 2 * squared / trace
        return torch.special.gammainc(shape, (radius_degs / DEGREES) ** 2 / scale)


class Polisher:
    """Polishes peaks of one kind of images against one map, from coarse to fine."""

    def __init__(self, slices: SliceTable, frequencies: Frequencies, resolution_angs: float, spacing_degs: float):
        self.slices = slices
        finest = max(resolution_angs, slices.finest_angs, frequencies.finest_angs)
        plan = levels(GRID_ERROR_SHARE * spacing_degs, slices.radius_angs, finest)
        self.plan = [(frequencies.count(resolution), n_steps) for resolution, n_steps in plan]

    @torch.no_grad()
    def __call__(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Polished:
        """From poses `(r, 3, 3)` and shifts `(r, 2)` in Å, one for each image of `seen`."""
        for count, n_steps in self.plan:
            found = [climb(self.slices, part, poses[rows], shifts[rows], n_steps) for rows, part in portions(seen, count)]
            poses, shifts = (torch.cat([getattr(part, name) for part in found]) for name in ("poses", "shifts"))
        fit = Fit(torch.cat([part.fit.products for part in found]))
        return Polished(poses, shifts, fit.score.clamp(min=0).square(), fit.correlation, rotation_covariance(fit))


def rotation_covariance(fit: Fit) -> Tensor:
    """Covariance `(r, 3, 3)` of the rotation vector, rad^2, from the curvature of f squared with scale and shift eliminated.

    The log-likelihood is `-|X - s M|^2`, so that its information matrix is `2 s^2 J^T J`.
    """
    scale = fit.products[:, X, M] / fit.products[:, M, M].clamp(min=SMALLEST)
    information = 2 * scale.square()[:, None, None] * fit.curvature
    rotation, both, shift = (
        information[:, :N_TURNS, :N_TURNS],
        information[:, :N_TURNS, N_TURNS:],
        information[:, N_TURNS:, N_TURNS:],
    )
    ridge = (MIN_INFORMATION + 1e-6 * shift.diagonal(dim1=1, dim2=2).amax(dim=1))[:, None, None] * torch.eye(2, device=shift.device)
    values, axes = torch.linalg.eigh(rotation - both @ torch.linalg.solve(shift + ridge, both.mT))
    # A view without information about an axis has no more spread than chance.
    return (axes / (values.clamp(min=0) + 1 / MAX_SPREAD_RAD**2)[:, None]) @ axes.mT
