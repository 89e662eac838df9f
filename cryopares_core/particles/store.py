"""The prepared store: all pictures of a table, prepared once, in memory or in a file on a scratch disk.

A file is keyed by what its pictures are made of, so that half sets, epochs and later runs share it, and by all processes of a
machine. Its preparation can be interrupted at any moment, by a power cut too, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cryopares_core import scratch
from cryopares_core.errors import UserError
from cryopares_core.memory import free_memory_bytes
from cryopares_core.particles.prepare import MEMORY_SHARE, Progress, prepare_particles, prepared_batches, prepared_shape
from cryopares_core.particles.preprocess import PreprocessSettings
from cryopares_core.particles.table import ParticleTable

logger = logging.getLogger(__name__)
FORMAT = 1  # another one when pictures of the same settings become other pictures
BATCH = 256
SECONDS_BETWEEN_SYNCS = 5.0
SMALL_BYTES = 2e9  # so much each of several processes may prepare and keep for itself


@dataclass(frozen=True)
class PreparedPictures:
    """Prepared pictures `images` `(n, c, s, s)` float16, in table order, in memory or mapped from a file."""

    images: Tensor
    file: int | None = None
    hold: scratch.Hold | None = None

    def will_need(self, ids: np.ndarray) -> None:
        """Have the disk read the pictures of some particles, in large pieces, before they are asked for."""
        if self.file is None or not len(ids):
            return
        size, places = self.images[0].numel() * 2, np.sort(ids)
        # What lies between two neighbours of one half set is read along: one long read is faster than many.
        borders = np.flatnonzero(np.diff(places) > 8) + 1
        for part in np.split(places, borders):
            length = int(part[-1] - part[0] + 1) * size
            os.posix_fadvise(self.file, int(part[0]) * size, length, os.POSIX_FADV_WILLNEED)


def open_store(
    table: ParticleTable,
    settings: PreprocessSettings,
    device: torch.device,
    progress: Progress,
    scratch_dir: Path | None,
    fallback_dir: Path,
    n_processes: int = 1,
) -> PreparedPictures:
    """All prepared pictures of a table.

    Parameters
    ----------
    settings : with sampling and size as numbers
    device : where they are prepared
    progress : called with the pictures prepared so far and those of this preparation
    scratch_dir : where the file is; None keeps pictures in memory if they fit
    fallback_dir : where the file is if they do not
    n_processes : on this machine, that share its memory

    Raises
    ------
    UserError : pictures are broken, files cannot be read, or the disk is too small, which is told before the work
    """
    needed = 2 * int(np.prod(prepared_shape(table, settings), dtype=np.int64))
    fits = n_processes * needed <= MEMORY_SHARE * free_memory_bytes() and (n_processes == 1 or needed <= SMALL_BYTES)
    if scratch_dir is None and fits:
        return PreparedPictures(prepare_particles(table, settings, device, progress=progress))
    if scratch_dir is None:
        logger.warning(
            "The prepared pictures take %.1f GB, too much for the memory: they go to a file in %s. A folder on a fast local disk, "
            "given with --scratch_dir, serves better.",
            *(needed / 1e9, fallback_dir),
        )
    entry = scratch.entry(scratch_dir or fallback_dir, store_key(table, settings))
    hold = scratch.Hold(entry)
    try:
        if entry.complete:
            logger.info("Prepared pictures are there, in %s", entry.folder)
        else:
            with scratch.told_when_full(entry.folder):
                _prepare_file(entry, table, settings, device, progress, needed)
        hold.share()
        return _mapped(entry, prepared_shape(table, settings), hold)
    except BaseException:
        hold.release()  # others may wait for it
        raise


def store_key(table: ParticleTable, settings: PreprocessSettings) -> str:
    """A name from all that prepared pictures depend on: the stacks' files, the particles' places in them, shifts, CTFs and pixel
    sizes, and the settings. Poses and half sets are not among them.
    """
    digest = hashlib.sha256(json.dumps([FORMAT, asdict(settings)]).encode())
    for path in table.stack_paths:
        status = os.stat(path)
        digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    columns = [table.stack_id, table.slice_id, table.shifts_angs, table.pixel_size_angs, table.image_size_px]
    for column in columns + [getattr(table.ctf, item.name) for item in fields(table.ctf)]:
        digest.update(np.asarray(column, dtype=np.float64).tobytes())
    return digest.hexdigest()[:16]


def _prepare_file(
    entry: scratch.Entry, table: ParticleTable, settings: PreprocessSettings, device: torch.device, progress: Progress, needed: int
) -> None:
    """Prepare what is not there yet, and give the file its name when it is whole."""
    partial, journal = entry.folder / scratch.PARTIAL, entry.folder / scratch.JOURNAL
    there = 512 * partial.stat().st_blocks if partial.exists() else 0
    scratch.check_disk(entry.folder, needed, there)
    entry.describe(_about(table, settings, needed))
    done = _read_journal(journal) if there else set()
    with open(partial, "r+b" if there else "w+b") as file, open(journal, "a" if there else "w", encoding="utf-8") as notes:
        if os.fstat(file.fileno()).st_size < needed:
            os.posix_fallocate(file.fileno(), 0, needed)  # a disk that fills up does so now
        if done:
            logger.info("%s: an earlier preparation goes on after %s pictures", entry.folder, f"{BATCH * len(done):,} or fewer")
        _write_batches(file.fileno(), notes, prepared_batches(table, settings, device, BATCH, done), len(table), done, progress)
        os.fsync(file.fileno())
    os.replace(partial, entry.folder / scratch.PICTURES)
    journal.unlink(missing_ok=True)


def _write_batches(
    file: int, notes: Any, batches: Iterable[tuple[int, np.ndarray, Tensor]], n: int, done: set[int], progress: Progress
) -> None:
    """Write pictures to their places; a batch is noted when the disk has it."""
    waiting: list[int] = []
    synced, count, total = time.monotonic(), 0, max(1, n - BATCH * len(done))

    def note() -> None:
        os.fdatasync(file)
        notes.writelines(f"{number}\n" for number in waiting)
        notes.flush()
        waiting.clear()

    try:
        for number, indices, pictures in batches:
            _write_pictures(file, indices, pictures.numpy())
            waiting.append(number)
            count += len(indices)
            progress(min(count, total), total)
            if time.monotonic() - synced > SECONDS_BETWEEN_SYNCS:
                note()
                synced = time.monotonic()
    finally:
        note()


def _write_pictures(file: int, indices: np.ndarray, pictures: np.ndarray) -> None:
    """Each run of neighbours at once."""
    order = np.argsort(indices)
    places, size = indices[order], pictures[0].nbytes
    borders = np.flatnonzero(np.diff(places) != 1) + 1
    for part, rows in zip(np.split(places, borders), np.split(order, borders), strict=True):
        data = memoryview(pictures[rows].tobytes())
        start = int(part[0]) * size
        while data:
            written = os.pwrite(file, data, start)
            data, start = data[written:], start + written


def _read_journal(path: Path) -> set[int]:
    """Numbers of finished batches; the last line may be torn."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    except OSError:
        return set()
    return {int(line) for line in lines if line.isdigit()}


def _about(table: ParticleTable, settings: PreprocessSettings, needed: int) -> dict[str, Any]:
    return {
        "particles": len(table),
        "image_size_px": settings.image_size_px,
        "sampling_rate_angs": settings.sampling_rate_angs,
        "ctf": settings.ctf_mode,
        "bytes": needed,
        "first_stack": table.stack_paths[0],
    }


def _mapped(entry: scratch.Entry, shape: tuple[int, int, int, int], hold: scratch.Hold) -> PreparedPictures:
    path = entry.folder / scratch.PICTURES
    needed = 2 * int(np.prod(shape, dtype=np.int64))
    if path.stat().st_size != needed:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes instead of {needed:,}. Remove {entry.folder} and start again.")
    # Copy on write: nobody writes, but PyTorch warns of arrays that are read-only.
    pictures = np.memmap(path, np.float16, mode="c", shape=shape)
    return PreparedPictures(torch.from_numpy(pictures), os.open(path, os.O_RDONLY), hold)
