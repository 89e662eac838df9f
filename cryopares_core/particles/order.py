"""In which order particles are gone through: that of the files, and that of an epoch."""

from __future__ import annotations

import numpy as np

from cryopares_core.particles.table import ParticleTable

WINDOW = 8192  # pictures that are mixed with each other
BLOCK_BYTES = 2_000_000  # pictures that lie together on the disk


def file_order(table: ParticleTable) -> np.ndarray:
    """All particles in the order in which their pictures lie in the files, those of one box and pixel size together."""
    return np.lexsort((table.slice_id, table.stack_id, table.pixel_size_angs, table.image_size_px))


def epoch_order(n: int, seed: int, epoch: int, block: int | None = None) -> np.ndarray:
    """A permutation of `range(n)` that depends on seed and epoch alone.

    With `block`, so many neighbours stay within one window of `WINDOW` places: blocks from all over the data set are brought
    into a random order, and those of each window are mixed. A disk then reads whole blocks, and few pictures more than a window
    holds. Sets that one window holds are in random order altogether.
    """
    draws = np.random.default_rng((seed, epoch))
    if block is None or n <= WINDOW:
        return draws.permutation(n)
    starts = draws.permutation(np.arange(0, n, block))
    order = (starts[:, None] + np.arange(block)).ravel()
    order = order[order < n]
    for first in range(0, n, WINDOW):
        draws.shuffle(order[first : first + WINDOW])
    return order


def pictures_in_block(bytes_of_one: int) -> int:
    """How many pictures of a size are read at once."""
    return max(1, BLOCK_BYTES // bytes_of_one)
