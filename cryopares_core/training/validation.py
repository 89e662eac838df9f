"""Looking at the particles held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from cryopares_core.particles.batches import Batch, EpochLoader
from cryopares_core.plots.errors import GOOD_DEGS
from cryopares_core.training.distribution import gathered
from cryopares_core.training.records import Validated


@torch.no_grad()
def validate(fabric: Fabric, module: nn.Module, loader: EpochLoader, pause: Callable[[], None]) -> tuple[float, Validated]:
    """The mean loss over all pictures of a loader, and what was found for each; the same in all processes.

    Parameters
    ----------
    module : a `PoseTraining` that fabric has set up
    pause : called before each batch; may end the validation by raising
    """
    module.eval()
    try:
        found = []
        for batch in loader.epoch(0):
            pause()
            if len(batch):
                found.append(_of_batch(fabric, module, batch.to(fabric.device)))
    finally:
        module.train()
    columns = [torch.cat(column).cpu() for column in zip(*found, strict=True)] if found else None
    parts = gathered(fabric, (np.concatenate(loader.positions(0)), columns))
    order = torch.from_numpy(np.argsort(np.concatenate([places for places, _ in parts])))
    losses, *findings = (torch.cat(same)[order] for same in zip(*(part for _, part in parts if part), strict=True))
    return float(losses.double().mean()), Validated(*findings)


def _of_batch(fabric: Fabric, module: Any, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Losses `(b,)`, poses `(b, 3, 3)`, errors `(b,)`, and confidence `(b,)`: the density's mass within `GOOD_DEGS` of the pose.

    The radius is that of the share of good particles, so that confidence can be held against what came true.
    """
    losses, coefficients, poses, errors = module(batch.images.float(), batch.eulers_degs)
    return losses, poses, errors, module.network.density.mass_within(coefficients, poses, GOOD_DEGS)


def summary(loss: float, validated: Validated) -> dict[str, float]:
    """The metrics of a validation under the names in `metrics.jsonl`."""
    errors = validated.error_degs
    values = {
        "val_loss": loss,
        "val_geo_degs": float(errors.mean()),
        "val_median_geo_degs": float(errors.quantile(0.5)),
        "val_share_under_5_degs": float((errors < 5).float().mean()),
    }
    return {name: shortened(value) for name, value in values.items()}


def shortened(value: float) -> float:
    """Six digits, as `metrics.jsonl` has them."""
    return float(f"{value:.6g}")
