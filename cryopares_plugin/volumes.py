"""Scipion's volumes for the core."""

import os
import shutil
from typing import Any, List

from pwem.convert.headers import Ccp4Header
from pwem.emlib.image import ImageHandler


def write_map(volume: Any, path: str) -> None:
    """Write a `Volume` as an MRC file with its pixel size in the header; the file appears when it is complete."""
    temporary = path[: -len(".mrc")] + ".partial.mrc"
    source = volume.getFileName()
    if source.endswith((".mrc", ".map")) and volume.getIndex() in (0, None):
        shutil.copyfile(source, temporary)
    else:
        ImageHandler().convert(volume, temporary)
    header = Ccp4Header(temporary, readHeader=True)
    header.setSampling(volume.getSamplingRate())
    header.writeHeader()
    os.replace(temporary, path)


def half_map_files(volume: Any) -> List[str]:
    """The names of a volume's half maps; none where it has none."""
    return [name for name in (volume.getHalfMaps() or "").split(",") if name]
