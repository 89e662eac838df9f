"""Sums over all rotations within some degrees of another."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES, rotvec_to_matrix

RADIAL, POLAR = 4, 4  # nodes; twice as many around the pole make sums over directions exact to degree 7


def ball_quadrature(radius_degs: float) -> tuple[Tensor, Tensor]:
    """Rotations by up to an angle, `(k, 3, 3)`, and weights `(k,)`, both float64: `sum_k w_k f(R_k)` is the integral of f.

    The angle w of a rotation drawn uniformly has the density `(1 - cos w) / pi` (Miles 1965, On random rotations in R^3), and its
    axis is uniform. All of SO(3) counts 1, so the weights' sum is the ball's share of it, `(r - sin r) / pi`.
    """
    radius = radius_degs / DEGREES
    nodes, shares = np.polynomial.legendre.leggauss(RADIAL)
    angle = radius * (nodes + 1) / 2
    density = shares * radius / 2 * (1 - np.cos(angle)) / math.pi
    axes, axis_shares = _directions()
    rotvec = torch.from_numpy(angle[:, None, None] * axes).flatten(0, 1)
    return rotvec_to_matrix(rotvec), torch.from_numpy(np.outer(density, axis_shares).ravel())


def _directions() -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors `(n, 3)` and their shares of the sphere `(n,)`: Gauss's heights, uniform angles."""
    height, share = np.polynomial.legendre.leggauss(POLAR)
    around = np.arange(2 * POLAR) * (math.pi / POLAR)
    flat = np.sqrt(1 - height**2)[:, None]
    xyz = np.stack(np.broadcast_arrays(flat * np.cos(around), flat * np.sin(around), height[:, None]), axis=-1)
    return xyz.reshape(-1, 3), np.repeat(share / 2 / len(around), len(around))
