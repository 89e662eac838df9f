"""Turns of the picture by a quarter: of the picture itself, of the density, and of a network's average over them."""

import pytest
import torch

from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs, random_rotations
from cryopares_core.geometry.wigner import Wigner, n_coefficients
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.turns import average_over_quarter_turns, quarter_turned
from cryopares_core.particles.preprocess import network_mask
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector


def about_z(degrees):
    return euler_degs_to_matrix(torch.tensor([0.0, 0.0, degrees], dtype=torch.float64))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_turned_picture_is_the_projection_at_a_larger_psi(count):
    projector = Projector(torch.from_numpy(phantom_map(32, 8.0)).float())
    poses = random_rotations(5, torch.Generator().manual_seed(1))
    mask = network_mask(32, 8.0, None)
    turned = quarter_turned(projector.project(poses.float()) * mask, count)
    expected = projector.project((about_z(90.0 * count) @ poses).float()) * mask
    assert (turned - expected).norm() < 1e-3 * expected.norm()


def test_turned_coefficients_are_the_turned_function():
    wigner = Wigner(5, torch.float64)
    coefficients, poses = torch.randn(n_coefficients(5), dtype=torch.float64), random_rotations(6)
    turned = wigner.turned(coefficients[None], torch.full((1,), torch.pi / 5, dtype=torch.float64))[0]
    torch.testing.assert_close(wigner(about_z(36.0) @ poses) @ turned, wigner(poses) @ coefficients)


@pytest.mark.parametrize("name", [None, "resnet18"])
def test_poses_from_the_average_turn_with_the_picture(name):
    torch.manual_seed(2)
    settings = Config().models.image2sphere
    settings.lmax, settings.so3components.so3outputgrid.hp_order = 5, 2
    settings.so3components.i2sprojector.sphere_fdim, settings.so3components.s2conv.f_out = 16, 8
    settings.imageencoder.resnet.resnetName, settings.imageencoder.unet.width = name, 8
    network = PoseNetwork(settings, "C1", 32).eval()
    images = torch.randn(6, 1, 32, 32) * network_mask(32, 8.0, None)

    def poses(pictures):
        with torch.no_grad():
            coefficients = average_over_quarter_turns(network, network.density.wigner, pictures)
            return coefficients, network.density.poses(coefficients, network.density.grid_values(coefficients), 8)

    (coefficients, before), (turned, after) = poses(images), poses(quarter_turned(images, 1))
    expected = network.density.wigner.turned(coefficients.T, torch.full((6,), torch.pi / 2)).T
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=1e-4)
    errors = pose_error_degs(after.double(), about_z(90.0) @ before.double())
    assert errors.median() < 0.1
