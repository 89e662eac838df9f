"""The pictures of a table, read in file order and added to the sums of two half maps by all processors.

Threads never share sums: each half has one or more of its own, as far as the memory reaches, which are added up at the end. So no
thread waits for another, and one core or sixteen give the same sums to rounding.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle

import numpy as np
import torch

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.prepare import batches_of_files, picture_problems, read_ahead, shortened_problems
from cryopares_core.particles.preprocess import circular_mask
from cryopares_core.particles.table import ParticleTable
from cryopares_core.volumes.fourier_sums import FourierSums
from cryopares_core.volumes.slices import PictureSlices
from cryopares_core.volumes.transfers import Transfers

logger = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
BATCH_BYTES = 16_000_000  # of pictures that are read at once
LARGEST_BATCH = 256
WAITING = 2  # batches of each worker that lie in memory


class Inserter:
    """Adds particles of a table to sums.

    Parameters
    ----------
    table : of particles of one box and pixel size
    weights : `(n,)` of each particle
    radius : of the slices, in cycles a box; None for all
    """

    def __init__(
        self, table: ParticleTable, weights: np.ndarray, radius: float | None, device: torch.device | str, use_ctf: bool = True
    ):
        self.table, self.radius, self.device = table, radius, torch.device(device)
        self.size, self.pixel_size_angs = int(table.image_size_px[0]), float(table.pixel_size_angs[0])
        self._weights = torch.tensor(weights, dtype=torch.float32)
        self._poses = euler_degs_to_matrix(torch.tensor(table.eulers_deg)).float()
        self._origins_px = torch.tensor(table.shifts_angs / self.pixel_size_angs)
        self._slices = PictureSlices(self.size, self.device, radius)
        self._transfers = Transfers(table, self._slices.frequencies / (self.size * self.pixel_size_angs), use_ctf)
        outside = 1 - circular_mask(self.size, self.size / 2, device=self.device).flatten()
        self._background = outside / outside.sum()

    @property
    def frequencies(self) -> int:
        """How many of them each picture has."""
        return self._slices.frequencies.shape[1]

    def new_sums(self) -> FourierSums:
        """Sums that are still empty."""
        return FourierSums(self.size, self.device, self.radius)

    @torch.no_grad()
    def add(self, sums: FourierSums, indices: np.ndarray, images: np.ndarray) -> None:
        """Add the pictures `(b, n, n)` of particles `indices` `(b,)`."""
        chosen = torch.from_numpy(indices)
        pictures = torch.from_numpy(images).to(self.device)
        # A constant background says nothing of the particle, and its transform is large.
        pictures = pictures - (pictures.flatten(1) @ self._background)[:, None, None]
        factor, weight = self._transfers(chosen)
        each = self._weights[chosen, None].to(self.device)
        values = self._slices.spectra(pictures, self._origins_px[chosen]) * (factor * each)
        points = self._slices.points(self._poses[chosen], sums.grid / self.size)
        sums.add(points, values.view(-1), (weight * each).view(-1))


def sum_halves(inserter: Inserter, workers_of_half: int, progress: Progress | None = None) -> list[FourierSums]:
    """The sums of half sets 1 and 2, by `workers_of_half` threads each.

    Raises
    ------
    UserError : with the names of all pictures that are constant or hold values that are not finite; or a stack cannot be read
    """
    table, problems, done = inserter.table, list[str](), 0
    batch = int(np.clip(BATCH_BYTES // (4 * inserter.size**2), 1, LARGEST_BATCH))
    with ExitStack() as stack:
        halves = [[_Worker(inserter, stack) for _ in range(workers_of_half)] for _ in (1, 2)]
        turns = [cycle(half) for half in halves]
        for _, indices, images in read_ahead(table, enumerate(batches_of_files(table, batch))):
            found = picture_problems(table, indices, images)
            problems += found
            for half, turn in enumerate(turns, start=1):
                mine = table.half_set[indices] == half
                if not problems and mine.any():
                    next(turn).add(indices[mine], images[mine])
            done += len(indices)
            if progress:
                progress(done, len(table))
        if problems:
            raise UserError(shortened_problems(problems))
        return [_added_up([worker.finish() for worker in half]) for half in halves]


class _Worker:
    """A thread with sums of its own; a few batches wait for it, no more."""

    def __init__(self, inserter: Inserter, stack: ExitStack):
        self._inserter, self._sums = inserter, inserter.new_sums()
        self._pool = stack.enter_context(ThreadPoolExecutor(max_workers=1))
        self._waiting: deque[Future[None]] = deque()

    def add(self, indices: np.ndarray, images: np.ndarray) -> None:
        if len(self._waiting) == WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._inserter.add, self._sums, indices, images))

    def finish(self) -> FourierSums:
        for waiting in self._waiting:
            waiting.result()
        return self._sums


def _added_up(parts: list[FourierSums]) -> FourierSums:
    """All in the first; the others are given up one by one."""
    while len(parts) > 1:
        parts[0].merge(parts.pop())
    return parts[0]
