"""Training of one half set: its particles, the weights to start from, and the stages to go through."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.pretrained import load_pretrained
from cryopares_core.model.resnet import ResNetEncoder
from cryopares_core.model.storage import copy_weights, read_weights
from cryopares_core.particles.batches import PreparedDataset
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.store import PreparedPictures
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.calibrate import calibrate_half_set, is_calibrated
from cryopares_core.training.checkpoints import Checkpoints
from cryopares_core.training.curriculum import FIRST_SNR, NoiseCurriculum
from cryopares_core.training.fit import fit
from cryopares_core.training.label_cleaning import judged_labels
from cryopares_core.training.plan import Plan, Stage, StageResult
from cryopares_core.training.pretraining import SIMULATED, SimulatedMap, Simulation, make_simulation, pretrain
from cryopares_core.training.records import ValidationRecords
from cryopares_core.training.starting_map import KnownParticles, StartingMap, make_starting_map
from cryopares_core.training.training_map import write_training_map
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.picture_fit import FINE_MAP

logger = logging.getLogger(__name__)
SIMULATION = "simulation"  # the folder of the views that come before the particles
LEAST_AGREEMENT = 0.3  # of 1: below it the map is no help
OwnMap = Callable[[], StartingMap | None]


@dataclass(frozen=True)
class Particles:
    """All particles of a run, and their prepared pictures."""

    table: ParticleTable
    prepared: PreparedPictures

    @property
    def images(self) -> Tensor:
        """`(n, c, s, s)` float16."""
        return self.prepared.images

    @property
    def known(self) -> KnownParticles:
        """What a map can be made of."""
        return KnownParticles(self.images, torch.from_numpy(self.table.eulers_deg).float(), ctf_tensors(self.table.ctf))


@dataclass(frozen=True)
class HalfSet:
    """One model's particles, as indices into the table, and its folder. `number` is 0 when all particles are in one set."""

    number: int
    folder: Path
    train_ids: np.ndarray
    val_ids: np.ndarray

    @property
    def name(self) -> str:
        return self.folder.name


def train_half_set(plan: Plan, particles: Particles, half: HalfSet, simulation: Simulation | None) -> StageResult:
    """Train one model, from wherever an earlier run of it was stopped: on simulated views first where they are wanted, of a
    given map or of that of the half set itself, then on the half set's particles.

    Raises
    ------
    UserError : training diverged, or the memory or the disk is too small
    KeyboardInterrupt : the run was stopped
    """
    with plan.phases("start-up"):
        torch.manual_seed(plan.config.train.seed + half.number)
        if plan.fabric.is_global_zero:
            half.folder.mkdir(parents=True, exist_ok=True)
            _write_splits(particles.table, half)
        network = _network(plan, half)
        state = Checkpoints(half.folder).load(plan.device)
    own_map = functools.cache(lambda: _starting_map(plan, particles, half))
    half, weights = _cleaned(plan, particles, half, own_map)
    fresh = not plan.arguments.finetune_checkpoint_dir
    wants_views = simulation is not None or plan.config.train.n_epochs_simulation > 0
    curriculum = None
    if state is None and wants_views:
        simulation = simulation or _own_simulation(plan, particles, half, own_map())
        if simulation is not None:
            folder, title = half.folder / SIMULATION, f"{half.name} simulation"
            pretrain(plan, simulation, folder, title, len(half.train_ids), half.number, network)
    if fresh and not wants_views and plan.config.train.noise_curriculum and _curriculum_goes_on(state):
        curriculum = _curriculum(plan, half, own_map())
    result = fit(plan, _stage(plan, particles, half, curriculum, weights), network, state)
    _calibrate(plan, particles, half, own_map)
    return result


def _cleaned(plan: Plan, particles: Particles, half: HalfSet, own_map: OwnMap) -> tuple[HalfSet, Tensor | None]:
    """The half set without held-out particles whose labels are probably wrong, and the weights of all particles of the run."""
    if not plan.config.train.label_cleaning or not particles.known.ctf.known:
        return half, None
    ids = np.concatenate((half.train_ids, half.val_ids))
    quality = judged_labels(plan, particles.table.subset(ids), half.folder, own_map)
    if quality is None:
        return half, None
    weights = torch.ones(len(particles.table))
    weights[torch.from_numpy(ids)] = torch.from_numpy(quality.probability).float()
    kept = half.val_ids[~quality.suspect[len(half.train_ids) :]]
    return replace(half, val_ids=kept if len(kept) else half.val_ids), weights


def _calibrate(plan: Plan, particles: Particles, half: HalfSet, own_map: OwnMap) -> None:
    """How far the finished model may be trusted, learned from the particles held out, with the help of the half set's map."""
    if plan.fabric.broadcast(not (half.folder / "starting_map.mrc").is_file()):
        own_map()
    with plan.phases("calibration"):
        if plan.fabric.is_global_zero and not is_calibrated(half.folder):  # a run that goes on has half sets behind it
            table, ctf = particles.table, particles.known.ctf
            if ctf.known and not (half.folder / FINE_MAP).is_file():
                write_training_map(half.folder, table, half.train_ids, plan.symmetry, plan.device)
            angles = torch.from_numpy(table.eulers_deg)
            calibrate_half_set(half.folder, particles.images, angles, ctf, half.val_ids, plan.device, table)
        plan.fabric.barrier()


def _curriculum_goes_on(state: dict[str, Any] | None) -> bool:
    """Whether a run that goes on, if it does, still needs the map of its curriculum."""
    return state is None or (state["curriculum"] is not None and state["latest"]["noise"] < 1)


def _starting_map(plan: Plan, particles: Particles, half: HalfSet) -> StartingMap | None:
    """From the half set's own particles alone, so that half sets stay independent; kept for users to look at.

    None where the particles make no map.
    """
    if not particles.known.ctf.known:
        logger.info("%s: no CTFs are known, so its particles make no map to begin with", half.name)
        return None
    group = point_group(plan.symmetry).matrices
    with plan.phases("starting map"):
        ids, held_out_ids = torch.from_numpy(half.train_ids), torch.from_numpy(half.val_ids)
        found = make_starting_map(particles.known, ids, held_out_ids, plan.preprocessing, group, plan.device)
        # Sums on GPUs differ in the last digit, and all processes must decide alike.
        judged = plan.fabric.broadcast((found.snr, found.resolution_angs, found.agreement))
        found = replace(found, snr=judged[0], resolution_angs=judged[1], agreement=judged[2])
        if plan.fabric.is_global_zero:
            write_map(half.folder / "starting_map.mrc", found.volume.cpu().numpy(), plan.sampling_rate_angs)
    told = f"{half.name}: its particles make a map of {found.resolution_angs:.3g} Å (starting_map.mrc)"
    if found.agreement < LEAST_AGREEMENT:
        logger.warning(
            "%s, but other particles do not fit it at their poses. Poses, CTFs, pixel size or symmetry are wrong, or "
            "the particles are too few to tell",
            told,
        )
        return None
    logger.info("%s; other particles fit it at their poses", told)
    return found


def _curriculum(plan: Plan, half: HalfSet, found: StartingMap | None) -> NoiseCurriculum | None:
    """None where the signal is clear, or the particles make no map."""
    if found is None or found.snr >= FIRST_SNR:
        return None
    curriculum = NoiseCurriculum(found, point_group(plan.symmetry).matrices)
    logger.info("%s: training starts with %.0f%% of their noise", half.name, 100 * curriculum.first_noise)
    return curriculum


def _own_simulation(plan: Plan, particles: Particles, half: HalfSet, found: StartingMap | None) -> Simulation | None:
    """Views of the map that the half set's own particles make; None where they make none."""
    if found is None:
        return None
    own_map = SimulatedMap(found.volume.cpu().numpy(), plan.sampling_rate_angs)
    ctf = particles.known.ctf.chosen(torch.from_numpy(half.train_ids), torch.device("cpu"))
    return make_simulation(plan, own_map, ctf, plan.config.train.n_epochs_simulation)


def _stage(plan: Plan, particles: Particles, half: HalfSet, curriculum: NoiseCurriculum | None, weights: Tensor | None) -> Stage:
    angles = torch.from_numpy(particles.table.eulers_deg).float()
    train, held_out = (
        PreparedDataset(particles.images, angles, ids, particles.prepared.will_need) for ids in (half.train_ids, half.val_ids)
    )
    names = particles.table.particles["rlnImageName"].iloc[half.val_ids].tolist()
    eulers, ctf = particles.table.eulers_deg, particles.table.ctf
    known = particles.known.ctf.known
    defocus = (ctf.defocus_u_angs + ctf.defocus_v_angs)[half.val_ids] / 2 if known else None
    records = ValidationRecords(half.folder, eulers[half.train_ids], eulers[half.val_ids], names, defocus)
    return Stage(half.folder, half.name, plan.arguments.n_epochs, train, held_out, records, curriculum, weights)


def source_folder(version_dir: Path, half_name: str) -> Path:
    """Where a run folder has the weights for a half set: its own, else those of simulated views, which saw no particles."""
    own = version_dir / half_name
    return own if (own / "model.safetensors").is_file() else version_dir / SIMULATED


def _network(plan: Plan, half: HalfSet) -> PoseNetwork:
    network = plan.network()
    weights = plan.config.models.image2sphere.imageencoder.resnet.weights_fname
    if weights and isinstance(network.encoder, ResNetEncoder):
        load_pretrained(network.encoder, weights)
    if plan.arguments.finetune_checkpoint_dir:
        source = source_folder(Path(plan.arguments.finetune_checkpoint_dir), half.name)
        problems = copy_weights(network, read_weights(source))
        for problem in problems:
            logger.warning("Fine-tuning from %s: %s; it starts afresh", source, problem)
        if len(problems) == len(network.state_dict()):
            raise UserError(f"{source}: none of the model's layers fits this network. Use the settings that it was trained with.")
    return network


def _write_splits(table: ParticleTable, half: HalfSet) -> None:
    folder = half.folder / "splits"
    folder.mkdir(exist_ok=True)
    for name, ids in (("train", half.train_ids), ("val", half.val_ids)):
        table.subset(ids).write_star(folder / f"{name}.star")
