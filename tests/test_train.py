"""The real command on real files: what it leaves behind, what it refuses, how it stops and goes on."""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import starfile
import torch
import yaml
from settings import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cryopares_core.commands.train import main
from cryopares_core.geometry.rotations import euler_degs_to_matrix, pose_error_degs
from cryopares_core.inference.predict import predict_poses
from cryopares_core.model.storage import load_model
from cryopares_core.particles.star import read_particles
from cryopares_core.plots.records import read_half_set, read_run
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

REPOSITORY = Path(__file__).parents[1]
METRICS = {"loss", "val_loss", "geo_degs", "val_geo_degs", "val_median_geo_degs", "lr"}


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """Folder of 600 simulated particles of 32 px."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(32, 10.0), 10.0, folder, SimulationSettings(n_particles=600, snr=10.0, seed=3))
    return folder


def options(particles, out_dir, *more, config=()):
    fixed = ["--symmetry", "C1", "--particles_star_fname", str(particles / "particles.star"), "--particles_dir", str(particles)]
    return [*fixed, "--train_save_dir", str(out_dir), "--batch_size", "16", "--n_threads", "1", *more, "--config", *SMALL, *config]


@pytest.fixture(scope="module")
def run(particles, tmp_path_factory):
    """A finished run of both half sets."""
    out_dir = tmp_path_factory.mktemp("run")
    assert main(options(particles, out_dir, "--n_epochs", "9")) == 0
    return out_dir / "version_0"


def metrics(half):
    return [json.loads(line) for line in (half / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["half1", "half2"])
def test_a_run_learns_and_leaves_everything(run, name):
    half = run / name
    epochs = metrics(half)
    assert [line["epoch"] for line in epochs] == list(range(1, 10))
    assert set(epochs[0]) >= METRICS
    assert epochs[-1]["val_median_geo_degs"] < 40  # chance is 126
    events = EventAccumulator(str(half)).Reload()
    assert set(events.Tags()["scalars"]) >= METRICS
    assert [scalar.value for scalar in events.Scalars("val_loss")] == pytest.approx([line["val_loss"] for line in epochs], rel=1e-4)
    for file in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors", "model.json"):
        assert (half / file).stat().st_size > 100
        assert (half / file).stat().st_mode & 0o777 == (half / "metrics.jsonl").stat().st_mode & 0o777
    best = json.loads((half / "model.json").read_text())["training"]["best"]
    assert best["val_loss"] == min(line["val_loss"] for line in epochs)


def test_splits_keep_the_half_sets_and_do_not_overlap(run, particles):
    names = starfile.read(particles / "particles.star")["particles"].set_index("rlnImageName")["rlnRandomSubset"]
    seen = []
    for half in (1, 2):
        for part in ("train", "val"):
            rows = starfile.read(run / f"half{half}" / "splits" / f"{part}.star")["particles"]
            assert (names[rows["rlnImageName"]] == half).all()
            seen += rows["rlnImageName"].tolist()
    assert len(seen) == len(set(seen)) == 600


def test_half_sets_start_from_different_weights(run):
    first, second = (load_model(run / name)[0].s2conv.theta for name in ("half1", "half2"))
    assert (first - second).abs().mean() > 0.1 * first.abs().mean()


def test_settings_and_picture_are_kept(run):
    assert yaml.safe_load((run / "config.yml").read_text())["models"]["image2sphere"]["lmax"] == 5
    assert json.loads((run / "run.json").read_text())["arguments"]["n_epochs"] == 9
    assert (run / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_tells_of_its_particles(run, particles):
    """Before the run goes on in another test: files of the best epoch, pictures, the report."""
    for half in (run / "half1", run / "half2"):
        record = read_half_set(half)
        assert record.validation["error_degs"].mean() == pytest.approx(record.best["val_geo_degs"], abs=2e-3)
        assert np.median(record.validation["error_degs"]) == pytest.approx(record.best["val_median_geo_degs"], abs=2e-3)
        assert (record.views["n_train"].sum(), record.views["n_val"].sum()) == (record.n_train, record.n_val) == (270, 30)
        held_out = starfile.read(half / "splits/val.star")["particles"]
        np.testing.assert_allclose(record.validation["tilt_degs"], held_out["rlnAngleTilt"], atol=1e-3)
        assert [line.split(",")[-1] for line in (half / "validation.csv").read_text().split()[1:]] == held_out[
            "rlnImageName"
        ].tolist()
    assert read_run(run).finished
    page = (run / "report.html").read_text()
    assert "not finished" not in page and "half2: the particles held out" in page and page.count("data:image/png") == 12
    assert (run / "gallery.png").read_bytes().startswith(b"\x89PNG")


def test_errors_of_validation_are_those_of_its_poses(run):
    found = read_half_set(run / "half1").validation
    known, predicted = (
        euler_degs_to_matrix(torch.tensor(np.stack([found[f"{word}{name}_degs"] for name in ("rot", "tilt", "psi")], axis=-1)))
        for word in ("", "predicted_")
    )
    np.testing.assert_allclose(pose_error_degs(predicted, known).numpy(), found["error_degs"], atol=0.01)


def test_the_model_finds_poses_of_particles_it_never_saw(run, tmp_path):
    simulate_particles(phantom_map(32, 10.0), 10.0, tmp_path, SimulationSettings(n_particles=100, snr=10.0, seed=77))
    table, _ = read_particles(tmp_path / "particles.star")
    network, card = load_model(run / "half1")
    poses = predict_poses(network, card, table, torch.device("cpu"))
    error = pose_error_degs(poses.double(), euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)))
    assert error.median() < 40


def test_a_finished_run_goes_on(run, particles):
    before = metrics(run / "half1")
    assert main(["--continue_checkpoint_dir", str(run), "--n_epochs", "10"]) == 0
    after = metrics(run / "half1")
    assert after[:9] == before
    assert [line["epoch"] for line in after] == list(range(1, 11))
    assert after[-1]["step"] == 10 * before[0]["step"]


def test_fine_tuning_starts_where_the_model_was(run, particles, tmp_path):
    more = ["--n_epochs", "1", "--finetune_checkpoint_dir", str(run)]
    assert main(options(particles, tmp_path, *more, config=["train.learning_rate=1e-5"])) == 0
    tuned, trained = metrics(tmp_path / "version_0/half1")[0], metrics(run / "half1")
    assert tuned["val_loss"] < trained[0]["val_loss"] - 0.5


def test_one_model_on_all_particles(particles, tmp_path):
    assert main(options(particles, tmp_path, "--n_epochs", "1", "--split_halfs", "False", "--overfit_batches", "2")) == 0
    assert (tmp_path / "version_0/allParticles/model.safetensors").exists()
    assert not (tmp_path / "version_0/half1").exists()


@pytest.mark.parametrize("mode, channels", [("none", 1), ("concat_phase_flip", 2), ("ctf_multiply", 1)])
def test_other_ctf_corrections(particles, tmp_path, mode, channels):
    config = [f"datamanager.particlesDataset.ctf_correction={mode}", "datamanager.particlesDataset.sampling_rate_angs_for_nnet=12"]
    more = ["--n_epochs", "1", "--split_halfs", "False", "--overfit_batches", "2"]
    assert main(options(particles, tmp_path, *more, config=config)) == 0
    _, card = load_model(tmp_path / "version_0/allParticles")
    assert (card.in_channels, card.sampling_rate_angs, card.image_size_px) == (channels, 12.0, 26)


def test_particles_without_ctfs_are_trained_on_as_they_are(particles, tmp_path, capsys):
    tables = starfile.read(particles / "particles.star")
    tables["particles"] = tables["particles"].drop(columns=["rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"])
    starfile.write(tables, tmp_path / "particles.star")
    words = options(particles, tmp_path, "--n_epochs", "1", "--split_halfs", "False", "--overfit_batches", "2")
    words[words.index("--particles_star_fname") + 1] = str(tmp_path / "particles.star")
    assert main([*words, "datamanager.particlesDataset.ctf_correction=none"]) == 0
    assert "no CTFs are known" in capsys.readouterr().out


WRONG = [
    (["--symmetry", "X9"], "not a point group"),
    (["--batch_size", "17"], "not a multiple"),
    (["--batch_size", "4096"], "fewer than the"),
    (["--train_save_dir", f"{__file__}/out"], "may write"),
    (["--finetune_checkpoint_dir", "/nowhere"], "no half1/model.safetensors"),
    (["--map_fname_for_simulated_pretraining", "x.mrc"], "there is no such file"),
    (["--particles_star_fname", "absent.star"], "absent.star: No such file"),
    (["--n_epoch", "3"], "--n_epochs"),
    (["--n_epochs", "0"], "from 1"),
]


@pytest.mark.parametrize("change, phrase", WRONG)
def test_wrong_options_leave_nothing_behind(particles, tmp_path, capsys, change, phrase):
    out_dir = tmp_path / "out"
    command = options(particles, out_dir)
    place = command.index("--config")
    assert main([*command[:place], *change, *command[place:]]) == 2
    message = capsys.readouterr().err
    assert phrase in message and "Traceback" not in message
    assert not out_dir.exists()


def test_bad_particles_leave_nothing_behind(shared, tmp_path, capsys):
    for path in sorted((shared / "data/star_bad").glob("*.star")):
        if path.stem in ("relion30_equivalent", "relion31_commented", "two_pixel_sizes", "no_subset_no_origin", "duplicate_image"):
            continue
        command = ["--symmetry", "C1", "--particles_star_fname", str(path), "--particles_dir", str(shared / "data/tiny_32")]
        assert main([*command, "--train_save_dir", str(tmp_path / "out"), "--batch_size", "16"]) == 2, path
        message = capsys.readouterr().err
        assert path.name in message and "Traceback" not in message
        assert not (tmp_path / "out").exists()


def test_pictures_that_are_not_numbers_are_named(particles, tmp_path, capsys):
    stack = next((particles / "Particles").glob("*.mrcs"))
    kept = stack.read_bytes()
    try:
        with open(stack, "r+b") as handle:
            handle.seek(1024 + 5 * 32 * 32 * 4)
            handle.write(np.full(10, np.nan, np.float32).tobytes())
        assert main(options(particles, tmp_path / "out")) == 2
    finally:
        stack.write_bytes(kept)
    assert "000006@" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_stopped_run_says_so_and_goes_on(particles, tmp_path, sent, code):
    command = [sys.executable, "-m", "cryopares_train", *options(particles, tmp_path, "--n_epochs", "500")]
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    last = tmp_path / "version_0/half1/checkpoints/last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(sent)
    try:
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, output
    assert "Stopped before the end." in output and "Finished" not in output and "Traceback" not in output
    done = len(metrics(tmp_path / "version_0/half1"))
    if done:  # the signal may come between the first checkpoint and the line of its epoch
        assert "not finished" in (tmp_path / "version_0/report.html").read_text()
    _, card = load_model(tmp_path / "version_0/half1")  # that of the best epoch so far
    assert 1 <= card.training["best"]["epoch"] <= done + 1
    assert main(["--continue_checkpoint_dir", str(tmp_path / "version_0"), "--n_epochs", str(done + 1)]) == 0
    assert [line["epoch"] for line in metrics(tmp_path / "version_0/half1")] == list(range(1, done + 2))


def test_a_full_disk_is_told_in_one_sentence(particles, tmp_path):
    """Files above 0.5 MB cannot be written: the first model fails, as it does on a full disk."""
    command = [sys.executable, "-m", "cryopares_train", *options(particles, tmp_path, "--n_epochs", "2", "--overfit_batches", "2")]
    limit = 500_000
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.ckpt")) and not list(tmp_path.rglob(".*.tmp"))


def test_show_config_is_what_the_guide_greps():
    command = f"{sys.executable} -m cryopares_train --show-config | grep -A 20 'augmenter:'"
    shown = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    for name in ("prob_augment_each_image: 0.95", "randomGaussNoise", "inPlaneShifts"):
        assert name in shown
