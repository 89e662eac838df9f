"""The second step: poses and shifts refined against the maps of the training particles, or given ones, shard by shard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryopares_core.config.infer_arguments import NETWORK
from cryopares_core.errors import UserError
from cryopares_core.files import stamps
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.inference.job import Job, Work, work_through
from cryopares_core.inference.predict import Found
from cryopares_core.inference.results import Results
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.pictures import check_resolution
from cryopares_core.refinement.references import read_references
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.refinement.results import RefinedPoses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.shards import Shards
from cryopares_core.volumes.maps import HEADER_REMEDY
from cryopares_core.volumes.picture_fit import MAP, model_map

FOLDER = "refined"
LEAST_ERROR_DEGS, MOST_ERROR_DEGS = 2.0, 15.0  # that refinement is told to expect
SEARCHED_ERROR_DEGS = 3.0  # of poses that a search has polished
SHIFT_SEARCH_ANGS = 20.0  # where the file has no origins
LEAST_SHARE = 0.1  # of the surest pose's confidence: less likely ones are not refined


def references_of(job: Job) -> dict[int, Reference]:
    """The map of each half set: given ones, or those of the training particles of the models at work.

    Raises
    ------
    UserError : a map is missing or cannot be read, or the resolution is too coarse for the pictures
    """
    arguments = job.arguments
    if arguments.refine:
        check_resolution(job.particles.table, arguments.resolution_angs)
    if arguments.reference_fname:
        return read_references(arguments.reference_fname, arguments.reference_half2_fname, None, HEADER_REMEDY)
    names = list(job.models)
    of_half = {half: f"half{half}" if f"half{half}" in job.models else names[0] for half in (1, 2)}
    found = {name: model_map(job.models[name].folder, job.models[name].card.sampling_rate_angs) for name in set(of_half.values())}
    read = {name: Reference(*one) for name, one in found.items() if one is not None}
    if missing := sorted(found.keys() - read.keys()):
        raise UserError(
            f"The model {' and '.join(missing)} has no {MAP} to compare images with. Give a map with --reference_fname, or use "
            f"--evidence {NETWORK} without --refine."
        )
    return {half: read[name] for half, name in of_half.items()}


def settings_of(job: Job) -> RefineSettings:
    """How to refine the poses of these models."""
    arguments = job.arguments
    by_network = arguments.used_evidence == NETWORK
    medians = [model.card.training.get("best", {}).get("val_median_geo_degs", 5.0) for model in job.models.values()]
    error = float(np.clip(max(medians), LEAST_ERROR_DEGS, MOST_ERROR_DEGS)) if by_network else SEARCHED_ERROR_DEGS
    return RefineSettings(
        resolution_angs=arguments.resolution_angs,
        mask_radius_angs=job.mask_radius_angs,
        expected_error_degs=error,
        shift_search_angs=0.0 if job.particles.centred or not by_network else SHIFT_SEARCH_ANGS,
        use_ctf=bool(job.particles.table.ctf.voltage_kv.min() > 0),
    )


def refined_shards(job: Job) -> Shards:
    """The shards of this step; they depend on the poses that refinement starts from."""
    shards = Shards(job.results_dir / FOLDER, job.shards.order, job.shards.size)
    asked = ("resolution_angs", "reference_fname", "reference_half2_fname")
    maps = [name for name in (job.arguments.reference_fname, job.arguments.reference_half2_fname) if name]
    about: dict[str, Any] = {**job.about, **{f"--{name}": getattr(job.arguments, name) for name in asked}}
    shards.begin({**about, "the content of the maps": stamps(maps)})
    return shards


def refine(job: Job, references: dict[int, Reference]) -> None:
    """Refine until all shards are done, once all poses are found."""
    found = job.shards.read(Found)

    def begin() -> Work:
        with job.phases("refining"):
            refiner = Refiner(job.particles.table, references, settings_of(job), job.device)
            chosen = refiner.calibrated_by()
            refiner.calibrate_by(chosen, *_starts(found, chosen))

        def work(members: np.ndarray, progress: Callable[[int], None]) -> RefinedPoses:
            with job.phases("refining"):
                return refiner(members, *_starts(found, members), lambda done, _: progress(done))

        return work

    work_through(job, refined_shards(job), "Refined", begin, wait=job.place.rank == 0)


def _starts(found: Found, members: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pose matrices `(m, k, 3, 3)` and shifts `(m, k, 2)` of some particles that are likely enough; the first replaces others."""
    confidence = torch.from_numpy(found.confidence[members])
    likely = confidence >= LEAST_SHARE * confidence[:, :1]
    poses = euler_degs_to_matrix(torch.from_numpy(found.eulers_degs[members]).double()).float()
    shifts = torch.from_numpy(found.shifts_angs[members]).float()
    count = max(1, int(likely.any(dim=0).sum()))
    poses = torch.where(likely[..., None, None], poses, poses[:, :1])[:, :count]
    return poses, torch.where(likely[..., None], shifts, shifts[:, :1])[:, :count]


def take_refined(job: Job, results: Results) -> Results:
    """The refined poses and shifts in the place of those that the network found.

    They are right if one of the starts was near enough.
    """
    refined, found = refined_shards(job).read(RefinedPoses), job.shards.read(Found)
    shifts, broken = refined.shifts_angs[:, None], results.broken | refined.broken
    right = found.near if job.arguments.used_evidence == NETWORK else found.confidence
    confidence = right.sum(axis=1, keepdims=True).clip(0, 1) * ~broken[:, None]
    return Results(results.table, refined.eulers_degs[:, None], confidence, shifts, broken, results.disagreement_degs)
