"""Sharpening: the decay that a map was given is found and undone, and only where the data tell it."""

import math

import pytest
import torch
from volumes import decaying_halves, likeness, noise

from cryopares_core.volumes.fsc import fsc_curves
from cryopares_core.volumes.half_maps import HalfMaps
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.radial import shell_power, times_radial
from cryopares_core.volumes.sharpen import guinier_b_factor, sharpen

SIZE, PIXEL = 64, 1.5


def half_maps_of(halves, pixel=PIXEL):
    mask = soft_sphere(len(halves[0]))
    curves = fsc_curves(*halves, mask, pixel)
    return HalfMaps(*halves, halves[0], curves, pixel, (1, 1), "C1", mask)


@pytest.fixture(scope="module")
def decayed():
    return half_maps_of(decaying_halves(SIZE, PIXEL, 200.0, 0.3))


def test_a_map_is_multiplied_shell_by_shell():
    volume, factors = noise(24, 1), torch.linspace(1, 3, 13)
    power = shell_power(times_radial(volume, factors)) / shell_power(volume)
    torch.testing.assert_close(power[2:12].sqrt(), factors[2:12], atol=0.04, rtol=0)
    torch.testing.assert_close(times_radial(volume, torch.ones(13)), volume, atol=1e-5, rtol=0)


@pytest.mark.parametrize("b_factor", [60.0, 120.0])
def test_the_b_factor_of_a_decay_is_found(b_factor):
    found = sharpen(half_maps_of(decaying_halves(SIZE, PIXEL, b_factor)))
    assert found.b_factor_angs2 == pytest.approx(-b_factor, rel=0.1) and "fitted between 10 and" in found.note


def test_sharpened_amplitudes_are_even_to_the_resolution_and_none_beyond(decayed):
    found = sharpen(decayed)
    amplitude = shell_power(found.volume).sqrt()
    last = int(SIZE * PIXEL / decayed.resolution_angs)
    assert amplitude[6 : last - 2].max() < 3 * amplitude[6 : last - 2].min()
    assert amplitude[last + 3 :].max() < 1e-3 * amplitude[6]
    blunt = likeness(decayed.half1 + decayed.half2, found.volume)
    assert blunt[: last - 1].min() > 0.95, "shells are scaled, not changed"


def test_a_given_number_is_applied(decayed):
    factors = (shell_power(sharpen(decayed, -80.0).volume) / shell_power(sharpen(decayed, 0.0).volume)).sqrt()
    expected = torch.exp(20 * (torch.arange(SIZE // 2 + 1) / (SIZE * PIXEL)) ** 2)
    torch.testing.assert_close(factors[1:18], expected[1:18], rtol=0.02, atol=0)
    assert sharpen(decayed, -80.0).b_factor_angs2 == -80


def test_none_where_the_data_do_not_allow_it(decayed):
    assert sharpen(decayed, None).volume is None
    coarse = sharpen(half_maps_of(decaying_halves(SIZE, 5.0, 120.0), 5.0))
    assert coarse.volume is None and coarse.b_factor_angs2 is None and "does not reach 10 Å" in coarse.note
    alone = sharpen(half_maps_of([noise(SIZE, 1), noise(SIZE, 2)]))
    assert alone.volume is None and alone.note.startswith("none: ")


@pytest.mark.parametrize(
    ("amplitudes", "resolution", "said"),
    [
        (torch.ones(33), 8.5, "needs 6 Fourier shells"),
        (torch.linspace(1, 2, 33), 3.5, "do not fall"),
    ],
)
def test_why_there_is_no_b_factor(amplitudes, resolution, said):
    assert said in guinier_b_factor(amplitudes, SIZE * PIXEL, resolution)


def test_a_straight_line_is_fitted():
    square = (torch.arange(33) / (SIZE * PIXEL)) ** 2
    assert guinier_b_factor(torch.exp(-25 * square), SIZE * PIXEL, 3.5) == pytest.approx(-100, abs=0.1)
    assert math.isfinite(guinier_b_factor(torch.exp(-25 * square), SIZE * PIXEL, 3.01))
