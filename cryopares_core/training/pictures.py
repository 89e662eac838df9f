"""Pictures of a training for TensorBoard, in a small share of its time and never in its way."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.grids import healpix_centres_degs, healpix_interpolated, healpix_pixels
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.network import PoseNetwork
from cryopares_core.plots.figures import new_figure, rgb_array
from cryopares_core.plots.gallery import GalleryRow, draw_gallery
from cryopares_core.plots.poses_on_sphere import draw_densities, draw_rotation_matrices
from cryopares_core.plots.sphere import draw_error_map
from cryopares_core.training.augmented import augmented_copies, shown
from cryopares_core.training.plan import Plan, Stage
from cryopares_core.training.records import VIEW_ORDER, Validated, views_of

logger = logging.getLogger(__name__)
SHARE_OF_TIME = 0.01
N_PARTICLES = 6
N_COPIES = 2
MAP_ORDER = 5  # cells of 1.8 degrees


class TrainingPictures:
    """Adds pictures to TensorBoard's file after validations, as often as takes no more than 1 % of the time.

    What cannot be drawn is told once, and then left out: training goes on.

    Parameters
    ----------
    plan, stage : what is trained, on what
    network : looks at some of the particles held out
    writer : torch's `SummaryWriter`
    """

    def __init__(self, plan: Plan, stage: Stage, network: PoseNetwork, writer: Any):
        self.plan, self.stage, self.network, self.writer = plan, stage, network, writer
        self.due, self.works = 0.0, True

    def after_validation(self, step: int, validated: Validated, last: bool) -> None:
        """Draw what a validation after `step` steps found, when it is time again or it is the `last` one."""
        started = time.perf_counter()
        if not self.works or (started < self.due and not last):
            return
        try:
            with self.plan.phases("pictures"):
                write_pictures(self.writer, step, self.plan, self.stage, self.network, validated)
        except Exception as error:
            self.works = False
            logger.warning("TensorBoard gets no more pictures: %s", error)
        ended = time.perf_counter()
        self.due = ended + (ended - started) / SHARE_OF_TIME


def write_pictures(writer: Any, step: int, plan: Plan, stage: Stage, network: PoseNetwork, validated: Validated) -> None:
    """Add pictures of the first particles held out, and of the errors of all. Random numbers, weights and running
    means stay as they were.

    Parameters
    ----------
    writer : torch's `SummaryWriter`
    step : under which the pictures stand
    """
    count = min(N_PARTICLES, len(validated.poses))
    batch = stage.held_out.__getitems__(list(range(count)))
    images, truth = batch.images.float(), euler_degs_to_matrix(batch.eulers_degs.double()).numpy()
    figures = {
        "poses/rotation matrices": _matrices(plan, truth, validated, count),
        "poses/density on the sphere": _densities(plan, network, images, truth, validated, count),
        "particles/augmented": _gallery(plan, images),
        "errors/by view": _error_map(stage, validated),
    }
    for name, figure in figures.items():
        writer.add_image(name, rgb_array(figure), step, dataformats="HWC")
    writer.add_histogram("errors/degrees", validated.error_degs.double().cpu().numpy(), step)
    writer.flush()


def _mates(plan: Plan, poses: np.ndarray) -> np.ndarray:
    """The poses `(n, 3, 3)` that show the same picture, `(n, g, 3, 3)`."""
    return poses[:, None] @ point_group(plan.symmetry).matrices.double().numpy()


def _matrices(plan: Plan, truth: np.ndarray, validated: Validated, count: int) -> Any:
    mates = _mates(plan, validated.poses[:count].double().cpu().numpy())
    nearest = np.einsum("ngij,nij->ng", mates, truth).argmax(axis=1)
    figure = new_figure(1.6 * count, 3.6)
    draw_rotation_matrices(figure, truth, mates[np.arange(count), nearest], validated.error_degs[:count].tolist())
    return figure


def _densities(plan: Plan, network: PoseNetwork, images: Tensor, truth: np.ndarray, validated: Validated, count: int) -> Any:
    masked = images * plan.mask
    log_density = healpix_interpolated(view_density(network, masked.to(plan.device)).log().cpu().numpy(), MAP_ORDER)
    centres = dict(zip(("rot_degs", "tilt_degs"), healpix_centres_degs(MAP_ORDER).T.copy(), strict=True))
    known = [matrix_to_euler_degs(torch.from_numpy(of_one)).numpy()[:, :2] for of_one in _mates(plan, truth)]
    found = matrix_to_euler_degs(validated.poses[:count].double().cpu()).numpy()[:, :2]
    figure = new_figure(10.5, 1.9 * -(-count // 2))
    draw_densities(figure, centres, log_density, shown(masked), known, found, validated.error_degs[:count].tolist())
    return figure


@torch.no_grad()
def view_density(network: PoseNetwork, images: Tensor) -> Tensor:
    """The density over the view directions of the output grid, all turns psi together: `(b, directions)`; 1 where it is uniform."""
    was_training = network.training
    network.eval()
    try:
        density = network.density
        values = density.synthesis(network(images))  # (directions, turns, b)
    finally:
        network.train(was_training)
    by_direction = torch.softmax(values.flatten(0, 1), dim=0).view_as(values).sum(dim=1)
    return (by_direction * len(by_direction)).T


def _gallery(plan: Plan, images: Tensor) -> Any:
    count, sampling = len(images), plan.sampling_rate_angs
    rows = [GalleryRow("prepared", shown(images * plan.mask), sampling)]
    if plan.config.datamanager.augment_train:
        copies = augmented_copies(plan, images, N_COPIES)
        rows += [GalleryRow(f"augmented,\ncopy {number}", shown(copy), sampling) for number, copy in enumerate(copies, 1)]
    figure = new_figure(1.6 * count, 1.6 * len(rows))
    draw_gallery(figure, rows)
    return figure


def _error_map(stage: Stage, validated: Validated) -> Any:
    error_degs = validated.error_degs.double().cpu().numpy()
    pixels = healpix_pixels(VIEW_ORDER, stage.records.truth_degs[: len(error_degs)])
    figure = new_figure(6.2, 4.0)
    draw_error_map(figure, views_of(pixels, error_degs))
    return figure
