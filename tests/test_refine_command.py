"""`cryopares_refine`: what it writes, that it goes on after it was stopped, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryopares_core.commands.refine import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.refiner import Refiner
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

BOX, APIX, COUNT = 32, 8.0, 120
POSES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Particles, `wrong.star` with poses that are off by about 4 degrees and 5 Å, and the map."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(BOX, APIX), APIX, folder, SimulationSettings(n_particles=COUNT, snr=2, seed=6, stack_size=50))
    table, rng = read(folder / "particles.star"), np.random.default_rng(0)
    eulers = table.eulers_deg + rng.normal(0, [2.5, 2.5, 2.5], (COUNT, 3))
    wrong = table.with_poses(eulers.round(3), (table.shifts_angs + rng.normal(0, 5, (COUNT, 2))).round(3))
    wrong.write_star(folder / "wrong.star", {"rlnHelicalTubeID": np.arange(COUNT), "someonesColumn": ["text"] * COUNT})
    return folder


def read(path: Path, folder: Path | None = None) -> ParticleTable:
    return read_particles([path], folder, split_halfs=False)[0]


def refine(folder: Path, out: Path, *more: str, star: str = "wrong.star") -> int:
    words = ["--particles_star_fname", str(folder / star), "--particles_dir", str(folder), "--out_star", str(out)]
    maps = [] if "--reference_fname" in more else ["--reference_fname", str(folder / "reference.mrc")]
    return main([*words, *maps, "--resolution_angs", "18", "--n_threads", "1", "--accelerator", "cpu", *more])


@contextmanager
def stopped_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, who refines is stopped as by Ctrl-C once so many parts are done."""
    calls, usual = [], Refiner.__call__

    def stopping(self: Refiner, *given):
        calls.append(1)
        if len(calls) > parts:
            raise KeyboardInterrupt
        return usual(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Refiner, "__call__", stopping)
        yield


def errors(out: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Degrees and Å from the truth."""
    found, true = read(out, folder), read(folder / "particles.star")
    poses = [euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)) for table in (found, true)]
    return pose_error_degs(*poses).numpy(), np.linalg.norm(found.shifts_angs - true.shifts_angs, axis=1)


def test_poses_get_right_and_all_else_stays(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "refined.star"
    assert refine(folder, out, "--symmetry", "C1") == 0
    before, after = (errors(path, folder) for path in (folder / "wrong.star", out))
    assert np.median(after[0]) < 0.35 * np.median(before[0]) and np.median(after[1]) < 0.35 * np.median(before[1])
    old, new = starfile.read(folder / "wrong.star"), starfile.read(out)
    kept = [name for name in old["particles"] if name not in POSES]
    pd.testing.assert_frame_equal(old["particles"][kept], new["particles"][kept])
    pd.testing.assert_frame_equal(old["optics"], new["optics"])
    moves = pd.read_csv(tmp_path / "refined.moves.csv")
    assert moves["rlnImageName"].tolist() == new["particles"]["rlnImageName"].tolist()
    assert new["particles"]["rlnParticleFigureOfMerit"].to_numpy() == pytest.approx(moves["score"].to_numpy(), abs=1e-5)
    assert moves["score"].between(0.3, 1).all() and not moves["kept_start"].any() and not moves["broken"].any()
    summary = json.loads((tmp_path / "refined.moves.json").read_text())
    assert summary["particles"] == COUNT and summary["median_moved_degs"] == pytest.approx(moves["moved_degs"].median(), abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["refined.moves.csv", "refined.moves.json", "refined.star"]
    assert "Refined 120 of 120 particles" in capsys.readouterr().out
    assert refine(folder, out, "--symmetry", "C1") == 0
    assert "very command" in capsys.readouterr().out
    assert refine(folder, out, "--resolution_angs", "20") == 2
    assert "exists already" in capsys.readouterr().err
    assert refine(folder, out, "--resolution_angs", "20", "--overwrite") == 0
    assert json.loads((tmp_path / "refined.moves.json").read_text())["asked"]["resolution_angs"] == 20


def test_a_confidence_that_is_there_stays(folder: Path, tmp_path: Path) -> None:
    read(folder / "wrong.star").write_star(tmp_path / "sure.star", {"rlnParticleFigureOfMerit": np.linspace(0, 1, COUNT).round(4)})
    words = ["--particles_star_fname", str(tmp_path / "sure.star"), "--particles_dir", str(folder)]
    words += ["--reference_fname", str(folder / "reference.mrc"), "--out_star", str(tmp_path / "refined.star")]
    assert main([*words, "--resolution_angs", "18", "--n_threads", "1"]) == 0
    found = starfile.read(tmp_path / "refined.star")["particles"]["rlnParticleFigureOfMerit"]
    assert found.to_numpy() == pytest.approx(np.linspace(0, 1, COUNT), abs=1e-4)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stop_after: int
) -> None:
    whole, out = tmp_path / "whole.star", tmp_path / "stopped.star"
    assert refine(folder, whole, "--chunk_size", "25") == 0
    with stopped_after(stop_after, monkeypatch):
        assert refine(folder, out, "--chunk_size", "25") == 130
    assert not out.exists() and len(list((tmp_path / "stopped.parts").glob("0*.npz"))) == stop_after
    capsys.readouterr()
    assert refine(folder, out, "--chunk_size", "25") == 0
    assert f"goes on after {25 * stop_after} of 120" in capsys.readouterr().out
    assert out.read_text() == whole.read_text() and not (tmp_path / "stopped.parts").exists()


def test_what_another_command_has_begun_is_not_mixed_in(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole.star", tmp_path / "out.star"
    assert refine(folder, whole, "--chunk_size", "50") == 0
    with stopped_after(1, monkeypatch):
        assert refine(folder, out, "--chunk_size", "50", "--resolution_angs", "40") == 130
    assert refine(folder, out, "--chunk_size", "50") == 0
    assert out.read_text() == whole.read_text()


def test_half_maps_of_another_pixel_size(folder: Path, tmp_path: Path) -> None:
    star = starfile.read(folder / "wrong.star")
    halves = star["particles"]["rlnRandomSubset"].to_numpy()
    for half, seed in ((1, 0), (2, 5)):
        write_map(tmp_path / f"half{half}.mrc", phantom_map(40, APIX * BOX / 40, seed=seed), APIX * BOX / 40)
    maps = ["--reference_fname", str(tmp_path / "half1.mrc"), "--reference_half2_fname", str(tmp_path / "half2.mrc")]
    assert refine(folder, tmp_path / "out.star", *maps) == 0
    degs = errors(tmp_path / "out.star", folder)[0]
    assert np.median(degs[halves == 1]) < 1.2 < np.median(degs[halves == 2])


def test_pictures_that_show_nothing_are_told_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulate_particles(phantom_map(BOX, APIX), APIX, tmp_path, SimulationSettings(n_particles=20, snr=5, seed=1))
    with mrcfile.open(tmp_path / "Particles" / "particles_001.mrcs", "r+") as handle:
        handle.data[3], handle.data[8, 2, 2] = 0.0, np.nan
    assert refine(tmp_path, tmp_path / "refined.star", star="particles.star") == 0
    told = capsys.readouterr().out
    assert "2 pictures are constant" in told and "000004@" in told and "000009@" in told
    found, given = read(tmp_path / "refined.star"), read(tmp_path / "particles.star")
    assert found.eulers_deg[[3, 8]] == pytest.approx(given.eulers_deg[[3, 8]], abs=1e-3)
    assert pd.read_csv(tmp_path / "refined.moves.csv")["broken"].sum() == 2


def test_origins_in_pixels_stay_in_pixels(folder: Path, tmp_path: Path) -> None:
    """A file as before RELION 3.1."""
    star = starfile.read(folder / "wrong.star")
    rows = star["particles"].merge(
        star["optics"][["rlnOpticsGroup", "rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]]
    )
    rows = rows.assign(rlnOriginX=rows.pop("rlnOriginXAngst") / APIX, rlnOriginY=rows.pop("rlnOriginYAngst") / APIX)
    rows = rows.assign(rlnDetectorPixelSize=APIX, rlnMagnification=10_000.0).drop(columns="rlnOpticsGroup")
    starfile.write({"": rows}, tmp_path / "old.star")
    words = ["--particles_star_fname", str(tmp_path / "old.star"), "--particles_dir", str(folder)]
    words += ["--reference_fname", str(folder / "reference.mrc"), "--out_star", str(tmp_path / "refined.star")]
    assert main([*words, "--resolution_angs", "18", "--n_threads", "1"]) == 0
    found = starfile.read(tmp_path / "refined.star")
    assert set(found) == {*rows, "rlnParticleFigureOfMerit"}
    names = read(folder / "particles.star").particles["rlnImageName"].tolist()
    order = [names.index(name) for name in found["rlnImageName"]]
    true = read(folder / "particles.star").shifts_angs[order] / APIX
    assert np.median(np.hypot(*(found[["rlnOriginX", "rlnOriginY"]].to_numpy() - true).T)) < 0.3


def test_all_that_is_wrong_is_told_at_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.star").write_text("data_\n")
    assert refine(folder, tmp_path / "there.star", "--symmetry", "D0", "--reference_fname", "none.mrc", star="missing.star") == 2
    told = capsys.readouterr().err
    for part in ("there.star exists already", "'D0' is not a point group", "--reference_fname=none.mrc", "missing.star"):
        assert part in told
    assert "4 errors" in told and [path.name for path in tmp_path.iterdir()] == ["there.star"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--shift_search_angs", "40"), "above --max_shift_angs"),
        (("--symmetry", "C3"), "does not have it on RELION's axes"),
        (("--out_star", "refined.mrc"), "ends in .star"),
        (("--out_star", "none/refined.star"), "not a folder"),
        (("--resolution_angs", "0"), "number above 0"),
        (("--resolution_angs", "150"), "coarser than the pictures"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more, said: str) -> None:
    assert refine(folder, tmp_path / "out.star", *more) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_the_particles_own_file_is_not_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "wrong.star").read_bytes()
    assert refine(folder, folder / "wrong.star", "--overwrite") == 2
    assert "is the file with the particles" in capsys.readouterr().err and (folder / "wrong.star").read_bytes() == before


def test_a_folder_in_its_place_is_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.star").mkdir()
    assert refine(folder, tmp_path / "out.star", "--overwrite") == 2
    assert "is a folder: give the name of a file" in capsys.readouterr().err and (tmp_path / "out.star").is_dir()


def test_a_folder_of_parts_that_is_not_its_own_stays(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "out.parts" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert refine(folder, tmp_path / "out.star") == 2
    assert "out.parts, where parts of the result go, holds something else" in capsys.readouterr().err and mine.exists()
    (mine.parent / "about.json").write_text("{}")  # as if a run had been killed there
    assert refine(folder, tmp_path / "out.star") == 0
    assert [path.name for path in mine.parent.iterdir()] == ["mine.txt"]


def test_other_pixels_under_the_same_names_are_refined_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    with stopped_after(1, monkeypatch):
        assert refine(tmp_path / "copy", tmp_path / "out.star", "--chunk_size", "50") == 130
    stack = min((tmp_path / "copy" / "Particles").glob("*.mrcs"))
    with mrcfile.open(stack, "r+") as handle:
        handle.data[:] += 1
    capsys.readouterr()
    assert refine(tmp_path / "copy", tmp_path / "out.star", "--chunk_size", "50") == 0
    assert "An earlier run goes on" not in capsys.readouterr().out
