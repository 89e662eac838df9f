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
from safetensors.torch import load_file
from settings import SMALL

from cryopares_core.commands.train import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix
from cryopares_core.particles.batches import EpochLoader
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
    views = simulator.pictures(eulers, ctf_tensors(table.ctf, np.arange(40)), snr=1e6, seeds=range(40))
    assert views.shape == real.shape
    correlation = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(real, views, strict=True)]
    # At a coarser sampling the CTF is that of the cropped picture.
    assert min(correlation) > (0.9999 if sampling is None else 0.97)


@pytest.fixture(scope="module")
def simulator():
    return ViewSimulator(phantom_map(32, 10.0), 10.0, PreprocessSettings(10.0, 32), usual_ctfs(), torch.device("cpu"))


def joined(batches):
    batches = list(batches)
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.eulers_degs for batch in batches])


def test_the_signal_falls_geometrically_over_all_epochs(simulator):
    views = SimulatedViews(simulator, 40, 2, 0.02, seed=1)
    levels = []
    for epoch in (0, 1):
        views.set_epoch(epoch)
        levels += views.snr([0, 20]).tolist()
    assert levels == pytest.approx([2, 2 * 0.01**0.25, 0.2, 2 * 0.01**0.75])
    assert views.snr([40]).tolist() == pytest.approx([0.02]) and len(views) == 40
    clear, noisy = (SimulatedViews(simulator, 400, 1, snr, seed=1).__getitems__(range(380, 400)).images for snr in (2.0, 0.01))
    inside = circular_mask(32, DISC_SHARE * 32) > 0
    assert clear.float()[:, 0, inside].std() > 1.3 * noisy.float()[:, 0, inside].std()


def test_an_epoch_that_goes_on_has_the_views_of_the_whole(simulator):
    def loader(share=(0, 1)):
        return EpochLoader(SimulatedViews(simulator, 50, 3, 0.1, seed=1), 8, seed=7, share=share)

    whole = joined(loader().epoch(1))
    assert len(whole[0]) == 48 and len(whole[1].unique(dim=0)) == 48
    torch.manual_seed(0)
    state = torch.get_rng_state()
    tail = joined(loader().epoch(1, start=2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(tail[0], whole[0][16:]) and torch.equal(tail[1], whole[1][16:])
    for rank in (0, 1):
        mine = joined(loader((rank, 2)).epoch(1))
        rest = joined(loader((rank, 2)).epoch(1, start=3))
        for of_whole, share, tail_of_share in zip(whole, mine, rest, strict=True):
            assert torch.equal(share, of_whole[rank::2]) and torch.equal(tail_of_share, share[12:])


def test_other_epochs_and_seeds_have_other_views(simulator):
    def angles(seed, epoch):
        views = SimulatedViews(simulator, 20, 3, 0.1, seed)
        views.set_epoch(epoch)
        return views.__getitems__(range(20)).eulers_degs

    assert len(torch.cat([angles(1, 0), angles(1, 1), angles(2, 0), angles(2, 1)]).unique(dim=0)) == 80
    assert torch.equal(angles(1, 0), angles(1, 0))


def test_the_poses_of_views_are_spread_evenly(simulator):
    poses = euler_degs_to_matrix(SimulatedViews(simulator, 2000, 1, 0.1, 0).__getitems__(range(2000)).eulers_degs)
    assert poses.mean(dim=0).abs().max() < 4 * (1 / 3 / 2000) ** 0.5


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


def test_a_run_on_views_that_is_killed_in_an_epoch_comes_to_the_same_weights(particles, tmp_path):
    def command(name):
        config = ["train.n_views_per_epoch_simulation=640", "train.checkpoint_every_minutes=0.0001"]
        return options(tmp_path / name, MAP, str(particles / "reference.mrc"), "--n_epochs", "2", config=config)

    process = subprocess.Popen([sys.executable, "-m", "cryopares_train", *command("killed")], cwd=Path(__file__).parents[1])
    folder = tmp_path / "killed/version_0/simulated"
    while not (folder / "checkpoints/last.ckpt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert main(["--continue_checkpoint_dir", str(folder.parent)]) == 0 and main(command("whole")) == 0
    resumed, whole = (load_file(tmp_path / name / "version_0/simulated/model.safetensors") for name in ("killed", "whole"))
    assert resumed.keys() == whole.keys() and all(torch.equal(resumed[key], whole[key]) for key in whole)


def test_unusable_maps_are_refused(particles, tmp_path, capsys):
    broken = phantom_map(32, 10.0)
    broken[3, 3, 3] = np.nan
    write_map(tmp_path / "nan.mrc", broken, 10.0)
    for name, told in (("nan.mrc", "NaN"), ("none.mrc", "there is no such file")):
        assert main(options(tmp_path / "out", MAP, str(tmp_path / name))) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
