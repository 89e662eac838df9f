"""From a starting pose and shift uphill to the best fit nearby, many particles at a time, from coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cryopares_core.geometry.rotations import quaternion_to_matrix
from cryopares_core.refinement.fit import Fit, Observed, fit
from cryopares_core.refinement.slices import SliceTable

DAMPING, MORE, LESS = 0.1, 5.0, 0.2
LARGEST_TURN_RAD = 0.1
FIRST_STEPS, FURTHER_STEPS, LAST_STEPS = 4, 3, 4
FINER = 2.0  # by so much each level is finer than the one before
COARSEST_SHARE = 0.4  # of the particle's radius: coarser detail says little about its pose
# So many frequencies of all pictures together are worked on at a time: on a processor, as its cache holds.
AT_ONCE = {"cpu": 65_536, "cuda": 4_000_000}


@dataclass(frozen=True)
class Found:
    """Poses `(b, 3, 3)`, shifts `(b, 2)` in Å, and how they fit at the finest resolution: before, and now."""

    poses: Tensor
    shifts: Tensor
    fit: Fit


def levels(coarsest_error_degs: float, radius_angs: float, resolution_angs: float) -> list[tuple[float, int]]:
    """Resolutions in Å from coarse to fine, and steps at each.

    The fit has one hill as long as detail at the particle's edge moves by less than about a third of its size.
    """
    coarsest = min(3 * radius_angs * math.radians(coarsest_error_degs), COARSEST_SHARE * radius_angs)
    count = max(0, math.ceil(math.log(max(coarsest / resolution_angs, 1), FINER) - 0.3))
    if not count:
        return [(resolution_angs, FIRST_STEPS + LAST_STEPS)]
    ratio = (coarsest / resolution_angs) ** (1 / count)
    steps = [FIRST_STEPS] + [FURTHER_STEPS] * (count - 1) + [LAST_STEPS]
    return [(resolution_angs * ratio ** (count - place), n_steps) for place, n_steps in enumerate(steps)]


def portions(seen: Observed, count: int) -> Iterator[tuple[slice, Observed]]:
    """The pictures, cut to `count` frequencies, in portions that the processor's cache holds."""
    portion = max(1, AT_ONCE[seen.data.device.type] // max(count, 1))
    for first in range(0, len(seen), portion):
        rows = slice(first, first + portion)
        yield rows, seen.part(rows, count)


def climb(slices: SliceTable, seen: Observed, poses: Tensor, shifts: Tensor, n_steps: int) -> Found:
    """So many damped Gauss-Newton steps on turn and shift; one that makes the fit worse is taken back and damped more."""
    now = fit(slices, seen, poses, shifts)
    damping = torch.full_like(now.score, DAMPING)
    for _ in range(n_steps):
        step = now.step(damping)
        step = step * _shortening(step, slices.radius_angs)
        new_poses, new_shifts = _turn(step[:, :3]) @ poses, shifts + step[:, 3:]
        new = fit(slices, seen, new_poses, new_shifts)
        better = new.score > now.score
        poses = torch.where(better[:, None, None], new_poses, poses)
        shifts = torch.where(better[:, None], new_shifts, shifts)
        now = Fit(torch.where(better[:, None, None], new.products, now.products))
        damping = damping * torch.where(better, LESS, MORE)
    return Found(poses, shifts, now)


def _turn(rotvec: Tensor) -> Tensor:
    """Rotations `(b, 3, 3)` by `(b, 3)` radians, as long as these are small: half an angle is taken for its tangent."""
    return quaternion_to_matrix(torch.cat((torch.ones_like(rotvec[:, :1]), rotvec / 2), dim=1))


def _shortening(step: Tensor, radius_angs: float) -> Tensor:
    """`(b, 1)` at most 1: no step moves any part of the particle further than the largest turn moves its edge."""
    turn = step[:, :3].norm(dim=1)
    way = step[:, 3:].norm(dim=1) / radius_angs
    return (LARGEST_TURN_RAD / torch.maximum(turn, way).clamp(min=1e-12)).clamp(max=1)[:, None]
