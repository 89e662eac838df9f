"""Local refinement of poses and shifts against a map, or a map for each half set."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.machine import exact_products
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.calibration import Calibration
from cryopares_core.refinement.maps import HalfMaps, Reference
from cryopares_core.refinement.pictures import Block, PictureSource, check_resolution
from cryopares_core.refinement.results import RefinedPoses, best_start, not_refined
from cryopares_core.refinement.start import RefineSettings, StartRefiner
from cryopares_core.refinement.weights import equal_weights
from cryopares_core.volumes.threads import one_thread_an_operation

Progress = Callable[[int, int], None]
CALIBRATION_PICTURES = 400  # of each box and pixel size


def refine_poses(
    table: ParticleTable,
    references: Mapping[int, Reference],
    start_poses: Tensor,
    start_shifts_angs: Tensor,
    settings: RefineSettings | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> RefinedPoses:
    """Refine all particles of a table. `Refiner` does the same part by part.

    Parameters
    ----------
    references : a map for each half set, 1 and 2; may be the same
    start_poses : `(n, k, 3, 3)`, the k likeliest of each particle
    start_shifts_angs : `(n, 2)`
    progress : called with the number of particles done and their total

    Raises
    ------
    UserError : pictures cannot be read, or show something else than the map
    """
    refiner = Refiner(table, references, settings or RefineSettings(), device)
    refiner.calibrate(start_poses, start_shifts_angs)
    return refiner(np.arange(len(table)), start_poses, start_shifts_angs, progress)


class Refiner:
    """Refines particles of one table, part by part.

    Parameters
    ----------
    references : a map for each half set, 1 and 2; may be the same
    device : where the work is done

    Raises UserError where the maps' transforms do not fit in memory, or next to nothing is to be looked at.
    """

    def __init__(
        self,
        table: ParticleTable,
        references: Mapping[int, Reference],
        settings: RefineSettings,
        device: torch.device | str = "cpu",
    ):
        self.table, self.settings, self.device = table, settings, torch.device(device)
        self.maps = HalfMaps(references, table.half_set, settings, self.device)
        self.resolution_angs = max(settings.resolution_angs, self.maps.finest_angs)
        check_resolution(table, settings.resolution_angs, self.maps.finest_angs)
        self.source = PictureSource(table, self.resolution_angs, settings.use_ctf, self.device)
        kinds = self.source.kinds
        self.weights = {kind: equal_weights(kind) for kind in kinds}
        self._refiners = {(slices, kind): StartRefiner(slices, kind, settings) for slices in self.maps.all for kind in kinds}

    def calibrate(self, start_poses: Tensor, start_shifts_angs: Tensor) -> None:
        """Learn how strong noise and signal are, from some particles at their starts and, better, at their refined poses.

        Parameters
        ----------
        start_poses, start_shifts_angs : of all particles of the table, `(n, k, 3, 3)` or `(n, 3, 3)`, and `(n, 2)`

        Raises
        ------
        UserError : the pictures show the negative of the map, or nothing at all
        """
        chosen = self.calibrated_by()
        starts = start_poses if start_poses.ndim == 4 else start_poses[:, None]
        self.calibrate_by(chosen, starts[chosen], start_shifts_angs[chosen])

    def calibrated_by(self) -> np.ndarray:
        """The particles `(m,)` of the table that it learns from."""
        return self.source.some(CALIBRATION_PICTURES)

    def calibrate_by(self, chosen: np.ndarray, start_poses: Tensor, start_shifts_angs: Tensor) -> None:
        """As `calibrate`, with the starts of particles `chosen` `(m,)` alone, `(m, k, 3, 3)` and `(m, 2)` or `(m, k, 2)`."""
        poses, shifts = start_poses.float().clone(), _of_each_start(start_shifts_angs, start_poses.shape[1])
        blocks = [block for block in self.source.blocks(chosen) if len(block)]
        if not blocks:
            raise UserError(
                "All pictures that were looked at are constant or hold impossible values (NaN, infinite, huge): extract them again."
            )
        calibration = Calibration(self.source, self.maps, blocks)
        with exact_products():
            self.weights = calibration.weights(poses[:, 0], shifts[:, 0])
            calibration.judge(self.weights, poses[:, 0], shifts[:, 0])
            for block, found in self._refined(blocks, poses, shifts):
                poses[block.rows, 0], shifts[block.rows, 0] = torch.from_numpy(found.poses), torch.from_numpy(found.shifts_angs)
            self.weights = calibration.weights(poses[:, 0], shifts[:, 0])

    def __call__(
        self, indices: np.ndarray, start_poses: Tensor, start_shifts_angs: Tensor, progress: Progress | None = None
    ) -> RefinedPoses:
        """Refine some particles.

        Parameters
        ----------
        indices : `(m,)` of the table
        start_poses, start_shifts_angs : theirs, `(m, k, 3, 3)`, and `(m, 2)` or, for each start, `(m, k, 2)`
        progress : called with the number of particles done and their total
        """
        starts, shifts, done = start_poses.float(), _of_each_start(start_shifts_angs, start_poses.shape[1]), 0
        refined = not_refined(starts[:, 0], shifts[:, 0])
        with exact_products():
            for block, found in self._refined(self.source.blocks(indices), starts, shifts):
                refined.set_rows(block.rows, found)
                done += len(block)
                if progress:
                    progress(done, len(indices))
        if progress and done < len(indices):  # the rest are broken
            progress(len(indices), len(indices))
        return refined

    def _refined(self, blocks: Iterable[Block], starts: Tensor, shifts: Tensor) -> Iterator[tuple[Block, RefinedPoses]]:
        """Each block with what was found. On a processor several threads have a block each: a step is many small operations, and
        threads that share each of them mostly wait for each other.
        """
        waiting: deque[tuple[Block, Future[RefinedPoses]]] = deque()
        with one_thread_an_operation() as threads, ThreadPoolExecutor(threads, "refinement") as pool:
            workers = threads if self.device.type == "cpu" else 1
            for block in blocks:
                if len(block):
                    waiting.append((block, pool.submit(self._refine, block, starts[block.rows], shifts[block.rows])))
                while len(waiting) > workers:
                    done, found = waiting.popleft()
                    yield done, found.result()
            while waiting:
                done, found = waiting.popleft()
                yield done, found.result()

    @torch.no_grad()
    def _refine(self, block: Block, starts: Tensor, shifts: Tensor) -> RefinedPoses:
        starts, shifts = starts.to(self.device), shifts.to(self.device)
        refined, spectra = not_refined(starts[:, 0], shifts[:, 0]), self.source.spectra(block)
        seen = self.weights[spectra.frequencies].observed(spectra)
        for slices, rows in self.maps.of(block.indices):
            refine, part = self._refiners[slices, spectra.frequencies], seen.part(rows, len(spectra.frequencies))
            outcomes = [refine(part, starts[rows, start], shifts[rows, start]) for start in range(starts.shape[1])]
            refined.set_rows(rows.numpy(force=True), best_start(outcomes, shifts[rows]))
        return refined


def _of_each_start(shifts_angs: Tensor, n_starts: int) -> Tensor:
    """Shifts `(m, 2)`, or `(m, k, 2)`, as a new `(m, k, 2)`."""
    shifts = shifts_angs.float()
    return shifts.clone() if shifts.ndim == 3 else shifts[:, None].repeat(1, n_starts, 1)
