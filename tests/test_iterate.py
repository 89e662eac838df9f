"""Iterated refinement against the particles' own half maps: what it gains, and what it must not gain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cryopares_core.commands.refine import main
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, pose_error_degs, random_rotations, rotvec_to_matrix
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.half_sets import HalfSetRefiner, shards_of
from cryopares_core.refinement.iterate import Iterated, iterate_refinement
from cryopares_core.refinement.iteration_run import ABOUT, POSES, IterateSettings
from cryopares_core.refinement.local_posterior import PosteriorPoses, covariance_of, spread
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.own_maps import OwnMaps, filtered, read_own_maps
from cryopares_core.refinement.refiner import Refiner, refine_poses
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.volumes.fsc import shell_correlation
from cryopares_core.volumes.half_map_files import HALVES, MAP, SUMMARY
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

BOX, APIX, COUNT, RADIUS = 32, 8.0, 400, 100.0
SETTINGS = IterateSettings(max_iterations=2, mask_radius_angs=RADIUS, chunk_size=150)


def simulated(folder: Path, snr: float, seed: int) -> ParticleTable:
    simulate_particles(phantom_map(BOX, APIX), APIX, folder, SimulationSettings(n_particles=COUNT, snr=snr, seed=seed))
    return read_particles([folder / "particles.star"], folder)[0]


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    return simulated(tmp_path_factory.mktemp("particles"), 0.5, 3)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    return simulated(tmp_path_factory.mktemp("noise"), 1e-6, 4)


def truth(table: ParticleTable) -> torch.Tensor:
    return euler_degs_to_matrix(torch.from_numpy(table.eulers_deg))


def starts(table: ParticleTable, degs: float = 6.0, angs: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The true poses turned by rotation vectors, and shifts moved, both of a deviation along each axis."""
    draw = torch.randn(len(table), 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return rotvec_to_matrix(draw[:, :3] * degs / DEGREES) @ truth(table), torch.from_numpy(table.shifts_angs) + angs * draw[:, 3:]


def median_degs(table: ParticleTable, poses: np.ndarray | torch.Tensor) -> float:
    return float(pose_error_degs(torch.as_tensor(poses).double(), truth(table)).median())


def iterate(table: ParticleTable, folder: Path, **changes) -> Iterated:
    return iterate_refinement(table, *starts(table), replace(SETTINGS, **changes), folder)


@pytest.fixture(scope="module")
def iterated(particles: ParticleTable, tmp_path_factory: pytest.TempPathFactory) -> Iterated:
    return iterate(particles, tmp_path_factory.mktemp("iterations") / "iterations")


def test_errors_fall_and_the_resolution_rises(particles: ParticleTable, iterated: Iterated) -> None:
    assert median_degs(particles, iterated.poses.poses) < 0.5 * median_degs(particles, starts(particles)[0])
    first, best = iterated.iterations[0], iterated.best
    assert best.number > 0 and iterated.agree and best.resolution_angs < 0.9 * first.resolution_angs
    true = torch.from_numpy(phantom_map(BOX, APIX))
    against = [shell_correlation(torch.from_numpy(read_map(one.folder / MAP)[0]), true)[2:10].mean() for one in (first, best)]
    assert against[1] > against[0] + 0.05
    assert json.loads((best.folder / "iteration.json").read_text())["resolution_angs"] == round(best.resolution_angs, 4)


def test_a_half_set_is_refined_against_its_own_map_alone(particles: ParticleTable, iterated: Iterated) -> None:
    """With the other half map and the other half set's images and starts replaced, its poses stay the same to the bit."""
    maps = read_own_maps(iterated.best.folder)
    poses, shifts = (values.float() for values in starts(particles))
    local = RefineSettings(resolution_angs=maps.limit_angs, mask_radius_angs=RADIUS)
    mine, other = (np.flatnonzero(particles.half_set == half) for half in (1, 2))
    found = HalfSetRefiner(particles, 1, maps, poses, shifts, local)(mine)
    rng = np.random.default_rng(0)
    strange = OwnMaps((maps.halves[0], rng.normal(size=maps.halves[1].shape).astype(np.float32)), APIX, maps.correlation)
    changed, slices = poses.clone(), particles.slice_id.copy()
    changed[other], slices[other] = poses[other].flip(0), slices[other][::-1]
    again = HalfSetRefiner(replace(particles, slice_id=slices), 1, strange, changed, shifts, local)(mine)
    for name in ("poses", "shifts_angs", "covariance"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
    theirs = HalfSetRefiner(particles, 1, OwnMaps(maps.halves[::-1], APIX, maps.correlation), poses, shifts, local)(mine)
    assert not np.array_equal(found.poses, theirs.poses)


def common_rotation(table: ParticleTable, poses: torch.Tensor, half: int) -> torch.Tensor:
    """The mean error of a half set's poses that are right, as a rotation vector `(3,)` in degrees in the map's frame."""
    residual = poses.double().mT @ truth(table)
    vector = (residual - residual.mT)[:, (2, 0, 1), (1, 2, 0)] / 2 * DEGREES
    return vector[(vector.norm(dim=1) < 15) & torch.from_numpy(table.half_set == half)].mean(dim=0)


def test_half_maps_do_not_drift_apart(particles: ParticleTable, iterated: Iterated) -> None:
    """Each half set keeps its frame from one iteration to the next."""
    first, last = (shards_of(one.folder / POSES, particles, SETTINGS.chunk_size) for one in iterated.iterations[1:])
    poses = [torch.from_numpy(shards.read(PosteriorPoses).poses) for shards in (first, last)]
    for half in (1, 2):
        before, after = (common_rotation(particles, one, half) for one in poses)
        assert before.norm() < 3 * 6 * np.sqrt(3 / 200)  # three standard errors of the starts' mean
        assert (after - before).norm() < 0.3


def test_a_stopped_run_resumes_to_the_same_result(
    particles: ParticleTable, iterated: Iterated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped in its second iteration, between the two half sets of a shard."""
    calls, usual = [], HalfSetRefiner.__call__

    def stopping(self: HalfSetRefiner, *given):
        calls.append(1)
        if len(calls) > 9:
            raise KeyboardInterrupt
        return usual(self, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(HalfSetRefiner, "__call__", stopping)
        iterate(particles, tmp_path / "iterations")
    shards = sorted((tmp_path / "iterations").glob(f"*/{POSES}/0*.npz"))
    times = [path.stat().st_mtime_ns for path in shards]
    assert len(shards) == 4  # three of the first iteration
    resumed = iterate(particles, tmp_path / "iterations")
    assert [path.stat().st_mtime_ns for path in shards] == times
    assert resumed.best.number == iterated.best.number
    for name in ("poses", "shifts_angs", "score"):
        assert np.array_equal(getattr(resumed.poses, name), getattr(iterated.poses, name))


def test_more_iterations_continue_and_others_are_refused(particles: ParticleTable, iterated: Iterated) -> None:
    folder = iterated.best.folder.parent
    made = [(one.folder / SUMMARY).stat().st_mtime_ns for one in iterated.iterations]
    more = iterate(particles, folder, max_iterations=3)
    assert len(more.iterations) == 4 and more.iterations[:3] == iterated.iterations
    assert [(one.folder / SUMMARY).stat().st_mtime_ns for one in iterated.iterations] == made
    with pytest.raises(UserError, match=r"something else \(settings\)"):
        iterate(particles, folder, mask_radius_angs=90.0)
    with pytest.raises(UserError, match=r"something else \(starting poses\)"):
        iterate_refinement(particles, truth(particles), torch.from_numpy(particles.shifts_angs), SETTINGS, folder)


def aligned(noise: ParticleTable, tries: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best of several random poses, each refined against one map: noise that resembles the map as far as it can."""
    one, settings = Reference(phantom_map(BOX, APIX), APIX), RefineSettings(24.0, RADIUS, 30.0, expected_error_degs=10.0)
    poses = random_rotations(tries * len(noise), torch.Generator().manual_seed(5)).view(len(noise), tries, 3, 3)
    found = refine_poses(noise, {1: one, 2: one}, poses, torch.zeros(len(noise), 2), settings)
    return torch.from_numpy(found.poses), torch.from_numpy(found.shifts_angs)


def test_noise_gains_nothing(noise: ParticleTable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    poses, shifts = starts(noise)
    done = iterate_refinement(noise, poses, shifts, SETTINGS, tmp_path / "iterations")
    assert not done.agree and done.best.number == 0 and "share no detail" in caplog.text
    assert np.allclose(done.poses.poses, poses)
    assert read_own_maps(done.iterations[-1].folder).correlation[3:].abs().mean() < 0.2


def test_noise_that_was_aligned_with_a_map_loses_its_detail(
    noise: ParticleTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    done = iterate_refinement(noise, *aligned(noise, 4), SETTINGS, tmp_path / "iterations")
    correlation = [read_own_maps(one.folder).correlation[3:11].mean() for one in done.iterations]
    assert correlation[0] > 0.5 and correlation[-1] < correlation[0] - 0.15
    assert not done.agree and "came from the reference" in caplog.text


def test_it_stops_when_nothing_moves(particles: ParticleTable, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    true = truth(particles), torch.from_numpy(particles.shifts_angs)
    lax = replace(SETTINGS, max_iterations=9, still_degs=5.0, still_angs=20.0)
    done = iterate_refinement(particles, *true, lax, tmp_path / "iterations")
    assert len(done.iterations) < 5 and "nothing moves any more" in caplog.text


def test_particles_of_weight_0_do_not_count(particles: ParticleTable, tmp_path: Path) -> None:
    weights = np.ones(COUNT)
    weights[::3] = 0
    kept = particles.subset(np.flatnonzero(weights))
    poses, shifts = starts(particles)
    part = replace(SETTINGS, max_iterations=0)
    whole = iterate_refinement(particles, poses, shifts, part, tmp_path / "weighted", weights=weights)
    alone = iterate_refinement(kept, poses[weights > 0], shifts[weights > 0], part, tmp_path / "alone")
    for name in HALVES:
        first, second = (read_map(one.best.folder / name)[0] for one in (whole, alone))
        assert np.allclose(first, second, atol=1e-5 * np.abs(second).max())


def test_wrong_poses_count_less(particles: ParticleTable, tmp_path: Path) -> None:
    """With a third of the poses wrong, the map is nearer to the truth."""
    poses, shifts = starts(particles, 2.0, 2.0)
    poses[::3] = random_rotations(len(poses[::3]), torch.Generator().manual_seed(2)).double()
    true, found = torch.from_numpy(phantom_map(BOX, APIX)), []
    for name, weighted in (("plain", False), ("weighted", True)):
        settings = replace(SETTINGS, max_iterations=1, weight_by_score=weighted)
        done = iterate_refinement(particles, poses, shifts, settings, tmp_path / name)
        volume = torch.from_numpy(read_map(done.iterations[-1].folder / MAP)[0])
        found.append(shell_correlation(volume, true)[4:13].mean())
    assert found[1] > found[0] + 0.005


def test_the_filter_multiplies_each_shell() -> None:
    volume = torch.randn(12, 12, 12, generator=torch.Generator().manual_seed(0)).numpy()
    weight = torch.linspace(1, 0, 7)
    k = np.fft.fftfreq(12, 1 / 12)
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    naive = np.fft.ifftn(np.fft.fftn(volume) * np.interp(radius, np.arange(7), weight.numpy())).real
    assert filtered(volume, weight) == pytest.approx(naive, abs=1e-5)
    assert filtered(volume, torch.ones(7)) == pytest.approx(volume, abs=1e-5)


def test_the_covariance_is_that_of_the_errors(particles: ParticleTable) -> None:
    """Errors of poses refined against the true map have the size that their covariances say."""
    one = Reference(phantom_map(BOX, APIX), APIX)
    correlation = torch.ones(BOX // 2 + 1)
    maps = OwnMaps((one.volume, one.volume), APIX, correlation)
    poses, shifts = (values.float() for values in starts(particles, 1.0, 1.0))
    local = RefineSettings(resolution_angs=20.0, mask_radius_angs=RADIUS, expected_error_degs=2.0)
    mine = np.flatnonzero(particles.half_set == 1)
    found = HalfSetRefiner(particles, 1, maps, poses, shifts, local)(mine)
    error = pose_error_degs(torch.from_numpy(found.poses).double(), truth(particles)[mine])
    expected = np.sqrt(np.trace(found.covariance[:, :3, :3], axis1=1, axis2=2)) * DEGREES
    assert float(error.square().mean().sqrt()) == pytest.approx(np.sqrt(np.mean(expected**2)), rel=0.25)


def test_drawn_poses_have_the_covariance(particles: ParticleTable) -> None:
    few, root = particles.subset(np.arange(4)), torch.diag(torch.tensor([0.01, 0.02, 0.03, 1.0, 2.0], dtype=torch.float64))
    poses, shifts = truth(few), torch.from_numpy(few.shifts_angs)
    posed, rows = spread(few, poses, shifts, root.square().expand(4, 5, 5), 2000, 0)
    assert len(posed) == 8000 and np.array_equal(posed.slice_id, few.slice_id[rows])
    turned = truth(posed) @ poses[rows].mT
    vector = (turned - turned.mT)[:, (2, 0, 1), (1, 2, 0)] / 2
    drawn = torch.cat((vector, torch.from_numpy(posed.shifts_angs) - shifts[rows]), dim=1)
    assert drawn.mean(dim=0).abs().max() < 1e-4  # pairs cancel
    assert drawn.std(dim=0).numpy() == pytest.approx(root.diagonal().numpy(), rel=0.05)
    alone, rows = spread(few, poses, shifts, None, 4, 0)
    assert np.array_equal(rows, np.arange(4)) and torch.allclose(truth(alone), poses, atol=1e-6)


def test_noise_has_no_covariance() -> None:
    products = torch.eye(7, dtype=torch.float64)[None].clone()
    products[:, 0, 1] = products[:, 1, 0] = -0.5
    assert not covariance_of(products).any()


def test_the_command_leaves_poses_and_half_maps(particles: ParticleTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(particles.stack_paths[0]).parents[1]
    poses, shifts = starts(particles, 3.0, 4.0)
    del poses
    particles.with_poses(particles.eulers_deg, shifts.numpy().round(3)).write_star(tmp_path / "start.star")
    words = ["--particles_star_fname", str(tmp_path / "start.star"), "--particles_dir", str(folder), "--iterations", "1"]
    words += ["--reference_fname", str(folder / "reference.mrc"), "--out_star", str(tmp_path / "refined.star")]
    words += ["--resolution_angs", "24", "--mask_radius_angs", "100", "--n_threads", "1", "--accelerator", "cpu"]
    calls, usual = [], Refiner.__call__

    def stopping(self: Refiner, *given):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return usual(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Refiner, "__call__", stopping)
        assert main(words) == 130
    assert (tmp_path / "refined.iterations" / ABOUT).is_file() and not (tmp_path / "refined.star").exists()
    assert main(words) == 0
    summary = json.loads((tmp_path / "refined.moves.json").read_text())
    assert summary["iteration"] == 1 and summary["half_maps_agree"] and len(summary["resolutions_angs"]) == 2
    assert {*HALVES, MAP, SUMMARY} <= {path.name for path in (tmp_path / "refined.maps").iterdir()}
    found = read_particles([tmp_path / "refined.star"], folder)[0]
    assert median_degs(particles, truth(found)) < 4 and not (tmp_path / "refined.parts").exists()
