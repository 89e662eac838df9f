"""Sums of a map's central slices on a padded Fourier grid, and the map that they make.

A slice's frequencies fall between the grid's places. Each is shared among the eight corners around it, as trilinear
interpolation would, with its weight. That multiplies the map by sinc^2 along each axis: a known falloff, divided out at the end.
The sum of values is divided by the density of the weights (see `density`), not by each place's own weight: places lie closer
together than the map's transform can change, and their mean should count each with its weight. Only the half with x >= 0 is
stored, since a real map's transform is its own mate: `F(-k)` is the complex conjugate of `F(k)`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cryopares_core.volumes.density import sampling_density
from cryopares_core.volumes.threads import in_threads

PADDING = 2  # of the grid, per axis: the interpolation's error falls with its square
BLOCK = 16_384  # points that are added at once: with all corners they fit in the processor's cache, and calls cost little
BYTES_A_PLACE = 12
COLUMNS_AT_ONCE = 16  # of the grid, in the last transforms


class FourierSums:
    """The sums of one map's slices and of their weights.

    Coordinates are xyz in places of the grid, `grid / size` to one cycle a box. z and y run from `-reach` to `reach + 1`, x from 0
    to `reach + 1`; the last place of each is hardly ever met.

    Parameters
    ----------
    size : side n of the map, px
    device : where the work is done
    radius : slices have no frequencies beyond this one, in cycles a box; by default half the box
    """

    def __init__(self, size: int, device: torch.device | str = "cpu", radius: float | None = None):
        self.size, self.grid = size, padded_side(size)
        self.reach = _reach(size, radius)
        self.shape = _shape(self.reach)
        self.values = torch.zeros(math.prod(self.shape), dtype=torch.complex64, device=device)
        self.weights = torch.zeros(math.prod(self.shape), device=device)
        # By axis (x, y, z) whether the sums were interpolated once more, and the share of the sums that were: see `symmetrise`.
        self.blurred = {(False, False, False): 1.0}

    def add(self, points: Tensor, values: Tensor, weights: Tensor) -> None:
        """Add frequencies of slices.

        Parameters
        ----------
        points : `(3, k)` where they lie
        values : `(k,)` complex, times their weights
        weights : `(k,)`
        """
        sign = torch.where(points[0] < 0, -1.0, 1.0)
        points = points * sign
        # Plane after plane, so that what points are added to stays in the processor's cache.
        for part in points[2].short().sort(stable=True).indices.split(BLOCK):
            mine = values.index_select(0, part)
            self._add(points.index_select(1, part), mine.real, mine.imag * sign[part], weights.index_select(0, part))

    def _add(self, points: Tensor, real: Tensor, imaginary: Tensor, weights: Tensor) -> None:
        places, shares = self.corners(points)
        places, real = places.view(-1), real.contiguous()
        self.values.scatter_add_(0, places, torch.complex(shares * real, shares * imaginary).view(-1))
        self.weights.scatter_add_(0, places, (shares * weights).view(-1))

    def corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """The eight places around points `(3, k)` with x >= 0, and their shares, which add up to 1: `(8, k)` each."""
        low = points.floor()
        above = points - low
        shares = torch.stack((1 - above, above), dim=1)
        shares = shares[2][:, None, None] * shares[1][:, None] * shares[0]
        height, width = self.shape[1:]
        first = ((low[2] + self.reach) * height + (low[1] + self.reach)).long() * width + low[0].long()
        z, y, x = torch.meshgrid(*[torch.arange(2, device=points.device)] * 3, indexing="ij")
        return first + ((z * height + y) * width + x).view(-1, 1), shares.view(8, -1)

    def merge(self, other: FourierSums) -> None:
        """Add all that another one holds."""
        self.values += other.values
        self.weights += other.weights

    def join_mates(self) -> None:
        """In the plane x = 0 both mates are stored: bring them together. To be done once, when all slices are there."""
        for sums in (self.values, self.weights):
            plane = sums.view(self.shape)[: 2 * self.reach + 1, : 2 * self.reach + 1, 0]
            plane += plane.flip((0, 1)).conj()

    def rows(self) -> Tensor:
        """Where z and y of the places that count lie, `(m,)`: at the end of the grid -N/2 and N/2 are the same."""
        return torch.arange(min(2 * self.reach + 1, self.grid), device=self.values.device) - self.reach

    def inner(self, sums: Tensor) -> Tensor:
        """A view of `values` or `weights` without the places that do not count, `(m, m, reach + 1)`."""
        count = len(self.rows())
        return sums.view(self.shape)[:count, :count, : self.reach + 1]

    def shells(self, rows: slice = slice(None)) -> Tensor:
        """The shell, in whole cycles a box, of places in some rows of y: `(m, rows, reach + 1)`."""
        z, x = self.rows(), torch.arange(self.reach + 1, device=self.values.device)
        square = z[:, None, None] ** 2 + z[rows, None] ** 2 + x**2
        return (square.float().sqrt() * (self.size / self.grid)).round().long()

    def shell_weights(self) -> Tensor:
        """The mean weight of a place in shells 0 ... n // 2, `(n // 2 + 1,)`."""
        count = self.size // 2 + 1
        total, places = torch.zeros(2, count + 1, dtype=torch.float64, device=self.values.device)
        for rows in self._columns():
            shells = self.shells(rows).clamp(max=count).flatten()
            total += torch.bincount(shells, self.inner(self.weights)[:, rows].flatten().double(), minlength=count + 1)
            places += torch.bincount(shells, minlength=count + 1)
        return (total / places.clamp(min=1))[:count].float()

    def map(self, damping: Tensor, kept: Tensor | None = None, workers: int = 1) -> Tensor:
        """The map `(n, n, n)` `[z, y, x]` float32 of the values over the density of the weights.

        Parameters
        ----------
        damping : `(n // 2 + 1,)` by shell, added to the density: what keeps places that hardly any slice met from noise
        kept : `(n // 2 + 1,)` factors by shell
        workers : threads
        """
        density = self.density(workers)
        # Axis after axis, each cropped at once: the whole padded map would take eight times as much memory.
        n, grid, rows = self.size, self.grid, self.rows()
        wanted = (torch.arange(n, device=rows.device) - n // 2) % grid
        half = torch.empty(n, len(rows), self.reach + 1, dtype=torch.complex64, device=rows.device)
        volume = torch.empty(n, n, n, device=rows.device)

        def along_z(part: slice) -> None:
            half[:, part] = _inverse(self.quotient(damping, part, kept, density), 0, rows, grid)[wanted]

        def along_y_and_x(part: slice) -> None:
            plane = _inverse(half[part], 1, rows, grid)[:, wanted]
            volume[part] = torch.fft.irfft(plane, n=grid)[..., wanted] / self._falloff(part)

        in_threads(along_z, self._columns(), workers)
        in_threads(along_y_and_x, _slices(n, COLUMNS_AT_ONCE), workers)
        return volume

    def density(self, workers: int = 1) -> Tensor:
        """The weights' density at each place, laid out as `weights`; see `sampling_density`. To be called with mates joined."""
        found = torch.zeros_like(self.weights)
        there = (slice(2 * self.reach + 1), slice(2 * self.reach + 1), slice(self.reach + 1))
        found.view(self.shape)[there] = sampling_density(self.weights.view(self.shape)[there], workers)
        return found

    def quotient(
        self, damping: Tensor, rows: slice = slice(None), kept: Tensor | None = None, density: Tensor | None = None
    ) -> Tensor:
        """The map's transform in some rows of y, `(m, rows, reach + 1)`; see `map`. Without a density, each place by itself."""
        shells = self.shells(rows).clamp(max=len(damping) - 1)
        divisor = self.inner(self.weights if density is None else density)[:, rows] + damping[shells]
        spectrum = self.inner(self.values)[:, rows] / divisor.clamp(min=1e-30)
        return spectrum if kept is None else spectrum * kept[shells]

    def _falloff(self, part: slice) -> Tensor:
        """What linear interpolation in Fourier space has multiplied some planes by: sinc^2 along each axis, each time."""
        axis = torch.sinc((torch.arange(self.size, device=self.values.device) - self.size // 2) / self.grid) ** 2
        x, y, z = axis, axis[:, None], axis[part, None, None]
        again = sum(share * (x**in_x * y**in_y * z**in_z) for (in_x, in_y, in_z), share in self.blurred.items())
        return x * y * z * again

    def _columns(self) -> Iterator[slice]:
        return _slices(len(self.rows()), COLUMNS_AT_ONCE)


def padded_side(size: int) -> int:
    """Side of the grid, even, for maps of `size` px."""
    return 2 * math.ceil(size * PADDING / 2)


def sums_bytes(size: int, radius: float | None = None) -> int:
    """Memory that one `FourierSums` takes."""
    return BYTES_A_PLACE * math.prod(_shape(_reach(size, radius)))


def _reach(size: int, radius: float | None) -> int:
    grid = padded_side(size)
    return min(grid // 2, math.ceil(min(radius or math.inf, size / 2) * grid / size))


def _shape(reach: int) -> tuple[int, int, int]:
    return 2 * reach + 2, 2 * reach + 2, reach + 2


def _slices(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _inverse(spectrum: Tensor, dim: int, rows: Tensor, grid: int) -> Tensor:
    """The inverse transform along an axis whose places lie at `rows`; the others, up to `grid`, are 0."""
    shape = list(spectrum.shape)
    shape[dim] = grid
    padded = torch.zeros(shape, dtype=spectrum.dtype, device=spectrum.device)
    return torch.fft.ifft(padded.index_copy_(dim, rows % grid, spectrum), dim=dim)
