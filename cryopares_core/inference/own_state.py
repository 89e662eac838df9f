"""The step of iterations: from the poses found to the particles' own half maps and back."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from cryopares_core.config.infer_arguments import NETWORK
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.inference.improve import SEARCHED_ERROR_DEGS, settings_of
from cryopares_core.inference.job import Job
from cryopares_core.inference.results import Results
from cryopares_core.plots.inference import RECONSTRUCTION
from cryopares_core.refinement.iterate import Iterated, iterate_refinement
from cryopares_core.refinement.iteration_run import IterateSettings, OtherIterations, remove_iterations
from cryopares_core.volumes.half_map_files import copy_half_maps, remove_half_maps

logger = logging.getLogger(__name__)
ITERATIONS = "iterations"  # of the folder with the half maps and poses of each iteration


def iterate(job: Job, results: Results) -> Results:
    """Iterate with the particles kept, and copy the half maps of the best iteration to the folder of the reconstruction.

    The confidence stays that of the poses that iterations start from.
    """
    kept = results.kept(job.selection)
    empty = sorted({1, 2} - set(results.table.half_set[kept].tolist()))
    if empty:
        remove_half_maps(job.results_dir / RECONSTRUCTION)
        logger.warning("No iterations: no particles of half set %s are kept", " and ".join(map(str, empty)))
        return results
    with job.phases("iterations"):
        done = _iterate(job, results, kept)
    folder = job.results_dir / RECONSTRUCTION
    copy_half_maps(done.best.folder, folder)
    logger.info("Half maps of iteration %d, at %.3g Å: %s", done.best.number, done.best.resolution_angs, folder)
    if not done.best.number:
        return results
    eulers, shifts = results.eulers_degs[:, :1].copy(), results.shifts_angs[:, :1].astype(np.float64)
    eulers[kept, 0], shifts[kept, 0] = done.poses.eulers_degs[kept], done.poses.shifts_angs[kept]
    return Results(results.table, eulers, results.confidence[:, :1], shifts, results.broken, results.disagreement_degs)


def _iterate(job: Job, results: Results, kept: np.ndarray) -> Iterated:
    settings, folder = _settings(job), job.results_dir / ITERATIONS
    poses = euler_degs_to_matrix(torch.from_numpy(results.eulers_degs[:, 0]).double()).float()
    shifts = torch.from_numpy(results.shifts_angs[:, 0]).float()
    asked: tuple[Any, ...] = (results.table, poses, shifts, settings, folder, job.device, kept.astype(float))
    try:
        return iterate_refinement(*asked)
    except OtherIterations:  # of another threshold or other poses
        remove_iterations(folder)
        return iterate_refinement(*asked)


def _settings(job: Job) -> IterateSettings:
    refining = settings_of(job)
    by_network = job.arguments.used_evidence == NETWORK and not job.arguments.refine
    return IterateSettings(
        max_iterations=job.arguments.iterations,
        symmetry=job.symmetry,
        mask_radius_angs=refining.mask_radius_angs,
        expected_error_degs=refining.expected_error_degs if by_network else SEARCHED_ERROR_DEGS,
        use_ctf=refining.use_ctf,
        chunk_size=job.arguments.shard_size,
    )
