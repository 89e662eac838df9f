"""The network's mathematics the plain way, as a reference for times and memory: tables of all rotations, sampled filters.

Everything gives the same values as the package does (`check`). It lives here because nobody should use it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from cryopares_core.geometry.grids import healpix_directions
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix
from cryopares_core.geometry.synthesis import QuadratureTransform
from cryopares_core.geometry.wigner import Wigner, n_coefficients, spherical_harmonics
from cryopares_core.model.convolutions import S2Convolution, SO3Activation
from cryopares_core.model.network import PoseNetwork

TABLE_PORTION = 8192


def wigner_table(lmax: int, eulers_degs: Tensor) -> Tensor:
    """All coefficients' functions at all rotations, `(points, n_coefficients)`: 3.45 GB at lmax 12, order 4."""
    wigner = Wigner(lmax)
    table = torch.empty(len(eulers_degs), n_coefficients(lmax))
    for start in range(0, len(table), TABLE_PORTION):
        part = eulers_degs[start : start + TABLE_PORTION]
        table[start : start + len(part)] = wigner(euler_degs_to_matrix(part))
    return table


class DenseActivation(nn.Module):
    """The rectifier between two products with the table of its grid."""

    def __init__(self, like: SO3Activation):
        super().__init__()
        transform = like.transform
        self.register_buffer("table", wigner_table(transform.tilt.lmax, _quadrature_points(transform)), persistent=False)
        weight = transform.weight[:, 0].repeat(transform.psi_turns * transform.rot_turns)[:, None]
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("to_function", like.to_function, persistent=False)
        self.register_buffer("from_function", like.from_function, persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        values = self.table @ (coefficients.flatten(1) * self.to_function)
        return (self.table.T @ (torch.relu(values) * self.weight) * self.from_function).view_as(coefficients)


def _quadrature_points(transform: QuadratureTransform) -> Tensor:
    """The grid's angles in degrees, psi slowest, tilt fastest."""
    lmax = transform.tilt.lmax
    cosines = torch.from_numpy(np.polynomial.legendre.leggauss(lmax + 1)[0])
    turns = [torch.arange(count) * (360.0 / count) for count in (transform.psi_turns, transform.rot_turns)]
    psi, rot, tilt = torch.meshgrid(turns[0].double(), turns[1].double(), torch.arccos(cosines) * DEGREES, indexing="ij")
    return torch.stack((rot, tilt, psi), dim=-1).view(-1, 3)


class SampledS2Convolution(nn.Module):
    """Filters learned as samples on all HEALPix directions and transformed at every step."""

    def __init__(self, like: S2Convolution, hp_order: int):
        super().__init__()
        self.convolution = like
        self.register_buffer("harmonics", spherical_harmonics(like.lmax, healpix_directions(hp_order)).float(), persistent=False)
        self.samples = nn.Parameter(torch.randn(12 * 4**hp_order, like.f_in * like.f_out))
        del like.theta

    def forward(self, sphere: Tensor) -> Tensor:
        like = self.convolution
        filters = self.harmonics.T @ self.samples / math.sqrt(len(self.samples)) / like.gain
        like.theta = filters.view(-1, like.f_in, like.f_out).transpose(0, 1)
        return like(sphere)


class DenseSynthesis(nn.Module):
    """The output grid as one product."""

    def __init__(self, network: PoseNetwork):
        super().__init__()
        grid = network.density.grid
        self.shape = (len(grid.rot), len(grid.psi), -1)
        table = wigner_table(network.density.lmax, grid.eulers_degs(torch.arange(len(grid))))
        self.register_buffer("table", table, persistent=False)

    def forward(self, coefficients: Tensor) -> Tensor:
        return (self.table @ coefficients).view(self.shape)


def make_dense(network: PoseNetwork, s2_order: int) -> PoseNetwork:
    """Turn a network into the dense one, in place."""
    network.activation = DenseActivation(network.activation).to(_device(network))  # type: ignore[assignment]
    network.density.synthesis = DenseSynthesis(network).to(_device(network))  # type: ignore[assignment]
    network.s2conv = SampledS2Convolution(network.s2conv, s2_order).to(_device(network))  # type: ignore[assignment]
    return network


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


@torch.no_grad()
def largest_difference(network: PoseNetwork, coefficients: Tensor) -> float:
    """Of the activation and the output grid against the dense ones, as a share of the largest value."""
    feature_maps = coefficients[..., None]
    pairs = [
        (network.activation(feature_maps), DenseActivation(network.activation)(feature_maps)),
        (network.density.synthesis(coefficients), DenseSynthesis(network)(coefficients)),
    ]
    return max(float((ours - dense).abs().max() / dense.abs().max()) for ours, dense in pairs)
