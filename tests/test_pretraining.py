"""Training on simulated views of a map: the views themselves, before particles, alone, and after a kill."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from settings import SMALL

from cryopares_core.commands.train import main
from cryopares_core.particles.ctf import ctf_tensors
from cryopares_core.particles.prepare import complete_settings, prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings, circular_mask
from cryopares_core.particles.star import read_particles
from cryopares_core.volumes.maps import read_map, write_map
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import DISC_SHARE, simulate_particles
from cryopares_core.volumes.views import SimulatedViews, ViewSimulator, usual_ctfs

MAP = "--map_fname_for_simulated_pretraining"


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """240 particles of 32 px without noise to speak of; reference.mrc is their map."""
    folder = tmp_path_factory.mktemp("particles")
    settings = SimulationSettings(n_particles=240, snr=1e6, seed=3, sigma_shift_px=0.0)
    simulate_particles(phantom_map(32, 10.0), 10.0, folder, settings)
    return folder


def options(out_dir, *more, config=()):
    fixed = ["--symmetry", "C1", "--train_save_dir", str(out_dir), "--batch_size", "16", "--n_threads", "1"]
    return [*fixed, *more, "--config", *SMALL, *config]


def star(folder):
    return ["--particles_star_fname", str(folder / "particles.star"), "--particles_dir", str(folder)]


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["phase_flip", "none", "concat_phase_flip", "ctf_multiply"])
@pytest.mark.parametrize("sampling, size", [(None, None), (14.0, 22)])
def test_views_are_what_particles_become(particles, mode, sampling, size):
    table, _ = read_particles(particles / "particles.star")
    settings = complete_settings(table, PreprocessSettings(sampling, size, mode))
    real = prepare_particles(table.subset(np.arange(40)), settings).float()
    volume, pixel_size = read_map(particles / "reference.mrc")
    simulator = ViewSimulator(volume, pixel_size, settings, usual_ctfs(), torch.device("cpu"))
    eulers = torch.from_numpy(table.eulers_deg[:40]).float()
    views = simulator.pictures(eulers, ctf_tensors(table.ctf, np.arange(40)), snr=1e6, seed=0)
    assert views.shape == real.shape
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(real, views, strict=True)]
    # At a coarser sampling the CTF is that of the cropped picture.
    assert min(correlation) > (0.9999 if sampling is None else 0.97)


def test_the_signal_falls_geometrically_and_goes_on_where_it_was():
    simulator = ViewSimulator(phantom_map(32, 10.0), 10.0, PreprocessSettings(10.0, 32), usual_ctfs(), torch.device("cpu"))
    views = SimulatedViews(simulator, 40, 2, 0.02, seed=1)
    levels = [(views.snr, views.__getitems__(list(range(20))))[0] for _ in range(4)]
    assert levels == pytest.approx([2, 2 * 0.01**0.25, 0.2, 2 * 0.01**0.75])
    assert views.snr == pytest.approx(0.02) and len(views) == 40
    assert SimulatedViews(simulator, 40, 2, 0.02, seed=1, done=40).snr == pytest.approx(0.2)


@pytest.mark.parametrize("snr", [0.5, 2.0])
def test_views_have_the_wanted_signal_to_noise_ratio(snr):
    settings = PreprocessSettings(10.0, 32, "none", mask_radius_angs=0.47 * 320)
    simulator = ViewSimulator(phantom_map(32, 10.0), 10.0, settings, usual_ctfs(), torch.device("cpu"))
    views = simulator.draw(600, snr, torch.Generator().manual_seed(1)).images[:, 0].float()
    # The background, which is noise alone, has the variance 1.
    inside = views[:, circular_mask(32, DISC_SHARE * 32) > 0]
    assert float(inside.var(dim=1).mean()) - 1 == pytest.approx(snr, rel=0.1)


@pytest.fixture(scope="module")
def pretrained(particles, tmp_path_factory):
    """A finished run on views of the map alone."""
    out_dir = tmp_path_factory.mktemp("pretrained")
    more = [MAP, str(particles / "reference.mrc"), "--n_epochs", "3"]
    assert main(options(out_dir, *more, config=["train.n_views_per_epoch_simulation=800", "train.simulation_snr=1"])) == 0
    return out_dir / "version_0"


def test_a_network_learns_from_views_alone(pretrained):
    epochs = metrics(pretrained / "simulated")
    assert [line["epoch"] for line in epochs] == [1, 2, 3]
    assert epochs[-1]["val_median_geo_degs"] < 60  # chance is 126
    card = json.loads((pretrained / "simulated/model.json").read_text())
    assert (card["half_set"], card["image_size_px"], card["sampling_rate_angs"]) == ("simulated", 32, 10.0)


def test_it_serves_both_half_sets_for_fine_tuning(pretrained, particles, tmp_path):
    more = [*star(particles), "--finetune_checkpoint_dir", str(pretrained), "--n_epochs", "1"]
    assert main(options(tmp_path, *more, config=["train.learning_rate=1e-4"])) == 0
    for half in ("half1", "half2"):
        assert metrics(tmp_path / "version_0" / half)[0]["val_median_geo_degs"] < 80


def test_it_goes_on(pretrained):
    assert main(["--continue_checkpoint_dir", str(pretrained), "--n_epochs", "4"]) == 0
    assert [line["epoch"] for line in metrics(pretrained / "simulated")] == [1, 2, 3, 4]


def test_views_come_before_particles_and_a_killed_run_goes_on(particles, tmp_path):
    more = [*star(particles), MAP, str(particles / "reference.mrc"), "--n_epochs", "1"]
    command = options(tmp_path, *more, config=["train.n_epochs_simulation=2", "train.n_views_per_epoch_simulation=320"])
    process = subprocess.Popen([sys.executable, "-m", "cryopares_train", *command], cwd=Path(__file__).parents[1])
    folder = tmp_path / "version_0/half1/simulation"
    deadline = time.monotonic() + 100
    while not (folder / "checkpoints/last.ckpt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and not (tmp_path / "version_0/half1/metrics.jsonl").exists()
    assert main(["--continue_checkpoint_dir", str(tmp_path / "version_0")]) == 0
    for half in ("half1", "half2"):
        assert [line["epoch"] for line in metrics(tmp_path / "version_0" / half / "simulation")] == [1, 2]
        assert [line["epoch"] for line in metrics(tmp_path / "version_0" / half)] == [1]


def test_unusable_maps_are_refused(particles, tmp_path, capsys):
    broken = phantom_map(32, 10.0)
    broken[3, 3, 3] = np.nan
    write_map(tmp_path / "nan.mrc", broken, 10.0)
    for name, told in (("nan.mrc", "NaN"), ("none.mrc", "there is no such file")):
        assert main(options(tmp_path / "out", MAP, str(tmp_path / name))) == 2
        assert told in capsys.readouterr().err
    assert main(options(tmp_path / "out", *star(particles), config=["train.n_epochs_simulation=2"])) == 2
    assert "needs a map" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
