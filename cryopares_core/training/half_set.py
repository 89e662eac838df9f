"""Training of one half set: data, network, Lightning's trainer, and the model at the end."""

from __future__ import annotations

import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.storage import ModelCard, copy_weights, read_weights, save_card, save_model
from cryopares_core.particles.batches import PreparedDataset, make_loader
from cryopares_core.particles.preprocess import PreprocessSettings, network_mask
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.readers import read_metrics
from cryopares_core.training.callbacks import AtomicCheckpointIO, BestModel, MetricsFile, PhaseClock, Progress
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.phases import Phases
from cryopares_core.training.records import ValidationRecords

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What all half sets of a run share. `images` are the prepared pictures of all particles, `(n, c, s, s)` float16."""

    arguments: Any
    config: Config
    symmetry: str
    preprocessing: PreprocessSettings
    table: ParticleTable
    images: Tensor
    device: torch.device
    phases: Phases

    @property
    def sampling_rate_angs(self) -> float:
        """Pixel size of the prepared pictures; set by `preprocess_settings` for all particles alike."""
        return float(self.preprocessing.sampling_rate_angs or 0)

    @property
    def mask(self) -> Tensor:
        """What each picture is multiplied by before the network gets it, `(s, s)`."""
        radius = self.config.datamanager.particlesDataset.mask_radius_angs
        return network_mask(self.images.shape[-1], self.sampling_rate_angs, radius)

    @property
    def particles_per_batch(self) -> int:
        data = self.config.datamanager
        return self.arguments.batch_size // (data.num_augmented_copies_per_batch if data.augment_train else 1)


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


@dataclass(frozen=True)
class HalfSetResult:
    """The best epoch of a half set and its metrics, and the whole history."""

    name: str
    folder: Path
    best: dict[str, Any]
    epochs: list[dict[str, Any]]


def train_half_set(plan: Plan, half: HalfSet, resume: bool) -> HalfSetResult:
    """Train one model, save its best epoch as `model.safetensors`, and return its metrics.

    Raises
    ------
    UserError : training diverged, or the run was stopped (`Stopped`).
    """
    with plan.phases("start-up"):
        lightning.seed_everything(plan.config.train.seed + half.number, verbose=False)
        half.folder.mkdir(parents=True, exist_ok=True)
        _write_splits(plan, half)
        network = _network(plan, half)
        module = _module(plan, network)
        trainer = _trainer(plan, half, module)
        loaders = _loaders(plan, half)
    with plan.phases("training steps"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning|torch\.utils\.data")
        last = half.folder / "checkpoints" / "last.ckpt"
        # Only our own checkpoint of the run that is continued is read here; models from elsewhere are safetensors.
        try:
            trainer.fit(module, *loaders, ckpt_path=last if resume and last.exists() else None, weights_only=False)
        except SystemExit as error:  # Lightning turns Ctrl-C into an exit; the command says what happened
            raise KeyboardInterrupt from error
    with plan.phases("saving"):
        return _result(plan, half)


def _network(plan: Plan, half: HalfSet) -> PoseNetwork:
    settings = plan.config.models.image2sphere
    size, channels = plan.images.shape[-1], plan.images.shape[1]
    network = PoseNetwork(settings, plan.symmetry, size, channels)
    if plan.arguments.finetune_checkpoint_dir:
        source = Path(plan.arguments.finetune_checkpoint_dir) / half.name
        problems = copy_weights(network, read_weights(source))
        for problem in problems:
            logger.warning("Fine-tuning from %s: %s; it starts afresh", source, problem)
        if len(problems) == len(network.state_dict()):
            raise UserError(f"{source}: none of the model's layers fits this network. Use the settings that it was trained with.")
    return network


def _module(plan: Plan, network: PoseNetwork) -> PoseTraining:
    module = PoseTraining(network, plan.config, plan.symmetry, plan.mask)
    if plan.arguments.compile_model:
        network.encoder.compile()
    return module


def _loaders(plan: Plan, half: HalfSet) -> tuple[Any, Any]:
    angles = torch.from_numpy(plan.table.eulers_deg).float()
    train, held_out = (PreparedDataset(plan.images, angles, ids) for ids in (half.train_ids, half.val_ids))
    return make_loader(train, plan.particles_per_batch, shuffle=True), make_loader(
        held_out, plan.arguments.batch_size, shuffle=False
    )


def _trainer(plan: Plan, half: HalfSet, module: PoseTraining) -> lightning.Trainer:
    arguments, train = plan.arguments, plan.config.train
    folder = half.folder / "checkpoints"
    best = ModelCheckpoint(folder, filename="best", monitor="val_loss", enable_version_counter=False)
    last = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    callbacks = [
        _best_model(plan, half, module),
        MetricsFile(half.folder / "metrics.jsonl"),
        Progress(half.name),
        PhaseClock(plan.phases),
        best,
        last,
    ]
    return lightning.Trainer(
        accelerator="gpu" if plan.device.type == "cuda" else "cpu",
        devices=1,
        precision=_precision(train.precision, plan.device),
        max_epochs=arguments.n_epochs,
        accumulate_grad_batches=train.accumulate_grad_batches,
        gradient_clip_val=train.gradient_clip_norm,
        overfit_batches=arguments.overfit_batches or 0.0,
        val_check_interval=arguments.val_check_interval,
        logger=TensorBoardLogger(half.folder.parent, name="", version=half.name),
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _best_model(plan: Plan, half: HalfSet, module: PoseTraining) -> BestModel:
    """Keeps the best epoch: the model, and what it found for the particles held out."""
    names = plan.table.particles["rlnImageName"].iloc[half.val_ids].tolist()
    records = ValidationRecords(half.folder, plan.table.eulers_deg[half.train_ids], plan.table.eulers_deg[half.val_ids], names)

    def save(metrics: dict[str, Any]) -> None:
        save_model(half.folder, _card(plan, half, metrics, metrics["epoch"]), module.network)
        records.write(module.validated)

    return BestModel(half.folder, save)


def _precision(name: str, device: torch.device) -> Any:
    if name == "auto":
        name = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "32"
    return "bf16-mixed" if name == "bf16" else "32-true"


def _write_splits(plan: Plan, half: HalfSet) -> None:
    folder = half.folder / "splits"
    folder.mkdir(exist_ok=True)
    for name, ids in (("train", half.train_ids), ("val", half.val_ids)):
        plan.table.subset(ids).write_star(folder / f"{name}.star")


def _card(plan: Plan, half: HalfSet, best: dict[str, Any], n_epochs: int) -> ModelCard:
    return ModelCard(
        symmetry=plan.symmetry,
        sampling_rate_angs=plan.sampling_rate_angs,
        image_size_px=plan.images.shape[-1],
        in_channels=plan.images.shape[1],
        config=asdict(plan.config),
        half_set=half.name,
        training={"n_train": len(half.train_ids), "n_val": len(half.val_ids), "epochs": n_epochs, "best": best},
    )


def _result(plan: Plan, half: HalfSet) -> HalfSetResult:
    """The finished half set; its model's card now counts all epochs."""
    epochs = read_metrics(half.folder / "metrics.jsonl")
    best = min(epochs, key=lambda line: line.get("val_loss", float("inf")))
    save_card(half.folder, _card(plan, half, best, len(epochs)))
    return HalfSetResult(half.name, half.folder, best, epochs)
