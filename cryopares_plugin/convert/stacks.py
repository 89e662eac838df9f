"""Stacks: used where they lie when they are MRC files, rewritten as such when they are not."""

import os
from typing import Iterator, Tuple

import mrcfile
import numpy as np
from pwem.emlib import lib
from pwem.emlib.image import ImageHandler

from cryopares_core.errors import UserError

MRC_EXTENSIONS = (".mrc", ".mrcs", ".st", ".ali", ".rec", ".map")
PICTURES_AT_ONCE = 200


def file_of(name: str) -> str:
    """A picture's file without Xmipp's note on its format (`particles.mrc:mrcs`)."""
    base, colon, note = name.rpartition(":")
    return base if colon and "/" not in note and len(note) <= 5 else name


def is_mrc(name: str) -> bool:
    """Whether the core reads the file as it is; by the name, as all programs do."""
    return file_of(name).lower().endswith(MRC_EXTENSIONS)


def read_picture(path: str, index: int) -> np.ndarray:
    """Picture `index` (from 1; 0 is the only one) of a stack, `(ny, nx)` float32.

    Raises
    ------
    UserError : the file cannot be read.
    """
    try:
        if is_mrc(path):
            with mrcfile.mmap(path, permissive=True) as stack:
                return np.array(stack.data if stack.data.ndim == 2 else stack.data[max(0, index - 1)], dtype=np.float32)
        return np.array(ImageHandler().read((max(1, index), path)).getData(), dtype=np.float32).squeeze()
    except Exception as error:  # mrcfile raises several kinds; Xmipp's library, which reads the other formats, its own
        raise _unreadable(path, error) from error


def picture_count(path: str) -> int:
    """How many pictures a stack holds that is no MRC file."""
    try:
        return int(lib.getImageSize(path)[3])
    except Exception as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split("File: /")[0].split()) or type(error).__name__
    return UserError(f"{path}: the pictures cannot be read ({reason}). Copy the file again, or bring the particles to .mrcs.")


def convert_stack(source: str, target: str, pixel_size_angs: float) -> None:
    """Write all pictures of a stack as an MRC stack of 32-bit numbers, a part at a time.

    The file has a temporary name until all pictures are in it.

    Raises
    ------
    UserError : `source` cannot be read.
    """
    count, temporary = picture_count(source), target + ".part"
    shape = (count, *read_picture(source, 1).shape)
    try:
        with mrcfile.new_mmap(temporary, shape, mrc_mode=2, overwrite=True) as stack:
            for start, pictures in _parts(source, count):
                stack.data[start : start + len(pictures)] = pictures
            stack.voxel_size = pixel_size_angs
            stack.set_image_stack()
        os.replace(temporary, target)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def _parts(source: str, count: int) -> Iterator[Tuple[int, np.ndarray]]:
    for start in range(0, count, PICTURES_AT_ONCE):
        stop = min(count, start + PICTURES_AT_ONCE)
        yield start, np.stack([read_picture(source, place + 1) for place in range(start, stop)])
