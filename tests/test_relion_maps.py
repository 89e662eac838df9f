"""RELION as the oracle: half maps of the same particles and poses, their correlation behind the same mask, and B-factors."""

import shutil
import subprocess

import pytest
import starfile
import torch
from volumes import decaying_halves, likeness

from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.fsc import fsc_curves, shell_correlation
from cryopares_core.volumes.half_map_files import write_half_maps
from cryopares_core.volumes.half_maps import HalfMaps, reconstruct_half_maps
from cryopares_core.volumes.maps import read_map, write_map
from cryopares_core.volumes.masks import soft_sphere
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.sharpen import sharpen
from cryopares_core.volumes.simulate import simulate_particles

pytestmark = pytest.mark.skipif(shutil.which("relion_reconstruct") is None, reason="RELION is not installed")
SIZE, PIXEL = 48, 5.0


def post_process(folder, **options):
    """What `relion_postprocess` finds for half maps and a mask in a folder, as tables."""
    (folder / "post").mkdir()
    relion("postprocess", folder, i="half1_map.mrc", o="post/post", mask="mask.mrc", **options)
    return starfile.read(folder / "post" / "post.star", always_dict=True)


def relion(program, folder, **options):
    """Run a program of RELION in a folder; `True` stands for an option without a value."""
    words = [f"relion_{program}"]
    for name, value in options.items():
        words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="module")
def truth():
    return torch.from_numpy(phantom_map(SIZE, PIXEL)).float()


@pytest.fixture(scope="module")
def maps(tmp_path_factory, truth):
    """A folder with RELION's half maps and ours, of 1,000 noisy particles at their true poses."""
    folder = tmp_path_factory.mktemp("relion_maps")
    simulate_particles(truth.numpy(), PIXEL, folder, SimulationSettings(n_particles=1000, snr=0.2, seed=11))
    for half in (1, 2):
        relion("reconstruct", folder, i="particles.star", o=f"theirs_{half}.mrc", ctf=True, subset=half)
    return folder


@pytest.fixture(scope="module")
def ours(maps):
    found = reconstruct_half_maps(read_particles(maps / "particles.star")[0])
    write_half_maps(maps / "ours", found)
    return found


@pytest.fixture(scope="module")
def theirs(maps):
    return [torch.from_numpy(read_map(maps / f"theirs_{half}.mrc")[0]) for half in (1, 2)]


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_half_maps_are_as_good(ours, theirs, truth, share):
    """In each shell, of two shells' mean; and over all shells with signal better, if by little."""
    halves = likeness(ours.half1, ours.half2, share) - likeness(*theirs, share)
    whole = likeness(ours.half1 + ours.half2, truth, share) - likeness(theirs[0] + theirs[1], truth, share)
    shells = slice(3, int(SIZE * PIXEL / ours.resolution_angs) + 2)
    for difference in (halves, whole):
        assert difference[shells].unfold(0, 2, 1).mean(dim=1).min() > -0.003
        assert difference[shells].mean() > 0


def test_both_cut_their_corners(ours, theirs):
    """To one value beyond the sphere: without a mask the halves correlate as RELION's do."""
    corners = soft_sphere(SIZE, SIZE / 2, 3.0) == 0
    assert corners.sum() > 0.25 * SIZE**3
    for volume in (*theirs, ours.half1, ours.half2, ours.volume):
        inside = volume[soft_sphere(SIZE) > 0.5].std()
        assert volume[corners].std() < 0.05 * inside
    difference = ours.fsc.unmasked - shell_correlation(*theirs)
    assert difference[2 : SIZE // 2].abs().max() < 0.03


def test_post_processing_agrees(maps, ours):
    tables = post_process(maps / "ours")
    for name, curve in (("Unmasked", ours.fsc.unmasked), ("Masked", ours.fsc.masked)):
        found = torch.tensor(tables["fsc"][f"rlnFourierShellCorrelation{name}Maps"].to_numpy(), dtype=torch.float32)
        torch.testing.assert_close(found[1:], curve[1 : len(found)], atol=0.01, rtol=0)
    assert tables["general"]["rlnFinalResolution"] == pytest.approx(ours.resolution_angs, rel=0.06)


def test_b_factors_agree(tmp_path):
    size, pixel, b_factor = 64, 1.5, 120.0
    halves = decaying_halves(size, pixel, b_factor)
    mask = soft_sphere(size)
    half_maps = HalfMaps(*halves, halves[0], fsc_curves(*halves, mask, pixel), pixel, (1, 1), "C1", mask)
    for half, volume in enumerate(halves, start=1):
        write_map(tmp_path / f"half{half}_map.mrc", volume.numpy(), pixel)
    write_map(tmp_path / "mask.mrc", mask.numpy(), pixel)
    theirs = post_process(tmp_path, auto_bfac=True)["general"]["rlnBfactorUsedForSharpening"]
    assert sharpen(half_maps).b_factor_angs2 == pytest.approx(theirs, rel=0.1)
