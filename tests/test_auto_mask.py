"""The mask made from half maps: it holds the particle and little else, and makes no resolution where there is none."""

import itertools
import math

import numpy as np
import pytest
import torch
from volumes import noise

from cryopares_core.volumes.auto_mask import (
    auto_mask,
    coarse_side,
    distance_px,
    interpolated,
    main_regions,
    resized,
)
from cryopares_core.volumes.fsc import fsc_curves
from cryopares_core.volumes.maps import resample_map
from cryopares_core.volumes.masks import soft_sphere, without_corners
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.radial import times_radial

SIZE, PIXEL = 48, 5.0


def halves_of(signal, sigma, seed=1):
    return [signal + sigma * signal.std() * noise(len(signal), seed + half) for half in (0, 1)]


@pytest.mark.parametrize(("size", "pixel"), [(SIZE, PIXEL), (96, 2.5), (65, 3.7)])
def test_holds_the_particle_and_half_of_the_box_at_the_most(size, pixel):
    truth = torch.from_numpy(phantom_map(size, pixel)).float()
    found = auto_mask(*halves_of(truth, 1.0), pixel)
    body = truth > 0.1 * truth.max()
    assert found.mask.shape == truth.shape and found.mask.min() >= 0 and found.mask.max() <= 1
    assert found.mask[body].min() > 0.9 and found.volume < 0.4
    assert found.lowpass_angs >= 15 and found.threshold_sigmas >= 4


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_has_no_mask_and_no_resolution(seed):
    """White noise, and noise that is strong at low frequencies, as that of half maps is."""
    falling = 1 / (1 + torch.arange(SIZE // 2 + 1) / 3.0)
    for factors in (torch.ones(SIZE // 2 + 1), falling):
        halves = [without_corners(times_radial(noise(SIZE, 10 * seed + half), factors)) for half in (1, 2)]
        assert auto_mask(*halves, PIXEL) is None
        curves = fsc_curves(*halves, soft_sphere(SIZE), PIXEL)
        assert abs(float(curves.corrected[4:].mean())) < 0.05 and curves.resolution_angs > 40


@pytest.mark.parametrize("limit_shell", [6, 9])
def test_no_resolution_beyond_that_of_the_signal(limit_shell):
    """Signal ends at a shell, and the mask was made from the same halves: beyond it the corrected correlation is none."""
    truth = torch.from_numpy(phantom_map(SIZE, PIXEL)).float()
    coarse = times_radial(truth, (torch.arange(SIZE // 2 + 1) <= limit_shell).float())
    halves = [without_corners(half) for half in halves_of(coarse, 1.5)]
    found = auto_mask(*halves, PIXEL)
    curves = fsc_curves(*halves, found.mask, PIXEL)
    assert SIZE * PIXEL / (limit_shell + 2.5) < curves.resolution_angs < SIZE * PIXEL / (limit_shell - 1.5)
    assert abs(float(curves.corrected[limit_shell + 4 :].mean())) < 0.05


def test_small_specks_are_left_out_and_parts_of_some_size_stay():
    seed = torch.zeros(24, 24, 24, dtype=torch.bool)
    seed[4:10, 4:10, 4:10] = True
    seed[10:14, 10:14, 10:14] = True  # touches the first with a corner
    seed[18:22, 4:8, 4:8] = True
    seed[20, 20, 20] = True
    kept = main_regions(seed)
    assert not kept[20, 20, 20] and kept.sum() == seed.sum() - 1


def test_distances_agree_with_a_loop():
    seed = torch.zeros(9, 9, 9, dtype=torch.bool)
    seed[2, 3, 4] = seed[7, 7, 1] = True
    found = distance_px(seed, 9)
    for place in itertools.product(range(9), repeat=3):
        expected = min(math.dist(place, point) for point in seed.nonzero().tolist())
        assert float(found[place]) == pytest.approx(expected, abs=1e-5)


def test_coarse_grids_keep_the_centre():
    assert (coarse_side(200, 1.0), coarse_side(64, 5.0), coarse_side(400, 1.3), coarse_side(30, 1.0)) == (40, 64, 96, 30)
    fine = soft_sphere(64, 10.0, 12.0)
    np.testing.assert_allclose(resized(fine, 32).numpy(), resample_map(fine.numpy(), 32), atol=0.02)
    coarse = soft_sphere(32, 5.0, 6.0)
    assert (interpolated(coarse, 64) - fine).abs().max() < 0.03
