"""Batches of prepared particles for training and validation."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from cryopares_core.particles.order import WINDOW, epoch_order, pictures_in_block

BATCHES_AHEAD = 2


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
        """All tensors on a device."""
        tensors = (self.images, self.eulers_degs, self.ids)
        return Batch(*(None if x is None else x.to(device, non_blocking=non_blocking) for x in tensors))  # type: ignore[arg-type]


class PreparedDataset(Dataset):
    """Some of the prepared pictures. Whole batches are gathered at once."""

    def __init__(
        self,
        images: Tensor,
        eulers_degs: Tensor,
        indices: np.ndarray,
        announce: Callable[[np.ndarray], None] | None = None,
    ):
        """`images` `(n, c, s, s)` and `eulers_degs` `(n, 3)` of all particles; `indices` the ones in this data set.

        `announce` is told the particles that will be asked for soon.
        """
        self.images, self.eulers_degs, self.announce = images, eulers_degs, announce
        self.indices = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        # The order must not depend on where the pictures are, or a run could not go on elsewhere.
        self.block = pictures_in_block(images[0].numel() * images.element_size()) if len(images) else 1

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[int]) -> Batch:
        chosen = self.indices[torch.as_tensor(items)]
        return Batch(self.images[chosen], self.eulers_degs[chosen], chosen)

    def will_need(self, items: np.ndarray) -> None:
        """These places are asked for soon."""
        if self.announce:
            self.announce(self.indices.numpy()[items])


class EpochLoader:
    """Batches of a data set, epoch by epoch. An epoch that is asked for again, from any batch on, has the same batches.

    Parameters
    ----------
    dataset : gives a `Batch` for a list of positions by `__getitems__`; one that changes from epoch to epoch has `set_epoch`,
        and one that must not be shuffled says `in_order`
    batch_size : particles in a batch, those of all processes together
    seed : of the order; None keeps the data set's own, with an incomplete batch at the end
    share : which of how many processes this one is; each gets its part of every batch
    limit : the same so many batches in every epoch, for tests of a set-up

    A shuffled epoch leaves out what is too little for a whole batch, so that all steps are alike.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        seed: int | None = None,
        share: tuple[int, int] = (0, 1),
        limit: int | None = None,
    ):
        self.dataset, self.seed, self.share, self.limit = dataset, seed, share, limit
        self.batch_size = min(batch_size, len(dataset)) if seed is not None else batch_size

    def __len__(self) -> int:
        """Batches in an epoch."""
        size = len(self.dataset)
        count = size // self.batch_size if self.seed is not None else math.ceil(size / self.batch_size)
        return min(count, self.limit or count)

    def positions(self, epoch: int) -> list[np.ndarray]:
        """This process's part of each batch of an epoch, as places in the data set."""
        size, (rank, n_ranks) = len(self.dataset), self.share
        order = np.arange(size)
        if self.seed is not None and not getattr(self.dataset, "in_order", False):
            order = epoch_order(size, self.seed, 0 if self.limit else epoch, getattr(self.dataset, "block", None))
        batches = [order[first : first + self.batch_size] for first in range(0, size, self.batch_size)]
        return [batch[rank::n_ranks] for batch in batches[: len(self)]]

    def epoch(self, number: int, start: int = 0) -> Generator[Batch]:
        """The batches of an epoch from batch `start` on; the next ones are gathered while one is used."""
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(number)
        waiting: deque[Future[Batch]] = deque()
        batches = self.positions(number)[start:]
        with ThreadPoolExecutor(1, "batches") as pool, ThreadPoolExecutor(1, "batches ahead") as scout:
            for place, places in enumerate(batches):
                self._announce(scout, batches, place)
                waiting.append(pool.submit(self.dataset.__getitems__, places))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _announce(self, scout: ThreadPoolExecutor, batches: list[np.ndarray], place: int) -> None:
        """Have the next window read while this one is used; at the start of an epoch, both."""
        window = max(1, WINDOW // self.batch_size)
        if place % window or not hasattr(self.dataset, "will_need"):
            return
        coming = batches[place + window if place else 0 : place + 2 * window]
        if coming:
            scout.submit(self.dataset.will_need, np.concatenate(coming))


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
