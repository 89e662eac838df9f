"""Learning the calibration of a half set's model, once it is trained."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cryopares_core.errors import UserError
from cryopares_core.geometry.rotations import euler_degs_to_matrix, matrix_to_euler_degs, pose_error_degs
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.model.precision import uses_bfloat16
from cryopares_core.model.prediction import PosePredictor
from cryopares_core.model.storage import load_model
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.particles.table import ParticleTable
from cryopares_core.plots.readers import read_columns, read_json
from cryopares_core.plots.records import VALIDATION_COLUMNS
from cryopares_core.training.calibrate_posterior import calibrate_posterior
from cryopares_core.training.calibration import FILE, Calibration, Signs, model_checksum, parse_calibration, write_calibration
from cryopares_core.training.calibration_fit import fit_calibration
from cryopares_core.volumes.picture_fit import fit_to_own_map

logger = logging.getLogger(__name__)
BATCH = 64
LEAST_PARTICLES = 20


def calibrate_half_set(
    folder: Path,
    images: Tensor,
    eulers_degs: Tensor,
    ctf: CtfTensors,
    ids: np.ndarray,
    device: torch.device,
    table: ParticleTable | None = None,
) -> Calibration | None:
    """Find the poses of particles held out with the model of a half set, and write how far it may be trusted: `calibration.json`.

    Parameters
    ----------
    folder : of the half set, with its best model, and the map of its training particles if they make one
    images, eulers_degs, ctf : prepared pictures `(n, c, s, s)`, known angles `(n, 3)` and CTFs of all particles of the run
    ids : which of them were held out
    table : all particles; with it, and with a map, poses by network and map together are calibrated as well

    Returns None, and writes nothing, where there are too few.
    """
    if len(ids) < LEAST_PARTICLES:
        return None
    network, card = load_model(folder)
    bfloat16 = uses_bfloat16(card.config["train"]["precision"], device)
    predict = PosePredictor([network], card.mask(), card.symmetry, device, bfloat16)
    compare, poses, stated, fits = fit_to_own_map(folder, card, device), [], [], []
    for part in torch.from_numpy(np.asarray(ids, dtype=np.int64)).split(BATCH):
        pictures = images[part].to(device)
        modes = predict(pictures)
        poses.append(modes.poses[:, 0].cpu())
        stated.append(modes.mass[:, 0].cpu())
        if compare is not None and ctf.known:
            fits.append(compare(pictures, ctf.chosen(part, device), modes.poses)[:, 0].cpu())
    found = torch.cat(poses).double()
    truth = euler_degs_to_matrix(eulers_degs[ids].double())
    error_degs = pose_error_degs(found, truth, point_group(card.symmetry).matrices).numpy()
    fit = torch.cat(fits).numpy() if fits else None
    signs = Signs(torch.cat(stated).numpy(), matrix_to_euler_degs(found).numpy(), fit)
    calibration = fit_calibration(signs, error_degs, card.symmetry)
    if table is not None and compare is not None and ctf.known:
        try:
            posterior, prior = calibrate_posterior(folder, predict, card, table, images, ids, device)
            calibration = replace(calibration, posterior=posterior, prior=prior)
        except UserError as error:  # the model is still good for its own poses
            logger.warning("%s: the posterior of network and map is not calibrated (%s)", folder.name, error)
    write_calibration(folder, calibration)
    logger.info(
        "%s: on average, stated confidence is %.0f points off what came true, and %.0f as calibrated",
        *(folder.name, 100 * calibration.right.gap_before, 100 * calibration.right.gap_after),
    )
    return calibration


def is_calibrated(folder: Path) -> bool:
    """Whether the calibration in a half set's folder is that of the model beside it."""
    path, model = folder / FILE, folder / "model.safetensors"
    if not (path.is_file() and model.is_file()):
        return False
    belongs = _belongs(folder)
    return path.stat().st_mtime >= model.stat().st_mtime if belongs is None else belongs


def _belongs(folder: Path) -> bool | None:
    """Whether a calibration is that of the model beside it, by the weights' checksum; None where an earlier version wrote none."""
    checksum = read_json(folder / FILE).get("model_sha256")
    return None if checksum is None else checksum == model_checksum(folder)


def read_calibration(folder: Path, symmetry: str) -> Calibration | None:
    """That of a model's folder: from `calibration.json`, or learned now from `validation.csv` where that file is not there or is of
    another model. Times of change decide only where the file does not say of which model it is: copying a folder changes them.

    None where there is neither, or too few particles were validated.

    Raises
    ------
    UserError : the file is damaged or of a newer format
    """
    path, validation = folder / FILE, folder / "validation.csv"
    if path.is_file():
        belongs = _belongs(folder)
        is_newest = not validation.is_file() or validation.stat().st_mtime <= path.stat().st_mtime
        if belongs or (belongs is None and is_newest):
            return parse_calibration(path)
    columns = read_columns(validation, VALIDATION_COLUMNS)
    if columns is None or len(columns["error_degs"]) < LEAST_PARTICLES:
        return None
    found_degs = np.stack([columns[f"predicted_{name}_degs"] for name in ("rot", "tilt", "psi")], axis=1)
    return fit_calibration(Signs(columns["confidence"], found_degs), columns["error_degs"], symmetry)
