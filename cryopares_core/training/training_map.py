"""The map of a half set's training particles at the detail of their own images, which poses are searched against.

The map that training starts with has the pixel size of the network's images, which is coarser than what a search can use.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from cryopares_core.errors import UserError
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import Countdown
from cryopares_core.volumes.half_maps import reconstruct_half_maps
from cryopares_core.volumes.maps import resample_map, write_map
from cryopares_core.volumes.picture_fit import FINE_MAP

logger = logging.getLogger(__name__)
MAX_PARTICLES = 10_000  # mates under symmetry count; more make no better map for single images
MIN_PARTICLES = 50
MIN_PIXEL_ANGS = 2.5  # finer detail is not searched


def write_training_map(folder: Path, table: ParticleTable, ids: np.ndarray, symmetry: str, device: torch.device) -> bool:
    """Write `training_map.mrc` of particles `ids`, each frequency damped by its signal-to-noise ratio; whether there is one.

    Particles of several boxes or pixel sizes make none: the map that training starts with serves then.
    """
    if len(ids) < MIN_PARTICLES or len({*zip(table.image_size_px[ids], table.pixel_size_angs[ids], strict=True)}) > 1:
        return False
    chosen = np.sort(ids)[np.linspace(0, len(ids) - 1, min(len(ids), MAX_PARTICLES)).astype(int)]
    # Two halves of this half set tell signal from noise.
    part = replace(table.subset(chosen), half_set=(np.arange(len(chosen)) % 2 + 1).astype(np.int8))
    try:
        progress = Countdown("Added to the training map", "particles")
        made = reconstruct_half_maps(part, symmetry, device, progress=progress)
    except UserError as error:
        logger.warning("%s: no %s (%s)", folder.name, FINE_MAP, error)
        return False
    extent = len(made.volume) * made.pixel_size_angs
    size = min(len(made.volume), 2 * math.ceil(extent / MIN_PIXEL_ANGS / 2))
    write_map(folder / FINE_MAP, resample_map(made.volume.numpy(), size), extent / size)
    logger.info("%s: map of the training particles at %.3g Å (%s)", folder.name, made.resolution_angs, FINE_MAP)
    return True
