"""The learning curves of a run as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryopares_core.files import atomic_path

COLOURS = {"half1": "#1f6fb4", "half2": "#d1601f", "allParticles": "#1f6fb4"}


def draw_learning_curves(path: Path, epochs_of: Mapping[str, list[dict[str, Any]]], title: str) -> None:
    """Loss and angular error against epochs, for each half set, as PNG.

    Parameters
    ----------
    epochs_of : for each half set its lines of `metrics.jsonl`
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    loss, error = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for name, epochs in epochs_of.items():
        colour = COLOURS.get(name, "black")
        _curve(loss, epochs, "loss", f"{name} training", colour, "--")
        _curve(loss, epochs, "val_loss", f"{name} validation", colour, "-")
        _curve(error, epochs, "val_geo_degs", f"{name} mean", colour, "-")
        _curve(error, epochs, "val_median_geo_degs", f"{name} median", colour, ":")
    _label(loss, "Loss (nats)", "Loss")
    _label(error, "Error of held-out particles (degrees)", "Angular error")
    error.set_yscale("log")
    error.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    error.minorticks_off()
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _curve(axes: Any, epochs: list[dict[str, Any]], key: str, label: str, colour: str, style: str) -> None:
    points = [(line["epoch"], line[key]) for line in epochs if key in line]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label, linewidth=1.6, marker="o", markersize=3)


def _label(axes: Any, y_label: str, title: str) -> None:
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="Epoch", ylabel=y_label, title=title)
    axes.grid(True, which="both", alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
