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


def matrices_of_poses(angles_degs: np.ndarray, origins_px: np.ndarray) -> np.ndarray:
    """Scipion's matrices `(n, 4, 4)` of rot, tilt, psi `(n, 3)` and origins `(n, 2)`: the inverse of `angles_and_shifts`."""
    rot, tilt, psi = np.radians(angles_degs).T
    to_view = _turns(psi, 2) @ _turns(tilt, 1) @ _turns(rot, 2)
    matrices = np.zeros((len(angles_degs), 4, 4))
    matrices[:, :3, :3] = to_view.transpose(0, 2, 1)
    matrices[:, :3, 3] = np.einsum("nij,nj->ni", matrices[:, :3, :2], origins_px)
    matrices[:, 3, 3] = 1
    return matrices


def origins_px(matrices: np.ndarray, in_plane: bool) -> np.ndarray:
    """`(n, 2)` origin x, y in pixels of any matrices `(n, 4, 4)`; 0 where there is none.

    Parameters
    ----------
    in_plane : they are of an alignment in 2D, whose shifts stand in the matrix as they are
    """
    origins = np.zeros((len(matrices), 2))
    good = are_poses(matrices)
    origins[good] = matrices[good, :2, 3] if in_plane else angles_and_shifts(matrices[good])[1]
    return origins


def _turns(angles_rad: np.ndarray, axis: int) -> np.ndarray:
    """`Ry` or `Rz` of RELION's matrix form, `(n, 3, 3)`; axis 1 is y, 2 is z."""
    cosine, sine = np.cos(angles_rad), np.sin(angles_rad)
    first, second = {1: (2, 0), 2: (0, 1)}[axis]
    turns = np.zeros((len(angles_rad), 3, 3))
    turns[:, axis, axis] = 1
    turns[:, first, first] = turns[:, second, second] = cosine
    turns[:, first, second], turns[:, second, first] = sine, -sine
    return turns


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
