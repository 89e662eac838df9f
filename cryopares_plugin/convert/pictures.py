"""A look at a few pictures: are the particles brighter or darker than what lies around them?"""

import os
from typing import NamedTuple, Sequence, Tuple

import numpy as np

from cryopares_plugin.convert.columns import MATRIX
from cryopares_plugin.convert.poses import origins_px, read_matrices
from cryopares_plugin.convert.rows import ParticleRows
from cryopares_plugin.convert.stacks import file_of, read_picture

PICTURES, AMONG = 64, 2000
# Of the box: the radius of the disc, and where background begins. The disc is wide enough to hold the shell of a hollow particle,
# whose middle may look dark far from focus.
CENTRE, BORDER = 0.35, 0.45


class Contrast(NamedTuple):
    """Centre minus background in units of the background's deviation, its standard error, and how many pictures are flat or nan."""

    difference: float
    error: float
    empty: int


def contrast(rows: ParticleRows, project_path: str, in_plane: bool = False) -> Contrast:
    """Of up to 64 of the first 2,000 particles. `in_plane`: their alignment is one in 2D.

    Raises
    ------
    UserError : a picture cannot be read.
    """
    block = rows.head(["_index", "_filename", MATRIX], AMONG)
    chosen = np.unique(np.linspace(0, len(block["_index"]) - 1, PICTURES).astype(int))
    origins = origins_px(read_matrices([block[MATRIX][place] for place in chosen]), in_plane)
    values = []
    for place, origin in zip(chosen, origins):
        path = os.path.join(project_path, file_of(block["_filename"][place]))
        values.append(_difference(read_picture(path, block["_index"][place]), origin))
    finite = np.array([value for value in values if np.isfinite(value)])
    if len(finite) < 2:
        return Contrast(0.0, 1.0, len(values) - len(finite))
    return Contrast(float(finite.mean()), float(finite.std(ddof=1) / np.sqrt(len(finite))), len(values) - len(finite))


def _difference(picture: np.ndarray, origin_px: Sequence[float]) -> float:
    """Mean of the disc about the particle's centre less that of the background, over the background's deviation."""
    centre, background = _masks(picture.shape, origin_px)
    deviation = picture[background].std()
    if not deviation > 0:
        return float("nan")
    return float((picture[centre].mean() - picture[background].mean()) / deviation)


def _masks(shape: Tuple[int, ...], origin_px: Sequence[float]) -> Tuple[np.ndarray, np.ndarray]:
    """The disc stands where the particle is, at minus the origin from the middle of the picture."""
    size = min(shape)
    y, x = np.indices(shape)
    middle_y, middle_x = (side // 2 for side in shape)
    disc = np.hypot(x - middle_x + origin_px[0], y - middle_y + origin_px[1]) < CENTRE * size
    return disc, np.hypot(x - middle_x, y - middle_y) > BORDER * size
