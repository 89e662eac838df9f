"""A picture and its quarter turns: the same particle, with known poses relative to each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cryopares_core.geometry.wigner import Wigner


def quarter_turned(images: Tensor, count: int) -> Tensor:
    """Masked pictures `(..., n, n)` turned about pixel n // 2, so that the projection at psi becomes that at psi + 90 count.

    Row and column 0 of an even picture have no mates on the other side; the mask leaves nothing there.
    """
    first = 1 - images.shape[-1] % 2
    turned = torch.zeros_like(images)
    turned[..., first:, first:] = torch.rot90(images[..., first:, first:], count, (-2, -1))
    return turned


def average_over_quarter_turns(network: Callable[[Tensor], Tensor], wigner: Wigner, images: Tensor) -> Tensor:
    """The mean log-density of a picture's four quarter turns, each brought back: `(n_coefficients, b)`.

    Poses from it turn with the picture exactly, whatever the encoder does.
    """
    total = network(images)
    for count in range(1, 4):
        back = torch.full((images.shape[0],), -count * math.pi / 2, device=images.device)
        total = total + wigner.turned(network(quarter_turned(images, count)).T, back).T
    return total / 4
