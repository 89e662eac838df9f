"""Whether images show a map at all.

The best of many rotations always fits better than the others, whatever the map. So part of the frequencies is left out of the
search, and the poses that the others find are judged by these: images of another molecule, or of nothing, fit no better there
than by chance. The lowest frequencies are not looked at, where all molecules look alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cryopares_core.refinement.fit import M, Observed, X, fit
from cryopares_core.refinement.frequencies import Frequencies
from cryopares_core.refinement.pictures import Spectra

if TYPE_CHECKING:
    from cryopares_core.search.engine import PoseSearch

FREE_SHARE = 0.25
BAND = 1.5  # from so much coarser than the search's resolution up to it
MIN_IMAGES = 50
SURE_DEVIATIONS, MIN_DEVIATIONS = 5.0, 3.0
MIN_SHARE = 0.25


@dataclass(frozen=True)
class MapVerdict:
    """How well the images of a sample show the map.

    Attributes
    ----------
    n_images : that were looked at
    free_share : the signal at frequencies that were left out of the search over that at the others: near 1 where the poses are
        right, near 0 where the search fitted noise or the map is of another molecule
    free_deviations : standard errors by which the signal at the frequencies left out is above 0
    contrast_deviations : standard errors by which the map fits better than its negative
    """

    n_images: int
    free_share: float
    free_deviations: float
    contrast_deviations: float

    @property
    def is_inverted(self) -> bool:
        """Whether the images show the negative of the map."""
        return self.n_images >= MIN_IMAGES and self.contrast_deviations < -SURE_DEVIATIONS

    @property
    def is_doubtful(self) -> bool:
        """Whether most of the fit between images and map is an effect of the search."""
        little = self.free_share < MIN_SHARE or self.free_deviations < MIN_DEVIATIONS
        return self.n_images >= MIN_IMAGES and little


def judge_map(search: PoseSearch, sample: Iterable[tuple[np.ndarray, Tensor, Spectra]]) -> MapVerdict:
    """Judge the maps of a search by images: indices of the table `(b,)`, known shifts `(b, 2)` in Å, and spectra."""
    free, work, contrast = [], [], []
    for indices, shifts, spectra in sample:
        band, is_free = _band(spectra.frequencies, search), _drawn(spectra.frequencies)
        kept = ~(band & is_free)
        found = search(Spectra(spectra.frequencies, spectra.values * kept, spectra.ctf * kept), indices, shifts)
        where = indices, found.poses[:, 0], found.shifts_angs[:, 0]
        free.append(_products(search, spectra, band & is_free, *where))
        work.append(_products(search, spectra, band & ~is_free, *where))
        scores = search.scores(spectra, indices, shifts)
        contrast.append(scores.amax(dim=1) + scores.amin(dim=1))
    signal_free, signal_work = (_slope(torch.cat(part)) for part in (free, work))
    share = signal_free / signal_work if signal_work > 0 else 0.0
    return MapVerdict(sum(map(len, free)), share, _deviations(torch.cat(free)[:, 0]), _deviations(torch.cat(contrast)))


def _slope(products: Tensor) -> float:
    """Regression of all images on their models, from `_products`."""
    cross, norm = products.sum(dim=0).tolist()
    return cross / max(norm, 1e-30)


def _band(kind: Frequencies, search: PoseSearch) -> Tensor:
    """`(p,)` the finest frequencies that the grid is searched at."""
    frequency = kind.xy.norm(dim=0) * search.resolution_angs
    return (frequency > 1 / BAND) & (frequency <= 1)


def _drawn(kind: Frequencies) -> Tensor:
    """`(p,)` a random share of the frequencies, the same each time."""
    return (torch.rand(len(kind), generator=torch.Generator().manual_seed(0)) < FREE_SHARE).to(kind.xy.device)


@torch.no_grad()
def _products(search: PoseSearch, spectra: Spectra, chosen: Tensor, indices: np.ndarray, poses: Tensor, shifts: Tensor) -> Tensor:
    """Scalar products of images with models, and of models with themselves, at some frequencies: `(b, 2)`."""
    seen = search.weights[spectra.frequencies].observed(spectra)
    part = Observed(seen.data[:, :, chosen], seen.transfer[:, chosen], seen.xy[:, chosen])
    found = torch.zeros(len(indices), 2, device=poses.device)
    for slices, rows in search.maps.of(indices):
        products = fit(slices, part.part(rows, part.xy.shape[1]), poses[rows], shifts[rows]).products
        found[rows] = products[:, M, [X, M]]
    return found


def _deviations(values: Tensor) -> float:
    """How many standard errors the mean is above 0."""
    return float(values.mean() / (values.std(correction=0) / math.sqrt(max(1, len(values)))).clamp(min=1e-12))
