"""The time that a training will take, from a few real steps of it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.particles.batches import Batch, EpochLoader
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.loop import Loop
from cryopares_core.training.module import PoseTraining
from cryopares_core.training.plan import Plan, Stage
from cryopares_core.training.records import ValidationRecords
from cryopares_core.training.starting_map import KnownParticles
from cryopares_core.training.validation import validate

logger = logging.getLogger(__name__)
MOST_STEPS, MOST_SECONDS = 8, 15.0
MOST_VALIDATED = 256


class StandIns(Dataset):
    """As many particles as a training has, each with the picture of one in a sample."""

    def __init__(self, known: KnownParticles, count: int):
        self.known, self.count = known, count

    def __len__(self) -> int:
        return self.count

    def __getitems__(self, items: Any) -> Batch:
        chosen = torch.as_tensor(np.asarray(items)) % len(self.known.images)
        return Batch(self.known.images[chosen], self.known.eulers_degs[chosen], chosen)


@dataclass(frozen=True)
class StageCost:
    """Seconds of one step, steps of an epoch, and seconds of its looks at the pictures held out."""

    step: float
    steps_an_epoch: int
    validation: float

    def of(self, n_epochs: int) -> float:
        """Seconds of so many epochs."""
        return n_epochs * (self.steps_an_epoch * self.step + self.validation)


def stage_cost(plan: Plan, train: Any, known: KnownParticles, n_held_out: int, curriculum: NoiseCurriculum | None) -> StageCost:
    """Make some steps of a training, on a network that is then forgotten.

    Parameters
    ----------
    train : as in `Stage`
    known : pictures that stand for those held out
    curriculum : half of the steps are made with it, as in training about half of them are

    Raises
    ------
    UserError : the memory is too small for a step
    """
    loop = _loop(plan, train, StandIns(known, n_held_out), curriculum)
    step, n_looks = _step_seconds(loop, plan.config.train.accumulate_grad_batches), 1 / (plan.arguments.val_check_interval or 1)
    some = EpochLoader(StandIns(known, min(n_held_out, MOST_VALIDATED)), plan.arguments.batch_size)
    started = time.perf_counter()
    validate(plan.fabric, loop.module, some, lambda: None)
    a_picture = (time.perf_counter() - started) / len(some.dataset)
    return StageCost(step, loop.steps_an_epoch, n_looks * n_held_out * a_picture)


def _loop(plan: Plan, train: Any, held_out: StandIns, curriculum: NoiseCurriculum | None) -> Loop:
    """The real loop, which writes nothing before it runs."""
    nowhere = Path(plan.arguments.train_save_dir or "")
    records = ValidationRecords(nowhere, np.zeros((0, 3)), np.zeros((0, 3)), [])
    module = PoseTraining(plan.network(), plan.symmetry, plan.mask, uses_bfloat16(plan.config.train.precision, plan.device))
    loop = Loop(plan, Stage(nowhere, "check", 1, train, held_out, records, curriculum), module, lambda *_: None)
    loop.module.train()
    return loop


def _step_seconds(loop: Loop, n_batches: int) -> float:
    """The mean of a step with the curriculum and one without, and of getting its batches; the first two also load programs."""
    logger.info("Making a few training steps, on a network that is then forgotten")
    started = time.perf_counter()
    batches = [loop.train.dataset.__getitems__(places) for places in islice(loop.train.positions(0), n_batches)]
    getting, seconds = time.perf_counter() - started, list[float]()
    while len(seconds) < MOST_STEPS and sum(seconds) < MOST_SECONDS:
        started = time.perf_counter()
        float(loop.step(batches, len(seconds), 0.0, noisy=len(seconds) % 2 == 1, stop=False)[0])
        seconds.append(time.perf_counter() - started)
    steady = seconds[2:] if len(seconds) > 3 else seconds[-1:]
    return getting + (median(steady[::2]) + median(steady[1::2] or steady)) / 2
