"""One picture, one start: climb, look whether it went too far, and if so try the grid; else keep the start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import pose_error_degs
from cryopares_core.refinement.ascent import climb, levels, portions
from cryopares_core.refinement.fit import Observed, correlation
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.grid_search import SHIFT_SHARE, Grid, best_on_grid, search, shifts_within
from cryopares_core.refinement.slices import SliceTable

AFTER_GRID_STEPS = 2
ROUNDING = 1e-5  # of correlations
Reached = tuple[Tensor, Tensor, Tensor]  # poses, shifts, and the correlation at the finest resolution


@dataclass(frozen=True)
class RefineSettings:
    """How to refine.

    Attributes
    ----------
    resolution_angs : finest detail to look at; Nyquist's limit of pictures and map holds as well
    mask_radius_angs : of the particle; what the map has further out is taken off. None: the largest ball in its box
    max_angle_degs, max_shift_angs : a particle that went further from its start keeps the start
    expected_error_degs : of the starts: how coarse refinement begins
    shift_search_angs : the shift is searched for within so much first; 0 where shifts are known
    use_ctf : False where pictures are corrected already, or have no CTF
    grid_search : try a grid instead of climbing, at ten times the cost and more
    """

    resolution_angs: float = 8.0
    mask_radius_angs: float | None = None
    max_angle_degs: float = 15.0
    max_shift_angs: float = 25.0
    expected_error_degs: float = 5.0
    shift_search_angs: float = 0.0
    use_ctf: bool = True
    grid_search: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of some pictures.

    Attributes
    ----------
    poses, shifts : `(b, 3, 3)`, and `(b, 2)` in Å
    correlation, correlation_before : `(b,)` with the map, now and at the start
    moved_degs : `(b,)` the angle between the two poses
    kept_start : `(b,)` nothing better lay within bounds
    """

    poses: Tensor
    shifts: Tensor
    correlation: Tensor
    correlation_before: Tensor
    moved_degs: Tensor
    kept_start: Tensor


class StartRefiner:
    """Refines pictures of one kind against one map, each from one start."""

    def __init__(self, slices: SliceTable, frequencies: Frequencies, settings: RefineSettings):
        self.slices, self.settings = slices, settings
        finest = max(settings.resolution_angs, slices.finest_angs, frequencies.finest_angs)
        plan = levels(settings.expected_error_degs, slices.radius_angs, finest)
        self.counts = {resolution: frequencies.count(resolution) for resolution, _ in plan}
        self.plan = [(self.counts[resolution], n_steps) for resolution, n_steps in plan]

    def __call__(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Outcome:
        """From poses `(b, 3, 3)` and shifts `(b, 2)` in Å. Where one way fails, another is tried; at last the start is kept."""
        before = self._correlation(seen, poses, shifts)
        new_poses, new_shifts, reached = poses.clone(), shifts.clone(), before.clone()
        left = torch.arange(len(seen), device=poses.device)
        for way in (self._search,) if self.settings.grid_search else (self._climb, self._climb_finest, self._search):
            found = way(seen.part(left, seen.xy.shape[1]), poses[left], shifts[left])
            good = self._within_bounds(found[0], found[1], poses[left], shifts[left]) & (found[2] >= before[left] - ROUNDING)
            rows = left[good]
            new_poses[rows], new_shifts[rows], reached[rows] = (values[good] for values in found)
            left = left[~good]
            if not len(left):
                break
        kept = torch.zeros_like(before, dtype=torch.bool)
        kept[left] = True
        moved = pose_error_degs(new_poses, poses).masked_fill(kept, 0.0)
        return Outcome(new_poses, new_shifts, reached, before, moved, kept)

    def _correlation(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Tensor:
        parts = portions(seen, seen.xy.shape[1])
        return torch.cat([correlation(self.slices, part, poses[rows], shifts[rows]) for rows, part in parts])

    def _within_bounds(self, new_poses: Tensor, new_shifts: Tensor, poses: Tensor, shifts: Tensor) -> Tensor:
        near = pose_error_degs(new_poses, poses) <= self.settings.max_angle_degs
        return near & ((new_shifts - shifts).norm(dim=1) <= self.settings.max_shift_angs)

    def _climb(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Reached:
        """From coarse to fine."""
        if self.settings.shift_search_angs > 0:
            shifts = self._first_shift(seen, poses, shifts)
        for count, n_steps in self.plan[:-1]:
            poses, shifts, _ = self._climb_at(seen, count, n_steps, poses, shifts)
        return self._climb_at(seen, *self.plan[-1], poses, shifts)

    def _climb_finest(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Reached:
        """For starts that are so good that coarse detail led away from them."""
        return self._climb_at(seen, *self.plan[-1], poses, shifts)

    def _climb_at(self, seen: Observed, count: int, n_steps: int, poses: Tensor, shifts: Tensor) -> Reached:
        parts = [climb(self.slices, part, poses[rows], shifts[rows], n_steps) for rows, part in portions(seen, count)]
        columns = zip(*((part.poses, part.shifts, part.fit.correlation) for part in parts), strict=True)
        new_poses, new_shifts, reached = (torch.cat(column) for column in columns)
        return new_poses, new_shifts, reached

    def _first_shift(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Tensor:
        """The best shift at the start's pose, by coarse detail."""
        coarsest, count = next(iter(self.counts.items()))
        grid = Grid(torch.eye(3)[None], shifts_within(self.settings.shift_search_angs, SHIFT_SHARE * coarsest))
        parts = portions(seen, count)
        return torch.cat([best_on_grid(self.slices, part, poses[rows], shifts[rows], grid)[1] for rows, part in parts])

    def _search(self, seen: Observed, poses: Tensor, shifts: Tensor) -> Reached:
        """By a grid, then a few steps up from its best point."""
        settings = self.settings
        reach_degs = min(settings.max_angle_degs, 2 * settings.expected_error_degs)
        reach_angs = min(settings.max_shift_angs, max(settings.shift_search_angs, SHIFT_SHARE * next(iter(self.counts))))
        poses, shifts, _ = search(self.slices, seen, self.counts, poses, shifts, reach_degs, reach_angs)
        return self._climb_at(seen, self.plan[-1][0], AFTER_GRID_STEPS, poses, shifts)
