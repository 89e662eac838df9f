"""Planes through a map."""

from typing import Any, Tuple

import mrcfile
import numpy as np

from cryopares_core.plots.figures import GREY, say_nothing_yet, styled

AXES = ("z", "y", "x")
PLANES = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the box
CONTRAST = (1.0, 99.8)  # percentiles of the values that are shown as black and white
BAR_SHARE = 0.25  # of the box, at the most


def read_volume(path: str) -> Tuple[np.ndarray, float]:
    """A map `(z, y, x)` and its pixel size in Å. Raises OSError or ValueError where it cannot be read."""
    with mrcfile.open(path, permissive=True) as file:
        return np.array(file.data, dtype=np.float32), float(file.voxel_size.x)


@styled
def draw_slices(figure: Any, path: str) -> None:
    """Five planes along each axis, all with the same grey scale, and a bar of a round length."""
    try:
        volume, pixel_angs = read_volume(path)
    except (OSError, ValueError) as error:
        say_nothing_yet(figure, f"{path}: the map cannot be read ({error}).")
        return
    low, high = np.percentile(volume, CONTRAST)
    panels = figure.subplots(len(AXES), len(PLANES))
    for axis, name in enumerate(AXES):
        for panel, plane in zip(panels[axis], PLANES):
            number = int(plane * volume.shape[axis])
            panel.imshow(np.take(volume, number, axis), cmap="gray", vmin=low, vmax=high, origin="lower")
            panel.set_title(f"{name} = {number}", fontsize=8, fontweight="normal")
            panel.axis("off")
    _scale_bar(panels[0, 0], volume.shape[0], pixel_angs)


def bar_angs(size_angs: float) -> float:
    """The longest of 1, 2, 5, 10, 20, 50 … Å that is no longer than a quarter of the box."""
    most = BAR_SHARE * size_angs
    power = 10 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most))


def _scale_bar(panel: Any, size_px: int, pixel_angs: float) -> None:
    length = bar_angs(size_px * pixel_angs)
    panel.plot([0.05 * size_px, 0.05 * size_px + length / pixel_angs], [0.05 * size_px] * 2, color="white", linewidth=2)
    panel.text(0.05 * size_px, -0.03 * size_px, f"{length:g} Å", color=GREY, fontsize=8, va="top")
