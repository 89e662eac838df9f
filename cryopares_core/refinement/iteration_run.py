"""What iterations consist of, and what they leave in their folder: half maps, poses, figures."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryopares_core.errors import UserError
from cryopares_core.files import write_text
from cryopares_core.particles.stacks import stacks_digest
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.readers import read_json
from cryopares_core.refinement.half_sets import refine_half_sets, shards_of
from cryopares_core.refinement.local_posterior import PosteriorPoses, spread
from cryopares_core.refinement.own_maps import LOCK, OwnMaps, make_own_maps, turn_scale_degs
from cryopares_core.refinement.results import RefinedPoses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.shards import remove_shards
from cryopares_core.volumes.half_map_files import remove_half_maps

logger = logging.getLogger(__name__)
ABOUT, RECORD, POSES = "iterations.json", "iteration.json", "poses"


class OtherIterations(UserError):
    """The folder holds iterations of other particles, starts or settings."""


@dataclass(frozen=True)
class IterateSettings:
    """How to iterate.

    Attributes
    ----------
    max_iterations : there may be fewer
    symmetry : point group of the half maps
    mask_radius_angs : of the particle; None: the largest ball in its box
    expected_error_degs : of the first starts
    max_angle_degs, max_shift_angs : a particle that moved further within an iteration keeps its start
    still_degs, still_angs : nothing moves where the medians of an iteration are below both
    copies : poses of the local posterior that each particle is reconstructed with, even; 0 takes the best pose alone
    weight_by_score : weight particles by their correlation with the half map of the iteration before
    use_ctf : False where images are corrected already, or have no CTF
    chunk_size : particles after which poses are saved
    """

    max_iterations: int = 5
    symmetry: str = "C1"
    mask_radius_angs: float | None = None
    expected_error_degs: float = 5.0
    max_angle_degs: float = 15.0
    max_shift_angs: float = 25.0
    still_degs: float = 0.3
    still_angs: float = 0.3
    copies: int = 4
    weight_by_score: bool = True
    use_ctf: bool = True
    chunk_size: int = 10_000


@dataclass(frozen=True)
class Iteration:
    """One iteration: the half maps of its poses, and how far they moved from the iteration before (medians)."""

    number: int
    folder: Path
    resolution_angs: float
    limit_angs: float
    moved_degs: float
    moved_angs: float


class IterationRun:
    """The work on one folder."""

    def __init__(
        self, table: ParticleTable, settings: IterateSettings, folder: Path, device: torch.device, weights: np.ndarray, rank: int
    ):
        self.table, self.settings, self.folder = table, settings, folder
        self.device, self.weights, self.rank = device, weights, rank

    def begin(self, start: RefinedPoses, about: Mapping[str, Any]) -> None:
        """Claim the folder for these particles, starts and settings; more iterations may be asked for later."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "max_iterations"}
        starts = _digest(start.poses, start.shifts_angs, self.weights, self.table.half_set)
        images = stacks_digest(self.table.stack_paths)
        wanted = json.loads(json.dumps({**about, "settings": settings, "starting poses": starts, "images": images}))
        path = self.folder / ABOUT
        known = read_json(path)
        if path.is_file() and known != wanted:
            differ = sorted(name for name in wanted.keys() | known.keys() if wanted.get(name) != known.get(name))
            raise OtherIterations(
                f"{self.folder} holds iterations of something else ({', '.join(differ)}). Remove it, or choose another folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted, indent=1) + "\n")

    def of(self, number: int) -> Path:
        return self.folder / f"iteration_{number:02d}"

    def maps(self, number: int, found: RefinedPoses) -> OwnMaps:
        """The half maps of these poses, each particle spread over its local posterior where that is known, and weighted by its
        correlation with the map: wrong poses and poor images correlate less.
        """
        settings = self.settings
        weights = self.weights * found.score.clip(0) if number and settings.weight_by_score else self.weights
        used = np.flatnonzero((weights > 0) & ~(found.broken & (number > 0)))
        part, weights = self.table.subset(used), weights[used]
        poses, shifts = torch.from_numpy(found.poses[used]), torch.from_numpy(found.shifts_angs[used])
        covariance = torch.from_numpy(found.covariance[used]) if isinstance(found, PosteriorPoses) else None
        posed, rows = spread(part, poses, shifts, covariance, settings.copies, number)
        return make_own_maps(
            self.of(number), posed, weights[rows], settings.symmetry, settings.mask_radius_angs, settings.use_ctf, self.device
        )

    def refine(self, number: int, maps: OwnMaps, found: RefinedPoses) -> PosteriorPoses:
        """Refine from the poses of the iteration before."""
        settings, limit = self.settings, maps.limit_angs
        radius = min(settings.mask_radius_angs or math.inf, maps.size_angs / 2)
        error = turn_scale_degs(limit, radius)
        local = RefineSettings(
            resolution_angs=limit,
            mask_radius_angs=settings.mask_radius_angs,
            max_angle_degs=settings.max_angle_degs,
            max_shift_angs=settings.max_shift_angs,
            expected_error_degs=max(error, settings.expected_error_degs) if number == 1 else error,
            use_ctf=settings.use_ctf,
        )
        poses, shifts = torch.from_numpy(found.poses), torch.from_numpy(found.shifts_angs)
        shards = shards_of(self.of(number) / POSES, self.table, settings.chunk_size)
        return refine_half_sets(self.table, maps, poses, shifts, local, shards, self.device, self.rank)

    def record(self, number: int, maps: OwnMaps, found: RefinedPoses) -> Iteration:
        """Log an iteration, and leave its figures in its folder."""
        good = ~found.broken if number else np.ones(len(found), dtype=bool)
        moved = [float(np.median(values[good])) for values in (found.moved_degs, found.moved_angs)]
        one = Iteration(number, self.of(number), maps.resolution_angs, maps.limit_angs, *moved)
        if number:
            logger.info(
                "Iteration %s: half-map resolution %.2f Å (FSC 0.143), %.2f Å (0.5); medians moved %.2f° and %.2f Å",
                *(number, one.resolution_angs, one.limit_angs, *moved),
            )
        else:
            logger.info("Half maps of the starting poses: resolution %.2f Å (FSC 0.143), %.2f Å (0.5)", *_resolutions(one))
        figures = {name: _finite(value) for name, value in asdict(one).items() if name != "folder"}
        write_text(one.folder / RECORD, json.dumps(figures, indent=1) + "\n")
        return one


def _resolutions(one: Iteration) -> tuple[float, float]:
    return one.resolution_angs, one.limit_angs


def _finite(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _digest(*arrays: np.ndarray) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(np.ascontiguousarray(array).tobytes())
    return whole.hexdigest()[:16]


def is_free_for_iterations(folder: Path) -> bool:
    """Whether a folder does not exist, is empty or holds iterations, so that nothing else is lost."""
    return not folder.exists() or (folder.is_dir() and ((folder / ABOUT).is_file() or not any(folder.iterdir())))


def remove_iterations(folder: Path) -> None:
    """Remove what iterations leave, and folders that hold nothing else."""
    for one in folder.glob("iteration_[0-9]*"):
        remove_shards(one / POSES)
        remove_half_maps(one)
        for name in (RECORD, LOCK):
            (one / name).unlink(missing_ok=True)
        with suppress(OSError):
            one.rmdir()
    (folder / ABOUT).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
