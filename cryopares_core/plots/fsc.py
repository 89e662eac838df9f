"""Fourier shell correlations of half maps."""

from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from cryopares_core.plots.figures import BLUE, GREEN, GREY, ORANGE, say_nothing_yet, styled
from cryopares_core.plots.readers import Columns, read_columns

FSC_COLUMNS = ("shell", "resolution_angs", "corrected", "unmasked", "masked", "randomised")
CURVES = (
    ("masked", "with the mask", GREEN, "-", 1.2),
    ("unmasked", "without a mask", ORANGE, "-", 1.2),
    ("randomised", "with the mask, phases random", GREY, "--", 1.0),
    ("corrected", "with the mask, corrected for it", BLUE, "-", 2.0),
)
THRESHOLD = 0.143
N_TICKS = 7


def read_fsc(path: Union[str, Path]) -> Optional[Columns]:
    """The columns of an `fsc.csv`, `(shells,)` each; None where there is none."""
    return read_columns(Path(path), FSC_COLUMNS)


@styled
def draw_fsc(figure: Any, columns: Optional[Columns], resolution_angs: Optional[float] = None, title: str = "") -> None:
    """All curves over spatial frequency, the threshold, and where it is crossed.

    Parameters
    ----------
    columns : as in `fsc.csv`
    resolution_angs : in Å; None where there is none
    """
    if columns is None or len(columns["shell"]) < 3:
        say_nothing_yet(figure, "No half maps have been reconstructed yet.")
        return
    axes = figure.subplots()
    frequency = np.append(0.0, 1 / columns["resolution_angs"][1:])
    for name, label, colour, look, width in CURVES:
        axes.plot(frequency, columns[name], look, color=colour, linewidth=width, label=label)
    axes.axhline(THRESHOLD, color="black", linewidth=0.8, linestyle=":")
    axes.axhline(0, color=GREY, linewidth=0.6)
    if resolution_angs:
        axes.plot(1 / resolution_angs, THRESHOLD, "o", color=BLUE, markersize=6)
        axes.annotate(
            f"{resolution_angs:.2f} Å",
            (1 / resolution_angs, THRESHOLD),
            xytext=(7, 7),
            textcoords="offset points",
            fontweight="bold",
        )
    ticks = np.linspace(0, frequency[-1], N_TICKS)
    axes.set_xticks(ticks, ["∞", *(f"{1 / tick:.3g}" for tick in ticks[1:])])
    lowest = min(0.0, float(min(columns[name].min() for name, *_ in CURVES)))
    axes.set(
        xlim=(0, frequency[-1]), ylim=(max(-0.3, lowest) - 0.03, 1.03), xlabel="Resolution (Å)", ylabel="Fourier shell correlation"
    )
    axes.legend(loc="upper right")
    axes.grid(True, alpha=0.25)
    axes.set_title(title)
