"""One stage of training: Lightning's trainer around the network, from some data to a model in a folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import Dataset

from cryopares_core.config.schema import Config
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.model.storage import ModelCard, save_card, save_model
from cryopares_core.particles.batches import make_loader
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.plots.readers import read_metrics
from cryopares_core.training.callbacks import AtomicCheckpointIO, BestModel, MetricsFile, PhaseClock, Progress
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.phases import Phases
from cryopares_core.training.records import ValidationRecords

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What all stages of a run share. `preprocessing` has sampling and size as numbers."""

    arguments: Any
    config: Config
    symmetry: str
    preprocessing: PreprocessSettings
    device: torch.device
    phases: Phases

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
        """Different particles in a batch; the rest are their augmented copies."""
        data = self.config.datamanager
        return self.arguments.batch_size // (data.num_augmented_copies_per_batch if data.augment_train else 1)

    def network(self) -> PoseNetwork:
        """A network of the run's shape, with fresh weights."""
        return PoseNetwork(self.config.models.image2sphere, self.symmetry, self.image_size_px, self.preprocessing.channels)


@dataclass(frozen=True)
class Stage:
    """What one stage trains on, for how long, and where it writes. `title` stands before its lines of progress.

    `curriculum` takes noise off the training pictures at first.
    """

    folder: Path
    title: str
    n_epochs: int
    train: Dataset
    held_out: Dataset
    records: ValidationRecords
    curriculum: NoiseCurriculum | None = None


@dataclass(frozen=True)
class StageResult:
    """The best epoch of a stage and its metrics, and the whole history."""

    name: str
    folder: Path
    best: dict[str, Any]
    epochs: list[dict[str, Any]]


def fit(plan: Plan, stage: Stage, network: PoseNetwork, resume: bool) -> StageResult:
    """Train, keep the best epoch as `model.safetensors`, and return its metrics.

    Raises
    ------
    UserError : training diverged, or the disk is full
    KeyboardInterrupt : the run was stopped
    """
    with warnings.catch_warnings():
        # Lightning's advice on loaders and srun is not for our users.
        warnings.filterwarnings("ignore", module=r"lightning|torch\.utils\.data")
        _fit(plan, stage, network, resume)
    with plan.phases("saving"):
        return _result(plan, stage)


def _fit(plan: Plan, stage: Stage, network: PoseNetwork, resume: bool) -> None:
    with plan.phases("start-up"):
        stage.folder.mkdir(parents=True, exist_ok=True)
        module = _module(plan, network, stage.curriculum)
        trainer = _trainer(plan, stage, module)
        train = make_loader(stage.train, plan.particles_per_batch, shuffle=True)
        held_out = make_loader(stage.held_out, plan.arguments.batch_size, shuffle=False)
        last = stage.folder / "checkpoints" / "last.ckpt"
    with plan.phases("training steps"):
        # Only our own checkpoint of the run that is continued is read here; models from elsewhere are safetensors.
        try:
            trainer.fit(module, train, held_out, ckpt_path=last if resume and last.exists() else None, weights_only=False)
        except SystemExit as error:  # Lightning turns Ctrl-C into an exit; the command says what happened
            raise KeyboardInterrupt from error


def _module(plan: Plan, network: PoseNetwork, curriculum: NoiseCurriculum | None) -> PoseTraining:
    module = PoseTraining(network, plan.config, plan.symmetry, plan.mask, curriculum)
    if plan.arguments.compile_model:
        on_processor = " On a processor the steps are no faster afterwards." if plan.device.type == "cpu" else ""
        logger.info("Compiling the network: the first step takes a minute or more.%s", on_processor)
        module.compile_step()
    return module


def _trainer(plan: Plan, stage: Stage, module: PoseTraining) -> lightning.Trainer:
    arguments, train = plan.arguments, plan.config.train
    return lightning.Trainer(
        accelerator="gpu" if plan.device.type == "cuda" else "cpu",
        devices=1,
        precision=_precision(train.precision, plan.device),
        max_epochs=stage.n_epochs,
        accumulate_grad_batches=train.accumulate_grad_batches,
        gradient_clip_val=train.gradient_clip_norm,
        overfit_batches=arguments.overfit_batches or 0.0,
        val_check_interval=arguments.val_check_interval,
        logger=TensorBoardLogger(stage.folder.parent, name="", version=stage.folder.name),
        callbacks=_callbacks(plan, stage, module),
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _callbacks(plan: Plan, stage: Stage, module: PoseTraining) -> list[lightning.Callback]:
    folder = stage.folder / "checkpoints"
    return [
        BestModel(stage.folder, _save_model(plan, stage, module)),
        MetricsFile(stage.folder / "metrics.jsonl"),
        Progress(stage.title),
        PhaseClock(plan.phases),
        ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False),
        ModelCheckpoint(folder, filename="last", enable_version_counter=False),
    ]


def _save_model(plan: Plan, stage: Stage, module: PoseTraining) -> Callable[[dict[str, Any]], None]:
    """Keeps the best epoch: the model, and what it found for the pictures held out."""

    def save(metrics: dict[str, Any]) -> None:
        save_model(stage.folder, _card(plan, stage, metrics, metrics["epoch"]), module.network)
        stage.records.write(module.validated)

    return save


def _precision(name: str, device: torch.device) -> Any:
    return "bf16-mixed" if uses_bfloat16(name, device) else "32-true"


def _card(plan: Plan, stage: Stage, best: dict[str, Any], n_epochs: int) -> ModelCard:
    return ModelCard(
        symmetry=plan.symmetry,
        sampling_rate_angs=plan.sampling_rate_angs,
        image_size_px=plan.image_size_px,
        in_channels=plan.preprocessing.channels,
        config=asdict(plan.config),
        half_set=stage.folder.name,
        training={"n_train": len(stage.train), "n_val": len(stage.held_out), "epochs": n_epochs, "best": best},  # type: ignore[arg-type]
    )


def _result(plan: Plan, stage: Stage) -> StageResult:
    """The finished stage; its model's card now counts all epochs."""
    epochs = read_metrics(stage.folder / "metrics.jsonl")
    best = min(epochs, key=lambda line: line.get("val_loss", float("inf")))
    save_card(stage.folder, _card(plan, stage, best, len(epochs)))
    return StageResult(stage.folder.name, stage.folder, best, epochs)
