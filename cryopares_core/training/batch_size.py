"""`--batch_size auto`: as many pictures as the memory holds."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

from cryopares_core.config.schema import Train
from cryopares_core.errors import UserError
from cryopares_core.plots.readers import read_json
from cryopares_core.training.distribution import gathered
from cryopares_core.training.estimate import largest_batch
from cryopares_core.training.plan import Plan

logger = logging.getLogger(__name__)
AUTO = 0
USUAL = 64  # what the default learning rate is for
LARGEST = 1024  # larger ones learn less from each picture
STEPS_AN_EPOCH = 20  # at least


def with_batch_size(plan: Plan, earlier: Path | None, n_particles: int) -> Plan:
    """The plan with a number of pictures in a batch where the user left it open: that of the run that goes on, or the
    largest that all processes have memory for.

    Parameters
    ----------
    earlier : the folder of a run that goes on
    n_particles : of an epoch; few of them make smaller batches

    Raises
    ------
    UserError : there is no memory for one particle
    """
    if plan.arguments.batch_size != AUTO:
        return plan
    known = read_json(earlier / "run.json").get("batch_size") if earlier else None
    size = known or _largest(plan, n_particles)
    if not known:
        logger.info("Batches of %d pictures%s", size, _advice(plan, size))
    return replace(plan, arguments=replace(plan.arguments, batch_size=size))


def _largest(plan: Plan, n_particles: int) -> int:
    data, processes = plan.config.datamanager, plan.fabric.world_size
    copies = data.num_augmented_copies_per_batch if data.augment_train else 1
    unit = copies * processes
    fits = min(gathered(plan.fabric, largest_batch(plan.network(), plan.image_size_px, plan.device, plan.config.train.precision)))
    if fits < copies:
        raise UserError(
            "The memory is too small for a single particle with its augmented copies. Take a smaller box, a smaller network or "
            "fewer copies (datamanager.num_augmented_copies_per_batch)."
        )
    most = min(LARGEST, fits * processes, n_particles * copies // STEPS_AN_EPOCH)
    return max(1, most // unit) * unit


def _advice(plan: Plan, size: int) -> str:
    """The learning rate grows with the square root of the batch, as its noise falls; only where the user has not set it."""
    rate, usual = plan.config.train.learning_rate, Train().learning_rate
    proposed = float(f"{usual * math.sqrt(size / USUAL):.2g}")
    if rate != usual or proposed == usual:
        return ""
    return f". The learning rate of {rate:g} is for {USUAL}: --config train.learning_rate={proposed:g} suits these better"
