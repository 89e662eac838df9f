"""Predicted poses against known ones, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cryopares_core.files import atomic_path
from cryopares_core.geometry.rotations import matrix_to_euler_degs

BLUE, GREY = "#1f6fb4", "#888888"


def draw_pose_comparison(path: Path, predicted: Tensor, truth: Tensor, error_degs: Tensor, title: str) -> None:
    """A histogram of the angular errors, and the view directions and in-plane angles against the true ones, as PNG.

    Parameters
    ----------
    predicted, truth : pose matrices `(n, 3, 3)`
    error_degs : `(n,)` geodesic errors
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 4.3), layout="constrained")
    FigureCanvasAgg(figure)
    histogram, tilt, psi = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    _histogram(histogram, error_degs)
    found, known = matrix_to_euler_degs(predicted.double()), matrix_to_euler_degs(truth.double())
    _scatter(tilt, known[:, 1], found[:, 1], "Tilt (degrees)", (0, 180))
    _scatter(psi, known[:, 2], found[:, 2], "In-plane angle psi (degrees)", (-180, 180))
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _histogram(axes: Any, error_degs: Tensor) -> None:
    limit = 30.0
    edges = torch.linspace(0, limit, 31)
    axes.hist(error_degs.clamp(max=limit - 1e-3).numpy(), bins=edges.numpy(), color=BLUE)
    median, beyond = float(error_degs.median()), int((error_degs > limit).sum())
    axes.axvline(median, color="black", linestyle="--", linewidth=1, label=f"median {median:.1f}°")
    axes.set(xlabel="Angular error (degrees)", ylabel="Particles", title=f"Errors ({beyond} above {limit:.0f}° in the last bar)")
    axes.legend(frameon=False)


def _scatter(axes: Any, truth: Tensor, found: Tensor, name: str, limits: tuple[int, int]) -> None:
    axes.plot(limits, limits, color=GREY, linewidth=0.8)
    axes.plot(truth.numpy(), found.numpy(), ".", color=BLUE, markersize=3, alpha=0.6)
    axes.set(xlim=limits, ylim=limits, xlabel=f"True {name[0].lower()}{name[1:]}", ylabel=f"Predicted {name[0].lower()}{name[1:]}")
    axes.set(title=name.split(" (")[0], aspect="equal")
