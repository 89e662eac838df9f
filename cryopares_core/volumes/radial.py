"""Maps by Fourier shell: their power, and factors that depend on the frequency's length alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PLANES = 16  # of a transform that are looked at together: large maps leave little memory


def radii(size: int, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Some planes of an rfftn after the other, and how far from the origin each of their places lies, in cycles a box."""
    k = torch.fft.fftfreq(size, 1 / size, device=device)
    x = torch.arange(size // 2 + 1, device=device)
    for start in range(0, size, PLANES):
        part = slice(start, min(start + PLANES, size))
        yield part, (k[part, None, None] ** 2 + k[:, None] ** 2 + x**2).sqrt()


def shell_power(volume: Tensor) -> Tensor:
    """The mean squared amplitude of a map's transform in shells 0 ... n // 2, `(n // 2 + 1,)` float32 on the CPU."""
    size = len(volume)
    spectrum = torch.fft.rfftn(volume)
    power, places = torch.zeros(2, size, dtype=torch.float64, device=volume.device)
    for part, radius in radii(size, volume.device):
        shells = radius.round().long().flatten()
        power += torch.bincount(shells, (spectrum[part].abs() ** 2).flatten().double(), minlength=size)
        places += torch.bincount(shells, minlength=size)
    return (power / places.clamp(min=1))[: size // 2 + 1].float().cpu()


def times_radial(volume: Tensor, factors: Tensor) -> Tensor:
    """A map times factors by shell `(n // 2 + 1,)`, between shells by a straight line, beyond the last by the last."""
    size = len(volume)
    spectrum, factors = torch.fft.rfftn(volume), factors.to(volume)
    for part, radius in radii(size, volume.device):
        low = radius.long().clamp(max=len(factors) - 1)
        high = (low + 1).clamp(max=len(factors) - 1)
        spectrum[part] *= torch.lerp(factors[low], factors[high], radius - radius.floor())
    return torch.fft.irfftn(spectrum, s=volume.shape)
