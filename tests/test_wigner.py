"""Wigner matrices and separable synthesis against e3nn, dense sums and the group laws."""

import e3nn.o3
import numpy as np
import pytest
import torch

from cryopares_core.geometry.grids import healpix_so3_grid
from cryopares_core.geometry.rotations import euler_degs_to_matrix, random_rotations, rotvec_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.geometry.synthesis import GridSynthesis, QuadratureTransform
from cryopares_core.geometry.wigner import (
    Wigner,
    degree_slices,
    generators,
    n_coefficients,
    rotation_projection,
    spherical_harmonics,
)

# Our (x, y, z) are e3nn's (z, x, y): v_e3nn = AXES @ v.
AXES = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.float64)


@pytest.fixture(autouse=True)
def double_precision_of_e3nn():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def dense(lmax, matrices):
    """e3nn's matrices, packed: `(n, n_coefficients)`."""
    angles = e3nn.o3.matrix_to_angles(AXES @ matrices @ AXES.T)
    return torch.cat([e3nn.o3.wigner_D(degree, *angles).flatten(1) for degree in range(lmax + 1)], dim=1)


def test_wigner_matrices_are_e3nns():
    matrices = random_rotations(20)
    torch.testing.assert_close(Wigner(16, torch.float64)(matrices), dense(16, matrices), atol=1e-10, rtol=0)
    torch.testing.assert_close(Wigner(16)(matrices).double(), dense(16, matrices), atol=2e-5, rtol=0)


@pytest.mark.parametrize("degree", [1, 5, 12, 16])
def test_wigner_matrices_are_a_representation(degree):
    first, second, wigner = random_rotations(5), random_rotations(5), Wigner(degree, torch.float64)

    def block(matrices):
        return wigner(matrices)[:, degree_slices(degree)[degree]].unflatten(1, (2 * degree + 1, -1))

    torch.testing.assert_close(block(first @ second), block(first) @ block(second), atol=1e-10, rtol=0)
    vector = torch.randn(3)
    exponential = torch.linalg.matrix_exp((vector[:, None, None] * torch.from_numpy(generators(degree))).sum(0))
    torch.testing.assert_close(block(rotvec_to_matrix(vector)[None])[0], exponential, atol=1e-10, rtol=0)


def test_spherical_harmonics_are_e3nns():
    directions = torch.nn.functional.normalize(torch.randn(30, 3), dim=-1)
    reference = e3nn.o3.spherical_harmonics(list(range(11)), directions @ AXES.T, True, "component")
    torch.testing.assert_close(spherical_harmonics(10, directions), reference, atol=1e-10, rtol=0)


@pytest.mark.parametrize("lmax", range(17))
def test_grid_synthesis_is_e3nns_dense_sum(lmax):
    """Values at random points of the grids of all orders, and the gradient of a weighted sum of them."""
    coefficients = torch.randn(n_coefficients(lmax), 2)
    for order in range(6 if lmax in (2, 12, 16) else 4):
        grid = healpix_so3_grid(order)
        sample = torch.randperm(len(grid))[:20]
        table = dense(lmax, euler_degs_to_matrix(grid.eulers_degs(sample)))
        weight = torch.randn(20, 2)
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            variable = coefficients.to(dtype, copy=True).requires_grad_()
            values = GridSynthesis(lmax, grid, dtype)(variable).flatten(0, 1)[sample]
            (values * weight.to(dtype)).sum().backward()
            assert _difference(values, table @ coefficients) < tolerance
            assert _difference(variable.grad, table.T @ weight) < tolerance


def _difference(values, reference):
    """The largest one, as a share of the reference's largest value."""
    return (values.detach().double() - reference).abs().max() / reference.abs().max()


@pytest.mark.parametrize("lmax", [0, 1, 2, 5, 8])
def test_activation_is_e3nns_dense_product(lmax):
    """Synthesis, a rectifier and analysis against products with one table of all the grid's rotations."""
    transform = QuadratureTransform(lmax, torch.float64)
    tilts = torch.arccos(torch.from_numpy(np.polynomial.legendre.leggauss(lmax + 1)[0]))
    turns = [torch.arange(count) * (360.0 / count) for count in (transform.psi_turns, transform.rot_turns)]
    psi, rot, tilt = torch.meshgrid(*turns, torch.rad2deg(tilts), indexing="ij")
    points = torch.stack((rot, tilt, psi), dim=-1).view(-1, 3)
    table = dense(lmax, euler_degs_to_matrix(points))
    weight = transform.weight[:, 0].expand(len(psi), rot.shape[1], -1).reshape(-1, 1)
    coefficients = torch.randn(n_coefficients(lmax), 3, requires_grad=True)
    expected = table.T @ (weight * torch.relu(table @ coefficients))
    found = transform.analysis(torch.relu(transform.synthesis(coefficients)))
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    direction = torch.randn_like(expected)
    gradients = [torch.autograd.grad((value * direction).sum(), coefficients)[0] for value in (expected, found)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


def test_tables_are_small():
    modules = GridSynthesis(12, healpix_so3_grid(4)), QuadratureTransform(12)
    assert sum(buffer.numel() * buffer.element_size() for module in modules for buffer in module.buffers()) < 30e6
    finer = GridSynthesis(12, healpix_so3_grid(5))
    assert sum(buffer.numel() * buffer.element_size() for buffer in finer.buffers()) < 30e6


@pytest.mark.parametrize("lmax", [0, 3, 12])
def test_analysis_inverts_synthesis(lmax):
    transform = QuadratureTransform(lmax, torch.float64)
    coefficients = torch.randn(n_coefficients(lmax), 4)
    norm = torch.cat([torch.full(((2 * degree + 1) ** 2, 1), 2.0 * degree + 1) for degree in range(lmax + 1)])
    torch.testing.assert_close(transform.analysis(transform.synthesis(coefficients)) * norm, coefficients)


@pytest.mark.parametrize("name", ["C3", "D7", "T", "O", "I"])
def test_group_average_is_an_exact_projection(name):
    lmax, group = 8, point_group(name).matrices
    matrices, wigner = random_rotations(6), Wigner(lmax, torch.float64)
    coefficients = torch.randn(n_coefficients(lmax))
    average = torch.stack([wigner(matrices @ element) @ coefficients for element in group]).mean(dim=0)
    projections = rotation_projection(group, lmax)
    blocks = [
        coefficients[place].view(2 * degree + 1, -1) @ projections[degree] for degree, place in enumerate(degree_slices(lmax))
    ]
    torch.testing.assert_close(wigner(matrices) @ torch.cat([block.flatten() for block in blocks]), average)
