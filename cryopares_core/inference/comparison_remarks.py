"""What the differences between two files' poses have in common: another hand, a turn or a shift of the reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.alignment import common_turn, distances_degs, mirrored, nearest_mates
from cryopares_core.geometry.rotations import rotation_angle_degs
from cryopares_core.inference.comparison import PoseComparison

LEAST_PARTICLES = 20  # for a turn or a shift of all to mean anything
BETTER = 0.5  # a remark needs the median to fall by this factor
LEAST_GAIN_DEGS, LEAST_GAIN_ANGS = 0.1, 0.05


def remarks(comparison: PoseComparison) -> list[str]:
    """What the differences have in common: another hand, a turn, or a shift of the reference; one sentence each."""
    if len(comparison.difference_degs) < LEAST_PARTICLES:
        return []
    return _turn_remarks(comparison) + _shift_remarks(comparison)


def _turn_remarks(comparison: PoseComparison) -> list[str]:
    first, second = comparison.poses
    group = comparison.group.matrices
    plain = float(np.median(comparison.difference_degs))
    turn, turned = _turned(first, second, group)
    other, other_hand = _turned(mirrored(first), second, group)
    if other_hand < BETTER * min(plain, turned) and plain - other_hand > LEAST_GAIN_DEGS:
        angle = _turn_text(other, other_hand)
        return [
            f"The second file has the other hand: its poses are those of the first's mirror image (z to -z)"
            f"{angle and ', turned ' + angle}, to a median of {other_hand:.2f}°. Without that it is {plain:.2f}°."
        ]
    if turned < BETTER * plain and plain - turned > LEAST_GAIN_DEGS:
        return [
            f"The second file's reference is turned against the first's {_turn_text(turn, turned)}: with that, the median "
            f"difference is {turned:.2f}° instead of {plain:.2f}°."
        ]
    return []


def _turned(first: Tensor, second: Tensor, group: Tensor) -> tuple[Tensor, float]:
    """The best turn of the reference, and the median distance that is left."""
    turn = common_turn(first, second, group)
    nearest = turn @ group[int(nearest_mates(torch.eye(3, dtype=turn.dtype)[None], turn[None], group)[0])]
    return nearest, float(distances_degs(first @ turn, second, group).median())


def _turn_text(turn: Tensor, left_degs: float) -> str:
    """The angle of a turn and its axis; nothing where it is within what is left of the differences."""
    angle = float(rotation_angle_degs(turn))
    if angle <= left_degs:
        return ""
    values, vectors = torch.linalg.eig(turn)
    axis = vectors[:, int((values - 1).abs().argmin())].real
    odd = torch.stack((turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]))
    axis = axis * (1.0 if float(axis @ odd) >= 0 else -1.0)
    return f"by {angle:.2f}° about ({', '.join(f'{value:.2f}' for value in axis.double().round(decimals=2) + 0.0)})"


def _shift_remarks(comparison: PoseComparison) -> list[str]:
    """A reference that is moved by t moves the picture's origin by the first two rows of A t."""
    rows = comparison.poses[0][:, :2].numpy()
    shift = comparison.shift_angs
    moved = np.linalg.lstsq(rows.reshape(-1, 3), shift.reshape(-1), rcond=None)[0]
    plain, left = (np.median(np.hypot(*part.T)) for part in (shift, shift - rows @ moved))
    if left < BETTER * plain and plain - left > LEAST_GAIN_ANGS:
        place = ", ".join(f"{value:.2f}" for value in moved)
        return [
            f"The references are moved against each other by ({place}) Å: without that, the median difference of the shifts is "
            f"{left:.2f} Å instead of {plain:.2f} Å."
        ]
    return []
