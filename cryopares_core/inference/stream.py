"""Pictures of many particles, read ahead and prepared batch by batch; no more than a few batches are in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryopares_core.particles.ctf import CtfTensors, ctf_tensors
from cryopares_core.particles.preprocess import Preprocessor, PreprocessSettings
from cryopares_core.particles.stacks import read_images
from cryopares_core.particles.table import ParticleTable
from cryopares_core.particles.usable import usable
from cryopares_core.training.phases import Phases

BATCHES_AHEAD = 2


@dataclass(frozen=True)
class PreparedBatch:
    """Particles `indices` `(b,)` of the table, with their prepared images `(b, c, s, s)` float32, their CTFs, and the images as
    they came `(b, n, n)`, on the device.

    Those whose pictures are constant or hold values that are not finite or huge are left out, and stand in `broken`.
    """

    indices: np.ndarray
    images: Tensor
    ctf: CtfTensors
    broken: np.ndarray
    raw: Tensor


def prepared_stream(
    table: ParticleTable,
    order: np.ndarray,
    settings: PreprocessSettings,
    device: torch.device,
    batch_size: int,
    phases: Phases | None = None,
) -> Iterator[PreparedBatch]:
    """The particles of `order` `(n,)`, which is part of `file_order`, in batches; the next ones are read while one is used.

    Parameters
    ----------
    settings : with sampling and size as numbers
    phases : told how long pictures are waited for

    Raises
    ------
    UserError : a stack cannot be read
    """
    preprocess = Preprocessor(settings)
    for indices, raw in _read_ahead(table, _alike(table, order, batch_size), phases or Phases()):
        good = usable(raw)
        whole = indices if good.all() else indices[good]
        images = torch.from_numpy(raw if good.all() else raw[good]).to(device, non_blocking=True)
        ctf = ctf_tensors(table.ctf, whole, device)
        shifts = torch.as_tensor(table.shifts_angs[whole], dtype=torch.float32, device=device)
        prepared = preprocess(images, ctf, float(table.pixel_size_angs[indices[0]]), shifts) if len(whole) else images[:, None]
        yield _finite_ones(PreparedBatch(whole, prepared, ctf, indices[~good], images))


def _finite_ones(batch: PreparedBatch) -> PreparedBatch:
    """Preparation divides by the background's deviation, and where there is next to none, numbers end."""
    finite = batch.images.isfinite().flatten(1).all(dim=1)
    if bool(finite.all()):
        return batch
    chosen, fine = finite.nonzero().flatten(), finite.numpy(force=True)
    broken = np.concatenate((batch.broken, batch.indices[~fine]))
    ctf = batch.ctf.chosen(chosen, batch.images.device)
    return PreparedBatch(batch.indices[fine], batch.images[chosen], ctf, broken, batch.raw[chosen])


def _alike(table: ParticleTable, order: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Batches of one box and pixel size."""
    kinds = np.stack((table.pixel_size_angs[order], table.image_size_px[order]))
    for group in np.split(order, np.flatnonzero((kinds[:, 1:] != kinds[:, :-1]).any(axis=0)) + 1):
        yield from np.split(group, range(batch_size, len(group), batch_size))


def _read_ahead(table: ParticleTable, batches: Iterator[np.ndarray], phases: Phases) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices and raw pictures `(b, n, n)`."""
    waiting: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
    with ThreadPoolExecutor(1, "pictures") as reader:
        for indices in batches:
            waiting.append((indices, reader.submit(read_images, table, indices)))
            if len(waiting) > BATCHES_AHEAD:
                yield _arrived(*waiting.popleft(), phases)
        while waiting:
            yield _arrived(*waiting.popleft(), phases)


def _arrived(indices: np.ndarray, coming: Future[np.ndarray], phases: Phases) -> tuple[np.ndarray, np.ndarray]:
    with phases("waiting for the disk"):
        return indices, coming.result()
