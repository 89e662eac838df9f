"""The network and its density: equivariance, symmetry, exact labels, poses off the grid, storage."""

import math
from dataclasses import asdict

import pytest
import torch

from cryopares_core.config.schema import Config
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import (
    euler_degs_to_matrix,
    matrix_to_euler_degs,
    pose_error_degs,
    random_rotations,
    rotvec_to_matrix,
)
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.geometry.wigner import Wigner, degree_slices, n_coefficients
from cryopares_core.model.convolutions import S2Convolution, SO3Activation, SO3Convolution
from cryopares_core.model.density import PoseDensity
from cryopares_core.model.network import PoseNetwork
from cryopares_core.model.projector import ImageToSphere
from cryopares_core.model.storage import ModelCard, load_model, save_model


def small_settings(lmax=4, order=1):
    settings = Config().models.image2sphere
    settings.lmax, settings.so3components.so3outputgrid.hp_order = lmax, order
    settings.so3components.i2sprojector.sphere_fdim, settings.so3components.s2conv.f_out = 8, 4
    return settings


def turn_rows(lmax, angle_degs):
    """A function that turns packed coefficients `(n, …)` about the view's axis: `f(R) -> f(Rz^T R)`."""
    turn = Wigner(lmax, torch.float64)(euler_degs_to_matrix(torch.tensor([0.0, 0.0, angle_degs], dtype=torch.float64)))

    def apply(packed):
        blocks = []
        for degree, place in enumerate(degree_slices(lmax)):
            matrix = turn[place].view(2 * degree + 1, -1)
            block = packed[place].unflatten(0, (2 * degree + 1, 2 * degree + 1))
            blocks.append(torch.einsum("ab,bn...->an...", matrix, block.double()).flatten(0, 1))
        return torch.cat(blocks)

    return apply


def test_a_turn_of_the_features_is_a_turn_of_the_density():
    """rot90(picture) is the projection at psi + 90: the coefficients must turn by exactly that, activation and all."""
    torch.manual_seed(0)
    lmax, size = 6, 9
    s2, activation, so3 = S2Convolution(lmax, 5, 8, 4, 2), SO3Activation(lmax), SO3Convolution(lmax, 4)
    # The centre is pixel N / 2 of an even map: keep row and column 0, which have no partner, empty.
    features = torch.zeros(2, 5, size + 1, size + 1)
    features[:, :, 1:, 1:] = torch.randn(2, 5, size, size)
    projector = ImageToSphere(8 * (size + 1), 8, lmax, hp_order=3, rand_fraction=1.0).eval()
    turned = torch.zeros_like(features)
    turned[:, :, 1:, 1:] = torch.rot90(features[:, :, 1:, 1:], 1, (-2, -1))

    def coefficients(x):
        with torch.no_grad():
            return so3(activation(s2(projector(x))))

    expected = turn_rows(lmax, 90.0)(coefficients(features))
    found = coefficients(turned).double()
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_convolutions_and_activation_commute_with_turns_of_the_frame():
    torch.manual_seed(0)
    lmax, turn = 5, random_rotations(1)[0]
    wigner = Wigner(lmax, torch.float64)(turn)
    sphere = torch.randn((lmax + 1) ** 2, 3, 8)
    turned = torch.cat(
        [
            torch.einsum("ab,bni->ani", wigner[place].view(2 * degree + 1, -1).float(), sphere[degree**2 : (degree + 1) ** 2])
            for degree, place in enumerate(degree_slices(lmax))
        ]
    )
    s2, so3 = S2Convolution(lmax, 8, 8, 4, 2), SO3Convolution(lmax, 4)
    matrices = random_rotations(10)
    with torch.no_grad():
        before, after = so3(s2(sphere)).double(), so3(s2(turned)).double()
        packed = Wigner(lmax, torch.float64)
        torch.testing.assert_close(packed(turn @ matrices) @ after, packed(matrices) @ before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 200])
def test_mixed_filters_are_the_same_as_a_mixed_signal(batch):
    torch.manual_seed(0)
    lmax, channels, f_in, f_out = 3, 8, 16, 2
    s2 = S2Convolution(lmax, channels, f_in, f_out, 1)
    assert s2._mixes_filters(batch) == (batch == 200)
    sphere = torch.randn((lmax + 1) ** 2, batch, channels)
    mixed = torch.einsum("kbc,fc->kbf", sphere, s2.mix.weight) * s2.gain / math.sqrt(f_in)
    expected = []
    for degree in range(lmax + 1):
        block = torch.einsum("mbf,fno->mnbo", mixed[degree**2 : (degree + 1) ** 2], s2.theta[:, degree**2 : (degree + 1) ** 2])
        expected.append(block.flatten(0, 1))
    torch.testing.assert_close(s2(sphere), torch.cat(expected), atol=1e-5, rtol=1e-5)


def density(lmax=6, order=2, name="C1", sigma=5.0, smoothing=0.0):
    return PoseDensity(lmax, order, point_group(name), sigma, smoothing)


def test_loss_of_a_uniform_density_is_that_of_chance():
    model = density(order=1, smoothing=0.1)
    coefficients = torch.zeros(n_coefficients(6), 3)
    loss = model.loss(coefficients, model.grid_values(coefficients), torch.rand(3, 3) * 90)
    torch.testing.assert_close(loss, torch.full((3,), math.log(len(model.grid))))


def test_loss_becomes_that_of_the_nearest_grid_point():
    """With sigma = 0 and labels on the grid the loss is the published one: cross-entropy over the grid's cells."""
    torch.manual_seed(1)
    model = density(sigma=0.0)
    coefficients = torch.randn(n_coefficients(6), 5) * 0.1
    values = model.grid_values(coefficients)
    label = torch.randint(len(model.grid), (5,))
    published = torch.nn.functional.cross_entropy(values.T, label, reduction="none")
    torch.testing.assert_close(model.loss(coefficients, values, model.grid.eulers_degs(label)), published, atol=1e-4, rtol=1e-5)


def test_label_is_the_heat_kernel():
    """The smeared label equals f averaged over the diffusion's increments (small steps, many samples)."""
    torch.manual_seed(2)
    model = density(lmax=3, sigma=20.0)
    coefficients = torch.randn(n_coefficients(3), 1)
    truth = random_rotations(1)
    steps, walks = 40, 40_000
    poses = truth.expand(walks, 3, 3)
    for _ in range(steps):
        poses = poses @ rotvec_to_matrix(torch.randn(walks, 3, dtype=torch.float64) * math.radians(20.0) / math.sqrt(steps))
    sampled = (Wigner(3)(poses) @ coefficients).mean()
    target = model.wigner(truth) * model.decay
    torch.testing.assert_close((target @ coefficients)[0, 0], sampled, atol=0.03, rtol=0.02)


@pytest.mark.parametrize("name", ["C1", "C5", "D7", "T", "O", "I"])
def test_symmetric_densities_agree_at_mates(name):
    torch.manual_seed(3)
    lmax = 12
    model, group = density(lmax, 1, name), point_group(name).matrices
    coefficients = model.symmetrise(torch.randn(n_coefficients(lmax), 2)).double()
    matrices, wigner = random_rotations(5), Wigner(lmax, torch.float64)
    reference = wigner(matrices) @ coefficients
    for element in group:
        torch.testing.assert_close(wigner(matrices @ element) @ coefficients, reference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.symmetrise(coefficients.float()).double(), coefficients, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["C1", "D7"])
def test_poses_are_found_between_the_grid_points(name):
    torch.manual_seed(4)
    model, truth = density(8, 2, name), random_rotations(30)
    coefficients = model.symmetrise(model.wigner(truth).T * 0.5 * model.decay[:, None])
    values = model.grid_values(coefficients)
    group = point_group(name).matrices
    on_grid = pose_error_degs(model.poses(coefficients, values, 0).double(), truth, group)
    refined = pose_error_degs(model.poses(coefficients, values, 8).double(), truth, group)
    assert on_grid.median() > 2
    assert refined.max() < 0.2


@pytest.mark.parametrize("size, channels", [(32, 1), (50, 1), (64, 2)])
def test_network_learns_a_few_pictures(size, channels):
    torch.manual_seed(5)
    network = PoseNetwork(small_settings(), "C1", size, channels)
    images = torch.randn(6, channels, size, size)
    eulers = matrix_to_euler_degs(random_rotations(6)).float()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        coefficients = network(images)
        losses.append(network.density.loss(coefficients, network.density.grid_values(coefficients), eulers).mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert abs(losses[0].item() - math.log(len(network.density.grid))) < 1.5
    assert losses[-1] < losses[0] - 1.5


def test_models_are_saved_and_loaded(tmp_path):
    config = Config()
    config.models.image2sphere = small_settings()
    card = ModelCard("C2", 3.5, 32, 1, asdict(config), "half1")
    network = card.network().eval()
    save_model(tmp_path, card, network)
    loaded, read = load_model(tmp_path)
    assert read == card
    picture = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(loaded(picture), network(picture))
    (tmp_path / "model.safetensors").write_bytes(b"no model")
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path)
