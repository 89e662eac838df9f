"""Predicted poses against known ones."""

from typing import Any, Tuple

import numpy as np

from cryopares_core.plots.errors import draw_histogram
from cryopares_core.plots.figures import BLUE, GREY, styled


@styled
def draw_pose_comparison(
    figure: Any, truth_degs: np.ndarray, found_degs: np.ndarray, error_degs: np.ndarray, title: str = ""
) -> None:
    """A histogram of the errors, and tilt and in-plane angle against the true ones.

    Parameters
    ----------
    truth_degs, found_degs : `(n, 3)` rot, tilt, psi
    error_degs : `(n,)` angular errors
    """
    histogram, tilt, psi = figure.subplots(1, 3)
    draw_histogram(histogram, error_degs, BLUE)
    histogram.set_title("Errors")
    _scatter(tilt, truth_degs[:, 1], found_degs[:, 1], "tilt", (0, 180))
    _scatter(psi, truth_degs[:, 2], found_degs[:, 2], "in-plane angle psi", (-180, 180))
    figure.suptitle(title)


def _scatter(axes: Any, truth: np.ndarray, found: np.ndarray, name: str, limits: Tuple[int, int]) -> None:
    axes.plot(limits, limits, color=GREY, linewidth=0.8)
    axes.plot(truth, found, ".", color=BLUE, markersize=3, alpha=0.6)
    axes.set(xlim=limits, ylim=limits, xlabel=f"True {name} (degrees)", ylabel=f"Predicted {name} (degrees)")
    axes.set(title=name[0].upper() + name[1:], aspect="equal")
