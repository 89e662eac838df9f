"""A map of the project's own: a protein-like, clearly asymmetric particle for demonstrations and tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RADIUS_SHARE = 0.37  # no bead lies further from the centre than this share of the box: all fits 0.8 of the box
STEP_SHARE = 0.07  # distance between two beads of a chain, as share of the particle's radius
PERSISTENCE = 0.6  # how much of its direction a chain keeps from one step to the next
BEADS = 1500
BEAD_SIGMA_ANGS, SMALLEST_SIGMA_PX = 4.0, 1.0


@dataclass(frozen=True)
class _Domain:
    """A globular part: centre xyz and radius (shares of the particle's radius), density, share of the beads."""

    centre: tuple[float, float, float]
    radius: float
    density: float
    beads: float


# A body and four lobes that differ in size, density and direction: no turn and no mirror brings the particle close to
# itself, and even at low resolution each view differs from its neighbours, so that a network learns its poses quickly.
_DOMAINS = (
    _Domain((0.0, -0.12, -0.15), 0.50, 1.0, 0.42),
    _Domain((0.42, 0.30, 0.20), 0.38, 1.2, 0.25),
    _Domain((-0.50, 0.24, -0.18), 0.28, 1.0, 0.15),
    _Domain((-0.12, -0.34, 0.52), 0.25, 1.4, 0.11),
    _Domain((0.26, -0.60, -0.38), 0.18, 1.8, 0.07),
)


def phantom_map(size: int, pixel_size_angs: float, seed: int = 0) -> np.ndarray:
    """Several globular domains of Gaussian beads along random walks, `(size, size, size)` float32 `[z, y, x]`.

    The shape is the same for every size and seed; the seed moves the chains inside the domains. Values run from 0 to 1,
    the centre of mass is at voxel `size // 2`. Beads are 4 Å wide (sigma), or one voxel where voxels are larger.
    """
    rng = np.random.default_rng(seed)
    chains = [_chain(domain, round(BEADS * domain.beads), rng) for domain in _DOMAINS]
    beads = np.concatenate(chains)
    weights = np.repeat([domain.density for domain in _DOMAINS], [len(chain) for chain in chains])
    beads -= np.average(beads, axis=0, weights=weights)
    beads *= RADIUS_SHARE * size / np.linalg.norm(beads, axis=1).max()
    volume = _render(beads, weights, size, max(SMALLEST_SIGMA_PX, BEAD_SIGMA_ANGS / pixel_size_angs))
    return (volume / volume.max()).astype(np.float32)


def _chain(domain: _Domain, count: int, rng: np.random.Generator) -> np.ndarray:
    """A random walk `(count, 3)` that never leaves its domain."""
    centre = np.array(domain.centre)
    place, direction = centre, np.zeros(3)
    walk: list[np.ndarray] = []
    while len(walk) < count:
        kick = rng.standard_normal(3)
        direction = PERSISTENCE * direction + kick / np.linalg.norm(kick)
        ahead = place + STEP_SHARE * direction / np.linalg.norm(direction)
        if np.linalg.norm(ahead - centre) > domain.radius:
            direction = np.zeros(3)
            continue
        place = ahead
        walk.append(place)
    return np.array(walk)


def _render(beads_px: np.ndarray, weights: np.ndarray, size: int, sigma_px: float) -> np.ndarray:
    """The sum of isotropic Gaussians, one matrix product because each is a product of three one-dimensional ones."""
    axis = np.arange(size) - size // 2
    x, y, z = (np.exp(-((beads_px[:, [i]] - axis) ** 2) / (2 * sigma_px**2)).astype(np.float32) for i in range(3))
    zy = (weights[:, None, None] * z[:, :, None] * y[:, None, :]).reshape(len(beads_px), -1).astype(np.float32)
    return (zy.T @ x).reshape(size, size, size)
