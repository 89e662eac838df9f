"""Training that begins with less noise: the pictures it makes, how the noise rises, and what it leaves alone."""

import json

import numpy as np
import pytest
import starfile
import torch
from settings import SMALL

from cryopares_core.commands.train import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.prepare import complete_settings, prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.particles.star import read_particles
from cryopares_core.training.curriculum import NoiseCurriculum
from cryopares_core.training.starting_map import KnownParticles, make_starting_map
from cryopares_core.volumes.maps import read_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

COUNT, SNR = 1500, 0.2
GROUP = torch.eye(3, dtype=torch.float64)[None]
MODES = ["phase_flip", "none", "concat_phase_flip", "ctf_multiply"]


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """1,500 noisy particles of 32 px."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(32, 10.0), 10.0, folder, SimulationSettings(n_particles=COUNT, snr=SNR, seed=3))
    return folder


def known(folder, mode="phase_flip"):
    table, _ = read_particles(folder / "particles.star")
    settings = complete_settings(table, PreprocessSettings(ctf_mode=mode))
    angles = torch.from_numpy(table.eulers_deg).float()
    return KnownParticles(prepare_particles(table, settings), angles, ctf_tensors(table.ctf)), settings


def map_for(folder, mode="phase_flip", ids=None):
    """The particles, and the map of all but the last hundred, or of `ids`."""
    found, settings = known(folder, mode)
    torch.manual_seed(0)
    ids, held_out = torch.arange(COUNT - 100) if ids is None else ids, torch.arange(COUNT - 100, COUNT)
    return found, make_starting_map(found, ids, held_out, settings, GROUP, torch.device("cpu"))


def options(folder, out_dir):
    words = ["--symmetry", "C1", "--particles_star_fname", str(folder / "particles.star"), "--particles_dir", str(folder)]
    words += ["--train_save_dir", str(out_dir), "--batch_size", "64", "--n_threads", "1", "--n_epochs", "1"]
    return [*words, "--split_halfs", "False"]


def correlation(a, b):
    return float(np.corrcoef(a.flatten().double(), b.flatten().double())[0, 1])


@pytest.mark.parametrize("mode", MODES)
def test_pictures_show_the_new_pose_under_less_of_their_own_noise(particles, mode):
    found, starting_map = map_for(particles, mode)
    curriculum = NoiseCurriculum(starting_map, GROUP)
    ids = torch.arange(200)
    images, angles = found.images[ids].float(), found.eulers_degs[ids]
    changed, new_angles = curriculum(images, angles, ids)
    inside = circular_mask(32, 13) > 0
    own = curriculum.expected(ids, euler_degs_to_matrix(angles).float())
    new = curriculum.expected(ids, euler_degs_to_matrix(new_angles).float())
    rest = changed - new
    torch.testing.assert_close(rest, curriculum.first_noise * (images - own), atol=1e-4, rtol=0)
    assert correlation(rest[..., inside], new[..., inside]) == pytest.approx(0, abs=0.05)
    # What is taken away is signal: without it the rest has hardly more than the background's variance.
    assert (images - own)[..., inside].var() < images[..., inside].var() - 0.5 * own[..., inside].var()


@pytest.mark.parametrize("mode", MODES)
def test_the_map_is_the_particles(particles, mode):
    _, found = map_for(particles, mode)
    truth = torch.from_numpy(read_map(particles / "reference.mrc")[0])
    assert correlation(found.volume, truth) > 0.85
    assert 20 <= found.resolution_angs < 50
    assert found.agreement == pytest.approx(1, abs=0.25)
    if mode == "none":  # the others have less or more of the signal
        assert found.snr == pytest.approx(SNR, rel=0.4)


@pytest.mark.parametrize("count", [2, 30, 260])
def test_few_particles_make_a_map_too(particles, count):
    _, found = map_for(particles, ids=torch.arange(count))
    assert torch.isfinite(found.volume).all()
    assert np.isfinite(found.agreement)
    assert count < 260 or found.agreement > 0.5


def test_half_sets_make_their_own_maps(particles):
    found, first = map_for(particles, ids=torch.arange(0, COUNT, 2))
    settings = first.expected.settings
    found.images[1::2] = 0
    torch.manual_seed(0)
    again = make_starting_map(found, torch.arange(0, COUNT, 2), torch.arange(10), settings, GROUP, torch.device("cpu"))
    torch.testing.assert_close(again.volume, first.volume)


def test_the_noise_rises_with_success_and_in_any_case_by_half_time(particles):
    curriculum = NoiseCurriculum(map_for(particles)[1], GROUP)
    first = curriculum.first_noise
    hopeless, good = torch.full((8,), 150.0), torch.full((8,), 10.0)
    assert first < 0.5
    curriculum.advance(hopeless, 0, 1000)
    assert float(curriculum.noise) == pytest.approx(first, rel=0.01)
    levels = []
    for step in range(1, 60):
        curriculum.advance(good, step, 1000)
        levels.append(float(curriculum.noise))
    assert levels == sorted(levels)
    assert levels[-1] > 1.2 * first
    curriculum.advance(hopeless, 499, 1000)
    assert curriculum.finished


def test_clear_particles_need_no_curriculum(tmp_path, capsys):
    simulate_particles(phantom_map(32, 10.0), 10.0, tmp_path, SimulationSettings(n_particles=300, snr=20.0, seed=3))
    assert main([*options(tmp_path, tmp_path), "--overfit_batches", "1", "--config", *SMALL]) == 0
    assert "other particles fit it" in capsys.readouterr().out
    assert "noise" not in (tmp_path / "version_0/allParticles/metrics.jsonl").read_text()


def test_poses_that_make_no_map_are_told(particles, tmp_path, capsys):
    tables = starfile.read(particles / "particles.star")
    rows = tables["particles"]
    angles = ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    rows[angles] = rows[angles].sample(frac=1, random_state=1).to_numpy()
    starfile.write(tables, tmp_path / "particles.star")
    words = options(tmp_path, tmp_path)
    words[words.index("--particles_dir") + 1] = str(particles)
    assert main([*words, "--overfit_batches", "1", "--config", *SMALL]) == 0
    assert "do not fit it at their poses" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "version_0/allParticles/metrics.jsonl").read_text())
    assert all(np.isfinite(value) for value in metrics.values())
    assert "noise" not in metrics


def test_a_run_begins_with_less_noise_and_goes_on_where_it_was(particles, tmp_path, capsys):
    options = ["--symmetry", "C1", "--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    options += ["--train_save_dir", str(tmp_path), "--batch_size", "64", "--n_threads", "1", "--n_epochs"]
    assert main([*options, "2", "--config", *SMALL, "train.noise_curriculum=False"]) == 0
    assert "noise" not in (tmp_path / "version_0/half1/metrics.jsonl").read_text()
    assert main([*options, "2", "--config", *SMALL]) == 0
    half = tmp_path / "version_1" / "half1"
    volume, _ = read_map(half / "starting_map.mrc")
    assert correlation(torch.from_numpy(volume), torch.from_numpy(read_map(particles / "reference.mrc")[0])) > 0.8
    lines = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert 0.2 < lines[0]["noise"] < 0.9
    assert lines[1].get("noise", 1.0) > lines[0]["noise"]
    state = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
    assert float(state["curriculum"]["noise"]) == 1.0
    assert "training starts with" in capsys.readouterr().out
    assert main(["--continue_checkpoint_dir", str(tmp_path / "version_1"), "--n_epochs", "3"]) == 0
    lines = [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert "noise" not in lines[2]
