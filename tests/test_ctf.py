"""The CTF against the formula written out in float64, and against figures of the pinned package."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryopares_core.particles.ctf import CtfTensors, ctf_2d

CASES = {
    "plain": (15000.0, 15000.0, 0.0, 300.0, 2.7, 0.1, 0.0),
    "astigmatic": (21000.0, 18000.0, 25.0, 300.0, 2.7, 0.07, 0.0),
    "u_below_v": (18000.0, 21000.0, -60.0, 200.0, 2.0, 0.1, 0.0),
    "phase_plate": (5000.0, 4800.0, 80.0, 200.0, 0.01, 0.1, 90.0),
    "overfocus": (-9000.0, -9500.0, 10.0, 120.0, 2.7, 0.2, 0.0),
}


def tensors(*cases: tuple[float, ...]) -> CtfTensors:
    return CtfTensors(*torch.tensor(cases).T)


def formula(case: tuple[float, ...], pixel_size: float, size: int) -> np.ndarray:
    u, v, angle, kilovolts, cs_mm, contrast, phase = case
    volts, cs = kilovolts * 1e3, cs_mm * 1e7
    wave = 12.2643247 / np.sqrt(volts * (1 + 0.978466e-6 * volts))
    ky, kx = np.meshgrid(np.fft.fftfreq(size, pixel_size), np.fft.rfftfreq(size, pixel_size), indexing="ij")
    k2 = kx**2 + ky**2
    defocus = (u + v) / 2 + (u - v) / 2 * np.cos(2 * (np.arctan2(ky, kx) - np.radians(angle)))
    chi = np.pi * wave * defocus * k2 - np.pi / 2 * cs * wave**3 * k2**2
    return np.sin(chi + np.arcsin(contrast) + np.radians(phase))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("pixel_size", "size"), [(3.0, 64), (1.3, 97)])
def test_formula(name: str, pixel_size: float, size: int) -> None:
    found = ctf_2d(tensors(CASES[name]), pixel_size, size)[0].numpy()
    assert np.abs(found - formula(CASES[name], pixel_size, size)).max() < 5e-3


def test_batch_is_its_members_and_origin_is_the_amplitude_contrast() -> None:
    batch = ctf_2d(tensors(*CASES.values()), 2.0, 32)
    assert batch.shape == (5, 32, 17) and batch.dtype == torch.float32
    for one, case in zip(batch, CASES.values(), strict=True):
        assert torch.allclose(one, ctf_2d(tensors(case), 2.0, 32)[0], atol=1e-3)
    assert batch[0, 0, 0].item() == pytest.approx(0.1, abs=1e-5)
    assert batch[1, 0, 0].item() == pytest.approx(0.07, abs=1e-5)


def test_swapped_axes_are_the_same_ctf() -> None:
    u, v, angle, *rest = CASES["astigmatic"]
    assert torch.allclose(
        ctf_2d(tensors((u, v, angle, *rest)), 2.0, 64), ctf_2d(tensors((v, u, angle + 90, *rest)), 2.0, 64), atol=1e-4
    )


def test_fingerprint_of_the_package() -> None:
    """Golden values: a new release of torch-ctf that changes a sign, an angle or a unit fails here."""
    ctf = ctf_2d(tensors(CASES["astigmatic"]), 4.0, 16)[0]
    found = [ctf[0, 1], ctf[1, 0], ctf[2, 3], ctf[-2, 3], ctf[8, 8]]
    assert np.allclose([value.item() for value in found], [0.37, 0.3428, -0.8594, -0.5792, -0.6176], atol=1e-3)
