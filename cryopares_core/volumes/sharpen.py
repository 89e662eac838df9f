"""Sharpening of a map: its amplitudes' decay undone, each frequency weighted by its signal, nothing beyond the resolution.

The decay is that of a Guinier plot, the logarithm of the signal's amplitude over 1/d^2 (Rosenthal and Henderson 2003,
doi:10.1016/j.jmb.2003.07.013). As in RELION, a negative B-factor sharpens: amplitudes are multiplied by exp(-B / (4 d^2)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.volumes.fsc import FscCurves, first_below
from cryopares_core.volumes.half_maps import HalfMaps
from cryopares_core.volumes.radial import shell_power, times_radial

LOWEST_ANGS = 10.0  # coarser amplitudes are of the particle's shape
MIN_SHELLS = 6  # that a line is fitted to
EDGE_SHELLS = 2.0  # of the low-pass filter at the resolution
AUTO = "auto"


@dataclass(frozen=True)
class Sharpened:
    """A sharpened map `(n, n, n)`, or None where there is none, its B-factor in Å^2, and how that came about."""

    volume: Tensor | None
    b_factor_angs2: float | None
    note: str


def sharpen(half_maps: HalfMaps, b_factor: float | str | None = AUTO) -> Sharpened:
    """The mean of two half maps with a B-factor: `auto` fits it, a number is taken as it is, None leaves the map alone."""
    resolution = half_maps.resolution_angs
    if b_factor is None:
        return Sharpened(None, None, "none")
    if not math.isfinite(resolution):
        return Sharpened(None, None, "none: the half maps have no resolution")
    mean, fsc = (half_maps.half1 + half_maps.half2) / 2, half_maps.fsc
    if b_factor == AUTO:
        masked = mean if half_maps.mask is None else mean * half_maps.mask
        found = guinier_b_factor(shell_power(masked).sqrt() * signal_share(fsc), fsc.size_angs, resolution)
        if isinstance(found, str):
            return Sharpened(None, None, f"none: {found}")
        value, note = found, f"B-factor {found:.0f} Å^2, fitted between {LOWEST_ANGS:g} and {resolution:.2f} Å"
    else:
        value = float(b_factor)
        note = f"B-factor {value:g} Å^2, as given"
    return Sharpened(times_radial(mean, sharpening_factors(fsc, value)), value, f"{note}; low-passed to {resolution:.2f} Å")


def guinier_b_factor(amplitudes: Tensor, size_angs: float, resolution_angs: float) -> float | str:
    """The B-factor in Å^2, negative, that undoes the decay of amplitudes; where the data do not allow a fit, why not.

    Parameters
    ----------
    amplitudes : `(shells,)` of the signal, in shells one cycle a box apart
    size_angs : side of the box
    resolution_angs : to which the line is fitted
    """
    if resolution_angs >= LOWEST_ANGS:
        return f"the resolution of {resolution_angs:.2f} Å does not reach {LOWEST_ANGS:g} Å, where a Guinier fit begins"
    shell = torch.arange(len(amplitudes))
    used = (shell >= size_angs / LOWEST_ANGS) & (shell <= size_angs / resolution_angs) & (amplitudes > 0)
    count = int(used.sum())
    if count < MIN_SHELLS:
        return (
            f"a Guinier fit needs {MIN_SHELLS} Fourier shells, and {count} lie between {LOWEST_ANGS:g} and {resolution_angs:.2f} Å"
        )
    x, y = (shell[used] / size_angs).double() ** 2, amplitudes[used].double().log()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    if slope >= 0:
        return f"amplitudes do not fall between {LOWEST_ANGS:g} and {resolution_angs:.2f} Å"
    return 4 * slope


def signal_share(fsc: FscCurves) -> Tensor:
    """By shell, the correlation of the mean of both halves with the signal, `sqrt(2 FSC / (1 + FSC))`, `(shells,)`."""
    correlation = fsc.corrected.clamp(min=0)
    return (2 * correlation / (1 + correlation)).sqrt()


def sharpening_factors(fsc: FscCurves, b_factor_angs2: float) -> Tensor:
    """What to multiply each shell of the mean map by: weight, sharpening and a soft low-pass at the resolution."""
    shell = torch.arange(len(fsc.corrected)).float()
    last = fsc.size_angs / fsc.resolution_angs
    edge = 0.5 * (1 + torch.cos(math.pi * ((shell - last) / EDGE_SHELLS + 0.5).clamp(0, 1)))
    factors = signal_share(fsc) * edge * torch.exp(-b_factor_angs2 / 4 * (shell / fsc.size_angs) ** 2)
    return torch.where(shell < first_below(edge, 1e-6), factors, 0.0)
