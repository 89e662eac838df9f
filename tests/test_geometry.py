"""Rotations, Euler angles, point groups: definitions, round trips, group axioms, the symmetric maps."""

import mrcfile
import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryopares_core.errors import UserError
from cryopares_core.geometry.grids import healpix_so3_grid
from cryopares_core.geometry.rotations import (
    euler_degs_to_matrix,
    matrix_to_euler_degs,
    pose_error_degs,
    random_rotations,
    rotation_angle_degs,
    rotvec_to_matrix,
)
from cryopares_core.geometry.symmetry import point_group

GROUPS = {"C1": 1, "C5": 5, "D2": 4, "D7": 14, "T": 12, "O": 24, "I": 60, "i2": 60, "c4": 4}


def test_euler_angles_are_relions():
    eulers = torch.rand(50, 3, dtype=torch.float64) * torch.tensor([360.0, 180.0, 360.0])
    transposed = Rotation.from_euler("ZYZ", eulers.numpy(), degrees=True).as_matrix()
    np.testing.assert_allclose(euler_degs_to_matrix(eulers), transposed.swapaxes(1, 2), atol=1e-12)


@pytest.mark.parametrize("special", [[], [[10.0, 0.0, 20.0], [10.0, 180.0, 20.0], [0.0, 0.0, 0.0], [-170.0, 90.0, 3.0]]])
def test_euler_angles_there_and_back(special):
    matrices = euler_degs_to_matrix(torch.tensor(special, dtype=torch.float64)) if special else random_rotations(100)
    torch.testing.assert_close(euler_degs_to_matrix(matrix_to_euler_degs(matrices)), matrices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_angles_are_exact(dtype):
    angle = torch.tensor([1e-4, 0.01, 1.0, 90.0, 180.0], dtype=dtype)
    turned = rotvec_to_matrix(torch.deg2rad(angle)[:, None] * torch.tensor([0.6, 0.0, 0.8], dtype=dtype))
    torch.testing.assert_close(rotation_angle_degs(turned), angle, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name, order", GROUPS.items())
def test_point_groups_are_groups(name, order):
    matrices = point_group(name).matrices
    assert len(matrices) == order
    products = (matrices[:, None] @ matrices[None]).flatten(0, 1)
    gap = (products[:, None] - matrices[None]).abs().amax(dim=(-1, -2))
    assert gap.amin(dim=1).max() < 1e-9
    torch.testing.assert_close(torch.linalg.det(matrices), torch.ones(order, dtype=torch.float64))


@pytest.mark.parametrize("name", ["", "C0", "X3", "D", "C101", "I1", "C-2"])
def test_unknown_point_groups_are_refused(name):
    with pytest.raises(UserError, match="not a point group"):
        point_group(name)


MAPS = {"AChBP_3wip_C5_48_3A": "C5", "GroEL_1mnf_D7_64_4A": "D7", "apoferritin_O_48_3.5A": "O"}


@pytest.mark.parametrize("stem, name", MAPS.items())
def test_axes_are_those_of_the_symmetric_maps(shared, stem, name):
    density = mrcfile.read(shared / "data" / "maps" / f"{stem}.mrc").astype(float)
    centre = np.full(3, len(density) // 2)
    for matrix in point_group(name).matrices[1:].numpy():
        zyx = matrix[::-1, ::-1]
        turned = ndimage.affine_transform(density, zyx, offset=centre - zyx @ centre, order=3)
        assert np.corrcoef(turned.ravel(), density.ravel())[0, 1] > 0.999


def test_error_is_the_smallest_over_the_group():
    group = point_group("D3").matrices
    truth = random_rotations(20)
    nudge = rotvec_to_matrix(torch.deg2rad(torch.tensor([0.0, 3.0, 0.0], dtype=torch.float64)))
    for element in group:
        error = pose_error_degs(truth @ nudge @ element.T, truth, group)
        torch.testing.assert_close(error, torch.full((20,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_grid_is_healpix_times_uniform(order):
    grid = healpix_so3_grid(order)
    assert len(grid) == 12 * 4**order * 6 * 2**order
    matrices = euler_degs_to_matrix(grid.eulers_degs(torch.arange(len(grid))))
    # A uniform grid integrates every matrix entry to zero.
    assert matrices.mean(dim=0).abs().max() < 1e-9
    directions = matrices[:: len(grid.psi), 2]
    assert len(torch.unique(directions.round(decimals=6), dim=0)) == 12 * 4**order
