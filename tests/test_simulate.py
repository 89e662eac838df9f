"""Simulated sets: against pictures made by other code, read back through the STAR reader, and the command's refusals."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest
import torch

from cryopares_core.commands.simulate import main
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.volumes import simulate
from cryopares_core.volumes.maps import read_map, write_map, write_stack
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.project import Projector
from cryopares_core.volumes.simulate import simulate_particles, simulate_pictures

APIX = 6.0


def clean_pictures(table: ParticleTable, map_path: Path) -> np.ndarray:
    """What the STAR file says the pictures show, without noise."""
    volume, pixel_size = read_map(map_path)
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    shifts = torch.from_numpy(table.shifts_angs)
    return simulate_pictures(Projector(torch.from_numpy(volume)), poses, ctf_tensors(table.ctf), shifts, pixel_size).numpy()


def correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in zip(a, b, strict=True)])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    settings = SimulationSettings(n_particles=500, snr=0.5, seed=3, stack_size=220)
    simulate_particles(phantom_map(40, APIX), APIX, folder, settings)
    return folder


def test_agrees_with_pictures_of_other_code(shared: Path) -> None:
    folder = shared / "data" / "tiny_32"
    table, _ = read_particles([folder / "particles.star"], folder)
    found = clean_pictures(table, folder / "reference.mrc")
    theirs = mrcfile.read(folder / "clean_first200.mrcs")
    assert correlations(found, theirs).min() > 0.999
    assert np.linalg.norm(found - theirs) < 0.02 * np.linalg.norm(theirs)


def test_pictures_show_what_the_star_file_says_at_the_wanted_snr(simulated: Path) -> None:
    table, remarks = read_particles([simulated / "particles.star"], simulated)
    assert len(table) == 500 and not remarks and len(table.stack_paths) == 3
    clean, noisy = clean_pictures(table, simulated / "reference.mrc"), read_images(table, np.arange(500))
    disc = circular_mask(40, 0.42 * 40).numpy() > 0
    level = json.loads((simulated / "simulation.json").read_text())["noise_level"]
    assert clean[:, disc].var(axis=1).mean() / level**2 == pytest.approx(0.5, rel=0.02)
    # Normalised pictures are a scaled sum of picture and noise: the scale follows from the picture itself.
    scale = np.array([np.polyfit(c.ravel(), n.ravel(), 1) for c, n in zip(clean, noisy, strict=True)])
    noise = noisy / scale[:, 0, None, None] - clean
    assert noise[:, disc].std() == pytest.approx(level, rel=0.03)
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.01
    outside = circular_mask(40, 0.47 * 40).numpy() == 0
    assert abs(noisy[:, outside].mean()) < 1e-5 and noisy[:, outside].std(axis=1) == pytest.approx(1.0, abs=1e-4)


def test_what_is_drawn(simulated: Path) -> None:
    table, _ = read_particles([simulated / "particles.star"], simulated)
    assert np.bincount(table.half_set).tolist() == [0, 250, 250]
    assert set(table.ctf.voltage_kv) == {200.0, 300.0}
    assert table.ctf.defocus_v_angs.min() > 7000 and table.ctf.defocus_u_angs.max() < 26000
    assert (table.ctf.defocus_u_angs >= table.ctf.defocus_v_angs).all()
    assert np.abs(table.shifts_angs).max() <= 5 * APIX and table.shifts_angs.std() == pytest.approx(2 * APIX, rel=0.1)
    directions = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))[:, 2]
    assert directions.mean(0).norm() < 0.1 and (directions.square().mean(0) - 1 / 3).abs().max() < 0.05


def test_the_seed_fixes_all_and_float16_is_close(simulated: Path, tmp_path: Path) -> None:
    for name, seed, dtype in (("same", 3, "float32"), ("half", 3, "float16"), ("other", 4, "float32")):
        settings = SimulationSettings(n_particles=500, snr=0.5, seed=seed, stack_size=220, dtype=dtype)
        simulate_particles(phantom_map(40, APIX), APIX, tmp_path / name, settings)
    stack = "Particles/particles_002.mrcs"
    first = mrcfile.read(simulated / stack)
    assert np.array_equal(first, mrcfile.read(tmp_path / "same" / stack))
    half = mrcfile.read(tmp_path / "half" / stack)
    assert half.dtype == np.float16 and np.allclose(first, half, atol=5e-3)
    assert not np.allclose(first, mrcfile.read(tmp_path / "other" / stack), atol=0.1)


def test_preparation_of_a_table(simulated: Path) -> None:
    table, _ = read_particles([simulated / "particles.star"], simulated)
    steps: list[tuple[int, int]] = []
    chosen = table.subset(np.random.default_rng(0).permutation(500)[:90])
    settings = PreprocessSettings(sampling_rate_angs=9.0, image_size_px=24, ctf_mode="concat_phase_flip")
    store = prepare_particles(chosen, settings, batch_size=40, progress=lambda *done: steps.append(done))
    assert store.shape == (90, 2, 24, 24) and store.dtype == torch.float16 and steps == [(40, 90), (80, 90), (90, 90)]
    one = prepare_particles(chosen.subset(np.array([17])), settings)
    assert torch.allclose(store[17], one[0], atol=2e-3)


def test_prepared_pictures_are_the_projections_with_positive_contrast(tmp_path: Path) -> None:
    """STAR file to store and back to the map: shifts undone, phases flipped, the pictures in the table's order."""
    volume = phantom_map(40, APIX)
    simulate_particles(volume, APIX, tmp_path, SimulationSettings(n_particles=40, snr=1e6, stack_size=15))
    table, _ = read_particles([tmp_path / "particles.star"], tmp_path)
    table = table.subset(np.random.default_rng(1).permutation(40))
    store = prepare_particles(table, PreprocessSettings(), batch_size=16)[:, 0].float().numpy()
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))
    spectra = Projector(torch.from_numpy(volume)).project_rfft(poses)
    contrast = ctf_2d(ctf_tensors(table.ctf), APIX, 40).abs()
    assert correlations(store, torch.fft.irfft2(spectra * contrast, s=(40, 40)).numpy()).min() > 0.999


def test_bad_pictures_are_named_all_at_once(simulated: Path, tmp_path: Path) -> None:
    table, _ = read_particles([simulated / "particles.star"], simulated)
    pictures = read_images(table, np.arange(10))
    pictures[3, 5, 5], pictures[7] = np.nan, 2.5
    with warnings.catch_warnings(action="ignore"):
        write_stack(tmp_path / "bad.mrcs", pictures, APIX)
    bad = table.subset(np.arange(10))
    bad = ParticleTable(**{**vars(bad), "stack_paths": [str(tmp_path / "bad.mrcs")]})
    with pytest.raises(UserError) as caught:
        prepare_particles(bad, PreprocessSettings())
    assert len(caught.value.problems) == 2
    assert "000004@" in caught.value.problems[0] and "000008@" in caught.value.problems[1]
    assert "2.5" in caught.value.problems[1] and "bad.mrcs" in caught.value.problems[1]


def test_memory_is_checked_first(simulated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, _ = read_particles([simulated / "particles.star"], simulated)
    monkeypatch.setattr("cryopares_core.particles.prepare.free_memory_bytes", lambda: 1e6)
    with pytest.raises(UserError, match=r"\d+ MB of memory, and 1 MB are free"):
        prepare_particles(table, PreprocessSettings())


def test_command_from_a_map(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_map(tmp_path / "map.mrc", phantom_map(40, APIX), 0.0)
    options = [f"--map_fname={tmp_path}/map.mrc", f"--out_dir={tmp_path}/out", "--n_particles=30", "--image_size_px=30"]
    assert main(options) == 2
    assert "--sampling_rate" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main([*options, "--sampling_rate=6"]) == 0
    table, _ = read_particles([tmp_path / "out" / "particles.star"], None)
    assert table.pixel_size_angs[0] == 8.0 and table.image_size_px[0] == 30
    assert main([*options, "--sampling_rate=6"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([*options, "--sampling_rate=6", "--overwrite", "--n_particles=20", "--stack_size=15"]) == 0
    assert len(read_particles([tmp_path / "out" / "particles.star"], None)[0]) == 20


def test_command_refuses_all_wrong_options_at_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--out_dir", f"{tmp_path}/out", "--snr=0", "--defocus_min=30000", "--dtype=int8"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("--snr", "--defocus_min", "--dtype", "--phantom"))
    assert main(["--out_dir", f"{tmp_path}/out", "--phantom", "--symmetry=Q5"]) == 2
    assert not (tmp_path / "out").exists()


def test_full_disk_and_failures_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, settings = phantom_map(16, 12.0), SimulationSettings(n_particles=30, stack_size=10)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="under 1 MB are free"):
        patch.setattr(simulate.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
        simulate_particles(volume, 12.0, tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()

    def stop(done: int, _: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_particles(volume, 12.0, tmp_path / "out", settings, progress=stop)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_foreign_star_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "particles.star").write_text("mine")
    with pytest.raises(UserError, match="not made by a simulation"):
        simulate_particles(phantom_map(16, 12.0), 12.0, tmp_path, SimulationSettings(), overwrite=True)
    assert (tmp_path / "particles.star").read_text() == "mine"
