"""The real command with a map's say: poses by network and map, by the map alone, and maps that the images do not show."""

import numpy as np
import pytest
import starfile
import torch
from untrained import ANGLES, FOM, SAMPLING, SIZE, given, some_particles, summary, untrained_run, words

from cryopares_core.commands.infer import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.inference.stream import prepared_stream
from cryopares_core.inference.verdicts import report_agreement
from cryopares_core.model.storage import read_card
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.order import file_order
from cryopares_core.particles.star import read_particles
from cryopares_core.training.calibrate import calibrate_half_set, read_calibration
from cryopares_core.volumes.maps import write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

particles = given(some_particles)
run = given(untrained_run)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "phantom.mrc"
    write_map(path, phantom_map(SIZE, SAMPLING), SAMPLING)
    return path


def by_map(particles, out, *more):
    """The words of a command without a model."""
    fixed = ["--particles_star_fname", str(particles / "particles.star"), "--results_dir", str(out), "--n_threads", "1"]
    return [*fixed, "--accelerator", "cpu", *map(str, more)]


def errors(out, particles):
    found, true = (starfile.read(folder / "particles.star")["particles"] for folder in (out, particles))
    assert found["rlnImageName"].tolist() == true["rlnImageName"].tolist()
    matrices = [euler_degs_to_matrix(torch.tensor(rows[ANGLES].to_numpy(dtype=np.float64))) for rows in (found, true)]
    return pose_error_degs(*matrices).numpy()


def test_the_map_decides_where_the_network_knows_nothing(particles, run, tmp_path, capsys):
    assert main(words(particles, run, tmp_path, "--evidence", "both")) == 0
    assert (errors(tmp_path, particles) < 8).mean() > 0.9
    assert summary(tmp_path)["evidence"] == "both"
    told = capsys.readouterr().out
    assert "The images show the map" in told and "Network and map contradict each other" in told


def test_poses_without_a_model(particles, phantom, tmp_path, capsys):
    assert main(by_map(particles, tmp_path, "--reference_fname", phantom, "--reconstruct")) == 0
    assert (errors(tmp_path, particles) < 8).mean() > 0.9
    told = summary(tmp_path)
    assert told["models"] == [] and told["evidence"] == "map" and told["symmetry"] == "C1"
    assert (tmp_path / "reconstruction" / "map.mrc").is_file()
    assert starfile.read(tmp_path / "particles.star")["particles"][FOM].mean() > 0.5
    assert "reference" in (tmp_path / "report.html").read_text()
    assert "No model: an exhaustive search" in capsys.readouterr().out


def test_each_half_set_is_searched_with_its_own_map(particles, phantom, tmp_path):
    """Half set 2 is given a map that is turned over, and its poses alone are turned over."""
    turned = tmp_path / "turned.mrc"
    write_map(turned, phantom_map(SIZE, SAMPLING).transpose(1, 2, 0), SAMPLING)
    out = tmp_path / "out"
    assert main(by_map(particles, out, "--reference_fname", phantom, "--reference_half2_fname", turned)) == 0
    error = errors(out, particles)
    half = starfile.read(out / "particles.star")["particles"]["rlnRandomSubset"].to_numpy()
    assert (error[half == 1] < 8).mean() > 0.9 and (error[half == 2] > 60).mean() > 0.9


def test_shifts_that_the_file_lacks_are_found(phantom, tmp_path):
    settings = SimulationSettings(n_particles=30, snr=5.0, seed=3, sigma_shift_px=1.0, max_shift_px=1.2)
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, tmp_path, settings)
    bare = starfile.read(tmp_path / "particles.star")
    origins = ["rlnOriginXAngst", "rlnOriginYAngst"]
    true = bare["particles"][origins].to_numpy()
    bare["particles"] = bare["particles"].drop(columns=[*origins, *ANGLES])
    starfile.write(bare, tmp_path / "bare.star")
    out, known = tmp_path / "out", by_map(tmp_path, tmp_path / "out", "--reference_fname", phantom)
    assert main(["--particles_star_fname", str(tmp_path / "bare.star"), *known[2:]]) == 0
    assert (errors(out, tmp_path) < 8).mean() > 0.9
    found = starfile.read(out / "particles.star")["particles"][origins].to_numpy()
    assert np.median(np.linalg.norm(found - true, axis=1)) < 3


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ([], "--checkpoint_dir is missing"),
        (["--reference_fname", "nowhere.mrc"], "nowhere.mrc"),
        (["--reference_fname", "a.mrc", "--evidence", "network"], "needs a model"),
        (["--reference_fname", "a.mrc", "--quarter_turns"], "needs a network"),
        (["--reference_fname", "a.mrc", "--symmetry", "X9"], "X9"),
    ],
)
def test_what_a_search_cannot_do_is_refused(particles, tmp_path, capsys, more, told):
    assert main(by_map(particles, tmp_path / "out", *more)) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_noise_ends_in_a_warning(phantom, tmp_path, capsys):
    folder = tmp_path / "noise"
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, folder, SimulationSettings(n_particles=80, snr=1e-7, seed=5))
    assert main(by_map(folder, tmp_path / "out", "--reference_fname", phantom, "--refine", "--reconstruct")) == 0
    assert "The images do not show the map" in capsys.readouterr().out
    assert any("do not show the map" in text for text in summary(tmp_path / "out")["warnings"])
    assert "do not show the map" in (tmp_path / "out" / "report.html").read_text()


def test_a_contradiction_of_network_and_map_is_reported(caplog):
    """Of the probability that chance gives to a pose, 3.5e-5 in C1 and 14 times as much in D7."""
    by_chance = (np.radians(5) - np.sin(np.radians(5))) / np.pi
    for ratio, symmetry, warns in ((1.0, "C1", True), (5.0, "C1", False), (14.0, "D7", True), (70.0, "D7", False)):
        caplog.clear()
        report_agreement(np.full(60, ratio * by_chance), symmetry)
        assert bool(caplog.records) == warns
    caplog.clear()
    report_agreement(np.full(60, np.nan), "C1")
    assert not caplog.records


def test_another_map_is_another_search(particles, phantom, run, tmp_path, capsys):
    assert main(words(particles, run, tmp_path, "--evidence", "map")) == 0
    assert main(words(particles, run, tmp_path, "--evidence", "map", "--reference_fname", phantom)) == 2
    assert "--reference_fname" in capsys.readouterr().err


def test_a_model_learns_what_its_posterior_is_worth(tmp_path):
    """The calibration of network and map together comes with that of the network, and is read back as it was."""
    model = untrained_run(tmp_path, names=("half1",)) / "half1"
    folder, card = tmp_path / "held_out", read_card(model)
    simulate_particles(phantom_map(SIZE, SAMPLING), SAMPLING, folder, SimulationSettings(n_particles=60, snr=1.0, seed=7))
    table, _ = read_particles(folder / "particles.star")
    images = torch.zeros(len(table), 1, SIZE, SIZE)
    for batch in prepared_stream(table, file_order(table), card.preparation, torch.device("cpu"), 64):
        images[batch.indices] = batch.images
    angles, ctf = torch.from_numpy(table.eulers_deg), ctf_tensors(table.ctf)
    learned = calibrate_half_set(model, images, angles, ctf, np.arange(len(table)), torch.device("cpu"), table)
    assert learned is not None and learned.posterior is not None and learned.posterior.n == len(table)
    assert learned.prior.is_flat  # the network was never trained
    read = read_calibration(model, "C1")
    assert read is not None and read.posterior is not None and read.prior == learned.prior
    assert np.allclose(read.posterior.right.curve, learned.posterior.right.curve, atol=1e-5)
    assert read.posterior.right.curve.shape == (5,)


def test_iterations_end_in_own_half_maps(particles, phantom, tmp_path, capsys):
    words_given = by_map(particles, tmp_path, "--reference_fname", phantom, "--iterations", 2)
    assert main(words_given) == 0
    assert (errors(tmp_path, particles) < 8).mean() > 0.9
    assert (tmp_path / "reconstruction" / "half1_map.mrc").is_file() and (tmp_path / "iterations").is_dir()
    assert "Fourier shell correlation" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert main(words_given) == 0 and "results of this very command" in capsys.readouterr().out
