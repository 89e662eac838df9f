"""Maps: reading and writing MRC volumes, and resampling them in Fourier space. Arrays are `[z, y, x]`."""

from __future__ import annotations

import logging
import zlib
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from cryopares_core.errors import UserError
from cryopares_core.files import atomic_path

logger = logging.getLogger(__name__)
ANISOTROPY_ALLOWED = 1e-3
SMALLEST_VOXEL_ANGS, LARGEST_VOXEL_ANGS = 0.01, 1000.0
PIXEL_REMEDY, HEADER_REMEDY = "give --sampling_rate", "write it again with its pixel size"
# What the reader raises where bytes are not what they should be.
DAMAGE = (ValueError, OSError, EOFError, zlib.error, OverflowError)


def read_map(
    path: str | Path,
    pixel_size_angs: float | None = None,
    what: str = "Map",
    option: str = "--map_fname",
    remedy: str = PIXEL_REMEDY,
) -> tuple[np.ndarray, float]:
    """A cubic map, `(n, n, n)` float32 `[z, y, x]`, and its pixel size in Å.

    `pixel_size_angs` replaces that of the header; `what` it is, the `option` that names it and the `remedy` for a header without a
    pixel size are for messages. Raises UserError when the file is no map, is not cubic, holds values that are not finite or the
    same everywhere, or when the pixel size is unknown or impossible.
    """
    if not Path(path).is_file():
        raise UserError(f"{what} {path} does not exist: check {option}.")
    try:
        volume, voxel = _read_mrc(Path(path))
    except DAMAGE as error:
        raise UserError(f"{what} {path} is not a readable MRC file ({error}): copy it again, or give another.") from error
    problems = _volume_problems(volume)
    if pixel_size_angs is None:
        problems += _voxel_problems(voxel, remedy)
        pixel_size_angs = float(voxel[0])
    if problems:
        raise UserError([f"{what} {path}: {problem}" for problem in problems])
    if _is_possible(voxel) and abs(voxel[0] / pixel_size_angs - 1) > ANISOTROPY_ALLOWED:
        logger.warning("%s %s: its header says %.4f Å/px, %.4f is used.", what, path, voxel[0], pixel_size_angs)
    return volume, pixel_size_angs


def _read_mrc(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values `[z, y, x]`, and the voxel's sides x, y, z in Å; 0 where the header says nothing."""
    with mrcfile.open(path) as handle:
        sides = np.array([float(handle.header.cella[axis]) for axis in "xyz"])
        counts = np.array([int(handle.header[f"m{axis}"]) for axis in "xyz"])
        voxel = np.where(counts > 0, sides / np.maximum(counts, 1), 0.0)
        return _in_zyx_order(handle.data, handle.header).astype(np.float32), voxel


def _in_zyx_order(data: np.ndarray, header: Any) -> np.ndarray:
    """Some programs store the axes in another order and say so in the header (1, 2, 3 stand for x, y, z)."""
    stored = [int(header.maps), int(header.mapr), int(header.mapc)]
    if data.ndim != 3 or sorted(stored) != [1, 2, 3]:
        return data
    return np.transpose(data, [stored.index(axis) for axis in (3, 2, 1)])


def _volume_problems(volume: np.ndarray) -> list[str]:
    if volume.ndim != 3 or len(set(volume.shape)) != 1:
        return [f"it must be a cube, but it is {' x '.join(map(str, volume.shape))} px (z, y, x): pad or crop it."]
    bad = int(np.count_nonzero(~np.isfinite(volume)))
    if bad:
        return [f"{bad} of its voxels are NaN or infinite: mend the map."]
    if volume.min() == volume.max():
        return [f"all its voxels have the value {volume.min():g}: it shows nothing."]
    return []


def _voxel_problems(voxel: np.ndarray, remedy: str) -> list[str]:
    if not voxel.any():
        return [f"its header has no pixel size: {remedy}."]
    sizes = ", ".join(f"{size:g}" for size in voxel)
    if not _is_possible(voxel):
        limits = f"{SMALLEST_VOXEL_ANGS:g} and {LARGEST_VOXEL_ANGS:g} Å"
        return [f"its header's pixel size cannot be ({sizes} Å; it should lie between {limits}): {remedy}."]
    if np.ptp(voxel) > ANISOTROPY_ALLOWED * voxel[0]:
        return [f"its pixel size differs between axes ({sizes} Å): resample it, or {remedy}."]
    return []


def _is_possible(voxel: np.ndarray) -> bool:
    """Whether sides in Å are numbers that a pixel can have."""
    return bool(((voxel >= SMALLEST_VOXEL_ANGS) & (voxel <= LARGEST_VOXEL_ANGS)).all())


def write_map(path: str | Path, volume: np.ndarray, pixel_size_angs: float) -> None:
    """Write a map `(n, n, n)` as float32; it appears under its name only when it is complete."""
    _write_mrc(path, np.asarray(volume, dtype=np.float32), pixel_size_angs, is_stack=False)


def write_stack(path: str | Path, pictures: np.ndarray, pixel_size_angs: float) -> None:
    """Write pictures `(k, n, n)`, float32 or float16, as a stack; it appears under its name only when it is complete."""
    _write_mrc(path, pictures, pixel_size_angs, is_stack=True)


def _write_mrc(path: str | Path, data: np.ndarray, pixel_size_angs: float, is_stack: bool) -> None:
    with atomic_path(path) as temporary, mrcfile.new(temporary, overwrite=True) as handle:
        handle.set_data(np.ascontiguousarray(data))
        handle.voxel_size = pixel_size_angs
        if is_stack:
            handle.set_image_stack()


def resample_map(volume: np.ndarray, size: int) -> np.ndarray:
    """The same map on `size` voxels a side, by Fourier cropping or padding: `(size, size, size)` float32.

    Densities and the centre voxel (`n // 2` to `size // 2`) stay; the pixel size becomes `n / size` times as large.
    """
    n = volume.shape[0]
    if size == n:
        return volume.astype(np.float32)
    transform = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    kept = min(n, size)
    if kept % 2 == 0:
        # The Nyquist frequency of an even box has no partner of the other sign.
        kept -= 1
    source, target = (slice(m // 2 - kept // 2, m // 2 - kept // 2 + kept) for m in (n, size))
    result = np.zeros((size,) * 3, dtype=complex)
    result[target, target, target] = transform[source, source, source]
    result = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(result))).real
    return (result * (size / n) ** 3).astype(np.float32)
