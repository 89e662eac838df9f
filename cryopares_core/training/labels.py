"""Which known poses are wrong: what the images say against their labels.

The map gives a likelihood L of each image at all rotations of a grid. A right label says that the true pose is near it; a wrong one
says nothing. So an image X has the likelihood `(1 - e) L_in + e L_out` with `L_in` the mean of L near the label, `L_out` the mean
over all rotations, and e the share of wrong labels. The share that makes all images likeliest comes by expectation maximisation
(Dempster, Laird and Rubin 1977), and with it the probability that each label is right.

The scale of an image is not profiled out here, as the search does: the best of many scales and poses would make noise look like
signal elsewhere. The images' scores at their labels tell how strong the signal is, and L is the mean over such scales. The mean of
L over images of pure noise then is 1 at each pose, so that an image without information keeps the probability 1 - e.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cryopares_core.geometry.rotations import DEGREES, euler_degs_to_matrix
from cryopares_core.geometry.symmetry import point_group
from cryopares_core.particles.table import ParticleTable
from cryopares_core.progress import Countdown
from cryopares_core.refinement.calibration import Calibration
from cryopares_core.refinement.maps import Reference
from cryopares_core.search.engine import PoseSearch
from cryopares_core.search.settings import SearchSettings

NEAR_DEGS = 12.0  # a label that is off by less is right
N_SAMPLE = 400  # images that teach noise and signal
NOISE_VARIANCE = 0.5  # of a score
MAD_TO_DEVIATION = 1.4826  # of a Gaussian
MIN_VARIANCE = 0.05  # of the signal, as a share of its square: images differ
CHUNK = 32
SMALLEST = 1e-37
FIRST_SHARE, ROUNDS = 0.05, 500
MIN_DEVIATIONS = 3.0  # of the share, in standard errors: below it there is no sign of wrong labels
MIN_SHARE = 0.002
MIN_PROBABILITY = 0.5  # a label of less is suspect


class Signal(NamedTuple):
    """Mean and variance, over images, of the score that an image without noise has at its pose."""

    mean: float
    variance: float

    def log_likelihood(self, score: Tensor) -> Tensor:
        """Of scores f, relative to pure noise: the log of the mean of `exp(2 f a - a^2)` over Gaussian scales a."""
        precision = 1 + 1 / (2 * self.variance)
        slope = 2 * score + self.mean / self.variance
        constant = self.mean**2 / (2 * self.variance) + 0.5 * math.log(2 * self.variance * precision)
        return slope.square() / (4 * precision) - constant


@dataclass(frozen=True)
class LabelQuality:
    """How far the labels of n particles are right.

    Attributes
    ----------
    probability : `(n,)` that each is right; 1 where the image cannot be used
    wrong_share : of all; 0 where there is no sign of wrong ones
    share_error : standard error of the share
    """

    probability: np.ndarray
    wrong_share: float
    share_error: float

    @property
    def suspect(self) -> np.ndarray:
        """`(n,)` which labels are more likely wrong than right."""
        return self.probability < MIN_PROBABILITY


def label_quality(log_ratio: np.ndarray) -> LabelQuality:
    """From the log-likelihoods `(n,)` of right labels over wrong ones; nan where nothing is known."""
    known = np.isfinite(log_ratio)
    against = np.exp(-np.clip(log_ratio[known], -50, 50))  # L_out / L_in
    share = FIRST_SHARE
    for _ in range(ROUNDS):
        share = float(np.mean(share * against / (1 - share + share * against))) if len(against) else 0.0
    information = float(np.square((against - 1) / (1 - share + share * against)).sum())
    error = 1 / math.sqrt(max(information, 1e-12))
    if share < max(MIN_DEVIATIONS * error, MIN_SHARE):
        return LabelQuality(np.ones(len(log_ratio)), 0.0, error)
    probability = np.ones(len(log_ratio))
    probability[known] = (1 - share) / (1 - share + share * against)
    return LabelQuality(probability, share, error)


class LabelJudge:
    """Judges the labels of a table's particles by a map.

    Parameters
    ----------
    table : the particles, with their labels
    reference : the map
    symmetry : point group
    mask_radius_angs : of the particle

    Raises
    ------
    UserError : an image cannot be read, or the memory is too small
    """

    def __init__(self, table: ParticleTable, reference: Reference, symmetry: str, mask_radius_angs: float, device: torch.device):
        halves = dict.fromkeys(np.unique(table.half_set).tolist(), reference)
        self.search = PoseSearch(table, halves, SearchSettings(symmetry, mask_radius_angs), device)
        self.labels = euler_degs_to_matrix(torch.from_numpy(table.eulers_deg)).float()
        self.shifts = torch.from_numpy(table.shifts_angs).float()
        self.group = point_group(symmetry).matrices.float()
        self.progress = Countdown("Judged the poses of", "particles")

    @torch.no_grad()
    def log_ratio(self) -> np.ndarray:
        """How much likelier each image is if its label is right than if it is wrong, log, `(n,)`; nan for unusable images."""
        search, found, done = self.search, np.full(len(self.labels), np.nan), 0
        signal = self._learn()
        for block in search.source.blocks(np.arange(len(self.labels))):
            for part in np.array_split(np.arange(len(block)), -(-len(block) // CHUNK)) if len(block) else ():
                score, near = self.looked_at(block.indices[part], block.pictures[part])
                found[block.indices[part]] = log_mean_ratio(signal.log_likelihood(score), near).cpu().numpy()
            done += len(block)
            self.progress(done, len(found))
        return found

    def _learn(self) -> Signal:
        """Noise at each frequency from images at their labels, then the signal from the scores there. Medians bear wrong labels."""
        search = self.search
        sample = search.source.some(N_SAMPLE)
        blocks = [block for block in search.source.blocks(sample) if len(block)]
        search.weights = Calibration(search.source, search.maps, blocks).weights(self.labels[sample], self.shifts[sample])
        scores = []
        for block in blocks:
            for part in np.array_split(np.arange(len(block)), -(-len(block) // CHUNK)):
                score, _ = self.looked_at(block.indices[part], block.pictures[part])
                nearest = self._cosines(block.indices[part]).argmax(dim=1, keepdim=True)
                scores.append(score.gather(1, nearest)[:, 0])
        return learn_signal(torch.cat(scores))

    def looked_at(self, indices: np.ndarray, images: np.ndarray) -> tuple[Tensor, Tensor]:
        """Scores on the grid `(b, points)`, and which points are near the label."""
        spectra = self.search.source.spectra_of(indices, torch.from_numpy(images).to(self.search.device))
        scores = self.search.scores(spectra, indices, self.shifts[indices].to(self.search.device))
        cosines = self._cosines(indices)
        limit = cosines.amax(dim=1, keepdim=True).clamp(max=math.cos(NEAR_DEGS / DEGREES))  # at least the nearest point
        return scores, cosines >= limit

    def _cosines(self, indices: np.ndarray) -> Tensor:
        """Of the angles between labels and points under the point group, `(b, points)`."""
        return self.search.grid.cosines(self.labels[indices].to(self.search.device), self.group)


def log_mean_ratio(log_likelihood: Tensor, near: Tensor) -> Tensor:
    """Log of the mean likelihood near the label over that of the whole grid, both `(b, points)`; `(b,)`, not below -87."""
    likelihood = (log_likelihood - log_likelihood.amax(dim=1, keepdim=True)).exp_()
    inside = (likelihood * near).sum(dim=1) / near.sum(dim=1)
    return inside.clamp(min=SMALLEST).log() - likelihood.mean(dim=1).log()


def learn_signal(scores: Tensor) -> Signal:
    """From the scores `(n,)` of images at their labels, of which some are wrong."""
    mean = scores.median()
    deviation = MAD_TO_DEVIATION * (scores - mean).abs().median()
    mean = mean.clamp(min=1e-3)
    variance = (deviation.square() - NOISE_VARIANCE).clamp(min=float(MIN_VARIANCE * mean.square()))
    return Signal(float(mean), float(variance))
