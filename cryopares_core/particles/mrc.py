"""Headers of MRC stacks (MRC2014, Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002)."""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.particles.retry import patiently

HEADER_BYTES = 1024
EXTENDED = 23  # the word that holds the length of the extended header
LARGEST_SIDE_PX = 32_768
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


@dataclass(frozen=True)
class StackHeader:
    """Size and layout of a stack: `n` pictures of `ny` x `nx` pixels, `dtype` in the file's byte order, from `offset` on."""

    path: str
    n: int
    ny: int
    nx: int
    dtype: np.dtype
    offset: int
    pixel_size_angs: float

    @property
    def bytes_per_picture(self) -> int:
        return self.ny * self.nx * self.dtype.itemsize


def read_header(path: str) -> StackHeader:
    """The header of a stack, checked against the file's length.

    Raises
    ------
    UserError : no such file, not an MRC file, a pixel type that is not supported, or a file that was cut off.
    """
    try:
        raw, size = patiently(lambda: _beginning(path), path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}. Check --particles_dir and the names in the STAR file.") from error
    header = _parse(path, raw)
    whole = header.offset + header.n * header.bytes_per_picture
    if size < whole:
        complete = max(0, size - header.offset) // header.bytes_per_picture
        raise UserError(
            f"{path}: the file was cut off: {size:,} bytes of {whole:,}, {complete} whole pictures of {header.n}. Copy it again."
        )
    return header


def _beginning(path: str) -> tuple[bytes, int]:
    """The header's bytes, and the file's length."""
    with open(path, "rb", buffering=0) as handle:
        return handle.read(HEADER_BYTES), os.fstat(handle.fileno()).st_size


def _parse(path: str, raw: bytes) -> StackHeader:
    if len(raw) < HEADER_BYTES:
        raise UserError(f"{path}: not an MRC file: only {len(raw)} bytes long. Copy it again.")
    orders = _byte_orders(raw)
    order = next((order for order in orders if _is_sensible(raw, order)), None)
    if order is None:
        nx, ny, nz, mode = _words(raw, orders[0])[:4]
        known = ", ".join(map(str, DTYPES))
        raise UserError(
            f"{path}: not an MRC stack that can be read: {nx} x {ny} x {nz} pixels of mode {mode} (known modes: {known})."
        )
    words = _words(raw, order)
    # What is no length says nothing, as 0 does.
    cell_x, samples_x = struct.unpack_from(f"{order}f", raw, 40)[0], words[7]
    pixel_size = cell_x / samples_x if samples_x > 0 and 0 < cell_x < math.inf else 0.0
    nx, ny, nz, mode = words[:4]
    return StackHeader(path, nz, ny, nx, np.dtype(order + DTYPES[mode]), HEADER_BYTES + words[EXTENDED], pixel_size)


def _words(raw: bytes, order: str) -> tuple[int, ...]:
    return struct.unpack_from(f"{order}24i", raw)


def _is_sensible(raw: bytes, order: str) -> bool:
    """Never true of both orders: a small side is a large one backwards."""
    words = _words(raw, order)
    sides, n, mode = words[:2], words[2], words[3]
    return mode in DTYPES and all(1 <= side <= LARGEST_SIDE_PX for side in sides) and n >= 1 and words[EXTENDED] >= 0


def _byte_orders(raw: bytes) -> str:
    """The two byte orders, first that of the machine stamp. Some programs leave the stamp empty or a wrong one."""
    return "><" if raw[212:214] == b"\x11\x11" else "<>"
