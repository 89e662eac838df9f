"""The density of weights: against a plain sum over neighbours, and what it is for."""

import itertools

import numpy as np
import torch
from volumes import likeness

from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.volumes.density import sampling_density, smoothed
from cryopares_core.volumes.fourier_sums import FourierSums
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.slices import PictureSlices

REACH = 4


def half_grid(seed=0):
    """Weights on places -4 ... 4, in x 0 ... 4, the same at places that are mates."""
    whole = torch.rand(2 * REACH + 1, 2 * REACH + 1, 2 * REACH + 1, generator=torch.Generator().manual_seed(seed))
    return ((whole + whole.flip((0, 1, 2))) / 2)[..., REACH:]


def test_smoothing_agrees_with_a_sum_over_neighbours():
    half = half_grid()
    whole = np.concatenate((half.numpy()[..., :0:-1][::-1, ::-1], half.numpy()), axis=2)
    padded, expected = np.pad(whole, 1), np.zeros_like(whole)
    for z, y, x in itertools.product((0, 1, 2), repeat=3):
        share = np.prod([(0.25, 0.5, 0.25)[step] for step in (z, y, x)])
        expected += share * padded[z : z + len(whole), y : y + len(whole), x : x + len(whole)]
    np.testing.assert_allclose(smoothed(half, workers=2).numpy(), expected[..., REACH:], atol=1e-6)


def test_even_weights_are_their_own_density():
    """Away from the rim; and one factor for all weights is one for the density."""
    inner = (slice(2, -2), slice(2, -2), slice(0, -2))
    torch.testing.assert_close(sampling_density(torch.full((9, 9, 5), 3.0))[inner], torch.full((5, 5, 3), 3.0))
    torch.testing.assert_close(sampling_density(7 * half_grid()), 7 * sampling_density(half_grid()))


def test_nothing_is_where_no_slice_was():
    weights = torch.zeros(21, 21, 11)
    weights[10, 10, 0] = 1.0
    density = sampling_density(weights)
    assert density[10, 10, 0] > 0 and density[:, :, 4:].abs().max() == 0 and bool(density.isfinite().all())


def test_noisy_slices_of_unequal_weight_make_a_better_map():
    """Half of the slices are ten times as noisy and count a hundredth: where they stand alone they weigh less in the mean."""
    size, count = 40, 600
    generator = torch.Generator().manual_seed(5)
    truth, poses = torch.from_numpy(phantom_map(size, 5.0)).float(), random_rotations(count, generator).float()
    clean = Projector(truth).project(poses)
    sigma = 0.3 * clean.std() * torch.where(torch.arange(count) % 2 == 0, 1.0, 10.0)[:, None, None]
    pictures = clean + sigma * torch.randn(clean.shape, generator=generator)
    sums, slices = FourierSums(size), PictureSlices(size)
    weights = (1 / sigma[:, :, 0] ** 2).expand(-1, slices.frequencies.shape[1])
    values = slices.spectra(pictures) * weights
    sums.add(slices.points(poses, sums.grid / size), values.view(-1), weights.reshape(-1))
    sums.join_mates()
    damping = 0.01 * sums.shell_weights()
    with_density = likeness(sums.map(damping), truth, 0.3)
    sums.density = lambda workers: sums.weights
    by_place = likeness(sums.map(damping), truth, 0.3)
    assert (with_density - by_place)[14:20].mean() > 0.01 and (with_density - by_place)[3:].min() > -0.005
