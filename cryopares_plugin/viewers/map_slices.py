"""Planes through a map."""

from typing import Any, Dict, NamedTuple, Tuple

import mrcfile
import numpy as np

from cryopares_core.plots.figures import GREY, say_nothing_yet, styled

AXES = ("z", "y", "x")
PLANES = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the box
CONTRAST = (1.0, 99.8)  # percentiles of the values that are shown as black and white
SAMPLES = 64  # along each axis, that tell the contrast
BAR_SHARE = 0.25  # of the box, at the most


class Slices(NamedTuple):
    """Planes by axis and number, the values that are black and white, the box in pixels, and the pixel size in Å."""

    planes: Dict[Tuple[int, int], np.ndarray]
    contrast: Tuple[float, float]
    size_px: int
    pixel_angs: float


def read_slices(path: str) -> Slices:
    """Of a map, whose other planes are not read. Raises OSError or ValueError where it cannot be read."""
    with mrcfile.mmap(path, permissive=True) as file:
        data, pixel_angs = file.data, float(file.voxel_size.x)
        if data is None or data.ndim != 3:
            raise ValueError("it is no map")
        places = [(axis, int(plane * data.shape[axis])) for axis in range(3) for plane in PLANES]
        planes = {(axis, number): np.array(data.take(number, axis)) for axis, number in places}
        step = max(1, data.shape[0] // SAMPLES)
        low, high = np.percentile(data[::step, ::step, ::step], CONTRAST)
        return Slices(planes, (float(low), float(high)), data.shape[0], pixel_angs)


@styled
def draw_slices(figure: Any, path: str) -> None:
    """Five planes along each axis, all with the same grey scale, and a bar of a round length."""
    try:
        slices = read_slices(path)
    except (OSError, ValueError) as error:
        say_nothing_yet(figure, f"{path}: the map cannot be read ({error}).")
        return
    low, high = slices.contrast
    panels = figure.subplots(len(AXES), len(PLANES))
    for panel, ((axis, number), plane) in zip(panels.flat, slices.planes.items()):
        panel.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower")
        panel.set_title(f"{AXES[axis]} = {number}", fontsize=8, fontweight="normal")
        panel.axis("off")
    _scale_bar(panels[0, 0], slices.size_px, slices.pixel_angs)


def bar_angs(size_angs: float) -> float:
    """The longest of 1, 2, 5, 10, 20, 50 … Å that is no longer than a quarter of the box."""
    most = BAR_SHARE * size_angs
    power = 10 ** np.floor(np.log10(most))
    return float(max(step * power for step in (1, 2, 5) if step * power <= most))


def _scale_bar(panel: Any, size_px: int, pixel_angs: float) -> None:
    length = bar_angs(size_px * pixel_angs)
    panel.plot([0.05 * size_px, 0.05 * size_px + length / pixel_angs], [0.05 * size_px] * 2, color="white", linewidth=2)
    panel.text(0.05 * size_px, -0.03 * size_px, f"{length:g} Å", color=GREY, fontsize=8, va="top")
