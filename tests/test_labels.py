"""Wrong known poses: found by the map of the particles, told, kept for a run that goes on, and of less weight in training."""

import json
import math

import numpy as np
import pytest
import starfile
import torch
from settings import SMALL

from cryopares_core.commands.train import main
from cryopares_core.config.schema import Config
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.batches import Batch
from cryopares_core.particles.prepare import complete_settings
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.star import read_particles
from cryopares_core.refinement.maps import Reference
from cryopares_core.training.distribution import one_process
from cryopares_core.training.label_cleaning import COLUMN
from cryopares_core.training.labels import NEAR_DEGS, LabelJudge, Signal, label_quality, learn_signal, log_mean_ratio
from cryopares_core.training.phases import Phases
from cryopares_core.training.plan import Plan
from cryopares_core.training.preflight.findings import Findings
from cryopares_core.training.preflight.labels import look_at_labels, tell_of_labels
from cryopares_core.training.preflight.poses import look_at_poses
from cryopares_core.training.preflight.sample import draw_sample
from cryopares_core.training.step import TrainingStep
from cryopares_core.volumes.particle_rows import SimulationSettings
from cryopares_core.volumes.phantom import phantom_map
from cryopares_core.volumes.simulate import simulate_particles

COUNT, WRONG, BOX, PIXEL_ANGS = 480, 40, 32, 5.0
RADIUS_ANGS = 70.0
VALIDATION = "train.val_fraction=0.04"  # too few to calibrate, which takes longer than all else
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def particles(tmp_path_factory):
    """480 noisy particles; in wrong.star the first 40 have poses at random, 30 degrees and more from their own."""
    folder = tmp_path_factory.mktemp("particles")
    simulate_particles(phantom_map(BOX, PIXEL_ANGS), PIXEL_ANGS, folder, SimulationSettings(n_particles=COUNT, snr=0.2, seed=5))
    table, _ = read_particles(folder / "particles.star")
    eulers = table.eulers_deg.copy()
    drawn = random_rotations(20 * WRONG, torch.Generator().manual_seed(3)).double()
    own = euler_degs_to_matrix(torch.from_numpy(eulers[:WRONG])).repeat(20, 1, 1)
    far = pose_error_degs(drawn, own).view(20, WRONG) > 30
    eulers[:WRONG] = matrix_to_euler_degs(drawn.view(20, WRONG, 3, 3)[far.int().argmax(dim=0), torch.arange(WRONG)]).numpy()
    table.with_poses(eulers).write_star(folder / "wrong.star")
    return folder


def judge(folder, star, volume=None):
    table, _ = read_particles(folder / star, folder)
    volume = phantom_map(BOX, PIXEL_ANGS) if volume is None else volume
    return label_quality(LabelJudge(table, Reference(volume, PIXEL_ANGS), "C1", RADIUS_ANGS, CPU).log_ratio())


def options(folder, star, out_dir, *config):
    words = ["--symmetry", "C1", "--particles_star_fname", str(folder / star), "--particles_dir", str(folder)]
    words += ["--train_save_dir", str(out_dir), "--batch_size", "64", "--n_threads", "1", "--n_epochs", "1"]
    return [
        *words,
        "--split_halfs",
        "False",
        "--overfit_batches",
        "1",
        "--config",
        *SMALL,
        VALIDATION,
        "train.label_cleaning=True",
        *config,
    ]


def test_wrong_labels_are_found_and_right_ones_are_not_accused(particles):
    found = judge(particles, "wrong.star")
    assert abs(found.wrong_share - WRONG / COUNT) < 3 * found.share_error < 0.06
    assert found.suspect[:WRONG].mean() > 0.95
    assert found.suspect[WRONG:].mean() < 0.005
    sound = judge(particles, "particles.star")
    assert sound.wrong_share == 0 and (sound.probability == 1).all()


def test_a_map_that_says_nothing_accuses_nobody(particles):
    noise = np.random.default_rng(0).standard_normal((BOX,) * 3).astype(np.float32)
    assert not judge(particles, "wrong.star", noise).suspect.any()


def test_probabilities_follow_bayes():
    """Of images drawn as the model says, as many labels are wrong as the probabilities say."""
    rng = np.random.default_rng(1)
    right = rng.random(20_000) > 0.1
    log_ratio = np.where(right, 1.5, -1.5) + rng.normal(0, math.sqrt(3), len(right))  # of two Gaussians 3 / sqrt(3) apart
    found = label_quality(log_ratio)
    assert found.wrong_share == pytest.approx(1 - right.mean(), abs=3 * found.share_error)
    assert found.share_error < 0.01
    for low in (0.1, 0.3, 0.5, 0.7):
        part = (found.probability > low) & (found.probability < low + 0.2)
        assert right[part].mean() == pytest.approx(found.probability[part].mean(), abs=0.06)
    unknown = label_quality(np.append(log_ratio, np.nan))
    assert unknown.probability[-1] == 1 and unknown.wrong_share == pytest.approx(found.wrong_share)


def test_the_mean_likelihood_of_noise_is_one_at_each_pose():
    signal, scores = Signal(1.5, 0.2), torch.linspace(-30, 30, 200_001, dtype=torch.float64)
    density = torch.exp(-scores.square()) / math.sqrt(math.pi)
    mean = torch.trapezoid(signal.log_likelihood(scores).exp() * density, scores)
    assert float(mean) == pytest.approx(1, abs=1e-6)


def test_the_signal_is_learned_from_scores_with_outliers():
    generator = torch.Generator().manual_seed(0)
    scores = 4 + math.sqrt(0.5 + 1.0) * torch.randn(20_000, generator=generator)
    scores[:1000] = math.sqrt(0.5) * torch.randn(1000, generator=generator)
    found = learn_signal(scores)
    assert found.mean == pytest.approx(4, abs=0.1)
    assert 0.9 < found.variance < 1.4  # the outliers widen it a little
    nothing = learn_signal(math.sqrt(0.5) * torch.randn(20_000, generator=generator))
    assert abs(nothing.log_likelihood(torch.tensor(2.0))) < 0.1


def test_training_writes_the_suspects_and_knows_them_when_it_goes_on(particles, tmp_path, capsys):
    assert main(options(particles, "wrong.star", tmp_path)) == 0
    told = capsys.readouterr().out
    folder = tmp_path / "version_0" / "allParticles"
    written = starfile.read(folder / "suspect_labels.star")["particles"]
    names = starfile.read(particles / "wrong.star")["particles"]["rlnImageName"][:WRONG]
    assert len(set(written["rlnImageName"]) & set(names)) > 0.9 * WRONG
    assert len(written) < 1.1 * WRONG and (written[COLUMN] < 0.5).all() and "rlnDefocusU" in written
    assert "of the known poses" in told and "suspect_labels.star" in told
    assert "of the known poses" in (tmp_path / "version_0" / "report.html").read_text()
    held_out = starfile.read(folder / "splits" / "val.star")["particles"]["rlnImageName"]
    n_val = json.loads((folder / "model.json").read_text())["training"]["n_val"]
    assert n_val == len(set(held_out) - set(written["rlnImageName"])) < len(held_out)
    kept = (folder / "label_quality.npz").read_bytes()
    assert main(["--continue_checkpoint_dir", str(tmp_path / "version_0"), "--n_epochs", "2"]) == 0
    told = capsys.readouterr().out
    assert "Judged the poses" not in told and "of the known poses" in told
    assert (folder / "label_quality.npz").read_bytes() == kept


def test_label_cleaning_can_be_turned_off(particles, tmp_path, capsys):
    assert main(options(particles, "wrong.star", tmp_path, "train.label_cleaning=False")) == 0
    assert "known poses" not in capsys.readouterr().out
    assert not (tmp_path / "version_0/allParticles/label_quality.npz").exists()


class _Line(torch.nn.Module):
    """Loss of each image is the slope times its first pixel."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.ones(()))

    def forward(self, images, eulers_degs):
        losses = self.slope * images[:, 0, 0, 0]
        return losses, None, None, losses.detach()


def test_a_particle_counts_by_its_weight():
    config = Config()
    config.datamanager.augment_train = False
    images = torch.arange(1.0, 5.0).view(4, 1, 1, 1).expand(4, 1, 2, 2).half()
    batch = Batch(images, torch.zeros(4, 3), torch.tensor([3, 0, 2, 1]))
    weights = torch.tensor([0.5, 0.25, 1.0, 0.0])
    for pieces in (1, 3):
        module = _Line()
        fabric = one_process()
        on_fabric, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.0))
        step = TrainingStep(fabric, on_fabric, optimizer, config, None, 1, weights)
        step.pieces = pieces
        step([batch], 0, 0.0, True, False)
        expected = (1 * 0.0 + 2 * 0.5 + 3 * 1.0 + 4 * 0.25) / 4
        assert float(module.slope.grad) == pytest.approx(expected)


def test_the_check_names_the_share(particles):
    table, _ = read_particles(particles / "wrong.star", particles)
    plan = Plan(None, Config(), "C1", complete_settings(table, PreprocessSettings()), CPU, Phases())
    for one, level in ((table, "Warning"), (read_particles(particles / "particles.star")[0], "OK")):
        sample, found = draw_sample(one, plan), Findings()
        tell_of_labels(found, look_at_labels(sample, plan, look_at_poses(sample, plan)), plan, "half1")
        assert [line.level for line in found.lines] == [level]
        if level == "Warning":
            assert found.measured["wrong_label_share"] == pytest.approx(WRONG / COUNT, abs=0.06)
            assert "half1/suspect_labels.star" in found.lines[0].text


def test_points_near_a_label_are_those_of_its_mates_too(particles):
    table, _ = read_particles(particles / "particles.star", particles)
    few = table.subset(np.arange(5))
    labels = LabelJudge(few, Reference(phantom_map(BOX, PIXEL_ANGS), PIXEL_ANGS), "D2", RADIUS_ANGS, CPU)
    _, near = labels.looked_at(np.arange(5), np.random.default_rng(0).standard_normal((5, BOX, BOX)).astype(np.float32))
    points, group = labels.search.grid.pose_matrices, point_group("D2").matrices.float()
    for row in range(5):
        error = pose_error_degs(points, labels.labels[row].expand(len(points), 3, 3), group)
        inside = error < NEAR_DEGS
        assert (near[row] == inside)[(error - NEAR_DEGS).abs() > 0.1].all() and inside.any()


def test_the_ratio_of_means_is_that_of_a_slow_sum():
    values = 5 * torch.randn(3, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    near = torch.arange(50) < torch.tensor([[1], [7], [30]])
    slow = [float(row[some].exp().mean().log() - row.exp().mean().log()) for row, some in zip(values, near, strict=True)]
    assert log_mean_ratio(values, near).tolist() == pytest.approx(slow)
