"""A network's opinion of images on the grid of a search, and the search with it."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.synthesis import GridSynthesis
from cryopares_core.model.density import PoseDensity
from cryopares_core.model.modes import log_mean_density
from cryopares_core.model.prediction import PosePredictor
from cryopares_core.refinement.pictures import Spectra
from cryopares_core.search.candidates import CandidateStage
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.grid import SearchGrid
from cryopares_core.search.opinion import NetworkOpinion
from cryopares_core.search.prior import FLAT, NetworkPrior
from cryopares_core.search.results import SearchedPoses


class NetworkOnGrid:
    """Evaluates pose densities at the points of a search grid.

    Parameters
    ----------
    density : of the network, on its device
    """

    def __init__(self, density: PoseDensity, grid: SearchGrid):
        device = density.decay.device
        own = len(density.grid) == len(grid.full)
        self._synthesis = density.synthesis if own else GridSynthesis(density.lmax, grid.full).to(device)
        self._points = None if len(grid) == len(grid.full) else grid.points.to(device)

    @torch.no_grad()
    def values(self, coefficients: Tensor) -> Tensor:
        """Symmetrised coefficients `(n_coefficients, b)` -> log-densities on the whole of SO(3), `(full points, b)`."""
        return self._synthesis(coefficients.float()).flatten(0, 1)

    def at_points(self, values: Tensor) -> Tensor:
        """The same at the points of the search grid, `(b, points)`."""
        return (values if self._points is None else values.index_select(0, self._points)).T.contiguous()


@dataclass(frozen=True)
class PosteriorPoses:
    """The poses of b images, with the probability `(b, k)` that the network gives to poses within 5 degrees of each."""

    found: SearchedPoses
    network_mass: Tensor


class PosteriorPredictor:
    """Poses by one team of networks and the search.

    Attributes
    ----------
    prior, stage : what the networks are worth beside the map, and how much of the grid to try first; may be set later
    """

    def __init__(self, predict: PosePredictor, search: PoseSearch, prior: NetworkPrior = FLAT):
        self.predict, self.search, self.prior = predict, search, prior
        self.stage: CandidateStage | None = None
        self.on_grid = NetworkOnGrid(predict.find.density, search.grid)

    def on(self, search: PoseSearch) -> PosteriorPredictor:
        """The same networks with the maps of another search on the same grid."""
        other = copy(self)
        other.search = search
        return other

    @torch.no_grad()
    def log_densities(self, images: Tensor) -> Tensor:
        """Prepared images `(b, c, s, s)` -> the networks' log-densities at the points of the grid, `(b, points)`."""
        return self.on_grid.at_points(self.on_grid.values(self.predict.coefficients(images)))

    @torch.no_grad()
    def __call__(self, images: Tensor, spectra: Spectra, indices: np.ndarray, shifts_angs: Tensor) -> PosteriorPoses:
        """The poses of some images of one kind.

        Parameters
        ----------
        images : prepared for the network, `(b, c, s, s)`
        spectra : of the images as they came
        indices : `(b,)` of the table
        shifts_angs : `(b, 2)` known origins x, y
        """
        coefficients = self.predict.coefficients(images)
        values = self.on_grid.values(coefficients)
        found = self.search(spectra, indices, shifts_angs, self._opinion(values))
        return PosteriorPoses(found, self._mass(coefficients, values, found))

    def _opinion(self, values: Tensor) -> NetworkOpinion | None:
        """None where the network neither votes nor says where to look."""
        if self.prior.is_flat and self.stage is None:
            return None
        return NetworkOpinion(self.on_grid.at_points(values), self.prior, self.stage)

    def _mass(self, coefficients: Tensor, values: Tensor, found: SearchedPoses) -> Tensor:
        """The network's probability within 5 degrees of the poses that there are, `(b, k)`."""
        row, peak = (found.mass > 0).nonzero(as_tuple=True)
        mass, log_mean = torch.zeros_like(found.mass), log_mean_density(values)
        poses = found.poses[row, peak][:, None]
        mass[row, peak] = self.predict.find.mass_at(coefficients[:, row], log_mean[row], poses)[:, 0]
        return mass
