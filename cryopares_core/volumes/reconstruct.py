"""A map from pictures with known poses: each picture's transform is a central slice of the map's.

The transfer functions enter as in a Wiener filter (`sum c Y / sum c^2` over all slices through a frequency), and two maps from
the two halves of the pictures tell, shell by shell, how much of the sum is signal.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

PADDING = 2  # of the grid that slices are added to, per axis: the interpolation's error falls with its square
BATCH_POINTS = 2_000_000


class SliceAccumulator:
    """The sums of slices and of their weights on a padded Fourier grid, for two halves of the pictures.

    Coordinates are RELION's, as in `Projector`: `F_picture(kx, ky) = c(kx, ky) F_map(A^T (kx, ky, 0))`.

    Parameters
    ----------
    size : side n of the pictures and of the map, px
    device : where the work is done
    """

    def __init__(self, size: int, device: torch.device | str = "cpu"):
        self.size = size
        self._grid = 2 * math.ceil(size * PADDING / 2)
        grid = self._grid
        # z and y run from -N/2 to N/2, x from 0 to N/2 (with a row more than can be met); real part, imaginary part, weight.
        self._shape = (grid + 2, grid + 2, grid // 2 + 2)
        self._sums = torch.zeros(2, math.prod(self._shape), 3, device=device)
        ky = torch.fft.fftfreq(size, 1 / size, device=device).round()[:, None].expand(-1, size // 2 + 1)
        kx = torch.arange(size // 2 + 1, device=device).expand(size, -1).float()
        self._inside = kx**2 + ky**2 < (size / 2) ** 2
        self._frequencies = torch.stack((kx, ky), dim=-1)[self._inside] * (grid / size)
        # Pictures are centred on pixel n // 2, the map's transform on its centre voxel.
        self._centring = torch.polar(torch.ones_like(kx), 2 * math.pi * (size // 2) / size * (kx + ky))

    def add(self, pictures: Tensor, transfer: Tensor, poses: Tensor, half: int) -> None:
        """Add pictures to one half's sums.

        Parameters
        ----------
        pictures : `(b, n, n)`, centred
        transfer : `(b, n, n // 2 + 1)` what the map's slices were multiplied by, in rfft layout
        poses : `(b, 3, 3)` pose matrices A
        half : 0 or 1
        """
        portion = max(1, BATCH_POINTS // len(self._frequencies))
        for part in torch.arange(len(pictures), device=pictures.device).split(portion):
            spectra = (torch.fft.rfft2(pictures[part].float()) * self._centring)[:, self._inside]
            weight = transfer[part].float()[:, self._inside]
            # A^T (kx, ky, 0) as a row vector is (kx, ky, 0) A.
            self._insert(self._frequencies @ poses[part].to(weight)[:, :2], spectra * weight, weight.square(), self._sums[half])

    def _insert(self, points: Tensor, values: Tensor, weights: Tensor, sums: Tensor) -> None:
        """Trilinear interpolation's transpose. The half with x < 0 is the other's complex conjugate."""
        sign = torch.where(points[..., 0] < 0, -1.0, 1.0)
        rows = torch.stack((values.real, values.imag * sign, weights), dim=-1).view(-1, 3)
        places = (points * sign[..., None]).view(-1, 3)
        places[:, 1:] += self._grid // 2
        corner = places.floor()
        share = places - corner
        corner = corner.long()
        _, height, width = self._shape
        for dx, dy, dz in itertools.product((0, 1), repeat=3):
            part = torch.ones_like(share[:, 0])
            for axis, step in enumerate((dx, dy, dz)):
                part = part * (share[:, axis] if step else 1 - share[:, axis])
            index = ((corner[:, 2] + dz) * height + corner[:, 1] + dy) * width + corner[:, 0] + dx
            sums.index_add_(0, index, rows * part[:, None])

    def finish(self) -> tuple[Tensor, Tensor]:
        """The map `(n, n, n)` `[z, y, x]` float32, filtered by its own signal, and the Fourier shell correlation of the halves.

        This ends the sums: nothing can be added afterwards.

        The correlation is that of shells 0 ... n // 2 in steps of one frequency of the box, `(n // 2 + 1,)`.
        """
        sums = self._with_mates()
        first, second = (self._spectrum(half) for half in sums)
        correlation = self._shell_correlation(first, second)
        del first, second
        # The signal's share of the sum of both halves (Rosenthal and Henderson 2003, doi:10.1016/j.jmb.2003.07.013).
        kept = 2 * correlation / (1 + correlation)
        spectrum = self._spectrum(sums[0].add_(sums[1]))
        spectrum *= kept[self._shells().clamp(max=len(kept) - 1)]
        return self._map(spectrum), correlation

    def _with_mates(self) -> Tensor:
        """Sums `(2, N, N, N // 2 + 1, 3)`, taken out of here; in the plane x = 0 mates of opposite sign are brought together."""
        grid = self._grid
        sums = self._sums.view(2, *self._shape, 3)[:, : grid + 1, : grid + 1, : grid // 2 + 1]
        self._sums = self._sums[:, :0]  # the grids are large, and add no more
        plane = sums[:, :, :, 0]
        conjugate = torch.tensor([1.0, -1.0, 1.0], device=sums.device)
        sums[:, :, :, 0] = plane + plane.flip((1, 2)) * conjugate
        return sums[:, :grid, :grid]

    def _spectrum(self, sums: Tensor) -> Tensor:
        """The map's transform from sums, in rfft layout."""
        return torch.fft.ifftshift(_quotient(sums), dim=(0, 1))

    def _shells(self) -> Tensor:
        """The shell of each place of the grid, in frequencies of the box."""
        grid, device = self._grid, self._sums.device
        k = torch.fft.fftfreq(grid, 1 / self.size, device=device)
        kx = torch.fft.rfftfreq(grid, 1 / self.size, device=device)
        return torch.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + kx**2).round().long()

    def _shell_correlation(self, first: Tensor, second: Tensor) -> Tensor:
        """By shell; from the first one without correlation on, 0."""
        count = self.size // 2 + 1
        shells = self._shells().flatten()
        inside = shells < count

        def shell_sum(values: Tensor) -> Tensor:
            return torch.zeros(count, device=values.device).index_add_(0, shells[inside], values.flatten()[inside])

        cross = shell_sum((first * second.conj()).real)
        power = shell_sum(first.abs() ** 2) * shell_sum(second.abs() ** 2)
        correlation = (cross / power.sqrt().clamp(min=1e-30)).clamp(0, 1)
        return correlation * (correlation > 0.05).float().cumprod(dim=0)

    def _map(self, spectrum: Tensor) -> Tensor:
        padded = torch.fft.fftshift(torch.fft.irfftn(spectrum, s=(self._grid,) * 3))
        start = self._grid // 2 - self.size // 2
        kept = slice(start, start + self.size)
        volume = padded[kept, kept, kept]
        # Linear interpolation in Fourier space multiplies the map by sinc^2 along each axis.
        falloff = torch.sinc((torch.arange(self.size, device=volume.device) - self.size // 2) / self._grid) ** 2
        return volume / (falloff[:, None, None] * falloff[:, None] * falloff)


def _quotient(sums: Tensor) -> Tensor:
    """Weighted means where there are slices. A hundredth of the mean weight keeps places that hardly any slice met from noise."""
    weight = sums[..., 2]
    floor = 0.01 * weight.mean()
    return torch.complex(sums[..., 0], sums[..., 1]) / (weight + floor).clamp(min=1e-30)
