"""Central slices of a map's transform with their derivatives, as refinement needs them at every step.

The padded transform is kept together with its first and second derivatives, which are the transforms of the map times -2 pi i x and
-4 pi^2 x y, and so exact. A slice takes for each frequency the nearest node alone and goes on from it by Taylor's series to second
order, its gradient to first order. That reads one row of memory where trilinear interpolation reads eight, and is so much more
exact that the fit has no ripples between nodes to get caught on.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from cryopares_core.errors import UserError
from cryopares_core.memory import free_memory_bytes
from cryopares_core.progress import size_text
from cryopares_core.volumes.maps import resample_map

# How finely the transform is sampled: the error of a slice falls with the third power, the memory grows with it.
FINE_PADDING, COARSE_PADDING, LARGEST_FINE_BOX = 2.0, 1.5, 128
EDGE_PX = 3.0
MEMORY_SHARE = 0.8
# What a node has, each with real and imaginary part: value, derivatives by x, y, z, and by these pairs of them.
PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))
ROW = 2 * (1 + 3 + len(PAIRS))


class SliceTable:
    """The transform of one cubic map and its gradient on a grid, up to a resolution.

    Coordinates are RELION's: the map is `[z, y, x]`, turned about voxel `n // 2`, and `x_view = A x_map`. Frequencies are in cycles
    per Å, so that pictures may have any box and pixel size.

    Parameters
    ----------
    volume : `(n, n, n)` float32
    pixel_size_angs : of the map
    resolution_angs : nothing finer will be asked for
    mask_radius_angs : what lies further out is taken off, with a soft edge; by default the largest ball that fits
    device : where slices are made

    Raises UserError where the grid does not fit in memory.
    """

    def __init__(
        self,
        volume: np.ndarray,
        pixel_size_angs: float,
        resolution_angs: float,
        mask_radius_angs: float | None = None,
        device: torch.device | str = "cpu",
    ):
        volume, self.radius_angs = _masked(volume, pixel_size_angs, mask_radius_angs)
        extent_angs = len(volume) * pixel_size_angs
        size = min(len(volume), 2 * math.ceil(extent_angs / resolution_angs + 1))
        grid = 2 * math.ceil(size * (FINE_PADDING if size <= LARGEST_FINE_BOX else COARSE_PADDING) / 2)
        _check_memory(grid, resolution_angs)
        self._half, self._width = grid // 2, grid // 2 + 1
        self._nodes_angs = extent_angs * grid / size  # nodes in a cycle per Å
        self.finest_angs = self._nodes_angs / (self._half - 1)  # the last node is not its own mate
        self._rows = _rows(torch.from_numpy(resample_map(volume, size)), grid).to(device)

    @property
    def device(self) -> torch.device:
        return self._rows.device

    def __call__(self, poses: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
        """Slices and the gradient in the view's own axes.

        Parameters
        ----------
        poses : `(b, 3, 3)` pose matrices A
        xy : `(2, p)` frequencies of the pictures, cycles per Å, none finer than `finest_angs`

        Returns
        -------
        values : `(b, 2, p)`, real and imaginary part: F(A^T (x, y, 0)), the particle's centre as origin
        gradient : `(b, 3, 2, p)` its derivatives along the view's x, y and z, per cycle per Å
        """
        # A^T (x, y, 0): the first two rows of A alone count.
        places = (poses[:, :2].mT * self._nodes_angs) @ xy
        sign = torch.where(places[:, :1] < 0, -1.0, 1.0)  # only x >= 0 is kept: F(-q) is the conjugate of F(q)
        places = places * sign
        nodes = places.round()
        rows = self._rows.index_select(0, self._index(nodes).flatten()).view(len(poses), -1, ROW).mT.contiguous()
        value, slope, curvature = rows[:, :2], rows[:, 2:8].unflatten(1, (3, 2)), rows[:, 8:].unflatten(1, (-1, 2))
        ahead = places - nodes
        bend = _times_vector(curvature, ahead)
        halfway = torch.add(slope, bend, alpha=0.5)
        for axis in range(3):
            value = torch.addcmul(value, halfway[:, axis], ahead[:, axis, None])
        slope = (poses @ (slope + bend).flatten(2)).unflatten(2, (2, -1))
        value[:, 1] *= sign[:, 0]
        slope[:, :, 0] *= sign
        return value, slope * self._nodes_angs

    def _index(self, nodes: Tensor) -> Tensor:
        x, y, z = nodes.to(torch.int32).unbind(1)
        return ((z + self._half) * (2 * self._half) + (y + self._half)) * self._width + x


def _times_vector(matrix: Tensor, vector: Tensor) -> Tensor:
    """A symmetric matrix, given by its `PAIRS` `(b, 6, 2, p)`, times a vector `(b, 3, p)`: `(b, 3, 2, p)`."""
    product = torch.zeros_like(matrix[:, :3])
    for pair, (first, second) in enumerate(PAIRS):
        for row, column in {(first, second), (second, first)}:
            product[:, row].addcmul_(matrix[:, pair], vector[:, column, None])
    return product


def _masked(volume: np.ndarray, pixel_size_angs: float, radius_angs: float | None) -> tuple[np.ndarray, float]:
    """The map within a soft ball, cropped to it, of deviation 1, and the ball's radius in Å. A small box needs fewer nodes."""
    n = len(volume)
    largest = n / 2 - EDGE_PX
    radius = min(largest, (radius_angs or math.inf) / pixel_size_angs)
    axis = np.arange(n) - n // 2
    distance = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    mask = 0.5 * (1 + np.cos(math.pi * np.clip((distance - radius) / EDGE_PX, 0, 1)))
    side = min(n, 2 * math.ceil(radius + EDGE_PX))
    kept = slice(n // 2 - side // 2, n // 2 - side // 2 + side)
    masked = (volume * mask).astype(np.float32)[kept, kept, kept]
    return masked / max(float(masked.std()), 1e-30), radius * pixel_size_angs


def _check_memory(grid: int, resolution_angs: float) -> None:
    needed, free = 5 * ROW * grid**2 * (grid // 2 + 1), free_memory_bytes()
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"The map's transform to {resolution_angs:g} Å needs {size_text(needed)} of memory, {size_text(free)} are free. "
            "Give a coarser --resolution_angs or a smaller --mask_radius_angs."
        )


def _rows(volume: Tensor, grid: int) -> Tensor:
    """`(N * N * (N // 2 + 1), 20)`: nodes z and y from -N/2, x from 0; each with the transform and its derivatives by nodes."""
    place = (torch.arange(len(volume)) - len(volume) // 2) * (-2 * math.pi / grid)
    axes = place, place[:, None], place[:, None, None]
    rows = torch.empty(grid, grid, grid // 2 + 1, ROW // 2, dtype=torch.complex64)
    rows[..., 0] = _padded_transform(volume, grid)
    for number, axis in enumerate(axes, start=1):
        rows[..., number] = 1j * _padded_transform(volume * axis, grid)
    for number, (first, second) in enumerate(PAIRS, start=4):
        rows[..., number] = -_padded_transform(volume * axes[first] * axes[second], grid)
    return torch.view_as_real(rows).view(-1, ROW)


def _padded_transform(volume: Tensor, grid: int) -> Tensor:
    """The transform of a map about its centre voxel, padded to `grid`: `(N, N, N // 2 + 1)`, z and y from -N/2."""
    n = len(volume)
    before = grid // 2 - n // 2
    padded = functional.pad(volume.float(), (before, grid - n - before) * 3)
    return torch.fft.fftshift(torch.fft.rfftn(torch.fft.ifftshift(padded)), dim=(0, 1))
