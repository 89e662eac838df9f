"""The likelihood of images under a map, for all rotations of a grid at once.

With the noise whitened, image X, transfer function c and slice F_R of the map, `f(R, t) = <c X_t, F_R> / sqrt(<c^2, |F_R|^2>)` is
the matched filter, and `f^2` is the log-likelihood ratio with the scale of the image profiled out, for complex noise of unit
variance. Both scalar products are matrix products over the grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.memory import free_memory_bytes
from cryopares_core.progress import size_text
from cryopares_core.refinement.fit import SMALLEST, Observed
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.search.grid import SearchGrid

CHUNK_ROWS = 4096  # of slices that are made at once
CHUNK_VALUES = {"cpu": 4_000_000, "cuda": 200_000_000}  # of gathered slices
MEMORY_SHARE = 0.6
MAKING = 1.3  # the memory while the tables are made, over that of the tables


class MapLikelihood:
    """The slices of one map on a grid, at the lowest frequencies of the images.

    Parameters
    ----------
    slices : of the map, on the device
    xy : `(2, p)` frequencies, cycles per Å, the lowest ones of the images

    Raises
    ------
    UserError : the tables do not fit in memory
    """

    def __init__(self, slices: SliceTable, xy: Tensor, grid: SearchGrid):
        self.grid, self.xy = grid, xy
        _check_memory(grid.n_rows, xy.shape[1], slices.device)
        poses = grid.pose_matrices[grid.row_points].to(slices.device)
        chunks = [slices(chunk, xy)[0] for chunk in poses.split(CHUNK_ROWS)]
        self.real, self.imaginary = (torch.cat([chunk[:, part] for chunk in chunks]) for part in (0, 1))
        self.power = self.real.square() + self.imaginary.square()

    def all_scores(self, seen: Observed, offsets_angs: Tensor) -> tuple[Tensor, Tensor]:
        """The best score over the shifts at each point of the grid.

        Parameters
        ----------
        seen : b images at the frequencies of the table, or at fewer, the lowest
        offsets_angs : `(t, 2)` shifts to try, in Å

        Returns
        -------
        scores : `(b, points)`
        offset : `(b, points)` the place of the best shift
        """
        images, count = seen.data * seen.transfer[:, None], seen.xy.shape[1]
        table_real, table_imaginary = self.real[:, :count], self.imaginary[:, :count]
        norm = (seen.transfer.square() @ self.power[:, :count].T).clamp(min=SMALLEST).rsqrt()
        best, place = None, None
        for number, (cos, sin) in enumerate(_waves(offsets_angs, seen.xy)):
            real, imaginary = _times_wave(images, (cos, sin))
            along, across = (real @ table_real.T) * norm, (imaginary @ table_imaginary.T) * norm
            scores = self.grid.pair_up(along + across, along - across)
            if best is None or place is None:
                best, place = scores, torch.zeros(scores.shape, dtype=torch.int16, device=scores.device)
                continue
            better = scores > best
            best = torch.where(better, scores, best)
            place.masked_fill_(better, number)
        assert best is not None and place is not None
        return best, place

    def scores_of_rows(self, seen: Observed, rows: Tensor, offsets_angs: Tensor) -> tuple[Tensor, Tensor]:
        """As `all_scores`, at some rows of each image and at their mates; elsewhere the score is minus infinity.

        Parameters
        ----------
        rows : `(b, k)`
        """
        images = seen.data * seen.transfer[:, None]
        scores = images.new_full((len(images), 2, self.grid.n_rows), -math.inf)
        place = torch.zeros(scores.shape, dtype=torch.int16, device=scores.device)
        cos, sin = _waves(offsets_angs, self.xy).permute(1, 2, 0)
        real, imaginary = _times_wave(images[..., None], (cos, sin))  # (b, p, t): the image moved by each shift
        for first, last in self._chunks(rows):
            some = rows[first:last]
            along, across = self.real[some] @ real[first:last], self.imaginary[some] @ imaginary[first:last]
            norm = (self.power[some] @ seen.transfer[first:last, :, None].square()).clamp(min=SMALLEST).rsqrt()
            for mate, values in enumerate((along + across, along - across)):
                best, number = (values * norm).max(dim=2)
                scores[first:last, mate].scatter_(1, some, best)
                place[first:last, mate].scatter_(1, some, number.to(torch.int16))
        return self.grid.pair_up(*scores.unbind(1)), self.grid.pair_up(*place.unbind(1))

    def _chunks(self, rows: Tensor) -> list[tuple[int, int]]:
        size = max(1, CHUNK_VALUES[rows.device.type] // (rows.shape[1] * self.xy.shape[1]))
        return [(first, min(first + size, len(rows))) for first in range(0, len(rows), size)]


def _waves(offsets_angs: Tensor, xy: Tensor) -> Tensor:
    """`(t, 2, p)`: cosine and sine of the phase that each shift takes off an image."""
    angle = (2 * math.pi) * (offsets_angs.to(xy) @ xy)
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def _times_wave(images: Tensor, wave: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of images `(b, 2, p, …)` moved by shifts: times `exp(-i angle)`, given by cosine and sine."""
    cos, sin = wave
    return images[:, 0] * cos + images[:, 1] * sin, images[:, 1] * cos - images[:, 0] * sin


def table_bytes(n_rows: int, n_frequencies: int) -> int:
    """The memory that the tables of one map take."""
    return 3 * 4 * n_rows * n_frequencies


def fits_in_memory(needed_bytes: float, device: torch.device) -> bool:
    """Whether tables of this size leave room for the rest."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory_bytes()
    return MAKING * needed_bytes <= MEMORY_SHARE * free


def _check_memory(n_rows: int, n_frequencies: int, device: torch.device) -> None:
    needed = table_bytes(n_rows, n_frequencies)
    if not fits_in_memory(needed, device):
        raise UserError(
            f"The slices of the map on the search grid need {size_text(MAKING * needed)} of memory, and less is free. "
            "End other programs that use the memory, or use particles in a smaller box."
        )
