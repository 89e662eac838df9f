"""Refinement against the data's own half maps, over and over: half maps of the poses, poses by the half maps, until nothing moves.

Each half set is refined against its own map alone. The two share only their correlation (FSC), from which the resolution limit and
the filter of the maps follow, as in RELION's auto-refine (Scheres and Chen 2012, doi:10.1038/nmeth.2115).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import format_seconds
from cryopares_core.refinement.iteration_run import IterateSettings, Iteration, IterationRun
from cryopares_core.refinement.own_maps import OwnMaps
from cryopares_core.refinement.results import RefinedPoses, not_refined

logger = logging.getLogger(__name__)
BETTER = 0.99  # a resolution below this share of the best one so far is an improvement
LOSS = 1.15  # a final resolution above so many times that of the starts is a loss
PATIENCE = 2  # iterations without an improvement


@dataclass(frozen=True)
class Iterated:
    """The result.

    Attributes
    ----------
    poses : of the best iteration
    best : the iteration with the best resolution of its half maps, which lie in its folder. Number 0, the starts, where the half
        maps share no detail; the last, where they lose detail
    iterations : all, that of the starts first
    agree : False where the half maps share no detail, or lose much of what they shared at the start
    """

    poses: RefinedPoses
    best: Iteration
    iterations: tuple[Iteration, ...]
    agree: bool


def iterate_refinement(
    table: ParticleTable,
    start_poses: Tensor,
    start_shifts_angs: Tensor,
    settings: IterateSettings,
    folder: Path,
    device: torch.device | str = "cpu",
    weights: np.ndarray | None = None,
    about: Mapping[str, Any] | None = None,
    rank: int = 0,
) -> Iterated:
    """Iterate from found poses. A run that was stopped resumes in its folder; several processes may share the work.

    Parameters
    ----------
    table : particles of one box and pixel size, of two half sets
    start_poses, start_shifts_angs : `(n, 3, 3)` and `(n, 2)` in Å
    folder : for `iteration_00`, of the starts, `iteration_01` and so on, each with half maps, FSC and poses
    weights : `(n,)` how much each particle counts in the half maps; those with 0, such as broken images, are left out
    about : what else the starts depend on, by name
    rank : of this process among those that share the work

    Raises
    ------
    UserError : the folder holds iterations of something else; particles or images that cannot be reconstructed
    """
    run = IterationRun(table, settings, folder, torch.device(device), np.ones(len(table)) if weights is None else weights, rank)
    start = not_refined(start_poses, start_shifts_angs)
    run.begin(start, about or {})
    maps, found = run.maps(0, start), start
    poses, done = [found], [run.record(0, maps, found)]
    while (number := len(done)) <= settings.max_iterations and maps.agree:
        started = time.perf_counter()
        found = run.refine(number, maps, found)
        maps = run.maps(number, found)
        poses.append(found)
        done.append(run.record(number, maps, found))
        if reason := _reason_to_stop(done, settings):
            logger.info("Iterations end: %s", reason)
            break
        left = (settings.max_iterations - number) * (time.perf_counter() - started)
        if left and maps.agree:
            logger.info("At most %s for the iterations left", format_seconds(left))
    best = _best(done, maps)
    return Iterated(poses[best.number], best, tuple(done), maps.agree and not _lost(done))


def _best(done: Sequence[Iteration], maps: OwnMaps) -> Iteration:
    """The iteration to take; warns where none can be trusted."""
    first, last = done[0], done[-1]
    if not maps.agree:
        logger.warning(
            "The half maps of iteration %s share no detail (FSC 0.5 at %.3g Å): the images may be noise, or the poses wrong. The "
            "poses stay as they were.",
            *(last.number, maps.limit_angs),
        )
        return first
    if _lost(done):
        logger.warning(
            "The half maps of the starting poses agree to %.3g Å, and to %.3g Å once each half set follows its own map: the detail "
            "between came from the reference, not from the images. The images may be noise, or the poses wrong.",
            *(first.resolution_angs, last.resolution_angs),
        )
        return last
    return min(done[1:] or done, key=lambda one: one.resolution_angs)


def _lost(done: Sequence[Iteration]) -> bool:
    """Whether detail that the half maps had in common is lost. Noise that was aligned with a map resembles it (Henderson 2013,
    doi:10.1073/pnas.1314449110), but not when each half set follows its own map.
    """
    return done[-1].resolution_angs > LOSS * done[0].resolution_angs


def _reason_to_stop(done: Sequence[Iteration], settings: IterateSettings) -> str:
    """Empty as long as there may be more to gain. The maps of the starts do not count: a reference that both half sets share makes
    them agree.
    """
    last, resolutions = done[-1], [one.resolution_angs for one in done[1:]]
    improved = len(resolutions) == 1 or resolutions[-1] < BETTER * min(resolutions[:-1])
    if not improved and last.moved_degs < settings.still_degs and last.moved_angs < settings.still_angs:
        return "nothing moves any more"
    earlier = resolutions[:-PATIENCE]
    if earlier and min(resolutions[-PATIENCE:]) >= BETTER * min(earlier):
        return f"the resolution did not improve in {PATIENCE} iterations"
    return ""
