"""One iteration's refinement: each half set against its own half map, in shards that a resumed run does not repeat."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.order import file_order
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import Countdown
from cryopares_core.refinement.local_posterior import PosteriorPoses, with_covariance
from cryopares_core.refinement.own_maps import OwnMaps
from cryopares_core.refinement.refiner import Progress, Refiner
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.shards import Shards


class HalfSetRefiner:
    """Refines the particles of one half set against its own half map.

    Parameters
    ----------
    half : 1 or 2
    poses, shifts_angs : the starts of all particles of the table, `(n, 3, 3)` and `(n, 2)`
    """

    def __init__(
        self,
        table: ParticleTable,
        half: int,
        maps: OwnMaps,
        poses: Tensor,
        shifts_angs: Tensor,
        settings: RefineSettings,
        device: torch.device | str = "cpu",
    ):
        self.half, self._half_set = half, table.half_set
        mine = np.flatnonzero(table.half_set == half)
        self._row = np.full(len(table), -1)
        self._row[mine] = np.arange(len(mine))
        self._poses, self._shifts = poses[mine, None], shifts_angs[mine]
        self._refiner = Refiner(table.subset(mine), {half: maps.reference(half)}, settings, device)
        self._refiner.calibrate(self._poses, self._shifts)
        # Images are part of their own half map, so that an amplitude learned from them is too large where the map is noise. The map
        # is filtered by the correlation with the other half set instead.
        weights = self._refiner.weights.items()
        self._refiner.weights = {kind: replace(one, amplitude=torch.ones_like(one.amplitude)) for kind, one in weights}

    def of(self, indices: np.ndarray) -> np.ndarray:
        """The places in `indices` `(m,)` of the table that belong to this half set."""
        return np.flatnonzero(self._half_set[indices] == self.half)

    def __call__(self, indices: np.ndarray, progress: Progress | None = None) -> PosteriorPoses:
        """Poses, shifts and their covariances of particles `indices` `(m,)` of the table, all of this half set."""
        rows = self._row[indices]
        refined = self._refiner(rows, self._poses[rows], self._shifts[rows], progress)
        return with_covariance(self._refiner, rows, refined)


def refine_half_sets(
    table: ParticleTable,
    maps: OwnMaps,
    poses: Tensor,
    shifts_angs: Tensor,
    settings: RefineSettings,
    shards: Shards,
    device: torch.device | str = "cpu",
    rank: int = 0,
) -> PosteriorPoses:
    """Refine all particles, each half set against its own map; shards that are done are read.

    Parameters
    ----------
    poses, shifts_angs : `(n, 3, 3)` and `(n, 2)` in Å
    shards : of all particles of the table
    rank : of this process among those that share the work
    """
    n, before, refiners = len(table), shards.n_done(), list[HalfSetRefiner]()
    countdown, done = Countdown("Refined", "particles"), 0
    for number in shards.mine(rank, wait=True):
        if not refiners:
            refiners = [HalfSetRefiner(table, half, maps, poses, shifts_angs, settings, device) for half in (1, 2)]
        indices, found = shards.particles(number), list[tuple[np.ndarray, PosteriorPoses]]()
        for refiner in refiners:
            places = refiner.of(indices)
            if len(places):
                found.append((places, refiner(indices[places], partial(_show_progress, countdown, done, n - before))))
                done += len(places)
        shards.write(number, _joined(found))
    return shards.read(PosteriorPoses)


def shards_of(folder: Path, table: ParticleTable, chunk_size: int) -> Shards:
    """The shards of one iteration, begun. What they depend on is checked for all iterations together."""
    shards = Shards(folder, file_order(table), chunk_size)
    shards.begin({})
    return shards


def _show_progress(countdown: Countdown, earlier: int, total: int, done: int, _: int) -> None:
    countdown(earlier + done, total)


def _joined(parts: list[tuple[np.ndarray, PosteriorPoses]]) -> PosteriorPoses:
    """Rows of several parts in the order of their places."""
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    names = [field.name for field in fields(PosteriorPoses)]
    return PosteriorPoses(**{name: np.concatenate([getattr(part, name) for _, part in parts])[order] for name in names})
