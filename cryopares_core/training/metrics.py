"""How a training goes, for people and programs: `metrics.jsonl`, TensorBoard, a bar and a line an epoch."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from cryopares_core.files import write_text
from cryopares_core.plots.readers import read_metrics
from cryopares_core.progress import format_seconds

logger = logging.getLogger(__name__)


class MetricsFiles:
    """One JSON object a line and epoch in `metrics.jsonl`, on disk as soon as the epoch ends, and the same for TensorBoard.

    Parameters
    ----------
    folder : the stage's
    epoch, step : epochs and steps that were done before; what a killed run wrote after them gives way
    """

    def __init__(self, folder: Path, epoch: int, step: int):
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in read_metrics(self.path) if line["epoch"] <= epoch]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, line: dict[str, Any]) -> None:
        """Take an epoch's line."""
        with open(self.path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name not in ("epoch", "step"):
                self.writer.add_scalar(name, value, line["step"])
        self.writer.flush()

    def close(self) -> None:
        """No more lines."""
        self.writer.close()


class Progress:
    """A bar over all steps with the time left, and one line an epoch that also reads well in a log file.

    Parameters
    ----------
    title : stands before each line
    n_epochs, steps_an_epoch : of the whole stage
    step : steps that were done before
    shown : whether this process tells of the run
    """

    def __init__(self, title: str, n_epochs: int, steps_an_epoch: int, step: int, shown: bool):
        self.title, self.n_epochs = title, n_epochs
        self.first_step, self.total = step, n_epochs * steps_an_epoch
        self.started = time.perf_counter()
        layout = "{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} steps, {rate_fmt}, {remaining} left{postfix}"
        self.bar = tqdm(
            total=self.total,
            initial=step,
            desc=title,
            bar_format=layout,
            unit=" step",
            disable=not (shown and sys.stderr.isatty()),
            leave=False,
        )

    def step(self) -> None:
        """One more step was done."""
        self.bar.update(1)

    def epoch(self, line: dict[str, Any]) -> None:
        """Tell of an epoch's metrics."""
        pace = (time.perf_counter() - self.started) / max(1, line["step"] - self.first_step)
        left = format_seconds(pace * max(0, self.total - line["step"]))
        self.bar.clear()
        logger.info(
            f"{self.title}  epoch {line['epoch']:>3}/{self.n_epochs}  loss {line['loss']:.3f}  val_loss {line['val_loss']:.3f}  "
            f"error mean {line['val_geo_degs']:.1f}° median {line['val_median_geo_degs']:.1f}°  {_noise_text(line)}{left} left"
        )

    def close(self) -> None:
        """The stage ends or stops."""
        self.bar.close()


def _noise_text(line: dict[str, Any]) -> str:
    """How far the curriculum has come, until it has ended."""
    return f"noise {line['noise']:.0%}  " if line.get("noise", 1.0) < 0.995 else ""
