"""How the angular errors of particles are distributed."""

from typing import Any, Optional, Sequence

import numpy as np

from cryopares_core.plots.figures import COLOURS, GREEN, say_nothing_yet, styled
from cryopares_core.plots.records import RunRecord

GOOD_DEGS, FAIR_DEGS = 5.0, 10.0
LOWEST_DEGS, HIGHEST_DEGS = 0.1, 180.0
N_BINS = 52
TICKS_DEGS = [0.1, 0.3, 1, 3, 10, 30, 100]


@styled
def draw_error_histograms(figure: Any, record: RunRecord, title: str = "", names: Optional[Sequence[str]] = None) -> None:
    """A histogram for each half set over the particles held out, at its best epoch; or for some half sets, on the scale of all."""
    errors_of = {half.name: half.validation["error_degs"] for half in record.halves.values() if half.validation is not None}
    if not errors_of:
        say_nothing_yet(figure, "No particles have been validated yet.")
        return
    highest = max(np.histogram(_within(error_degs), _edges())[0].max() for error_degs in errors_of.values())
    shown = [name for name in errors_of if names is None or name in names]
    for axes, name in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown):
        draw_histogram(axes, errors_of[name], COLOURS.get(name, "black"))
        axes.set_title(f"{name}: {len(errors_of[name]):,} particles")
        axes.set_ylim(0, 1.05 * highest)
    figure.suptitle(title)


def draw_histogram(axes: Any, error_degs: np.ndarray, colour: str) -> None:
    """Counts of errors `(n,)` in degrees on a logarithmic axis, with the median and the shares under 5° and 10°."""
    axes.axvspan(LOWEST_DEGS, GOOD_DEGS, color=GREEN, alpha=0.13, linewidth=0)
    axes.axvspan(GOOD_DEGS, FAIR_DEGS, color=GREEN, alpha=0.06, linewidth=0)
    axes.hist(_within(error_degs), bins=_edges(), color=colour)
    axes.axvline(np.median(error_degs), color="black", linestyle="--", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks(TICKS_DEGS, [f"{tick:g}" for tick in TICKS_DEGS])
    axes.minorticks_off()
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(xlabel="Angular error (degrees)", ylabel="Particles", xlim=(LOWEST_DEGS, HIGHEST_DEGS))
    place, side = (0.98, "right") if np.median(error_degs) < np.sqrt(LOWEST_DEGS * HIGHEST_DEGS) else (0.02, "left")
    axes.text(place, 0.97, error_text(error_degs), transform=axes.transAxes, ha=side, va="top", fontsize=9, linespacing=1.5)


def _edges() -> np.ndarray:
    return np.geomspace(LOWEST_DEGS, HIGHEST_DEGS, N_BINS + 1)


def _within(error_degs: np.ndarray) -> np.ndarray:
    return np.clip(error_degs, LOWEST_DEGS, HIGHEST_DEGS * (1 - 1e-9))


def error_text(error_degs: np.ndarray) -> str:
    """Median, mean and shares, one a line."""
    shares = [f"{(error_degs < limit).mean():.0%} under {limit:.0f}°" for limit in (GOOD_DEGS, FAIR_DEGS)]
    median, mean = (f"{value:.{1 if value >= 1 else 2}f}°" for value in (np.median(error_degs), np.mean(error_degs)))
    return "\n".join([f"median {median} (dashed)", f"mean {mean}", *shares])
