"""What augmentation does to each picture of a batch, drawn at random.

It is drawn on the processor, so that it is known there how many pictures an operation is for: nothing has to wait for a GPU
to tell, and only those pictures are worked on. The same seed gives the same draws on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

GEOMETRIC = ("inPlaneRotations90", "inPlaneRotations", "inPlaneShifts", "sizePerturbation", "randomElastic")
OPERATIONS = (*GEOMETRIC, "gaussianBlur", "erasing", "randomGaussNoise", "randomUnifNoise")


@dataclass(frozen=True)
class Draws:
    """The numbers of all operations for `b` pictures, on the CPU. Where one was not chosen, its numbers change nothing.

    Attributes
    ----------
    chosen : for each operation which pictures get it, `(b,)` bool
    turn_degs : `(b,)`, what is added to psi
    scale : `(b,)`, above 1 for a larger particle
    shift_px : `(b, 2)` xy, where the particle's centre goes after the turn
    bend_px : `(b, 2, k, k)` xy, displacements on a grid of nodes over the picture
    blur_px : `(b,)`, the Gaussian's standard deviation
    hole_px : `(b, 2, 2)`, first and last + 1 of the erased rows and columns
    gauss_std, unif_amplitude : `(b,)`
    """

    chosen: dict[str, Tensor]
    turn_degs: Tensor
    scale: Tensor
    shift_px: Tensor
    bend_px: Tensor
    blur_px: Tensor
    hole_px: Tensor
    gauss_std: Tensor
    unif_amplitude: Tensor

    def which(self, operation: str) -> Tensor:
        """Indices of the pictures that get an operation, `(k,)`."""
        return self.chosen[operation].nonzero()[:, 0]


def draw(settings: Any, count: int, size: int, progress: float = 0.0) -> Draws:
    """Draw for `count` pictures of `size` pixels a side, from torch's generator of the CPU.

    Parameters
    ----------
    settings : the schema's `datamanager.augmenter`
    progress : 0 at the training's start, 1 at its end; probabilities with a final value change with it
    """
    chosen = draw_operations(settings, count, progress)
    given, operations = {name: which.float() for name, which in chosen.items()}, settings.operations
    elastic, erasing = operations.randomElastic, operations.erasing
    quarter_degs = torch.randint(1, 4, (count,)) * 90.0 * given["inPlaneRotations90"]
    small_degs = _symmetric(count) * operations.inPlaneRotations.max_angle_degs * given["inPlaneRotations"]
    nodes = max(2, round(1 / elastic.smoothness) + 1)
    return Draws(
        chosen,
        turn_degs=quarter_degs + small_degs,
        scale=1 + _symmetric(count) * operations.sizePerturbation.max_change * given["sizePerturbation"],
        shift_px=_symmetric(count, 2) * operations.inPlaneShifts.max_shift * size * given["inPlaneShifts"][:, None],
        bend_px=_symmetric(count, 2, nodes, nodes) * elastic.max_shift_px * given["randomElastic"][:, None, None, None],
        blur_px=torch.rand(count) * operations.gaussianBlur.max_sigma_px * given["gaussianBlur"],
        hole_px=_rectangles(count, size, erasing.max_side) * chosen["erasing"][:, None, None],
        gauss_std=torch.rand(count) * operations.randomGaussNoise.max_std * given["randomGaussNoise"],
        unif_amplitude=torch.rand(count) * operations.randomUnifNoise.max_amplitude * given["randomUnifNoise"],
    )


def probability(settings: Any, name: str, progress: float) -> float:
    """`settings.<name>` at some point of the training: linear from its first to its final value, where there is one."""
    first, final = getattr(settings, name), getattr(settings, f"{name}_final")
    return float(first if final is None else first + (final - first) * min(1.0, max(0.0, progress)))


def draw_operations(settings: Any, count: int, progress: float) -> dict[str, Tensor]:
    """For each operation which pictures get it, `(count,)` bool: each with its p, then cut or filled to the limits."""
    p = torch.tensor([probability(getattr(settings.operations, name), "p", progress) for name in OPERATIONS])
    wanted = torch.rand(count, len(OPERATIONS)) < p
    number = wanted.sum(dim=1).clamp(settings.min_n_augm_per_img, settings.max_n_augm_per_img)
    # What is certain comes first, then what was drawn, each in random order; what has p = 0 never does.
    priority = 2.0 * wanted + 1.0 * (p >= 1) + torch.rand(count, len(OPERATIONS))
    rank = priority.masked_fill(p == 0, -1.0).argsort(dim=1, descending=True).argsort(dim=1)
    any_at_all = torch.rand(count, 1) < probability(settings, "prob_augment_each_image", progress)
    applied = (rank < number[:, None]) & (p > 0) & any_at_all
    return dict(zip(OPERATIONS, applied.unbind(dim=1), strict=True))


def _rectangles(count: int, size: int, max_side: float) -> Tensor:
    """`(count, 2, 2)` int64: the pixels between two real numbers, in rows and in columns, all inside the picture."""
    side = torch.rand(count, 2) * max_side * size
    start = torch.rand(count, 2) * (size - side)
    return torch.stack((start, start + side), dim=-1).ceil().long()


def _symmetric(*shape: int) -> Tensor:
    """Uniform in [-1, 1]."""
    return torch.rand(*shape) * 2 - 1
