"""Batches of prepared particles for training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Batch:
    """Pictures `(b, c, n, n)` float16 and RELION angles `(b, 3)` in degrees, float32.

    `ids` `(b,)` tells which particles of the run's table they are; None for pictures of no particle.
    """

    images: Tensor
    eulers_degs: Tensor
    ids: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """All tensors on a device; Lightning moves batches by this name."""
        tensors = (self.images, self.eulers_degs, self.ids)
        return Batch(*(None if x is None else x.to(device, non_blocking=non_blocking) for x in tensors))  # type: ignore[arg-type]


class PreparedDataset(Dataset):
    """Some of the prepared pictures. Whole batches are gathered at once."""

    def __init__(self, images: Tensor, eulers_degs: Tensor, indices: np.ndarray):
        """`images` `(n, c, s, s)` and `eulers_degs` `(n, 3)` of all particles; `indices` the ones in this data set."""
        self.images, self.eulers_degs = images, eulers_degs
        self.indices = torch.from_numpy(np.asarray(indices, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        chosen = self.indices[torch.as_tensor(items)]
        return Batch(self.images[chosen], self.eulers_degs[chosen], chosen)


def make_loader(dataset: Dataset, batch_size: int, shuffle: bool) -> DataLoader:
    """Batches of `batch_size` particles; in training (shuffled) an incomplete last batch is left out if there are others."""
    drop_last = shuffle and len(dataset) >= batch_size  # type: ignore[arg-type]
    return DataLoader(dataset, batch_size, shuffle=shuffle, drop_last=drop_last, collate_fn=_as_is, num_workers=0)


def _as_is(batch: Any) -> Any:
    return batch


def split_particles(half_set: np.ndarray, val_fraction: float, seed: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """For each half set its particles for training and for validation, as sorted indices into `half_set`.

    At least one particle is held out. The draw depends on the seed and the half set alone.
    """
    parts = {}
    for half in np.unique(half_set):
        members = np.flatnonzero(half_set == half)
        shuffled = np.random.default_rng((seed, int(half))).permutation(members)
        held_out = max(1, round(val_fraction * len(members)))
        parts[int(half)] = (np.sort(shuffled[held_out:]), np.sort(shuffled[:held_out]))
    return parts
