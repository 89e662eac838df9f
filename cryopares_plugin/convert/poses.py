"""RELION's angles and shifts out of Scipion's matrices.

A particle of an ALIGN_PROJ set has a matrix `M` of `(4, 4)` that takes view coordinates to reference coordinates, in pixels. Its
inverse is RELION's: `M^-1 = [A | -origin]`, with `A = Rz(psi) Ry(tilt) Rz(rot)`, `x_view = A x_ref`.
"""

import json
from typing import Optional, Sequence, Tuple

import numpy as np

TOLERANCE = 1e-3


def read_matrices(texts: Sequence[Optional[str]]) -> np.ndarray:
    """Matrices `(n, 4, 4)` as Scipion stores them, JSON; nan where there is none."""
    nothing = json.dumps(np.full((4, 4), np.nan).tolist())
    return np.array(json.loads(f"[{','.join(text or nothing for text in texts)}]"), dtype=np.float64)


def are_poses(matrices: np.ndarray) -> np.ndarray:
    """`(n,)` whether each matrix `(n, 4, 4)` is a rotation and a shift: not missing, mirrored or scaled."""
    known = np.isfinite(matrices).all(axis=(1, 2))
    turns = np.where(known[:, None, None], matrices[:, :3, :3], 0.0)
    away = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    return (away < TOLERANCE) & (np.linalg.det(turns) > 0)


def angles_and_shifts(matrices: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """`(n, 3)` rot, tilt, psi in degrees and `(n, 2)` origin x, y in pixels, of `(n, 4, 4)` that `are_poses`."""
    to_view = matrices[:, :3, :3].transpose(0, 2, 1)
    origins = np.einsum("nij,nj->ni", to_view, matrices[:, :3, 3])
    return np.degrees(_euler_angles(to_view)), origins[:, :2]


def _euler_angles(a: np.ndarray) -> np.ndarray:
    """rot, tilt, psi `(n, 3)` in radians of `A = Rz(psi) Ry(tilt) Rz(rot)`; rot is 0 where the view is along the axis.

    The third row of A is `(sin tilt cos rot, sin tilt sin rot, cos tilt)`, its third column is
    `(-sin tilt cos psi, sin tilt sin psi, cos tilt)`.
    """
    sine = np.hypot(a[:, 2, 0], a[:, 2, 1])
    tilt = np.arctan2(sine, a[:, 2, 2])
    along = sine < 1e-9
    rot = np.where(along, 0.0, np.arctan2(a[:, 2, 1], a[:, 2, 0]))
    psi = np.where(along, np.arctan2(a[:, 0, 1], a[:, 1, 1]), np.arctan2(a[:, 1, 2], -a[:, 0, 2]))
    return np.stack([rot, tilt, psi], axis=1)
