"""The part of the grid that a search tries first: where a cheap ranking is highest, and a background to compare with.

A search for shifts multiplies the cost of each rotation by some sixty. The network's density and the likelihood at low resolution
know where to look. An image whose best candidate does not stand out from the background goes on to the next stage, and at last to
the whole grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.search.grid import SearchGrid

N_BACKGROUND = 192  # rows, spread over the grid
SIZES = (128, 256, 512, 1024, 2048)
MAX_LOSS = 1e-3  # of the posterior's mass
WORTH_IT = 0.7  # of the cost of the whole grid


@dataclass(frozen=True)
class CandidateStage:
    """How many rows to try, and when their best point is good enough.

    Attributes
    ----------
    n_rows : those that rank highest
    min_gap : log-posterior that the best candidate is above the background's best; else the search goes on
    """

    n_rows: int
    min_gap: float


def background_rows(grid: SearchGrid) -> Tensor:
    """Rows spread over the grid, `(m,)`: what scores are like away from the pose."""
    generator = torch.Generator().manual_seed(0)
    return torch.randperm(grid.n_rows, generator=generator)[: min(N_BACKGROUND, grid.n_rows)].sort().values


def highest_rows(grid: SearchGrid, ranking: Tensor, count: int) -> Tensor:
    """The rows `(b, count)` where the ranking `(b, points)`, or that of the mate, is highest; falling."""
    return by_row(grid, ranking).topk(min(count, grid.n_rows), dim=1).indices


def by_row(grid: SearchGrid, values: Tensor) -> Tensor:
    """The higher of the values of each row and its mate, `(b, points)` to `(b, rows)`."""
    return values.view(len(values), -1, 2, grid.n_rows_of_direction).amax(dim=2).flatten(1)


def learn_stage(grid: SearchGrid, log_likelihood: Tensor, ranking: Tensor) -> CandidateStage | None:
    """The cheapest stage that loses no more than 1e-3 of the posterior's mass, learned on images searched on the whole grid.

    Parameters
    ----------
    log_likelihood, ranking : `(n, points)` of these images

    Returns None where no stage is worth its cost.
    """
    mass = torch.softmax(log_likelihood, dim=1).view(len(log_likelihood), -1, 2, grid.n_rows_of_direction).sum(dim=2).flatten(1)
    height = by_row(grid, log_likelihood)
    background = height[:, background_rows(grid).to(height.device)].amax(dim=1)
    rows = highest_rows(grid, ranking, SIZES[-1])
    best, best_cost = None, WORTH_IT * grid.n_rows
    for size in SIZES:
        gap = height.gather(1, rows[:, :size]).amax(dim=1) - background
        lost = 1 - mass.gather(1, rows[:, :size]).sum(dim=1)
        min_gap = _smallest_gap(gap, lost)
        cost = size + N_BACKGROUND + float((gap < min_gap).double().mean()) * grid.n_rows
        if cost < best_cost:
            best, best_cost = CandidateStage(size, min_gap), cost
    return best


def _smallest_gap(gap: Tensor, lost: Tensor) -> float:
    """The smallest gap above which images lose no more than is allowed, on average over all of them."""
    order = gap.argsort(descending=True)
    lost_above = lost[order].clamp(min=0).cumsum(dim=0) / len(gap)
    allowed = int((lost_above <= MAX_LOSS).cumprod(dim=0).sum())
    return float(gap[order[allowed - 1]]) if allowed else float("inf")
