"""Maps for tests, and how alike two are."""

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from cryopares_core.volumes.fsc import shell_correlation
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.phantom import phantom_map


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
