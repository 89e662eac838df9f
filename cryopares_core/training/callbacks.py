"""What happens around the steps: metrics on disk, progress, phases, checkpoints that are whole or absent."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from tqdm import tqdm

from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path, write_text
from cryopares_core.plots.readers import read_metrics
from cryopares_core.progress import format_seconds
from cryopares_core.training.phases import Phases

logger = logging.getLogger(__name__)
METRICS = ("loss", "val_loss", "geo_degs", "val_geo_degs", "val_median_geo_degs", "val_share_under_5_degs", "lr", "noise")


@contextmanager
def _told_in_one_sentence(path: Path) -> Iterator[None]:
    """A file of a half set's folder that cannot be written ends the run with what to do."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch reports a full disk as a RuntimeError
        raise UserError(
            f"{path} could not be written ({' '.join(str(error).split())[:120]}). Is the disk full? Make room, "
            f"then go on with --continue_checkpoint_dir {_run_folder(path)}; what was saved before is kept."
        ) from error


def _run_folder(path: Path) -> Path:
    """The version_N above a file of one of its stages."""
    return next((folder for folder in path.parents if (folder / "run.json").is_file()), path.parent)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints get their name when they are complete on disk; one that cannot be written leaves the earlier one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _told_in_one_sentence(Path(path)), atomic_path(path) as temporary:
            super().save_checkpoint(checkpoint, temporary, storage_options)


class BestModel(lightning.Callback):
    """Saves the model each time the validation loss is the lowest so far, so that a stopped run leaves its best one.

    Parameters
    ----------
    folder : the half set's
    save : called with the epoch and the metrics of the validation, as they stand in `metrics.jsonl`
    """

    def __init__(self, folder: Path, save: Callable[[dict[str, Any]], None]):
        self.folder, self.save, self.lowest = folder, save, float("inf")

    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lowest = state_dict["lowest"]

    def on_validation_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        # The means over the training pictures of this epoch are not there yet.
        metrics = _current_metrics(trainer, [name for name in METRICS if name.startswith("val_")])
        if metrics["val_loss"] < self.lowest:
            self.lowest = metrics["val_loss"]
            with _told_in_one_sentence(self.folder / "model.safetensors"):
                self.save(metrics)


def _current_metrics(trainer: lightning.Trainer, names: Sequence[str] = METRICS) -> dict[str, Any]:
    values = trainer.callback_metrics
    line: dict[str, Any] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
    return line | {name: float(f"{float(values[name]):.6g}") for name in names if name in values}


class MetricsFile(lightning.Callback):
    """One JSON object a line and epoch in `metrics.jsonl`, on disk as soon as the epoch ends."""

    def __init__(self, path: Path):
        self.path = path
        self.started = time.perf_counter()

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        # A continued run repeats the epochs after its last checkpoint: their lines give way, earlier ones stay.
        if self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["epoch"] <= trainer.current_epoch]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        line = _current_metrics(trainer) | {"seconds": round(time.perf_counter() - self.started, 1)}
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")


class Progress(lightning.Callback):
    """A bar over all steps with the time left, and one line an epoch that also reads well in a log file."""

    def __init__(self, title: str):
        self.title, self.bar = title, None
        self.started, self.first_step = 0.0, 0

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        self.started, self.first_step = time.perf_counter(), trainer.current_epoch * int(trainer.num_training_batches)
        layout = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left{postfix}"
        hidden = not sys.stderr.isatty()
        self.bar = tqdm(
            total=total,
            initial=self.first_step,
            desc=self.title,
            bar_format=layout,
            unit=" step",
            disable=hidden,
            leave=False,
        )

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if self.bar is not None:
            self.bar.update(1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        done = (trainer.current_epoch + 1) * int(trainer.num_training_batches)
        total = int(trainer.num_training_batches) * (trainer.max_epochs or 1)
        pace = (time.perf_counter() - self.started) / max(1, done - self.first_step)
        line = (
            f"{self.title}  epoch {trainer.current_epoch + 1:>3}/{trainer.max_epochs}  loss {values['loss']:.3f}  "
            f"val_loss {values.get('val_loss', float('nan')):.3f}  error mean {values.get('val_geo_degs', float('nan')):.1f}° "
            f"median {values.get('val_median_geo_degs', float('nan')):.1f}°  {_noise_text(values)}"
            f"{format_seconds(pace * (total - done))} left"
        )
        if self.bar is not None:
            self.bar.clear()
        logger.info(line)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)


def _noise_text(values: dict[str, float]) -> str:
    """How far the curriculum has come, until it has ended."""
    return f"noise {values['noise']:.0%}  " if values.get("noise", 1.0) < 0.995 else ""


class PhaseClock(lightning.Callback):
    """Tells `Phases` when validation and saving begin and end within training."""

    def __init__(self, phases: Phases):
        self.phases = phases

    def on_validation_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.phases.begin("validation")

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.phases.end()
