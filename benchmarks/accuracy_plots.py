"""Figures of the accuracy benchmark: the errors of each method, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "network": "tab:gray",
    "network + refine": "tab:blue",
    "both": "tab:red",
    "both + refine": "tab:orange",
    "map": "tab:green",
    "map alone": "tab:olive",
    "nearest grid point": "tab:brown",
    "relion": "black",
}
MAX_COLUMNS = 4


def plot(out_dir: Path, studies: dict[str, list[dict[str, Any]]], figures: Path) -> None:
    """Write `accuracy_errors.png` and `accuracy_cost.png`."""
    figures.mkdir(parents=True, exist_ok=True)
    _plot_errors(out_dir, studies, figures / "accuracy_errors.png")
    _plot_cost(studies, figures / "accuracy_cost.png")


def _panels(count: int) -> tuple[plt.Figure, np.ndarray]:
    columns = min(count, MAX_COLUMNS)
    rows = -(-count // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.4 * columns, 2.9 * rows), squeeze=False, layout="constrained")
    for unused in axes.ravel()[count:]:
        unused.remove()
    return figure, axes.ravel()


def _plot_errors(out_dir: Path, studies: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Share of particles below each angular error."""
    figure, axes = _panels(len(studies))
    for axis, (name, records) in zip(axes, studies.items(), strict=False):
        for record in records:
            folder = out_dir / "results" / name / record["method"].replace(" ", "_")
            errors = np.sort(np.load(folder / "errors.npy"))
            share = 100 * np.arange(1, len(errors) + 1) / len(errors)
            axis.plot(errors, share, color=COLOURS[record["method"]], label=record["method"], lw=1.3)
        axis.set(xscale="log", xlim=(0.3, 180), ylim=(0, 100), title=name.replace("_", " "))
        axis.axvline(5, color="0.8", lw=0.8, zorder=0)
    axes[0].set(xlabel="angular error (degrees)", ylabel="particles below (%)")
    figure.legend(*_all_handles(axes[: len(studies)]), loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plot_cost(studies: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Share under 5 degrees against processor time an image."""
    figure, axes = _panels(len(studies))
    for axis, (name, records) in zip(axes, studies.items(), strict=False):
        for record in records:
            share, error = record["scores"]["under 5"]
            style = {"color": COLOURS[record["method"]], "label": record["method"], "fmt": "o", "ms": 5}
            axis.errorbar(record.get("marginal_ms", record["ms"]), share, error, **style)
        axis.set(xscale="log", xlim=(1, 2000), ylim=(-3, 103), title=name.replace("_", " "))
    axes[0].set(xlabel="processor time (ms an image)", ylabel="under 5 degrees (%)")
    figure.legend(*_all_handles(axes[: len(studies)]), loc="outside lower center", ncols=8, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _all_handles(axes: np.ndarray) -> tuple[list[Any], list[str]]:
    """One legend entry of each method in any panel."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    return list(entries.values()), list(entries)
