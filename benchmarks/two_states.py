"""A molecule in two states: a map, and the same map with one domain turned away or removed."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from cryopares_core.geometry.rotations import rotvec_to_matrix

EDGE_PX = 3.0


def other_state(volume: np.ndarray, turn_degs: float = 25.0, share: float = 0.15) -> np.ndarray:
    """The map `(n, n, n)` `[z, y, x]` with a domain at one end of its longest axis turned about its neck.

    Parameters
    ----------
    turn_degs : by how much; 0 removes the domain
    share : of the map's mass that the domain has
    """
    xyz = _coordinates(len(volume))
    mass = np.clip(volume, 0, None)
    centre = (xyz * mass[..., None]).sum(axis=(0, 1, 2)) / mass.sum()
    along = (xyz - centre) @ _longest_axis(xyz - centre, mass)
    end = np.quantile(along[mass > 0.3 * mass.max()], 0.97)
    tip = centre + end * _longest_axis(xyz - centre, mass)
    domain = _soft_ball(np.linalg.norm(xyz - tip, axis=-1), mass, share)
    rest = volume * (1 - domain)
    if not turn_degs:
        return rest.astype(np.float32)
    neck = centre + 0.6 * (tip - centre)
    across = np.cross(tip - centre, [0.3, 0.5, 0.8])
    turn = rotvec_to_matrix(torch.from_numpy(across / np.linalg.norm(across) * math.radians(turn_degs))).numpy()
    return (rest + _turned(volume * domain, turn, neck)).astype(np.float32)


def _coordinates(size: int) -> np.ndarray:
    """xyz of each voxel from the centre `n // 2`, `(n, n, n, 3)`."""
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack((x, y, z), axis=-1).astype(float)


def _longest_axis(xyz: np.ndarray, mass: np.ndarray) -> np.ndarray:
    points, weights = xyz.reshape(-1, 3), mass.reshape(-1, 1)
    return np.linalg.eigh((points * weights).T @ points)[1][:, -1]


def _soft_ball(distance: np.ndarray, mass: np.ndarray, share: float) -> np.ndarray:
    """1 inside, 0 outside of the ball that holds a share of the mass."""
    order = np.argsort(distance, axis=None)
    held = np.cumsum(mass.ravel()[order])
    radius = distance.ravel()[order][np.searchsorted(held, share * held[-1])]
    return np.clip((radius - distance) / EDGE_PX + 0.5, 0, 1)


def _turned(volume: np.ndarray, matrix: np.ndarray, about: np.ndarray) -> np.ndarray:
    """Turned by a matrix about a point, both in xyz from the centre, trilinear."""
    size = len(volume)
    source = (_coordinates(size) - about) @ matrix + about  # x' = M (x - p) + p, so that x = M^T (x' - p) + p
    grid = torch.from_numpy((source + size // 2 + 0.5) * 2 / size - 1).float()
    found = F.grid_sample(torch.from_numpy(volume).float()[None, None], grid[None], align_corners=False)
    return found[0, 0].numpy()
