"""Preparation of pictures: sampling, centre, CTF modes, background; and the store made of a table."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.particles.ctf import CtfTensors, ctf_2d
from cryopares_core.particles.preprocess import Preprocessor, PreprocessSettings, circular_mask, normalise_background
from cryopares_core.particles.table import AS_TAKEN, FLIPPED, MULTIPLIED
from cryopares_core.volumes.expected import ExpectedPictures
from cryopares_core.volumes.maps import resample_map
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.simulate import simulate_pictures


def ctf_of(count: int, defocus_angs: float = 15000.0) -> CtfTensors:
    values = (defocus_angs, defocus_angs - 500, 30.0, 300.0, 2.7, 0.1, 0.0)
    return CtfTensors(*(torch.full((count,), value) for value in values))


def prepare(images: torch.Tensor, pixel_size: float = 4.0, shifts: torch.Tensor | None = None, **settings):
    shifts = torch.zeros(len(images), 2) if shifts is None else shifts
    settings = {"ctf_mode": "none"} | settings
    return Preprocessor(PreprocessSettings(**settings))(images, ctf_of(len(images)), pixel_size, shifts)


def noise(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, size, size, generator=torch.Generator().manual_seed(size))


def similarity(a: torch.Tensor, b: torch.Tensor) -> float:
    """The smallest correlation between pictures of two batches."""
    a, b = (x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(1, keepdim=True) for x in (a, b))
    return float(torch.cosine_similarity(a, b).min())


@pytest.mark.parametrize("size", [32, 33])
def test_nothing_to_do_leaves_the_picture_but_for_its_background(size: int) -> None:
    images = 1000.0 + 3.0 * noise(3, size)
    found = prepare(images)
    assert found.shape == (3, 1, size, size) and found.dtype == torch.float32
    outside = circular_mask(size, size / 2) == 0
    assert torch.allclose(found[:, 0], normalise_background(images, outside.float()), atol=1e-3)
    assert found[:, 0][:, outside].mean().abs() < 1e-5
    assert found[:, 0][:, outside].std(1, correction=0).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


@pytest.mark.parametrize("size", [40, 41])
@pytest.mark.parametrize(("target", "target_size"), [(4.0, 40), (6.1, 24), (7.3, 25), (3.3, 64), (4.0, 51), (4.0, 30)])
def test_a_centred_gaussian_stays_centred_and_keeps_its_width(size: int, target: float, target_size: int) -> None:
    sigma_angs, axis = 14.0, (torch.arange(size) - size // 2) * 4.0
    image = torch.exp(-(axis[:, None] ** 2 + axis**2) / 2 / sigma_angs**2)[None]
    found = prepare(image, sampling_rate_angs=target, image_size_px=target_size)[0, 0].double()
    place = (torch.arange(target_size) - target_size // 2) * target
    weights = (found / found.sum()).clamp(min=0)
    assert abs((weights.sum(0) * place).sum()) < 0.01 and abs((weights.sum(1) * place).sum()) < 0.01
    assert (weights.sum(0) * place**2).sum().sqrt().item() == pytest.approx(sigma_angs, rel=0.01)


@pytest.mark.parametrize(("box", "target_box"), [(48, 36), (49, 36), (48, 31)])
def test_shifted_particles_become_projections_of_the_resampled_map(box: int, target_box: int) -> None:
    volume, poses = phantom_map(box, 5.0), random_rotations(8, torch.Generator().manual_seed(5))
    target = 5.0 * box / target_box
    shifts_angs = torch.linspace(-23.0, 23.0, 16).reshape(8, 2)
    spectra = Projector(torch.from_numpy(volume)).project_rfft(poses)
    fy, fx = torch.fft.fftfreq(box)[:, None], torch.fft.rfftfreq(box)
    phase = shifts_angs[:, 0, None, None] * fx + shifts_angs[:, 1, None, None] * fy
    observed = torch.fft.irfft2(spectra * torch.exp(2j * torch.pi * phase / 5.0), s=(box, box))
    settings = {"sampling_rate_angs": target, "image_size_px": target_box}
    found = prepare(observed, 5.0, shifts_angs, **settings)[:, 0]
    wanted = Projector(torch.from_numpy(resample_map(volume, target_box))).project(poses)
    assert similarity(found, wanted) > 0.999
    assert similarity(prepare(observed, 5.0, -shifts_angs, **settings)[:, 0], wanted) < 0.5


def test_phase_flip_makes_every_contrast_positive() -> None:
    size, images = 64, noise(4, 64)
    transfer = ctf_2d(ctf_of(4), 4.0, size)
    taken = torch.fft.irfft2(torch.fft.rfft2(images) * transfer, s=(size, size))
    wanted = torch.fft.irfft2(torch.fft.rfft2(images) * transfer.abs(), s=(size, size))
    squared = torch.fft.irfft2(torch.fft.rfft2(images) * transfer**2, s=(size, size))
    assert similarity(prepare(taken, ctf_mode="phase_flip"), wanted[:, None]) > 0.999
    assert similarity(prepare(taken, ctf_mode="ctf_multiply"), squared[:, None]) > 0.999
    both = prepare(taken, ctf_mode="concat_phase_flip")
    assert both.shape == (4, 2, size, size)
    assert torch.equal(both[:, :1], prepare(taken)) and torch.equal(both[:, 1:], prepare(taken, ctf_mode="phase_flip"))


def as_they_came(pictures: torch.Tensor, ctf: CtfTensors) -> torch.Tensor:
    """Pictures as taken, after somebody has corrected them as `ctf` says: of three kinds in one batch."""
    planes = ctf_2d(ctf, 2.0, pictures.shape[-1])
    factor = ctf.where(torch.ones_like(planes), torch.where(planes < 0, -1.0, 1.0), planes)
    return torch.fft.irfft2(torch.fft.rfft2(pictures) * factor, s=pictures.shape[-2:])


@pytest.mark.parametrize("target", [2.0, 3.1])
@pytest.mark.parametrize("mode", ["phase_flip", "concat_phase_flip", "ctf_multiply"])
def test_nothing_is_corrected_twice(mode: str, target: float) -> None:
    ctf = replace(ctf_of(6), corrected=torch.tensor([AS_TAKEN, FLIPPED, MULTIPLIED] * 2))
    pictures, prepare = noise(6, 63), Preprocessor(PreprocessSettings(target, 40, mode, 30.0))
    as_taken = prepare(pictures, replace(ctf, corrected=None), 2.0, torch.zeros(6, 2))
    found = prepare(as_they_came(pictures, ctf), ctf, 2.0, torch.zeros(6, 2))
    same = slice(None) if mode == "ctf_multiply" else ctf.corrected != MULTIPLIED
    torch.testing.assert_close(found[same], as_taken[same], atol=2e-3, rtol=0)
    assert similarity(found[:, -1], as_taken[:, -1]) > 0.8, "phases are the same, whatever was multiplied"


@pytest.mark.parametrize("mode", ["none", "phase_flip", "concat_phase_flip", "ctf_multiply"])
def test_what_is_left_of_the_ctf_is_known_however_pictures_came(mode: str) -> None:
    volume, poses = torch.from_numpy(phantom_map(48, 3.0)), random_rotations(6, torch.Generator().manual_seed(1)).float()
    ctf = replace(ctf_of(6, 40000.0), corrected=torch.tensor([AS_TAKEN, FLIPPED, MULTIPLIED] * 2))
    settings = PreprocessSettings(3.0, 48, mode)
    raw, centred = simulate_pictures(Projector(volume), poses, ctf, torch.zeros(6, 2), 3.0), torch.zeros(6, 2)
    found = Preprocessor(settings)(raw, ctf, 3.0, centred)
    expected, disc = ExpectedPictures(volume, settings, ctf)(torch.arange(6), poses), circular_mask(48, 20) > 0
    for channel in range(settings.channels):
        assert similarity(found[:, channel][:, disc], expected[:, channel][:, disc]) > 0.99


def test_ctf_is_that_of_the_original_sampling() -> None:
    """Correcting and then reducing is the same as correcting only what is left after the reduction."""
    images = noise(3, 60)
    full = prepare(images, ctf_mode="phase_flip")[:, 0]
    assert (
        similarity(
            prepare(images, ctf_mode="phase_flip", sampling_rate_angs=6.7),
            prepare(full, sampling_rate_angs=6.7),
        )
        > 0.9999
    )


def test_what_lies_beyond_the_picture_is_background() -> None:
    found = prepare(5.0 + noise(2, 20), image_size_px=32)[:, 0]
    assert (found[:, :6] == 0).all() and (found[:, :, 26:] == 0).all()
    assert (found[:, 6:26, 6:26] != 0).all()


def test_the_background_lies_outside_the_mask() -> None:
    images = noise(2, 48) + 50 * circular_mask(48, 15, 2)
    found = prepare(images, mask_radius_angs=18 * 4.0)[:, 0]
    outside = circular_mask(48, 18) == 0
    assert found[:, outside].mean().abs() < 1e-4 and found[:, 24, 24].mean() > 40


def test_default_sizes() -> None:
    assert PreprocessSettings().target_size(65, 1.7) == 65
    assert PreprocessSettings(sampling_rate_angs=2.0).target_size(256, 1.0) == 128
    assert PreprocessSettings(sampling_rate_angs=3.0).target_size(100, 1.0) == 32
    with pytest.raises(ValueError, match="phase_flip"):
        PreprocessSettings(ctf_mode="flip")


def test_soft_mask() -> None:
    mask = circular_mask(33, 8, 4)
    row = mask[16, 16:]
    assert (row[:9] == 1).all() and (row[12:] == 0).all() and (np.diff(row[8:13]) < 0).all()
    assert torch.equal(mask, mask.T) and row[10].item() == pytest.approx(0.5)
