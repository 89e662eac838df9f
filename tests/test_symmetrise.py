"""Symmetrised sums against adding every picture from all directions that look the same, and against exactly symmetric maps."""

import math

import pytest
import torch
from volumes import likeness, symmetric_phantom

from cryopares_core.geometry.rotations import random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.volumes.fourier_sums import FourierSums
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.slices import PictureSlices
from cryopares_core.volumes.symmetrise import steps, symmetrise

SIZE = 33


def sums_of(volume, poses, mates=None):
    """The sums of a map's projections; with `mates`, each added from all directions."""
    size = len(volume)
    sums, slices = FourierSums(size), PictureSlices(size)
    weights = torch.ones(len(poses), slices.frequencies.shape[1])
    values = slices.spectra(Projector(volume).project(poses)) * weights
    for mate in torch.eye(3)[None] if mates is None else mates.float():
        sums.add(slices.points(poses @ mate, sums.grid / size), values.view(-1), weights.reshape(-1))
    sums.join_mates()
    return sums


def map_of(sums):
    return sums.map(1e-3 * sums.shell_weights())


@pytest.mark.parametrize("name", ["C1", "C2", "C3", "C7", "D2", "D7", "T", "O", "I", "C24"])
def test_steps_make_each_element_once(name):
    group = point_group(name).matrices
    found = steps(group)
    products = torch.eye(3, dtype=torch.float64)[None]
    for elements in found:
        products = (products[:, None] @ elements).flatten(0, 1)
    distance = (products.flatten(1)[:, None] - group.flatten(1)).abs().amax(dim=-1)
    assert len(products) == len(group) and distance.amin(dim=0).max() < 1e-9
    for elements in found[1:]:
        torch.testing.assert_close(elements, elements.round(), atol=1e-9, rtol=0)
    assert sum(len(elements) - 1 for elements in found) <= max(24, len(group) // 2), "a chain of subgroups takes few passes"


@pytest.mark.parametrize("name", ["C3", "D2", "T", "O", "I"])
def test_as_if_added_from_all_directions(name):
    group = point_group(name).matrices
    volume = symmetric_phantom(SIZE, 6.0, group)
    poses = random_rotations(150, torch.Generator().manual_seed(1)).float()
    expected = map_of(sums_of(volume, poses, group))
    sums = sums_of(volume, poses)
    symmetrise(sums, group, workers=2)
    found = map_of(sums)
    assert likeness(found, expected)[: SIZE // 2 - 1].min() > 0.985
    assert likeness(found, volume)[: SIZE // 3 - 1].min() > 0.99
    assert scale(found, volume) == pytest.approx(1, abs=0.015)
    sums.blurred = {(False, False, False): 1.0}
    if len(steps(group)[0]) > 1:
        assert scale(map_of(sums), volume) < 0.985, "the second falloff is divided out"


def scale(found, expected):
    """Of one map over another, in shells 3 to 9, where slices lie dense and are not near the origin."""
    mask = soft_sphere(SIZE, 0.4 * SIZE, 3.0)
    a, b = (torch.fft.rfftn(volume * mask) for volume in (found, expected))
    k = torch.fft.fftfreq(SIZE, 1 / SIZE)
    shell = (k[:, None, None] ** 2 + k[:, None] ** 2 + k[: SIZE // 2 + 1] ** 2).sqrt()
    band = (shell >= 3) & (shell <= 9)
    return float((a * b.conj()).real[band].sum() / b.abs().square()[band].sum())


def test_one_preferred_view_is_seen_from_all_sides():
    """Particles that lie on one side: their mates fill the rest, each with the weight that it has."""
    group = point_group("O").matrices
    volume = symmetric_phantom(SIZE, 6.0, group)
    poses = random_rotations(2000, torch.Generator().manual_seed(2)).float()
    poses = poses[poses[:, 2, 2] > math.cos(math.radians(40))]
    sums = sums_of(volume, poses)
    alone = map_of(sums)
    symmetrise(sums, group)
    shells = slice(2, SIZE // 2 - 2)
    assert likeness(map_of(sums), volume)[shells].min() > 0.99 > likeness(alone, volume)[shells].min() + 0.02


MAPS = {
    "C5": "AChBP_3wip_C5_48_3A",
    "C4": "NA-Fab_1ncb_C4_64_3.5A",
    "D7": "GroEL_1mnf_D7_64_4A",
    "O": "apoferritin_O_48_3.5A",
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_on_relions_axes(shared, name):
    volume = torch.from_numpy(read_map(shared / "data" / "maps" / f"{MAPS[name]}.mrc")[0])
    group = point_group(name).matrices
    poses = random_rotations(200, torch.Generator().manual_seed(3)).float()
    sums = sums_of(volume, poses)
    symmetrise(sums, group, workers=2)
    found = map_of(sums)
    assert likeness(found, volume)[: len(volume) // 3].min() > 0.99
    views = random_rotations(10, torch.Generator().manual_seed(4)).float()
    projector = Projector(found * (volume.abs() > 0))
    for mate in group[1:].float():
        same, other = projector.project(views).flatten(1), projector.project(views @ mate).flatten(1)
        assert torch.nn.functional.cosine_similarity(same, other).min() > 0.995
