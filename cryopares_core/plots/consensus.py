"""The disagreement of the poses by the models of both half sets, as a figure and in words."""

from typing import Any, Dict, Optional, Sequence

import numpy as np

from cryopares_core.plots.errors import GOOD_DEGS, HIGHEST_DEGS, LOWEST_DEGS, N_BINS, TICKS_DEGS
from cryopares_core.plots.figures import BLUE, styled

NOTE = (
    "Angle between the pose by the model of the particle's own half set, which is written, and the pose by the model of the other "
    "half set. Where both agree, both are more often right. A filter by this angle lets both half sets decide on the selection of "
    "particles, but not on their poses."
)


def consensus_edges_degs() -> np.ndarray:
    """Edges of the histogram's bins, each larger than the last by the same factor; smaller angles count in the first bin."""
    return np.geomspace(LOWEST_DEGS, HIGHEST_DEGS, N_BINS + 1)


def histogram_median(edges: Sequence[float], counts: Sequence[int]) -> Optional[float]:
    """The median of a histogram, to within a part of a bin; None where it is empty."""
    below = np.concatenate(([0], np.cumsum(counts)))
    return float(np.interp(below[-1] / 2, below, edges)) if below[-1] else None


def consensus_text(found: Dict[str, Any]) -> str:
    """A sentence on the `consensus` of an `infer.json`."""
    if found["median_degs"] is None:
        return "No image could be used, so that no poses could be compared."
    text = (
        f"The models of both half sets agree within {GOOD_DEGS:.0f}° for {found['share_within_5_degs']:.0%} of the particles "
        f"(median disagreement {found['median_degs']:.2f}°)"
    )
    if found["max_error_degs"] is None:
        return f"{text}."
    return f"{text}; {found['dropped']:,} are dropped for a disagreement of {found['max_error_degs']:g}° or more."


@styled
def draw_consensus(figure: Any, found: Dict[str, Any]) -> None:
    """The histogram of the disagreement, on a logarithmic axis."""
    edges, axes = np.array(found["histogram"]["edges"]), figure.subplots()
    axes.bar(edges[:-1], found["histogram"]["counts"], np.diff(edges), align="edge", color=BLUE)
    if found["max_error_degs"] is not None:
        axes.axvline(found["max_error_degs"], color="black", linestyle="--", linewidth=1.2)
    axes.set_xscale("log")
    axes.set_xticks(TICKS_DEGS, [f"{tick:g}" for tick in TICKS_DEGS])
    axes.minorticks_off()
    axes.set(xlabel="Disagreement of the half models (°)", ylabel="Particles", xlim=(edges[0], edges[-1]))
