"""How the poses of two files differ: histograms, and differences by view direction."""

from typing import Any

import numpy as np

from cryopares_core.plots.errors import draw_histogram
from cryopares_core.plots.figures import BLUE, ORANGE, say_nothing_yet, styled
from cryopares_core.plots.readers import Columns
from cryopares_core.plots.sphere import draw_error_map

POSE_COLUMNS = ("rot_degs", "tilt_degs", "difference_degs", "shift_x_angs", "shift_y_angs", "half_set")
PERCENTILES = (25, 75, 90, 95, 99)
N_BINS = 50


@styled
def draw_differences(figure: Any, difference_degs: np.ndarray, shift_angs: np.ndarray, title: str = "") -> None:
    """Two histograms: angles in degrees `(n,)`, and lengths of the shifts' differences in Å `(n,)`."""
    if not len(difference_degs):
        say_nothing_yet(figure, "The files have no particles in common.")
        return
    angles, shifts = figure.subplots(1, 2)
    draw_histogram(angles, difference_degs, BLUE)
    angles.set(xlabel="Difference of the poses (degrees)")
    highest = max(float(np.percentile(shift_angs, 99.5)), 1e-3)
    shifts.hist(np.clip(shift_angs, 0, highest), bins=N_BINS, range=(0, highest), color=ORANGE)
    shifts.axvline(np.median(shift_angs), color="black", linestyle="--", linewidth=1.2)
    shifts.set(xlabel="Difference of the shifts (Å)", ylabel="Particles", xlim=(0, highest))
    shifts.set_title(f"median {np.median(shift_angs):.2f} Å (dashed)")
    angles.set_title(f"{len(difference_degs):,} particles")
    figure.suptitle(title)


@styled
def draw_views(figure: Any, views: Columns) -> None:
    """The median difference by view direction of the first file, of columns as in a training's `views.csv`."""
    draw_error_map(figure, views)
