"""How sure a team of models is of the poses that it found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import matrix_to_euler_degs
from cryopares_core.inference.models import TrainedModel
from cryopares_core.model.modes import Modes
from cryopares_core.particles.ctf import CtfTensors
from cryopares_core.training.calibration import Signs
from cryopares_core.volumes.picture_fit import fit_to_own_map

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judged:
    """Modes as they are written down, each `(b, k, …)`, the surest first; see `Found`."""

    eulers_degs: np.ndarray
    confidence: np.ndarray
    near: np.ndarray
    stated: np.ndarray
    fit: np.ndarray


class Judge:
    """Judges the modes that a team found. Each model judges by its own map and calibration, and the mean counts."""

    def __init__(self, models: Sequence[TrainedModel], device: torch.device):
        self.models = models
        self.comparisons = [fit_to_own_map(model.folder, model.card, device) for model in models]
        for model in models:
            if model.calibration is None:
                logger.warning(
                    "%s has no calibration: confidence is the network's own, which orders particles well and is usually too low",
                    model.folder,
                )

    def __call__(self, modes: Modes, pictures: Tensor, ctf: CtfTensors) -> Judged:
        """Modes `(b, k)` of prepared pictures `(b, c, s, s)`, sorted by confidence."""
        stated = modes.mass.double().cpu().numpy()
        eulers_degs = matrix_to_euler_degs(modes.poses.double()).cpu().numpy()
        fits = [None if look is None or not ctf.known else look(pictures, ctf, modes.poses) for look in self.comparisons]
        fits_there = [None if fit is None else fit.double().cpu().numpy() for fit in fits]
        confidence, near = self._probabilities(stated, eulers_degs, fits_there)
        known = [fit for fit in fits_there if fit is not None]
        fit = np.mean(known, axis=0) if known else np.zeros_like(stated)
        order = np.argsort(-confidence, axis=1, kind="stable")
        taken = (np.take_along_axis(values, order, axis=1) for values in (confidence, near, stated, fit))
        return Judged(np.take_along_axis(eulers_degs, order[..., None], axis=1), *taken)

    def _probabilities(
        self, stated: np.ndarray, eulers_degs: np.ndarray, fits: Sequence[np.ndarray | None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """That poses `(b, k)` are within 5 degrees of the truth, and that they are near enough for refinement."""
        found = []
        for model, fit in zip(self.models, fits, strict=True):
            signs = Signs(stated.ravel(), eulers_degs.reshape(-1, 3), None if fit is None else fit.ravel())
            calibration = model.calibration
            odds = (None, None) if calibration is None else (calibration.right, calibration.near)
            found.append([signs.stated if calibration is None else calibration(signs, which) for which in odds])
        right, near = np.mean(found, axis=0).reshape(2, *stated.shape) * (stated > 0)
        return _exclusive(right), _exclusive(near)


class PosteriorConfidence:
    """The probability that poses of the search are right: the posterior's mass as calibrated by each model, and their mean.

    Without a calibration it is the mass itself, which is usually too high.
    """

    def __init__(self, models: Sequence[TrainedModel]):
        known = [model.calibration for model in models if model.calibration is not None]
        self.calibrations = [calibration.posterior for calibration in known if calibration.posterior is not None]
        if models and not self.calibrations:
            logger.warning(
                "%s has no calibration of the posterior: confidence is the posterior's mass within 5°, which is usually too high",
                models[0].folder,
            )

    def __call__(
        self, mass: np.ndarray, eulers_degs: np.ndarray, fit: np.ndarray, network: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The probabilities `(b, k)` that poses are within 5 degrees of the truth, and within 15.

        Parameters
        ----------
        mass, fit, network : `(b, k)` of the posterior within 5 degrees; correlation with the map; mass by the network alone
        eulers_degs : `(b, k, 3)`
        """
        if not self.calibrations:
            return mass, mass
        signs = Signs(mass.ravel(), eulers_degs.reshape(-1, 3), fit.ravel(), None if network is None else network.ravel())
        found = [[each(signs, odds) for odds in (each.right, each.near)] for each in self.calibrations]
        right, near = np.mean(found, axis=0).reshape(2, *mass.shape) * (mass > 0)
        return _exclusive(right), _exclusive(near)


def _exclusive(probability: np.ndarray) -> np.ndarray:
    """Only one of the modes `(b, k)` is the true one."""
    return probability / np.maximum(1.0, probability.sum(axis=1, keepdims=True))
