"""Learning what the posterior of network and map is worth, on particles that neither of them was made of."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.config.model_fit import disc_radius_angs
from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.prediction import PosePredictor
from cryopares_core.model.storage import ModelCard
from cryopares_core.particles.table import ParticleTable
from cryopares_core.refinement.maps import Reference
from cryopares_core.search.calibrate import SearchCalibration, sample_of
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.network import PosteriorPredictor
from cryopares_core.search.prior import NetworkPrior, learn_prior
from cryopares_core.search.settings import SearchSettings
from cryopares_core.training.calibration import Calibration, Signs
from cryopares_core.training.calibration_fit import fit_calibration
from cryopares_core.volumes.picture_fit import model_map

logger = logging.getLogger(__name__)
MAX_PARTICLES = 3000  # more teach nothing new
MAX_DISPERSION = 9.0
NEAR_DEGS = 10.0  # points of the grid that count as the true pose


def calibrate_posterior(
    folder: Path,
    predict: PosePredictor,
    card: ModelCard,
    table: ParticleTable,
    images: Tensor,
    ids: np.ndarray,
    device: torch.device,
) -> tuple[Calibration, NetworkPrior]:
    """Find the poses of held-out particles by network and map, and learn how far these poses may be trusted.

    Parameters
    ----------
    folder : of the half set, with the map of its training particles
    predict : by the half set's model
    table, images : all particles of the run, and their prepared images `(n, c, s, s)`
    ids : which particles were held out

    Raises
    ------
    UserError : there is no map, or the search does not fit in memory
    """
    chosen = np.sort(np.asarray(ids))[np.linspace(0, len(ids) - 1, min(len(ids), MAX_PARTICLES)).astype(int)]
    held_out = table.subset(chosen)
    found = model_map(folder, card.sampling_rate_angs)
    if found is None:
        raise UserError(f"{folder}: no map of the training particles.")
    reference = Reference(*found)
    radius = disc_radius_angs(card.preparation.mask_radius_angs, card.image_size_px, card.sampling_rate_angs)
    search = PoseSearch(held_out, {1: reference, 2: reference}, SearchSettings(card.symmetry, radius), device)
    predictor = PosteriorPredictor(predict, search)
    truth = euler_degs_to_matrix(torch.from_numpy(held_out.eulers_deg)).float()
    calibration = SearchCalibration(search, sample_of(search), torch.from_numpy(held_out.shifts_angs))
    calibration.learn_weights()
    search.dispersion = _dispersion(calibration, truth)
    predictor.prior = replace(_prior(calibration, predictor, images[chosen], truth), dispersion=search.dispersion)
    signs, error_degs = _signs(predictor, held_out, images[chosen], truth)
    logger.debug("%s: %s", folder.name, predictor.prior)
    return fit_calibration(signs, error_degs, card.symmetry), predictor.prior


def _dispersion(calibration: SearchCalibration, truth: Tensor) -> float:
    """By how much squared angular errors of poses in the right peak exceed what the likelihood says of them."""
    group = point_group(calibration.search.settings.symmetry).matrices
    particles, squares = torch.from_numpy(calibration.indices), list[Tensor]()
    for rows, found in calibration.searched():
        error = pose_error_degs(found.poses[:, 0].cpu().double(), truth[particles[rows]].double(), group)
        squares.append(torch.stack((error.square(), 3 * found.spread_degs[:, 0].cpu().double().square()))[:, error < NEAR_DEGS])
    seen, stated = torch.cat(squares, dim=1).sum(dim=1).tolist()
    return min(max(seen / stated, 1.0), MAX_DISPERSION) if stated > 0 else 1.0


def _prior(calibration: SearchCalibration, predictor: PosteriorPredictor, images: Tensor, truth: Tensor) -> NetworkPrior:
    """What the network adds to the map. `images` and `truth` `(n, 3, 3)` are those of the search's table."""
    search = calibration.search
    likelihood, rows = calibration.log_likelihood
    particles = torch.from_numpy(calibration.indices)[rows]
    log_net = torch.cat([predictor.log_densities(images[part].to(search.device)) for part in particles.split(64)])
    cosines = search.grid.cosines(truth[particles], point_group(search.settings.symmetry).matrices)
    return learn_prior(likelihood, log_net, (cosines > math.cos(NEAR_DEGS / DEGREES)).to(search.device))


def _signs(predictor: PosteriorPredictor, table: ParticleTable, images: Tensor, truth: Tensor) -> tuple[Signs, np.ndarray]:
    """What the poses of all usable particles look like, and their angular errors in degrees."""
    search, columns = predictor.search, list[tuple[Tensor, ...]]()
    shifts = torch.from_numpy(table.shifts_angs).float()
    for block in search.source.blocks(np.arange(len(table))):
        for part in np.array_split(np.arange(len(block)), -(-len(block) // 64)) if len(block) else ():
            indices = block.indices[part]
            spectra = search.source.spectra_of(indices, torch.from_numpy(block.pictures[part]).to(search.device))
            posterior = predictor(images[indices].to(search.device), spectra, indices, shifts[indices].to(search.device))
            best = posterior.found
            values = (best.poses, best.mass, best.correlation, posterior.network_mass)
            columns.append((*(value[:, 0].cpu() for value in values), truth[indices]))
    poses, mass, correlation, network, true = (torch.cat(column) for column in zip(*columns, strict=True))
    error = pose_error_degs(poses.double(), true.double(), point_group(search.settings.symmetry).matrices).numpy()
    eulers = matrix_to_euler_degs(poses.double()).numpy()
    return Signs(mass.numpy(), eulers, correlation.numpy(), network.numpy()), error
