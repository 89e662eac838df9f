"""A look at a set's stacks before anything runs, at some of many: whether they are there, and what their headers say."""

import os
import time
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import mrcfile
import numpy as np

from cryopares_plugin.convert.stacks import is_mrc

MOST_LOOKED_FOR, MOST_SECONDS, MOST_HEADERS = 300, 0.5, 20
TOLERANCE = 0.01


class Header(NamedTuple):
    """Of an MRC stack: pictures, their sides, the pixel size in Å that it names, and whether the file is long enough."""

    n_pictures: int
    sides: Tuple[int, int]
    pixel_size_angs: float
    whole: bool


def spread(names: List[str], most: int) -> List[str]:
    """At most so many of a list, the first and the last among them."""
    return [names[place] for place in np.unique(np.linspace(0, len(names) - 1, min(most, len(names))).astype(int))]


def missing_stacks(stacks: Dict[str, int], project_path: str) -> List[str]:
    """A sentence where stacks are not there. On a slow disk fewer are looked for."""
    looked_for, missing, started = 0, [], time.monotonic()
    for name in spread(list(stacks), MOST_LOOKED_FOR):
        looked_for += 1
        if not os.path.exists(os.path.join(project_path, name)):
            missing.append(name)
        if time.monotonic() - started > MOST_SECONDS:
            break
    if not missing:
        return []
    among = f"{looked_for:,}" if looked_for == len(stacks) else f"{looked_for:,} looked for, of {len(stacks):,},"
    return [
        f"{len(missing):,} of {among} stacks are not there (first: {missing[0]}). Was a folder moved, or a disk not mounted? Mend "
        "the link, or import the particles again."
    ]


def read_headers(stacks: Dict[str, int], project_path: str) -> Dict[str, Optional[Header]]:
    """Of some MRC stacks that are there; None where the file is no such stack."""
    there = [name for name in spread(list(stacks), MOST_HEADERS) if is_mrc(name)]
    paths = {name: os.path.join(project_path, name) for name in there}
    return {name: _header(path) for name, path in paths.items() if os.path.exists(path)}


def _header(path: str) -> Optional[Header]:
    try:
        with mrcfile.open(path, permissive=True, header_only=True) as file:
            head: Any = file.header
            nx, ny, nz, mode = (int(head[name]) for name in ("nx", "ny", "nz", "mode"))
            voxel = float(file.voxel_size.x)
            needed = 1024 + int(head["nsymbt"]) + nz * ny * nx * mrcfile.utils.dtype_from_mode(mode).itemsize
    except Exception:  # mrcfile raises several kinds
        return None
    return Header(nz, (nx, ny), voxel, os.path.getsize(path) >= needed)


def header_problems(headers: Dict[str, Optional[Header]], stacks: Dict[str, int], box_px: int) -> List[str]:
    """Headers that do not agree with the set. `box_px` 0: the set does not know it."""
    found = []
    for name, header in headers.items():
        if header is None:
            found.append(f"{name} is no MRC stack that can be read. Copy it again.")
        elif not header.whole:
            found.append(f"{name} was cut off: it is shorter than its header says. Copy it again.")
        elif header.sides[0] != header.sides[1] or (box_px and header.sides[0] != box_px):
            known = f"the set's are {box_px} px" if box_px else "they must be square"
            found.append(f"{name}: its pictures are {header.sides[0]} x {header.sides[1]} px, {known}. Import the particles again.")
        elif header.n_pictures < stacks[name]:
            asked = f"number {stacks[name]:,} is asked for"
            found.append(f"{name} holds {header.n_pictures:,} pictures, and {asked}. Import the particles again.")
    return found if len(found) <= 3 else [*found[:3], f"{len(found) - 3} more of {len(headers)} stacks looked at are like these."]


def header_warnings(headers: Dict[str, Optional[Header]], sampling_rate: float) -> List[str]:
    """Pixel sizes that differ. Many programs leave 0 or 1 there, which says nothing."""
    sizes = {name: header.pixel_size_angs for name, header in headers.items() if header is not None}
    differ = [
        name for name, size in sizes.items() if size > 0 and abs(size - 1) > 1e-6 and abs(size / sampling_rate - 1) > TOLERANCE
    ]
    if not differ:
        return []
    return [
        f"The set's sampling rate is {sampling_rate:g} Å/px, and {len(differ)} of {len(sizes)} stacks looked at name another one "
        f"(first: {differ[0]}, {sizes[differ[0]]:.4g} Å). The set's is used. Import the particles again if it is wrong."
    ]
