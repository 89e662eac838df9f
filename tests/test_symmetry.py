"""Particles that a point group makes look alike: same pictures, same densities, same poses, at no extra cost."""

import pytest
import torch

from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import pose_error_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.network import PoseNetwork
from cryopares_core.particles.preprocess import network_mask
from cryopares_core.volumes.maps import read_map, resample_map
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.reconstruct import SliceAccumulator

SIZE, PIXEL = 32, 8.0
MAPS = {
    "30S_1xnr_C1_64_4A": "C1",
    "NA-Fab_1ncb_C4_64_3.5A": "C4",
    "AChBP_3wip_C5_48_3A": "C5",
    "GroEL_1mnf_D7_64_4A": "D7",
    "apoferritin_O_48_3.5A": "O",
}


def network(name, lmax=8):
    torch.manual_seed(1)
    settings = Config().models.image2sphere
    settings.lmax, settings.so3components.so3outputgrid.hp_order = lmax, 2
    settings.so3components.i2sprojector.sphere_fdim, settings.so3components.s2conv.f_out = 32, 8
    settings.imageencoder.unet.width = 8
    return PoseNetwork(settings, name, SIZE).eval()


def symmetric_phantom(name):
    """The phantom averaged over a group: a map of its projections, each at all its mates."""
    group = point_group(name).matrices.float()
    poses = random_rotations(3000 // len(group) + 20, torch.Generator().manual_seed(2)).float()
    pictures = Projector(torch.from_numpy(phantom_map(SIZE, PIXEL)).float()).project(poses)
    sums = SliceAccumulator(SIZE)
    for element in group:
        for half in (0, 1):
            sums.add(pictures[half::2], torch.ones(len(poses[half::2]), SIZE, SIZE // 2 + 1), poses[half::2] @ element, half)
    return sums.finish()[0]


def look_alike(volume, name):
    """Pictures of a map at some poses and at mates of them, the density's values at both, and the poses found in both."""
    group, model = point_group(name).matrices, network(name)
    mask = network_mask(volume.shape[-1], PIXEL, None)
    poses = random_rotations(12, torch.Generator().manual_seed(3))
    mates = poses @ group[torch.randint(len(group), (12,), generator=torch.Generator().manual_seed(4))]
    projector = Projector(volume)
    pictures = [projector.project(some.float())[:, None] * mask for some in (poses, mates)]
    scale = pictures[0].std()
    with torch.no_grad():
        coefficients = [model(picture / scale) for picture in pictures]
        found = [model.density.poses(c, model.density.grid_values(c), 8).double() for c in coefficients]
        wigner = model.density.wigner
        values = [(wigner(some.float()).T * coefficients[0]).sum(dim=0) for some in (poses, mates)]
    return pictures, values, pose_error_degs(found[0], found[1], group), coefficients


def check(volume, name):
    pictures, values, errors, coefficients = look_alike(volume, name)
    assert (pictures[0] - pictures[1]).norm() < 0.1 * pictures[0].norm()
    torch.testing.assert_close(values[0], values[1], atol=1e-4, rtol=1e-4)
    assert (coefficients[0] - coefficients[1]).norm() < 0.1 * coefficients[0].norm()
    assert errors.median() < 6  # under I a quarter of the error of chance: its density is nearly flat without training


@pytest.mark.parametrize("name", ["C1", "C2", "C7", "D2", "D7", "T", "O", "I"])
def test_mates_under_any_group_get_the_same_answer(name):
    check(symmetric_phantom(name), name)


@pytest.mark.parametrize("stem, name", MAPS.items())
def test_mates_in_real_maps_get_the_same_answer(shared, stem, name):
    volume, _ = read_map(shared / "data" / "maps" / f"{stem}.mrc")
    check(torch.from_numpy(resample_map(volume, SIZE)), name)


def test_no_group_costs_memory_or_arithmetic():
    """The icosahedral network holds as much as the asymmetric one, but for one small matrix a degree."""

    def held(model):
        return sum(tensor.numel() for tensor in [*model.parameters(), *model.buffers()])

    plain, icosahedral = network("C1"), network("I")
    assert held(plain) == held(icosahedral)
    matrices = [buffer for name, buffer in icosahedral.density.named_buffers() if name.startswith("symmetry_")]
    assert sum(matrix.numel() for matrix in matrices) < 1000
