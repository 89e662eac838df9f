"""Rotation matrices, RELION's Euler angles and rotation vectors, as pure functions on `(..., 3, 3)`.

The pose of a particle is RELION's matrix `A = Rz(psi) Ry(tilt) Rz(rot)`, with `x_view = A x_ref` (columns are xyz). RELION
turns the axes rather than the points, so its `Rz(angle)` is the transpose of the active rotation by `angle`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

DEGREES = 180.0 / math.pi


def _turn(angle_rad: Tensor, first: int, second: int) -> Tensor:
    """`(...)` -> `(..., 3, 3)`: turns the axes `first` towards `second` by an angle."""
    cos, sin = torch.cos(angle_rad), torch.sin(angle_rad)
    matrix = torch.zeros((*angle_rad.shape, 3, 3), dtype=angle_rad.dtype, device=angle_rad.device)
    other = 3 - first - second
    matrix[..., other, other] = 1
    matrix[..., first, first] = matrix[..., second, second] = cos
    matrix[..., first, second] = sin
    matrix[..., second, first] = -sin
    return matrix


def euler_degs_to_matrix(eulers_degs: Tensor) -> Tensor:
    """RELION's `(rot, tilt, psi)` in degrees, `(..., 3)`, to the pose matrix `A`, `(..., 3, 3)`, with `x_view = A x_ref`.

    >>> euler_degs_to_matrix(torch.tensor([90.0, 0.0, 0.0])).round()[0]
    tensor([-0., 1., 0.])
    """
    rot, tilt, psi = (eulers_degs / DEGREES).unbind(-1)
    return _turn(psi, 0, 1) @ _turn(tilt, 2, 0) @ _turn(rot, 0, 1)


def matrix_to_euler_degs(matrix: Tensor) -> Tensor:
    """The inverse of `euler_degs_to_matrix`: `(..., 3, 3)` to `(rot, tilt, psi)` in degrees, `(..., 3)`.

    `tilt` lies in [0, 180]. Where the tilt is 0 or 180 only a combination of the other two is defined, and `rot` is set to 0.
    """
    tilt = torch.atan2(torch.hypot(matrix[..., 2, 0], matrix[..., 2, 1]), matrix[..., 2, 2])
    at_pole = torch.hypot(matrix[..., 2, 0], matrix[..., 2, 1]) < 1e-6
    rot = torch.where(at_pole, 0.0, torch.atan2(matrix[..., 2, 1], matrix[..., 2, 0]))
    psi = torch.atan2(matrix[..., 1, 2], -matrix[..., 0, 2])
    # At the pole A is a turn about z by psi (tilt 0), or that after a half turn about y (tilt 180).
    psi = torch.where(at_pole, torch.atan2(matrix[..., 0, 1], matrix[..., 1, 1]), psi)
    return torch.stack((rot, tilt, psi), dim=-1) * DEGREES


def rotvec_to_matrix(rotvec_rad: Tensor) -> Tensor:
    """Rotation vectors `(..., 3)` in radians to matrices `exp([v]x)`, `(..., 3, 3)` (active, right-handed)."""
    x, y, z = rotvec_rad.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).reshape(*x.shape, 3, 3)
    return torch.linalg.matrix_exp(cross)


def rotation_angle_degs(matrix: Tensor) -> Tensor:
    """The angle of rotations `(..., 3, 3)` in degrees, `(...)`.

    `2 asin(|R - 1| / sqrt 8)` for the Frobenius norm: unlike the arc cosine of the trace, exact for small angles.
    """
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    chord = torch.linalg.matrix_norm(matrix - identity) / math.sqrt(8.0)
    return 2.0 * torch.asin(chord.clamp(max=1.0)) * DEGREES


def pose_error_degs(pose: Tensor, truth: Tensor, group: Tensor | None = None) -> Tensor:
    """Geodesic distance between poses `(..., 3, 3)` in degrees, `(...)`, the smallest over a point group.

    Parameters
    ----------
    group : `(g, 3, 3)` matrices on the reference's axes. `A` and `A g^T` show the same picture for every element g.
    """
    difference = pose.transpose(-1, -2) @ truth
    if group is None:
        return rotation_angle_degs(difference)
    return rotation_angle_degs(difference[..., None, :, :] @ group).amin(dim=-1)


def random_rotations(count: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64) -> Tensor:
    """Uniformly distributed rotations `(count, 3, 3)`: normalised Gaussian quaternions."""
    return quaternion_to_matrix(torch.randn(count, 4, generator=generator, dtype=dtype))


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Quaternions `(..., 4)` as w, x, y, z, of any length but 0, to rotations `(..., 3, 3)`."""
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
