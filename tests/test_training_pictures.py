"""What TensorBoard gets of a training besides its curves, and that training never notices."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from settings import SMALL
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from cryopares_core.config.arguments import TrainArguments
from cryopares_core.config.merge import load_config
from cryopares_core.geometry.grids import healpix_centres_degs, healpix_interpolated
from cryopares_core.geometry.rotations import matrix_to_euler_degs, pose_error_degs, random_rotations
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.batches import PreparedDataset
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.training import pictures
from cryopares_core.training.phases import Phases
from cryopares_core.training.pictures import TrainingPictures, view_density, write_pictures
from cryopares_core.training.plan import Plan, Stage
from cryopares_core.training.records import Validated, ValidationRecords

TAGS = {"poses/rotation matrices", "poses/density on the sphere", "particles/augmented", "errors/by view"}


def make(folder, symmetry="C1", count=12):
    """A plan, a stage with `count` particles held out, a network of fresh weights, and what it might have found."""
    config = load_config(None, SMALL)
    settings = PreprocessSettings(sampling_rate_angs=10.0, image_size_px=32)
    plan = Plan(TrainArguments(), config, symmetry, settings, torch.device("cpu"), Phases())
    generator = torch.Generator().manual_seed(0)
    truth = random_rotations(count, generator)
    eulers = matrix_to_euler_degs(truth)
    images = torch.randn(count, 1, 32, 32, generator=generator).half()
    data = PreparedDataset(images, eulers.float(), np.arange(count))
    records = ValidationRecords(folder, eulers.numpy(), eulers.numpy(), ["x"] * count)
    stage = Stage(folder, "half1", 1, data, data, records)
    torch.manual_seed(0)
    found = random_rotations(count, generator)
    errors = pose_error_degs(found, truth, point_group(symmetry).matrices)
    return plan, stage, plan.network(), Validated(found.float(), errors, torch.rand(count, generator=generator))


@pytest.mark.parametrize("symmetry", ["C1", "D2"])
def test_the_event_file_holds_all_pictures(tmp_path, symmetry):
    plan, stage, network, validated = make(tmp_path, symmetry)
    with SummaryWriter(str(tmp_path)) as writer:
        write_pictures(writer, 7, plan, stage, network, validated)
    events = EventAccumulator(str(tmp_path), {"images": 0}).Reload()
    assert set(events.Tags()["images"]) == TAGS and events.Tags()["histograms"] == ["errors/degrees"]
    for tag in TAGS:
        (event,) = events.Images(tag)
        picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert event.step == 7 and picture.shape == (event.height, event.width, 3)
        assert picture.std() > 10, "there is something on it"


def test_nothing_of_training_changes(tmp_path):
    plan, stage, network, validated = make(tmp_path)
    network.train()
    weights, state = {name: x.clone() for name, x in network.state_dict().items()}, torch.get_rng_state()
    with SummaryWriter(str(tmp_path)) as writer:
        write_pictures(writer, 1, plan, stage, network, validated)
    assert torch.equal(state, torch.get_rng_state()) and network.training
    assert all(torch.equal(x, weights[name]) for name, x in network.state_dict().items())


def test_a_picture_that_fails_is_told_once_and_stops_nothing(tmp_path, monkeypatch, caplog):
    plan, stage, network, validated = make(tmp_path)
    calls = []

    def fails(*_):
        calls.append(1)
        raise OSError("no space left")

    monkeypatch.setattr(pictures, "write_pictures", fails)
    shown = TrainingPictures(plan, stage, network, None)
    for step in (1, 2, 3):
        shown.after_validation(step, validated, last=True)
    assert len(calls) == 1 and caplog.text.count("no more pictures: no space left") == 1


def test_pictures_take_a_hundredth_of_the_time(tmp_path, monkeypatch):
    """A clock of our own: a second for each drawing, ten for the training between validations."""
    plan, stage, network, validated = make(tmp_path)
    now, drawn = [0.0], []
    monkeypatch.setattr(pictures.time, "perf_counter", lambda: now[0])
    plan.phases.begin("all")

    def draw(writer, step, *_):
        now[0] += 1.0
        drawn.append(step)

    monkeypatch.setattr(pictures, "write_pictures", draw)
    shown = TrainingPictures(plan, stage, network, None)
    for step in range(100):
        now[0] += 10.0
        shown.after_validation(step, validated, last=step == 99)
    assert drawn[0] == 0 and drawn[-1] == 99
    assert len(drawn) - 1 <= 0.01 * now[0]


def test_the_density_over_views_is_that_of_the_poses(tmp_path):
    """Against the density itself, summed over turns of the picture at some views."""
    plan, stage, network, _ = make(tmp_path)
    images = stage.held_out.__getitems__([0, 1]).images.float() * plan.mask
    found = view_density(network, images)
    assert found.mean(dim=1) == pytest.approx([1, 1], abs=1e-3)
    network.eval()
    views = torch.arange(0, found.shape[1], 17)
    psi = torch.arange(0, 360, 15.0)
    angles = network.density.grid.eulers_degs(views * len(network.density.grid.psi))[:, None].repeat(1, len(psi), 1)
    angles[..., 2] = psi
    with torch.no_grad():
        heights = torch.einsum("vpn,nb->vpb", network.density.wigner.from_angles(angles.float()), network(images))
    expected = heights.exp().sum(dim=1)
    torch.testing.assert_close(found[:, views].T / found[:, views].sum(dim=1), expected / expected.sum(dim=0), rtol=0.01, atol=0)


def test_interpolation_between_pixels_keeps_a_smooth_function():
    height = np.cos(np.radians(healpix_centres_degs(3)[:, 1]))
    finer = healpix_interpolated(np.stack((height, 0 * height + 2)), 5)
    np.testing.assert_allclose(finer[0], np.cos(np.radians(healpix_centres_degs(5)[:, 1])), atol=0.02)
    np.testing.assert_allclose(finer[1], 2)
