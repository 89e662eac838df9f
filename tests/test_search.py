"""The search: scores against the definition, symmetric grids, poses found from nothing, and maps that the images do not show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs, random_rotations, rotvec_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.ascent import climb
from cryopares_core.refinement.fit import Observed, centred, fit
from cryopares_core.refinement.maps import Reference
from cryopares_core.refinement.slices import SliceTable
from cryopares_core.search.calibrate import SearchCalibration, sample_of
from cryopares_core.search.candidates import learn_stage
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.grid import SearchGrid
from cryopares_core.search.likelihood import MapLikelihood
from cryopares_core.search.opinion import NetworkOpinion
from cryopares_core.search.peaks import PeakFinder
from cryopares_core.search.polish import rotation_covariance
from cryopares_core.search.prior import FLAT, NetworkPrior, learn_prior
from cryopares_core.search.settings import SearchSettings
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

BOX, APIX = 32, 8.0
C1 = torch.eye(3, dtype=torch.float64)[None]


def simulated(folder: Path, snr: float, n: int = 100, seed: int = 2) -> ParticleTable:
    simulate_particles(phantom_map(BOX, APIX), APIX, folder, SimulationSettings(n_particles=n, snr=snr, seed=seed))
    return read_particles([folder / "particles.star"], folder)[0]


@pytest.fixture(scope="module")
def particles(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    """100 particles at a signal-to-noise ratio of 0.5."""
    return simulated(tmp_path_factory.mktemp("particles"), 0.5)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> ParticleTable:
    """100 particles of which not all can be found."""
    return simulated(tmp_path_factory.mktemp("noisy"), 0.06, seed=3)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(phantom_map(BOX, APIX), APIX)


def calibrated(table: ParticleTable, reference: Reference, **settings) -> tuple[PoseSearch, SearchCalibration]:
    search = PoseSearch(table, {1: reference, 2: reference}, SearchSettings(**settings))
    calibration = SearchCalibration(search, sample_of(search), shifts_of(table, search))
    calibration.learn_weights()
    return search, calibration


def shifts_of(table: ParticleTable, search: PoseSearch) -> torch.Tensor:
    known = torch.from_numpy(table.shifts_angs).float()
    return known if len(search.offsets) == 1 else torch.zeros_like(known)


def found_by(search: PoseSearch, table: ParticleTable, opinion: NetworkOpinion | None = None):
    """Poses of all particles of a table with one stack, in its order."""
    block = next(search.source.blocks(np.arange(len(table))))
    assert np.array_equal(block.indices, np.arange(len(table)))
    return search(search.source.spectra(block), block.indices, shifts_of(table, search), opinion)


def errors(poses: torch.Tensor, table: ParticleTable) -> torch.Tensor:
    return pose_error_degs(poses.double(), euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)))


# ---- scores


def some_images(slices: SliceTable, n: int = 5) -> Observed:
    """Random images and transfer functions at some 60 frequencies."""
    draws = torch.Generator().manual_seed(0)
    axis = torch.arange(-8, 9)
    y, x = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    chosen = (x.square() + y.square() <= 36) & ((x > 0) | ((x == 0) & (y > 0)))
    xy = torch.stack((x, y))[:, chosen].float() / (BOX * APIX)
    data, transfer = (torch.randn(n, *shape, xy.shape[1], generator=draws) for shape in ((2,), ()))
    return Observed(data, transfer, xy)


def test_scores_are_those_of_the_definition(reference):
    slices, grid = SliceTable(reference.volume, APIX, 20.0), SearchGrid(1, C1)
    seen, offsets = some_images(slices), torch.tensor([[0.0, 0.0], [9.0, -4.0], [-15.0, 6.0]])
    likelihood = MapLikelihood(slices, seen.xy, grid)
    scores, place = likelihood.all_scores(seen, offsets)
    naive = torch.stack(
        [
            torch.stack([fit(slices, seen, pose.expand(len(seen), 3, 3), offset.expand(len(seen), 2)).score for offset in offsets])
            for pose in grid.pose_matrices
        ]
    )  # (points, shifts, images)
    best, where = naive.permute(2, 0, 1).max(dim=2)
    assert (scores - best).abs().max() < 2e-4 * best.abs().max()
    assert (place == where).float().mean() > 0.999

    rows = torch.arange(grid.n_rows).flip(0)[None, : grid.n_rows // 2].repeat(len(seen), 1)
    part, places = likelihood.scores_of_rows(seen, rows, offsets)
    tried = grid.pair_up(*2 * [torch.zeros(len(seen), grid.n_rows).scatter(1, rows, 1.0)]) > 0
    assert torch.equal(part > -math.inf, tried)
    assert torch.allclose(part[tried], scores[tried], atol=1e-4) and (places[tried] == place[tried]).float().mean() > 0.999


def test_a_known_shift_is_the_same_as_a_searched_one(reference):
    slices, grid = SliceTable(reference.volume, APIX, 20.0), SearchGrid(1, C1)
    seen, shift = some_images(slices), torch.tensor([[7.0, -3.0]])
    likelihood = MapLikelihood(slices, seen.xy, grid)
    moved = Observed(centred(seen, shift.expand(len(seen), 2)), seen.transfer, seen.xy)
    at_zero, searched = (likelihood.all_scores(*given)[0] for given in ((moved, torch.zeros(1, 2)), (seen, shift)))
    assert torch.allclose(at_zero, searched, atol=1e-4)


@pytest.mark.parametrize("name", ["C1", "C5", "D7", "T", "O", "I"])
def test_the_grid_covers_the_asymmetric_unit_once(name):
    group = point_group(name).matrices
    grid, whole = SearchGrid(3, group), SearchGrid(3, C1)
    assert len(whole) == 36_864 and len(grid) * group.shape[0] < (1.0 + 0.75 * (group.shape[0] > 1)) * len(whole) * 1.35
    poses, points = random_rotations(100, torch.Generator().manual_seed(0)).float(), grid.pose_matrices.flatten(1)
    nearest = torch.stack([((poses @ element).flatten(1) @ points.T).amax(dim=1) for element in group.float()]).amax(dim=0)
    angle = torch.rad2deg(((nearest - 1) / 2).clamp(-1, 1).acos())
    assert angle.max() < grid.spacing_degs and angle.mean() < 0.6 * grid.spacing_degs


# ---- poses


def test_poses_are_found_from_nothing(particles, reference):
    search, _ = calibrated(particles, reference)
    found = found_by(search, particles)
    error = errors(found.poses[:, 0], particles)
    assert (error < 5).double().mean() > 0.97 and error.median() < 2.0
    assert (found.mass.sum(dim=1) <= 1.001).all() and found.mass[:, 0].mean() > 0.9


def test_shifts_are_found_with_the_poses(particles, reference):
    search, _ = calibrated(particles, reference, shift_search_angs=36.0, order=2)
    found = found_by(search, particles)
    assert (errors(found.poses[:, 0], particles) < 5).double().mean() > 0.95
    assert (found.shifts_angs[:, 0] - torch.from_numpy(particles.shifts_angs)).norm(dim=1).median() < 2.5


def test_candidates_of_a_good_network_find_the_same_for_less(particles, reference):
    search, calibration = calibrated(particles, reference, shift_search_angs=30.0, order=2)
    truth = euler_degs_to_matrix(torch.from_numpy(particles.eulers_deg)).float()
    near = truth @ rotvec_to_matrix(0.1 * torch.randn(len(truth), 3, generator=torch.Generator().manual_seed(1)))
    log_net = 40 * (near.flatten(1) @ search.grid.pose_matrices.flatten(1).T - 3)
    everything = np.ones(len(calibration.indices), dtype=bool)
    stage = calibration.stage(log_net[calibration.indices], everything)
    assert stage is not None and stage.n_rows <= 512 < search.grid.n_rows
    whole = found_by(search, particles)
    part = found_by(search, particles, NetworkOpinion(log_net, FLAT, stage))
    same = pose_error_degs(whole.poses[:, 0], part.poses[:, 0]) < 1
    assert same.double().mean() > 0.98
    likelihood, _ = calibration.log_likelihood
    blind = torch.randn(likelihood.shape, generator=torch.Generator().manual_seed(2))
    assert learn_stage(search.grid, likelihood, blind) is None


def test_the_mass_says_how_many_poses_are_right(noisy, reference):
    search, _ = calibrated(noisy, reference)
    found = found_by(search, noisy)
    right = (errors(found.poses[:, 0], noisy) < 5).double()
    assert 0.2 < right.mean() < 0.95
    assert abs(found.mass[:, 0].mean() - right.mean()) < 0.22
    order = found.mass[:, 0].argsort()
    assert right[order[len(order) // 2 :]].mean() > right[order[: len(order) // 2]].mean() + 0.2


def test_symmetric_mates_are_one_pose(reference):
    grid, group = SearchGrid(3, point_group("C5").matrices), point_group("C5").matrices
    finder = PeakFinder(grid, group, 3, torch.device("cpu"))
    whole = torch.stack([(grid.pose_matrices @ element.float()) for element in group])
    target = random_rotations(1, torch.Generator().manual_seed(4)).float()
    height = 200 * ((whole.flatten(2) @ target.flatten()) - 3).amax(dim=0)
    peaks = finder(height[None])
    assert peaks.points[0, 0] == height.argmax() and peaks.heights[0, 1] < peaks.heights[0, 0] - 1


def test_the_spread_is_that_of_the_likelihood(particles, reference):
    search, _ = calibrated(particles, reference)
    slices, kind = search.maps.all[0], search.source.kinds[0]
    block = next(search.source.blocks(np.arange(20)))
    seen = search.weights[kind].observed(search.source.spectra(block))
    start = euler_degs_to_matrix(torch.from_numpy(particles.eulers_deg[:20])).float()
    best = climb(slices, seen, start, torch.from_numpy(particles.shifts_angs[:20]).float(), 12)
    covariance = rotation_covariance(best.fit)
    step = 0.01
    for axis in range(3):
        turn = torch.zeros(3)
        turn[axis] = step
        # The shift gives way at each turn, as in the covariance's definition.
        both = [_height(slices, seen, rotvec_to_matrix(sign * turn) @ best.poses, best.shifts) for sign in (1, -1)]
        numeric = -(both[0] + both[1] - 2 * best.fit.score.square()) / step**2
        marginal = 1 / torch.linalg.inv(covariance)[:, axis, axis]
        assert (numeric * marginal).median() == pytest.approx(1, abs=0.35)


def _height(slices, seen, poses, shifts):
    """f squared at some poses, at the best shift nearby."""
    axis = torch.arange(-2.0, 2.1, 0.5)
    tried = [fit(slices, seen, poses, shifts + torch.tensor([x, y])).score.square() for x in axis for y in axis]
    return torch.stack(tried).amax(dim=0)


def test_an_empty_image_gives_numbers(particles, reference):
    """Nothing at the frequencies of the search: any pose, no confidence, and no error."""
    search, _ = calibrated(particles, reference)
    block = next(search.source.blocks(np.arange(3)))
    spectra = search.source.spectra(block)
    spectra.values[1] = 0
    found = search(spectra, block.indices, torch.zeros(3, 2))
    assert all(values.isfinite().all() for values in (found.poses, found.shifts_angs, found.mass, found.spread_degs))
    assert found.mass[1, 0] < 0.01 < found.mass[0, 0]


# ---- what the network is worth, and what the map is


def test_the_network_counts_only_where_it_helps():
    draws = torch.Generator().manual_seed(0)
    n, points = 300, 500
    truth = torch.randint(points, (n,), generator=draws)
    is_true = torch.zeros(n, points, dtype=torch.bool).scatter(1, truth[:, None], True)
    likelihood = torch.randn(n, points, generator=draws) + 3.0 * is_true
    knows = 2.0 * torch.randn(n, points, generator=draws) + 8.0 * is_true
    blind = 2.0 * torch.randn(n, points, generator=draws)
    assert learn_prior(likelihood, blind, is_true) == FLAT
    prior = learn_prior(likelihood, knows, is_true)
    assert not prior.is_flat
    right = [(values.argmax(dim=1) == truth).double().mean() for values in (likelihood, likelihood + prior.log_density(knows))]
    assert right[1] > right[0] + 0.1


def test_the_prior_is_a_density_and_bounded():
    log_net = 30 * torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    density = NetworkPrior(0.8, 0.1).log_density(log_net)
    assert torch.allclose(density.exp().mean(dim=1), torch.ones(4), atol=1e-4)
    assert density.min() >= math.log(0.1) - 1e-5 and torch.equal(FLAT.log_density(log_net), torch.zeros_like(log_net))


def test_images_show_their_map_and_no_other(particles, reference, tmp_path):
    _, right = calibrated(particles, reference)
    verdict = right.judge()
    assert not verdict.is_doubtful and not verdict.is_inverted and verdict.free_share > 0.6
    _, negative = calibrated(particles, Reference(-reference.volume, APIX))
    assert negative.judge().is_inverted
    other = np.zeros_like(reference.volume)
    other[10:22, 8:14, 12:24] = 1.0
    other[14:18, 12:25, 10:14] = 2.0
    _, wrong = calibrated(particles, Reference(other, APIX))
    assert wrong.judge().is_doubtful
    noise = simulated(tmp_path, 1e-6)
    _, nothing = calibrated(noise, reference)
    assert nothing.judge().is_doubtful
