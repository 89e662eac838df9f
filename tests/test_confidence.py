"""How sure the network says it is of a pose: the density's mass about it, and whether that comes true."""

import math

import pytest
import torch

from cryopares_core.geometry.ball import ball_quadrature
from cryopares_core.geometry.rotations import pose_error_degs, random_rotations, rotation_angle_degs, rotvec_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.geometry.wigner import Wigner, n_coefficients
from cryopares_core.model.density import PoseDensity

LMAX = 6


@pytest.mark.parametrize("radius", [2.0, 5.0, 15.0])
def test_the_ball_has_its_share_of_all_rotations(radius):
    turns, weights = ball_quadrature(radius)
    angle = math.radians(radius)
    assert float(weights.sum()) == pytest.approx((angle - math.sin(angle)) / math.pi, rel=1e-7)
    assert rotation_angle_degs(turns).max() < radius
    # The mean rotation of a ball about no rotation turns nowhere, and as much about any axis.
    mean = torch.einsum("k,kij->ij", weights / weights.sum(), turns)
    torch.testing.assert_close(mean, mean[0, 0] * torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_share_of_rotations_drawn_at_random():
    """Counted over uniform rotations, in a ball of 30 degrees."""
    angles = rotation_angle_degs(random_rotations(200_000, torch.Generator().manual_seed(0)))
    assert float(ball_quadrature(30.0)[1].sum()) == pytest.approx(float((angles < 30).double().mean()), rel=0.05)


def test_a_uniform_density_is_as_sure_as_chance():
    model = PoseDensity(LMAX, 2, point_group("C1"), 5.0, 0.0)
    mass = model.mass_within(torch.zeros(n_coefficients(LMAX), 2), random_rotations(2).float(), 5.0)
    torch.testing.assert_close(mass, torch.full((2,), (math.radians(5) - math.sin(math.radians(5))) / math.pi), rtol=1e-4, atol=0)


def peaked(model, truth, height):
    """Coefficients of a density with one peak at each of the poses, and at those that symmetry makes alike."""
    decay = torch.cat([torch.full(((2 * d + 1) ** 2,), (2 * d + 1) * math.exp(-0.02 * d * (d + 1))) for d in range(LMAX + 1)])
    peak = Wigner(LMAX, torch.float64)(truth).T * decay[:, None].double()
    return model.symmetrise(height * (peak / peak.square().sum(dim=0).sqrt()).float())


@pytest.mark.parametrize("name", ["C1", "C3", "D2"])
def test_the_mass_is_that_of_a_sum_over_many_rotations(name):
    group = point_group(name)
    model, truth = PoseDensity(LMAX, 3, group, 5.0, 0.0), random_rotations(3, torch.Generator().manual_seed(1))
    coefficients = peaked(model, truth, 1.5)
    poses = model.poses(coefficients, model.grid_values(coefficients), 8)
    found = model.mass_within(coefficients, poses, 20.0)
    draws = random_rotations(60_000, torch.Generator().manual_seed(2))
    weight = (Wigner(LMAX, torch.float64)(draws) @ coefficients.double()).exp()
    near = torch.stack([pose_error_degs(pose.double().expand_as(draws), draws, group.matrices) < 20 for pose in poses], dim=1)
    expected = (weight * near).sum(dim=0) / weight.sum(dim=0)
    torch.testing.assert_close(found.double(), expected, rtol=0.06, atol=0)


def test_the_mass_grows_with_the_radius_and_the_peak_and_never_passes_one():
    model, truth = PoseDensity(LMAX, 2, point_group("C1"), 5.0, 0.0), random_rotations(1)
    masses = [[float(model.mass_within(peaked(model, truth, h), truth.float(), r)) for r in (5, 10, 40)] for h in (1, 20, 400)]
    assert all(row == sorted(row) for row in masses)
    assert all(low < high for low, high in zip(masses[0], masses[1], strict=True))
    assert 0.9 < masses[2][2] <= 1


def test_far_from_the_peak_there_is_little():
    model, truth = PoseDensity(LMAX, 2, point_group("C1"), 5.0, 0.0), random_rotations(1)
    off = truth @ rotvec_to_matrix(torch.tensor([[0.0, math.radians(60), 0.0]], dtype=torch.float64))
    coefficients = peaked(model, truth, 40.0)
    assert model.mass_within(coefficients, off.float(), 5.0) < 1e-3 * model.mass_within(coefficients, truth.float(), 5.0)
