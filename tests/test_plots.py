"""What is read of a run folder in any state, and what its pictures and report show."""

import json
import re
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from cryopares_core.commands.report import main
from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config, to_yaml
from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import matrix_to_euler_degs, random_rotations
from cryopares_core.particles.augmentation import Augmenter
from cryopares_core.particles.prepare import prepare_particles
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.particles.store import PreparedPictures
from cryopares_core.plots.curves import draw_learning_curves
from cryopares_core.plots.errors import draw_error_histograms
from cryopares_core.plots.figures import new_figure, png_bytes
from cryopares_core.plots.gallery import GalleryRow, bar_length_angs, draw_gallery
from cryopares_core.plots.judgement import WARNING, judge
from cryopares_core.plots.records import best_error, read_run, seconds_left, summary_lines
from cryopares_core.plots.sphere import draw_error_maps, draw_view_distribution, map_picture, smoothed_errors
from cryopares_core.training.gallery import gallery_rows, save_gallery
from cryopares_core.training.half_set import Particles
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.records import Validated, ValidationRecords
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

ROOT = Path(__file__).resolve().parents[1]
SOME = [(6.0, 7.0, 40.0), (5.0, 6.0, 20.0), (4.5, 5.5, 12.0)]  # loss, val_loss, mean error


def epoch_lines(values, seconds=60.0):
    names = ("loss", "val_loss", "val_geo_degs")
    lines = [dict(zip(names, row, strict=True), epoch=n, lr=1e-3, seconds=seconds * n) for n, row in enumerate(values, 1)]
    return "".join(json.dumps(line | {"val_median_geo_degs": 0.8 * line["val_geo_degs"]}) + "\n" for line in lines)


def make_run(folder, n_epochs=10, half_sets=("half1", "half2"), name="particles.star", **more):
    """A run folder that was just begun."""
    arguments = asdict(TrainArguments(symmetry="C1", particles_star_fname=[name], train_save_dir=str(folder), n_epochs=n_epochs))
    run = {"arguments": arguments, "half_sets": half_sets, "symmetry": "C1", "command": ["x/train.py", "--name", name], **more}
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(run | {"sampling_rate_angs": 3.0, "image_size_px": 64, "n_particles": 5000}))
    (folder / "config.yml").write_text(to_yaml(load_config(None, ["train.learning_rate=0.002"])))
    return folder


def add_half(folder, values=SOME, n_train=3000, n_val=2000, error_degs=lambda eulers: np.full(len(eulers), 3.0)):
    """Epochs of a half set and what it found for random poses; returns the poses of the particles held out."""
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(epoch_lines(values))
    poses = random_rotations(n_train + n_val, torch.Generator().manual_seed(1))
    eulers = matrix_to_euler_degs(poses).numpy()
    names = [f"{row},{folder.name}@a.mrcs" for row in range(n_val)]
    errors = torch.from_numpy(error_degs(eulers[n_train:]))
    validated = Validated(poses[n_train:], errors, torch.exp(-errors / 10))
    defocus = 10_000 + 100 * (eulers[n_train:, 1] - 90)
    ValidationRecords(folder, eulers[:n_train], eulers[n_train:], names, defocus).write(validated)
    return eulers[n_train:]


@pytest.fixture
def version(tmp_path):
    """A run whose first half set is done with three of ten epochs."""
    folder = make_run(tmp_path / "version_0")
    add_half(folder / "half1")
    return folder


def test_a_run_cut_off_in_the_middle_of_a_line(version):
    with open(version / "half1/metrics.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')
    (version / "half2").mkdir()  # begun, without an epoch yet
    record = read_run(version)
    assert [line["epoch"] for line in record.halves["half1"].epochs] == [1, 2, 3]
    assert record.halves["half2"].epochs == [] and record.halves["half2"].validation is None
    assert best_error(record) == (12.0, pytest.approx(9.6))
    assert summary_lines(record)[0].startswith("half1: epoch 3 of 10, validation error mean 12.0°, median 9.6°")


def test_folders_without_anything_readable(tmp_path):
    for content in (None, "", "[1]", '{"arguments": null}'):
        if content is not None:
            (tmp_path / "run.json").write_text(content)
        record = read_run(tmp_path)
        assert (record.halves, record.finished, seconds_left(record), best_error(record)) == ({}, False, None, None)
    assert read_run(tmp_path / "absent").settings == {}


def test_time_left(version):
    record = read_run(version)
    ended = record.halves["half1"].updated
    assert seconds_left(record, ended) == pytest.approx(17 * 60)  # 7 epochs of this half set, 10 of the other
    assert seconds_left(record, ended + 20) == pytest.approx(17 * 60 - 20)
    assert seconds_left(record, ended + 1e6) == pytest.approx(16 * 60)
    assert summary_lines(record, ended)[-1].endswith("; about 17 min left")


def test_time_left_counts_the_pretraining(tmp_path):
    folder = make_run(tmp_path / "version_0", half_sets=["allParticles"], n_epochs_simulation=4)
    (folder / "allParticles/simulation").mkdir(parents=True)
    (folder / "allParticles/simulation/metrics.jsonl").write_text(epoch_lines(SOME[:2], seconds=30.0))
    record = read_run(folder)
    assert seconds_left(record, record.halves["allParticles"].updated) == pytest.approx(2 * 30 + 10 * 30)
    assert summary_lines(record)[0].startswith("allParticles: simulated pretraining, epoch 2 of 4")


def test_views_count_every_particle(version):
    half = read_run(version).halves["half1"]
    assert half.views["n_train"].sum() == half.n_train == 3000
    assert half.views["n_val"].sum() == half.n_val == len(half.validation["error_degs"]) == 2000
    assert np.isnan(half.views["mean_error_degs"][half.views["n_val"] == 0]).all()
    weighted = np.nansum(half.views["n_val"] * half.views["mean_error_degs"]) / 2000
    assert weighted == pytest.approx(half.validation["error_degs"].mean(), abs=1e-3)


def test_views_hold_the_particles_seen_from_there(version):
    half = read_run(version).halves["half1"]
    rot, tilt = np.radians(half.validation["rot_degs"]), np.radians(half.validation["tilt_degs"])
    centre_rot, centre_tilt = np.radians(half.views["rot_degs"]), np.radians(half.views["tilt_degs"])
    cosine = np.cos(tilt) * np.cos(centre_tilt)[:, None]
    cosine = cosine + np.sin(tilt) * np.sin(centre_tilt)[:, None] * np.cos(rot - centre_rot[:, None])
    count = np.bincount(cosine.argmax(axis=0), minlength=768)  # the nearest centre, but at some corners
    assert np.abs(count - half.views["n_val"]).sum() < 0.2 * 2000


def test_a_worse_pole_is_drawn_at_that_pole(tmp_path):
    folder = make_run(tmp_path / "version_0")
    add_half(folder / "half1", error_degs=lambda eulers: np.where(eulers[:, 1] > 120, 40.0, 3.0))
    views = read_run(folder).halves["half1"].views
    picture = map_picture(views, smoothed_errors(views), width_px=200)
    assert picture.shape == (100, 200)
    assert picture[1, 95:105].max() < 4 and picture[-2, 95:105].min() > 35  # tilt 0 on top, tilt 180 at the bottom
    assert picture[50, :].max() < 4  # tilt 90


def test_rot_runs_from_left_to_right():
    rot = np.array([-90.0, 90.0])
    picture = map_picture({"rot_degs": rot, "tilt_degs": np.array([90.0, 90.0])}, np.array([1.0, 2.0]), width_px=100)
    assert (picture[25, 5:45] == 1).all() and (picture[25, 55:95] == 2).all()


@pytest.mark.parametrize("draw", [draw_learning_curves, draw_error_histograms, draw_error_maps, draw_view_distribution])
def test_pictures_of_runs_in_any_state(version, tmp_path, draw):
    empty = make_run(tmp_path / "empty")
    (empty / "half1").mkdir()
    for folder in (version, empty, tmp_path / "absent"):
        figure = new_figure(6, 3)
        draw(figure, read_run(folder))
        assert png_bytes(figure).startswith(b"\x89PNG")


def test_curves_show_the_numbers(version):
    figure = new_figure(6, 3)
    draw_learning_curves(figure, read_run(version))
    drawn = [list(line.get_ydata()) for line in figure.axes[1].lines]
    assert [40.0, 20.0, 12.0] in drawn


def test_the_scale_bar_has_its_length():
    figure = new_figure(4, 2)
    draw_gallery(figure, [GalleryRow("raw", [np.eye(64), np.eye(64)], 4.0)])
    bar = figure.axes[0].lines[0].get_xdata()
    assert bar_length_angs(64 * 4.0) == 50 and bar[1] - bar[0] == pytest.approx(50 / 4.0)


FALLING = [(6 - 0.3 * n, 6.2 - 0.3 * n, 30 * 0.8**n) for n in range(10)]
FLAT = [(5.0, 5.1, 4.0)] * 10
STUCK = [(7.0, 7.1, 60.0)] * 10
OVERFIT = [(6 - 0.3 * n, 5.0 + 0.15 * abs(n - 3), 4 + abs(n - 3)) for n in range(10)]


@pytest.mark.parametrize(
    "values, said, not_said",
    [
        (FALLING, "train longer", "overfitting"),
        (FLAT, "good model", "train longer"),
        (STUCK, "underfitting", "good model"),
        (OVERFIT, "overfitting", "train longer"),
    ],
)
def test_the_judgement_on_made_up_histories(tmp_path, values, said, not_said):
    folder = make_run(tmp_path / "version_0", half_sets=["half1"])
    add_half(folder / "half1", values)
    text = " ".join(remark.text for remark in judge(read_run(folder)))
    assert said in text and not_said not in text


def test_half_sets_that_differ_are_told(tmp_path):
    folder = make_run(tmp_path / "version_0", n_epochs=10)
    add_half(folder / "half1", FLAT)
    add_half(folder / "half2", STUCK)
    assert any("half sets differ" in remark.text and remark.level == WARNING for remark in judge(read_run(folder)))


def test_the_report_holds_everything_and_nothing_from_elsewhere(tmp_path, capsys):
    folder = make_run(tmp_path / "version_0", name="<b>&evil.star")
    add_half(folder / "half1")
    (folder / "gallery.png").write_bytes(png_bytes(new_figure(1, 1)))
    (folder / "warnings.txt").write_text("Pixel size <1> differs\n")
    assert main([str(folder)]) == 0
    page = (folder / "report.html").read_text()
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert (
        headings[:4] == ["What was trained", "Result", "Learning curves", "Errors of the particles held out"]
        and headings[-1] == "Settings"
    )
    assert len(headings) == 11 and page.count("data:image/png;base64,") == 10
    assert "&lt;b&gt;&amp;evil.star" in page and "<b>" not in page and "Pixel size &lt;1&gt; differs" in page
    assert "train.learning_rate" in page.split("<details>")[0] and "train.weight_decay" not in page.split("<details>")[0]
    assert "<script" not in page and "http" not in page
    assert (folder / "learning_curves.png").exists()


def test_the_report_of_no_run_is_refused(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert "no run of cryopares_train is there" in capsys.readouterr().err


def test_the_report_needs_no_torch(version):
    hidden = "".join(f"sys.modules[{name!r}] = None; " for name in ("torch", "pandas", "scipy", "healpy", "starfile", "lightning"))
    code = f"import sys; {hidden}from cryopares_core.commands.report import main; sys.exit(main([{str(version)!r}]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_hundred_thousand_particles_are_written_fast(tmp_path):
    started = time.perf_counter()
    add_half(tmp_path / "half1", n_train=100_000, n_val=100_000)
    assert time.perf_counter() - started < 5
    lines = (tmp_path / "half1/validation.csv").read_text().splitlines()
    assert len(lines) == 100_001 and lines[1].endswith(',"0,half1@a.mrcs"')


def test_drawing_a_gallery_leaves_the_random_numbers_alone(tmp_path):
    simulate_particles(phantom_map(32, 10.0), 10.0, tmp_path, SimulationSettings(n_particles=30, snr=10.0, seed=3))
    table, _ = read_particles(tmp_path / "particles.star")
    settings = PreprocessSettings(sampling_rate_angs=12.0, image_size_px=26)
    images = prepare_particles(table, settings, "cpu")
    particles = Particles(table, PreparedPictures(images))
    plan = Plan(TrainArguments(), Config(), "C1", settings, torch.device("cpu"), Phases())
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    save_gallery(tmp_path, plan, particles, np.arange(5, 25))
    assert torch.equal(before, torch.get_rng_state()) and (numpy_before == np.random.get_state()[1]).all()
    assert (tmp_path / "gallery.png").stat().st_size > 10_000
    ids = np.array([3, 17])
    raw, prepared, *copies = gallery_rows(plan, particles, ids)
    assert raw.pictures[0].shape == (32, 32) and len(copies) == 2
    np.testing.assert_array_equal(prepared.pictures[1], (images[17, 0].float() * plan.mask).numpy())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = Augmenter(plan.config.datamanager.augmenter)(images[[3, 17]].float(), torch.zeros(2, 3))[0] * plan.mask
    np.testing.assert_array_equal(copies[0].pictures[0], expected[0, 0].numpy())
