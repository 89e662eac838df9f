"""Some pictures of a run, prepared as training would prepare them."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import Countdown
from cryopares_core.training.plan import Plan
from cryopares_core.training.starting_map import KnownParticles

MOST, NEIGHBOURS = 3000, 50


@dataclass(frozen=True)
class Sample:
    """Particles of a run with their pictures.

    Attributes
    ----------
    table : of these particles alone
    known : their prepared pictures, poses and CTFs
    seconds : that the preparation of one picture took
    """

    table: ParticleTable
    known: KnownParticles
    seconds: float

    def of_half(self, half: int) -> Tensor:
        """Indices of the particles of half set 1 or 2."""
        return torch.from_numpy(np.flatnonzero(self.table.half_set == half))


def draw_sample(table: ParticleTable, plan: Plan, most: int = MOST) -> Sample:
    """Prepare at most so many pictures, from all over the files. Raises UserError where some are broken."""
    part = table.subset(spread_rows(table, most))
    started = time.perf_counter()
    images = prepare_particles(part, plan.preprocessing, plan.device, progress=Countdown("Prepared", "pictures of a sample"))
    seconds = (time.perf_counter() - started) / len(part)
    return Sample(part, KnownParticles(images, torch.from_numpy(part.eulers_deg).float(), ctf_tensors(part.ctf)), seconds)


def spread_rows(table: ParticleTable, most: int) -> np.ndarray:
    """At most so many rows. Some that lie side by side in their file, from many places: reading is as fast as that of all."""
    order = np.lexsort((table.slice_id, table.stack_id))
    if len(order) <= most:
        return order
    starts = np.linspace(0, len(order) - NEIGHBOURS, most // NEIGHBOURS).astype(int)
    return np.unique(order[starts[:, None] + np.arange(NEIGHBOURS)])
