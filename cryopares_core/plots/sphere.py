"""View directions as maps of the whole sphere, in Mollweide's projection, whose areas are true.

North (top) is tilt 0, south is tilt 180; rot runs from -180 on the left to 180 on the right. Poses are as in the STAR file: with
a point group they are not brought to one part of the sphere.
"""

from functools import lru_cache
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from cryopares_core.plots.figures import GREY, say_nothing_yet, styled
from cryopares_core.plots.readers import Columns
from cryopares_core.plots.records import RunRecord

WIDTH_PX = 1000
NEIGHBOURS = 12  # particles that a cell's error should rest on
SMALLEST_SIGMA_DEGS, LARGEST_SIGMA_DEGS = 3.5, 20.0
NO_PARTICLES = "#e4e4e4"


@styled
def draw_error_maps(figure: Any, record: RunRecord, title: str = "", names: Optional[Sequence[str]] = None) -> None:
    """For each half set the median error of the particles held out by view direction, at the best epoch; or for some half sets,
    in the colours of all.
    """
    views_of = {half.name: half.views for half in record.halves.values() if half.views is not None and half.views["n_val"].any()}
    if not views_of:
        say_nothing_yet(figure, "No particles have been validated yet.")
        return
    errors_of = {name: smoothed_errors(views) for name, views in views_of.items()}
    highest = max(5.0, float(np.nanpercentile(np.concatenate(list(errors_of.values())), 97)))
    shown = [name for name in views_of if names is None or name in names]
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        _draw_errors(axes, views_of[name], errors_of[name], highest)
        axes.set_title(name)
    figure.suptitle(title)


@styled
def draw_error_map(figure: Any, views: Columns) -> None:
    """One map of the median error by view direction, of columns as in `views.csv`."""
    errors = smoothed_errors(views)
    _draw_errors(figure.subplots(), views, errors, max(5.0, float(np.nanpercentile(errors, 97))))


def _draw_errors(axes: Any, views: Columns, errors: np.ndarray, highest: float) -> None:
    label = f"Median error within about {smoothing_sigma_degs(views):.0f}° of the view (degrees)"
    draw_map(axes, views, errors, label, "plasma_r", (0.0, highest), above=bool(np.nanmax(errors) > highest))


@styled
def draw_view_distribution(figure: Any, record: RunRecord, title: str = "") -> None:
    """How many training particles, of all half sets, were seen from each direction."""
    all_views = [half.views for half in record.halves.values() if half.views is not None]
    if not all_views:
        say_nothing_yet(figure, "No particles have been validated yet.")
        return
    counts = np.sum([views["n_train"] for views in all_views], axis=0)
    highest = max(1.0, float(np.percentile(counts, 99)))
    axes = figure.subplots()
    values = np.where(counts > 0, counts, np.nan)
    spacing = np.sqrt(41253 / len(counts))
    label = f"Training particles in a cell of {spacing:.0f}° × {spacing:.0f}°"
    draw_map(axes, all_views[0], values, label, "viridis", (0.0, highest), above=bool(counts.max() > highest))
    axes.set_title(f"{int(counts.sum()):,} particles")
    figure.suptitle(title)


def draw_map(
    axes: Any, centres: Columns, values: np.ndarray, label: str, colours: str, limits: Tuple[float, float], above: bool
) -> None:
    """Cells around directions, filled with the colours of `values` `(cells,)`; nan is grey.

    Parameters
    ----------
    centres : `rot_degs`, `tilt_degs` of the cells
    limits : values of the first and the last colour; `above` marks that some lie beyond
    """
    import matplotlib

    palette = matplotlib.colormaps[colours].copy()
    palette.set_bad(NO_PARTICLES)
    picture = axes.imshow(
        np.ma.masked_invalid(map_picture(centres, values)), cmap=palette, vmin=limits[0], vmax=limits[1], extent=(-2, 2, -1, 1)
    )
    _clip_and_frame(axes, picture)
    _graticule(axes)
    bar = axes.figure.colorbar(
        picture, ax=axes, orientation="horizontal", shrink=0.75, pad=0.02, aspect=35, extend="max" if above else "neither"
    )
    bar.set_label(label)
    bar.ax.xaxis.get_major_locator().set_params(integer=limits[1] > 3)
    bar.outline.set_linewidth(0.5)
    if np.isnan(values).any():
        axes.text(1.0, 0.0, "grey: no particles", transform=axes.transAxes, ha="right", fontsize=8, color=GREY)


def map_picture(centres: Columns, values: np.ndarray, width_px: int = WIDTH_PX) -> np.ndarray:
    """The map as pixels `(width / 2, width)`, north first: each has the value of the nearest centre."""
    cells = _nearest_cells(centres["rot_degs"].tobytes(), centres["tilt_degs"].tobytes(), width_px)
    return values[cells]


def smoothed_errors(views: Columns) -> np.ndarray:
    """The median error around each cell `(cells,)` in degrees; nan where no particle is near.

    A cell of a small set holds one particle or none. Each therefore shows the weighted median over its neighbourhood: cells count
    with their numbers of particles and with a Gaussian of their distance, as wide as it takes to reach a few particles.
    """
    sigma = np.radians(smoothing_sigma_degs(views))
    directions = _unit_vectors(views["rot_degs"], views["tilt_degs"])
    distance = np.arccos(np.clip(directions @ directions.T, -1, 1))
    weight = np.exp(-0.5 * (distance / sigma) ** 2) * np.nan_to_num(views["n_val"])
    weight[distance > 2 * sigma] = 0
    return _weighted_medians(np.nan_to_num(views["median_error_degs"]), weight)


def smoothing_sigma_degs(views: Columns) -> float:
    """The width of the Gaussian: within it lie about NEIGHBOURS particles, as far as the limits allow."""
    density = max(1.0, np.nansum(views["n_val"])) / (4 * np.pi)
    sigma = np.degrees(np.sqrt(NEIGHBOURS / (2 * np.pi * density)))
    return float(np.clip(sigma, SMALLEST_SIGMA_DEGS, LARGEST_SIGMA_DEGS))


def _weighted_medians(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """For each row of weights `(rows, n)` the median of values `(n,)`; nan where all weights are 0."""
    order = np.argsort(values)
    rising = np.cumsum(weight[:, order], axis=1)
    total = rising[:, -1:]
    medians = values[order][(rising >= 0.5 * total).argmax(axis=1)]
    return np.where(total[:, 0] > 1e-9, medians, np.nan)


@lru_cache(maxsize=4)
def _nearest_cells(rot_degs: bytes, tilt_degs: bytes, width_px: int) -> np.ndarray:
    """The index of the nearest centre for each pixel of the map `(width / 2, width)`; arrays come as bytes, to be remembered."""
    centres = _unit_vectors(np.frombuffer(rot_degs), np.frombuffer(tilt_degs)).T.astype(np.float32)
    x = (np.arange(width_px) + 0.5) / width_px * 4 - 2
    y = 1 - (np.arange(width_px // 2) + 0.5) / width_px * 4
    rows = [np.argmax(_unit_vectors(*_from_map(x, np.full_like(x, height))).astype(np.float32) @ centres, axis=1) for height in y]
    return np.array(rows)


def _unit_vectors(rot_degs: np.ndarray, tilt_degs: np.ndarray) -> np.ndarray:
    """`(n,)` angles to `(n, 3)`."""
    rot, tilt = np.radians(rot_degs), np.radians(tilt_degs)
    return np.stack((np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)), axis=-1)


def _from_map(x: np.ndarray, y: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Rot and tilt in degrees of places on the map, an ellipse with half axes 2 and 1; beyond it they mean nothing."""
    theta = np.arcsin(y)
    latitude = np.arcsin(np.clip((2 * theta + np.sin(2 * theta)) / np.pi, -1, 1))
    return 90 * x / np.cos(theta), 90 - np.degrees(latitude)


def to_map(rot_degs: Any, tilt_degs: Any) -> Tuple[np.ndarray, np.ndarray]:
    """Places on the map of directions: the inverse of `_from_map`. Its equation for theta has no closed solution, so a table is
    read backwards.
    """
    theta = np.linspace(-np.pi / 2, np.pi / 2, 2001)
    latitude = np.arcsin(np.clip((2 * theta + np.sin(2 * theta)) / np.pi, -1, 1))
    theta = np.interp(np.radians(90 - np.asarray(tilt_degs)), latitude, theta)
    return np.asarray(rot_degs) / 90 * np.cos(theta), np.sin(theta)


def _clip_and_frame(axes: Any, picture: Any) -> None:
    from matplotlib.patches import Ellipse

    picture.set_clip_path(Ellipse((0, 0), 4, 2, transform=axes.transData))
    axes.add_patch(Ellipse((0, 0), 4, 2, fill=False, linewidth=1.0, edgecolor="#333333", clip_on=False))
    axes.set(xlim=(-2.28, 2.05), ylim=(-1.08, 1.08), aspect="equal")
    axes.axis("off")


def _graticule(axes: Any) -> None:
    """Meridians each 60° of rot and parallels each 30° of tilt, with their angles."""
    look = {"color": "white", "linewidth": 0.6, "alpha": 0.65}
    for rot in range(-120, 121, 60):
        axes.plot(*to_map(np.full(181, rot), np.arange(181)), **look)
        place = to_map(np.array(rot), np.array(90))
        text = axes.text(
            place[0], place[1] - 0.03, f"rot {rot}°" if rot == 0 else f"{rot}°", ha="center", va="top", fontsize=7.5, color="white"
        )
        _outline(text)
    for tilt in range(30, 151, 30):
        x, y = to_map(np.array([-180, 180]), np.array([tilt, tilt]))
        axes.plot(x, y, **look)
        axes.text(x[0] - 0.04, y[0], f"tilt {tilt}°" if tilt == 90 else f"{tilt}°", ha="right", va="center", fontsize=7.5)


def _outline(text: Any) -> None:
    """Letters that can be read on any ground."""
    from matplotlib.patheffects import withStroke

    text.set_path_effects([withStroke(linewidth=1.8, foreground="#333333")])
