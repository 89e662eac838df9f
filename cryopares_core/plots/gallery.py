"""Pictures of particles as a grid, one row for each stage of their preparation."""

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

from cryopares_core.plots.figures import styled

ROUND_LENGTHS_ANGS = (5, 10, 20, 50, 100, 200, 500, 1000)
LARGEST_BAR = 0.35  # of a picture's side


@dataclass(frozen=True)
class GalleryRow:
    """Pictures `(n, y, x)` of one stage, their pixel size, and what stands left of them."""

    label: str
    pictures: Sequence[np.ndarray]
    pixel_size_angs: float


@styled
def draw_gallery(figure: Any, rows: Sequence[GalleryRow], title: str = "") -> None:
    """A grid with a column for each particle; each picture in its own grey scale, three deviations to each side of its mean.

    The first picture of a row has a scale bar.
    """
    columns = max(len(row.pictures) for row in rows)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for row, places in zip(rows, grid):
        for axes in places:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        for axes, picture in zip(places, row.pictures):
            low, high = grey_limits(picture)
            axes.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        places[0].set_ylabel(row.label, rotation=0, ha="right", va="center", labelpad=10, fontsize=10)
        _scale_bar(places[0], len(row.pictures[0]), row.pixel_size_angs)
    figure.suptitle(title)


def grey_limits(picture: np.ndarray) -> Any:
    """The values that are drawn black and white."""
    mean, deviation = float(np.mean(picture)), float(np.std(picture)) or 1.0
    return mean - 3 * deviation, mean + 3 * deviation


def bar_length_angs(side_angs: float) -> int:
    """The longest round length that takes no more than a third of a picture."""
    return max([length for length in ROUND_LENGTHS_ANGS if length <= LARGEST_BAR * side_angs], default=ROUND_LENGTHS_ANGS[0])


def _scale_bar(axes: Any, side_px: int, pixel_size_angs: float) -> None:
    from matplotlib.patheffects import withStroke

    length = bar_length_angs(side_px * pixel_size_angs)
    start = 0.06 * side_px
    outline = [withStroke(linewidth=3.5, foreground="black")]
    axes.plot([start, start + length / pixel_size_angs], [0.93 * side_px] * 2, color="white", linewidth=2, path_effects=outline)
    axes.text(start, 0.89 * side_px, f"{length} Å", color="white", fontsize=7.5, va="bottom", path_effects=outline[:1])
    axes.set(xlim=(-0.5, side_px - 0.5), ylim=(side_px - 0.5, -0.5))
