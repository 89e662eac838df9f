"""`cryopares_refine --iterations`: from poses refined against a given map to the particles' own half maps."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryopares_core.config.refine_arguments import RefineArguments
from cryopares_core.geometry.rotations import pose_error_degs
from cryopares_core.refinement.inputs import ITERATIONS, MAPS, RefineInput
from cryopares_core.refinement.iterate import Iterated, iterate_refinement
from cryopares_core.refinement.iteration_run import IterateSettings, OtherIterations, remove_iterations
from cryopares_core.refinement.results import RefinedPoses
from cryopares_core.volumes.half_map_files import copy_half_maps

logger = logging.getLogger(__name__)


def iterate_refined(
    arguments: RefineArguments, given: RefineInput, refined: RefinedPoses, device: torch.device
) -> tuple[RefinedPoses, dict[str, Any]]:
    """Iterate from refined poses; returns the final ones, with their distances from the input, and figures for the summary."""
    out_star = Path(arguments.out_star)
    done = _iterate(arguments, given, refined, out_star.with_suffix(ITERATIONS), device)
    if done.best.number:
        refined = _since_input(given, done.poses)
    copy_half_maps(done.best.folder, out_star.with_suffix(MAPS))
    logger.info("Half maps of the final poses, iteration %s: %s", done.best.number, out_star.with_suffix(MAPS))
    resolutions = [_number(one.resolution_angs) for one in done.iterations]
    return refined, {"iteration": done.best.number, "half_maps_agree": done.agree, "resolutions_angs": resolutions}


def _iterate(arguments: RefineArguments, given: RefineInput, refined: RefinedPoses, folder: Path, device: torch.device) -> Iterated:
    settings = IterateSettings(
        max_iterations=arguments.iterations,
        symmetry=arguments.symmetry,
        mask_radius_angs=arguments.mask_radius_angs,
        expected_error_degs=arguments.expected_error_degs,
        max_angle_degs=arguments.max_angle_degs,
        max_shift_angs=arguments.max_shift_angs,
        use_ctf=arguments.use_ctf,
        chunk_size=arguments.chunk_size,
    )
    poses, shifts = torch.from_numpy(refined.poses), torch.from_numpy(refined.shifts_angs)
    weights = (~refined.broken).astype(float)
    try:
        return iterate_refinement(given.table, poses, shifts, settings, folder, device, weights)
    except OtherIterations:  # another command began under this name
        remove_iterations(folder)
        return iterate_refinement(given.table, poses, shifts, settings, folder, device, weights)


def _since_input(given: RefineInput, found: RefinedPoses) -> RefinedPoses:
    """The same poses, with the distances from the poses of the input."""
    degs = pose_error_degs(torch.from_numpy(found.poses).double(), given.poses[:, 0].double()).numpy()
    angs = np.linalg.norm(found.shifts_angs - given.shifts_angs.numpy(), axis=1)
    return replace(found, moved_degs=degs, moved_angs=angs)


def _number(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
