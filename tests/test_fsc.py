"""Fourier shell correlation: against a plain loop, known signal-to-noise ratios, and masks that bring correlation of their own."""

import itertools
import math

import numpy as np
import pytest
import torch

from cryopares_core.errors import UserError
from cryopares_core.plots.figures import new_figure, png_bytes
from cryopares_core.plots.fsc import draw_fsc, read_fsc
from cryopares_core.volumes.fsc import fsc_curves, resolution_angs, shell_correlation
from cryopares_core.volumes.half_map_files import _csv, fsc_columns
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.masks import read_mask, soft_sphere


def noise(size, seed):
    return torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [8, 9])
def test_agrees_with_a_loop_over_all_frequencies(size):
    first, second = noise(size, 1), noise(size, 1) + noise(size, 2)
    a, b = np.fft.fftn(first.numpy()), np.fft.fftn(second.numpy())
    sums = np.zeros((3, size))
    for place in itertools.product(range(size), repeat=3):
        shell = round(math.sqrt(sum((k if k <= (size - 1) / 2 else k - size) ** 2 for k in place)))
        u, v = a[place], b[place]
        sums[:, shell] += (u * v.conjugate()).real, abs(u) ** 2, abs(v) ** 2
    expected = (sums[0] / np.sqrt(sums[1] * sums[2] + 1e-30))[: size // 2 + 1]
    expected[0] = 1
    np.testing.assert_allclose(shell_correlation(first, second).numpy(), expected, atol=1e-5)


def test_signal_over_noise_gives_the_correlation():
    signal, ratio = noise(40, 1), 0.5
    halves = [signal * math.sqrt(ratio) + noise(40, seed) for seed in (2, 3)]
    found = fsc_curves(*halves, torch.ones(40, 40, 40), 2.0)
    assert found.unmasked[5:].mean() == pytest.approx(ratio / (1 + ratio), abs=0.02)
    assert found.corrected[8:].mean() == pytest.approx(ratio / (1 + ratio), abs=0.03)


def smooth(volume, shells):
    """A map without frequencies beyond some shell."""
    n = len(volume)
    k = torch.fft.fftfreq(n, 1 / n)
    distance = (k[:, None, None] ** 2 + k[:, None] ** 2 + torch.arange(n // 2 + 1) ** 2).sqrt()
    return torch.fft.irfftn(torch.fft.rfftn(volume) * (distance <= shells), s=volume.shape)


def test_what_a_sharp_mask_brings_is_taken_off():
    """The same coarse signal and different noise: behind a hard mask the halves correlate far beyond the signal."""
    signal = 60 * smooth(noise(48, 1), 7)
    halves = [signal + noise(48, seed) for seed in (2, 3)]
    hard = (soft_sphere(48, 12.0, 1e-3) > 0.5).float()
    found = fsc_curves(*halves, hard, 1.0)
    assert found.unmasked[9:].abs().max() < 0.1 and found.masked[10:16].min() > 0.3
    assert found.corrected[12:].abs().mean() < 0.1 and found.corrected[5] > 0.99
    soft = fsc_curves(*halves, soft_sphere(48, 12.0, 8.0), 1.0)
    assert soft.masked[12:].abs().mean() < 0.1
    assert 48 / 11 < soft.resolution_angs < 48 / 6


def test_noise_alone_has_no_resolution():
    found = fsc_curves(noise(32, 1), noise(32, 2), soft_sphere(32), 1.5)
    assert found.resolution_angs > 24 and bool(torch.isfinite(found.corrected).all())


def test_resolution_lies_between_shells():
    curve = torch.tensor([1.0, 0.9, 0.5, 0.243, 0.043, 0.6])
    assert resolution_angs(curve, 100.0) == pytest.approx(100 / 3.5)
    assert resolution_angs(torch.ones(6), 100.0) == 20.0
    assert resolution_angs(torch.zeros(6), 100.0) == math.inf


def test_maps_that_are_empty_somewhere_give_zeros():
    coarse = smooth(noise(24, 1), 5)
    found = fsc_curves(coarse, coarse, torch.ones(24, 24, 24), 1.0, radius=5)
    assert found.corrected[6:].abs().max() == 0 and found.corrected[:5].min() > 0.99
    assert 24 / 6 < found.resolution_angs < 24 / 5


class TestMasks:
    def test_a_soft_sphere(self):
        ball = soft_sphere(33, 8.0, 4.0)
        along = ball[16, 16, 16:]
        assert along[:9].min() == 1 and along[12:].max() == 0 and (along[8:12].diff() < 0).all()
        largest = soft_sphere(32)
        assert largest[16, 16, 0] == 0 and largest[16, 16, 16] == 1

    @pytest.mark.parametrize(
        ("size", "pixel", "scale", "said"),
        [(20, 2.0, 1, "its side is 20 px"), (24, 2.5, 1, "its pixels are 2.5 Å"), (24, 2.0, 9, "run from 0 to 9")],
    )
    def test_masks_that_do_not_fit(self, tmp_path, size, pixel, scale, said):
        write_map(tmp_path / "mask.mrc", scale * soft_sphere(size, 6.0, 2.0).numpy(), pixel)
        with pytest.raises(UserError, match=said):
            read_mask(tmp_path / "mask.mrc", 24, 2.0)

    def test_a_mask_that_fits(self, tmp_path):
        write_map(tmp_path / "mask.mrc", soft_sphere(24, 6.0, 2.0).numpy(), 2.0)
        torch.testing.assert_close(read_mask(tmp_path / "mask.mrc", 24, 2.0), soft_sphere(24, 6.0, 2.0))


def test_the_picture_is_drawn_from_the_file(tmp_path):
    signal = smooth(noise(32, 1), 9)
    curves = fsc_curves(9 * signal + noise(32, 2), 9 * signal + noise(32, 3), soft_sphere(32), 3.0)
    (tmp_path / "fsc.csv").write_text(_csv(fsc_columns(curves)))
    columns = read_fsc(tmp_path / "fsc.csv")
    np.testing.assert_allclose(columns["corrected"], curves.corrected, atol=1e-4)
    figure = new_figure(6, 4)
    draw_fsc(figure, columns, curves.resolution_angs)
    (axes,) = figure.axes
    assert f"{curves.resolution_angs:.2f} Å" in [text.get_text() for text in axes.texts]
    assert axes.get_xticklabels()[-1].get_text() == "6" and len(png_bytes(figure)) > 10_000
    empty = new_figure(6, 4)
    draw_fsc(empty, read_fsc(tmp_path / "none.csv"))
    assert not empty.axes and "No half maps" in empty.texts[0].get_text()
