"""Augmented pictures are projections at the augmented pose; probabilities, limits and schedules are kept."""

import pytest
import torch

from cryopares_core.config.merge import load_config
from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.augmentation import Augmenter, add_gaussian_noise, add_uniform_noise, augment, blur, erase, move
from cryopares_core.particles.draws import GEOMETRIC, OPERATIONS, draw, draw_operations
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector

MOVING = ("inPlaneRotations90", "inPlaneRotations", "inPlaneShifts", "sizePerturbation")
PREFIX = "datamanager.augmenter."


def settings(**probabilities):
    """Those of the operations named, always applied; no others."""
    augmenter = Config().datamanager.augmenter
    augmenter.prob_augment_each_image, augmenter.max_n_augm_per_img = 1.0, 9
    for name in OPERATIONS:
        getattr(augmenter.operations, name).p = probabilities.get(name, 0.0)
    return augmenter


def picture(eulers_degs, size, scale=None, shift_px=None):
    """A lopsided cloud of Gaussian blobs, projected exactly at given poses, scales and shifts: `(b, 1, n, n)`."""
    scale = torch.ones(len(eulers_degs)) if scale is None else scale
    shift_px = torch.zeros(len(eulers_degs), 2) if shift_px is None else shift_px
    blobs = torch.tensor([[0.3, 0.1, 0.2], [-0.2, 0.35, -0.1], [0.05, -0.3, 0.3], [0.4, 0.3, -0.3]]) * size * 0.5
    view = torch.einsum("bij,kj->bki", euler_degs_to_matrix(eulers_degs), blobs)[..., :2]
    view = (view * scale[:, None, None] + shift_px[:, None])[..., None, None]
    axis = torch.arange(size) - size // 2
    square = (axis[None, None, None, :] - view[:, :, 0]) ** 2 + (axis[None, None, :, None] - view[:, :, 1]) ** 2
    return torch.exp(-square / (2 * (scale[:, None, None, None] * size / 16) ** 2)).sum(dim=1, keepdim=True)


def correlation(a, b):
    a, b = a.flatten(1) - a.mean(dim=(1, 2, 3))[:, None], b.flatten(1) - b.mean(dim=(1, 2, 3))[:, None]
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def random_eulers(count):
    return torch.rand(count, 3) * torch.tensor([360.0, 180.0, 360.0])


@pytest.mark.parametrize("size", [64, 65])
@pytest.mark.parametrize("names", [*((name,) for name in MOVING), MOVING], ids=lambda names: "+".join(names))
def test_moved_pictures_are_projections_at_the_moved_pose(size, names):
    torch.manual_seed(0)
    eulers = random_eulers(32)
    draws = draw(settings(**dict.fromkeys(names, 1.0)), 32, size)
    images, turned = augment(picture(eulers, size), eulers, draws)
    torch.testing.assert_close(turned[:, :2], eulers[:, :2])
    expected = picture(turned, size, draws.scale, draws.shift_px)
    assert correlation(images, expected).min() > 0.9995
    torch.testing.assert_close(images, expected, rtol=0, atol=0.03)  # bilinear: a quarter of the curvature, 2 / 4²
    # The picture of a pose, scale or shift that did not follow is less like it.
    for names_of_it, without in (
        (MOVING[:2], picture(eulers, size, draws.scale, draws.shift_px)),
        (MOVING[2:3], picture(turned, size, draws.scale)),
        (MOVING[3:], picture(turned, size, None, draws.shift_px)),
    ):
        if set(names_of_it) & set(names):
            assert (1 - correlation(images, without)).median() > 5 * (1 - correlation(images, expected)).median()


def test_moved_projections_of_a_map_are_its_projections_at_the_moved_pose():
    torch.manual_seed(0)
    projector, eulers = Projector(torch.from_numpy(phantom_map(64, 5.0))), random_eulers(16)
    draws = draw(settings(**dict.fromkeys(MOVING[:3], 1.0)), 16, 64)
    images, turned = augment(projector.project(euler_degs_to_matrix(eulers))[:, None], eulers, draws)
    axis = torch.fft.fftfreq(64), torch.fft.rfftfreq(64)
    turns = draws.shift_px[:, 0, None, None] * axis[1] + draws.shift_px[:, 1, None, None] * axis[0][:, None]
    spectra = projector.project_rfft(euler_degs_to_matrix(turned)) * torch.exp(-2j * torch.pi * turns)
    assert correlation(images, torch.fft.irfft2(spectra, s=(64, 64))[:, None]).min() > 0.995  # bilinear, sharp edges


def test_quarter_turns_move_pixels_and_change_no_value():
    torch.manual_seed(0)
    draws, images = draw(settings(inPlaneRotations90=1.0), 12, 33), torch.randn(12, 2, 33, 33)
    for image, moved, turn in zip(images, move(images, draws), draws.turn_degs, strict=True):
        torch.testing.assert_close(moved, torch.rot90(image, round(float(turn) / 90), (1, 2)), rtol=0, atol=1e-4)
    assert set(draws.turn_degs.tolist()) == {90.0, 180.0, 270.0}


def test_pictures_bend_smoothly_and_no_further_than_said():
    torch.manual_seed(0)
    config = settings(randomElastic=1.0)
    config.operations.randomElastic.max_shift_px = 2.0
    axis = torch.arange(64.0)
    ramps = torch.stack((axis.expand(64, 64), axis[:, None].expand(64, 64))).repeat(8, 1, 1, 1)
    bent = (move(ramps, draw(config, 8, 64)) - ramps)[:, :, 8:-8, 8:-8]
    assert 1.0 < bent.abs().max() < 2.0 * 1.4  # cubics overshoot a little
    assert bent.diff(dim=-1).abs().max() < 1.0


def test_the_ranges_are_those_of_the_guide():
    torch.manual_seed(0)
    draws = draw(settings(**dict.fromkeys(OPERATIONS, 1.0)), 4000, 160)
    small = (draws.turn_degs + 45) % 90 - 45
    assert 19.5 < small.abs().max() <= 20
    assert 0.048 * 160 < draws.shift_px.abs().max() <= 0.05 * 160
    first, last = draws.hole_px.unbind(dim=-1)
    assert first.min() >= 0 and last.max() <= 160 and (last - first).max() <= 0.25 * 160 + 1
    for values in (draws.blur_px, draws.gauss_std, draws.unif_amplitude):
        assert values.min() >= 0 and values.max() > 0


def test_noise_has_the_strength_drawn():
    torch.manual_seed(0)
    draws = draw(settings(randomGaussNoise=0.5, randomUnifNoise=0.5), 64, 64)
    gauss, uniform = torch.zeros(64, 2, 64, 64), torch.zeros(64, 2, 64, 64)
    add_gaussian_noise(gauss, draws)
    add_uniform_noise(uniform, draws)
    torch.testing.assert_close(gauss.std(dim=(1, 2, 3)), draws.gauss_std, rtol=0.05, atol=0)
    torch.testing.assert_close(uniform.abs().amax(dim=(1, 2, 3)), draws.unif_amplitude, rtol=0.01, atol=0)
    assert uniform.mean().abs() < 1e-3


def test_blurred_points_are_gaussians_and_erased_rectangles_are_empty():
    torch.manual_seed(0)
    config = settings(gaussianBlur=1.0, erasing=1.0)
    config.operations.gaussianBlur.max_sigma_px = 4.0
    draws = draw(config, 16, 64)
    points = torch.zeros(16, 1, 64, 64)
    points[:, :, 32, 32] = 1
    blur(points, draws)
    axis = torch.arange(64.0) - 32
    variance = (points.sum(dim=2)[:, 0] * axis**2).sum(dim=1)
    torch.testing.assert_close(variance, draws.blur_px**2, rtol=1e-2, atol=1e-2)
    ones = torch.ones(16, 2, 64, 64)
    erase(ones, draws)
    area = (draws.hole_px[..., 1] - draws.hole_px[..., 0]).prod(dim=1)
    assert torch.equal(64 * 64 - ones[:, 0].sum(dim=(1, 2)), area.float()) and torch.equal(ones[:, 0], ones[:, 1])


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_changes_the_pictures_it_is_drawn_for_and_no_others(name):
    torch.manual_seed(0)
    eulers = torch.rand(64, 3) * 90
    images = picture(eulers, 32).repeat(1, 2, 1, 1) + torch.randn(64, 2, 32, 32)
    config, before = settings(**{name: 0.5}), images.clone()
    config.min_n_augm_per_img = 0
    draws = draw(config, 64, 32)
    augmented, turned = augment(images, eulers, draws)
    changed = (augmented - images).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 0.25 < changed.float().mean() < 0.75
    assert not (changed & ~draws.chosen[name]).any() and (draws.chosen[name] & ~changed).sum() <= 3  # some rectangles are empty
    assert bool(torch.isfinite(augmented).all()) and torch.equal(images, before)
    assert torch.equal(turned, eulers) == (name not in GEOMETRIC[:2])


def test_numbers_of_operations_are_kept():
    torch.manual_seed(0)
    config = settings(**dict.fromkeys(OPERATIONS, 0.5))
    config.min_n_augm_per_img, config.max_n_augm_per_img, config.prob_augment_each_image = 3, 5, 0.9
    counts = torch.stack(list(draw_operations(config, 4000, 0.0).values())).sum(dim=0)
    assert set(counts.tolist()) == {0, 3, 4, 5}
    assert 0.08 < (counts == 0).float().mean() < 0.12
    # An operation with p = 0 is never drawn, not even to reach the minimum; one with p = 1 always, despite the maximum.
    config.operations.erasing.p, config.operations.inPlaneRotations90.p, config.max_n_augm_per_img = 0.0, 1.0, 3
    chosen = draw_operations(config, 2000, 0.0)
    assert not chosen["erasing"].any()
    assert torch.equal(chosen["inPlaneRotations90"], torch.stack(list(chosen.values())).sum(dim=0) == 3)


def test_each_operation_comes_as_often_as_the_guide_says():
    torch.manual_seed(0)
    chosen = draw_operations(Config().datamanager.augmenter, 20_000, 0.0)
    for name, p in {"inPlaneRotations90": 1.0, "inPlaneShifts": 0.5, "gaussianBlur": 0.2, "erasing": 0.1}.items():
        assert float(chosen[name].float().mean()) == pytest.approx(0.95 * p, abs=0.01)


def test_probabilities_follow_their_schedule(tmp_path):
    (tmp_path / "strong.yaml").write_text("datamanager:\n  augmenter:\n    operations: {erasing: {p: 0.4, p_final: 0.8}}\n")
    (tmp_path / "strong.json").write_text('{"datamanager": {"augmenter": {"operations": {"erasing": {"p": 0.4, "p_final": 0.8}}}}}')
    overrides = [PREFIX + text for text in ("operations.gaussianBlur.p_final=0", "prob_augment_each_image=1")]
    overrides += [PREFIX + "prob_augment_each_image_final=0.5", PREFIX + "min_n_augm_per_img=0"]
    for file in ("strong.yaml", "strong.json"):
        config = load_config(tmp_path / file, overrides).datamanager.augmenter
        torch.manual_seed(0)
        shares = {at: draw_operations(config, 20_000, at) for at in (0.0, 0.5, 1.0)}
        for name, expected in {"erasing": (0.4, 0.6, 0.8), "gaussianBlur": (0.2, 0.1, 0), "inPlaneShifts": (0.5,) * 3}.items():
            for (at, chosen), p in zip(shares.items(), expected, strict=True):
                assert float(chosen[name].float().mean()) == pytest.approx(p * (1 - at / 2), abs=0.015)


def test_nothing_waits_for_the_device():
    """Tensors on torch's device without memory have no values: whoever asks for one fails."""
    config = settings(**dict.fromkeys(OPERATIONS, 0.7))
    images, eulers = Augmenter(config)(torch.zeros(8, 1, 32, 32, device="meta"), torch.zeros(8, 3, device="meta"), 0.5)
    assert images.shape == (8, 1, 32, 32) and eulers.shape == (8, 3) and images.device.type == "meta"


def test_the_seed_decides_everything():
    augmenter, images, eulers = Augmenter(Config().datamanager.augmenter), torch.randn(32, 1, 32, 32), torch.zeros(32, 3)
    torch.manual_seed(5)
    first = augmenter(images, eulers, 0.3)
    torch.manual_seed(5)
    again, other = augmenter(images, eulers, 0.3), augmenter(images, eulers, 0.3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
