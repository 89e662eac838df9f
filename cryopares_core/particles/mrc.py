"""Headers of MRC stacks (MRC2014, Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002)."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.particles.retry import patiently

HEADER_BYTES = 1024
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
    order = _byte_order(raw)
    words = np.frombuffer(raw, f"{order}i4")
    nx, ny, nz, mode, extended = (int(words[i]) for i in (0, 1, 2, 3, 23))
    if mode not in DTYPES or min(nx, ny, nz) < 1 or max(nx, ny) > 65_536 or extended < 0:
        known = ", ".join(map(str, DTYPES))
        raise UserError(
            f"{path}: not an MRC stack that can be read: {nx} x {ny} x {nz} pixels of mode {mode} (known modes: {known})."
        )
    cell_x, samples_x = np.frombuffer(raw, f"{order}f4")[10], int(words[7])
    pixel_size = float(cell_x) / samples_x if samples_x > 0 else 0.0
    return StackHeader(path, nz, ny, nx, np.dtype(order + DTYPES[mode]), HEADER_BYTES + extended, pixel_size)


def _byte_order(raw: bytes) -> str:
    """From the machine stamp; where that says nothing, the order in which the mode is a small number."""
    stamp = raw[212:214]
    if stamp in (b"DA", b"DD"):
        return "<"
    if stamp == b"\x11\x11":
        return ">"
    return "<" if 0 <= int(np.frombuffer(raw, "<i4")[3]) < 256 else ">"
