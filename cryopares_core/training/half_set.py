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
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.storage import copy_weights, read_weights
from cryopares_core.particles.batches import PreparedDataset
from cryopares_core.particles.table import ParticleTable
from cryopares_core.training.fit import Plan, Stage, StageResult, fit
from cryopares_core.training.pretraining import SIMULATED, Simulation, pretrain
from cryopares_core.training.records import ValidationRecords

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Particles:
    """All particles of a run, and their prepared pictures `(n, c, s, s)` float16."""

    table: ParticleTable
    images: Tensor


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
    return fit(plan, _stage(plan, particles, half), network, resume)


def _stage(plan: Plan, particles: Particles, half: HalfSet) -> Stage:
    angles = torch.from_numpy(particles.table.eulers_deg).float()
    train, held_out = (PreparedDataset(particles.images, angles, ids) for ids in (half.train_ids, half.val_ids))
    names = particles.table.particles["rlnImageName"].iloc[half.val_ids].tolist()
    eulers = particles.table.eulers_deg
    records = ValidationRecords(half.folder, eulers[half.train_ids], eulers[half.val_ids], names)
    return Stage(half.folder, half.name, plan.arguments.n_epochs, train, held_out, records)


def source_folder(version_dir: Path, half_name: str) -> Path:
    """Where a run folder has the weights for a half set: its own, else those of simulated views, which saw no particles."""
    own = version_dir / half_name
    return own if (own / "model.safetensors").is_file() else version_dir / SIMULATED


def _network(plan: Plan, half: HalfSet) -> PoseNetwork:
    network = plan.network()
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
