"""Pictures as training augments them, to be looked at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.training.plan import Plan

SEED = 0


def augmented_copies(plan: Plan, images: Tensor, count: int) -> list[Tensor]:
    """Copies of pictures as in training, masked. What training itself draws at random stays as it would be without them."""
    augmenter, angles = Augmenter(plan.config.datamanager.augmenter), torch.zeros(len(images), 3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # torch.manual_seed would seed the GPUs too
        return [augmenter(images, angles)[0] * plan.mask for _ in range(count)]


def shown(images: Tensor) -> list[np.ndarray]:
    """`(n, c, s, s)` to the last channel's pictures."""
    return list(images[:, -1].numpy())
