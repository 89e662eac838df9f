"""Whether confidence means what it says, on particles that it was not learned from, and tells junk from particles."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from untrained import SAMPLING, SIZE, add_validation, untrained_run

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.geometry.wigner import Wigner, degree_slices
from cryopares_core.inference.confidence import Judge
from cryopares_core.inference.models import load_models, model_folders
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.model.density import PoseDensity
from cryopares_core.model.modes import ModeFinder, Modes
from cryopares_core.model.storage import load_model, read_card, save_model
from cryopares_core.particles.ctf import CtfTensors, ctf_2d, ctf_tensors
from cryopares_core.particles.order import file_order
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.table import FLIPPED, MULTIPLIED
from cryopares_core.plots.calibration import calibration_gap
from cryopares_core.training.calibrate import calibrate_half_set, is_calibrated, read_calibration
from cryopares_core.training.calibration import Signs, calibration_text, write_calibration
from cryopares_core.training.calibration_fit import fit_calibration
from cryopares_core.volumes.expected import ExpectedPictures
from cryopares_core.volumes.maps import write_stack
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.picture_fit import PictureFit
from cryopares_core.volumes.simulate import simulate_particles

CPU = torch.device("cpu")


def drawn(n, seed, hard_tilt=None):
    """Signs of particles, whether their poses are right, and how probable that was: more at high confidence and good fit, less
    at tilts around `hard_tilt`.
    """
    draws = np.random.default_rng(seed)
    stated, fit = draws.uniform(0.005, 0.2, n), np.tanh(draws.normal(0.5, 0.15, n))
    tilt = np.degrees(np.arccos(draws.uniform(-1, 1, n)))
    angles = np.stack((draws.uniform(-180, 180, n), tilt, draws.uniform(-180, 180, n)), axis=1)
    logit = 1.2 * np.log(stated) + 4.0 + 1.5 * (np.arctanh(fit) - 0.5) / 0.15
    if hard_tilt is not None:
        logit -= 2.5 * (np.abs(tilt - hard_tilt) < 25)
    probability = 1 / (1 + np.exp(-logit))
    return Signs(stated, angles, fit), draws.random(n) < probability, probability


def learned(signs, right, symmetry="C1"):
    """The calibration of particles whose errors are 2 or 40 degrees."""
    return fit_calibration(signs, np.where(right, 2.0, 40.0), symmetry)


def log_loss(p, right):
    return -np.mean(np.log(np.where(right, p, 1 - p)))


@pytest.mark.parametrize(("n", "gap", "loss"), [(200, 0.06, 0.03), (3000, 0.025, 0.003)])
def test_confidence_comes_true_for_new_particles(n, gap, loss):
    signs, right, _ = drawn(n, 1)
    calibration = learned(signs, right)
    new, new_right, true = drawn(8000, 2)
    found = calibration(new)
    assert calibration_gap(found, new_right) < gap < 0.3 < calibration_gap(new.stated, new_right)
    assert log_loss(found, new_right) < log_loss(true, new_right) + loss
    assert (calibration.n, calibration.right.after.count.sum()) == (n, n)
    assert calibration.right.gap_after < calibration.right.gap_before


def test_hard_views_are_told_where_there_are_enough_particles():
    new, _, true = drawn(8000, 3, hard_tilt=60)
    hard = np.abs(new.eulers_degs[:, 1] - 60) < 20
    errors = {}
    for n in (60, 6000):
        signs, right, _ = drawn(n, 4, hard_tilt=60)
        calibration = learned(signs, right)
        errors[n] = np.abs(calibration(new)[hard].mean() - true[hard].mean())
        widest = np.abs(calibration.right.view_logits).max()
        assert widest < 1.5 if n == 60 else widest > 0.8
    assert errors[6000] < 0.05 < 0.1 < _without_views(new, true, hard)
    plain, right, _ = drawn(6000, 5)
    assert np.abs(learned(plain, right).right.view_logits).max() < 0.6


def _without_views(new, true, hard):
    """How far off confidence in the hard views is where all views count alike."""
    signs, right, _ = drawn(6000, 4, hard_tilt=60)
    alike = learned(Signs(signs.stated, np.zeros((6000, 3)), signs.fit), right)
    return np.abs(alike(Signs(new.stated, np.zeros((8000, 3)), new.fit))[hard].mean() - true[hard].mean())


def test_views_that_symmetry_makes_alike_are_one():
    signs, right, _ = drawn(2000, 6, hard_tilt=40)
    calibration = learned(signs, right, "D2")
    group, poses = point_group("D2").matrices, euler_degs_to_matrix(torch.from_numpy(signs.eulers_degs))
    found = [calibration(Signs(signs.stated, matrix_to_euler_degs(poses @ mate).numpy(), signs.fit)) for mate in group]
    assert np.abs(np.diff(found, axis=0)).mean() < 0.01  # pixels of the sphere are not symmetric, views in them are


def test_more_confidence_never_means_less():
    signs, right, _ = drawn(400, 7)
    calibration = learned(signs, ~right)  # the opposite of what is so
    steps = Signs(np.linspace(0.001, 0.9, 50), np.zeros((50, 3)), np.full(50, 0.4))
    assert (np.diff(calibration(steps)) >= 0).all()
    better = Signs(np.full(50, 0.1), np.zeros((50, 3)), np.linspace(-0.5, 0.9, 50))
    assert (np.diff(calibration(better)) >= 0).all()


def test_poses_that_refinement_can_save_are_told_apart():
    """Errors of 2, 10 and 40 degrees: the first are right, the second near."""
    signs, right, _ = drawn(3000, 13)
    _, near, _ = drawn(3000, 14)
    calibration = fit_calibration(signs, np.where(right, 2.0, np.where(near, 10.0, 40.0)), "C1")
    new, new_right, probability = drawn(8000, 15)
    one_or_the_other = probability + (1 - probability) * near.mean()
    assert np.abs(calibration(new, calibration.near) - one_or_the_other).mean() < 0.03
    assert calibration_gap(calibration(new), new_right) < 0.03
    assert (calibration.right.radius_degs, calibration.near.radius_degs) == (5.0, 15.0)


def test_without_a_map_the_network_is_all_there_is():
    signs, right, _ = drawn(2000, 8)
    calibration = learned(Signs(signs.stated, signs.eulers_degs), right)
    new, new_right, _ = drawn(8000, 9)
    assert calibration.fit_scale is None and calibration_gap(calibration(new), new_right) < 0.03
    with_map = learned(signs, right)
    assert log_loss(with_map(new), new_right) < log_loss(calibration(new), new_right) - 0.05


def test_it_is_kept_beside_the_model(tmp_path):
    signs, right, _ = drawn(300, 10, hard_tilt=90)
    calibration = learned(signs, right)
    write_calibration(tmp_path, calibration)
    np.testing.assert_allclose(read_calibration(tmp_path, "C1")(signs), calibration(signs), atol=1e-3)


def test_where_it_is_missing_or_old_the_validation_serves(tmp_path):
    half = untrained_run(tmp_path, ["half1"]) / "half1"
    assert read_calibration(half, "C1") is None
    add_validation(half.parent, 15)
    assert read_calibration(half, "C1") is None  # too few
    add_validation(half.parent, 300)
    found = read_calibration(half, "C1")
    assert found.n == 300 and found.right.gap_after < 0.1 < found.right.gap_before
    write_calibration(half, found)
    add_validation(half.parent, 200)
    os.utime(half / "calibration.json", ns=(0, 0))
    assert read_calibration(half, "C1").n == 300  # a copied folder may have any times
    another_model(half)
    assert read_calibration(half, "C1").n == 200
    (half / "validation.csv").unlink()
    assert read_calibration(half, "C1") is None


def another_model(half):
    """In the place of that of a half set."""
    network, card = load_model(half)
    with torch.no_grad():
        network.so3conv.theta.mul_(1.01)
    save_model(half, card, network)


def test_a_calibration_of_before_goes_by_its_time(tmp_path):
    half = untrained_run(tmp_path, ["half1"]) / "half1"
    add_validation(half.parent, 300)
    (half / "calibration.json").write_text(calibration_text(learned(*drawn(250, 10)[:2])))
    assert is_calibrated(half) and read_calibration(half, "C1").n == 250
    os.utime(half / "calibration.json", ns=(0, 0))
    assert not is_calibrated(half) and read_calibration(half, "C1").n == 300


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda values: values.update(format=9), "newer than this version"),
        (lambda values: values["right"].update(curve=[1.0, 2.0]), "damaged"),
        (lambda values: values["near"].pop("view_logits"), "damaged"),
        (lambda values: values["right"]["view_logits"].__setitem__(3, None), "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, told):
    signs, right, _ = drawn(100, 11)
    write_calibration(tmp_path, learned(signs, right))
    path = tmp_path / "calibration.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"calibration.json: .*{told}"):
        read_calibration(tmp_path, "C1")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """200 particles as noisy as real ones, prepared; the last 50 pictures are replaced by noise alone."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, folder, SimulationSettings(n_particles=200, snr=0.3, seed=3))
    table, _ = read_particles(folder / "particles.star")
    settings = PreprocessSettings(SAMPLING, SIZE)
    images = prepare_particles(table, settings).float()
    images[150:] = torch.randn(50, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return table, images, settings


def auc(score, good):
    """How often a good one has the higher score."""
    return (score[good][:, None] > score[~good]).float().mean().item()


def test_pictures_fit_the_map_at_their_poses_and_junk_nowhere(prepared):
    table, images, settings = prepared
    fit = PictureFit(torch.from_numpy(phantom_map(SIZE, SAMPLING)), settings)
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)).float()
    others = random_rotations(200, torch.Generator().manual_seed(1)).float()
    found = fit(images, ctf_tensors(table.ctf), torch.stack((poses, others), dim=1))
    assert found.shape == (200, 2)
    assert (found[:150, 0] > found[:150, 1]).float().mean() > 0.95
    good = torch.arange(200) < 150
    assert auc(found[:, 0], good) > 0.98


def test_the_fit_is_a_correlation():
    """Of pictures without noise 1, also where they are looked at in coarser pixels; of their negatives -1."""
    for size in (48, 96):
        volume = torch.from_numpy(phantom_map(size, 5.0))
        settings = PreprocessSettings(5.0, size, "none")
        fit, poses = PictureFit(volume, settings), random_rotations(8, torch.Generator().manual_seed(2)).float()
        ctf = CtfTensors(*(torch.full((8,), value) for value in (2e4, 2e4, 0.0, 300.0, 2.7, 0.1, 0.0)))
        pictures = ExpectedPictures(volume, settings, ctf)(torch.arange(8), poses)
        assert fit(pictures, ctf, poses[:, None]).min() > 0.98
        assert fit(-pictures, ctf, poses[:, None]).max() < -0.98


@pytest.mark.parametrize("kind", [FLIPPED, MULTIPLIED])
@pytest.mark.parametrize("mode", ["none", "phase_flip", "ctf_multiply"])
def test_the_fit_knows_of_ctfs_that_were_corrected_before(tmp_path, kind, mode):
    volume, settings = (
        phantom_map(48, 5.0),
        SimulationSettings(n_particles=30, snr=1e4, seed=4, defocus_min_angs=40_000, stack_size=30),
    )
    simulate_particles(volume, 5.0, tmp_path, replace(settings, defocus_max_angs=60_000, sigma_shift_px=0, max_shift_px=0))
    table, _ = read_particles(tmp_path / "particles.star")
    ctf, poses = ctf_tensors(table.ctf), euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)).float()[:, None]
    planes = ctf_2d(ctf, 5.0, 48)
    spectra = torch.fft.rfft2(torch.from_numpy(read_images(table, np.arange(30))))
    factor = torch.where(planes < 0, -1.0, 1.0) if kind == FLIPPED else planes
    write_stack(table.stack_paths[0], torch.fft.irfft2(spectra * factor, s=(48, 48)).float().numpy(), 5.0)
    said = replace(table, ctf=replace(table.ctf, corrected=np.full(30, kind)))
    fit = PictureFit(torch.from_numpy(volume), PreprocessSettings(5.0, 48, mode))
    known, unknown = (
        fit(prepare_particles(of, PreprocessSettings(5.0, 48, mode)).float(), ctf_tensors(of.ctf), poses) for of in (said, table)
    )
    assert known.min() > 0.95 and known.mean() > unknown.mean() + 0.02


def test_a_half_set_is_calibrated_by_its_own_particles(prepared, tmp_path):
    table, images, _ = prepared
    half = untrained_run(tmp_path, ["half1"]) / "half1"
    eulers, ctf = torch.from_numpy(table.eulers_deg), ctf_tensors(table.ctf)
    assert calibrate_half_set(half, images, eulers, ctf, np.arange(10), CPU) is None and not (half / "calibration.json").exists()
    calibration = calibrate_half_set(half, images, eulers, ctf, np.arange(100, 150), CPU)
    assert calibration.n == 50 and calibration.fit_scale is not None
    # An untrained network is never right, and the calibration says so.
    signs = Signs(np.full(5, 0.2), np.zeros((5, 3)), np.full(5, calibration.fit_scale[0]))
    assert calibration(signs).max() < 0.2
    assert read_calibration(half, "C1").n == 50


def test_a_better_model_wants_a_calibration_of_its_own(prepared, tmp_path):
    table, images, _ = prepared
    half = untrained_run(tmp_path, ["half1"]) / "half1"
    assert not is_calibrated(half)
    calibrate_half_set(half, images, torch.from_numpy(table.eulers_deg), ctf_tensors(table.ctf), np.arange(100, 150), CPU)
    later = (half / "calibration.json").stat().st_mtime + 1
    os.utime(half / "model.safetensors", (later, later))
    assert is_calibrated(half)
    another_model(half)
    assert not is_calibrated(half)


def test_without_ctfs_the_map_has_no_say(prepared, tmp_path):
    """And the file has no numbers that are not finite."""
    table, images, _ = prepared
    half = untrained_run(tmp_path, ["half1"], config=["datamanager.particlesDataset.ctf_correction=none"]) / "half1"
    unknown = CtfTensors(*torch.zeros(7, 200))
    found = calibrate_half_set(half, images, torch.from_numpy(table.eulers_deg), unknown, np.arange(100, 150), CPU)
    assert found.fit_scale is None and read_calibration(half, "C1").n == 50
    assert "NaN" not in (half / "calibration.json").read_text()


def test_modes_are_judged_by_the_map_too(prepared, tmp_path):
    """Of two poses, of which the network prefers the wrong one, the one that the picture fits becomes the first."""
    table, images, _ = prepared
    run = untrained_run(tmp_path, ["half1"])
    signs, right, _ = drawn(2000, 12)
    write_calibration(run / "half1", learned(signs, right))
    judge = Judge(list(load_models(model_folders(run), {"half1"}).values()), CPU)
    poses = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg[:150])).float()
    wrong = random_rotations(150, torch.Generator().manual_seed(3)).float()
    modes = Modes(torch.stack((wrong, poses), dim=1), torch.tensor([0.12, 0.10]).expand(150, 2))
    judged = judge(modes, images[:150], ctf_tensors(table.ctf, np.arange(150)))
    first = euler_degs_to_matrix(torch.from_numpy(judged.eulers_degs[:, 0])).float()
    assert (pose_error_degs(first, poses) < 0.1).float().mean() > 0.9
    assert (judged.confidence.sum(axis=1) < 1 + 1e-6).all() and (np.diff(judged.confidence, axis=1) <= 0).all()


def with_peaks(density, poses, heights):
    """Coefficients `(n, 1)` of a log-density with peaks at poses."""
    total = torch.zeros(sum((2 * d + 1) ** 2 for d in range(density.lmax + 1)), 1)
    for pose, height in zip(poses, heights, strict=True):
        packed = Wigner(density.lmax, torch.float64)(pose[None]).T
        for degree, place in enumerate(degree_slices(density.lmax)):
            total[place] += height * (2 * degree + 1) * np.exp(-0.02 * degree * (degree + 1)) * packed[place].float()
    return density.symmetrise(total / 100)


@pytest.mark.parametrize("name", ["C1", "C4", "D2"])
def test_the_highest_modes_are_found_once_each(name):
    group = point_group(name)
    density = PoseDensity(6, 2, group, 5.0, 0.0)
    poses = random_rotations(3, torch.Generator().manual_seed(5))
    coefficients = with_peaks(density, poses, (6.0 * group.order, 5.0 * group.order, 4.0 * group.order))
    find = ModeFinder(density, name, count=3)
    modes = find(coefficients)
    distance = pose_error_degs(modes.poses[0].double()[:, None], poses, group.matrices)
    assert distance.argmin(dim=1).tolist() == [0, 1, 2] and distance.diagonal().max() < 15
    torch.testing.assert_close(
        modes.mass[0], density.mass_within(coefficients.expand(-1, 3), modes.poses[0], 5.0), rtol=1e-3, atol=0
    )
    assert torch.equal(modes.poses[:, 0], density.poses(coefficients, density.grid_values(coefficients)))
    own = pose_error_degs(modes.poses[0][:, None], modes.poses[0], group.matrices.float())
    assert (own + 1e3 * torch.eye(3)).min() > find.separation_degs


def test_a_single_peak_has_no_second_mode():
    density = PoseDensity(6, 2, point_group("C1"), 5.0, 0.0)
    modes = ModeFinder(density, "C1", count=2)(with_peaks(density, random_rotations(1), (60.0,)))
    assert modes.mass[0, 0] > 0.1 and modes.mass[0, 1] < 1e-3


def test_a_card_says_how_pictures_are_prepared(tmp_path):
    run = untrained_run(tmp_path, ["half1"], config=["datamanager.particlesDataset.mask_radius_angs=120"])
    card = read_card(run / "half1")
    assert card.preparation == PreprocessSettings(SAMPLING, SIZE, "phase_flip", 120.0)
    assert card.mask().shape == (SIZE, SIZE) and card.mask()[0, 0] == 0 and card.mask()[SIZE // 2, SIZE // 2] == 1


def test_the_stream_gives_what_preparation_at_once_gives(prepared):
    table, _, settings = prepared
    at_once = prepare_particles(table, settings).float()
    for batch in prepared_stream(table, file_order(table), settings, CPU, 64):
        torch.testing.assert_close(batch.images, at_once[batch.indices], rtol=2e-3, atol=2e-3)
