"""Reading pictures from stacks: positioned reads in file order, and no file kept open."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.files import stamp
from cryopares_core.particles.mrc import StackHeader, read_header
from cryopares_core.particles.retry import ShortRead, patiently
from cryopares_core.particles.table import ParticleTable

_cached_header = lru_cache(maxsize=100_000)(read_header)


def read_images(table: ParticleTable, indices: np.ndarray) -> np.ndarray:
    """Pictures of some particles, all of one size: `(k, ny, nx)` float32, in the order of `indices`.

    Raises
    ------
    UserError : a stack is missing, cut off or unreadable, or the pictures differ in size.
    """
    indices = np.asarray(indices)
    order = np.lexsort((table.slice_id[indices], table.stack_id[indices]))
    stack_id, slice_id = table.stack_id[indices][order], table.slice_id[indices][order]
    images: np.ndarray | None = None
    starts = np.flatnonzero(np.diff(stack_id, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
        header = _cached_header(table.stack_paths[stack_id[start]])
        if images is None:
            images = np.empty((len(indices), header.ny, header.nx), np.float32)
        if images.shape[1:] != (header.ny, header.nx):
            raise UserError(f"{header.path}: its pictures are {header.nx} x {header.ny} px, those before {images.shape[2]} px.")
        _read_into(images, order[start:stop], header, slice_id[start:stop])
    return np.empty((0, 0, 0), np.float32) if images is None else images


def _read_into(images: np.ndarray, rows: np.ndarray, header: StackHeader, slices: np.ndarray) -> None:
    """Read rising `slices` of one stack, each run of neighbours at once, into `rows` of `images`."""
    borders = np.flatnonzero(np.diff(slices) != 1) + 1
    parts = list(zip(np.split(slices, borders), np.split(rows, borders), strict=True))
    try:
        patiently(lambda: _read_parts(images, header, parts), header.path)
    except ShortRead as error:
        raise UserError(f"{header.path}: {error}. Copy the file again.") from error
    except OSError as error:
        raise UserError(f"{header.path}: {error.strerror}. It was there when the run started: is the disk still there?") from error


def _read_parts(images: np.ndarray, header: StackHeader, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Opens the file anew each time: a handle that has gone stale stays so."""
    file = os.open(header.path, os.O_RDONLY)
    try:
        for slices, rows in parts:
            raw = _read_exactly(file, header, int(slices[0]), len(slices))
            images[rows] = np.frombuffer(raw, header.dtype).reshape(len(slices), header.ny, header.nx)
    finally:
        os.close(file)


def _read_exactly(file: int, header: StackHeader, first: int, count: int) -> bytes:
    length, start = count * header.bytes_per_picture, header.offset + first * header.bytes_per_picture
    parts, done = [], 0
    while done < length:
        part = os.pread(file, length - done, start + done)
        if not part:
            raise ShortRead(f"ends before picture {first + count}")
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def stacks_digest(paths: Iterable[str]) -> str:
    """One word for stacks as they are now: by it one sees that pictures of the same names are others."""
    return hashlib.sha256(json.dumps([[path, *stamp(path)] for path in paths]).encode()).hexdigest()[:16]
