"""Projections against sums over voxels, RELION's own pictures and the direct transform; maps there and back."""

from __future__ import annotations

import gzip
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import starfile
import torch

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix, random_rotations
from cryopares_core.volumes.maps import read_map, resample_map, write_map
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1])


def direct_projections(volume: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """The same projections from the definition, one sum over all voxels for each frequency, in float64."""
    n = len(volume)
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    voxels = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    ky, kx = np.meshgrid(np.fft.fftfreq(n, 1 / n), np.arange(n // 2 + 1), indexing="ij")
    inside = np.hypot(kx, ky) < n / 2
    result = np.zeros((len(poses), n, n // 2 + 1), complex)
    for image, pose in zip(result, poses, strict=True):
        points = np.stack([kx, ky], axis=-1)[inside] @ pose[:2]
        image[inside] = volume.ravel() @ np.exp(-2j * np.pi / n * (voxels @ points.T))
    return np.fft.irfft2(result * np.exp(-2j * np.pi * (n // 2) / n * (kx + ky)), s=(n, n))


@pytest.mark.parametrize("size", [24, 25])
def test_agrees_with_the_definition(size: int) -> None:
    volume, poses = phantom_map(size, 8.0, seed=3), random_rotations(6, torch.Generator().manual_seed(1))
    exact = direct_projections(volume, poses.numpy())
    found = Projector(torch.from_numpy(volume)).project(poses).numpy()
    assert found.shape == (6, size, size) and found.dtype == np.float32
    assert np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)
    assert min(map(correlation, found, exact)) > 0.9995


@pytest.mark.parametrize("size", [32, 33])
def test_identity_is_the_sum_over_z_and_the_centre_stays(size: int) -> None:
    volume = torch.from_numpy(phantom_map(size, 6.0, seed=1))
    assert correlation(Projector(volume).project(torch.eye(3)[None])[0], volume.sum(0)) > 0.9995
    point = torch.zeros(size, size, size)
    point[size // 2, size // 2, size // 2] = 1
    pictures = Projector(point).project(random_rotations(50, torch.Generator().manual_seed(0)))
    assert (pictures.flatten(1).argmax(1) == size // 2 * size + size // 2).all()


def test_content_up_to_the_edge_is_not_clipped() -> None:
    volume = torch.zeros(32, 32, 32)
    volume[14:18, 14:18, 0:3] = 1.0
    picture = Projector(volume).project(torch.eye(3)[None])[0]
    assert correlation(picture, volume.sum(0)) > 0.98
    assert picture[14:18, 0:3].mean().item() == pytest.approx(4.0, rel=0.1)


def test_agrees_with_torch_fourier_slice() -> None:
    """Also the golden test of that package, whose gridding correction was once reversed between releases."""
    package = pytest.importorskip("torch_fourier_slice")
    volume, poses = (
        torch.from_numpy(phantom_map(32, 6.0, seed=2)),
        random_rotations(8, torch.Generator().manual_seed(2)),
    )
    theirs = package.project_3d_to_2d(volume, poses.float().mT, pad_factor=3.0, fftfreq_max=0.499)
    ours = Projector(volume).project(poses)
    assert (theirs - ours).norm() < 0.03 * ours.norm()


@pytest.mark.parametrize("name", ["rln_proj_64_centered", "rln_proj_64_shifted", "rln_proj_65_centered", "rln_proj_65"])
def test_relion_pictures(shared: Path, name: str) -> None:
    folder = shared / "data" / "relion_gold_70S"
    volume, _ = read_map(folder / "clean70SRibosome_vol_65p.mrc", pixel_size_angs=5.0)
    pictures = mrcfile.read(folder / f"{name}.mrcs")
    n = pictures.shape[-1]
    table = starfile.read(folder / f"{name}.star", always_dict=True)["particles"]
    poses = euler_degs_to_matrix(torch.from_numpy(table[["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]].to_numpy(float)))
    origins = ["rlnOriginX", "rlnOriginY"] if "rlnOriginX" in table else ["rlnOriginXAngst", "rlnOriginYAngst"]
    # RELION's centre of an odd picture is one pixel beyond n // 2; pictures are moved by the origin's negative.
    moved_px = torch.from_numpy(-table[origins].to_numpy(float) + n % 2)
    slices = Projector(torch.from_numpy(resample_map(volume, n))).project_rfft(poses)
    fy, fx = torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)
    phase = fx * moved_px[:, 0, None, None] + fy * moved_px[:, 1, None, None]
    found = torch.fft.irfft2(slices * torch.exp(-2j * torch.pi * phase), s=(n, n)).numpy()
    assert min(map(correlation, found, pictures)) > 0.999


def test_map_there_and_back(tmp_path: Path) -> None:
    volume = phantom_map(20, 7.5, seed=4)
    write_map(tmp_path / "map.mrc", volume, 7.5)
    again, pixel_size = read_map(tmp_path / "map.mrc")
    assert np.array_equal(again, volume) and pixel_size == pytest.approx(7.5)
    assert [path.name for path in tmp_path.iterdir()] == ["map.mrc"]


def test_map_with_other_axis_order(tmp_path: Path) -> None:
    volume = phantom_map(16, 9.0, seed=4)
    write_map(tmp_path / "map.mrc", volume.transpose(2, 1, 0), 9.0)
    with mrcfile.open(tmp_path / "map.mrc", "r+") as handle:
        handle.header.mapc, handle.header.maps = 3, 1
    assert np.array_equal(read_map(tmp_path / "map.mrc")[0], volume)


@pytest.mark.parametrize(("size", "target"), [(32, 24), (32, 25), (33, 24), (24, 33)])
def test_resampling_keeps_density_and_centre(size: int, target: int) -> None:
    axis = np.arange(size) - size // 2
    volume = np.exp(-(axis**2 + axis[:, None] ** 2 + axis[:, None, None] ** 2) / 2 / (0.1 * size) ** 2)
    found = resample_map(volume, target)
    assert found.max() == pytest.approx(1.0, abs=0.01)
    assert np.unravel_index(found.argmax(), found.shape) == (target // 2,) * 3


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: np.zeros((4, 5, 6), np.float32), "must be a cube"),
        (lambda: np.full((8, 8, 8), np.nan, np.float32), "NaN"),
        (lambda: np.ones((8, 8, 8), np.float32), "shows nothing"),
    ],
)
def test_bad_maps_are_refused(tmp_path: Path, make, said: str) -> None:
    write_map(tmp_path / "map.mrc", make(), 2.0)
    with pytest.raises(UserError, match=said):
        read_map(tmp_path / "map.mrc")


def test_files_that_are_no_maps(tmp_path: Path) -> None:
    (tmp_path / "text.mrc").write_text("no map " * 500)
    for name, said in (("text.mrc", "not a readable"), ("none.mrc", "does not exist")):
        with pytest.raises(UserError, match=said):
            read_map(tmp_path / name)
    write_map(tmp_path / "map.mrc", phantom_map(12, 8.0), 0.0)
    with pytest.raises(UserError, match="--sampling_rate"):
        read_map(tmp_path / "map.mrc")
    assert read_map(tmp_path / "map.mrc", 8.0)[1] == 8.0


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: data[:200] + bytes(60) + data[260:]])
def test_damaged_packed_maps_are_told(tmp_path: Path, damage) -> None:
    write_map(tmp_path / "map.mrc", phantom_map(16, 8.0), 8.0)
    packed = gzip.compress((tmp_path / "map.mrc").read_bytes())
    (tmp_path / "map.mrc.gz").write_bytes(packed)
    assert read_map(tmp_path / "map.mrc.gz")[1] == pytest.approx(8.0)
    (tmp_path / "map.mrc.gz").write_bytes(damage(packed))
    with pytest.raises(UserError, match="is not a readable MRC file"):
        read_map(tmp_path / "map.mrc.gz")


@pytest.mark.parametrize("pixel", [1e-4, 5e3, np.inf, np.nan, -2.0])
def test_voxels_that_cannot_be_are_told(tmp_path: Path, pixel: float) -> None:
    write_map(tmp_path / "map.mrc", phantom_map(16, 8.0), 8.0)
    with mrcfile.open(tmp_path / "map.mrc", "r+") as handle:
        for axis in "xyz":
            handle.header.cella[axis] = np.float32(16 * pixel)
    with pytest.raises(UserError, match="pixel size cannot be"):
        read_map(tmp_path / "map.mrc")
    assert read_map(tmp_path / "map.mrc", 8.0)[1] == 8.0


def test_a_header_without_intervals_says_no_pixel_size(tmp_path: Path) -> None:
    write_map(tmp_path / "map.mrc", phantom_map(16, 8.0), 8.0)
    with mrcfile.open(tmp_path / "map.mrc", "r+") as handle:
        handle.header.mx = handle.header.my = handle.header.mz = 0
    with pytest.raises(UserError, match="no pixel size"):
        read_map(tmp_path / "map.mrc")
