"""Product grids on SO(3): view directions in rings of constant tilt, times uniform in-plane angles psi.

A direction is (rot, tilt), where the view lies on the reference's sphere; psi turns the picture. Every point of an output grid
stands for the same volume of SO(3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import healpy
import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES


@dataclass(frozen=True)
class SO3Grid:
    """Directions in rings, times in-plane angles. Angles in radians, float64.

    Attributes
    ----------
    ring_tilt : (rings,)
    ring_of_direction : (directions,) the ring that each direction lies in, rising
    rot : (directions,)
    psi : (turns,)
    """

    ring_tilt: Tensor
    ring_of_direction: Tensor
    rot: Tensor
    psi: Tensor

    def __len__(self) -> int:
        return len(self.rot) * len(self.psi)

    def eulers_degs(self, index: Tensor) -> Tensor:
        """RELION angles `(..., 3)` of points `index`, which count in-plane angles fastest."""
        direction, turn = index.cpu() // len(self.psi), index.cpu() % len(self.psi)
        tilt = self.ring_tilt[self.ring_of_direction[direction]]
        return torch.stack((self.rot[direction], tilt, self.psi[turn]), dim=-1) * DEGREES


def healpix_so3_grid(order: int) -> SO3Grid:
    """HEALPix directions of an order, `12 * 4^order`, times `6 * 2^order` in-plane angles: 294,912 points at order 4."""
    nside = 2**order
    tilt, rot = healpy.pix2ang(nside, np.arange(12 * nside**2))
    ring_of_direction = np.searchsorted(_ring_starts(nside), np.arange(12 * nside**2), side="right") - 1
    ring_tilt = tilt[_ring_starts(nside)]
    psi = np.arange(6 * nside) * (2 * math.pi / (6 * nside))
    return SO3Grid(*(torch.from_numpy(values) for values in (ring_tilt, ring_of_direction, rot, psi)))


def _ring_starts(nside: int) -> np.ndarray:
    """The first pixel of each of the `4 nside - 1` rings: caps have 4, 8, … pixels a ring, the belt 4 nside."""
    ring = np.arange(1, 4 * nside)
    sizes = 4 * np.minimum(np.minimum(ring, nside), 4 * nside - ring)
    return np.concatenate(([0], np.cumsum(sizes)[:-1]))


def healpix_spacing_degs(order: int) -> float:
    """The mean distance between neighbouring directions, and between in-plane angles: 7.3 degrees at order 3, 3.7 at order 4."""
    return math.degrees(math.sqrt(4 * math.pi / (12 * 4**order)))


def healpix_directions(order: int) -> Tensor:
    """Unit vectors xyz `(12 * 4^order, 3)`, float64."""
    nside = 2**order
    return torch.from_numpy(np.stack(healpy.pix2vec(nside, np.arange(12 * nside**2)), axis=-1))


def healpix_centres_degs(order: int) -> np.ndarray:
    """Rot in (-180, 180] and tilt of the pixels' centres, `(12 * 4^order, 2)` degrees, in ring order."""
    tilt, rot = healpy.pix2ang(2**order, np.arange(12 * 4**order))
    rot_degs = np.degrees(rot)
    return np.stack((np.where(rot_degs > 180, rot_degs - 360, rot_degs), np.degrees(tilt)), axis=-1)


def healpix_interpolated(values: np.ndarray, order: int) -> np.ndarray:
    """Values in all pixels of one order, `(n, 12 * 4^k)` in ring order, at the centres of another order: `(n, 12 * 4^order)`."""
    nside = healpy.npix2nside(values.shape[-1])
    tilt, rot = healpy.pix2ang(2**order, np.arange(12 * 4**order))
    pixels, weights = healpy.get_interp_weights(nside, tilt, rot)
    return (values[:, pixels] * weights).sum(axis=1)


def healpix_pixels(order: int, eulers_degs: np.ndarray) -> np.ndarray:
    """The pixel, in ring order, that each view direction falls in: `(n, 3)` rot, tilt, psi in degrees to `(n,)`."""
    return healpy.vec2pix(2**order, *_directions(eulers_degs))


def _directions(eulers_degs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors; a tilt beyond 0 to 180 is as good as one within."""
    rot, tilt = np.radians(eulers_degs[:, 0]), np.radians(eulers_degs[:, 1])
    return np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)
