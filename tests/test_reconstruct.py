"""Maps from pictures with known poses: against the map that the pictures were made of, and against a plain sum."""

import itertools

import numpy as np
import pytest
import torch

from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.particles.ctf import CtfTensors, ctf_2d
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.reconstruct import SliceAccumulator

SIZE, PIXEL = 32, 6.0


@pytest.fixture(scope="module")
def truth():
    return torch.from_numpy(phantom_map(SIZE, PIXEL)).float()


def reconstruct(pictures, transfer, poses):
    sums = SliceAccumulator(SIZE)
    for half in (0, 1):
        sums.add(pictures[half::2], transfer[half::2], poses[half::2], half)
    return sums.finish()


def agreement(found, expected):
    """Correlation and scale inside the ball that every view shows."""
    axis = torch.arange(SIZE) - SIZE // 2
    inside = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) < (SIZE / 2 - 2) ** 2
    a, b = found[inside].double(), expected[inside].double()
    return float(np.corrcoef(a, b)[0, 1]), float((a * b).sum() / (b * b).sum())


def test_projections_give_their_map_back(truth):
    poses = random_rotations(3000, torch.Generator().manual_seed(1)).float()
    volume, correlation = reconstruct(Projector(truth).project(poses), torch.ones(3000, SIZE, SIZE // 2 + 1), poses)
    similarity, scale = agreement(volume, truth)
    assert similarity > 0.99
    assert scale == pytest.approx(1, abs=0.03)
    assert correlation[: SIZE // 2].min() > 0.95


def test_noise_and_ctfs_are_undone(truth):
    """The sum is weighted by the CTF, its zeros are filled by other pictures, and shells of noise alone are left out."""
    generator = torch.Generator().manual_seed(2)
    poses = random_rotations(4000, generator).float()
    defocus = 8000 + 17000 * torch.rand(4000, generator=generator)
    same = torch.ones(4000)
    ctf = CtfTensors(defocus, defocus, 0 * same, 300 * same, 2.7 * same, 0.1 * same, 0 * same)
    transfer = ctf_2d(ctf, PIXEL, SIZE)
    projector = Projector(truth)
    clean = torch.fft.irfft2(projector.project_rfft(poses) * transfer, s=(SIZE, SIZE))
    noisy = clean + 3 * clean.std() * torch.randn(clean.shape, generator=generator)
    volume, _ = reconstruct(noisy, transfer, poses)
    assert agreement(volume, truth)[0] > 0.95
    mirrored = agreement(volume.flip(0), truth)[0]
    assert mirrored < agreement(volume, truth)[0] - 0.02, "the hand is lost"


def test_noise_alone_makes_no_map():
    generator = torch.Generator().manual_seed(3)
    poses = random_rotations(2000, generator).float()
    _, correlation = reconstruct(torch.randn(2000, SIZE, SIZE, generator=generator), torch.ones(2000, SIZE, SIZE // 2 + 1), poses)
    assert correlation[3:].max() < 0.3
    assert correlation[-1] == 0


def test_slices_are_added_by_trilinear_interpolation():
    """The sums of one picture against a loop over its frequencies and the eight corners around each."""
    size = 6
    pose = random_rotations(1, torch.Generator().manual_seed(4)).float()
    picture, transfer = torch.randn(1, size, size), torch.rand(1, size, size // 2 + 1)
    sums = SliceAccumulator(size)
    sums.add(picture, transfer, pose, 0)
    grid = 2 * size
    expected = np.zeros((grid + 2, grid + 2, grid // 2 + 2, 3))
    spectrum = np.fft.rfft2(np.fft.ifftshift(picture[0].numpy()))
    for row, column in itertools.product(range(size), range(size // 2 + 1)):
        ky = row if row < size / 2 else row - size
        if ky**2 + column**2 >= (size / 2) ** 2 or (column == 0 and ky < 0):  # its mate is there
            continue
        place = 2 * (pose[0].numpy().T @ np.array([column, ky, 0.0]))
        value, weight = spectrum[row, column] * transfer[0, row, column].item(), transfer[0, row, column].item() ** 2
        if place[0] < 0:
            place, value = -place, np.conj(value)
        place = place + np.array([0, size, size])
        low = np.floor(place).astype(int)
        for corner in itertools.product((0, 1), repeat=3):
            share = np.prod([f if c else 1 - f for f, c in zip(place - low, corner, strict=True)])
            x, y, z = low + corner
            expected[z, y, x] += share * np.array([value.real, value.imag, weight])
    found = sums.halves[0]
    np.testing.assert_allclose(found.weights.view(found.shape).numpy(), expected[..., 2], atol=2e-4)
    np.testing.assert_allclose(found.values.view(found.shape).numpy(), expected[..., 0] + 1j * expected[..., 1], atol=2e-4)
