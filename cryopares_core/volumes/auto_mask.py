"""A soft mask of the particle, found from two half maps without any setting.

The sum of the halves is low-passed to where they agree well. Their difference, low-passed alike, holds noise alone and tells how
strong that is. What rises above both the noise and a share of the particle's own density is the particle: its largest connected
region and others that are not much smaller, extended, with a soft edge. All of it happens on a coarse grid, since the low-passed
map has no finer detail, and the mask is interpolated to the maps' grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from cryopares_core.volumes.fsc import first_below, shell_correlation
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.radial import times_radial

COARSE_PIXEL_ANGS = 5.0
MIN_BOX, MAX_BOX = 32, 96  # of the coarse grid, px
MIN_LOWPASS_ANGS = 15.0
AGREEING = 0.5  # correlation of the halves to which the map is low-passed
MIN_SHELLS = 3  # with that correlation; with fewer there is no particle to be seen
MIN_SIGMAS = 4.0  # of the noise
MIN_DENSITY = 0.25  # of the particle's mean density
MIN_REGION = 0.1  # of the largest region's voxels
EXTENSION_ANGS, EDGE_ANGS = 6.0, 12.0
MIN_EXTENSION_PX, MIN_EDGE_PX = 2, 5  # of the coarse grid: a narrow edge lets noise of all shells correlate
MAX_VOLUME = 0.9  # of the largest sphere's


@dataclass(frozen=True)
class AutoMask:
    """A mask `(n, n, n)` between 0 and 1, and how it was made.

    Attributes
    ----------
    lowpass_angs : resolution of the map that was thresholded
    threshold_sigmas : the threshold, in standard deviations of that map's noise
    volume : what the mask holds, as a share of the box
    """

    mask: Tensor
    lowpass_angs: float
    threshold_sigmas: float
    volume: float


def auto_mask(first: Tensor, second: Tensor, pixel_size_angs: float) -> AutoMask | None:
    """The mask of two half maps `(n, n, n)`; None where they show no particle.

    That is where they agree in too few shells, where no region stands out, and where nearly all of the sphere does.
    """
    size = len(first)
    coarse = coarse_side(size, pixel_size_angs)
    halves = [resized(half, coarse) for half in (first, second)]
    box_angs = size * pixel_size_angs
    shell = first_below(shell_correlation(*halves), AGREEING)
    if shell < MIN_SHELLS:
        return None
    lowpass = max(MIN_LOWPASS_ANGS, box_angs / shell)
    falling = 0.5 ** ((torch.arange(coarse // 2 + 1) * lowpass / box_angs) ** 2)  # a Gaussian, 1/2 at the resolution
    a, b = (times_radial(half, falling) for half in halves)
    sphere = soft_sphere(coarse, device=first.device)
    inside = sphere > 0.5
    noise = float(((a - b) / 2)[inside].std())
    mean = (a + b) / 2
    threshold = max(MIN_SIGMAS * noise, MIN_DENSITY * particle_density(mean[inside]))
    seed = main_regions((mean > threshold) & inside)
    if not seed.any():
        return None
    pixel = box_angs / coarse
    extension, edge = max(MIN_EXTENSION_PX, EXTENSION_ANGS / pixel), max(MIN_EDGE_PX, EDGE_ANGS / pixel)
    mask = soft_edged(seed, extension, edge) * sphere
    if mask.sum() > MAX_VOLUME * sphere.sum():
        return None
    return AutoMask(interpolated(mask, size), lowpass, threshold / max(noise, 1e-30), float(mask.mean()))


def coarse_side(size: int, pixel_size_angs: float) -> int:
    """An even side of some `COARSE_PIXEL_ANGS`, or the map's own."""
    wanted = 2 * math.ceil(size * pixel_size_angs / COARSE_PIXEL_ANGS / 2)
    return min(size, min(max(wanted, MIN_BOX), MAX_BOX))


def resized(volume: Tensor, size: int) -> Tensor:
    """A map `(n, n, n)` on a coarser grid of the same extent, by cropping its transform; voxel `n // 2` stays the centre."""
    n = len(volume)
    if size == n:
        return volume
    spectrum = torch.fft.rfftn(volume.roll((-(n // 2),) * 3, (0, 1, 2)))
    rows = torch.fft.fftfreq(size, 1 / size, device=volume.device).round().long() % n
    cropped = spectrum[rows][:, rows, : size // 2 + 1] * (size / n) ** 3
    return torch.fft.irfftn(cropped, s=(size,) * 3).roll((size // 2,) * 3, (0, 1, 2))


def particle_density(values: Tensor) -> float:
    """The mean density of the brighter of two classes of voxels, apart at the middle of their means (Ridler and Calvard 1978)."""
    threshold = values.mean()
    for _ in range(50):
        above = values > threshold
        threshold, before = (values[above].mean() + values[~above].mean()) / 2, threshold
        if threshold == before:
            break
    return float(values[values > threshold].mean())


def main_regions(seed: Tensor) -> Tensor:
    """Of voxels `(n, n, n)`, the largest region that hangs together by faces, edges or corners, and others nearly as large."""
    labels = torch.arange(1, seed.numel() + 1, dtype=torch.float64, device=seed.device).view(seed.shape) * seed
    while True:
        grown = max_pool3d(labels[None, None], 3, stride=1, padding=1)[0, 0] * seed
        if torch.equal(grown, labels):
            break
        labels = grown
    counts = torch.bincount(labels.long().flatten())
    counts[0] = 0
    return (counts >= MIN_REGION * counts.max())[labels.long()] & seed


def soft_edged(seed: Tensor, extension_px: float, edge_px: float) -> Tensor:
    """1 within `extension_px` of a region, then a cosine to 0."""
    distance = distance_px(seed, math.ceil(extension_px + edge_px))
    return 0.5 * (1 + torch.cos(math.pi * ((distance - extension_px) / edge_px).clamp(0, 1)))


def distance_px(seed: Tensor, reach: int) -> Tensor:
    """The Euclidean distance from each voxel to the nearest of a region; beyond `reach` along an axis, infinite.

    Squares add up by axis: the least of each row first, then of these the least of each column, and so on.
    """
    square = torch.where(seed, 0.0, math.inf)
    for dim in range(3):
        nearest = square.clone()
        for step in range(1, min(reach, len(seed) - 1) + 1):
            count = len(seed) - step
            for start, other in ((0, step), (step, 0)):
                here, there = nearest.narrow(dim, start, count), square.narrow(dim, other, count)
                torch.minimum(here, there + step**2, out=here)
        square = nearest
    return square.sqrt()


def interpolated(mask: Tensor, size: int) -> Tensor:
    """A coarse mask on a grid of `size` px of the same extent, linearly along each axis."""
    n = len(mask)
    if size == n:
        return mask
    places = (torch.arange(size, device=mask.device) - size // 2) * (n / size) + n // 2
    shares = (1 - (places[:, None] - torch.arange(n, device=mask.device)).abs()).clamp(min=0)
    for _ in range(3):  # each turn interpolates the last axis and brings it to the front
        mask = (mask @ shares.T).permute(2, 0, 1)
    return mask.contiguous()
