"""The poses that a search finds, a few for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

NEVER = -math.inf


@dataclass(frozen=True)
class SearchedPoses:
    """The likeliest poses of b images, k of each, the likeliest first.

    Attributes
    ----------
    poses, shifts_angs : `(b, k, 3, 3)` pose matrices and `(b, k, 2)` origins x, y
    mass : `(b, k)` posterior probability that the true pose is within 5 degrees; 0 where there are fewer than k poses
    log_odds : `(b, k)` log-posterior of each peak relative to the first; minus infinity where there are fewer
    correlation : `(b, k)` with the map
    spread_degs : `(b, k)` standard deviation about an axis within the peak
    """

    poses: Tensor
    shifts_angs: Tensor
    mass: Tensor
    log_odds: Tensor
    correlation: Tensor
    spread_degs: Tensor

    def set_rows(self, rows: Tensor, other: SearchedPoses) -> None:
        """Copy all rows of another result to `rows`."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    def sorted_by(self, log_odds: Tensor) -> SearchedPoses:
        """The poses in falling order of `log_odds` `(b, k)`, which replace the present ones."""
        order = log_odds.argsort(dim=1, descending=True, stable=True)
        rows = torch.arange(len(order), device=order.device)[:, None]
        columns = {field.name: getattr(self, field.name)[rows, order] for field in fields(self)}
        return SearchedPoses(**{**columns, "log_odds": log_odds.gather(1, order)})


def nothing_found(count: int, n_peaks: int, device: torch.device | str) -> SearchedPoses:
    """Before anything is found."""
    mass, correlation, spread = (torch.zeros(count, n_peaks, device=device) for _ in range(3))
    poses = torch.eye(3, device=device).repeat(count, n_peaks, 1, 1)
    shifts, odds = torch.zeros(count, n_peaks, 2, device=device), torch.full((count, n_peaks), NEVER, device=device)
    return SearchedPoses(poses, shifts, mass, odds, correlation, spread)


def without_twins(log_odds: Tensor, poses: Tensor, group: Tensor, min_trace: float) -> Tensor:
    """The log-odds `(b, k)`, falling, with minus infinity for each pose near a likelier one: both climbed the same peak.

    Parameters
    ----------
    poses : `(b, k, 3, 3)`
    group : `(g, 3, 3)`
    min_trace : of `P^T Q` for rotations P and Q that are near
    """
    near = torch.zeros(*log_odds.shape, log_odds.shape[1], dtype=torch.bool, device=log_odds.device)
    for element in group:
        near |= poses.flatten(2) @ (poses @ element.mT).flatten(2).mT > min_trace
    kept = log_odds.clone()
    for later in range(1, log_odds.shape[1]):
        twin = (near[:, later, :later] & (kept[:, :later] > NEVER)).any(dim=1)
        kept[:, later] = torch.where(twin, NEVER, kept[:, later])
    return kept
