"""What is to be trained: a run's plan, and the stages that it goes through."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from cryopares_core.config.schema import Config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.distribution import one_process
from cryopares_core.training.phases import Phases
from cryopares_core.training.records import ValidationRecords


@dataclass(frozen=True)
class Plan:
    """What all stages of a run share. `preprocessing` has sampling and size as numbers."""

    arguments: Any
    config: Config
    symmetry: str
    preprocessing: PreprocessSettings
    device: torch.device
    phases: Phases
    fabric: Fabric = field(default_factory=one_process)

    @property
    def sampling_rate_angs(self) -> float:
        """Pixel size of the network's pictures."""
        return float(self.preprocessing.sampling_rate_angs or 0)

    @property
    def image_size_px(self) -> int:
        """Side of the network's pictures."""
        return int(self.preprocessing.image_size_px or 0)

    @property
    def mask(self) -> Tensor:
        """What each picture is multiplied by before the network gets it, `(s, s)`."""
        return network_mask(self.image_size_px, self.sampling_rate_angs, self.preprocessing.mask_radius_angs)

    @property
    def particles_per_batch(self) -> int:
        """Different particles in a batch, as many for each process; the rest are their augmented copies."""
        data, processes = self.config.datamanager, self.fabric.world_size
        particles = self.arguments.batch_size // (data.num_augmented_copies_per_batch if data.augment_train else 1)
        return max(1, round(particles / processes)) * processes

    def network(self) -> PoseNetwork:
        """A network of the run's shape, with fresh weights."""
        return PoseNetwork(self.config.models.image2sphere, self.symmetry, self.image_size_px, self.preprocessing.channels)


@dataclass(frozen=True)
class Stage:
    """What one stage trains on, for how long, and where it writes. `title` stands before its lines of progress.

    `train` and `held_out` give a `Batch` for a list of positions by `__getitems__`.
    `curriculum` takes noise off the training pictures at first. `weights` `(n,)` of all particles of the run multiply the losses of
    the training pictures; None weighs all alike.
    """

    folder: Path
    title: str
    n_epochs: int
    train: Any
    held_out: Any
    records: ValidationRecords
    curriculum: NoiseCurriculum | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class StageResult:
    """The best epoch of a stage and its metrics, and the whole history."""

    name: str
    folder: Path
    best: dict[str, Any]
    epochs: list[dict[str, Any]]
