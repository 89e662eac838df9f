"""Fourier shell correlation of two half maps, and the resolution that it tells.

A mask leaves noise out, but its own shape is the same in both maps and correlates. How much, two maps with random phases tell
(Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.volumes.radial import radii
from cryopares_core.volumes.threads import in_threads

THRESHOLD = 0.143  # Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013
RANDOM_BELOW = 0.8  # phases are random from where the correlation without a mask falls below this
SAFE_SHELLS = 2  # beyond that, until the correction counts: a mask mixes neighbouring shells


@dataclass(frozen=True)
class FscCurves:
    """Correlations of two half maps in shells 0 ... n // 2, one cycle a box apart, each `(n // 2 + 1,)` float32.

    Attributes
    ----------
    unmasked, masked : of the maps as they are, and times the mask
    randomised : of the masked maps with random phases from shell `random_from` on
    corrected : masked, less what the mask alone brings
    size_angs : side of the box, Å
    """

    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    random_from: int
    size_angs: float

    @property
    def resolution_angs(self) -> float:
        """With the mask, corrected for it; see `resolution_angs`."""
        return resolution_angs(self.corrected, self.size_angs)

    @property
    def unmasked_resolution_angs(self) -> float:
        """Without a mask."""
        return resolution_angs(self.unmasked, self.size_angs)


def fsc_curves(
    first: Tensor, second: Tensor, mask: Tensor, pixel_size_angs: float, radius: float | None = None, workers: int = 1
) -> FscCurves:
    """All correlations of two half maps `(n, n, n)`.

    Parameters
    ----------
    mask : `(n, n, n)`, between 0 and 1
    radius : the maps have nothing beyond it, in cycles a box; there the curves are 0
    workers : threads
    """
    there = torch.arange(len(first) // 2 + 1) <= (radius or math.inf)
    unmasked = shell_correlation(first, second) * there
    start = first_below(unmasked, RANDOM_BELOW)

    def of_masked(is_random: bool) -> Tensor:
        halves = (_random_phases(half, start, seed) if is_random else half for seed, half in enumerate((first, second)))
        return shell_correlation(*(half * mask for half in halves)) * there

    masked, randomised = in_threads(of_masked, (False, True), workers)
    beyond = torch.arange(len(masked)) >= start + SAFE_SHELLS
    corrected = torch.where(beyond, (masked - randomised) / (1 - randomised).clamp(min=1e-6), masked)
    return FscCurves(unmasked, masked, randomised, corrected.clamp(-1, 1), start, len(first) * pixel_size_angs)


def shell_correlation(first: Tensor, second: Tensor) -> Tensor:
    """The correlation of two maps' transforms by shell, `(n // 2 + 1,)` float32 on the CPU; 1 at the origin."""
    size = len(first)
    a, b = torch.fft.rfftn(first), torch.fft.rfftn(second)
    x = torch.arange(size // 2 + 1, device=a.device)
    mates = torch.where((x == 0) | (2 * x == size), 1.0, 2.0)  # how many places of the whole transform one stands for
    sums = torch.zeros(3, size, dtype=torch.float64, device=a.device)
    for part, radius in radii(size, a.device):
        u, v, shells = a[part], b[part], radius.round().long()
        for total, product in zip(sums, ((u * v.conj()).real, u.abs() ** 2, v.abs() ** 2), strict=True):
            total += torch.bincount(shells.flatten(), (product * mates).flatten().double(), minlength=size)
    cross, *powers = sums[:, : size // 2 + 1]
    power = powers[0] * powers[1]
    correlation = torch.where(power > 0, cross / power.clamp(min=1e-300).sqrt(), 0.0)
    correlation[0] = 1
    return correlation.float().cpu()


def _random_phases(volume: Tensor, start: int, seed: int) -> Tensor:
    """A map with the same amplitudes, and the phases of white noise from a shell on."""
    spectrum = torch.fft.rfftn(volume)
    noise = torch.fft.rfftn(torch.randn(volume.shape, generator=torch.Generator().manual_seed(seed)).to(volume.device))
    for part, radius in radii(len(volume), volume.device):
        random = spectrum[part].abs() * noise[part] / noise[part].abs().clamp(min=1e-30)
        spectrum[part] = torch.where(radius.round() >= start, random, spectrum[part])
    del noise
    return torch.fft.irfftn(spectrum, s=volume.shape)


FIRST_SHELL = 3  # below it, uneven backgrounds of the images may say more than the particles


def first_below(correlation: Tensor, threshold: float) -> int:
    """The first shell with a correlation below a threshold; where there is none, the one after the last."""
    below = (correlation < threshold).nonzero()
    return int(below[0]) if len(below) else len(correlation)


def resolution_angs(correlation: Tensor, size_angs: float, threshold: float = THRESHOLD) -> float:
    """Where the correlation first falls below a threshold, between shells by a straight line; infinite if it never was above."""
    after = first_below(correlation, threshold)
    if after == 0:
        return math.inf
    if after == len(correlation):
        return size_angs / (after - 1)
    above, below = float(correlation[after - 1]), float(correlation[after])
    return size_angs / max(after - 1 + (above - threshold) / (above - below), 1e-6)
