"""`gallery.png`: a few training particles at each stage on their way to the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cryopares_core.particles.stacks import read_images
from cryopares_core.plots.figures import new_figure, save_png
from cryopares_core.plots.gallery import GalleryRow, draw_gallery
from cryopares_core.training.augmented import augmented_copies, shown
from cryopares_core.training.half_set import Particles
from cryopares_core.training.plan import Plan

N_PARTICLES, N_COPIES = 8, 2


def save_gallery(run_dir: Path, plan: Plan, particles: Particles, train_ids: np.ndarray) -> None:
    """Draw some of the particles `train_ids`: as in the stack, as prepared, and augmented as in a step of training."""
    ids = np.sort(np.random.default_rng(0).permutation(train_ids)[:N_PARTICLES])
    figure = new_figure(12.5, 1.6 * (2 + N_COPIES) if plan.config.datamanager.augment_train else 3.6)
    draw_gallery(figure, gallery_rows(plan, particles, ids), "Particles on their way to the network")
    save_png(figure, run_dir / "gallery.png")


def gallery_rows(plan: Plan, particles: Particles, ids: np.ndarray) -> list[GalleryRow]:
    """The stages of some particles. Where the network gets two pictures of each, the CTF-corrected ones are shown."""
    table, sampling = particles.table, plan.sampling_rate_angs
    raw = [read_images(table, ids[place : place + 1])[0] for place in range(len(ids))]
    prepared = particles.images[torch.from_numpy(ids)].float()
    first, size = float(table.pixel_size_angs[ids[0]]), prepared.shape[-1]
    rows = [
        GalleryRow(f"in the stack\n{len(raw[0])} px, {first:.4g} Å/px", raw, first),
        GalleryRow(f"prepared\n{size} px, {sampling:.4g} Å/px", shown(prepared * plan.mask), sampling),
    ]
    copies = augmented_copies(plan, prepared, N_COPIES) if plan.config.datamanager.augment_train else []
    return rows + [GalleryRow(f"augmented,\ncopy {number}", shown(copy), sampling) for number, copy in enumerate(copies, 1)]
