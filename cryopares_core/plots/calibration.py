"""Whether stated confidence comes true: isotonic regression, and the gap between what was stated and what was seen."""

from dataclasses import dataclass
from typing import List, Tuple

import numpy as np

FOLDS = 5
BINS = 10
LEAST_IN_A_BIN = 20


@dataclass(frozen=True)
class Isotonic:
    """A curve that never falls, by its corners: stated confidence (rising) and the share that came true, each `(corners,)`."""

    stated: np.ndarray
    true: np.ndarray

    def __call__(self, stated: np.ndarray) -> np.ndarray:
        """The share to expect at stated confidences `(n,)`; constant beyond the ends."""
        return np.interp(stated, self.stated, self.true)


@dataclass(frozen=True)
class Bins:
    """Particles of about the same stated confidence: its mean, the share that came true, and their number, each `(bins,)`."""

    stated: np.ndarray
    true: np.ndarray
    count: np.ndarray

    @property
    def interval(self) -> Tuple[np.ndarray, np.ndarray]:
        """The ends of Wilson's 95 % interval of the share (Wilson 1927), each `(bins,)`."""
        z, n = 1.96, self.count
        centre = (self.true + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(self.true * (1 - self.true) / n + z**2 / (4 * n**2))
        return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


def fit_isotonic(stated: np.ndarray, hit: np.ndarray) -> Isotonic:
    """The curve of least squares among those that never fall, by pooling adjacent violators (Ayer et al. 1955).

    Parameters
    ----------
    stated, hit : `(n,)` confidence, and whether (or how often) it came true, 0 to 1
    """
    values, place, count = np.unique(stated, return_inverse=True, return_counts=True)
    blocks: List[Tuple[float, float, float]] = []  # number of particles, mean of hits, mean of stated confidences
    for n, value, mean in zip(count.astype(float), values, np.bincount(place, weights=hit) / count):
        block = (n, float(mean), float(value))
        while blocks and blocks[-1][1] >= block[1]:
            block = _pooled(blocks.pop(), block)
        blocks.append(block)
    _, true, where = np.array(blocks).T
    return Isotonic(where, true)


def _pooled(first: Tuple[float, float, float], second: Tuple[float, float, float]) -> Tuple[float, float, float]:
    n = first[0] + second[0]
    means = [(first[0] * a + second[0] * b) / n for a, b in zip(first[1:], second[1:])]
    return n, means[0], means[1]


def cross_fitted(stated: np.ndarray, hit: np.ndarray, seed: int = 0) -> np.ndarray:
    """Corrected confidences `(n,)`: each particle's from a curve fitted without it, so that it says what new particles get."""
    fold = np.random.default_rng(seed).permutation(len(stated)) % FOLDS
    corrected = np.empty(len(stated))
    for number in range(FOLDS):
        out = fold == number
        corrected[out] = fit_isotonic(stated[~out], hit[~out])(stated[out])
    return corrected


def equal_bins(stated: np.ndarray, hit: np.ndarray) -> Bins:
    """Particles sorted by stated confidence, in bins of equal number; fewer bins where there are few particles."""
    n_bins = int(np.clip(len(stated) // LEAST_IN_A_BIN, 1, BINS))
    parts = np.array_split(np.argsort(stated, kind="stable"), n_bins)
    columns = [(stated[part].mean(), hit[part].mean(), len(part)) for part in parts]
    return Bins(*np.array(columns).T)


def calibration_gap(stated: np.ndarray, hit: np.ndarray) -> float:
    """The mean distance, 0 to 1, between stated confidence and the share that came true, over bins of equal number."""
    bins = equal_bins(stated, hit)
    return float(np.average(np.abs(bins.stated - bins.true), weights=bins.count))
