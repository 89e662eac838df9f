"""Which pictures can be used: one rule for all that read them."""

from __future__ import annotations

import numpy as np

# Sums of squares of larger values, over the transform of a picture, leave float32; no detector gives such ones.
LARGEST_PIXEL = 1e10


def usable(pictures: np.ndarray) -> np.ndarray:
    """`(b,)` which of the pictures `(b, n, n)` are finite and show anything."""
    lowest, highest = extremes(pictures)
    return within_range(lowest, highest) & (lowest < highest)


def extremes(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lowest and the highest pixel of each picture, `(b,)`; nan where one is."""
    lowest, highest = pictures.min(axis=(1, 2)), pictures.max(axis=(1, 2))
    return lowest.astype(np.float64), highest.astype(np.float64)


def within_range(lowest: np.ndarray, highest: np.ndarray) -> np.ndarray:
    """`(b,)` whether all pixels are numbers that can be computed with."""
    return (lowest > -LARGEST_PIXEL) & (highest < LARGEST_PIXEL)
