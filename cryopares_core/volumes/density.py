"""The density of weights on a padded Fourier grid, by which sums of slices are divided.

A map that fills its box only has a transform that is smooth over two places of the grid. Dividing each place by its own weight
and then averaging counts a place that one noisy slice met as much as one that a hundred met. The gridding weights w of Pipe and
Menon (1999, doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V) make `w S`, smoothed over the neighbourhood, equal
to 1: they follow the mean weight S nearby, so that each place counts by its weight. RELION uses the same principle (Scheres 2012,
doi:10.1016/j.jsb.2012.09.006).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cryopares_core.volumes.threads import in_threads

# Of the iteration from w = 1. The first step alone is best where there is little signal. With the second, unequal weights of
# neighbours no longer modulate strong signal. Further steps lead back to each place's own weight.
STEPS = 2
PLANES = 16  # that a thread smooths at once
MIN_SHARE = 1e-6  # of the mean weight, below which a neighbourhood is empty


def sampling_density(weights: Tensor, workers: int = 1) -> Tensor:
    """The reciprocal of the gridding weights, at least 0.

    Parameters
    ----------
    weights : `(2 r + 1, 2 r + 1, r + 1)` sums `[z, y, x]` on places -r ... r, in x 0 ... r, with mates joined
    workers : threads
    """
    density = smoothed(weights, workers)
    lowest = (MIN_SHARE * weights.mean()).clamp(min=1e-30)
    for _ in range(STEPS - 1):
        ratio = density.clamp(min=lowest)
        density *= smoothed(torch.div(weights, ratio, out=ratio), workers)
    return density


def smoothed(weights: Tensor, workers: int = 1) -> Tensor:
    """Sums convolved with (1, 2, 1) / 4 along each axis; beyond the grid they are 0, beyond x = 0 stand the mates."""
    mates = weights[..., 1].flip((0, 1))
    out = torch.empty_like(weights)

    def along_x_and_y(planes: slice) -> None:
        with_mates = torch.cat((mates[planes, :, None], weights[planes]), dim=2)
        out[planes] = _triangle(_triangle(with_mates, 2)[..., 1:], 1)

    def along_z(rows: slice) -> None:
        out[:, rows] = _triangle(out[:, rows], 0)

    parts = [slice(start, start + PLANES) for start in range(0, len(weights), PLANES)]
    in_threads(along_x_and_y, parts, workers)
    in_threads(along_z, parts, workers)
    return out


def _triangle(values: Tensor, dim: int) -> Tensor:
    out, count = values / 2, values.shape[dim] - 1
    out.narrow(dim, 1, count).add_(values.narrow(dim, 0, count), alpha=0.25)
    out.narrow(dim, 0, count).add_(values.narrow(dim, 1, count), alpha=0.25)
    return out
