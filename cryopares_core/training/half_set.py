"""Training of one half set: its particles, the weights to start from, and the stages to go through."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import lightning
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
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.curriculum import FIRST_SNR, NoiseCurriculum
from cryopares_core.training.fit import Plan, Stage, StageResult, fit
from cryopares_core.training.pretraining import SIMULATED, Simulation, pretrain
from cryopares_core.training.records import ValidationRecords
from cryopares_core.training.starting_map import KnownParticles, make_starting_map
from cryopares_core.volumes.maps import write_map

logger = logging.getLogger(__name__)
LEAST_AGREEMENT = 0.3  # of 1: below it the map is no help


@dataclass(frozen=True)
class Particles:
    """All particles of a run, and their prepared pictures `(n, c, s, s)` float16."""

    table: ParticleTable
    images: Tensor

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


def train_half_set(plan: Plan, particles: Particles, half: HalfSet, simulation: Simulation | None, resume: bool) -> StageResult:
    """Train one model: on simulated views first where they are wanted, then on the half set's particles.

    Raises
    ------
    UserError : training diverged, or the disk is full
    KeyboardInterrupt : the run was stopped
    """
    with plan.phases("start-up"):
        lightning.seed_everything(plan.config.train.seed + half.number, verbose=False)
        half.folder.mkdir(parents=True, exist_ok=True)
        _write_splits(particles.table, half)
        network = _network(plan, half)
    if simulation is not None:
        folder = half.folder / "simulation"
        pretrain(plan, simulation, folder, f"{half.name} simulation", len(half.train_ids), half.number, network, resume)
    fresh = simulation is None and not plan.arguments.finetune_checkpoint_dir
    curriculum = _curriculum(plan, particles, half) if fresh and plan.config.train.noise_curriculum else None
    return fit(plan, _stage(plan, particles, half, curriculum), network, resume)


def _curriculum(plan: Plan, particles: Particles, half: HalfSet) -> NoiseCurriculum | None:
    """From the half set's own particles alone, so that half sets stay independent; keeps the map for users to look at.

    None where the signal is clear, or the particles make no map.
    """
    if not particles.known.ctf.known:
        logger.info("%s: no CTFs are known, so training starts with all the noise", half.name)
        return None
    group = point_group(plan.symmetry).matrices
    with plan.phases("starting map"):
        ids, held_out_ids = torch.from_numpy(half.train_ids), torch.from_numpy(half.val_ids)
        found = make_starting_map(particles.known, ids, held_out_ids, plan.preprocessing, group, plan.device)
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
    if found.snr >= FIRST_SNR:
        return None
    curriculum = NoiseCurriculum(found, group)
    logger.info("%s: training starts with %.0f%% of their noise", half.name, 100 * curriculum.first_noise)
    return curriculum


def _stage(plan: Plan, particles: Particles, half: HalfSet, curriculum: NoiseCurriculum | None) -> Stage:
    angles = torch.from_numpy(particles.table.eulers_deg).float()
    train, held_out = (PreparedDataset(particles.images, angles, ids) for ids in (half.train_ids, half.val_ids))
    names = particles.table.particles["rlnImageName"].iloc[half.val_ids].tolist()
    eulers = particles.table.eulers_deg
    records = ValidationRecords(half.folder, eulers[half.train_ids], eulers[half.val_ids], names)
    return Stage(half.folder, half.name, plan.arguments.n_epochs, train, held_out, records, curriculum)


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
