"""Maps for tests, and how alike two are."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cryopares_core.volumes.fsc import shell_correlation
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.radial import times_radial


def rotated(volume: Tensor, rotation: Tensor) -> Tensor:
    """`V(R x)` of a map `(n, n, n)` `[z, y, x]` with an odd side, whose centre is then that of the box."""
    matrix = torch.cat((rotation.to(volume), torch.zeros(3, 1)), dim=1)
    grid = affine_grid(matrix[None], [1, 1, *volume.shape], align_corners=True)
    return grid_sample(volume[None, None], grid, align_corners=True)[0, 0]


def symmetric_phantom(size: int, pixel_size_angs: float, group: Tensor) -> Tensor:
    """A map of odd side that is the same under all elements of a point group."""
    volume = torch.from_numpy(phantom_map(size, pixel_size_angs)).float()
    return torch.stack([rotated(volume, element) for element in group]).mean(dim=0)


def likeness(first: Tensor, second: Tensor, share: float = 0.4) -> Tensor:
    """The correlation by shell of two maps within a soft ball of `share` of the box."""
    mask = soft_sphere(len(first), share * len(first), 3.0)
    return shell_correlation(first * mask, second * mask)


def noise(size: int, seed: int) -> Tensor:
    """White noise `(n, n, n)`."""
    return torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))


def decaying_halves(size: int, pixel_size_angs: float, b_factor_angs2: float, sigma: float = 0.1) -> list[Tensor]:
    """Two half maps of one signal, whose amplitudes fall by exp(-B / (4 d^2)), in a ball, with white noise of their own."""
    square = (torch.arange(size // 2 + 1) / (size * pixel_size_angs)) ** 2
    signal = times_radial(noise(size, 1) * soft_sphere(size, size / 4), torch.exp(-b_factor_angs2 / 4 * square))
    return [signal + sigma * signal.std() * math.sqrt(size) * noise(size, seed) / 8 for seed in (2, 3)]
