"""Augmented pictures are projections at the augmented pose; probabilities and limits are kept."""

import pytest
import torch

from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.augmentation import OPERATIONS, Augmenter


def settings(**probabilities):
    augmenter = Config().datamanager.augmenter
    augmenter.prob_augment_each_image = 1.0
    for name in OPERATIONS:
        getattr(augmenter.operations, name).p = probabilities.get(name, 0.0)
    return augmenter


def picture(eulers_degs, size):
    """A lopsided cloud of Gaussian blobs, projected exactly at given poses: `(b, 1, n, n)`."""
    blobs = torch.tensor([[0.3, 0.1, 0.2], [-0.2, 0.35, -0.1], [0.05, -0.3, 0.3], [0.4, 0.3, -0.3]]) * size * 0.5
    view = torch.einsum("bij,kj->bki", euler_degs_to_matrix(eulers_degs), blobs)
    axis = torch.arange(size) - size // 2
    x, y = axis[None, None, None, :] - view[..., 0, None, None], axis[None, None, :, None] - view[..., 1, None, None]
    return torch.exp(-(x**2 + y**2) / (2 * (size / 16) ** 2)).sum(dim=1, keepdim=True)


def correlation(a, b):
    a, b = a.flatten(1) - a.mean(dim=(1, 2, 3))[:, None], b.flatten(1) - b.mean(dim=(1, 2, 3))[:, None]
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("name", ["inPlaneRotations90", "inPlaneRotations"])
def test_turned_pictures_are_projections_at_the_turned_pose(size, name):
    torch.manual_seed(0)
    eulers = torch.rand(16, 3) * torch.tensor([360.0, 180.0, 360.0])
    images, turned = Augmenter(settings(**{name: 1.0}))(picture(eulers, size), eulers)
    assert (turned[:, 2] - eulers[:, 2]).abs().min() > 0.1
    torch.testing.assert_close(turned[:, :2], eulers[:, :2])
    assert correlation(images, picture(turned, size)).min() > 0.999
    assert correlation(images, picture(eulers, size)).median() < 0.99


def test_shifts_move_and_change_no_pose():
    torch.manual_seed(0)
    eulers = torch.rand(8, 3) * 90
    images, turned = Augmenter(settings(inPlaneShifts=1.0))(picture(eulers, 64), eulers)
    torch.testing.assert_close(turned, eulers)
    spectra = torch.fft.rfft2(picture(eulers, 64)).conj() * torch.fft.rfft2(images)
    peak = torch.fft.irfft2(spectra).flatten(1).argmax(dim=1)
    shift = torch.stack((peak // 64, peak % 64), dim=1)
    shift = torch.where(shift > 32, shift - 64, shift).abs()
    assert 1 <= shift.max() <= 4  # 5 % of 64 px


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_the_pictures_it_is_drawn_for(name):
    torch.manual_seed(0)
    eulers = torch.rand(64, 3) * 90
    images = picture(eulers, 32).repeat(1, 2, 1, 1) + torch.randn(64, 2, 32, 32)
    config = settings(**{name: 0.5})
    config.min_n_augm_per_img = 0
    augmented, _ = Augmenter(config)(images, eulers)
    changed = ((augmented - images).abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()
    assert 0.25 < changed < 0.75
    assert bool(torch.isfinite(augmented).all())


def test_numbers_of_operations_are_kept():
    torch.manual_seed(0)
    config = settings(**dict.fromkeys(OPERATIONS, 0.5))
    config.min_n_augm_per_img, config.max_n_augm_per_img, config.prob_augment_each_image = 3, 5, 0.9
    chosen = torch.stack(list(Augmenter(config)._draw(4000, torch.device("cpu")).values()))
    counts = chosen.sum(dim=0)
    assert set(counts.tolist()) == {0, 3, 4, 5}
    assert 0.08 < (counts == 0).float().mean() < 0.12
    # An operation with p = 0 is never drawn, not even to reach the minimum.
    config.operations.erasing.p = 0.0
    assert not Augmenter(config)._draw(2000, torch.device("cpu"))["erasing"].any()
