"""What TensorBoard shows of single particles: rotation matrices, and densities of the pose on the sphere."""

from typing import Any, Sequence

import numpy as np

from cryopares_core.plots.figures import styled
from cryopares_core.plots.readers import Columns
from cryopares_core.plots.sphere import map_picture, to_map

MAP_WIDTH_PX = 320
FLOOR = 1e-3  # of the highest density: below it the map is dark


@styled
def draw_rotation_matrices(figure: Any, truth: np.ndarray, found: np.ndarray, error_degs: Sequence[float]) -> None:
    """Known pose matrices above the predicted ones, as coloured 3 x 3 squares.

    Parameters
    ----------
    truth, found : `(n, 3, 3)`, the predicted ones in the symmetry's mate that is nearest to the known
    error_degs : `(n,)`
    """
    grid = figure.subplots(2, len(truth), squeeze=False)
    for row, (word, matrices) in enumerate((("known", truth), ("predicted", found))):
        for axes, matrix in zip(grid[row], matrices):
            axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
            axes.set(xticks=[], yticks=[])
            for (y, x), value in np.ndenumerate(matrix):
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color="w" if abs(value) > 0.6 else "k")
        grid[row][0].set_ylabel(word)
    for axes, error in zip(grid[0], error_degs):
        axes.set_title(f"{error:.1f}°")


@styled
def draw_densities(
    figure: Any,
    centres: Columns,
    log_densities: np.ndarray,
    pictures: Sequence[np.ndarray],
    truth_degs: Sequence[Any],
    found_degs: np.ndarray,
    error_degs: Sequence[float],
) -> None:
    """For each particle its picture, and the density over view directions: all turns of the picture summed up.

    Parameters
    ----------
    centres : `rot_degs`, `tilt_degs` of the cells of a map of the sphere
    log_densities : `(n, cells)`, natural logarithms up to a constant
    truth_degs : for each particle known views `(mates, 2)` rot, tilt: more than one where a symmetry makes them alike
    found_degs : `(n, 2)`
    """
    rows = -(-len(log_densities) // 2)
    grid = figure.subplots(rows, 4, squeeze=False, width_ratios=[1, 2.6, 1, 2.6]).reshape(-1, 2)
    for axes in grid.ravel():
        axes.axis("off")
    for number, (left, right) in enumerate(grid[: len(log_densities)]):
        left.imshow(pictures[number], cmap="gray")
        _draw_density(right, centres, log_densities[number], truth_degs[number], found_degs[number])
        right.set_title(f"off by {error_degs[number]:.1f}°", fontsize=9)
    marks, words = grid[0, 1].get_legend_handles_labels()
    figure.legend(marks, words, loc="outside lower center", ncols=2, facecolor="#444444", labelcolor="w", frameon=True)


def _draw_density(axes: Any, centres: Columns, log_density: np.ndarray, truth_degs: np.ndarray, found_degs: np.ndarray) -> None:
    from matplotlib.patches import Ellipse

    cells = map_picture(centres, log_density - log_density.max(), MAP_WIDTH_PX)
    picture = axes.imshow(cells, cmap="magma", vmin=np.log(FLOOR), vmax=0, extent=(-2, 2, -1, 1))
    picture.set_clip_path(Ellipse((0, 0), 4, 2, transform=axes.transData))
    look = {"color": "cyan", "linestyle": "none", "markersize": 7}
    axes.plot(*to_map(*truth_degs.T), "o", markerfacecolor="none", label="known", **look)
    axes.plot(*to_map(*found_degs[:, None]), "x", label="predicted", **look)
    axes.set(xlim=(-2.05, 2.05), ylim=(-1.05, 1.05), aspect="equal")
