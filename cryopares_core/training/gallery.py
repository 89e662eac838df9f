"""`gallery.png`: a few training particles at each stage on their way to the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.stacks import read_images
from cryopares_core.plots.figures import new_figure, save_png
from cryopares_core.plots.gallery import GalleryRow, draw_gallery
from cryopares_core.training.fit import Plan
from cryopares_core.training.half_set import Particles

N_PARTICLES, N_COPIES = 8, 2
SEED = 0


def save_gallery(run_dir: Path, plan: Plan, particles: Particles, train_ids: np.ndarray) -> None:
    """Draw some of the particles `train_ids`: as in the stack, as prepared, and augmented as in a step of training."""
    ids = np.sort(np.random.default_rng(SEED).permutation(train_ids)[:N_PARTICLES])
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
        GalleryRow(f"prepared\n{size} px, {sampling:.4g} Å/px", _shown(prepared * plan.mask), sampling),
    ]
    copies = _augmented(plan, prepared) if plan.config.datamanager.augment_train else []
    return rows + [GalleryRow(f"augmented,\ncopy {number}", _shown(copy), sampling) for number, copy in enumerate(copies, 1)]


def _augmented(plan: Plan, images: Tensor) -> list[Tensor]:
    """Copies as in training. What training itself draws at random stays as it would be without them."""
    augmenter, angles = Augmenter(plan.config.datamanager.augmenter), torch.zeros(len(images), 3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would seed the GPUs too
        return [augmenter(images, angles)[0] * plan.mask for _ in range(N_COPIES)]


def _shown(images: Tensor) -> list[np.ndarray]:
    """`(n, c, s, s)` to the last channel's pictures."""
    return list(images[:, -1].numpy())
