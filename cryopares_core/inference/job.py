"""What an inference is about: its particles, its models, and who does what; all that can be wrong is told at once."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cryopares_core.config.infer_arguments import NETWORK, SAME_HALF, InferArguments
from cryopares_core.config.point_groups import group_name
from cryopares_core.errors import UserError
from cryopares_core.files import stamp, stamps
from cryopares_core.inference.checks import fit_problems, mask_radius_angs, symmetry_problems
from cryopares_core.inference.inputs import asked
from cryopares_core.inference.models import TrainedModel, load_models, model_folders
from cryopares_core.inference.particles import NewParticles, read_new_particles
from cryopares_core.inference.policy import Assignment, assign, without_models
from cryopares_core.inference.results import ALL, FURTHER, KEPT, Selection
from cryopares_core.machine import Place, device_of
from cryopares_core.model.storage import ModelCard, read_card
from cryopares_core.particles.order import file_order
from cryopares_core.particles.stacks import stacks_digest
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.inference import FILE, RECONSTRUCTION
from cryopares_core.plots.readers import read_json
from cryopares_core.progress import Countdown
from cryopares_core.shards import ABOUT, Shards
from cryopares_core.training.calibration import calibration_text
from cryopares_core.training.phases import Phases
from cryopares_core.volumes.half_map_files import foreign_maps
from cryopares_core.volumes.picture_fit import FINE_MAP, MAP

logger = logging.getLogger(__name__)
PREDICTIONS = "predictions"
PIXEL_TOLERANCE = 1e-3
SHARDS_OF_PROCESS = 4  # at least, so that none waits long for the others


@dataclass(frozen=True)
class Job:
    """Everything that the steps of an inference work with.

    `about` is what poses depend on, by the names that the user knows; `asked` what results depend on, as it was at the start.
    """

    arguments: InferArguments
    place: Place
    device: torch.device
    particles: NewParticles
    models: dict[str, TrainedModel]
    assignment: Assignment
    shards: Shards
    about: dict[str, Any]
    asked: dict[str, Any]
    phases: Phases

    @property
    def results_dir(self) -> Path:
        return Path(self.arguments.results_dir)

    @property
    def selection(self) -> Selection:
        """Which particles to keep."""
        return Selection(self.arguments.confidence_threshold, self.arguments.consensus_max_error_degs)

    @property
    def card(self) -> ModelCard:
        """What the models have in common."""
        return next(iter(self.models.values())).card

    @property
    def symmetry(self) -> str:
        """The point group: the models', or without a model the one that the user gives."""
        return self.card.symmetry if self.models else group_name(self.arguments.symmetry or "C1")

    @property
    def mask_radius_angs(self) -> float | None:
        """The radius of the particle; None where neither the user nor a model says it."""
        wanted = self.arguments.mask_radius_angs
        return mask_radius_angs(self.card) if wanted is None and self.models else wanted


def prepare_job(arguments: InferArguments, place: Place, checkpoint_dir: Path | None, phases: Phases) -> Job:
    """Read the models, if there are any, and the particles and see whether they fit. Nothing is written yet.

    Raises
    ------
    UserError : with everything that is wrong
    """
    wanted = asked(arguments)
    with phases("reading"):
        device = device_of(place, arguments.accelerator, arguments.n_threads)
        folders = {} if checkpoint_dir is None else model_folders(checkpoint_dir)
        card = read_card(next(iter(folders.values()))) if folders else None
        particles = _read(arguments, card)
        if folders:
            assignment, told = assign(
                *(arguments.policy, arguments.model, folders, particles.table.half_set), arguments.asks_consensus
            )
        else:
            assignment, told = without_models(len(particles.table)), "No model: an exhaustive search against the map"
        models = load_models(folders, assignment.names)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the processor with {torch.get_num_threads()} threads"
    logger.info("%s. Computing on %s", told, where)
    folder = Path(arguments.results_dir) / PREDICTIONS
    shards = Shards(folder, file_order(particles.table), _shard_size(folder, arguments, len(particles.table), place))
    about = _about(arguments, particles, models)
    return Job(arguments, place, device, particles, models, assignment, shards, about, wanted, phases)


def _shard_size(folder: Path, arguments: InferArguments, n: int, place: Place) -> int:
    """That of work which was begun; else such a one that all processes have something to do."""
    known = read_json(folder / ABOUT).get("shard_size")
    if isinstance(known, int) and known > 0:
        return known
    if place.count == 1:
        return arguments.shard_size
    return max(1, min(arguments.shard_size, -(-n // (SHARDS_OF_PROCESS * place.count))))


def _read(arguments: InferArguments, card: ModelCard | None) -> NewParticles:
    problems = _folder_problems(arguments) + _symmetry_problems(arguments.symmetry, card)
    needs_halves = arguments.policy == SAME_HALF or arguments.refine or arguments.makes_maps
    try:
        folder = Path(arguments.particles_dir) if arguments.particles_dir else None
        needs_ctf = card is not None and card.preparation.ctf_mode != "none"
        particles = read_new_particles(Path(arguments.particles_star_fname), folder, needs_ctf, needs_halves)
        misfits, remarks = ([], []) if card is None else fit_problems(particles.table, card)
        misfits += _kind_problems(particles.table) if arguments.makes_maps else []
        problems += misfits
    except UserError as error:
        problems += error.problems
    if problems:
        raise UserError(problems)
    for remark in particles.remarks + remarks:
        logger.warning("%s", remark)
    if particles.drawn:
        logger.info(
            "%s has no half sets (rlnRandomSubset): they are drawn at random and written with the poses, so that half maps will be "
            "independent",
            arguments.particles_star_fname,
        )
    n_stacks = len(particles.table.stack_paths)
    logger.info("Read %s particles in %s stack%s", f"{len(particles.table):,}", f"{n_stacks:,}", "s" if n_stacks > 1 else "")
    return particles


def _symmetry_problems(symmetry: str | None, card: ModelCard | None) -> list[str]:
    if card is not None:
        return symmetry_problems(symmetry, card)
    try:
        group_name(symmetry or "C1")
    except UserError as error:
        return error.problems
    return []


def _kind_problems(table: ParticleTable) -> list[str]:
    """A map has one box and one pixel size."""
    boxes, pixels = np.unique(table.image_size_px), np.unique(table.pixel_size_angs)
    if len(boxes) == 1 and np.ptp(pixels) <= PIXEL_TOLERANCE * pixels[0]:
        return []
    return [
        f"The particles have boxes of {', '.join(map(str, boxes))} px and pixels of "
        f"{', '.join(f'{pixel:g}' for pixel in pixels)} Å, and a map has one of each. Extract them again, or leave it out."
    ]


def _folder_problems(arguments: InferArguments) -> list[str]:
    """Whether the results can be written, and overwrite nothing of others; nothing is written yet."""
    folder, option = Path(arguments.results_dir), f"--results_dir={arguments.results_dir}"
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return [f"{option}: {existing} is not a folder that you may write to. Give another folder."]
    ours = [folder / name for name in (KEPT, ALL, FURTHER)]
    if os.path.realpath(arguments.particles_star_fname) in map(os.path.realpath, ours):
        return [f"{option}: the results would overwrite {arguments.particles_star_fname}. Give another folder."]
    begun = (folder / PREDICTIONS).is_dir() or bool(read_json(folder / FILE))
    foreign = [] if begun else [path.name for path in ours if os.path.lexists(path)]
    foreign += [f"{RECONSTRUCTION}/{name}" for name in foreign_maps(folder / RECONSTRUCTION)] if arguments.makes_maps else []
    if foreign:
        return [f"{option}: {', '.join(foreign)} there is of something else, and would be overwritten. Give another folder."]
    return []


Work = Callable[[np.ndarray, Callable[[int], None]], Any]


def work_through(job: Job, shards: Shards, verb: str, begin: Callable[[], Work], wait: bool) -> None:
    """Do all shards of a step together with other processes.

    Parameters
    ----------
    verb : `Refined`, for the progress
    begin : called once there is work; gives what finds, for some particles, a dataclass of arrays, and tells how many it has done
    wait : until all shards are done; those of a process that dies are taken over
    """
    n, before, work, first = len(job.particles.table), shards.n_done(), None, job.place.rank == 0
    if before and first:
        logger.info("%s %s of %s particles earlier", verb, f"{before:,}", f"{n:,}")
    countdown = Countdown(verb, "particles", logger.info if first else logger.debug)
    for number in shards.mine(job.place.rank, wait):
        work = work or begin()
        tell = partial(_tell, countdown, shards.n_done() - before, n - before)
        found = work(shards.particles(number), tell)
        with job.phases("writing"):
            shards.write(number, found)
    if before < n:
        countdown(n - before, n - before)


def _tell(countdown: Countdown, earlier: int, total: int, done: int) -> None:
    countdown(min(earlier + done, total - 1), total)  # the end is told when it is written


def _about(arguments: InferArguments, particles: NewParticles, models: dict[str, TrainedModel]) -> dict[str, Any]:
    """What poses depend on, by the names that the user knows."""
    return {
        "--particles_star_fname": stamp(arguments.particles_star_fname),
        "the content of the stacks": stacks_digest(particles.table.stack_paths),
        "--checkpoint_dir": {name: _fingerprint(model) for name, model in models.items()},
        **{f"--{name}": getattr(arguments, name) for name in ("policy", "model", "top_k", "quarter_turns")},
        "--consensus": arguments.asks_consensus,
        **_about_search(arguments),
    }


def _about_search(arguments: InferArguments) -> dict[str, Any]:
    """What a search depends on besides; nothing for the network alone, whose poses depend on no map."""
    if arguments.used_evidence == NETWORK:
        return {"--evidence": NETWORK}
    names = ("symmetry", "mask_radius_angs", "shift_search_angs", "reference_fname", "reference_half2_fname")
    maps = [name for name in (arguments.reference_fname, arguments.reference_half2_fname) if name]
    asked_for = {f"--{name}": getattr(arguments, name) for name in names}
    return {"--evidence": arguments.used_evidence, **asked_for, "the content of the search maps": stamps(maps)}


def _fingerprint(model: TrainedModel) -> str:
    """Of what is in its files, since those of a .cryopares file are unpacked anew each time."""
    files = [model.folder / name for name in ("model.safetensors", MAP, FINE_MAP)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files if path.is_file()))
    if model.calibration is not None:
        digest.update(calibration_text(model.calibration).encode())
    return digest.hexdigest()[:16]
