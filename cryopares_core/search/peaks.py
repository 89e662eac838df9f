"""The highest peaks of posteriors on a search grid, kept apart from each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES
from cryopares_core.search.grid import SearchGrid
from cryopares_core.search.results import NEVER

BLOCK = 8  # in-plane angles of which the highest point is looked at
N_CANDIDATES = 40
SEPARATION = 1.6  # spacings of the grid between two peaks


@dataclass(frozen=True)
class Peaks:
    """The peaks of b posteriors.

    Attributes
    ----------
    points : `(b, k)` of the grid, the highest first
    heights : `(b, k)` log-posterior there; minus infinity where there are fewer than k peaks
    other_mass : `(b,)` the share of the posterior that is far from all of them
    """

    points: Tensor
    heights: Tensor
    other_mass: Tensor


class PeakFinder:
    """Finds the `count` highest peaks, no two nearer than 1.6 spacings of the grid under the point group.

    Parameters
    ----------
    group : `(g, 3, 3)` matrices
    """

    def __init__(self, grid: SearchGrid, group: Tensor, count: int, device: torch.device):
        self.count = count
        self.matrices = grid.pose_matrices.flatten(1).to(device)
        self.group = group.float().to(device)
        self.min_trace = 1 + 2 * math.cos(SEPARATION * grid.spacing_degs / DEGREES)

    @torch.no_grad()
    def __call__(self, log_posterior: Tensor) -> Peaks:
        """From `(b, points)` log-posteriors, up to a constant each."""
        heights, points, log_total = _highest_of_blocks(log_posterior)
        near = self._near(points)
        chosen = torch.zeros_like(heights, dtype=torch.bool)
        free = heights > NEVER
        for place in range(heights.shape[1]):
            taken = free[:, place] & (chosen.sum(dim=1) < self.count)
            chosen[:, place] = taken
            free = free & ~(near[:, place] & taken[:, None])
        order = torch.where(chosen, heights, NEVER).argsort(dim=1, descending=True, stable=True)[:, : self.count]
        kept = torch.where(chosen, heights, NEVER).gather(1, order)
        # The highest point of a block stands for the block.
        explained = (near & chosen[:, :, None]).any(dim=1)
        near_peaks = torch.logsumexp(torch.where(explained, heights, NEVER), dim=1)
        return Peaks(points.gather(1, order), kept, (1 - (near_peaks - log_total).exp()).clamp(0, 1))

    def _near(self, points: Tensor) -> Tensor:
        """`(b, n, n)` which of the points `(b, n)` of each posterior are nearer to each other than peaks may be."""
        poses = self.matrices[points]
        near = torch.zeros(*points.shape, points.shape[1], dtype=torch.bool, device=points.device)
        for element in self.group:
            mates = (poses.unflatten(2, (3, 3)) @ element.mT).flatten(2)
            near |= poses @ mates.mT > self.min_trace
        return near


def _highest_of_blocks(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The highest points of the highest blocks, heights and points `(b, n)`, falling; and the log of the sum over all blocks."""
    blocks = values.unflatten(1, (-1, BLOCK))
    tops = blocks.amax(dim=2)
    heights, block = tops.topk(min(N_CANDIDATES, tops.shape[1]), dim=1)
    rows = torch.arange(len(values), device=values.device)[:, None]
    return heights, block * BLOCK + blocks[rows, block].argmax(dim=2), torch.logsumexp(tops, dim=1)
