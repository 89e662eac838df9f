"""Refinement: slices and derivatives against the definition, and poses that must come out whatever the start."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, pose_error_degs, random_rotations, rotvec_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.ctf import ctf_2d, ctf_tensors
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import FLIPPED, MULTIPLIED, ParticleTable
from cryopares_core.refinement.fit import FIRST, M, Observed, X, fit
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.grid_search import shifts_within, turns_within
from cryopares_core.refinement.references import check_symmetry
from cryopares_core.refinement.refiner import Reference, Refiner, refine_poses
from cryopares_core.refinement.results import RefinedPoses
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.refinement.start import RefineSettings
from cryopares_core.volumes.maps import read_map, resample_map, write_stack
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

BOX, APIX = 32, 8.0
SETTINGS = RefineSettings(resolution_angs=18.0)


def read(folder: Path) -> ParticleTable:
    return read_particles([folder / "particles.star"], folder)[0]


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    """400 particles at a signal-to-noise ratio of 1."""
    folder = tmp_path_factory.mktemp("noisy")
    simulate_particles(phantom_map(BOX, APIX), APIX, folder, SimulationSettings(n_particles=400, snr=1, seed=2))
    return read(folder)


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    """60 particles with hardly any noise."""
    folder = tmp_path_factory.mktemp("clear")
    simulate_particles(phantom_map(BOX, APIX), APIX, folder, SimulationSettings(n_particles=60, snr=200, seed=4))
    return read(folder)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(phantom_map(BOX, APIX), APIX)


def both(reference: Reference) -> dict[int, Reference]:
    return {1: reference, 2: reference}


def truth(table: ParticleTable) -> tuple[torch.Tensor, torch.Tensor]:
    return euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)), torch.from_numpy(table.shifts_angs)


def starts(table: ParticleTable, degs: float, angs: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """The true poses and shifts, off by an angle about any axis and by shifts of a deviation."""
    generator = torch.Generator().manual_seed(1)
    axes = torch.nn.functional.normalize(torch.randn(len(table), 3, generator=generator, dtype=torch.float64), dim=1)
    poses, shifts = truth(table)
    moved = shifts + angs * torch.randn(len(table), 2, generator=generator, dtype=torch.float64)
    return (rotvec_to_matrix(axes * degs / DEGREES) @ poses)[:, None], moved


def errors(refined: RefinedPoses, table: ParticleTable) -> tuple[np.ndarray, np.ndarray]:
    """Degrees and Å."""
    poses, shifts = truth(table)
    degs = pose_error_degs(torch.from_numpy(refined.poses).double(), poses)
    return degs.numpy(), np.linalg.norm(refined.shifts_angs - shifts.numpy(), axis=1)


def direct(volume: np.ndarray, pixel_size: float, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The transform and its gradient at `(k, 3)` frequencies xyz in cycles per Å, from the definition."""
    axis = (np.arange(len(volume)) - len(volume) // 2) * pixel_size
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    voxels = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    waves = np.exp(-2j * np.pi * (points @ voxels.T)) * volume.ravel()
    return waves.sum(axis=1), -2j * np.pi * (waves @ voxels)


@pytest.mark.parametrize("size", [24, 25])
def test_slices_and_their_gradient_agree_with_the_definition(size: int) -> None:
    volume, poses = phantom_map(size, APIX), random_rotations(4, torch.Generator().manual_seed(0)).float()
    table = SliceTable(volume, APIX, resolution_angs=20.0)
    frequencies = Frequencies(40, 6.0, 20.0)  # another box and pixel size than the map's
    values, gradient = (torch.view_as_complex(part.movedim(-2, -1).contiguous()) for part in table(poses, frequencies.xy))
    for pose, value, slope in zip(poses.double().numpy(), values.numpy(), gradient.numpy(), strict=True):
        exact, exact_slope = direct(volume / volume.std(), APIX, frequencies.xy.double().numpy().T @ pose[:2])
        scale = np.vdot(value, exact).real / np.vdot(value, value).real  # the map within the mask has deviation 1
        assert np.linalg.norm(value * scale - exact) < 0.01 * np.linalg.norm(exact)
        in_view = pose @ exact_slope.T
        assert np.linalg.norm(slope * scale - in_view) < 0.05 * np.linalg.norm(in_view)


def test_derivatives_agree_with_finite_differences(clear: ParticleTable, reference: Reference) -> None:
    table, frequencies = SliceTable(reference.volume, APIX, 20.0), Frequencies(BOX, APIX, 20.0)
    spectra = frequencies.spectra(torch.from_numpy(read_images(clear, np.arange(40))))
    seen = Observed(spectra, torch.ones_like(spectra[:, 0]), frequencies.xy)
    (poses, shifts), step = (start.float() for start in starts(clear.subset(np.arange(40)), 4.0, 6.0)), 0.01
    products = fit(table, seen, poses[:, 0], shifts).products
    scale = products[:, X, M] / products[:, M, M]
    slope = (products[:, FIRST:, X] - scale[:, None] * products[:, FIRST:, M]) / products[:, M, M, None].sqrt()
    for place in range(5):
        turn, shift = torch.zeros(3), torch.zeros(2)
        (turn if place < 3 else shift)[place % 3] = step if place < 3 else 100 * step
        ahead, behind = (
            fit(table, seen, rotvec_to_matrix(sign * turn) @ poses[:, 0], shifts + sign * shift).score for sign in (1, -1)
        )
        found, expected = (ahead - behind) / (2 * float(turn.sum() + shift.sum())), slope[:, place]
        assert (found - expected).norm() < 0.1 * expected.norm()


@pytest.mark.parametrize(("degs", "expected"), [(5.0, 5.0), (10.0, 10.0)])
def test_comes_back_from_wrong_starts(noisy: ParticleTable, reference: Reference, degs: float, expected: float) -> None:
    settings = RefineSettings(resolution_angs=18.0, expected_error_degs=expected)
    refined = refine_poses(noisy, both(reference), *starts(noisy, degs, 6.0), settings)
    error_degs, error_angs = errors(refined, noisy)
    assert np.median(error_degs) < 1.5 and (error_degs < 5).mean() > 0.97
    assert np.median(error_angs) < 0.25 * APIX
    assert np.isfinite(refined.score).all() and (refined.gain > 0).mean() > 0.99 and not refined.kept_start.any()
    assert np.median(refined.moved_degs) == pytest.approx(degs, abs=1)


def test_is_no_worse_than_the_grid_and_near_the_best_that_noise_allows(noisy: ParticleTable, reference: Reference) -> None:
    few = noisy.subset(np.arange(150))
    climbed, gridded = (
        refine_poses(few, both(reference), *starts(few, 5.0), RefineSettings(resolution_angs=18.0, grid_search=grid))
        for grid in (False, True)
    )
    by_climbing, by_grid = errors(climbed, few)[0], errors(gridded, few)[0]
    assert np.median(by_climbing) < 1.05 * np.median(by_grid) and by_climbing.mean() < 1.1 * by_grid.mean()
    assert climbed.score.mean() > gridded.score.mean() - 1e-3
    assert np.median(by_climbing) < 1.15 * np.median(least_error_degs(few, reference))


def least_error_degs(table: ParticleTable, reference: Reference) -> np.ndarray:
    """Errors drawn from the normal distribution of the best unbiased estimate of pose and shift (Cramér and Rao)."""
    refiner, (poses, shifts) = Refiner(table, both(reference), SETTINGS), truth(table)
    refiner.calibrate(poses, shifts)
    spectra = [refiner.source.spectra(block) for block in refiner.source.blocks(np.arange(len(table)))]
    assert len(spectra) == 1
    seen = refiner.weights[spectra[0].frequencies].observed(spectra[0])
    products = fit(refiner.maps.all[0], seen, poses.float(), shifts.float()).products.double()
    scale = (products[:, X, M] / products[:, M, M]).median()
    cross, norm = products[:, FIRST:, M], products[:, M, M]
    information = products[:, FIRST:, FIRST:] - cross[:, :, None] * cross[:, None] / norm[:, None, None]
    # A deviation of 1 of the complex noise is one of sqrt(1/2) of its parts.
    covariance = torch.linalg.inv(2 * scale**2 * information)
    root = torch.linalg.cholesky(covariance[:, :3, :3])
    drawn = root @ torch.randn(len(table), 3, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn.norm(dim=1) * DEGREES).flatten().numpy()


def test_a_right_start_stays(clear: ParticleTable, reference: Reference) -> None:
    refined = refine_poses(clear, both(reference), *starts(clear, 0.0), SETTINGS)
    assert refined.moved_degs.max() < 0.3 and refined.moved_angs.max() < 0.1 * APIX
    assert refined.score.min() > 0.98


def test_shifts_go_the_way_that_origins_do(clear: ParticleTable, reference: Reference) -> None:
    poses, shifts = starts(clear, 0.0)
    wrong = shifts + torch.tensor([9.0, -6.0])
    refined = refine_poses(clear, both(reference), poses, wrong, SETTINGS)
    assert errors(refined, clear)[1].max() < 0.1 * APIX
    assert refined.moved_angs == pytest.approx(np.hypot(9, 6), abs=0.1 * APIX)


def test_unknown_shifts_are_searched_for(clear: ParticleTable, reference: Reference) -> None:
    poses, shifts = starts(clear, 3.0)
    far = shifts + torch.tensor([30.0, -25.0])
    settings = RefineSettings(resolution_angs=18.0, shift_search_angs=50.0, max_shift_angs=60.0)
    assert errors(refine_poses(clear, both(reference), poses, far, settings), clear)[1].max() < 0.2 * APIX


@pytest.mark.parametrize("name", ["rln_proj_64_centered", "rln_proj_64_shifted", "rln_proj_65_shifted"])
def test_finds_relions_own_poses_and_origins(shared: Path, name: str) -> None:
    folder = shared / "data" / "relion_gold_70S"
    table, _ = read_particles([folder / f"{name}.star"], folder, needs_ctf=False, split_halfs=False)
    box, pixel_size = int(table.image_size_px[0]), float(table.pixel_size_angs[0])
    volume, size = read_map(folder / "clean70SRibosome_vol_65p.mrc", pixel_size_angs=pixel_size * box / 65)
    poses, shifts = starts(table, 5.0, 1.5 * pixel_size)
    # RELION's centre of an odd picture is one pixel beyond n // 2.
    shifts = shifts - (box % 2) * pixel_size
    settings = RefineSettings(resolution_angs=2.5 * pixel_size, use_ctf=False)
    refined = refine_poses(table, both(Reference(volume, size)), poses, shifts, settings)
    error_degs, _ = errors(refined, table)
    off = refined.shifts_angs + (box % 2) * pixel_size - table.shifts_angs
    assert error_degs.max() < 0.5 and np.linalg.norm(off, axis=1).max() < 0.3 * pixel_size
    assert refined.score.min() > 0.99


def test_a_turned_picture_gives_a_turned_pose(clear: ParticleTable, reference: Reference, tmp_path: Path) -> None:
    pictures = read_images(clear, np.arange(len(clear)))
    turned = np.roll(np.rot90(pictures, axes=(1, 2)), 1, axis=1)  # about pixel n // 2
    write_stack(tmp_path / "turned.mrcs", np.ascontiguousarray(turned), APIX)
    names = [f"{place + 1:06d}@{tmp_path / 'turned.mrcs'}" for place in range(len(clear))]
    star = tmp_path / "turned.star"
    eulers = clear.eulers_deg + np.array([0, 0, 90.0])
    x, y = clear.shifts_angs.T
    defocus = {"rlnImageName": names, "rlnDefocusAngle": clear.ctf.defocus_angle_deg - 90}
    clear.with_poses(eulers, np.stack((y, -x), axis=1)).write_star(star, defocus)
    other, _ = read_particles([star], tmp_path)
    straight, quarter = (refine_poses(table, both(reference), *starts(table, 0.0), SETTINGS) for table in (clear, other))
    turn = euler_degs_to_matrix(torch.tensor([0.0, 0.0, 90.0]))
    assert pose_error_degs(torch.from_numpy(quarter.poses), turn @ torch.from_numpy(straight.poses)).max() < 0.1
    assert quarter.score == pytest.approx(straight.score, abs=2e-3)


def test_ctfs_matter(tmp_path: Path, reference: Reference) -> None:
    far = SimulationSettings(n_particles=60, snr=200, seed=4, defocus_min_angs=40_000, defocus_max_angs=60_000)
    simulate_particles(reference.volume, APIX, tmp_path, far)
    clear = read(tmp_path)
    without = RefineSettings(resolution_angs=18.0, use_ctf=False)
    seen, ignored = (refine_poses(clear, both(reference), *starts(clear, 5.0), settings) for settings in (SETTINGS, without))
    assert 3 * np.median(errors(seen, clear)[0]) < np.median(errors(ignored, clear)[0])
    assert seen.score.mean() > ignored.score.mean() + 0.1


@pytest.mark.parametrize("kind", [FLIPPED, MULTIPLIED])
def test_pictures_that_were_corrected_before(tmp_path: Path, kind: int) -> None:
    volume = phantom_map(48, 5.0)
    far = SimulationSettings(n_particles=60, snr=5, seed=4, defocus_min_angs=40_000, defocus_max_angs=60_000)
    simulate_particles(volume, 5.0, tmp_path, far)
    table, settings = read(tmp_path), RefineSettings(resolution_angs=11.0)
    ctf = ctf_2d(ctf_tensors(table.ctf), 5.0, 48)
    factor = torch.where(ctf < 0, -1.0, 1.0) if kind == FLIPPED else ctf
    pictures = torch.fft.rfft2(torch.from_numpy(read_images(table, np.arange(len(table)))))
    write_stack(table.stack_paths[0], torch.fft.irfft2(pictures * factor, s=(48, 48)).float().numpy(), 5.0)
    said = replace(table, ctf=replace(table.ctf, corrected=np.full(len(table), kind)))
    tried = [refine_poses(one, both(Reference(volume, 5.0)), *starts(table, 4.0), settings) for one in (said, table)]
    known, unknown = (np.median(errors(refined, table)[0]) for refined in tried)
    assert known < 0.8 * unknown and tried[0].score.mean() > tried[1].score.mean()


def test_poses_under_symmetry_are_refined_alike(tmp_path: Path) -> None:
    volume = phantom_map(33, APIX)
    four = np.mean([np.rot90(volume, turns, axes=(1, 2)) for turns in range(4)], axis=0).astype(np.float32)
    simulate_particles(four, APIX, tmp_path, SimulationSettings(n_particles=40, snr=5, seed=1))
    table, group = read(tmp_path), point_group("C4").matrices
    check_symmetry(SliceTable(four, APIX, 18.0), "C4")
    with pytest.raises(UserError, match="D4"):
        check_symmetry(SliceTable(four, APIX, 18.0), "D4")
    poses, shifts = starts(table, 4.0)
    first, mates = (
        refine_poses(table, both(Reference(four, APIX)), start, shifts, SETTINGS) for start in (poses, poses @ group[1].mT)
    )
    assert pose_error_degs(torch.from_numpy(mates.poses), torch.from_numpy(first.poses) @ group[1].mT.float()).median() < 0.1
    assert errors(first, table)[0].max() < 2


def test_pictures_that_show_nothing_keep_their_start(tmp_path: Path, reference: Reference) -> None:
    simulate_particles(reference.volume, APIX, tmp_path, SimulationSettings(n_particles=20, snr=5, seed=1))
    with mrcfile.open(tmp_path / "Particles" / "particles_001.mrcs", "r+") as handle:
        handle.data[3], handle.data[7, 5, 5], handle.data[11], handle.data[15, 2, 2] = 4.0, np.nan, np.inf, 1e20
    table = read(tmp_path)
    poses, shifts = starts(table, 3.0)
    refined = refine_poses(table, both(reference), poses, shifts, SETTINGS)
    assert np.flatnonzero(refined.broken).tolist() == [3, 7, 11, 15]
    assert all(np.isfinite(getattr(refined, name)).all() for name in ("poses", "shifts_angs", "score", "gain", "moved_degs"))
    assert np.allclose(refined.poses[refined.broken], poses[refined.broken, 0]) and (refined.score[refined.broken] == 0).all()
    assert errors(refined, table)[0][~refined.broken].max() < 2


def test_who_would_wander_keeps_the_start_and_is_marked(clear: ParticleTable, reference: Reference) -> None:
    poses, shifts = starts(clear, 6.0)
    refined = refine_poses(clear, both(reference), poses, shifts, RefineSettings(resolution_angs=18.0, max_angle_degs=2.0))
    assert refined.moved_degs.max() <= 2.0 and refined.kept_start.mean() > 0.8
    kept = refined.kept_start
    assert np.allclose(refined.poses[kept], poses[kept, 0], atol=1e-6) and (refined.moved_degs[kept] == 0).all()


def test_the_best_of_several_starts_wins(clear: ParticleTable, reference: Reference) -> None:
    right, shifts = starts(clear, 4.0)
    wrong = [random_rotations(len(clear), torch.Generator().manual_seed(seed))[:, None] for seed in (0, 1)]
    refined = refine_poses(clear, both(reference), torch.cat([wrong[0], right, wrong[1]], dim=1), shifts, SETTINGS)
    assert (refined.chosen_start == 1).mean() > 0.95
    assert np.median(errors(refined, clear)[0]) < 0.3 and np.median(refined.gain) > 0.2


def test_each_half_set_has_its_own_map(clear: ParticleTable, reference: Reference) -> None:
    other = Reference(phantom_map(BOX, APIX, seed=9)[::-1].copy(), APIX)
    refined = refine_poses(clear, {1: reference, 2: other}, *starts(clear, 3.0), SETTINGS)
    error_degs = errors(refined, clear)[0]
    assert np.median(error_degs[clear.half_set == 1]) < 0.5 < 2 < np.median(error_degs[clear.half_set == 2])
    assert refined.score[clear.half_set == 1].min() > refined.score[clear.half_set == 2].max()


@pytest.mark.parametrize("size", [40, 45])
def test_the_map_may_have_another_box_pixel_size_and_sharpness(clear: ParticleTable, reference: Reference, size: int) -> None:
    finer = resample_map(reference.volume, size)
    frequency = np.fft.fftfreq(size, APIX * BOX / size)
    square = frequency[:, None, None] ** 2 + frequency[:, None] ** 2 + np.fft.rfftfreq(size, APIX * BOX / size) ** 2
    sharp = np.fft.irfftn(np.fft.rfftn(finer) * np.exp(800 / 4 * square), s=(size,) * 3).astype(np.float32)
    refined = refine_poses(clear, both(Reference(100 * sharp, APIX * BOX / size)), *starts(clear, 5.0), SETTINGS)
    assert np.median(errors(refined, clear)[0]) < 0.3 and errors(refined, clear)[0].max() < 1.5


def test_a_negative_is_refused_and_another_molecule_is_told(
    noisy: ParticleTable, reference: Reference, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match="negative"):
        refine_poses(noisy, both(Reference(-reference.volume, APIX)), *starts(noisy, 2.0), SETTINGS)
    others = random_rotations(len(noisy), torch.Generator().manual_seed(3))
    Refiner(noisy, both(reference), SETTINGS).calibrate(others, torch.zeros(len(noisy), 2))
    assert "no better than at each other's" in caplog.text


def test_a_few_particles_are_never_called_a_negative(noisy: ParticleTable, reference: Reference) -> None:
    for seed in range(5):
        few = noisy.subset(np.arange(2) + 2 * seed)
        poses = random_rotations(2, torch.Generator().manual_seed(seed))
        Refiner(few, both(Reference(-reference.volume, APIX)), SETTINGS).calibrate(poses, torch.zeros(2, 2))


def test_threads_change_nothing(noisy: ParticleTable, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryopares_core.refinement.pictures.LARGEST_BLOCK", 64)
    refiner, (poses, shifts) = Refiner(noisy, both(reference), SETTINGS), starts(noisy, 4.0)
    refiner.calibrate(poses[:, 0], shifts)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            found.append(refiner(np.arange(len(noisy)), poses, shifts))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
    assert np.array_equal(found[0].poses, found[1].poses) and np.array_equal(found[0].score, found[1].score)
    some = np.array([7, 300, 5])
    assert refiner(some, poses[some], shifts[some]).poses == pytest.approx(found[0].poses[some], abs=1e-3)


def test_noise_of_any_colour_is_measured(tmp_path: Path, reference: Reference) -> None:
    simulate_particles(reference.volume, APIX, tmp_path, SimulationSettings(n_particles=150, snr=0.5, seed=1))
    stack = tmp_path / "Particles" / "particles_001.mrcs"
    radius = np.hypot(np.fft.fftfreq(BOX)[:, None], np.fft.rfftfreq(BOX)) * BOX
    coloured = np.fft.irfft2(np.fft.rfft2(np.random.default_rng(0).standard_normal((150, BOX, BOX))) * (4 / (1 + radius / 4)))
    with mrcfile.open(stack, "r+") as handle:
        handle.data[:] = handle.data + coloured.astype(np.float32)
    table = read(tmp_path)
    refiner = Refiner(table, both(reference), SETTINGS)
    refiner.calibrate(*truth(table))
    (weights,) = refiner.weights.values()
    shells = np.arange(2, 13)
    power = weights.noise.numpy()[shells] ** 2
    expected = 1 + (4 / (1 + shells / 4)) ** 2  # with the white noise of the simulation
    assert power / power.mean() == pytest.approx(expected / expected.mean(), rel=0.15)


def test_a_map_that_does_not_fit_in_memory_is_refused(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryopares_core.refinement.slices.free_memory_bytes", lambda: 1e6)
    with pytest.raises(UserError, match="coarser --resolution_angs"):
        SliceTable(reference.volume, APIX, 18.0)


def test_grids_hold_their_centre_and_their_reach() -> None:
    turns = turns_within(6.0, 2.0)
    angles = pose_error_degs(turns, torch.eye(3))
    assert float(angles.min()) == 0 and float(angles.max()) == pytest.approx(6.0, abs=1e-3)
    assert len(turns) == sum(x * x + y * y + z * z <= 9 for x in range(-3, 4) for y in range(-3, 4) for z in range(-3, 4))
    shifts = shifts_within(5.0, 2.5)
    assert len(shifts) == 13 and (shifts.norm(dim=1) <= 5.001).all()
    assert len(turns_within(0.0, 0.0)) == len(shifts_within(0.0, 1.0)) == 1


def test_frequencies_are_half_of_all() -> None:
    for box in (16, 17):
        frequencies = Frequencies(box, 2.0, 4.5)
        pairs = {tuple(pair) for pair in (frequencies.xy * box * 2.0).round().int().T.tolist()}
        limit = min(box * 2.0 / 4.5, (box - 1) / 2)
        every = {(x, y) for x in range(-box, box) for y in range(-box, box) if 0 < math.hypot(x, y) <= limit}
        assert len(pairs) == len(frequencies) and pairs | {(-x, -y) for x, y in pairs} == every
        assert not pairs & {(-x, -y) for x, y in pairs}
