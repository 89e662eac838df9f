"""The local posterior of poses and shifts: how certain each is, and particles spread over what is possible.

Close to its maximum the posterior is a normal distribution (Laplace's approximation). Its covariance is the inverse of the Fisher
information of turn and shift, with the scale of the image eliminated, as in `Fit.step`. A reconstruction from a few poses drawn
from it, instead of the best one alone, approximates the marginalisation over poses of maximum-likelihood refinement (Scheres 2012,
doi:10.1016/j.jsb.2012.09.006) near a known pose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES, matrix_to_euler_degs, rotvec_to_matrix
from cryopares_core.machine import exact_products
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.ascent import portions
from cryopares_core.refinement.fit import Fit, M, X, fit
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.refinement.results import RefinedPoses

MAX_DRAW_DEGS = 10.0  # beyond this the normal distribution does not hold
SMALLEST = 1e-12


@dataclass(frozen=True)
class PosteriorPoses(RefinedPoses):
    """Refined poses with the covariance `(n, 5, 5)` of turn about the view's x, y, z (radians) and shift along x, y (Å)."""

    covariance: np.ndarray


@torch.no_grad()
def with_covariance(refiner: Refiner, indices: np.ndarray, refined: RefinedPoses) -> PosteriorPoses:
    """Add the covariance to what a refiner found for particles `indices` `(m,)` of its table.

    The scale of the images is their mean: that of one image is mostly noise. Broken images, and all where the mean scale is not
    above 0, have the covariance 0.
    """
    products = np.zeros((len(indices), 7, 7))
    with exact_products():
        for rows, found in _products(refiner, indices, refined):
            products[rows] = found
    covariance = covariance_of(torch.from_numpy(products)[~refined.broken]).numpy()
    every = np.zeros((len(indices), 5, 5))
    every[~refined.broken] = covariance
    return PosteriorPoses(**vars(refined), covariance=every.astype(np.float32))


def covariance_of(products: Tensor) -> Tensor:
    """Covariances `(b, 5, 5)` from scalar products `(b, 7, 7)` float64 of images of one kind, as in `Fit`."""
    information = Fit(products).curvature
    scale = float((products[:, X, M] / products[:, M, M].clamp(min=SMALLEST)).mean()) if len(products) else 0.0
    if scale <= 0:
        return torch.zeros_like(information)
    unit = information.diagonal(dim1=1, dim2=2).clamp(min=SMALLEST).sqrt()
    unit = unit[:, :, None] * unit[:, None]
    regular = information / unit + 1e-6 * torch.eye(5, dtype=products.dtype)
    # The complex noise has the variance 1, its real and imaginary parts 1/2 each.
    return torch.linalg.inv(regular) / unit / (2 * scale**2)


def _products(refiner: Refiner, indices: np.ndarray, refined: RefinedPoses) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The scalar products of images, models and derivatives at the refined poses, with their rows in `indices`."""
    device = refiner.device
    poses, shifts = (torch.from_numpy(values).float() for values in (refined.poses, refined.shifts_angs))
    for block in refiner.source.blocks(indices):
        if not len(block):
            continue
        spectra = refiner.source.spectra(block)
        seen = refiner.weights[spectra.frequencies].observed(spectra)
        for slices, rows in refiner.maps.of(block.indices):
            places = block.rows[rows.numpy(force=True)]
            part = seen.part(rows, len(spectra.frequencies))
            for chunk, images in portions(part, len(spectra.frequencies)):
                where = (values[places[chunk]].to(device) for values in (poses, shifts))
                yield places[chunk], fit(slices, images, *where).products.numpy(force=True)


def spread(
    table: ParticleTable, poses: Tensor, shifts_angs: Tensor, covariance: Tensor | None, copies: int, seed: int
) -> tuple[ParticleTable, np.ndarray]:
    """Particles with `copies` (even) poses each, drawn from their normal distributions in opposite pairs.

    Parameters
    ----------
    poses, shifts_angs, covariance : `(n, 3, 3)`, `(n, 2)` and `(n, 5, 5)` of the table's particles; without covariance, or with 0
        copies, each particle has its best pose alone

    Returns
    -------
    a table for reconstruction, with the image names as its only column, and the particle that each of its rows is of
    """
    if covariance is None or not copies:
        steps = torch.zeros(1, len(table), 5, dtype=torch.float64)
    else:
        steps = _drawn(covariance.double(), copies // 2, seed)
    turned = (rotvec_to_matrix(steps[..., :3]) @ poses.double()).flatten(0, 1)
    moved = (shifts_angs.double() + steps[..., 3:]).flatten(0, 1)
    rows = np.tile(np.arange(len(table)), len(steps))
    named = replace(table, particles=table.particles[["rlnImageName"]]).subset(rows)
    return replace(named, eulers_deg=matrix_to_euler_degs(turned).numpy(), shifts_angs=moved.numpy()), rows


def _drawn(covariance: Tensor, pairs: int, seed: int) -> Tensor:
    """Steps `(2 * pairs, n, 5)` by turn and shift, none with a turn beyond the largest."""
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors * values.clamp(min=0).sqrt()[:, None]  # a covariance may be 0
    drawn = torch.randn(pairs, len(root), 5, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    steps = (root @ torch.cat((drawn, -drawn)))[..., 0]
    turn = steps[..., :3].norm(dim=2, keepdim=True) * DEGREES
    return steps * (MAX_DRAW_DEGS / turn.clamp(min=MAX_DRAW_DEGS))
