"""What refinement finds out about particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import matrix_to_euler_degs
from cryopares_core.refinement.start import Outcome


@dataclass(frozen=True)
class RefinedPoses:
    """Poses and shifts, in the order of the particles asked for.

    Attributes
    ----------
    poses, shifts_angs : `(n, 3, 3)` matrices A and `(n, 2)` origins x, y
    score : `(n,)` correlation coefficient with the map, weighted by the noise, within the resolution; 0 for broken pictures
    gain : `(n,)` by how much it is above that of the first start
    chosen_start : `(n,)` which of the starts led there
    moved_degs, moved_angs : `(n,)` distance from that start
    kept_start : `(n,)` nothing better lay within bounds, so that pose and shift are those of the start
    broken : `(n,)` the picture is constant or has pixels that are not finite; its first start is kept
    """

    poses: np.ndarray
    shifts_angs: np.ndarray
    score: np.ndarray
    gain: np.ndarray
    chosen_start: np.ndarray
    moved_degs: np.ndarray
    moved_angs: np.ndarray
    kept_start: np.ndarray
    broken: np.ndarray

    def __len__(self) -> int:
        return len(self.score)

    @property
    def eulers_degs(self) -> np.ndarray:
        """RELION's rot, tilt, psi, `(n, 3)`."""
        return matrix_to_euler_degs(torch.from_numpy(self.poses).double()).numpy()

    def set_rows(self, rows: np.ndarray, other: RefinedPoses) -> None:
        """Take over what another one says, row by row, about these rows."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)


def not_refined(poses: Tensor, shifts_angs: Tensor) -> RefinedPoses:
    """The starts `(n, 3, 3)` and `(n, 2)` themselves, as of broken pictures."""
    count = len(poses)
    zeros = [np.zeros(count, dtype=np.float32) for _ in range(4)]
    start, kept, broken = np.zeros(count, dtype=np.int64), np.ones(count, dtype=bool), np.ones(count, dtype=bool)
    score, gain, moved_degs, moved_angs = zeros
    where = poses.float().numpy(force=True).copy(), shifts_angs.float().numpy(force=True).copy()
    return RefinedPoses(*where, score, gain, start, moved_degs, moved_angs, kept, broken)


def best_start(outcomes: Sequence[Outcome], shifts_angs: Tensor) -> RefinedPoses:
    """Of the outcomes of each start, the one that fits best. `shifts_angs` `(b, k, 2)` are those of the starts."""
    chosen = torch.stack([outcome.correlation for outcome in outcomes]).argmax(dim=0)
    rows = torch.arange(len(chosen), device=chosen.device)

    def of_chosen(name: str) -> Tensor:
        return torch.stack([getattr(outcome, name) for outcome in outcomes])[chosen, rows]

    score, shifts = of_chosen("correlation"), of_chosen("shifts")
    columns = {
        "poses": of_chosen("poses"),
        "shifts_angs": shifts,
        "score": score,
        "gain": score - outcomes[0].correlation_before,
        "chosen_start": chosen,
        "moved_degs": of_chosen("moved_degs"),
        "moved_angs": (shifts - shifts_angs[rows, chosen]).norm(dim=1),
        "kept_start": of_chosen("kept_start"),
        "broken": torch.zeros_like(chosen, dtype=torch.bool),
    }
    return RefinedPoses(**{name: column.numpy(force=True) for name, column in columns.items()})
